"""Derivatives and minima with respect to the output; shapes as in the package's docstring."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.claims.draws import dense_targets, label_distributions, normal, seeded
from lossbench.losses.links import PROBABILITY_LINKS
from lossbench.losses.spec import Loss

START_SCALES = (0.1, 0.5, 2.0, 4.0)
"""Scales of the starts; some are small because a bounded loss is flat at very wrong outputs."""

LARGEST_SLOPE = 1e-6
"""Largest slope at which an output counts as a minimum; larger slopes start a longer search."""

NOISE = 0.4
"""Share of replaced labels; below 1/2, so that two classes stay distinguishable."""


def output_gradient(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Gradient of the loss with respect to the output, [..., W]."""
    output = output.detach().requires_grad_()
    return torch.autograd.grad(loss.values(output, target).sum(), output)[0]


def bayes_prediction(loss: Loss, *, targets: Tensor, weights: Tensor) -> Tensor:
    """Prediction with the least expected loss, which is the prediction learnt from samples.

    Args:
        loss: Row to measure, at the default parameters of its function.
        targets: Points of the target's distribution, float64, [N, C], or [M, N, C] if each
            distribution has its own points.
        weights: Probabilities of the points, [M, N], for M distributions.

    Returns:
        Prediction, [M, C]. If the least value is only approached, as for a bounded loss whose
        optimum is a corner of the simplex, a prediction close to the optimum.

    Source:
        Gneiting 2011 (the Bayes act).
    """
    return loss.predict(best(*minima(loss, targets.expand(len(weights), -1, -1), weights)))


def minima(loss: Loss, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Find the outputs that minimise M expected losses, from S starts each.

    An expectation is over N targets, [M, N, C], with weights [M, N]. Returns the values, [S, M],
    and the outputs, [S, M, W].
    """
    start = starts(loss, (weights.unsqueeze(-1) * targets).sum(-2))
    return minima_from(start, loss, targets, weights)


def minima_from(
    start: Tensor, loss: Loss, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Minimise expected losses like `minima`, but from given starts, [S, M, W]."""

    def expected_loss(output: Tensor) -> Tensor:
        expanded = output.unsqueeze(-2).expand(*output.shape[:-1], targets.shape[-2], -1)
        return (weights * loss.values(expanded, targets.expand(*expanded.shape[:-1], -1))).sum(-1)

    # A loss that prefers a common level of the outputs, like z_loss, has its minimum in a valley
    # that is diagonal to the axes: this search can also move all outputs by the same amount.
    def with_level(extended: Tensor) -> Tensor:
        return expected_loss(extended[..., :-1] + extended[..., -1:])

    output = minimise(expected_loss, start)
    if loss.inverse_link in PROBABILITY_LINKS:
        here = output.detach().requires_grad_()
        slope = torch.autograd.grad(expected_loss(here).sum(), here)[0]
        if bool((best(expected_loss(output), slope).abs() > LARGEST_SLOPE).any()):
            extended = minimise(with_level, functional.pad(output, (0, 1)), steps=360)
            output = extended[..., :-1] + extended[..., -1:]
    return expected_loss(output).nan_to_num(nan=math.inf), output


def starts(loss: Loss, mean: Tensor) -> Tensor:
    """Outputs from which a search starts, [S, M, W], for targets with that mean, [M, C].

    The last start is close to the minimum of an ordinary loss, to help losses with local minima.
    """
    scale = torch.tensor(START_SCALES, dtype=torch.float64)[:, None, None]
    width = loss.outputs_per_target * mean.shape[-1]
    anywhere = scale * normal((len(scale), 1, width), seeded("starts", width))
    guess = mean if loss.task == "regression" else mean.clamp(min=1e-3).log()
    return torch.cat([anywhere.expand(-1, len(mean), -1), loss.placed(guess) + anywhere[:1]])


def minimise(objective: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 120) -> Tensor:
    """Minimise by Rprop (Riedmiller and Braun 1993): every element has its own step size.

    The method uses the sign and not the size of the gradient. So a kink, a flat optimum and a
    saturated softmax, which stop Newton's method or gradient descent, do no harm. Only a ridge that
    is diagonal to the axes, as in the largest of many outputs, can stop the search.
    """
    output, step, last = start, torch.full_like(start, 0.1), torch.zeros_like(start)
    for _ in range(steps):
        output = output.detach().requires_grad_()
        sign = torch.autograd.grad(objective(output).sum(), output)[0].sign()
        has_turned = sign * last < 0
        factor = torch.where(has_turned, 0.5, torch.where(sign == last, 1.2, 1.0))
        step = (factor * step).clamp(max=1.0)
        last = sign.where(~has_turned, 0.0)
        output = output - step * last
    return output.detach()


def best(value: Tensor, output: Tensor) -> Tensor:
    """Outputs, [M, W], with the least value [S, M] among the outputs of all starts, [S, M, W]."""
    return output[value.argmin(0), torch.arange(value.shape[-1])]


def is_global(value: Tensor) -> Tensor:
    """Mask, [S, M], of the starts that reached the least value; several starts may reach it."""
    least = value.amin(0)
    return value <= least + 1e-12 * (1 + least.abs())


@cache
def minima_on_targets(loss: Loss, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values and outputs of `minima` for M fixed dense targets, and these targets, [M, C]."""
    target = dense_targets(loss, (12, outputs), seeded("minimum against target", outputs))
    certain = torch.ones((len(target), 1), dtype=torch.float64)
    return *minima(loss, target.unsqueeze(-2), certain), target


@cache
def minima_on_labels(loss: Loss, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values and outputs of `minima` on clean and noisy hard labels, and the clean distributions.

    Returns values, [2, S, M], and outputs, [2, S, M, W], first for labels of `label_distributions`,
    then for labels of which a share of `NOISE` is replaced by other labels, all equally likely; and
    the clean distributions, [M, C].
    """
    clean = label_distributions(outputs)
    noisy = (1.0 - NOISE) * clean + NOISE * (1.0 - clean) / (outputs - 1)
    frequencies = torch.cat([clean, noisy])
    labels = torch.eye(outputs, dtype=torch.float64).expand(len(frequencies), -1, -1)
    # The same starts for both: if the least loss is only approached, a loss that the noise does
    # not change comes equally close, because it takes the same path.
    start = starts(loss, torch.cat([clean, clean]))
    value, output = minima_from(start, loss, labels, frequencies)
    return torch.stack(value.chunk(2, 1)), torch.stack(output.chunk(2, 1)), clean
