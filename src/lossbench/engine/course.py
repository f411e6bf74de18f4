"""How the updates of a pack follow each other: one by one, replayed, or many in one launch."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossbench.engine.capture import Captured, Recordings
from lossbench.engine.members import Members
from lossbench.engine.strategies import kernel_of
from lossbench.engine.update import Update, Updates
from lossbench.measures import probes
from lossbench.runs import TF32

if TYPE_CHECKING:
    from lossbench.engine.strategies.kernel import Kernel

log = logging.getLogger(__name__)

Values = dict[str, Tensor]
"""[K] by column."""

MOST_CAPTURED, MOST_LAUNCHED = 50, 1_000
"""Updates captured together, or made in one launch of the kernel: more would gain nothing."""

TRUSTED = {"float32": 1e-3, TF32: 1e-1}
"""How far the kernel's first update may be from ours, relative to the update, by precision."""

Columns = dict[str, list[str]]
"""Names of columns by layer; those that are of no layer under the empty name."""


class Course:
    """The updates of a pack, in stretches through which the host has nothing to do.

    Args:
        members: The pack.
        updates: Of its members.
        is_kernel_wanted: Whether the kernel makes stretches where it can.
    """

    def __init__(self, members: Members, updates: Updates, *, is_kernel_wanted: bool) -> None:
        self._updates, self._precision = updates, members.runs[0].precision
        self._recordings = Recordings(members.places.device.type)
        self._kernel = kernel_of(members, updates.factors) if is_kernel_wanted else None
        self._is_tried = False
        self._columns: Columns = {}
        # Functions of what they use, not of this course: a pack's memory is let go of with it.
        told = partial(_told, members, updates, self._columns)
        self._logged = Captured(told, self._recordings)
        self._stretches: dict[int, Captured[None]] = {}

    @property
    def name(self) -> str:
        """What is recorded of it: empty where every update was made on its own."""
        every = [self._logged, *self._stretches.values()]
        is_graph = any(captured.is_replayed for captured in every)
        is_kernel = self._kernel is not None and self._is_tried
        return " ".join(["graph"] * is_graph + ["kernel"] * is_kernel)

    @property
    def most(self) -> int:
        """Updates of a stretch."""
        if self._kernel is not None:
            return MOST_LAUNCHED
        captured = max(1, MOST_CAPTURED // self._updates.parts)
        return captured if self._recordings.record is not None else 1

    def advance(self, count: int) -> None:
        """Make updates of which nothing is kept, `most` of them at most."""
        if self._kernel is not None and not self._is_tried:
            count -= self._try(self._kernel)
        if self._kernel is not None:
            if count:
                self._updates.leap(self._kernel, count)
            return
        while count:
            some = min(count, self.most)
            self._replay(some)
            count -= some

    def logged(self) -> tuple[Values, dict[str, Values]]:
        """Make an update, and say of it what every logged step says.

        Returns:
            Values [K] by column, and by layer and column.
        """
        values = iter(self._logged().clone())
        found = {
            layer: {name: next(values) for name in names} for layer, names in self._columns.items()
        }
        return found.pop(""), found

    def _try(self, kernel: Kernel) -> int:
        """Make one update by the kernel and without: it is used only where both agree.

        Returns:
            Updates made.
        """
        self._is_tried, most = True, TRUSTED[self._precision]
        try:
            theirs = self._updates.sketched(kernel)
        except Exception as error:
            self._give_up(str(error).partition("\n")[0])
            return 0
        off = self._updates.compared(theirs, most=most)
        if not off <= most:
            self._give_up(f"its first one is {off:.1g} of an update away from what it should be")
        return 1

    def _give_up(self, why: str) -> None:
        log.warning("no updates by the kernel: %s", why)
        self._kernel = None

    def _replay(self, count: int) -> None:
        if count not in self._stretches:
            stretch = partial(_stretch, self._updates, count)
            self._stretches[count] = Captured(stretch, self._recordings)
        self._stretches[count]()


def _stretch(updates: Updates, count: int) -> None:
    for _ in range(count):
        updates.once()


def _told(members: Members, updates: Updates, columns: Columns) -> Tensor:
    """All that is said of the next update, [columns, K]; the columns' names are written down."""
    values, layers = probed(members, updates.shown())
    found = {"": values, **layers}
    columns.update({layer: [*row] for layer, row in found.items()})
    return torch.stack([value for row in found.values() for value in row.values()])


def probed(members: Members, update: Update) -> tuple[Values, dict[str, Values]]:
    """What every logged step says of an update: values [K] by column, and by layer and column."""
    moved = {"before": update.parameters, "after": update.after}
    values = probes.steps(
        loss=update.loss,
        prediction=members.predict(update.output),
        target=update.target,
        output_gradient=update.driving,
        gradient=update.gradient,
        is_probability=members.is_probability,
        **moved,
    )
    return values, probes.layers(gradient=update.gradient, **moved)
