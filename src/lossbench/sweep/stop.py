"""Ends a command after a signal, but only when the packs that train are committed."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lossbench.processes import END_SIGNALS

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A signal asked for an end; all work is committed.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


@dataclass
class Stop:
    """Request to commit the packs that train, and to end.

    Attributes:
        signal: Number of the signal that asked for the end; 0 if no signal came.
    """

    signal: int = 0

    def check(self) -> None:
        """Raise `Interrupted` if an end was asked for."""
        if self.signal:
            raise Interrupted(self.signal)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Context that catches `END_SIGNALS`: a first sets the `Stop`, a second ends the process."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # no other thread may catch signals
        return

    def ask(number: int, _: FrameType | None) -> None:
        if stop.signal:
            raise Interrupted(number)
        stop.signal = number
        log.info(
            "%s: committing what is training; press Ctrl-C once more to end at once",
            signal.Signals(number).name,
        )

    before = {number: signal.signal(number, ask) for number in END_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
