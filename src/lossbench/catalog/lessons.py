"""What a loss learns from sampled labels and from a skewed target, and how it weighs errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lossbench import claims
from lossbench.claims.minima import best, minima, minimise, output_gradient
from lossbench.losses.spec import Loss

FREQUENCIES = (0.40, 0.35, 0.15, 0.10)
"""Of four labels, at which docs/losses.md shows what each loss learns."""

HALF_A_DIGIT = 5e-4
"""Of the third decimal, the last one shown."""


def learnt_from_labels(loss: Loss, frequencies: Sequence[float] = FREQUENCIES) -> list[float]:
    """The prediction with the least expected loss where labels have these frequencies.

    NaN where the least value is only approached, and the prediction still moves when the search
    goes on.
    """
    labels = torch.eye(len(frequencies), dtype=torch.float64)
    weights = torch.tensor([frequencies], dtype=torch.float64)

    def expected_loss(output: Tensor) -> Tensor:
        return (weights * loss.values(output.expand_as(labels), labels)).sum(-1)

    output = best(*minima(loss, labels[None], weights))
    further = minimise(expected_loss, output)
    learnt, later = loss.predict(output)[0], loss.predict(further)[0]
    is_there = bool((learnt - later).abs().max() < HALF_A_DIGIT)
    return learnt.tolist() if is_there else [math.nan] * len(frequencies)


def exponential_act(loss: Loss) -> float:
    """The prediction with the least expected loss where the target is exponential with mean 1.

    Exact to 0.001. NaN where the expected loss is infinite whatever is predicted.
    """
    expected = []
    for scale in (6.0, 3.0):  # a larger one reaches farther into the tail
        target, weight = _exponential(scale)
        output = torch.zeros(len(target), loss.outputs_per_target, dtype=torch.float64)
        expected.append((weight * loss.values(output, target[:, None])).sum())
    far, near = expected
    if abs(near - far) > 1e-3 * abs(far):
        return math.nan
    return float(claims.bayes_prediction(loss, targets=target[:, None], weights=weight[None])[0, 0])


def _exponential(scale: float, points: int = 4000) -> tuple[Tensor, Tensor]:
    """Points and weights of an exponential target, sampled with mean `scale`."""
    level = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    target = -scale * torch.log1p(-level)
    return target, scale * torch.exp(-(1.0 - 1.0 / scale) * target) / points


def weight_at(loss: Loss, p: float) -> float:
    """Output gradient over error of a softmax loss that gives the true one of two classes p."""
    output = torch.tensor([math.log(p / (1.0 - p)), 0.0], dtype=torch.float64)
    target = torch.tensor([1.0, 0.0], dtype=torch.float64)
    gradient = output_gradient(loss, output, target)
    return float(gradient.norm() / (loss.predict(output) - target).norm())
