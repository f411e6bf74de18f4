"""Efficiency of a loss, and other losses with equal or similar output gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lossbench.claims.draws import hard_targets, scattered_pairs, seeded
from lossbench.claims.measurement import OUTPUTS
from lossbench.claims.minima import output_gradient
from lossbench.losses.spec import Loss

LARGEST_ERROR = 12.0
"""Limit of the integrals, in standard deviations; sinh² times the density is 1e-22 there."""


def efficiency(loss: Loss) -> float:
    """Asymptotic efficiency of a regression loss under Gaussian noise of unit variance, at most 1.

    The variance of the best estimate, the mean, over that of the loss's estimate: (E ψ')² / E ψ²,
    with ψ the output gradient as a function of the error.

    The loss is measured at its default parameters. The efficiency is NaN for a classification loss
    and for a loss with an inverse link other than the identity.

    Source:
        Huber 1964, Annals of Mathematical Statistics.
    """
    if (loss.task, loss.inverse_link, loss.outputs_per_target) != ("regression", "identity", 1):
        return math.nan
    # Gauss-Legendre on panels of a thousandth, whose ends are where corners usually are.
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(3))
    panels = int(2000 * LARGEST_ERROR)
    left = torch.arange(panels, dtype=torch.float64) / 1000 - LARGEST_ERROR
    error, weight = (left[:, None] + (nodes + 1) / 2000).flatten(), (weights / 2000).repeat(panels)
    influence = output_gradient(loss, error[:, None], torch.zeros_like(error)[:, None])[:, 0]

    def expected(values: Tensor, shift: float) -> float:
        density = torch.exp(-0.5 * (error - shift).square()) / math.sqrt(2 * math.pi)
        return float((weight * density * values).sum())

    # An asymmetric loss does not estimate the mean, but the point at which E ψ is zero.
    low, high = -5.0, 5.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if expected(influence, middle) > 0 else (middle, high)
    # Stein's lemma gives E ψ' without a derivative, which does not exist at a corner.
    slope = expected(influence * (error - middle), middle)
    variance = expected(influence.square(), middle)
    return slope**2 / variance if variance else math.nan


def duplicates(loss: Loss, among: Iterable[Loss]) -> dict[str, float]:
    """Losses whose output gradient equals that of `loss` up to a factor, so that both train alike.

    The gradients are compared on hard labels in classification, on any target in regression, at
    default parameters, for several numbers of outputs.

    Args:
        loss: Loss whose duplicates are sought.
        among: Rows to search; the loss itself and rows of the other task are skipped.

    Returns:
        Factor by the name of each duplicate: gradient of `loss` = factor * gradient of duplicate.
    """
    candidates = [other for other in among if other.task == loss.task and other != loss]
    factors = {other.name: _factor(loss, other) for other in candidates}
    return {name: factor for name, factor in factors.items() if not math.isnan(factor)}


def nearest(loss: Loss, among: Iterable[Loss], *, count: int) -> dict[str, float]:
    """Losses whose output gradients have the most similar directions to those of `loss`, in order.

    The cosine between all gradients of two losses is compared, at one number of outputs. A factor
    between two losses does not count, since a learning rate can undo it. `duplicates` are skipped.

    Returns:
        Cosine by name of the loss, the largest cosine first.
    """
    others = [row for row in among if row.task == loss.task and row.name != loss.name]
    others = [row for row in others if row.outputs_per_target == loss.outputs_per_target]
    same = duplicates(loss, others)
    gradient = _gradient_on_labels(loss, OUTPUTS[loss.task][1])
    cosines: dict[str, float] = {}
    for row in others:
        other = _gradient_on_labels(row, OUTPUTS[loss.task][1])
        cosine = float((gradient * other).sum() / (gradient.norm() * other.norm()))
        is_double = any(abs(cosine - seen) < 1e-12 for seen in cosines.values())
        if row.name not in same and not is_double and not math.isnan(cosine):
            cosines[row.name] = cosine
    return dict(sorted(cosines.items(), key=lambda item: -item[1])[:count])


def _factor(loss: Loss, other: Loss) -> float:
    """Ratio of the two gradients if it is the same number everywhere, else NaN."""
    if loss.outputs_per_target != other.outputs_per_target:
        return math.nan
    factor = math.nan
    for outputs in OUTPUTS[loss.task]:
        gradient, other_gradient = (_gradient_on_labels(row, outputs) for row in (loss, other))
        if math.isnan(factor):
            factor = float((gradient * other_gradient).sum() / other_gradient.square().sum())
        size = gradient.norm(dim=-1)
        off = (gradient - factor * other_gradient).norm(dim=-1) / size.maximum(size.median())
        if not bool((off <= 1e-9).all()):
            return math.nan
    return factor


@cache
def _gradient_on_labels(loss: Loss, outputs: int) -> Tensor:
    generator = seeded("factor", outputs)
    output, target = scattered_pairs(loss, generator, outputs)
    if loss.task == "classification":
        target = hard_targets(loss, (len(target), outputs), generator)
    return output_gradient(loss, output, target)
