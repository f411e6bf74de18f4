"""Layout of a pack in memory: parameters as rows of numbers, guards behind members, row chunks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

GUARD_ELEMENTS = 64
"""At least two vectors of the widest instruction set."""


def guards(examples: int, device: torch.device) -> int:
    """Members to put behind the last one, so that its bits do not depend on its position.

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


ALIGNED = 16
"""Each tensor begins at a multiple of so many numbers: a cache line of float32."""


class Rows(dict[str, Tensor]):
    """Tensors [K, ...] by name; their numbers lie in `row`, so that one call updates them all.

    A weight [K, out, in] that widens, out > in, lies there as [K, in, out]: the product that is its
    gradient is quicker so. Between the tensors are zeros.

    Args:
        like: Tensors to copy, by name.

    Attributes:
        row: All numbers of each member, [K, P and zeros between tensors].
    """

    row: Tensor

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        starts, end = [], 0
        for value in like.values():
            starts.append(end)
            end += -(-value[0].numel() // ALIGNED) * ALIGNED
        first = next(iter(like.values()))
        self._lay(first.new_zeros(len(first), end), like, starts)
        for name, value in like.items():
            self[name].copy_(value)

    def _lay(self, row: Tensor, like: Mapping[str, Tensor], starts: list[int]) -> None:
        self.row, self._starts = row, starts
        self._views: dict[tuple[int, int], Rows] = {}
        for (name, value), start in zip(like.items(), starts, strict=True):
            shape = value.shape[1:]
            is_wide = len(shape) == 2 and shape[0] > shape[1]
            numbers = row[:, start : start + shape.numel()]
            tensor = numbers.unflatten(1, shape[::-1] if is_wide else shape)
            self[name] = tensor.mT if is_wide else tensor

    def of(self, span: slice) -> Rows:
        """Rows of neighbours: a view of the same memory, made once."""
        ends = span.start, span.stop
        if ends not in self._views:
            view = Rows.__new__(Rows)
            view._lay(self.row[span], self, self._starts)
            self._views[ends] = view
        return self._views[ends]


def joined(tensors: Mapping[str, Tensor], *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name for elementwise work: one row per member where `like` has one.

    Args:
        tensors: [K, ...] by name.
        like: Same names and shapes.
    """
    if not isinstance(like, Rows):
        return dict(tensors)
    return {"row": (tensors if isinstance(tensors, Rows) else Rows(tensors)).row}
