"""Optimizers and schedules over stacked parameters, with one learning rate per member.

The steps equal those of torch.optim, which has only one learning rate for all members.

An optimizer returns the next `parameters`, [K, ...] by name, from their `gradient`, which has the
same names and shapes. The optimizer updates its buffers, the `state`, in place. `step` is the
number of earlier updates, as a number or a float64 tensor without dimensions. `hyper` has the
values of each member. `out` has the tensors to write the new parameters to, which may be the old
parameters; None allocates new memory.

`muon` treats each matrix as a whole. All other optimizers treat every number by itself, so all
parameters may be passed as one row of numbers.

A schedule returns the factor on the learning rate after `step` of `steps` updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Named = Mapping[str, Tensor]
State = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Hyperparameters:
    """Learning rate, momentum and weight decay of each member, [K] each."""

    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor

    def subset(self, members: slice) -> Hyperparameters:
        """Hyperparameters of the members in a slice."""
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
        # torch starts the buffer with the first gradient; a buffer of zeros gives the same result.
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
    """Adam with L2 weight decay, as torch.optim.Adam; `hyper.momentum` is not used.

    `beta1` and `beta2` are the decay rates of the first and the second moment. `eps` is added to
    the square root of the second moment.
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

    Each update multiplies a parameter by 1 - learning rate x weight decay, whatever the gradient.

    Source:
        Loshchilov, Hutter 2019, ICLR.
    """
    shrunk = {name: _shrunk(value, hyper) for name, value in parameters.items()}
    hyper = replace(hyper, weight_decay=torch.zeros_like(hyper.weight_decay))
    betas = {"beta1": beta1, "beta2": beta2}
    return adam(shrunk, gradient, state, step=step, hyper=hyper, out=out, **betas, eps=eps)


def lion(
    parameters: Named,
    gradient: Named,
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    out: Named | None = None,
    beta1: float = 0.9,
    beta2: float = 0.99,
) -> dict[str, Tensor]:
    """Lion: steps along the sign of a mean of momentum and gradient; decoupled weight decay.

    `beta1` is the share of the momentum in that mean. `beta2` is the decay rate of the momentum.

    Source:
        Chen et al. 2023, NeurIPS (Symbolic Discovery of Optimization Algorithms), algorithm 2.
    """
    after = {}
    for name, value in parameters.items():
        momentum, slope = state["first"][name], gradient[name]
        change = (momentum * beta1).add_(slope, alpha=1 - beta1).sign_()
        momentum.mul_(beta2).add_(slope, alpha=1 - beta2)
        rate, shrunk = _wide(-hyper.lr, value), _shrunk(value, hyper)
        after[name] = torch.addcmul(shrunk, rate, change, out=_memory(out, name))
    return after


def muon(
    parameters: Named,
    gradient: Named,
    state: State,
    *,
    step: int | Tensor,
    hyper: Hyperparameters,
    matrices: Collection[str],
    out: Named | None = None,
    adjust: str = "original",
) -> dict[str, Tensor]:
    """Muon: nearly orthogonal steps for hidden matrices, as torch.optim.Muon; adamw for the rest.

    The Nesterov momentum of a matrix goes through five Newton-Schulz steps, which bring its
    singular values near 1. The steps are computed in the type of the parameters; torch computes
    the steps in bfloat16, for speed on graphics cards. All other parameters (biases, gains,
    embeddings, filters of convolutions and the layer that makes the outputs) take the step of
    `adamw` at the same learning rate and weight decay, because torch's Muon accepts matrices only
    and its documentation recommends AdamW for the rest.

    `matrices` are the names of the parameters [K, rows, columns] that take a Muon step. `adjust`
    names the factor on the learning rate of a matrix: "original" is sqrt(max(1, rows/columns)),
    torch's default; "match_rms_adamw" is 0.2 sqrt(max(rows, columns)), so that an entry moves
    about as far as with adamw.

    Raises:
        ValueError: `adjust` is not one of these two names.

    Source:
        Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; the other
        adjustment: Liu et al. 2025, arXiv 2502.16982.
    """
    others = {name: value for name, value in parameters.items() if name not in matrices}
    after = adamw(others, gradient, state, step=step, hyper=hyper, out=out)
    for name in parameters.keys() - others.keys():
        value, mean = parameters[name], state["first"][name]
        momentum = _wide(hyper.momentum, value)
        mean.lerp_(gradient[name], 1 - momentum)
        change = orthogonal(torch.lerp(gradient[name], mean, momentum))
        rate = _wide(-hyper.lr * _adjustment(adjust, *value.shape[1:]), value)
        shrunk = _shrunk(value, hyper)
        after[name] = torch.addcmul(shrunk, rate, change, out=_memory(out, name))
    return {name: after[name] for name in parameters}


def _adjustment(name: str, rows: int, columns: int) -> float:
    """Factor on the learning rate of a matrix of this shape, by the name of the adjustment."""
    if name == "original":
        return math.sqrt(max(1.0, rows / columns))
    if name == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    raise ValueError(f"optimizer.params.adjust is {name!r}: use original or match_rms_adamw")


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x³ and x⁵ in the polynomial that a step applies to each singular value x."""

NEWTON_SCHULZ_STEPS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [K, rows, columns] with singular values brought near 1; a value of 0 stays 0."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    values = (matrices.mT if is_tall else matrices).contiguous()
    length = values.flatten(1).norm(dim=-1).clamp(min=1e-7)
    values = values / _wide(length, values)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = values @ values.mT
        values = first * values + (third * gram + fifth * (gram @ gram)) @ values
    return values.mT if is_tall else values


def decayed(gradient: Tensor, value: Tensor, decay: Tensor) -> Tensor:
    """Gradient [K, ...] with L2 weight decay [K]; unchanged for members whose decay is 0.

    On the CPU the gradient of such members keeps every bit. On other devices, zero times the value
    is added to the gradient, because a look at the decay would wait for the device.
    """
    if decay.device.type != "cpu":
        return torch.addcmul(gradient, _wide(decay, value), value)
    if not decay.any():
        return gradient
    decay = _wide(decay, value)
    return torch.where(decay != 0, torch.addcmul(gradient, decay, value), gradient)


def _shrunk(value: Tensor, hyper: Hyperparameters) -> Tensor:
    """Parameter [K, ...] times 1 - learning rate x weight decay: decoupled weight decay."""
    return value * _wide(1 - hyper.lr * hyper.weight_decay, value)


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
    """Factor 1 at every step."""
    return 1.0


def cosine(step: int, steps: int, *, final: float = 0.0) -> float:
    """Factor that falls from 1 to `final` along half a cosine, as CosineAnnealingLR."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * step / steps))


def warmup(step: int, steps: int, *, share: float = 0.1) -> float:
    """Factor that rises linearly to 1 and then stays at 1, as LinearLR.

    The factors of the first W = share x steps updates are 1/(W + 1), 2/(W + 1), ...; all later
    factors are 1. The first factor is not 0, so the first update is not lost.

    Raises:
        ValueError: The share is not between 0 and 1.

    Source:
        Goyal et al. 2017, arXiv 1706.02677, section 2.2.
    """
    return min(1.0, (step + 1) / (_warmup_updates(steps, share) + 1))


def warmup_cosine(step: int, steps: int, *, share: float = 0.1, final: float = 0.0) -> float:
    """Factor of `warmup` over the first share of the updates, then of `cosine` over the rest.

    Raises:
        ValueError: The share is not between 0 and 1.
    """
    first = _warmup_updates(steps, share)
    if step < first:
        return warmup(step, steps, share=share)
    return cosine(step - first, steps - first, final=final)


def _warmup_updates(steps: int, share: float) -> int:
    if not 0 <= share <= 1:
        raise ValueError(f"schedule.params.share is {share}: use 0 to 1, like 0.1")
    return round(share * steps)


OPTIMIZERS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "sgd": sgd,
    "nesterov": nesterov,
    "adam": adam,
    "adamw": adamw,
    "muon": muon,
    "lion": lion,
}
STATES: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "nesterov": ("momentum",),
    "adam": ("first", "second"),
    "adamw": ("first", "second"),
    "muon": ("first", "second"),
    "lion": ("first",),
}
"""Names of the buffers that each optimizer keeps; all buffers are zero at the start."""
SCALE_FREE = frozenset({"adam", "adamw", "muon", "lion"})
"""Optimizers whose step does not change if the loss is multiplied by a constant, up to `eps`.

With weight decay this is not true of adam. The other optimizers apply the decay to the parameters
and not through the gradient, so for them it is true with weight decay as well.
"""
BY_MATRIX = frozenset({"muon"})
"""Optimizers that treat each matrix as a whole and take the names of the `matrices`."""
SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "warmup": warmup,
    "warmup_cosine": warmup_cosine,
}
