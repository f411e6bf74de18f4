"""Updates that are recorded once as CUDA graphs and replayed without Python."""

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
"""Largest number of updates in one recording; more updates would not be faster."""

Result = TypeVar("Result")

Recording = Callable[[Callable[[], Result]], tuple[Callable[[], None], Result]]
"""Function that records a function without running it; returns a replay and the result tensors."""


class Replayed(Generic[Result]):
    """A function that is recorded at the second call and replayed from then on.

    The first call runs in Python, so that libraries are initialised and errors are reported. After
    a failed recording, which marks `captures`, every call runs in Python. The function reads and
    writes tensors at fixed addresses, and does not synchronise with the host from the second call.
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
        """Run or replay the function; a replay overwrites the previous result."""
        if self._recorded is None and self._is_warm and not self._captures.has_failed:
            try:
                self._recorded = self._record(self._function)
            except Exception as error:
                self._captures.has_failed = True
                cause: BaseException = error
                while cause.__context__ is not None:  # the last error only says that capture failed
                    cause = cause.__context__
                log.warning(
                    "updates cannot be captured in a CUDA graph, so the kernels of each "
                    "are launched one by one: %s",
                    str(cause).partition("\n")[0],
                )
        if self._recorded is None:
            self._is_warm = True
            return self._function()
        replay, result = self._recorded
        replay()
        return result


class Graphs(Advance):
    """Updates of one state in series; each length of a series is recorded, see `Replayed`.

    If a recording fails, `captures` is marked as failed, and updates are made singly.
    """

    def __init__(self, updates: Updates, captures: Captures) -> None:
        self._updates, self._record, self._captures = updates, RECORDING(), captures
        self._stretches: dict[int, Replayed[None]] = {}
        self._logged: Replayed[Logged] | None = None

    @property
    def name(self) -> str:
        """Name in the records; empty until a recording was replayed."""
        stretches = [*self._stretches.values(), *([self._logged] if self._logged else [])]
        return "graph" if any(stretch.is_replayed for stretch in stretches) else ""

    @property
    def max_updates(self) -> int:
        """Largest number of updates in a series."""
        if self._captures.has_failed:
            return 1
        return max(1, MAX_RECORDED_UPDATES // len(self._updates.spans))

    def advance(self, state: State, count: int) -> None:
        """Make `count` updates; the state must be the same object in every call."""
        while count:
            stretch = min(count, self.max_updates)
            if stretch not in self._stretches:
                function = partial(self._updates.advance, state, stretch)
                self._stretches[stretch] = Replayed(function, self._record, self._captures)
            self._stretches[stretch]()
            count -= stretch

    def logged(self, state: State) -> Logged:
        """Make a logged update; the state must be the same object in every call."""
        if self._logged is None:
            function = partial(self._updates.logged, state)
            self._logged = Replayed(function, self._record, self._captures)
        steps, layers = self._logged()
        return Logged(steps.clone(), layers.clone())  # because the next replay overwrites them


class CudaGraphs:
    """Recorder of CUDA graphs that share one memory pool, since no two are replayed at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Record a function, see `Recording`."""
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = function()
        except BaseException:
            torch.cuda.set_stream(here)  # because a failed capture leaves its stream current
            raise
        return graph.replay, result


RECORDING: Callable[[], Recording[Any]] = CudaGraphs
"""Factory of the recorder for a pack's updates."""
