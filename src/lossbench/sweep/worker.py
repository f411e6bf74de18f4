"""A child process that trains packs, one after the other.

It is a process of its own session, and the signals that ask for an end are blocked in it: they
reach it through its parent only, over the pipe that also brings it packs. When the parent is gone
the pipe ends, and so does the process, after it has committed what it trains.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from multiprocessing import Pipe, connection
from typing import Any

from tqdm import std

from lossbench import store
from lossbench.processes import TRAINING, begin
from lossbench.question import ConfigError
from lossbench.sweep.inventory import OpenPack
from lossbench.sweep.training import Interrupted, OutOfMemory, Stop, Trainer

READY = "ready"
"""What a process says when it has imported everything and waits for packs."""


class Died(Exception):
    """The process of a pack ended before the pack did; the message says how."""


class Worker:
    """The process as its parent sees it.

    It takes some seconds to be ready, and may be given its first pack before.

    Args:
        trainer: How it trains.

    Attributes:
        pack: What it trains; None where it waits.
        is_ready: Whether it has imported everything.
        is_dead: Whether it has ended.
        pipe: To be waited for, before `listen`.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.pack: OpenPack | None = None
        self.is_ready = self.is_dead = self.is_stopping = False
        self.pipe, theirs = Pipe()
        # Packs come over the pipe and not as an argument: to write those to a child that ends
        # before it reads them would block for ever.
        # It commits what it trains before it ends, also when its parent is gone.
        self.process = begin(_work, theirs, trainer, modules=TRAINING, ends_with_parent=False)
        theirs.close()

    def train(self, pack: OpenPack) -> None:
        """Have it train a pack."""
        self.pack = pack
        with contextlib.suppress(OSError):  # dead: the next look says so
            self.pipe.send(pack)

    def stop(self, number: int) -> None:
        """Have it commit what it trains and end, once."""
        if not self.is_stopping:
            self.is_stopping = True
            with contextlib.suppress(OSError):
                self.pipe.send(number)

    def listen(self) -> tuple[OpenPack | None, int | Exception] | None:
        """Read one message, and log it if it is for the log.

        Returns:
            The pack that has ended, None where it had none, with how many of its runs came to an
            end, or why they did not; None where the process goes on.
        """
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.is_dead, code = True, self.process.exitcode or 0
            names = {number.value: number.name for number in signal.Signals}
            killer = names.get(-code, f"signal {-code}")
            how = f"killed by {killer}" if code < 0 else f"exit code {code}"
            message = Died(f"the process of its pack ended before it was finished: {how}")
        if message == READY:
            self.is_ready = True
        elif isinstance(message, tuple):
            name, level, text = message
            logging.getLogger(name).log(level, "%s", text)
        else:
            pack, self.pack = self.pack, None
            return pack, message
        return None

    def release(self) -> None:
        """Let it end, if it is not training; else kill it: its pack goes on from its checkpoint."""
        self.pipe.close()
        if self.pack is not None:
            self.process.kill()

    def join(self) -> None:
        """Wait a moment for its end, no longer."""
        self.process.join(1.0)
        self.process.kill()
        self.process.join()


# ---- in the process ------------------------------------------------------------------------------


class _Relay(logging.Handler):
    """Sends the parent what is logged, and how packs end."""

    def __init__(self, pipe: connection.Connection) -> None:
        super().__init__()
        self.pipe, self.sending = pipe, threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        self.send((record.name, record.levelno, self.format(record)))

    def send(self, message: Any) -> None:
        with contextlib.suppress(OSError), self.sending:  # nobody may listen any more
            self.pipe.send(message)


def _work(pipe: connection.Connection, trainer: Trainer) -> None:
    """Train what the parent sends, until nothing more can come."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # so that an interrupt is somebody's code
    # Its own lock would be left behind by a process that is killed.
    std.tqdm.set_lock(threading.RLock())
    packs: queue.SimpleQueue[OpenPack | None] = queue.SimpleQueue()
    stop, relay = Stop(), _Relay(pipe)
    logging.getLogger().addHandler(relay)

    def listen() -> None:
        """Take packs, and signals' numbers; that the parent is gone asks for an end as well."""
        try:
            while True:
                message = pipe.recv()
                if isinstance(message, int):
                    stop.signal = message
                else:
                    packs.put(message)
        except (EOFError, OSError):
            stop.signal = stop.signal or signal.SIGTERM
            packs.put(None)

    threading.Thread(target=listen, daemon=True).start()
    relay.send(READY)
    while (pack := packs.get()) is not None:
        outcome: int | Exception = 0
        try:
            trainer.prepare(pack.runs)
            outcome = len(trainer.train(pack, stop) or ())
        except (OutOfMemory, store.StoreError, ConfigError) as error:
            outcome = error
        except Interrupted:
            pass  # by its parent, which knows
        sys.stdout.flush()
        relay.send(outcome)
