"""Claims about what may be done to outputs and targets without changing the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbench.claims.draws import normal, padded, scattered_pairs, seeded
from lossbench.claims.minima import output_gradient
from lossbench.claims.verdict import NOT_OF_LABELS, Verdict, compare, least_favourable, worst
from lossbench.losses.spec import Loss


def symmetric(loss: Loss) -> Verdict:
    """Summed over all labels, the loss is the same at every output.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest difference of that sum from its mean, relative to it.

    Source:
        Manwani and Sastry 2013; Ghosh, Kumar and Sastry 2017, AAAI.
    """
    return NOT_OF_LABELS if loss.task == "regression" else worst(_sum_against_mean, loss)


def translation_invariant(loss: Loss) -> Verdict:
    """A constant added to all outputs changes nothing; in regression, to all targets as well.

    So a softmax loss has a gradient that sums to zero, and a regression loss sees the error alone.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest change of the loss, relative to it, or in classification the
        largest sum of a gradient, relative to its norm; whichever is worse.

    Source:
        Berger 1985, Statistical Decision Theory (location invariance).
    """
    shift = worst(_shifted_against_plain, loss)
    if loss.task == "regression":
        return shift
    return least_favourable(shift, worst(_gradient_sum_against_zero, loss))


def permutation_invariant(loss: Loss) -> Verdict:
    """Outputs and targets reordered together leave the loss as it is: all classes are alike.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest change of the loss, relative to it.

    Source:
        Tewari and Bartlett 2007, JMLR (symmetric loss functions).
    """
    return worst(_reordered_against_plain, loss)


def _sum_against_mean(loss: Loss, outputs: int) -> Verdict:
    output, _ = scattered_pairs(loss, seeded("sum over labels", outputs), outputs)
    labels = torch.eye(outputs, dtype=torch.float64).expand(len(output), -1, -1)
    total = loss.values(output.unsqueeze(-2).expand_as(labels), labels).sum(-1, keepdim=True)
    mean = total.mean().expand_as(total)
    names, scale = ("loss summed over labels", "its mean"), total.abs().mean()
    return compare(total, mean, names=names, tolerance=1e-9, outputs=outputs, scale=scale)


def _shifted_against_plain(loss: Loss, outputs: int) -> Verdict:
    generator = seeded("shift", outputs)
    output, target = scattered_pairs(loss, generator, outputs)
    shift = 3.0 * normal((len(output), 1), generator)
    if loss.task == "regression":
        # Upwards, so that targets stay nonnegative.
        target_shift = shift.abs().expand_as(target)
        shifted = loss.values(output + padded(target_shift, loss), target + target_shift)
    else:
        shifted = loss.values(output + shift, target)
    return _values_alike(("shifted loss", "loss"), shifted, loss.values(output, target), outputs)


def _gradient_sum_against_zero(loss: Loss, outputs: int) -> Verdict:
    output, target = scattered_pairs(loss, seeded("gradient sum", outputs), outputs)
    gradient = output_gradient(loss, output, target)
    total = gradient.sum(-1, keepdim=True)
    names, scale = ("sum of the gradient", "zero"), gradient.norm(dim=-1).clamp(min=1e-3)
    zero = torch.zeros_like(total)
    return compare(total, zero, names=names, tolerance=1e-9, outputs=outputs, scale=scale)


def _reordered_against_plain(loss: Loss, outputs: int) -> Verdict:
    generator = seeded("order", outputs)
    output, target = scattered_pairs(loss, generator, outputs)
    order = torch.rand(target.shape, generator=generator).argsort(-1)
    orders = torch.cat([order + i * outputs for i in range(loss.outputs_per_target)], -1)
    reordered = loss.values(output.gather(-1, orders), target.gather(-1, order))
    value = loss.values(output, target)
    return _values_alike(("reordered loss", "loss"), reordered, value, outputs)


def _values_alike(names: tuple[str, str], got: Tensor, wanted: Tensor, outputs: int) -> Verdict:
    got, wanted = got[:, None], wanted[:, None]
    scale = wanted.abs()[:, 0].clamp(min=1.0)
    return compare(got, wanted, names=names, tolerance=1e-9, outputs=outputs, scale=scale)
