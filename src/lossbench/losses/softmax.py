"""Softmax and its logarithm over the last axis, quick for few classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

FEW_CLASSES = 16
"""Below so many torch's own kernel takes each example by itself, at a fifth of the speed."""

WHOLE_VECTORS = 64
"""Numbers that are whole vectors on every machine: what ends there is computed by one code."""

CERTAIN = 0.999
"""A probability beyond it has its derivative from those of the others: float32 keeps less than four
digits of what is missing to 1."""


def softmax(output: Tensor) -> Tensor:
    """Exponentials of [..., C] over their sum."""
    return _over_classes(torch.softmax, output)


def log_softmax(output: Tensor) -> Tensor:
    """Logarithm of the softmax of [..., C]."""
    return _over_classes(torch.log_softmax, output)


def complemented_softmax(output: Tensor) -> Tensor:
    """`softmax` with derivatives that are right also where a probability rounds to 1.

    Of that output torch's derivative is what rounding left of 1 - p, which is the sum of the other
    probabilities. What a loss needs that has a slope there, like (p - y)² of a wrong class.
    """
    return _over_classes(_Softmax.apply, output)


def complemented_log_softmax(output: Tensor) -> Tensor:
    """The logarithm of `complemented_softmax`."""
    return _over_classes(_LogSoftmax.apply, output)


def _over_classes(function: Callable[..., Any], output: Tensor) -> Tensor:
    """A function over the last axis; with few classes on the CPU, vectors run over examples.

    An example's bits depend on its own numbers only, as in torch's own kernel.
    """
    classes = output.shape[-1]
    if classes >= FEW_CLASSES or output.device.type != "cpu":
        return function(output, -1)
    columns = output.reshape(-1, classes).T  # [C, N]
    count = columns.shape[1]
    padded = functional.pad(columns, (0, -count % WHOLE_VECTORS))
    return function(padded, 0)[:, :count].T.reshape(output.shape).contiguous()


class _Softmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, axis: int) -> Tensor:
        return output.softmax(axis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.axis = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (p,) = ctx.saved_tensors
        rounded = torch._softmax_backward_data(gradient, p, ctx.axis, p.dtype)
        return _complemented(rounded, p, ctx.axis), None


class _LogSoftmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, axis: int) -> Tensor:
        return output.log_softmax(axis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.axis = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (log_p,) = ctx.saved_tensors
        rounded = torch._log_softmax_backward_data(gradient, log_p, ctx.axis, log_p.dtype)
        return _complemented(rounded, log_p.exp(), ctx.axis), None


def _complemented(gradient: Tensor, p: Tensor, axis: int) -> Tensor:
    """A gradient behind a softmax whose entry for a certain output is minus the sum of the others.

    A constant added to all outputs changes no softmax, so the entries sum to zero: what is left
    over is the rounding of the entry that is a difference of almost equal numbers.
    """
    certain = functional.threshold(p, CERTAIN, 0.0)
    return torch.addcmul(gradient, certain, gradient.sum(axis, keepdim=True), value=-1)
