"""Synthetic data: noises against scipy's distributions, posteriors against Bayes and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from lossbench.data import DATA, synthetic
from lossbench.data.files import Files
from lossbench.data.splits import permuted
from lossbench.data.synthetic import NOISES, _log_density_of_arc, _noise
from lossbench.fingerprints import stream

SPLITS = ("train", "validation", "test")

DISTRIBUTIONS = {
    "gaussian": stats.norm(),
    "student_t": stats.t(3),
    "laplace": stats.laplace(scale=math.sqrt(0.5)),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "cauchy": stats.cauchy(),
}


def residuals(splits, split="train"):
    """Targets minus the function behind the noise, in units of the function's deviation, [N].

    The function is found from the test targets, which are free of noise.
    """
    x, y = (part["test"].double() for part in (splits.inputs, splits.targets))
    x = torch.cat([x, torch.ones(len(x), 1)], -1)
    plane = torch.linalg.lstsq(x, y).solution
    seen = torch.cat([splits.inputs[split].double(), torch.ones(len(splits.inputs[split]), 1)], -1)
    left = splits.targets[split].double() - seen @ plane
    return (left * splits.target_scale).flatten().numpy()


# ---- the draws of before -------------------------------------------------------------------------


def plain_mixture(seed):
    """The mixture as it was before it had components: its inputs and posterior, undivided."""
    draw = stream(seed, "data")
    means = torch.randn(5, 10, generator=draw, dtype=torch.float64)
    labels = torch.randint(5, (2000,), generator=draw)
    inputs = means[labels] + torch.randn(2000, 10, generator=draw, dtype=torch.float64)
    return labels, (inputs @ means.T - 0.5 * means.square().sum(-1)).softmax(-1).float()


def test_new_parameters_leave_the_mixture_of_before_bit_for_bit():
    labels, posterior = plain_mixture(seed=3)
    splits = DATA["gaussian_mixture"].fn(seed=3)
    for split, rows in permuted(2000, 3).items():
        assert torch.equal(splits.posterior[split], posterior[rows])
        assert torch.equal(splits.targets[split].argmax(-1), labels[rows])


def test_gaussian_and_student_noise_are_bit_for_bit_those_of_before():
    draw = stream(0, "data")
    normal = torch.randn(100, generator=draw, dtype=torch.float64)
    first, second = torch.rand(2, 100, generator=draw, dtype=torch.float64)
    student = (3.0 * ((1 - first).pow(-2 / 3.0) - 1)).sqrt() * torch.cos(2 * math.pi * second)
    assert torch.equal(_noise("gaussian", 100, degrees=3.0, draw=stream(0, "data")), normal)
    assert torch.equal(_noise("student_t", 100, degrees=3.0, draw=stream(0, "data")), student)


# ---- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_noise_has_the_distribution_of_its_name_and_no_other(noise):
    draws = _noise(noise, 50_000, degrees=3.0, draw=stream(1, "data")).numpy()
    for name, distribution in DISTRIBUTIONS.items():
        fits = stats.kstest(draws, distribution.cdf).pvalue
        assert (fits > 0.01) == (name == noise), (name, fits)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_residuals_of_the_targets_follow_the_noise_and_its_scale(noise, split):
    params = {"examples": 20_000, "noise": noise, "noise_scale": 0.5}
    left = residuals(DATA["noisy_linear"].fn(seed=2, **params), split)
    assert stats.kstest(2 * left, DISTRIBUTIONS[noise].cdf).pvalue > 0.01
    assert stats.kstest(1.5 * left, DISTRIBUTIONS[noise].cdf).pvalue < 0.01


@pytest.mark.parametrize("noise", NOISES)
def test_the_function_is_of_ordinary_size_beside_every_noise(noise):
    spreads = [
        DATA["noisy_linear"].fn(seed=seed, noise=noise).targets["test"].std() for seed in range(10)
    ]
    assert 0.2 < min(spreads) <= max(spreads) < 1.0


def test_noise_without_variance_is_scaled_by_its_quartiles():
    for params in ({"noise": "cauchy"}, {"noise": "student_t", "degrees": 1.5}):
        train = DATA["noisy_linear"].fn(seed=0, **params).targets["train"]
        low, middle, high = np.quantile(train.numpy(), [0.25, 0.5, 0.75])
        assert high - low == pytest.approx(1.349, rel=1e-5)
        assert middle == pytest.approx(0.0, abs=0.01)
        assert train.std() > 1.2


def test_outliers_are_the_asked_share_and_lie_on_one_side():
    params = {"examples": 50_000, "share": 0.1, "size": 10.0, "noise_scale": 2.0}
    left = residuals(DATA["noisy_linear_outliers"].fn(seed=0, **params)) / 2.0
    far = left > 5
    assert far.mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / len(left)))
    assert left.min() > -6
    assert stats.kstest(left[far] - 10.0, "norm").pvalue > 0.01
    assert stats.kstest(left[~far], "norm").pvalue > 0.01


def test_without_outliers_they_are_noisy_linear():
    without = DATA["noisy_linear_outliers"].fn(seed=1, share=0.0)
    assert without.sha == DATA["noisy_linear"].fn(seed=1).sha


def test_only_symmetric_noise_is_said_to_be_symmetric():
    assert DATA["noisy_linear"].is_symmetric
    assert not DATA["noisy_linear_outliers"].is_symmetric
    for noise in NOISES:
        left = residuals(DATA["noisy_linear"].fn(seed=6, examples=20_000, noise=noise))
        assert stats.ks_2samp(left, -left).pvalue > 0.01
    left = residuals(DATA["noisy_linear_outliers"].fn(seed=6, examples=20_000))
    assert stats.ks_2samp(left, -left).pvalue < 1e-6


# ---- posteriors ----------------------------------------------------------------------------------

KNOWN = [
    ("gaussian_mixture", {"components": 3, "features": 3, "classes": 3}),
    ("gaussian_mixture", {"priors": (6, 3, 1), "features": 3, "classes": 3, "separation": 0.6}),
    ("gaussian_mixture", {"priors": (1, 2), "components": 4, "features": 2, "classes": 2}),
    ("two_moons", {"noise": 0.4}),
    ("two_moons", {"noise": 0.15}),
]


@pytest.mark.parametrize(("name", "params"), KNOWN)
def test_a_known_posterior_is_calibrated_in_every_class(name, params):
    splits = DATA[name].fn(seed=0, examples=100_000, **params)
    posterior = torch.cat([splits.posterior[split] for split in SPLITS]).double()
    label = torch.cat([splits.targets[split] for split in SPLITS]).double()
    torch.testing.assert_close(posterior.sum(-1), torch.ones(len(posterior)).double())
    edges = torch.tensor([0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98]).double()
    for c in range(posterior.shape[-1]):
        q, bins = posterior[:, c], torch.bucketize(posterior[:, c].contiguous(), edges)
        for number in bins.unique():
            inside = bins == number
            spread = (q[inside] * (1 - q[inside])).sum().sqrt()
            # Five deviations of a sum of independent labels, and one label for tiny spreads.
            assert abs((label[inside, c] - q[inside]).sum()) < 5 * spread + 1


def test_the_posterior_of_several_components_is_bayes_rule_over_scipys_densities(monkeypatch):
    def undivided(inputs, labels, *, classes, posterior):
        return inputs["test"].numpy(), posterior["test"].numpy()

    # Points before they are standardised, which are not handed out.
    monkeypatch.setattr(synthetic, "classification", undivided)
    params = {"classes": 2, "components": 2, "features": 2, "priors": (1.0, 3.0)}
    points, posterior = DATA["gaussian_mixture"].fn(seed=5, examples=1000, **params)
    means = torch.randn(4, 2, generator=stream(5, "data"), dtype=torch.float64).numpy()
    density = [stats.multivariate_normal(mean, np.eye(2)).pdf(points) for mean in means]
    joint = np.stack([0.25 * (density[0] + density[1]), 0.75 * (density[2] + density[3])], -1)
    np.testing.assert_allclose(posterior, joint / joint.sum(-1, keepdims=True), rtol=1e-9)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4, 3.0])
def test_the_density_of_an_arc_is_the_integral_along_it(noise):
    draw = np.random.default_rng(0)
    angle = draw.uniform(0, np.pi, 20)
    arc = np.stack([np.cos(angle), np.sin(angle)], -1)
    points = arc + noise * draw.normal(size=(20, 2))
    ends = np.array([[-1.0, -noise], [1.0, -2 * noise], [0.3, 0.5 * noise]])
    points = np.concatenate([points, ends])

    def density(point):
        def along(angle):
            away = (point[0] - np.cos(angle)) ** 2 + (point[1] - np.sin(angle)) ** 2
            return np.exp(-away / (2 * noise**2))

        peak = np.clip(np.arctan2(point[1], point[0]), 0, np.pi)
        near = [at for at in peak + noise * np.arange(-8, 9, 2) if 0 < at < np.pi]
        return integrate.quad(along, 0, np.pi, points=near, limit=400, epsabs=0, epsrel=1e-11)[0]

    ours = _log_density_of_arc(torch.from_numpy(points), noise).exp() * math.pi / 2
    np.testing.assert_allclose(ours, [density(point) for point in points], rtol=1e-8)


def test_two_moons_lie_where_scikit_learns_do():
    from sklearn.datasets import make_moons

    theirs, side = make_moons(20_000, noise=0.1, random_state=0)
    x = torch.cat(list(DATA["two_moons"].fn(seed=0, examples=20_000, noise=0.1).inputs.values()))
    y = torch.cat(list(DATA["two_moons"].fn(seed=0, examples=20_000, noise=0.1).targets.values()))
    theirs = (theirs - theirs.mean(0)) / theirs.std(0)
    for label in (0, 1):
        for axis in (0, 1):
            ours = x[y[:, label] == 1][:, axis].numpy()
            distance = stats.ks_2samp(ours, theirs[side == label][:, axis]).statistic
            assert distance < 0.025


REFUSED = [
    ("two_moons", {"noise": 0.0}, "use 0.02 or more"),
    ("two_moons", {"noise": math.nan}, "use 0.02 or more"),
    ("two_moons", {"examples": 0}, "examples is 0"),
    ("gaussian_mixture", {"components": 0}, "components is 0"),
    ("gaussian_mixture", {"priors": [1.0, 2.0]}, "of 5 classes: use 5 positive ones"),
    ("gaussian_mixture", {"priors": [1, 1, 1, 1, 0]}, "use 5 positive ones"),
    ("noisy_linear_outliers", {"share": 1.2}, "share of outliers is 1.2: use 0 to 1"),
    ("noisy_linear_outliers", {"share": -0.1}, "use 0 to 1"),
    ("noisy_linear_outliers", {"noise_scale": 0.0}, "noise_scale is 0.0: use a positive"),
    ("noisy_linear", {"noise": "pink"}, "gaussian, student_t"),
    ("noisy_linear", {"noise_scale": -1.0}, "positive"),
    ("noisy_linear", {"examples": 0}, "positive"),
    ("finite_support", {"examples": 0}, "examples is 0: use a positive"),
    ("finite_support", {"atoms": -1}, "atoms is -1"),
    ("finite_support", {"classes": 1}, "1 classes: use 2 or more"),
    ("finite_support", {"concentration": 0.0}, "concentration is 0.0"),
    ("markov_text", {"vocabulary": 1}, "use 2"),
    ("markov_text", {"branches": 17}, "use "),
    ("markov_text", {"zipf": -1.0}, "use "),
    ("markov_text", {"vocabulary": 300}, "use "),
    ("mnist1d", {"examples": 0}, "positive multiple of 50"),
    ("mnist1d", {"examples": 75}, "positive multiple of 50"),
    ("flights", {"examples": 999}, "use 1000 to 327346"),
    ("flights", {"examples": 400_000}, "use 1000 to 327346"),
    ("flights", {"held_out": "days"}, "use one of months, weeks"),
    ("diamonds", {"target": "carat"}, "use one of log_price, price"),
]


@pytest.mark.parametrize(("name", "params", "message"), REFUSED)
def test_a_bad_parameter_is_refused_with_its_cure(name, params, message):
    with pytest.raises(ValueError, match=message):
        DATA[name].splits(0, Files(), params)


# ---- noise that grows ----------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("noise", ["gaussian", "exponential"])
def test_the_noise_of_the_wave_grows_with_the_input_in_every_split(noise, split):
    count, seed = 20_000, 5
    splits = DATA["heteroscedastic"].fn(seed=seed, examples=count, noise=noise)
    x = 10.0 * torch.rand(count, 1, generator=stream(seed, "data"), dtype=torch.float64)
    x = x[permuted(count, seed)[split]]
    assert np.corrcoef(x.flatten(), splits.inputs[split].flatten())[0, 1] > 0.999
    left = splits.targets[split].double() * splits.target_scale - x * x.sin()
    spread = 0.3 * (1 + x.square()).sqrt()
    weight = 1 / spread.square()  # what is left is the mean of the targets
    left = left - (left * weight).sum() / weight.sum()
    standard = (left / spread).flatten().numpy()
    for low, high in ((0, 2), (2, 6), (6, 10)):
        inside = ((x > low) & (x < high)).flatten().numpy()
        assert standard[inside].std() == pytest.approx(1.0, abs=0.15)
    assert stats.skew(standard) == pytest.approx(
        {"gaussian": 0.0, "exponential": 1.9}[noise], abs=0.4
    )
    if noise == "gaussian":
        assert stats.kstest(standard, "norm").pvalue > 0.01


def test_a_noise_that_the_wave_does_not_know_is_refused_by_name():
    with pytest.raises(ValueError, match="noise 'cauchy' is unknown: use one of gaussian, exp"):
        DATA["heteroscedastic"].fn(seed=0, noise="cauchy")


# ---- any number of labels ------------------------------------------------------------------------


def test_labels_hold_as_often_as_their_probability_says_and_independently():
    splits = DATA["many_labels"].fn(seed=3, examples=40_000)
    targets, p = splits.targets["train"].double(), splits.posterior["train"].double()
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        assert targets[inside].mean().item() == pytest.approx(p[inside].mean().item(), abs=0.02)
    left = ((targets - p) / (p * (1 - p)).sqrt()).clamp(-8, 8)
    others = np.corrcoef(left.T.numpy())[~np.eye(6, dtype=bool)]
    assert np.abs(others).max() < 0.03
    assert targets.mean(0)[0].item() == pytest.approx(0.5, abs=0.02)
    assert targets.mean(0)[-1] < 0.2
    assert 0.05 < (targets.sum(-1) == 0).double().mean() < 0.5 < targets.sum(-1).max()


def test_the_probability_of_a_label_is_a_logistic_function_of_the_inputs_as_steep_as_asked():
    for slope in (0.5, 2.0):
        splits = DATA["many_labels"].fn(seed=0, examples=4000, slope=slope)
        x, logit = splits.inputs["train"].double(), splits.posterior["train"].double().logit()
        design = torch.cat([x, torch.ones(len(x), 1)], -1)
        solution = torch.linalg.lstsq(design, logit).solution
        assert (design @ solution - logit).abs().max() < 1e-2
        np.testing.assert_allclose(logit.std(0), slope, rtol=0.1)
