"""Guards behind the last member, and whole chunks: bits do not depend on a member's position."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

GUARD_ELEMENTS = 64
"""At least two vectors of the widest instruction set."""


def guards(examples: int, device: torch.device) -> int:
    """Members to put behind the last one, so that its bits do not depend on its place.

    On the CPU torch computes the last elements of a whole tensor (fewer than two vectors) by
    other code than the rest, one unit in the last place apart for exp, log and tanh. Behind
    guards those elements are never a member's.

    Args:
        examples: Fewest elements of a member in any tensor: outputs of its batch or split. Tensors
            with fewer, like the class counts of a loss's context, are not covered.
        device: CUDA kernels treat all elements alike and need none.
    """
    return -(-GUARD_ELEMENTS // examples) if device.type == "cpu" else 0


def guarded(values: Tensor, span: slice) -> Tensor:
    """A copy of the members [k, N, C] of a span with guards behind them."""
    members = values[span]
    count = guards(values.shape[1], values.device)
    return torch.cat([members, members[-1:].expand(count, *members.shape[1:])])


def row_chunks(rows: int, at_once: int) -> list[slice]:
    """Slices of so many rows that go through a model at once.

    A rest of less than `GUARD_ELEMENTS` rows goes with the chunk before it: the code for last
    elements must not reach the last row of a member in a smaller tensor than they were counted for.

    Args:
        rows: All of them.
        at_once: Rows of a chunk.
    """
    count = max(1, rows // at_once)
    if rows - count * at_once >= min(GUARD_ELEMENTS, at_once):
        count += 1
    stops = [*range(at_once, count * at_once, at_once), rows]
    return [slice(*ends) for ends in itertools.pairwise([0, *stops])]
