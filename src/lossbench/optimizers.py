"""Optimizers and schedules over stacked parameters, one learning rate per member.

They equal torch.optim step by step; torch.optim itself has one learning rate for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Hyperparameters:
    """Values [K], one per member."""

    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor


def sgd(
    parameters: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    state: State,
    *,
    step: int,
    hyper: Hyperparameters,
) -> dict[str, Tensor]:
    """Next parameters of SGD with momentum and L2 weight decay, as torch.optim.SGD.

    Args:
        parameters: [K, ...] by name.
        gradient: Same names and shapes.
        state: Momentum buffers, updated in place.
        step: Updates done before this one.
        hyper: Learning rate, momentum and weight decay of each member.
    """
    after = {}
    for name, value in parameters.items():
        slope = torch.addcmul(gradient[name], _wide(hyper.weight_decay, value), value)
        # torch's first buffer is the gradient itself: a buffer that starts at zero gives the same.
        buffer = state["momentum"][name].mul_(_wide(hyper.momentum, value)).add_(slope)
        after[name] = torch.addcmul(value, _wide(-hyper.lr, value), buffer)
    return after


def adam(
    parameters: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    state: State,
    *,
    step: int,
    hyper: Hyperparameters,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> dict[str, Tensor]:
    """Next parameters of Adam with L2 weight decay, as torch.optim.Adam.

    Args:
        parameters: [K, ...] by name.
        gradient: Same names and shapes.
        state: First and second moments, updated in place.
        step: Updates done before this one.
        hyper: Learning rate and weight decay of each member; momentum is not used.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
    """
    first_correction, second_correction = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
    after = {}
    for name, value in parameters.items():
        slope = torch.addcmul(gradient[name], _wide(hyper.weight_decay, value), value)
        first = state["first"][name].mul_(beta1).add_(slope, alpha=1 - beta1)
        second = state["second"][name].mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
        scale = second.sqrt() / math.sqrt(second_correction) + eps
        after[name] = value - _wide(hyper.lr, value) / first_correction * first / scale
    return after


def constant(step: int, steps: int) -> float:
    """Factor on the learning rate: always 1."""
    return 1.0


def cosine(step: int, steps: int, *, final: float = 0.0) -> float:
    """Factor that falls from 1 to `final` along half a cosine, as CosineAnnealingLR.

    Args:
        step: Updates done.
        steps: Updates in all.
        final: Factor after the last update.
    """
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * step / steps))


OPTIMIZERS: dict[str, Callable[..., dict[str, Tensor]]] = {"sgd": sgd, "adam": adam}
STATES: dict[str, tuple[str, ...]] = {"sgd": ("momentum",), "adam": ("first", "second")}
"""Names of the buffers each optimizer keeps, all zero at the start."""
SCALE_FREE = frozenset({"adam"})
"""Optimizers whose step does not grow with the gradient: a multiple of a loss trains alike."""
SCHEDULES: dict[str, Callable[..., float]] = {"constant": constant, "cosine": cosine}


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def fresh_state(optimizer: str, parameters: Mapping[str, Tensor]) -> State:
    """Zero buffers of an optimizer, by buffer and parameter name."""
    return {
        buffer: {name: torch.zeros_like(value) for name, value in parameters.items()}
        for buffer in STATES[optimizer]
    }


def scheduled(hyper: Hyperparameters, factor: float) -> Hyperparameters:
    """Hyperparameters with the learning rate times `factor`."""
    return Hyperparameters(hyper.lr * factor, hyper.momentum, hyper.weight_decay)
