"""Recalibration of outputs, softmax(a output + b), fitted in the same way for every loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.softmax import WHOLE_VECTORS, log_softmax

RIDGE = 1e-3
MOST_STEPS = 50
TOLERANCE = 1e-7
AT_ONCE = 16
"""Number of members that are fitted together, small enough for the cache."""


def recalibrate(output: Tensor, target: Tensor) -> Tensor:
    """Fit scale a and biases b of softmax(a output + b) by maximum likelihood, for each member.

    The problem is convex and is solved by damped Newton steps in float64. A small ridge towards
    a = 1/s and b = 0 (s is the standard deviation of the output) keeps the solution bounded if the
    classes are separable. The result is [K, 1 + C]: a, then b.
    """
    # At least two members, because the product of a single matrix runs another kernel.
    count = len(output)
    if count % AT_ONCE == 1:
        output, target = (torch.cat([values, values[-1:]]) for values in (output, target))
    groups = (values.split(AT_ONCE) for values in (output, target))
    return torch.cat([_newton(*group) for group in zip(*groups, strict=True)])[:count]


def recalibrated(output: Tensor, parameters: Tensor) -> Tensor:
    """Log-probabilities [K, N, C] of softmax(a output + b), in the data type of the output."""
    scaled = parameters[:, :1, None] * output.double() + parameters[:, None, 1:]
    return log_softmax(scaled).to(output.dtype)


def _newton(output: Tensor, target: Tensor) -> Tensor:
    """Fit the parameters of `recalibrate` for a group of members."""
    # Classes first, [C, K, N], because sums over a short last axis are slow.
    features, labels = (values.double().permute(2, 0, 1) for values in (output, target))
    # Softmax does not change if a number is added to all outputs; the ridge must not change either.
    features = features - features.mean(0)
    spread = features.transpose(0, 1).flatten(1).std(-1).clamp_min(1e-12)  # [K]
    # Padded to whole SIMD vectors, so that rounding does not depend on the other members.
    filling = (0, -output.shape[1] % WHOLE_VECTORS)
    features = functional.pad(features / spread[:, None], filling)
    examples = _examples(features, functional.pad(labels, filling))
    parameters = features.new_zeros(len(output), 1 + len(features))
    parameters[:, 0] = 1.0
    start = parameters.clone()
    value, gradient, hessian = _likelihood(parameters, start, examples)
    damping = torch.full_like(value, 1e-6)
    eye = torch.eye(parameters.shape[-1], dtype=torch.float64, device=output.device)
    for _ in range(MOST_STEPS):
        is_moving = gradient.abs().amax(-1) > TOLERANCE
        if not is_moving.any():
            break
        move = torch.linalg.solve(hessian + damping[:, None, None] * eye, gradient)
        trial = _likelihood(parameters - move, start, examples)
        # A member that has converged stays unchanged, however long other members still move.
        is_better = is_moving & (trial[0] <= value)
        damping = torch.where(is_better, damping * 0.1, damping * 10.0).clamp(1e-10, 1e6)
        parameters = torch.where(is_better[:, None], parameters - move, parameters)
        value = torch.where(is_better, trial[0], value)
        gradient = torch.where(is_better[:, None], trial[1], gradient)
        hessian = torch.where(is_better[:, None, None], trial[2], hessian)
    parameters[:, 0] /= spread
    return parameters


@dataclass(frozen=True)
class _Examples:
    """Examples for the fit of a recalibration.

    Attributes:
        features: [C, K, N].
        count: Number of labelled examples, [K].
        weight: Weight of an example: 1 / count, 0 for padding; [K, N].
        scale_of_labels: Mean, over examples, of the feature of the labelled class, [K].
        bias_of_labels: Share of each class among labels, [K, C].
    """

    features: Tensor
    count: Tensor
    weight: Tensor
    scale_of_labels: Tensor
    bias_of_labels: Tensor


def _examples(features: Tensor, labels: Tensor) -> _Examples:
    """Collect features and one-hot labels, [C, K, N] each; a padding example has no label."""
    is_labelled = labels.sum(0)
    count = is_labelled.sum(-1)
    weight = is_labelled / count[:, None]
    labels = labels * weight
    by_scale = (labels * features).sum(0).sum(-1)
    return _Examples(features, count, weight, by_scale, labels.sum(-1).T)


def _likelihood(
    parameters: Tensor, start: Tensor, examples: _Examples
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean negative log-likelihood plus ridge, [K], with gradient and Hessian.

    The ridge is zero at the parameters `start` [K, 1 + C].
    """
    features, weight, count = examples.features, examples.weight, examples.count
    argument = torch.addcmul(parameters.T[1:, :, None], parameters[:, :1], features)
    most = argument.amax(0)
    p = (argument - most).exp_()  # probabilities [C, K, N], below times the example's weight
    total = p.sum(0)
    p *= weight / total
    moved = p * features
    mean = moved.sum(0)  # weight times the expected feature under the probabilities, [K, N]
    by_scale, by_bias = mean.sum(-1), p.sum(-1).T
    away = parameters - start
    likelihood = ((most + total.log()) * weight).sum(-1)
    likelihood -= parameters[:, 0] * examples.scale_of_labels
    likelihood -= (parameters[:, 1:] * examples.bias_of_labels).sum(-1)
    slope = [(by_scale - examples.scale_of_labels)[:, None], by_bias - examples.bias_of_labels]
    value = likelihood + 0.5 * RIDGE * away.square().sum(-1)
    gradient = torch.cat(slope, -1) + RIDGE * away
    # Each example of weight w adds w (E[f f'] - E[f] E[f']); `p` already contains w.
    moved -= p * (mean * count[:, None])
    scale_scale = (moved * features).sum(0).sum(-1)[:, None]
    scale_bias = moved.sum(-1).T
    of_member = p.transpose(0, 1)  # [K, C, N]
    products = of_member @ of_member.transpose(1, 2) * count[:, None, None]
    bias_bias = torch.diag_embed(by_bias) - products
    top = torch.cat([scale_scale, scale_bias], -1)[:, None]
    bottom = torch.cat([scale_bias[:, :, None], bias_bias], -1)
    ridge = RIDGE * torch.eye(parameters.shape[-1], dtype=p.dtype, device=p.device)
    return value, gradient, torch.cat([top, bottom], 1) + ridge
