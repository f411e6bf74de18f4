"""Softmax, its logarithm and the largest entry over the last axis, fast for few classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

FEW_CLASSES = 16
"""Below this number of classes, torch's kernel takes one example at a time, a fifth as fast."""

WHOLE_VECTORS = 64
"""Multiple of every machine's vector length: rows padded to it run through one code path."""


def softmax(output: Tensor) -> Tensor:
    """Softmax over the last axis of [..., C]."""
    return _over_classes(torch.softmax, output)


def log_softmax(output: Tensor) -> Tensor:
    """Logarithm of the softmax of [..., C]."""
    return _over_classes(torch.log_softmax, output)


def exact_softmax(output: Tensor) -> Tensor:
    """`softmax` whose derivatives are accurate even if a probability rounds to 1.

    The derivative of the largest entry is minus the sum of the other derivatives, and does not use
    the rounded difference 1 - p. This softmax is for losses that have a slope if a wrong class has
    probability 1, like (p - y)².
    """
    return _over_classes(lambda values, axis: torch.softmax(_lowered(values, axis), axis), output)


def exact_log_softmax(output: Tensor) -> Tensor:
    """Logarithm of `exact_softmax`."""
    return _over_classes(
        lambda values, axis: torch.log_softmax(_lowered(values, axis), axis), output
    )


def largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """Largest entry of [..., C] and its index, which is the first index in a tie."""
    classes = values.shape[-1]
    if classes >= FEW_CLASSES or values.device.type != "cpu":
        place = values.argmax(-1)
        return values.gather(-1, place[..., None]).squeeze(-1), place
    columns = values.movedim(-1, 0).contiguous()
    most = columns.amax(0)
    falling = torch.arange(classes - 1, -1, -1, dtype=torch.uint8).view(-1, *[1] * most.dim())
    return most, classes - 1 - ((columns == most) * falling).amax(0).long()


def _lowered(output: Tensor, axis: int) -> Tensor:
    """Output less its largest entry, so that all entries are at most 0."""
    return output - output.amax(axis, keepdim=True)


def _over_classes(function: Callable[[Tensor, int], Tensor], output: Tensor) -> Tensor:
    """Function applied over the last axis; for few classes on the CPU, vectorised over examples.

    The bits of an example depend only on the numbers of that example, as in torch's own kernel.
    """
    classes = output.shape[-1]
    if classes >= FEW_CLASSES or output.device.type != "cpu":
        return function(output, -1)
    columns = output.reshape(-1, classes).T  # [C, N]
    count = columns.shape[1]
    padded = functional.pad(columns, (0, -count % WHOLE_VECTORS))
    return function(padded, 0)[:, :count].T.reshape(output.shape).contiguous()
