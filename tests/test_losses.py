"""Every loss against an independent truth, and the contract that any new row must keep."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor
from torch.nn import functional

from lossbench.losses import LOSSES
from lossbench.losses.spec import NAME, PROBABILITY_LINKS, Loss

Array = NDArray[np.float64]
assert_equal = partial(torch.testing.assert_close, rtol=1e-12, atol=0)
ClosedForm = Callable[[Array, Array], Array]
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
each_loss_and_target = pytest.mark.parametrize(
    ("loss", "is_hard"),
    [
        pytest.param(loss, is_hard, id=f"{loss.name}-{'hard' if is_hard else 'dense'}")
        for loss in LOSSES.values()
        for is_hard in ((False, True) if loss.task == "classification" else (False,))
    ],
)

FIRST_TEN = {"mse", "mae", "quartic", "huber", "log_cosh"}
FIRST_TEN |= {"cross_entropy", "brier", "mse_logits", "mae_probs", "quartic_probs"}


def summed(per_output: Array) -> Array:
    return per_output.sum(-1)


def error_of_probs(z: Array, y: Array) -> Array:
    return special.softmax(z, -1) - y


def through_softmax(z: Array, gradient: Array) -> Array:
    p = special.softmax(z, -1)
    jacobian = np.eye(z.shape[-1]) * p[..., None] - p[..., :, None] * p[..., None, :]
    return np.einsum("...ij,...j->...i", jacobian, gradient)


VALUES: dict[str, ClosedForm] = {
    "mse": lambda z, y: summed((z - y) ** 2) / 2,
    "mae": lambda z, y: summed(np.abs(z - y)),
    "quartic": lambda z, y: summed(np.power(z - y, 4)) / 4,
    "huber": lambda z, y: summed(special.huber(1.0, z - y)),
    "log_cosh": lambda z, y: summed(np.logaddexp(z - y, y - z) - np.log(2)),
    "cross_entropy": lambda z, y: -summed(y * special.log_softmax(z, -1)),
    "brier": lambda z, y: summed(error_of_probs(z, y) ** 2),
    "mse_logits": lambda z, y: summed((z - y) ** 2) / 2,
    "mae_probs": lambda z, y: summed(np.abs(error_of_probs(z, y))),
    "quartic_probs": lambda z, y: summed(np.power(error_of_probs(z, y), 4)) / 4,
}

GRADIENTS: dict[str, ClosedForm] = {
    "mse": lambda z, y: z - y,
    "mae": lambda z, y: np.sign(z - y),
    "quartic": lambda z, y: (z - y) ** 3,
    "huber": lambda z, y: np.clip(z - y, -1, 1),
    "log_cosh": lambda z, y: np.tanh(z - y),
    "cross_entropy": lambda z, y: special.softmax(z, -1) - y,
    "brier": lambda z, y: through_softmax(z, 2 * error_of_probs(z, y)),
    "mse_logits": lambda z, y: z - y,
    "mae_probs": lambda z, y: through_softmax(z, np.sign(error_of_probs(z, y))),
    "quartic_probs": lambda z, y: through_softmax(z, error_of_probs(z, y) ** 3),
}

HARD_LABEL_WEIGHTS: dict[str, Callable[[Array], Array]] = {
    "cross_entropy": lambda p: np.ones_like(p),
    "mae_probs": lambda p: 2 * p,
}


def examples(
    loss: Loss, *shape: int, scale: float = 2.0, is_hard: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    if loss.task == "regression":
        return output, target.abs()
    soft = target.softmax(-1)
    hard = functional.one_hot(target.argmax(-1), shape[-1]).double()
    return output, hard if is_hard else soft


def output_gradient(loss: Loss, output: Tensor, target: Tensor, **params: float) -> Tensor:
    output = output.detach().clone().requires_grad_()
    return torch.autograd.grad(loss.fn(output, target, **params).sum(), output)[0]


def oracle(oracles: dict[str, ClosedForm], loss: Loss) -> ClosedForm:
    if loss.name not in oracles:
        pytest.skip(f"{loss.name} has no closed form here")
    return oracles[loss.name]


# The truth from elsewhere: closed forms, scipy, torch.nn.functional, finite differences.


def test_the_first_ten_losses_all_have_an_oracle():
    assert set(VALUES) >= FIRST_TEN
    assert set(GRADIENTS) >= FIRST_TEN
    assert set(LOSSES) >= set(VALUES) | set(GRADIENTS)


@each_loss_and_target
@pytest.mark.parametrize("scale", [0.3, 1.0, 30.0])
def test_value_equals_the_closed_form(loss, is_hard, scale):
    closed_form = oracle(VALUES, loss)
    output, target = examples(loss, 200, 5, scale=scale, is_hard=is_hard)
    truth = closed_form(output.numpy(), target.numpy())
    np.testing.assert_allclose(loss.fn(output, target).numpy(), truth, rtol=1e-12, atol=1e-14)


@each_loss_and_target
@pytest.mark.parametrize("scale", [0.3, 1.0, 30.0])
def test_output_gradient_equals_the_closed_form(loss, is_hard, scale):
    closed_form = oracle(GRADIENTS, loss)
    output, target = examples(loss, 200, 5, scale=scale, is_hard=is_hard)
    truth = closed_form(output.numpy(), target.numpy())
    gradient = output_gradient(loss, output, target).numpy()
    np.testing.assert_allclose(gradient, truth, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", HARD_LABEL_WEIGHTS)
def test_a_local_loss_weights_the_error_of_a_hard_label_by_its_probability(name):
    output, target = examples(LOSSES[name], 200, 5, is_hard=True)
    p, y = special.softmax(output.numpy(), -1), target.numpy()
    weight = HARD_LABEL_WEIGHTS[name]((p * y).sum(-1, keepdims=True))
    gradient = output_gradient(LOSSES[name], output, target).numpy()
    np.testing.assert_allclose(gradient, weight * (p - y), rtol=1e-12, atol=1e-15)


def test_mse_is_half_of_torch_summed_squared_error():
    output, target = examples(LOSSES["mse"], 50, 3)
    assert_equal(
        LOSSES["mse"].fn(output, target).sum(),
        functional.mse_loss(output, target, reduction="sum") / 2,
    )


def test_mse_is_c_halves_of_torch_mean_squared_error():
    output, target = examples(LOSSES["mse"], 50, 3)
    assert_equal(
        LOSSES["mse"].fn(output, target).mean(), functional.mse_loss(output, target) * 3 / 2
    )


def test_mae_is_torch_summed_absolute_error():
    output, target = examples(LOSSES["mae"], 50, 3)
    assert_equal(
        LOSSES["mae"].fn(output, target).sum(), functional.l1_loss(output, target, reduction="sum")
    )


@pytest.mark.parametrize("delta", [0.1, 1.0, 3.7])
def test_huber_is_torch_and_scipy_huber_at_every_delta(delta):
    output, target = examples(LOSSES["huber"], 50, 3)
    value = LOSSES["huber"].fn(output, target, delta=delta)
    by_torch = functional.huber_loss(output, target, delta=delta, reduction="none").sum(-1)
    assert_equal(value, by_torch)
    by_scipy = special.huber(delta, (output - target).numpy()).sum(-1)
    np.testing.assert_allclose(value.numpy(), by_scipy, rtol=1e-12)


@pytest.mark.parametrize("delta", [0.1, 1.0, 3.7])
def test_huber_gradient_is_the_error_clipped_at_delta(delta):
    output, target = examples(LOSSES["huber"], 50, 3)
    gradient = output_gradient(LOSSES["huber"], output, target, delta=delta)
    assert_equal(gradient, (output - target).clamp(-delta, delta))


def test_huber_with_a_far_corner_is_mse():
    output, target = examples(LOSSES["huber"], 50, 3)
    torch.testing.assert_close(
        LOSSES["huber"].fn(output, target, delta=1e6), LOSSES["mse"].fn(output, target)
    )


def test_cross_entropy_is_torch_cross_entropy_of_soft_targets():
    output, target = examples(LOSSES["cross_entropy"], 50, 4)
    by_torch = functional.cross_entropy(output, target, reduction="none")
    assert_equal(LOSSES["cross_entropy"].fn(output, target), by_torch)


def test_cross_entropy_is_torch_cross_entropy_of_labels():
    output, target = examples(LOSSES["cross_entropy"], 50, 4, is_hard=True)
    by_torch = functional.cross_entropy(output, target.argmax(-1), reduction="none")
    assert_equal(LOSSES["cross_entropy"].fn(output, target), by_torch)


def test_mse_logits_is_half_of_torch_summed_squared_error_of_raw_outputs():
    output, target = examples(LOSSES["mse_logits"], 50, 4, is_hard=True)
    assert_equal(
        LOSSES["mse_logits"].fn(output, target).sum(),
        functional.mse_loss(output, target, reduction="sum") / 2,
    )


@each_loss_and_target
def test_gradient_agrees_with_finite_differences(loss, is_hard):
    output, target = examples(loss, 6, 4, is_hard=is_hard)
    assert torch.autograd.gradcheck(lambda z: loss.fn(z, target), output.requires_grad_())


# The contract of every row.


@each_loss_and_target
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [0.0, 1.0, 50.0, 1e4])
def test_value_and_gradient_are_finite_up_to_outputs_of_ten_thousand(loss, dtype, size, is_hard):
    output, target = examples(loss, 40, 5, is_hard=is_hard)
    output = size * torch.cat([output / output.abs().amax(), output.sign()])
    output, target = output.to(dtype), torch.cat([target, target]).to(dtype)
    assert loss.fn(output, target).isfinite().all()
    assert output_gradient(loss, output, target).isfinite().all()


@each_loss_and_target
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_value_and_gradient_are_finite_where_output_equals_target(loss, dtype, is_hard):
    target = examples(loss, 40, 5, is_hard=is_hard)[1].to(dtype)
    assert loss.fn(target.clone(), target).isfinite().all()
    assert output_gradient(loss, target, target).isfinite().all()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_value_is_one_per_example_and_keeps_the_dtype(loss, dtype):
    output, target = (tensor.to(dtype) for tensor in examples(loss, 3, 7, 5))
    value = loss.fn(output, target)
    assert value.shape == (3, 7)
    assert value.dtype == dtype


CLAIMING_TARGET = [loss for loss in LOSSES.values() if "minimised_at_target" in loss.claims]


@pytest.mark.parametrize("loss", CLAIMING_TARGET, ids=lambda loss: loss.name)
def test_an_output_that_is_right_adds_nothing_so_outputs_are_summed_not_averaged(loss):
    output, target = examples(loss, 20, 4)
    # A prediction of 0 for a target of 0; a mean over outputs would shrink to 4/7.
    right = torch.full((20, 3), 0.0 if loss.inverse_link == "identity" else -1e4).double()
    padded = loss.fn(torch.cat([output, right], -1), torch.cat([target, 0 * right], -1))
    torch.testing.assert_close(padded, loss.fn(output, target), rtol=1e-6, atol=1e-12)


@each_loss
def test_leading_dimensions_change_nothing(loss):
    output, target = examples(loss, 3, 4, 5)
    looped = [loss.fn(output[k, b], target[k, b]) for k in range(3) for b in range(4)]
    whole = loss.fn(output, target).flatten()
    torch.testing.assert_close(whole, torch.stack(looped), rtol=1e-13, atol=1e-15)


@each_loss
def test_vmapped_gradient_equals_the_looped_one(loss):
    output, target = examples(loss, 6, 5)
    vmapped = torch.vmap(torch.func.grad(loss.fn))(output, target)
    torch.testing.assert_close(
        vmapped, output_gradient(loss, output, target), rtol=1e-12, atol=1e-14
    )


@each_loss
def test_inputs_are_left_as_they_were(loss):
    output, target = examples(loss, 6, 5)
    before = output.clone(), target.clone(), output._version, target._version
    loss.fn(output, target)
    assert output.equal(before[0])
    assert target.equal(before[1])
    assert (output._version, target._version) == before[2:]


@each_loss
def test_a_row_survives_pickling(loss):
    assert pickle.loads(pickle.dumps(loss)) == loss


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_found_under_a_name_that_can_be_typed(name):
    assert LOSSES[name].name == name
    assert NAME.fullmatch(name)


@each_loss
def test_a_row_says_what_it_is_and_where_it_comes_from(loss):
    assert loss.formula.strip()
    assert loss.source.strip()
    assert loss.family.strip()
    assert "Source:" in (loss.fn.__doc__ or "")


SOFTMAX_LOSSES = [loss for loss in LOSSES.values() if loss.inverse_link == "softmax"]


@pytest.mark.parametrize("loss", SOFTMAX_LOSSES, ids=lambda loss: loss.name)
def test_a_softmax_loss_does_not_see_a_constant_added_to_all_outputs(loss):
    output, target = examples(loss, 20, 5)
    for shift in (-30.0, 7.0):
        torch.testing.assert_close(
            loss.fn(output + shift, target), loss.fn(output, target), rtol=1e-9, atol=1e-12
        )
    total = output_gradient(loss, output, target).sum(-1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "loss",
    [loss for loss in LOSSES.values() if loss.inverse_link in PROBABILITY_LINKS],
    ids=lambda loss: loss.name,
)
def test_a_probability_link_predicts_on_the_simplex(loss):
    prediction = loss.predict(examples(loss, 20, 5, scale=30.0)[0])
    assert (prediction >= 0).all()
    torch.testing.assert_close(prediction.sum(-1), torch.ones(20).double())


def test_the_identity_link_predicts_the_output():
    output, _ = examples(LOSSES["mse"], 20, 5)
    assert LOSSES["mse"].predict(output).equal(output)


@pytest.mark.parametrize(
    ("field", "value"), [("inverse_link", "logit"), ("task", "ranking"), ("fn", "Huber-Tight")]
)
def test_a_row_with_a_word_that_is_not_ours_is_refused_by_value(field, value):
    def renamed(output: Tensor, target: Tensor) -> Tensor:
        return output - target

    renamed.__name__ = value
    wrong = {field: renamed if field == "fn" else value}
    with pytest.raises(ValueError, match=f"'{value}': use"):
        replace(LOSSES["mse"], **wrong)
