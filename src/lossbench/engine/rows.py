"""Parameters of a pack as one row of numbers per member, and as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

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
