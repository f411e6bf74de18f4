"""Layout of a pack in memory: rows of parameters, guards behind members, chunks of examples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

GUARD_ELEMENTS = 64
"""Least number of elements in guards: two vectors of the widest instruction set or more."""


def guards(examples: int, device: torch.device) -> int:
    """Number of guards: copies behind the last member, so that bits do not depend on position.

    On the CPU torch computes the last elements of a whole tensor (fewer than two vectors) with
    other code than the rest; results of exp, log and tanh differ in the last place. With guards
    behind the members, the last elements belong to guards only.

    Args:
        examples: Fewest elements of a member in any tensor: outputs of its batch or split. Tensors
            with fewer, like the class counts of a loss's context, are not covered.
        device: Device of the members; CUDA kernels treat all elements alike and need 0 guards.
    """
    return -(-GUARD_ELEMENTS // examples) if device.type == "cpu" else 0


def guarded(values: Tensor, span: slice) -> Tensor:
    """Copy of the members [k, N, C] of a span, followed by guards."""
    members = values[span]
    count = guards(values.shape[1], values.device)
    return torch.cat([members, members[-1:].expand(count, *members.shape[1:])])


def row_chunks(rows: int, at_once: int) -> list[slice]:
    """Slices of rows; the rows of one slice go through a model at once.

    A remainder of fewer than `GUARD_ELEMENTS` rows is added to the chunk before the remainder,
    because the number of guards is counted for tensors with at least that many rows.
    """
    count = max(1, rows // at_once)
    if rows - count * at_once >= min(GUARD_ELEMENTS, at_once):
        count += 1
    stops = [*range(at_once, count * at_once, at_once), rows]
    return [slice(*ends) for ends in itertools.pairwise([0, *stops])]


ALIGNED = 16
"""Alignment of tensors in a row, as a count of numbers: one cache line of float32."""


class Rows(dict[str, Tensor]):
    """Tensors [K, ...] by name, stored in one tensor `row`, so that one call updates all tensors.

    A weight [K, out, in] with out > in is stored as [K, in, out], because the product for the
    gradient of the weight is faster in that layout. Zeros fill the gaps between tensors.

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
        """Rows of adjacent members: a view of the same memory, made once and kept."""
        ends = span.start, span.stop
        if ends not in self._views:
            view = Rows.__new__(Rows)
            view._lay(self.row[span], self, self._starts)
            self._views[ends] = view
        return self._views[ends]


def joined(tensors: Mapping[str, Tensor], *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors [K, ...] for elementwise work, joined to one row per member if `like` is a `Rows`."""
    if not isinstance(like, Rows):
        return dict(tensors)
    return {"row": (tensors if isinstance(tensors, Rows) else Rows(tensors)).row}
