"""Input of an instrument: one update of K members, as tensors and as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """The update of one step, for K members; nothing crosses them.

    Reductions of an instrument go over the last, contiguous dimension; numbers of shape [K] come
    from +, -, *, / and roots alone, which every kernel rounds the same way.

    Attributes:
        step: Updates done before this one.
        seeds: [K], block of the paired design of each member, and source of random draws.
        parameters: Before the update, by name, [K, ...].
        buffers: By name, [K, ...].
        inputs: [K, B, ...].
        target: Targets of the loss, [K, B, C].
        clean: Targets before they were corrupted, [K, B, C]; None where they were not.
        is_classification: Whether the largest entry of a target is a label.
        output: [K, B, W].
        prediction: [K, B, C].
        loss: Own loss per example, [K, B].
        output_gradient: d own loss / d output per example, [K, B, W].
        gradient: That of the update, by name, [K, ...]: d mean own loss / d parameters,
            unless the run has another signal.
        update: Parameters after minus before, by name, [K, ...].
        mean_loss: Parameters -> own loss, mean over the batch, [K]; twice differentiable.
        features: Parameters -> inputs of the last linear layer, [K, B, D]; None without one.
        pull_back: Output gradients [K, B, W], zero for examples left out -> their sum over the
            batch with respect to the parameters, by name, [K, ...].
        core_output_gradients: -> output gradients [K, B, W] of the task's core losses by name,
            where a member has their inverse link; NaN for the others, and for a member whose own
            loss it is.
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
    """All entries of tensors [K, ...] of each member side by side: [K, P]."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], -1)


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of the rows of [K, P]: [K]."""
    return (first * second).sum(-1)


def nothing(moment: Moment) -> Tensor:
    """NaN for every member, [K]: a metric that is defined for none."""
    return torch.full_like(moment.loss[:, 0], torch.nan)
