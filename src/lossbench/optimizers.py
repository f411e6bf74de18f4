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

    def some(self, own: slice) -> Hyperparameters:
        """Those of some members."""
        return Hyperparameters(self.lr[own], self.momentum[own], self.weight_decay[own])


def sgd(
    parameters: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Next parameters of SGD with momentum and L2 weight decay, as torch.optim.SGD.

    Args:
        parameters: [K, ...] by name.
        gradient: Same names and shapes.
        state: Momentum buffers, updated in place.
        step: Updates done before this one; a number, or a float64 tensor without dimensions.
        hyper: Learning rate, momentum and weight decay of each member.
        out: Where to write them, perhaps over `parameters`; None for new memory.
    """
    after = {}
    for name, value in parameters.items():
        slope = decayed(gradient[name], value, hyper.weight_decay)
        # torch's first buffer is the gradient itself: a buffer that starts at zero gives the same.
        buffer = state["momentum"][name]
        torch.addcmul(slope, _wide(hyper.momentum, value), buffer, out=buffer)
        rate = _wide(-hyper.lr, value)
        after[name] = torch.addcmul(value, rate, buffer, out=_room(out, name))
    return after


def adam(
    parameters: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Mapping[str, Tensor] | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> dict[str, Tensor]:
    """Next parameters of Adam with L2 weight decay, as torch.optim.Adam.

    Args:
        parameters: [K, ...] by name.
        gradient: Same names and shapes.
        state: First and second moments, updated in place.
        step: Updates done before this one; a number, or a float64 tensor without dimensions.
        hyper: Learning rate and weight decay of each member; momentum is not used.
        out: Where to write them, perhaps over `parameters`; None for new memory.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
    """
    first_correction, second_correction = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
    after = {}
    for name, value in parameters.items():
        slope = decayed(gradient[name], value, hyper.weight_decay)
        first = state["first"][name].mul_(beta1).add_(slope, alpha=1 - beta1)
        second = state["second"][name].mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
        scale = second.sqrt() / second_correction**0.5 + eps
        change = _wide(hyper.lr, value) / first_correction * first / scale
        after[name] = torch.sub(value, change, out=_room(out, name))
    return after


def nesterov(
    parameters: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Next parameters of SGD with Nesterov's momentum, as torch.optim.SGD with nesterov=True.

    Args:
        parameters: [K, ...] by name.
        gradient: Same names and shapes.
        state: Momentum buffers, updated in place.
        step: Updates done before this one; a number, or a float64 tensor without dimensions.
        hyper: Learning rate, momentum and L2 weight decay of each member.
        out: Where to write them, perhaps over `parameters`; None for new memory.

    Source:
        Sutskever, Martens, Dahl, Hinton 2013, ICML, in torch's form.
    """
    after = {}
    for name, value in parameters.items():
        momentum = _wide(hyper.momentum, value)
        slope = decayed(gradient[name], value, hyper.weight_decay)
        buffer = torch.addcmul(
            slope, momentum, state["momentum"][name], out=state["momentum"][name]
        )
        ahead = torch.addcmul(slope, momentum, buffer)
        rate = _wide(-hyper.lr, value)
        after[name] = torch.addcmul(value, rate, ahead, out=_room(out, name))
    return after


def adamw(
    parameters: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Mapping[str, Tensor] | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> dict[str, Tensor]:
    """Next parameters of Adam with decoupled weight decay, as torch.optim.AdamW.

    Args:
        parameters: [K, ...] by name.
        gradient: Same names and shapes.
        state: First and second moments, updated in place.
        step: Updates done before this one; a number, or a float64 tensor without dimensions.
        hyper: Learning rate and weight decay of each member; a parameter loses the share
            rate x decay of itself per update, whatever the gradient. Momentum is not used.
        out: Where to write them, perhaps over `parameters`; None for new memory.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.

    Source:
        Loshchilov, Hutter 2019, ICLR.
    """
    kept = 1 - hyper.lr * hyper.weight_decay
    shrunk = {name: value * _wide(kept, value) for name, value in parameters.items()}
    plain = Hyperparameters(hyper.lr, hyper.momentum, torch.zeros_like(hyper.weight_decay))
    return adam(
        shrunk,
        gradient,
        state,
        step=step,
        hyper=plain,
        out=out,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
    )


def decayed(gradient: Tensor, value: Tensor, decay: Tensor) -> Tensor:
    """Gradient with L2 weight decay; that of members without decay is as it was.

    To the bit on the CPU; elsewhere zero times the value is added to it.


    Args:
        gradient: [K, ...].
        value: The parameter, [K, ...].
        decay: [K].
    """
    # Only the CPU can look without waiting; elsewhere zero times the value is added.
    if decay.device.type != "cpu":
        return torch.addcmul(gradient, _wide(decay, value), value)
    if not decay.any():
        return gradient
    decay = _wide(decay, value)
    return torch.where(decay != 0, torch.addcmul(gradient, decay, value), gradient)


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


def warmup(step: int, steps: int, *, share: float = 0.1) -> float:
    """Factor that rises along a line to 1 and stays, as LinearLR.

    Over W = share x steps updates the factors are 1/(W + 1), 2/(W + 1), ..., and 1 from then on:
    the first update is not lost to a rate of 0.

    Args:
        step: Updates done.
        steps: Updates in all.
        share: Of all updates that warm up, 0 to 1.

    Raises:
        ValueError: It is no such share.

    Source:
        Goyal et al. 2017, arXiv 1706.02677, section 2.2.
    """
    return min(1.0, (step + 1) / (_warming(steps, share) + 1))


def warmup_cosine(step: int, steps: int, *, share: float = 0.1, final: float = 0.0) -> float:
    """Factor of `warmup` for its share of the updates, then of `cosine` over the others.

    Args:
        step: Updates done.
        steps: Updates in all.
        share: Of all updates that warm up, 0 to 1.
        final: Factor after the last update.

    Raises:
        ValueError: It is no such share.
    """
    first = _warming(steps, share)
    if step < first:
        return warmup(step, steps, share=share)
    return cosine(step - first, steps - first, final=final)


def _warming(steps: int, share: float) -> int:
    """Updates that warm up."""
    if not 0 <= share <= 1:
        raise ValueError(f"warm-up over a share of {share}: use 0 to 1, like 0.1")
    return round(share * steps)


OPTIMIZERS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "sgd": sgd,
    "nesterov": nesterov,
    "adam": adam,
    "adamw": adamw,
}
STATES: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "nesterov": ("momentum",),
    "adam": ("first", "second"),
    "adamw": ("first", "second"),
}
"""Names of the buffers each optimizer keeps, all zero at the start."""
SCALE_FREE = frozenset({"adam", "adamw"})
"""Optimizers whose step does not grow with the gradient: a multiple of a loss trains alike.

Up to `eps`. adamw also with weight decay, which it takes of the parameters and not through the
gradient; adam without.
"""
SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "warmup": warmup,
    "warmup_cosine": warmup_cosine,
}


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _room(out: Mapping[str, Tensor] | None, name: str) -> Tensor | None:
    return None if out is None else out[name]


def fresh_state(optimizer: str, parameters: Mapping[str, Tensor]) -> State:
    """Zero buffers of an optimizer, by buffer and parameter name."""
    return {
        buffer: {name: torch.zeros_like(value) for name, value in parameters.items()}
        for buffer in STATES[optimizer]
    }


def scheduled(hyper: Hyperparameters, factor: float | Tensor) -> Hyperparameters:
    """Hyperparameters with the learning rate times `factor`, a number or [1]."""
    return Hyperparameters(hyper.lr * factor, hyper.momentum, hyper.weight_decay)
