"""What the rows claim is what is measured, and every measurement can come out either way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate, optimize
from torch import Tensor

from lossbench.claims import CLAIMS, Verdict, bayes_prediction, measure
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss

each_claim = pytest.mark.parametrize("claim", CLAIMS)
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)


@cache
def verdict(claim: str, loss: Loss) -> Verdict:
    return CLAIMS[claim](loss)


@each_loss
@each_claim
def test_a_loss_claims_what_it_does_and_nothing_else(loss, claim):
    measured = verdict(claim, loss)
    assert bool(measured) == (claim in loss.claims), measured.witness


@each_loss
@each_claim
def test_no_verdict_hangs_on_its_tolerance(loss, claim):
    assert abs(verdict(claim, loss).margin) > 1, verdict(claim, loss).witness


@each_loss
def test_a_row_claims_only_what_is_measured(loss):
    assert loss.claims <= set(CLAIMS)


# Losses that are in no catalog, or not yet, and what must be measured on them.


def stranger(fn: Callable[[Tensor, Tensor], Tensor], *, like: str) -> Loss:
    fn.__name__ = "stranger"
    return replace(LOSSES[like], fn=fn)


def on_error(rho: Callable[[Tensor], Tensor]) -> Loss:
    return stranger(lambda z, y: rho(z - y).sum(-1), like="mse")


def on_label(score: Callable[[Tensor], Tensor]) -> Loss:
    """A local loss: of all log-probabilities it scores that of the label alone."""
    return stranger(lambda z, y: (y * score(z.log_softmax(-1))).sum(-1), like="cross_entropy")


def spherical(z: Tensor, y: Tensor) -> Tensor:
    p = z.softmax(-1)
    return 1 - (y * p).sum(-1) / p.norm(dim=-1)


def smoothed_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return -((0.9 * y + 0.1 / y.shape[-1]) * z.log_softmax(-1)).sum(-1)


def biweight(e: Tensor) -> Tensor:
    return 4.685**2 / 6 * (1 - (1 - (e / 4.685).square()).clamp(min=0) ** 3)


def forgiving_once(z: Tensor, y: Tensor) -> Tensor:
    return (z.square() - y.square()).square().sum(-1)


def cross_entropy_and_a_term_of_the_target(z: Tensor, y: Tensor) -> Tensor:
    return (torch.xlogy(y, y) - y * z.log_softmax(-1)).sum(-1)


LETTERS = {
    "G": "gradient_is_error",
    "M": "minimised_at_target",
    "L": "linear_in_target",
    "E": "elicits_mean",
    "S": "strictly_proper",
    "X": "convex",
}

STRANGERS = {
    # name: (loss, letters of the claims that hold)
    "mse_doubled": (on_error(lambda e: e.square()), "-MLE-X"),
    "mse_almost": (on_error(lambda e: 0.5 * (1 + 1e-9) * e.square()), "-MLE-X"),
    "mse_shifted": (on_error(lambda e: (e + 0.1).square() / 2), "--L--X"),
    "mse_negative": (on_error(lambda e: -e.square() / 2), "--L---"),
    "mse_two_minima": (stranger(forgiving_once, like="mse"), "------"),
    "mse_of_mean": (stranger(lambda z, y: (z - y).mean(-1) ** 2, like="mse"), "--L--X"),
    "pinball": (on_error(lambda e: torch.maximum(0.2 * e, -0.8 * e)), "-M---X"),
    "insensitive": (on_error(lambda e: (e.abs() - 0.5).clamp(min=0)), "-----X"),
    "cauchy": (on_error(lambda e: torch.log1p(e.square()) / 2), "-M----"),
    "biweight": (on_error(biweight), "-M----"),
    "euclidean": (stranger(lambda z, y: (z - y).norm(dim=-1), like="mse"), "-M---X"),
    "not_a_number": (on_error(lambda e: e.square() / 0 * 0), "------"),
    "kl": (stranger(cross_entropy_and_a_term_of_the_target, like="cross_entropy"), "GMLESX"),
    "smoothed": (stranger(smoothed_cross_entropy, like="cross_entropy"), "--L--X"),
    "spherical": (stranger(spherical, like="cross_entropy"), "-MLES-"),
    "focal": (on_label(lambda s: -((1 - s.exp()) ** 2) * s), "--L---"),
    "gce": (on_label(lambda s: (1 - (0.7 * s).exp()) / 0.7), "--L---"),
    "poly1": (on_label(lambda s: -s + 1 - s.exp()), "--L--X"),
    "poly1_steep": (on_label(lambda s: -s + 1.1 * (1 - s.exp())), "--L---"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_measurement_finds_what_is_known_of_a_loss_outside_the_catalog(name):
    loss, expected = STRANGERS[name]
    verdicts = {letter: verdict(claim, loss) for letter, claim in LETTERS.items()}
    held = "".join(letter if holds else "-" for letter, holds in verdicts.items())
    assert held == expected, [measured.witness for measured in verdicts.values()]


@each_claim
def test_a_measurement_has_been_seen_to_hold_and_to_fail(claim):
    outcomes = {claim in loss.claims for loss in LOSSES.values()}
    for letter in (letter for letter, name in LETTERS.items() if name == claim):
        outcomes |= {letter in held for _, held in STRANGERS.values()}
    assert outcomes == {True, False}


# What a loss learns from samples, against its closed form.

PI = torch.tensor([[0.40, 0.35, 0.15, 0.10], [0.26, 0.25, 0.25, 0.24]], dtype=torch.float64)


def learnt(loss: Loss) -> Tensor:
    return bayes_prediction(loss, targets=torch.eye(4).double(), weights=PI)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (LOSSES["cross_entropy"], PI),
        (LOSSES["brier"], PI),
        (LOSSES["mse_logits"], PI),
        (on_label(lambda s: (1 - (0.7 * s).exp()) / 0.7), PI ** (1 / 0.3)),
        (on_label(lambda s: 1 - (0.5 * s).exp()), PI**2),
        (on_label(lambda s: ((-s).exp() - 1) / 2), PI**0.5),
        (LOSSES["mae_probs"], PI.amax(-1, keepdim=True) == PI),
    ],
    ids=["cross_entropy", "brier", "mse_logits", "gce", "hellinger", "chi2", "mae_probs"],
)
def test_hard_labels_teach_a_loss_the_power_of_the_frequencies_that_theory_says(loss, expected):
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(learnt(loss), expected.double(), rtol=0, atol=1e-6)


def test_hard_labels_teach_quartic_probs_something_flatter_than_the_frequencies():
    expected = torch.tensor([0.366, 0.344, 0.193, 0.098], dtype=torch.float64)
    torch.testing.assert_close(learnt(LOSSES["quartic_probs"])[0], expected, rtol=0, atol=5e-4)


INFLUENCES = {
    "mse": lambda e: e,
    "mae": np.sign,
    "quartic": lambda e: e**3,
    "huber": lambda e: np.clip(e, -1, 1),
    "log_cosh": np.tanh,
}


@pytest.mark.parametrize("name", INFLUENCES)
def test_an_exponential_target_teaches_the_root_of_the_expected_influence(name):
    def expected_influence(c: float) -> float:
        def weighted(y: float) -> float:
            return INFLUENCES[name](c - y) * np.exp(-y)

        return integrate.quad(weighted, 0, c)[0] + integrate.quad(weighted, c, 40)[0]

    # Points where an exponential of mean 4 has them, to reach far into the tail, weighed down to 1.
    points = -4 * torch.log1p(-(torch.arange(5_000, dtype=torch.float64) + 0.5) / 5_000)
    weights = (4 * torch.exp(-0.75 * points) / 5_000)[None]
    prediction = bayes_prediction(LOSSES[name], targets=points[:, None], weights=weights)
    root = optimize.brentq(expected_influence, 0.1, 3.0)
    assert float(prediction) == pytest.approx(root, abs=1e-3)


# The verdict itself.


def test_a_verdict_is_true_exactly_when_it_holds():
    assert Verdict(True, "", 1.0)
    assert not Verdict(False, "", -1.0)


@each_claim
def test_a_witness_names_the_measured_number_and_its_tolerance(claim):
    witness = verdict(claim, LOSSES["brier"]).witness
    assert "off by" in witness
    assert "tolerance" in witness


def test_a_regression_loss_is_told_why_it_is_not_proper():
    assert "regression" in verdict("strictly_proper", LOSSES["mse"]).witness


def test_measuring_twice_gives_the_same_verdicts_whatever_the_global_seed():
    state = torch.get_rng_state()
    first = measure(LOSSES["quartic_probs"])
    assert torch.get_rng_state().equal(state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert measure(LOSSES["quartic_probs"]) == first


def test_measure_returns_every_claim_in_the_order_of_the_list():
    assert list(measure(LOSSES["mse"])) == list(CLAIMS)
