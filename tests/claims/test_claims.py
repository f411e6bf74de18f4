"""What the rows claim is what is measured, and every measurement can come out either way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from selection import one_in, one_of_each_family
from torch import Tensor
from torch.nn import functional

from lossbench.claims import (
    CLAIMS,
    Measurement,
    bayes_prediction,
    duplicates,
    efficiency,
    measure,
)
from lossbench.claims.measurement import NOT_OF_LABELS
from lossbench.losses import LOSSES
from lossbench.losses.spec import Context, Loss

each_loss = pytest.mark.parametrize(
    "loss", one_of_each_family(LOSSES.values()), ids=lambda loss: loss.name
)


@cache
def verdict(claim: str, loss: Loss) -> Measurement:
    return CLAIMS[claim](loss)


@each_loss
def test_a_loss_claims_what_it_does_and_nothing_else(loss):
    measured = {claim: verdict(claim, loss) for claim in CLAIMS}
    held = {claim for claim, one in measured.items() if one}
    assert held == loss.claims, [measured[c].witness for c in held ^ loss.claims if c in CLAIMS]


@each_loss
def test_no_verdict_hangs_on_its_tolerance(loss):
    # Where the search for the least rps ends is 6e-6 away: it is flat across sums of classes.
    least = 0.5 if loss.name == "rps" else 1
    near = [claim for claim in CLAIMS if abs(verdict(claim, loss).margin) <= least]
    assert not near, [verdict(claim, loss).witness for claim in near]


# Losses that are in no catalog, or not yet, and what must be measured on them.


def stranger(fn: Callable[[Tensor, Tensor], Tensor], *, like: str) -> Loss:
    fn.__name__ = "stranger"
    return replace(LOSSES[like], fn=fn)


def on_error(rho: Callable[[Tensor], Tensor]) -> Loss:
    return stranger(lambda z, y: rho(z - y).sum(-1), like="mse")


def on_label(score: Callable[[Tensor], Tensor]) -> Loss:
    """A local loss: of all log-probabilities it scores that of the label alone."""
    return stranger(lambda z, y: (y * score(z.log_softmax(-1))).sum(-1), like="cross_entropy")


def on_outputs(fn: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    return stranger(fn, like="cross_entropy")


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return -(y * z.log_softmax(-1)).sum(-1)


def forgiving_once(z: Tensor, y: Tensor) -> Tensor:
    return (z.square() - y.square()).square().sum(-1)


def half_of_two_outputs(z: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (z.chunk(2, -1)[0] - y).square().sum(-1)


def distance_of_many(z: Tensor, y: Tensor) -> Tensor:
    """With more than two classes its kink is where the prediction is the target, a line apart."""
    distance = (z.softmax(-1) - y).norm(dim=-1)
    return distance if y.shape[-1] > 2 else distance.square()


def falling_weights(z: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(z, y * torch.arange(y.shape[-1], 0, -1))


LETTERS = dict(zip("DGAWMLESCXKBVYNTPO", CLAIMS, strict=True))
"""Derivative, G is error, Along it, Weight; Minimised, Linear, Elicits, Strictly, Calibrated;
conveX, no Kink, Bounded, Vanishing; sYmmetric, Noise, Translation, Permutation, nOt negative."""

STRANGERS = {
    # name: (loss, letters of the claims that hold)
    "mse_doubled": (on_error(lambda e: e.square()), "D-A- MLE-- XK-- --TPO"),
    "mse_almost": (on_error(lambda e: 0.5 * (1 + 1e-9) * e.square()), "D-A- MLE-- XK-- --TPO"),
    "mse_shifted": (on_error(lambda e: (e + 0.1).square() / 2), "D--- -L--- XK-- --TPO"),
    "mse_negative": (on_error(lambda e: -e.square() / 2), "D--- -L--- -K-- --TP-"),
    "mse_two_minima": (stranger(forgiving_once, like="mse"), "D--- ----- -K-- ---PO"),
    "mse_of_mean": (
        stranger(lambda z, y: (z - y).mean(-1) ** 2, like="mse"),
        "D--- -L--- XK-- --TPO",
    ),
    "mse_of_two_outputs": (
        stranger(half_of_two_outputs, like="gaussian_nll"),
        "DGA- MLE-- XK-- --TPO",
    ),
    "mse_and_a_kink": (
        on_error(lambda e: 0.5 * e.square() + 0.05 * e.abs()),
        "D--- M---- X--- --TPO",
    ),
    "mse_and_ripples": (
        on_error(lambda e: 0.5 * e.square() + 1e-5 * (1 - (475 * e).cos())),
        "D--- M---- -K-- --TPO",
    ),
    "insensible": (on_error(lambda e: (e.abs() - 1e9).clamp(min=0)), "D--- -L--- XKB- --TPO"),
    "euclidean": (
        stranger(lambda z, y: (z - y).norm(dim=-1), like="mse"),
        "D-A- M---- X-B- --TPO",
    ),
    "not_a_number": (on_error(lambda e: e.square() / 0 * 0), "---- ----- ---- -----"),
    "kl": (
        on_outputs(lambda z, y: (torch.xlogy(y, y) - y * z.log_softmax(-1)).sum(-1)),
        "DGAW MLESC XKB- --TPO",
    ),
    "below_zero": (on_outputs(lambda z, y: cross_entropy(z, y) - 1), "DGAW MLESC XKB- --TP-"),
    "falling": (on_outputs(falling_weights), "D-A- -L--- XKB- --T-O"),
    "tied_to_the_origin": (
        on_outputs(lambda z, y: cross_entropy(z, y) + 0.3 * z.norm(dim=-1)),
        "D--- -L--- X-B- ---PO",
    ),
    "distance": (on_outputs(distance_of_many), "D--- M---C --BV --TPO"),
    "unhinged": (on_label(lambda s: 1 - s.exp()), "D-AW -L--C -KBV YNTPO"),
    "focal_detached": (
        on_label(lambda s: -((1 - s.exp()) ** 2).detach() * s),
        "--AW -L--C -KB- --TPO",
    ),
    "poly1_steep": (on_label(lambda s: -s + 1.1 * (1 - s.exp())), "D-AW -L--C -KB- --TPO"),
}


@pytest.mark.parametrize("name", one_in(2, STRANGERS))
def test_a_measurement_finds_what_is_known_of_a_loss_outside_the_catalog(name):
    loss, expected = STRANGERS[name]
    verdicts = {letter: verdict(claim, loss) for letter, claim in LETTERS.items()}
    held = "".join(letter if holds else "-" for letter, holds in verdicts.items())
    assert held == expected.replace(" ", ""), [measured.witness for measured in verdicts.values()]


@pytest.mark.parametrize("letter", LETTERS)
def test_a_measurement_has_been_seen_to_hold_and_to_fail(letter):
    assert {letter in held for _, held in STRANGERS.values()} == {True, False}


def test_a_gradient_that_overflows_far_out_is_no_derivative():
    naive, stable = (
        on_error(lambda e: (20 * e).exp().log1p()),
        on_error(lambda e: functional.softplus(20 * e)),
    )
    assert "nan" in verdict("gradient_is_derivative", naive).witness
    assert not verdict("gradient_is_derivative", naive)
    assert verdict("gradient_is_derivative", stable)


def test_a_loss_that_is_negative_only_where_the_label_is_all_but_certain_is_found_out():
    penalty = LOSSES["confidence_penalty"].at(beta=0.06)
    assert not verdict("nonnegative", penalty), verdict("nonnegative", penalty).witness


def test_a_gradient_that_does_not_sum_to_zero_is_not_translation_invariant():
    centred = stranger(
        lambda z, y: 0.5 * (z - z.mean(-1, keepdim=True).detach() - y).square().sum(-1),
        like="mse_logits",
    )
    assert "sum of the gradient" in verdict("translation_invariant", centred).witness
    assert not verdict("translation_invariant", centred)


# Variants: rows with other defaults.

SAME = {
    # A variant does what the loss does that it is at these parameters.
    "focal": (LOSSES["focal"].at(gamma=0.0), "cross_entropy"),
    "class_balanced": (LOSSES["class_balanced"].at(beta=0.0), "cross_entropy"),
    "bi_tempered": (LOSSES["bi_tempered"].at(t1=1.0, t2=1.0), "cross_entropy"),
    "entmax": (LOSSES["entmax"].at(alpha=1.0), "cross_entropy"),
    "tsallis": (LOSSES["tsallis"].at(q=2.0), "brier"),
    "expectile": (LOSSES["expectile"].at(tau=0.5), "mse"),
    "lp": (LOSSES["lp"].at(p=1.0), "mae"),
    "barron": (LOSSES["barron"].at(alpha=-2.0), "geman_mcclure"),
}


@pytest.mark.parametrize("name", one_in(2, SAME))
def test_a_variant_that_is_another_loss_does_what_that_one_does(name):
    loss, other = SAME[name]
    assert {name for name in CLAIMS if verdict(name, loss)} == LOSSES[other].claims


OTHERWISE = {
    # name: (variant, claim, whether it holds there; it is the other way at the defaults)
    "poly1": (LOSSES["poly1"].at(epsilon=1.0), "convex", True),
    "logit_norm": (LOSSES["logit_norm"].at(tau=1.0), "strictly_proper", False),
    "ldam": (LOSSES["ldam"].at(max_m=0.0), "permutation_invariant", True),
    "sce": (LOSSES["sce"].at(alpha=0.0), "noise_tolerant", True),
    "poly1_negative": (LOSSES["poly1"].at(epsilon=-2.0), "nonnegative", False),
    "barron": (LOSSES["barron"].at(alpha=1.5), "bounded_gradient", False),
}


@pytest.mark.parametrize(("loss", "claim", "holds"), OTHERWISE.values(), ids=OTHERWISE)
def test_a_parameter_turns_the_claim_that_theory_says(loss, claim, holds):
    assert bool(verdict(claim, loss)) == holds, verdict(claim, loss).witness
    assert bool(verdict(claim, LOSSES[loss.name])) != holds


# What a loss learns from samples, against its closed form.

PI = torch.tensor([[0.40, 0.35, 0.15, 0.10], [0.26, 0.25, 0.25, 0.24]], dtype=torch.float64)
PRIOR = Context.long_tailed(4, like=PI).class_counts
VERTEX = (PI.amax(-1, keepdim=True) == PI).double()


def learnt(loss: Loss) -> Tensor:
    return bayes_prediction(loss, targets=torch.eye(4).double(), weights=PI)


def behind(inverse_link: str, loss: str) -> Loss:
    return replace(LOSSES[loss], inverse_link=inverse_link)


PROPER = (
    *("cross_entropy", "bhattacharyya", "brier", "spherical", "tsallis", "bi_tempered"),
    *("mse_sigmoid", "rps", "forward_kl", "unlikelihood", "z_loss", "softcap", "stablemax"),
    *("mse_logits", "bce_ova", "sparsemax", "entmax15", "entmax"),
    *("exponential", "ova_squared_hinge", "ova_exponential", "savage", "tangent"),
)

BAYES = {
    # What is to be learnt, up to a factor. An own inverse link is part of the prediction ...
    **{name: (LOSSES[name], PI) for name in PROPER},
    # ... and behind a plain softmax the exponential learns what it does to chi2.
    "exponential behind a softmax": (behind("softmax", "exponential"), PI.sqrt()),
    "chi2": (LOSSES["chi2"], PI.sqrt()),
    "hellinger": (LOSSES["hellinger"], PI**2),
    **{
        f"gce, q = {q}": (LOSSES["gce"].at(q=q), PI ** (1 / (1 - q)))
        for q in (0.1, 0.3, 0.5, 0.7, 0.9)
    },
    **{
        f"label_smoothing, ε = {e}": (LOSSES["label_smoothing"].at(epsilon=e), (1 - e) * PI + e / 4)
        for e in (0.1, 0.4)
    },
    **{name: (LOSSES[name], VERTEX) for name in ("mae_probs", "unhinged", "rce")},
    "reverse_kl": (LOSSES["reverse_kl"], (4 * PI).exp()),
    "logit_adjusted": (LOSSES["logit_adjusted"], PI / PRIOR),
}


@pytest.mark.parametrize(("loss", "expected"), BAYES.values(), ids=BAYES)
def test_hard_labels_teach_a_loss_what_theory_says_of_the_frequencies(loss, expected):
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(learnt(loss), expected, rtol=0, atol=1e-6)


def test_hard_labels_teach_rescaled_square_the_weighted_mean_of_its_two_ends():
    expected = 15 * 30 * PI / (15 * PI + 1 - PI)
    torch.testing.assert_close(learnt(LOSSES["rescaled_square"]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quartic_probs", [0.366, 0.344, 0.193, 0.098]),
        ("focal", [0.360, 0.334, 0.181, 0.125]),
        ("js", [0.515, 0.411, 0.060, 0.014]),
    ],
)
def test_hard_labels_teach_a_loss_without_closed_form_the_numbers_of_another_solver(name, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(learnt(LOSSES[name])[0], expected, rtol=0, atol=6e-4)


# What a regression loss makes of an exponential target of mean 1.


def points_of_an_exponential(limit: float) -> tuple[Tensor, Tensor]:
    """Points where an exponential of mean 4 has them, to reach into the tail, and weights for 1."""
    points = -4 * torch.log1p(-(torch.arange(5_000, dtype=torch.float64) + 0.5) / 5_000)
    points = points[points < limit]
    weights = torch.exp(-0.75 * points)
    return points[:, None], (weights / weights.sum())[None]


INFLUENCES = {
    "mse": lambda e: e,
    "mae": np.sign,
    "quartic": lambda e: e**3,
    "cosh": np.sinh,
    "welsch": lambda e: e * np.exp(-(e**2) / 2),
    "tukey": lambda e: e * np.clip(1 - (e / 4.685) ** 2, 0, None) ** 2,
    "pinball": lambda e: np.where(e > 0, 0.2, -0.8),
    "expectile": lambda e: np.where(e > 0, 0.2, 0.8) * e,
}

LIMITS = {"cosh": 5.0}
"""Where the target is cut off: without, the expected cosh is infinite whatever is predicted."""


@pytest.mark.parametrize("name", INFLUENCES)
def test_an_exponential_target_teaches_the_root_of_the_expected_influence(name):
    limit = LIMITS.get(name, 40.0)

    def expected_influence(c: float) -> float:
        # Corners of the influence in e = c - y, where the integrand must be cut.
        corners = sorted({c, c - 4.685, c + 4.685})
        ends = [0.0, *(corner for corner in corners if 0 < corner < limit), limit]

        def weighted(y: float) -> float:
            return float(INFLUENCES[name](c - y)) * math.exp(-y)

        return sum(integrate.quad(weighted, *two)[0] for two in pairwise(ends))

    targets, weights = points_of_an_exponential(limit)
    prediction = bayes_prediction(LOSSES[name], targets=targets, weights=weights)
    root = optimize.brentq(expected_influence, 0.1, 3.0)
    assert float(prediction) == pytest.approx(root, abs=1e-3)


MEAN_OF_LOG1P = integrate.quad(lambda y: math.log1p(y) * math.exp(-y), 0, math.inf)[0]

ACTS = {"poisson_nll": 1.0, "gaussian_nll": 1.0, "beta_nll": 1.0, "msle": math.expm1(MEAN_OF_LOG1P)}
"""Of the losses that are no function of the error alone."""


@pytest.mark.parametrize("name", ACTS)
def test_an_exponential_target_teaches_the_functional_that_theory_names(name):
    targets, weights = points_of_an_exponential(math.inf)
    prediction = bayes_prediction(LOSSES[name], targets=targets, weights=weights)
    assert float(prediction) == pytest.approx(ACTS[name], abs=1e-3)


# Efficiency under Gaussian noise.

EFFICIENCIES = {
    "mse": (LOSSES["mse"], 1.0),
    "mae": (LOSSES["mae"], 2 / math.pi),
    "pinball of the median": (LOSSES["pinball"].at(tau=0.5), 2 / math.pi),
    "pinball": (
        LOSSES["pinball"],
        stats.norm.pdf(stats.norm.ppf(0.8)) ** 2 / (0.8 * 0.2),
    ),
    "quartic": (LOSSES["quartic"], 9 / 15),
    "cosh": (LOSSES["cosh"], 2 * math.e / (math.e**2 - 1)),
    "linex": (LOSSES["linex"], 1 / (math.e - 1)),
    "welsch": (LOSSES["welsch"], (3 / 4) ** 1.5),
}


@pytest.mark.parametrize(("loss", "expected"), EFFICIENCIES.values(), ids=EFFICIENCIES)
def test_the_efficiency_of_a_loss_is_its_closed_form(loss, expected):
    assert efficiency(loss) == pytest.approx(expected, abs=1e-6)


def test_the_customary_parameters_of_huber_and_tukey_are_95_percent_efficient():
    assert efficiency(LOSSES["huber"].at(delta=1.345)) == pytest.approx(0.95, abs=1e-3)
    assert efficiency(LOSSES["tukey"].at(c=4.685)) == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize("name", ["cross_entropy", "poisson_nll", "gaussian_nll", "msle"])
def test_a_loss_that_is_no_function_of_one_error_has_no_efficiency(name):
    assert math.isnan(efficiency(LOSSES[name]))


# Duplicates.


@pytest.mark.parametrize(
    ("loss", "other", "factor"),
    [
        (LOSSES["gce"].at(q=0.5), "hellinger", 2.0),
        (LOSSES["tsallis"].at(q=2.0), "brier", 1.0),
        (LOSSES["sce"], LOSSES["poly1"].at(epsilon=40.0), 0.1),
        (LOSSES["nce_mae"], LOSSES["nce_rce"].at(beta=0.5), 1.0),
        (LOSSES["rescaled_square"].at(k=1.0, M=1.0), "mse_logits", 2.0),
        (LOSSES["pinball"].at(tau=0.5), "mae", 0.5),
    ],
    ids=["gce", "tsallis", "sce", "nce_mae", "rescaled_square", "pinball"],
)
def test_a_variant_has_the_duplicate_that_theory_says(loss, other, factor):
    other = LOSSES[other] if isinstance(other, str) else other
    assert duplicates(loss, [other]) == pytest.approx({other.name: factor}, rel=1e-9)


MEAN_OF_CLASSES = on_outputs(lambda z, y: cross_entropy(z, y) / y.shape[-1])


@pytest.mark.parametrize(
    ("loss", "others"),
    [
        (LOSSES["mse"], ["mse", "mse_logits"]),
        (MEAN_OF_CLASSES, ["cross_entropy"]),
        (LOSSES["huber"].at(delta=1.000001), ["smooth_l1"]),
    ],
    ids=["itself and another task", "a factor that changes with C", "off by a millionth"],
)
def test_a_loss_has_no_duplicate_among(loss, others):
    assert duplicates(loss, [LOSSES[name] for name in others]) == {}


# The verdict itself.


OF_LABELS = {"local_weight", "strictly_proper", "calibrated", "symmetric", "noise_tolerant"}


def test_a_witness_names_the_tolerance_or_why_a_regression_loss_says_nothing_of_labels():
    for claim in CLAIMS:
        for name in ("brier", "huber"):
            measured, is_regression = verdict(claim, LOSSES[name]), name == "huber"
            says_nothing = is_regression and claim in OF_LABELS
            assert (measured == NOT_OF_LABELS) == says_nothing
            assert ("regression" if says_nothing else "tolerance") in measured.witness
    direction = verdict("points_along_error", LOSSES["brier"]).witness
    assert "in the mean" in direction
    assert "at least" in direction


def test_measuring_twice_gives_the_same_verdicts_whatever_the_global_seed():
    state = torch.get_rng_state()
    first = measure(LOSSES["quartic_probs"].at())
    assert torch.get_rng_state().equal(state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        # Another row of the same loss, so that nothing is remembered.
        assert measure(LOSSES["quartic_probs"].at()) == first
