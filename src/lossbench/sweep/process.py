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
from multiprocessing import Pipe, connection, get_context, resource_tracker
from typing import Any

from tqdm import tqdm

from lossbench import store
from lossbench.runs import ConfigError
from lossbench.sweep.leases import Lease
from lossbench.sweep.training import SIGNALS, Interrupted, OutOfMemory, Stop, Trainer

READY = "ready"
"""What a process says when it has imported everything and waits for packs."""


class Died(Exception):
    """The process of a pack ended before the pack did; the message says how."""


class Process:
    """The process as its parent sees it.

    It takes some seconds to be ready, and may be given its first pack before.

    Args:
        trainer: How it trains.

    Attributes:
        lease: What it trains; None where it waits.
        is_ready: Whether it has imported everything.
        is_dead: Whether it has ended.
        pipe: To be waited for, before `listen`.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.lease: Lease | None = None
        self.is_ready = self.is_dead = self.is_stopping = False
        self.pipe, theirs = Pipe()
        # Packs come over the pipe and not as an argument: to write those to a child that ends
        # before it reads them would block for ever.
        self.process = get_context("spawn").Process(target=_work, args=(theirs, trainer))
        resource_tracker.ensure_running()  # it would let signals through
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a child inherits that
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def train(self, lease: Lease) -> None:
        """Have it train a pack."""
        self.lease = lease
        with contextlib.suppress(OSError):  # dead: the next look says so
            self.pipe.send(lease)

    def stop(self, number: int) -> None:
        """Have it commit what it trains and end, once."""
        if not self.is_stopping:
            self.is_stopping = True
            with contextlib.suppress(OSError):
                self.pipe.send(number)

    def listen(self) -> tuple[Lease | None, int | Exception] | None:
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
            how = f"killed by {_name_of(-code)}" if code < 0 else f"exit code {code}"
            message = Died(f"the process of its pack ended before it was finished: {how}")
        if message == READY:
            self.is_ready = True
        elif isinstance(message, tuple):
            name, level, text = message
            logging.getLogger(name).log(level, "%s", text)
        else:
            lease, self.lease = self.lease, None
            return lease, message
        return None

    def release(self) -> None:
        """Let it end, if it is not training; else kill it: its pack goes on from its checkpoint."""
        self.pipe.close()
        if self.lease is not None:
            self.process.kill()

    def join(self) -> None:
        """Wait a moment for its end, no longer."""
        self.process.join(1.0)
        self.process.kill()
        self.process.join()


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


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
    tqdm.set_lock(threading.RLock())  # its own one would be left behind by a process that is killed
    leases: queue.SimpleQueue[Lease | None] = queue.SimpleQueue()
    stop, relay = Stop(), _Relay(pipe)
    logging.getLogger().addHandler(relay)
    threading.Thread(target=_listen, args=(pipe, leases, stop), daemon=True).start()
    trainer.prepare(())
    relay.send(READY)
    while (lease := leases.get()) is not None:
        outcome: int | Exception = 0
        try:
            trainer.prepare(lease.pack.runs)
            outcome = len(trainer.train(lease, stop) or ())
        except (OutOfMemory, store.StoreError, ConfigError) as error:
            outcome = error
        except Interrupted:
            pass  # by its parent, which knows
        sys.stdout.flush()
        relay.send(outcome)


def _listen(
    pipe: connection.Connection, leases: queue.SimpleQueue[Lease | None], stop: Stop
) -> None:
    """Take packs, and the number of a signal that asks for an end; the parent's end is one too."""
    try:
        while True:
            message = pipe.recv()
            if isinstance(message, int):
                stop.signal = message
            else:
                leases.put(message)
    except (EOFError, OSError):
        stop.signal = stop.signal or signal.SIGTERM
        leases.put(None)
