"""Work on tensors that stay where they are, recorded once and replayed without Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Recording = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Records what a function does without doing it: what does it, and where its result will lie."""


class Recordings:
    """What records the functions of a pack, until one of them cannot be recorded.

    Args:
        device: Type of the device; on one that `RECORDINGS` does not name nothing is recorded.
    """

    def __init__(self, device: str) -> None:
        begin = RECORDINGS.get(device)
        self.record = begin() if begin else None

    def give_up(self, error: BaseException) -> None:
        """Record no more, and say why."""
        self.record = None
        cause = error.__context__ or error  # what came first; the device only says that it broke
        reason = str(cause).partition("\n")[0]
        log.warning("updates cannot be captured, so each is launched anew: %s", reason)


class Captured(Generic[Result]):
    """A function without arguments, whose work is replayed from its second call on.

    The first call is made as it is: libraries set themselves up, what raises is found.

    Args:
        function: Reads and writes tensors that stay where they are, and asks the host for nothing
            while it is recorded.
        recordings: What records it; where that gave up the function is called each time.
    """

    def __init__(self, function: Callable[[], Result], recordings: Recordings) -> None:
        self._function, self._recordings = function, recordings
        self._is_warm = False
        self._replay: Callable[[], None] | None = None
        self._result: Result

    @property
    def is_replayed(self) -> bool:
        """Whether the last call was a replay."""
        return self._replay is not None

    def __call__(self) -> Result:
        """The function's result; it lies where the one before lay."""
        if self._replay is None and self._is_warm and self._recordings.record is not None:
            self._record(self._recordings.record)
        if self._replay is None:
            self._is_warm = True
            return self._function()
        self._replay()
        return self._result

    def _record(self, record: Recording) -> None:
        global _is_capturing
        _is_capturing = True
        try:
            self._replay, self._result = record(self._function)
        except Exception as error:
            self._recordings.give_up(error)
        finally:
            _is_capturing = False


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
            # torch stays on the stream of what it could not end, and its allocator may not recover.
            torch.cuda.set_stream(here)
            RECORDINGS.pop("cuda", None)
            raise
        return graph.replay, result


RECORDINGS: dict[str, Callable[[], Recording]] = {"cuda": CudaGraphs}
"""What records, by type of device; on others every update is made on its own."""

_is_capturing = False


def is_capturing() -> bool:
    """Whether what is done now is being recorded: then nothing may be asked of tensors."""
    return _is_capturing
