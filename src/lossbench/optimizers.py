"""Optimizers and schedules over stacked parameters, one learning rate per member.

They equal torch.optim step by step; torch.optim itself has one learning rate for all.

An optimizer returns the next `parameters`, [K, ...] by name, from their `gradient` of the same
names and shapes. It updates its buffers, the `state`, in place. `step` is the number of updates
done before this one, as a number or a float64 tensor without dimensions; `hyper` has the values of
each member. `out` is where to write the parameters, perhaps over the old ones; None for new memory.

A schedule is a factor on the learning rate after `step` of `steps` updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Named = Mapping[str, Tensor]
State = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Hyperparameters:
    """Values [K], one per member."""

    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor

    def subset(self, members: slice) -> Hyperparameters:
        """Those of these members."""
        return Hyperparameters(self.lr[members], self.momentum[members], self.weight_decay[members])


def sgd(
    parameters: Named,
    gradient: Named,
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Named | None = None,
) -> dict[str, Tensor]:
    """SGD with momentum and L2 weight decay, as torch.optim.SGD."""
    after = {}
    for name, value in parameters.items():
        slope = decayed(gradient[name], value, hyper.weight_decay)
        # torch's first buffer is the gradient itself: a buffer that starts at zero gives the same.
        buffer = state["momentum"][name]
        torch.addcmul(slope, _wide(hyper.momentum, value), buffer, out=buffer)
        rate = _wide(-hyper.lr, value)
        after[name] = torch.addcmul(value, rate, buffer, out=_memory(out, name))
    return after


def nesterov(
    parameters: Named,
    gradient: Named,
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Named | None = None,
) -> dict[str, Tensor]:
    """SGD with Nesterov's momentum, as torch.optim.SGD with nesterov=True.

    Source:
        Sutskever, Martens, Dahl, Hinton 2013, ICML, in torch's form.
    """
    after = {}
    for name, value in parameters.items():
        momentum, buffer = _wide(hyper.momentum, value), state["momentum"][name]
        slope = decayed(gradient[name], value, hyper.weight_decay)
        torch.addcmul(slope, momentum, buffer, out=buffer)
        ahead = torch.addcmul(slope, momentum, buffer)
        rate = _wide(-hyper.lr, value)
        after[name] = torch.addcmul(value, rate, ahead, out=_memory(out, name))
    return after


def adam(
    parameters: Named,
    gradient: Named,
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Named | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> dict[str, Tensor]:
    """Adam with L2 weight decay, as torch.optim.Adam; it has no momentum.

    `beta1` and `beta2` are the decay of the first and the second moment; `eps` is added to the root
    of the second.
    """
    first_correction, second_correction = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
    after = {}
    for name, value in parameters.items():
        slope = decayed(gradient[name], value, hyper.weight_decay)
        first = state["first"][name].mul_(beta1).add_(slope, alpha=1 - beta1)
        second = state["second"][name].mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
        scale = second.sqrt() / second_correction**0.5 + eps
        change = _wide(hyper.lr, value) / first_correction * first / scale
        after[name] = torch.sub(value, change, out=_memory(out, name))
    return after


def adamw(
    parameters: Named,
    gradient: Named,
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Named | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> dict[str, Tensor]:
    """Adam with decoupled weight decay, as torch.optim.AdamW.

    A parameter loses the share rate x decay of itself per update, whatever the gradient.

    Source:
        Loshchilov, Hutter 2019, ICLR.
    """
    remaining = 1 - hyper.lr * hyper.weight_decay
    shrunk = {name: value * _wide(remaining, value) for name, value in parameters.items()}
    hyper = replace(hyper, weight_decay=torch.zeros_like(hyper.weight_decay))
    betas = {"beta1": beta1, "beta2": beta2}
    return adam(shrunk, gradient, state, step=step, hyper=hyper, out=out, **betas, eps=eps)


def decayed(gradient: Tensor, value: Tensor, decay: Tensor) -> Tensor:
    """Gradient [K, ...] with L2 weight decay [K]; that of members without decay is unchanged.

    To the bit on the CPU, which alone can look without waiting; elsewhere zero times the value is
    added to it.
    """
    if decay.device.type != "cpu":
        return torch.addcmul(gradient, _wide(decay, value), value)
    if not decay.any():
        return gradient
    decay = _wide(decay, value)
    return torch.where(decay != 0, torch.addcmul(gradient, decay, value), gradient)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _memory(out: Named | None, name: str) -> Tensor | None:
    return None if out is None else out[name]


def fresh_state(optimizer: str, parameters: Named) -> State:
    """Zero buffers of an optimizer, by buffer and parameter name."""
    return {
        buffer: {name: torch.zeros_like(value) for name, value in parameters.items()}
        for buffer in STATES[optimizer]
    }


# ---- schedules -----------------------------------------------------------------------------------


def scheduled(hyper: Hyperparameters, factor: float | Tensor) -> Hyperparameters:
    """Hyperparameters with the learning rate times `factor`, a number or [1]."""
    return replace(hyper, lr=hyper.lr * factor)


def constant(step: int, steps: int) -> float:
    """Always 1."""
    return 1.0


def cosine(step: int, steps: int, *, final: float = 0.0) -> float:
    """Falls from 1 to `final` along half a cosine, as CosineAnnealingLR."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * step / steps))


def warmup(step: int, steps: int, *, share: float = 0.1) -> float:
    """Rises along a line to 1 and stays, as LinearLR.

    Over the W = share x steps first updates the factors are 1/(W + 1), 2/(W + 1), ..., and 1 from
    then on: the first update is not lost to a rate of 0.

    Raises:
        ValueError: The share is not within 0 to 1.

    Source:
        Goyal et al. 2017, arXiv 1706.02677, section 2.2.
    """
    return min(1.0, (step + 1) / (_warmup_updates(steps, share) + 1))


def warmup_cosine(step: int, steps: int, *, share: float = 0.1, final: float = 0.0) -> float:
    """`warmup` for its share of the updates, then `cosine` over the others.

    Raises:
        ValueError: The share is not within 0 to 1.
    """
    first = _warmup_updates(steps, share)
    if step < first:
        return warmup(step, steps, share=share)
    return cosine(step - first, steps - first, final=final)


def _warmup_updates(steps: int, share: float) -> int:
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
