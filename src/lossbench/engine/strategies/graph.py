"""Updates recorded once as CUDA graphs, and replayed without Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from lossbench.engine.members import Members
from lossbench.engine.state import State
from lossbench.engine.strategy import Advance, Logged, Unserved
from lossbench.engine.update import Updates

log = logging.getLogger(__name__)

VERSION = ""
"""Bits are those of updates one by one."""

MOST_RECORDED = 50
"""Updates recorded together: more would gain nothing."""

Result = TypeVar("Result")

Recording = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Records what a function does without doing it: what does it, and where its result will lie."""


class Service:
    """Serves packs of a process until a recording fails: torch's allocator may not recover from it.

    Attributes:
        has_failed: Whether one did.
    """

    def __init__(self) -> None:
        self.has_failed = False

    def advance(self, members: Members, updates: Updates, inner: Advance) -> Graphs:
        """Updates as replayed graphs.

        Raises:
            Unserved: There are no updates to record, or a recording failed before.
        """
        if inner is not updates:
            raise Unserved(f"{inner.name} has no updates to record")
        if self.has_failed:
            raise Unserved("a recording failed in this process")
        return Graphs(updates, RECORDING(), self)


class Replayed(Generic[Result]):
    """A function whose work is replayed from its second call on.

    The first call is made as it is: libraries set themselves up, and what raises is reported. So is
    every call once a recording has failed.

    Args:
        function: Reads and writes tensors that stay where they are, and asks the host for nothing
            from its second call on.
        record: Records it.
        service: Is told when that fails.
    """

    def __init__(self, function: Callable[[], Result], record: Recording, service: Service) -> None:
        self._function, self._record, self._service = function, record, service
        self._is_warm = False
        self._recorded: tuple[Callable[[], None], Result] | None = None

    @property
    def is_replayed(self) -> bool:
        """Whether the last call was a replay."""
        return self._recorded is not None

    def __call__(self) -> Result:
        """The function's result; replayed, it lies where the one before lay."""
        if self._recorded is None and self._is_warm and not self._service.has_failed:
            try:
                self._recorded = self._record(self._function)
            except Exception as error:
                self._service.has_failed = True
                cause: BaseException = error
                while cause.__context__ is not None:  # the device says no more than that it broke
                    cause = cause.__context__
                reason = str(cause).partition("\n")[0]
                log.warning("updates cannot be captured, so each is launched anew: %s", reason)
        if self._recorded is None:
            self._is_warm = True
            return self._function()
        replay, result = self._recorded
        replay()
        return result


class Graphs(Advance):
    """Updates of one state, each kind of stretch made once as it is and replayed from then on.

    Args:
        updates: What makes them.
        record: Records them.
        service: Is told when that fails; then every update is made on its own.
    """

    def __init__(self, updates: Updates, record: Recording, service: Service) -> None:
        self._updates, self._record, self._service = updates, record, service
        self._stretches: dict[int, Replayed[None]] = {}
        self._logged: Replayed[Logged] | None = None

    @property
    def name(self) -> str:
        """What is recorded of it."""
        stretches = [*self._stretches.values(), *([self._logged] if self._logged else [])]
        return "graph" if any(stretch.is_replayed for stretch in stretches) else ""

    @property
    def most(self) -> int:
        """Updates of a stretch."""
        return 1 if self._service.has_failed else max(1, MOST_RECORDED // len(self._updates.spans))

    def advance(self, state: State, count: int) -> None:
        """Make updates; always of the same state."""
        while count:
            stretch = min(count, self.most)
            if stretch not in self._stretches:
                function = partial(self._updates.advance, state, stretch)
                self._stretches[stretch] = Replayed(function, self._record, self._service)
            self._stretches[stretch]()
            count -= stretch

    def logged(self, state: State) -> Logged:
        """Make a logged update; always of the same state."""
        if self._logged is None:
            function = partial(self._updates.logged, state)
            self._logged = Replayed(function, self._record, self._service)
        steps, layers = self._logged()
        return Logged(steps.clone(), layers.clone())  # the next replay writes there


class CudaGraphs:
    """Records CUDA graphs that share one pool of memory: they are never replayed at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """See `Recording`."""
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = function()
        except BaseException:
            torch.cuda.set_stream(here)  # torch stays on the stream of what it could not end
            raise
        return graph.replay, result


RECORDING: Callable[[], Recording] = CudaGraphs
"""What records the updates of a pack."""
