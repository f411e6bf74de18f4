"""A child process that trains packs, one after the other.

The process has a session of its own, and blocks the signals that ask for an end: only the parent
passes such signals on, over the pipe that also brings packs. If the parent ends, the pipe closes,
and the process commits its pack and ends.

No library's pool can do this: `concurrent.futures` and loky give up all packs if one process is
killed, and pebble (5.2) waits for ever for a process that exits with code 0.
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

from tqdm import std

from lossbench import store
from lossbench.processes import TRAINING, begin
from lossbench.question import ConfigError
from lossbench.sweep.inventory import OpenPack
from lossbench.sweep.stop import Interrupted, Stop
from lossbench.sweep.training import OutOfMemory, Trainer

READY = "ready"
"""Message of a process that has imported everything and waits for packs."""


class Died(Exception):
    """A pack's process ended before the pack was finished; the message says how it ended."""


class Worker:
    """Parent's handle of a child process, which accepts its first pack before it is ready.

    Attributes:
        pack: Pack that the process trains; None if the process waits.
        is_ready: Whether the process has imported everything.
        is_dead: Whether the process has ended.
        pipe: Connection to the process; when it is readable, `listen` does not block.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.pack: OpenPack | None = None
        self.is_ready = self.is_dead = self.is_stopping = False
        self.pipe, childs_end = Pipe()
        # Packs come over the pipe and not as arguments: writing arguments to a child that ends
        # before it reads them would block for ever.
        # The child commits its pack before it ends, even if its parent has ended.
        self.process = begin(_work, childs_end, trainer, modules=TRAINING, ends_with_parent=False)
        childs_end.close()

    def train(self, pack: OpenPack) -> None:
        """Send the process a pack to train."""
        self.pack = pack
        with contextlib.suppress(OSError):  # the process is dead, which `listen` reports
            self.pipe.send(pack)

    def stop(self, number: int) -> None:
        """Tell the process to commit its pack and to end; later calls do nothing."""
        if not self.is_stopping:
            self.is_stopping = True
            with contextlib.suppress(OSError):
                self.pipe.send(number)

    def listen(self) -> tuple[OpenPack | None, int | Exception] | None:
        """Read one message of the process; a log line is logged.

        Returns:
            If a pack or the process has ended: the pack (None if there was none), and the number of
            runs that ended or the error that prevented their end. None after other messages.
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
        """Close the pipe, so that a waiting process ends; kill a process that trains a pack."""
        self.pipe.close()
        if self.pack is not None:
            self.process.kill()

    def join(self) -> None:
        """Wait one second for the end of the process, then kill it."""
        self.process.join(1.0)
        self.process.kill()
        self.process.join()


# ---- in the process ------------------------------------------------------------------------------


class _Relay(logging.Handler):
    """Log handler that sends log lines to the parent; also sends the outcomes of packs."""

    def __init__(self, pipe: connection.Connection) -> None:
        super().__init__()
        self.pipe, self.sending = pipe, threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        self.send((record.name, record.levelno, self.format(record)))

    def send(self, message: object) -> None:
        with contextlib.suppress(OSError), self.sending:  # the parent may have ended
            self.pipe.send(message)


def _work(pipe: connection.Connection, trainer: Trainer) -> None:
    """Train the packs that the parent sends, until the parent closes the pipe."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a KeyboardInterrupt then comes from user's code
    # A killed process would leave the default lock of tqdm, a semaphore, behind.
    std.tqdm.set_lock(threading.RLock())
    packs: queue.SimpleQueue[OpenPack | None] = queue.SimpleQueue()
    stop, relay = Stop(), _Relay(pipe)
    logging.getLogger().addHandler(relay)

    def listen() -> None:
        """Receive packs and numbers of signals; if the pipe closes, ask for an end."""
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
            pass  # by its parent, which needs no answer
        sys.stdout.flush()
        relay.send(outcome)
