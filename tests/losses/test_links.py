"""Every inverse link lies where it must, with the roots and derivatives of its equation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lossbench.losses import links
from lossbench.losses.links import (
    INVERSE_LINKS,
    LARGEST_EXPONENT,
    PROBABILITY_LINKS,
    capped_exp,
    capped_expm1,
    direction,
    positive_power,
)

Array = NDArray[np.float64]
assert_close = torch.testing.assert_close

SETTINGS: tuple[tuple[str, dict[str, float]], ...] = (
    *((link, {}) for link in ("identity", "exp", "softplus")),
    *((link, {"outputs_per_target": 2}) for link in ("mean", "median")),
    ("mean_of_bins", {"outputs_per_target": 2, "low": -1.0, "high": 3.0}),
    ("mean_of_bins", {"outputs_per_target": 2, "low": -20.0, "high": 2.0}),
    *((link, {}) for link in ("softmax", "doubled_softmax", "sparsemax", "entmax15")),
    *((link, {}) for link in ("sigmoid", "doubled_sigmoid", "half_margin", "tangent")),
    ("stablemax", {}),
    *(("softcapped_softmax", {"cap": cap}) for cap in (5.0, 30.0)),
    *(("scaled_softmax", {"s": s}) for s in (0.5, 30.0)),
    *(("normalized_softmax", {"tau": tau}) for tau in (0.04, 1.0)),
    *(("cosine_softmax", {"scale": scale}) for scale in (1.0, 20.0)),
    *(("entmax", {"alpha": alpha}) for alpha in (1.0, 1.05, 1.25, 1.5, 1.9, 2.0)),
    *(("tempered_softmax", {"t2": t2}) for t2 in (0.5, 0.8, 1.0, 1.4, 2.0, 4.0)),
)
ROOTED = [pair for pair in SETTINGS if pair[0] in ("entmax", "tempered_softmax")]


def spelled(setting: object) -> str:
    if isinstance(setting, dict):
        return ",".join(f"{name}={value:g}" for name, value in setting.items()) or "plain"
    return str(setting)


each_link = pytest.mark.parametrize(("name", "params"), SETTINGS, ids=spelled)
each_rooted_link = pytest.mark.parametrize(("name", "params"), ROOTED, ids=spelled)
each_probability_link = pytest.mark.parametrize(
    ("name", "params"), [pair for pair in SETTINGS if pair[0] in PROBABILITY_LINKS], ids=spelled
)


def link(name: str, params: dict[str, float]) -> Callable[[Tensor], Tensor]:
    return partial(INVERSE_LINKS[name], **params)


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def hard_places() -> Tensor:
    """Outputs of five classes that saturate, tie or vanish, [N, 5]."""
    corner = torch.eye(5, dtype=torch.float64)
    tie = torch.tensor([[2.0, 2.0, 0.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0, 1.0 - 1e-9]])
    rows = [torch.zeros(1, 5), torch.full((1, 5), -7.0), tie, normal(20, 5, scale=30.0)]
    rows += [sign * size * corner for sign in (1, -1) for size in (1e-30, 1.0, 50.0, 1e4)]
    return torch.cat([*rows, 1e4 * normal(20, 5).sign()]).double()


def by_root(total: Callable[[float], float], low: float, high: float) -> float:
    return optimize.brentq(lambda x: total(x) - 1, low, high, xtol=1e-15, rtol=1e-15)


def slow_entmax(z: Array, *, alpha: float) -> Array:
    """One example: the threshold at which the parts to a power sum to 1."""

    def at(threshold: float) -> Array:
        return np.maximum((alpha - 1) * z - threshold, 0) ** (1 / (alpha - 1))

    largest = (alpha - 1) * z.max()
    return at(by_root(lambda threshold: at(threshold).sum(), largest - 1, largest))


def slow_tempered_softmax(z: Array, *, t2: float) -> Array:
    """One example: the shift at which the tempered exponentials sum to 1."""

    def at(shift: float) -> Array:
        return np.maximum(1 + (1 - t2) * (z - shift), 0) ** (1 / (1 - t2))

    log_share = ((1 / len(z)) ** (1 - t2) - 1) / (1 - t2)
    return at(by_root(lambda shift: at(shift).sum(), z.max(), z.max() - log_share + 1e-9))


def jacobian(function: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Row i, column j: derivative of prediction i with respect to output j, [N, C, C]."""
    return torch.vmap(torch.func.jacrev(function))(outputs)


# The catalog of links.


def test_every_link_is_measured_at_every_parameter_it_has():
    measured = {(name, key) for name, params in SETTINGS for key in (params or [None])}
    declared = {
        (name, key)
        for name, function in INVERSE_LINKS.items()
        for key in [*inspect.signature(function).parameters][1:] or [None]
    }
    assert measured == declared


@each_link
@pytest.mark.parametrize(
    ("dtype", "near"),
    # Five rounded numbers, each raised to a power of 20 at most.
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.1)],
    ids=str,
)
def test_a_saturated_or_tied_output_is_finite_and_on_the_simplex_where_that_is_said(
    name, params, dtype, near
):
    output = hard_places().to(dtype)
    output = (output if name in PROBABILITY_LINKS else output[:, :4]).requires_grad_()
    prediction = link(name, params)(output)
    assert prediction.dtype == dtype
    assert prediction.isfinite().all()
    value = prediction.square() if name in PROBABILITY_LINKS else prediction
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert gradient.isfinite().all()
    total = prediction.detach().double().sum(-1)
    is_on_simplex = bool((prediction >= 0).all() and (total - 1).abs().max() < near)
    assert is_on_simplex == (name in PROBABILITY_LINKS)


@each_probability_link
def test_equal_outputs_get_equal_probabilities_and_larger_ones_no_smaller(name, params):
    output = hard_places()
    prediction = link(name, params)(output)
    gap = output.unsqueeze(-1) - output.unsqueeze(-2)
    rise = prediction.unsqueeze(-1) - prediction.unsqueeze(-2)
    assert float(rise[gap == 0].abs().max()) < 1e-15
    assert float(rise[gap > 0].min()) > -1e-15


@each_link
def test_leading_dimensions_and_vmap_change_nothing(name, params):
    output = normal(3, 4, 6)
    whole = link(name, params)(output)
    looped = torch.stack([link(name, params)(row) for row in output.flatten(0, 1)])
    assert_close(whole.flatten(0, 1), looped, rtol=1e-13, atol=1e-15)
    vmapped = torch.vmap(torch.vmap(link(name, params)))(output)
    assert_close(vmapped, whole, rtol=1e-13, atol=1e-15)


@each_link
def test_first_and_second_derivatives_agree_with_finite_differences(name, params):
    output = normal(4, 4, seed=3).requires_grad_()
    assert gradcheck(link(name, params), output)
    assert gradgradcheck(link(name, params), output)


# Projections and roots, against slower ones.


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    for z in normal(10, 5, scale=1.5).numpy():
        nearest = optimize.minimize(
            lambda p, z=z: ((p - z) ** 2).sum(),
            np.full(5, 0.2),
            jac=lambda p, z=z: 2 * (p - z),
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-14},
        )
        projected = links.sparsemax(torch.from_numpy(z)).numpy()
        np.testing.assert_allclose(projected, nearest.x, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "slow", "params"),
    [
        *(("entmax", slow_entmax, {"alpha": alpha}) for alpha in (1.05, 1.25, 1.5, 1.9, 2.0)),
        *(
            ("tempered_softmax", slow_tempered_softmax, {"t2": t2})
            for t2 in (0.5, 0.8, 1 - 1e-5, 1 + 1e-5, 1.1, 1.4, 2.0, 4.0)
        ),
    ],
    ids=lambda value: "slow" if callable(value) else spelled(value),
)
def test_a_link_is_the_root_that_bisection_finds(name, slow, params):
    output = normal(20, 6, scale=3.0)
    expected = np.stack([slow(z, **params) for z in output.numpy()])
    near = 1e-9 if abs(params.get("t2", 0.0) - 1) < 1e-3 else 1e-13
    np.testing.assert_allclose(link(name, params)(output).numpy(), expected, atol=near)


@pytest.mark.parametrize("classes", [2, 1000])
@each_rooted_link
def test_a_root_is_found_for_few_and_for_many_classes_near_and_far(name, params, classes):
    for scale in (0.0, 1e-3, 1.0, 30.0, 1e4):
        total = link(name, params)(normal(10, classes, scale=scale)).sum(-1)
        assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_entmax_at_its_ends_and_in_the_middle_is_softmax_sparsemax_and_entmax15():
    output = normal(20, 6, scale=2.0)
    for at_softmax in (links.entmax(output, alpha=1.0), links.tempered_softmax(output, t2=1.0)):
        assert_close(at_softmax, output.softmax(-1), rtol=1e-14, atol=0)
    for alpha, exact in ((1.5, links.entmax15), (2.0, links.sparsemax)):
        assert_close(links.entmax(output, alpha=alpha), exact(output), rtol=1e-12, atol=1e-13)
        assert exact(torch.tensor([3.0, 0.0, -1.0])).tolist() == [1.0, 0.0, 0.0]  # exact zeros


# Derivatives through the root.


@each_probability_link
def test_the_jacobian_is_symmetric_where_the_link_is_a_gradient(name, params):
    slopes = jacobian(link(name, params), normal(20, 6, scale=2.0))
    is_symmetric = bool((slopes - slopes.mT).abs().max() < 1e-12)
    no_gradients = ("normalized_softmax", "cosine_softmax", "softcapped_softmax", "stablemax")
    assert is_symmetric == (name not in no_gradients)


@each_rooted_link
def test_third_derivatives_agree_with_finite_differences(name, params):
    def second_derivative(output: Tensor) -> Tensor:
        prediction = link(name, params)(output)
        (first,) = torch.autograd.grad(prediction.square().sum(), output, create_graph=True)
        return torch.autograd.grad(first.square().sum(), output, create_graph=True)[0]

    output = normal(3, 4, scale=0.5, seed=3).requires_grad_()
    assert gradcheck(second_derivative, output, fast_mode=True)


# Elementwise links.


def direction_in_numpy(z: Array) -> Array:
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-300)


@pytest.mark.parametrize(
    ("name", "params", "truth"),
    [
        ("identity", {}, lambda z: z),
        ("mean", {"outputs_per_target": 2}, lambda z: z[:, :2]),
        ("median", {"outputs_per_target": 4}, lambda z: z[:, :1]),
        (
            "mean_of_bins",
            {"outputs_per_target": 2, "low": -1.0, "high": 3.0},
            lambda z: 2 * special.softmax(z.reshape(-1, 2, 2), 1)[:, 1],
        ),
        ("exp", {}, lambda z: np.exp(np.minimum(z, 70))),
        ("softplus", {}, lambda z: np.logaddexp(0, z)),
        ("sigmoid", {}, special.expit),
        ("doubled_sigmoid", {}, lambda z: special.expit(2 * z)),
        ("half_margin", {}, lambda z: np.clip((z + 1) / 2, 0, 1)),
        ("tangent", {}, lambda z: np.arctan(z) + 1 / 2),
        ("softmax", {}, lambda z: special.softmax(z, -1)),
        ("doubled_softmax", {}, lambda z: special.softmax(2 * z, -1)),
        ("scaled_softmax", {"s": 7.0}, lambda z: special.softmax(7 * z, -1)),
        (
            "normalized_softmax",
            {"tau": 0.25},
            lambda z: special.softmax(4 * direction_in_numpy(z), -1),
        ),
        (
            "cosine_softmax",
            {"scale": 4.0},
            lambda z: special.softmax(4 * direction_in_numpy(z), -1),
        ),
    ],
    ids=lambda value: "numpy" if callable(value) else spelled(value),
)
def test_a_plain_link_is_its_formula_in_numpy(name, params, truth):
    output = torch.cat([hard_places(), normal(50, 5, scale=3.0)])[:, :4]
    found = link(name, params)(output).numpy()
    # What no double holds apart from zero is left out.
    np.testing.assert_allclose(found, truth(output.numpy()), rtol=1e-12, atol=1e-300)


# Parts that losses share.


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_direction_has_length_one_however_long_the_output_and_that_of_zero_none(dtype, size):
    output = normal(20, 5).to(dtype)
    sized = (output.double() * size).to(dtype).requires_grad_()
    length = direction(sized).double().norm(dim=-1)
    near = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    assert_close(length, torch.full_like(length, float(size > 0)), rtol=0, atol=near)
    (slope,) = torch.autograd.grad((direction(sized) * output).sum(), sized)
    assert slope.isfinite().all()


@pytest.mark.parametrize(
    ("capped", "truth"), [(capped_exp, np.exp), (capped_expm1, np.expm1)], ids=["exp", "expm1"]
)
def test_a_capped_exponential_is_the_exponential_up_to_the_cap(capped, truth):
    exponent = torch.cat([torch.linspace(-100, LARGEST_EXPONENT, 400), torch.tensor([1e-12])])
    exponent = exponent.double()
    np.testing.assert_allclose(capped(exponent).numpy(), truth(exponent.numpy()), rtol=1e-13)


@pytest.mark.parametrize("capped", [capped_exp, capped_expm1])
def test_a_capped_exponential_goes_on_straight_with_the_slope_it_has_at_the_cap(capped):
    beyond = torch.tensor([0.0, 1e-9, 1.0, 10.0, 9930.0], dtype=torch.float64)
    exponent = (LARGEST_EXPONENT + beyond).requires_grad_()
    at_cap = np.exp(LARGEST_EXPONENT)
    value = capped(exponent)
    np.testing.assert_allclose(value.detach().numpy(), at_cap * (1 + beyond.numpy()), rtol=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), exponent)
    np.testing.assert_allclose(slope.numpy(), at_cap, rtol=1e-12)


@pytest.mark.parametrize("capped", [capped_exp, capped_expm1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_capped_exponential_of_ten_thousand_leaves_room_for_a_sum(capped, dtype):
    exponent = torch.full((100,), 1e4, dtype=dtype, requires_grad=True)
    total = capped(exponent).sum()
    assert total.isfinite()
    assert torch.autograd.grad(total, exponent)[0].isfinite().all()


def test_a_positive_power_is_zero_with_derivatives_of_zero_where_the_base_is_not_positive():
    base = torch.tensor([-2.0, 0.0, 0.25, 4.0], dtype=torch.float64, requires_grad=True)
    for power in (-0.5, 0.5, 1.0, 2.5):
        value = positive_power(base, power)
        (slope,) = torch.autograd.grad(value.sum(), base, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), base)
        assert_close(value[2:], base[2:] ** power)
        assert value[:2].tolist() == slope[:2].tolist() == bend[:2].tolist() == [0.0, 0.0]
        assert_close(slope[2:], power * base[2:] ** (power - 1))
