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
    # Behind another inverse link the argument is not the output; that runs from -3 to 3 for all.
    output = np.linspace(-3, 3, len(found["argument"]))
    slope = np.gradient(found["value"], output)
    smooth = np.abs(output) > 0.15  # kinks lie at 0, or at the end of a tube of half width 0.1
    np.testing.assert_allclose(slope[smooth][1:-1], found["first"][smooth][1:-1], atol=0.02)


def test_the_argument_is_the_error_of_the_prediction_not_of_the_output():
    found = columns("poisson_nll")
    np.testing.assert_allclose(found["argument"], np.exp(np.linspace(-3, 3, 241)) - 1, atol=1e-12)
    # The target is 1: the slope of exp(z) - z is the error itself.
    np.testing.assert_allclose(found["first"], found["argument"], atol=1e-12)
    np.testing.assert_allclose(found["weight"][np.abs(found["argument"]) > 1e-9], 1.0)


def test_a_loss_with_two_outputs_is_drawn_at_unit_variance():
    np.testing.assert_allclose(columns("gaussian_nll")["value"], columns("mse")["value"])


def test_a_parameter_of_the_inverse_link_moves_the_argument():
    wide, narrow = columns("bi_tempered", t2=2.0), columns("bi_tempered", t2=1.0)
    np.testing.assert_allclose(narrow["argument"], np.linspace(0.001, 0.999, 241), rtol=1e-6)
    assert wide["argument"][0] > 10 * narrow["argument"][0]
