"""Claims about changes of outputs and targets that leave the loss unchanged."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbench.claims.draws import normal, scattered_pairs, seeded
from lossbench.claims.measurement import (
    Measurement,
    claim,
    claim_about_labels,
    compare,
    least_favourable,
)
from lossbench.claims.minima import output_gradient
from lossbench.losses.spec import Loss


@claim_about_labels
def symmetric(loss: Loss, outputs: int) -> Measurement:
    """Summed over all labels, the loss is the same at every output.

    Judged by the largest difference of that sum from its mean, relative to the mean.

    Source:
        Manwani and Sastry 2013; Ghosh, Kumar and Sastry 2017, AAAI.
    """
    output, _ = scattered_pairs(loss, seeded("sum over labels", outputs), outputs)
    labels = torch.eye(outputs, dtype=torch.float64).expand(len(output), -1, -1)
    total = loss.values(output.unsqueeze(-2).expand_as(labels), labels).sum(-1, keepdim=True)
    names, scale = ("loss summed over labels", "its mean"), total.abs().mean()
    return compare(total, total.mean().expand_as(total), names=names, tolerance=1e-9, scale=scale)


@claim
def translation_invariant(loss: Loss, outputs: int) -> Measurement:
    """A constant added to all outputs (in regression, to all targets too) does not change the loss.

    The gradient of such a softmax loss sums to zero; such a regression loss depends on the error
    alone. Judged by the largest change of the loss, relative to the loss, or in classification by
    the largest sum of a gradient, relative to its norm; whichever is worse.

    Source:
        Berger 1985, Statistical Decision Theory (location invariance).
    """
    generator = seeded("shift", outputs)
    output, target = scattered_pairs(loss, generator, outputs)
    shift, value = 3.0 * normal((len(output), 1), generator), loss.values(output, target)
    names = ("shifted loss", "loss")
    if loss.task == "regression":
        # Upwards, so that targets stay nonnegative.
        shift = shift.abs().expand_as(target)
        shifted = loss.values(output + loss.placed(shift), target + shift)
        return _compare_values(names, shifted, value)
    change = _compare_values(names, loss.values(output + shift, target), value)
    output, target = scattered_pairs(loss, seeded("gradient sum", outputs), outputs)
    gradient = output_gradient(loss, output, target)
    total, scale = gradient.sum(-1, keepdim=True), gradient.norm(dim=-1).clamp(min=1e-3)
    zero, names = torch.zeros_like(total), ("sum of the gradient", "zero")
    return least_favourable(change, compare(total, zero, names=names, tolerance=1e-9, scale=scale))


@claim
def permutation_invariant(loss: Loss, outputs: int) -> Measurement:
    """The loss does not change if outputs and targets are reordered together: classes are alike.

    Judged by the largest change of the loss, relative to the loss.

    Source:
        Tewari and Bartlett 2007, JMLR (symmetric loss functions).
    """
    generator = seeded("order", outputs)
    output, target = scattered_pairs(loss, generator, outputs)
    order = torch.rand(target.shape, generator=generator).argsort(-1)
    orders = torch.cat([order + i * outputs for i in range(loss.outputs_per_target)], -1)
    reordered = loss.values(output.gather(-1, orders), target.gather(-1, order))
    return _compare_values(("reordered loss", "loss"), reordered, loss.values(output, target))


def _compare_values(names: tuple[str, str], measured: Tensor, expected: Tensor) -> Measurement:
    """Compare losses, [M], relative to the expected losses if these are larger than 1."""
    scale = expected.abs().clamp(min=1.0)
    return compare(measured[:, None], expected[:, None], names=names, tolerance=1e-9, scale=scale)
