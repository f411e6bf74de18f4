"""What was made from tensors and would be the same again: known by the tensors, not by content."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

Made = TypeVar("Made")


class Memory(Generic[Made]):
    """The last few values, each found again by the very tensors that it was made from.

    Seeds of a fixed set share their inputs: what is made from those alone is made once. Tensors are
    held weakly, so that none is kept alive and another one at the same address is another one; a
    tensor that was changed in place is another one too.
    """

    def __init__(self, most: int) -> None:
        """Remember so many values at most."""
        self._kept: deque[tuple[list[tuple[weakref.ref[Tensor], int]], Made]] = deque(maxlen=most)

    def of(self, tensors: Sequence[Tensor], make: Callable[[], Made]) -> Made:
        """The value that was made from these tensors, in this order, or a new one.

        Args:
            tensors: All that the value depends on.
            make: Makes it. The value is shared by all who ask: it must not be changed.
        """
        for seen, made in tuple(self._kept):
            if len(seen) == len(tensors) and all(
                kept() is tensor and version == tensor._version
                for (kept, version), tensor in zip(seen, tensors, strict=True)
            ):
                return made
        made = make()
        self._kept.append(([(weakref.ref(one), one._version) for one in tensors], made))
        return made
