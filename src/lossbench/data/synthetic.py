"""Synthetic data with known truth: a class posterior, or the regression function without noise.

The seed determines all random draws and the split. `examples` is the number of rows in all splits
together, `features` is F, `classes` is C. Each function raises ValueError if a parameter is out of
the range in the function's docstring; sizes, scales and rates are positive, and C is at least 2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.nn import functional

from lossbench.data.splits import (
    SPLITS,
    Data,
    Splits,
    by_split,
    classification,
    multilabel,
    permuted,
    regression,
    standardised,
)
from lossbench.fingerprints import stream

NOISES = ("gaussian", "student_t", "laplace", "uniform", "cauchy")

UNIFORM_SHARE = 0.05
"""Weight of the uniform distribution in `finite_support`, so that no class is impossible."""

QUARTILES_OF_NORMAL = 1.349
"""Interquartile range of the standard normal distribution."""

VALIDATION_PER_ATOM = 100
TEST_PER_ATOM = 50


def gaussian_mixture(
    *,
    seed: int,
    examples: int = 2000,
    features: int = 10,
    classes: int = 5,
    separation: float = 1.0,
    components: int = 1,
    priors: Sequence[float] = (),
) -> Splits:
    """Unit-variance Gaussians, one or more per class, so that the true posterior is known.

    `separation` is the standard deviation of each coordinate of the means. A class has `components`
    equally likely Gaussians with separate means; with two or more the class boundaries are curved,
    and model=linear cannot represent the posterior. `priors` are the weights of the classes, C
    numbers of any sum; if empty, all classes are equally likely.
    """
    _check_sizes(examples=examples, features=features, components=components)
    if classes < 2 or separation < 0:
        raise ValueError(f"{classes} classes, separation {separation}: use 2 or more, and >= 0")
    weights = torch.ones(classes, dtype=torch.float64)
    if priors:
        if len(priors) != classes or not all(0 < prior < math.inf for prior in priors):
            raise ValueError(
                f"priors {list(priors)} of {classes} classes: use {classes} positive ones"
            )
        weights = torch.tensor(priors, dtype=torch.float64) / max(priors)
    draw = stream(seed, "data")
    shape = (classes * components, features)
    means = separation * torch.randn(shape, generator=draw, dtype=torch.float64)
    if priors:
        labels = torch.multinomial(weights, examples, replacement=True, generator=draw)
    else:
        labels = torch.randint(classes, (examples,), generator=draw)
    noise = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    component = torch.randint(components, (examples,), generator=draw)
    inputs = means[labels * components + component] + noise
    fit = inputs @ means.T - 0.5 * means.square().sum(-1)
    of_class = fit.unflatten(-1, (classes, components)).logsumexp(-1)
    posterior = (of_class + weights.log()).softmax(-1)
    return _with_posterior(inputs, labels, posterior, seed)


def two_moons(*, seed: int, examples: int = 2000, noise: float = 0.2) -> Splits:
    """Two interlocked half circles with Gaussian noise; the posterior is computed by quadrature.

    The two classes are equally likely, each uniform along a half circle of radius 1. The second
    half circle is the first rotated by 180 degrees around (0.5, 0.25), as in scikit-learn.

    `noise` is the standard deviation of each coordinate around the arc, in radii; 0.02 or more.
    """
    _check_sizes(examples=examples)
    if not 0.02 <= noise < math.inf:
        raise ValueError(f"two moons with noise {noise}: use 0.02 or more")
    draw = stream(seed, "data")
    labels = torch.randint(2, (examples,), generator=draw)
    angle = math.pi * torch.rand(examples, generator=draw, dtype=torch.float64)
    around = noise * torch.randn(examples, 2, generator=draw, dtype=torch.float64)
    first = torch.stack([angle.cos(), angle.sin()], -1)
    inputs = torch.where(labels[:, None] == 0, first, _turned(first)) + around
    density = [_log_density_of_arc(points, noise) for points in (inputs, _turned(inputs))]
    return _with_posterior(inputs, labels, torch.stack(density, -1).softmax(-1), seed)


def finite_support(
    *,
    seed: int,
    examples: int = 2000,
    atoms: int = 16,
    classes: int = 4,
    concentration: float = 1.0,
) -> Splits:
    """A few input points, each with a separate class distribution, so that only the loss matters.

    The inputs are one-hot, [N, A], not standardised, so that model=linear has an output vector for
    each atom and can represent every Bayes point. Every split cycles through the atoms, so each
    atom is equally frequent. With examples = steps * batch_size training is one epoch and uses no
    label twice: labels are in effect resampled at every step. Distributions, validation and test do
    not depend on `examples`.

    `examples` is the number of training rows only. `atoms`, A, is the number of input points.
    Distributions are drawn from a symmetric Dirichlet with this `concentration`, mixed with
    `UNIFORM_SHARE` of the uniform distribution; a small `concentration` gives nearly certain
    distributions, a large one flat distributions.
    """
    _check_sizes(examples=examples, atoms=atoms, concentration=concentration)
    if classes < 2:
        raise ValueError(f"{classes} classes: use 2 or more")
    draw = stream(seed, "data")
    # Gamma quantiles of uniform numbers, divided by the quantiles' sum, are a Dirichlet draw.
    level = torch.rand(atoms, classes, generator=draw, dtype=torch.float64)
    quantiles = scipy.special.gammaincinv(concentration, level.numpy())
    gamma = torch.from_numpy(quantiles).clamp(min=1e-300)
    drawn = gamma / gamma.sum(-1, keepdim=True)
    distributions = (1.0 - UNIFORM_SHARE) * drawn + UNIFORM_SHARE / classes
    # Training is drawn last, so that validation and test are the same at every sample size.
    sizes = {
        "validation": VALIDATION_PER_ATOM * atoms,
        "test": TEST_PER_ATOM * atoms,
        "train": examples,
    }
    atom = {split: torch.arange(size) % atoms for split, size in sizes.items()}
    label = {
        split: torch.multinomial(distributions[rows], 1, generator=draw)[:, 0]
        for split, rows in atom.items()
    }
    return Splits(
        inputs={split: functional.one_hot(atom[split], atoms).float() for split in SPLITS},
        targets={split: functional.one_hot(label[split], classes).float() for split in SPLITS},
        task="classification",
        target_scale=1.0,
        posterior={split: distributions[atom[split]].float() for split in SPLITS},
    )


def many_labels(
    *,
    seed: int,
    examples: int = 2000,
    features: int = 10,
    labels: int = 6,
    slope: float = 2.0,
) -> Splits:
    """Examples with any number of labels; a logistic function of the inputs gives each probability.

    Given the inputs, labels are independent. The first label holds for about half of the examples,
    the last is rare: at zero inputs the probability falls from 1/2 to 1/20 in equal logit steps.

    Args:
        seed: Draws functions, inputs and labels.
        examples: Rows in all.
        features: F.
        labels: C.
        slope: Standard deviation of each function's logit over the inputs; positive.
    """
    _check_sizes(examples=examples, features=features, labels=labels, slope=slope)
    draw = stream(seed, "data")
    directions = torch.randn(features, labels, generator=draw, dtype=torch.float64)
    inputs = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    logit = inputs @ (slope * directions / directions.norm(dim=0))
    probability = (logit + torch.linspace(0.0, -math.log(19.0), labels).double()).sigmoid()
    targets = torch.bernoulli(probability, generator=draw)
    rows = permuted(examples, seed)
    return multilabel(
        by_split(inputs, rows), by_split(targets, rows), posterior=by_split(probability, rows)
    )


def noisy_linear(
    *,
    seed: int,
    examples: int = 1000,
    features: int = 8,
    noise: str = "gaussian",
    noise_scale: float = 1.0,
    degrees: float = 3.0,
) -> Splits:
    """A linear function plus noise; the test targets are the function without noise.

    Train and validation targets carry the noise, as in practice. Test metrics therefore measure
    the distance to the true function, not to another draw of the noise.

    Args:
        seed: Draws the slopes, the inputs, the noise and the split.
        examples: Rows in all.
        features: F; the function has variance 1 over them.
        noise: "gaussian", "laplace", "uniform", "student_t" or "cauchy". All are symmetric, so that
            every symmetric loss with an expectation elicits the function; the expectation of
            quartic under 3 degrees does not exist, nor does that of mse under Cauchy noise.
        noise_scale: In units of the function's standard deviation: the standard deviation of
            gaussian, laplace and uniform noise, the scale of student_t and cauchy.
        degrees: Degrees of freedom of "student_t". At 2 or below, and with "cauchy", the variance
            is not finite; targets are then centred by the median and scaled by the interquartile
            range.
    """
    _check_sizes(examples=examples, features=features, noise_scale=noise_scale, degrees=degrees)
    inputs, clean, draw = _linear(examples, features, seed)
    noisy = clean + noise_scale * _noise(noise, examples, degrees=degrees, draw=draw)
    has_variance = noise != "cauchy" and not (noise == "student_t" and degrees <= 2)
    return _behind_noise(inputs, clean, noisy, seed=seed, has_variance=has_variance)


def noisy_linear_outliers(
    *,
    seed: int,
    examples: int = 1000,
    features: int = 8,
    noise_scale: float = 1.0,
    share: float = 0.1,
    size: float = 10.0,
) -> Splits:
    """A linear function plus Gaussian noise, with a share of outliers, all in one direction.

    The noise is not symmetric: mean, median and mode of a target given the input differ, so each
    loss is biased by the weight that the loss gives to outliers. The test targets are the function.

    Args:
        seed: Draws the slopes, inputs and Gaussian noise of `noisy_linear`, and then the outliers.
        examples: Rows in all.
        features: F; the function has variance 1 over them.
        noise_scale: Standard deviation of the Gaussian noise, in units of the function's.
        share: Probability that a target is an outlier, 0 to 1.
        size: Number added to an outlier, in standard deviations of the Gaussian noise; may be
            negative.

    Source:
        Huber 1964, Annals of Mathematical Statistics, with a distant point as contamination.
    """
    _check_sizes(examples=examples, features=features, noise_scale=noise_scale)
    if not 0 <= share <= 1:
        raise ValueError(f"share of outliers is {share}: use 0 to 1")
    inputs, clean, draw = _linear(examples, features, seed)
    noise = torch.randn(examples, generator=draw, dtype=torch.float64)
    is_outlier = torch.rand(examples, generator=draw, dtype=torch.float64) < share
    noisy = clean + noise_scale * torch.where(is_outlier, noise + size, noise)
    return _behind_noise(inputs, clean, noisy, seed=seed, has_variance=True)


def clean_linear(*, seed: int, examples: int = 1000, features: int = 8) -> Splits:
    """Linear function of `noisy_linear` without any noise, to study training near the optimum.

    A seed draws the same slopes, inputs and split as in `noisy_linear`.
    """
    _check_sizes(examples=examples, features=features)
    inputs, clean, _ = _linear(examples, features, seed)
    return _behind_noise(inputs, clean, clean, seed=seed, has_variance=True)


def heteroscedastic(*, seed: int, examples: int = 1000, noise: str = "gaussian") -> Splits:
    """A wave plus noise that grows with the input, y = x sin x + 0.3 e + 0.3 x e', x in [0, 10].

    Targets of all splits carry the noise, so that predicted distributions can be evaluated.

    Args:
        seed: Draws the inputs, the noise and the split.
        examples: Rows in all.
        noise: Distribution of e and e', with mean 0 and variance 1: "gaussian", or the skewed
            "exponential", an exponential variable minus 1.

    Source:
        Skafte, Jørgensen and Hauberg 2019, NeurIPS; Seitzer et al. 2022, ICLR.
    """
    _check_sizes(examples=examples)
    if noise not in ("gaussian", "exponential"):
        raise ValueError(f"noise {noise!r} is unknown: use one of gaussian, exponential")
    draw = stream(seed, "data")
    x = 10.0 * torch.rand(examples, 1, generator=draw, dtype=torch.float64)
    if noise == "gaussian":
        steady, growing = torch.randn(2, examples, 1, generator=draw, dtype=torch.float64)
    else:
        level = torch.rand(2, examples, 1, generator=draw, dtype=torch.float64)
        steady, growing = -torch.log1p(-level) - 1.0
    rows = permuted(examples, seed)
    y = x * x.sin() + 0.3 * steady + 0.3 * x * growing
    return regression(by_split(x, rows), by_split(y, rows))


def noisy_counts(
    *, seed: int, examples: int = 1000, features: int = 8, rate: float = 3.0, spread: float = 0.5
) -> Splits:
    """Poisson counts whose log-rate is linear in the inputs; the test targets are the rate.

    Targets are divided by their standard deviation in training but not centred, so that they stay
    nonnegative. The division changes the Poisson loss by a factor and shifts the optimal output by
    a constant.

    `rate` is the expected count at zero inputs, `spread` is the standard deviation of the
    log-rate over the inputs.
    """
    _check_sizes(examples=examples, features=features, rate=rate, spread=spread)
    inputs, function, draw = _linear(examples, features, seed)
    expected = rate * torch.exp(spread * function)
    counts = torch.poisson(expected, generator=draw)
    observed = {"train": counts, "validation": counts, "test": expected}
    rows = permuted(examples, seed)
    scale = counts[rows["train"]].std(correction=0).clamp(min=1e-12)
    return Splits(
        inputs=standardised(by_split(inputs, rows))[0],
        targets={name: (observed[name][rows[name], None] / scale).float() for name in SPLITS},
        task="regression",
        target_scale=float(scale),
    )


def _with_posterior(inputs: Tensor, labels: Tensor, posterior: Tensor, seed: int) -> Splits:
    """Split examples [N, F] with labels [N] and class probabilities [N, C]."""
    rows = permuted(len(labels), seed)
    return classification(
        by_split(inputs, rows),
        by_split(labels, rows),
        classes=posterior.shape[-1],
        posterior=by_split(posterior, rows),
    )


def _linear(examples: int, features: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Inputs [N, F], a linear function of the inputs with variance 1, [N], and the generator."""
    draw = stream(seed, "data")
    slopes = torch.randn(features, generator=draw, dtype=torch.float64)
    inputs = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    return inputs, inputs @ (slopes / slopes.norm()), draw


def _behind_noise(
    inputs: Tensor, clean: Tensor, noisy: Tensor, *, seed: int, has_variance: bool
) -> Splits:
    """Make splits with noisy targets [N] in train and validation, and clean targets [N] in test."""
    observed = {"train": noisy, "validation": noisy, "test": clean}
    rows = permuted(len(noisy), seed)
    targets = {name: observed[name][rows[name], None] for name in SPLITS}
    splits = regression(by_split(inputs, rows), targets)
    if has_variance:
        return splits
    middle = targets["train"].median()
    low, high = targets["train"].quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    scale = (high - low) / QUARTILES_OF_NORMAL
    return dataclasses.replace(
        splits,
        targets={name: ((rows - middle) / scale).float() for name, rows in targets.items()},
        target_scale=float(scale),
    )


def _noise(noise: str, count: int, *, degrees: float, draw: torch.Generator) -> Tensor:
    """Draw symmetric noise, [count], float64: variance 1; for student_t and cauchy, scale 1."""
    if noise not in NOISES:
        raise ValueError(f"noise {noise!r} is unknown: use one of {', '.join(NOISES)}")
    normal = torch.randn(count, generator=draw, dtype=torch.float64)
    if noise == "gaussian":
        return normal
    first, second = torch.rand(2, count, generator=draw, dtype=torch.float64)
    if noise == "student_t":
        # Bailey 1994: sqrt(d (u^(-2/d) - 1)) cos(2 pi v) has a Student's t distribution.
        radius = (degrees * ((1 - first).pow(-2 / degrees) - 1)).sqrt()
        return radius * torch.cos(2 * math.pi * second)
    if noise == "laplace":
        # Difference of two exponential variables; never log(0), since first and second are < 1.
        return (torch.log1p(-second) - torch.log1p(-first)) / math.sqrt(2)
    if noise == "uniform":
        return math.sqrt(3) * (2 * first - 1)
    return torch.tan(math.pi * (first - 0.5))


def _turned(points: Tensor) -> Tensor:
    """Rotate points [N, 2] by 180 degrees around (0.5, 0.25), which maps one moon to the other."""
    return torch.tensor([1.0, 0.5], dtype=torch.float64) - points


def _log_density_of_arc(points: Tensor, noise: float) -> Tensor:
    """Log density, up to a constant, of the upper half circle plus Gaussian noise: [N, 2] -> [N].

    Gauss-Legendre quadrature over the angle; the nodes are much closer than the noise is wide.
    """
    nodes, weights = np.polynomial.legendre.leggauss(32 + math.ceil(16 / noise))
    angle = torch.from_numpy(0.5 * math.pi * (nodes + 1))
    arc = torch.stack([angle.cos(), angle.sin()], -1)
    log_weights = torch.from_numpy(weights).log()
    parts = [
        ((rows[:, None] - arc).square().sum(-1) / (-2 * noise**2) + log_weights).logsumexp(-1)
        for rows in points.split(4096)
    ]
    return torch.cat(parts)


def _check_sizes(**sizes: float) -> None:
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} is {size}: use a positive number")


ROWS = (
    Data(
        gaussian_mixture,
        "classification",
        "generated; posterior known in closed form",
        drawn="generated",
    ),
    Data(
        two_moons,
        "classification",
        "generated, after scikit-learn's make_moons; posterior known by quadrature",
        drawn="generated",
        note="Two inputs and two classes: a picture more than a benchmark.",
    ),
    Data(
        finite_support,
        "classification",
        "generated; posterior of every input point known",
        drawn="generated",
        note="Every input point of the test split is there in training, with other labels.",
    ),
    Data(
        many_labels,
        "classification",
        "generated; probability of every label known",
        drawn="generated",
        is_multilabel=True,
        note="Any number of labels an example: only losses without a softmax serve.",
    ),
    Data(
        noisy_linear,
        "regression",
        "generated; noise-free function known",
        drawn="generated",
        is_symmetric=True,
        is_test_clean=True,
        note="Test targets are the function without noise; train and validation carry the noise.",
    ),
    Data(
        noisy_linear_outliers,
        "regression",
        "generated; noise-free function known",
        drawn="generated",
        is_test_clean=True,
        note="Test targets are the function without noise; the outliers of train and validation "
        "lie on one side.",
    ),
    Data(clean_linear, "regression", "generated; no noise", drawn="generated", is_symmetric=True),
    Data(
        heteroscedastic,
        "regression",
        "generated; Skafte, Jørgensen and Hauberg 2019, NeurIPS",
        drawn="generated",
        note="Targets of all splits carry the noise, which grows with the input.",
    ),
    Data(
        noisy_counts,
        "regression",
        "generated; rate behind the counts known",
        drawn="generated",
        domain="nonnegative",
        is_test_clean=True,
        note="Test targets are the rates; train and validation are counts.",
    ),
)
