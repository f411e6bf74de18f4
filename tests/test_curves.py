"""The curves of the figures against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from lossbench.losses import LOSSES
from lossbench.losses.curves import curve


def columns(name, **params):
    return {key: np.array(values) for key, values in curve(LOSSES[name], params).items()}


REGRESSION = {
    "mse": (lambda e: e**2 / 2, lambda e: e, np.ones_like),
    "quartic": (lambda e: e**4 / 4, lambda e: e**3, lambda e: 3 * e**2),
    "mae": (np.abs, np.sign, np.zeros_like),
    "log_cosh": (lambda e: np.log(np.cosh(e)), np.tanh, lambda e: 1 / np.cosh(e) ** 2),
}


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_curves_are_the_textbook_derivatives(name):
    found, (value, first, second) = columns(name), REGRESSION[name]
    error = found["argument"]
    assert (error[0], error[-1]) == (-3.0, 3.0)
    for column, truth in (("value", value), ("first", first), ("second", second)):
        np.testing.assert_allclose(found[column], truth(error), atol=1e-9)


def test_a_parameter_changes_the_curve():
    assert columns("huber", delta=0.5)["first"].max() == 0.5


WEIGHTS = {
    "cross_entropy": np.ones_like,
    "mse_logits": np.ones_like,
    "mae_probs": lambda p: 2 * p,
    # Two classes: the Jacobian of the softmax acts on the error as 2 p (1 - p), brier doubles it.
    "brier": lambda p: 4 * p * (1 - p),
    "quartic_probs": lambda p: 2 * p * (1 - p) * (1 - p) ** 2,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weight_is_how_much_of_the_error_is_fed_back(name):
    found = columns(name)
    np.testing.assert_allclose(found["weight"], WEIGHTS[name](found["argument"]), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_first_derivative_is_the_slope_of_the_value(name):
    found = columns(name)
    if LOSSES[name].task == "classification":
        return  # drawn over p, differentiated by the output: the weights above are its truth
    slope = np.gradient(found["value"], found["argument"])
    smooth = np.abs(found["argument"]) > 0.05
    np.testing.assert_allclose(slope[smooth][1:-1], found["first"][smooth][1:-1], atol=0.02)
