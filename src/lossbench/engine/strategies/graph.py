"""Updates recorded once as CUDA graphs, and replayed without Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from lossbench.engine.machine import Captures
from lossbench.engine.state import State
from lossbench.engine.strategy import Advance, Logged
from lossbench.engine.update import Updates

log = logging.getLogger(__name__)

MAX_RECORDED_UPDATES = 50
"""Updates recorded together: more would gain nothing."""

Result = TypeVar("Result")

Recording = Callable[[Callable[[], Result]], tuple[Callable[[], None], Result]]
"""Records the work of a function without doing it: a replay, and the result that it fills."""


class Replayed(Generic[Result]):
    """A function whose work is replayed from its second call on.

    The first call runs in Python: libraries set themselves up, and errors are reported. Every call
    does so once a recording has failed.

    Args:
        function: Reads and writes tensors that stay where they are, and asks the host for nothing
            from its second call on.
        record: Records the function.
        captures: Marked as failed when that raises.
    """

    def __init__(
        self, function: Callable[[], Result], record: Recording[Result], captures: Captures
    ) -> None:
        self._function, self._record, self._captures = function, record, captures
        self._is_warm = False
        self._recorded: tuple[Callable[[], None], Result] | None = None

    @property
    def is_replayed(self) -> bool:
        """Whether the last call was a replay."""
        return self._recorded is not None

    def __call__(self) -> Result:
        """The function's result; a replay overwrites the result before it."""
        if self._recorded is None and self._is_warm and not self._captures.has_failed:
            try:
                self._recorded = self._record(self._function)
            except Exception as error:
                self._captures.has_failed = True
                cause: BaseException = error
                while cause.__context__ is not None:  # the device says no more than that it broke
                    cause = cause.__context__
                reason = str(cause).partition("\n")[0]
                log.warning(
                    "updates cannot be captured in a CUDA graph, so the kernels of each "
                    "are launched one by one: %s",
                    reason,
                )
        if self._recorded is None:
            self._is_warm = True
            return self._function()
        replay, result = self._recorded
        replay()
        return result


class Graphs(Advance):
    """Updates of one state in stretches, each length made once in Python and replayed afterwards.

    Args:
        updates: The updates of a pack.
        captures: Marked as failed when a recording fails; every update is made on its own then.
    """

    def __init__(self, updates: Updates, captures: Captures) -> None:
        self._updates, self._record, self._captures = updates, RECORDING(), captures
        self._stretches: dict[int, Replayed[None]] = {}
        self._logged: Replayed[Logged] | None = None

    @property
    def name(self) -> str:
        """Name in the records: empty until something was replayed."""
        stretches = [*self._stretches.values(), *([self._logged] if self._logged else [])]
        return "graph" if any(stretch.is_replayed for stretch in stretches) else ""

    @property
    def max_updates(self) -> int:
        """Updates of a stretch."""
        if self._captures.has_failed:
            return 1
        return max(1, MAX_RECORDED_UPDATES // len(self._updates.spans))

    def advance(self, state: State, count: int) -> None:
        """Make updates; always of the same state."""
        while count:
            stretch = min(count, self.max_updates)
            if stretch not in self._stretches:
                function = partial(self._updates.advance, state, stretch)
                self._stretches[stretch] = Replayed(function, self._record, self._captures)
            self._stretches[stretch]()
            count -= stretch

    def logged(self, state: State) -> Logged:
        """Make a logged update; always of the same state."""
        if self._logged is None:
            function = partial(self._updates.logged, state)
            self._logged = Replayed(function, self._record, self._captures)
        steps, layers = self._logged()
        return Logged(steps.clone(), layers.clone())  # the next replay writes there


class CudaGraphs:
    """Records CUDA graphs that share one pool of memory: they are never replayed at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Record a function, see `Recording`."""
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = function()
        except BaseException:
            torch.cuda.set_stream(here)  # torch stays on the stream of a capture that failed
            raise
        return graph.replay, result


RECORDING: Callable[[], Recording[Any]] = CudaGraphs
"""Makes the recorder of a pack's updates."""
