"""Input of an instrument: one update of K members, as tensors and as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """The update of one step, for K members that do not affect each other.

    Reductions of an instrument go over the last, contiguous dimension; numbers of shape [K] are
    computed only with +, -, *, / and roots, which every kernel rounds the same way.

    Attributes:
        step: Number of earlier updates.
        seeds: Seed of each of the K members, which also determines an instrument's random draws.
        parameters: Parameters before the update, by name, [K, ...].
        buffers: Buffers before the update, by name, [K, ...].
        inputs: [K, B, ...].
        target: Targets of the loss, [K, B, C].
        clean: Targets before corruption, [K, B, C]; None if targets were not corrupted.
        is_classification: Whether the largest entry of a target is a label.
        output: [K, B, W].
        prediction: [K, B, C].
        loss: The run's own loss per example, [K, B].
        output_gradient: d own loss / d output per example, [K, B, W].
        gradient: Gradient of the update, by name, [K, ...]: d mean own loss / d parameters, unless
            the run has another signal.
        update: Parameters after minus parameters before, by name, [K, ...].
        mean_loss: Parameters -> own loss, mean over the batch, [K]; twice differentiable.
        features: Parameters -> inputs of the last linear layer, [K, B, D]; None without such a
            layer.
        pull_back: Output gradients [K, B, W], zero for examples to leave out -> gradients of the
            parameters, summed over the batch, by name, [K, ...].
        core_output_gradients: () -> output gradients [K, B, W] of the task's core losses by name;
            NaN for a member with another inverse link, and for a member that trains with that loss.
    """

    step: int
    seeds: tuple[int, ...]
    parameters: Parameters
    buffers: Parameters
    inputs: Tensor
    target: Tensor
    clean: Tensor | None
    is_classification: bool
    output: Tensor
    prediction: Tensor
    loss: Tensor
    output_gradient: Tensor
    gradient: Parameters
    update: Parameters
    mean_loss: Callable[[Parameters], Tensor]
    features: Callable[[Parameters], Tensor | None]
    pull_back: Callable[[Tensor], Parameters]
    core_output_gradients: Callable[[], dict[str, Tensor]]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate all entries of each member's tensors [K, ...]: [K, P]."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], -1)


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of the rows of two tensors [K, P]: [K]."""
    return (first * second).sum(-1)


def nothing(moment: Moment) -> Tensor:
    """NaN for every member, [K], for a metric that is not defined."""
    return torch.full_like(moment.loss[:, 0], torch.nan)
