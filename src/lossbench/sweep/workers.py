"""Packs in several processes of this machine, which live as long as the command.

Each process trains one pack after the other with the threads that `engine.threads` says, so that
results are the bits of a single process. It is a process of its own session: signals reach it
through the command only, over the pipe that also brings it packs. When the command is gone the
pipe ends, and so does the process, after it has committed what it trains.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe, connection, get_context, resource_tracker
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lossbench import store
from lossbench.runs import ConfigError, Engine
from lossbench.sweep.care import Here, Left, broken, seen_to
from lossbench.sweep.isolation import death, prepare
from lossbench.sweep.leases import Claim
from lossbench.sweep.training import SIGNALS, HandedOver, Interrupted, Job, OutOfMemory, Stop

if TYPE_CHECKING:
    from lossbench.sweep.sweep import Sweep

log = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that a command trains by itself first: about what it takes to begin a process. What is
done by then never pays for one."""

LOOK = 0.1
"""Seconds between two looks at processes."""


class Workers:
    """The crew that is several processes.

    Args:
        count: Of processes.
        at_once: Whether they begin before anything is trained; else the command itself trains for
            `GRACE` seconds, and until they are ready, and hands over what it trains then.
    """

    def __init__(self, count: int, *, at_once: bool) -> None:
        self.hands = count
        self.is_due = at_once
        self.grace = GRACE
        self.processes: list[_Worker] = []

    def check(self) -> None:
        """Any machine will do."""

    def holding(self, sweep: Sweep) -> set[str]:
        """It has no queue."""
        return set()

    def train(self, sweep: Sweep, claims: Sequence[Claim], stop: Stop, left: Left) -> int:
        """Train them, several at a time."""
        if self.hands < 2 or (len(claims) < 2 and not self.processes):
            return Here().train(sweep, claims, stop, left)
        self.is_due |= any(claim.is_suspect for claim in claims)
        try:
            ended = 0 if self.is_due else self._alone(sweep, claims, stop)
            rest = [claim for claim in claims if claim.record is not None] if ended else claims
            return ended + (self._together(sweep, rest, stop) if self.is_due else 0)
        except BaseException:
            self.dismiss()
            raise

    def dismiss(self) -> None:
        """End all processes; what they were training goes on from its last checkpoint."""
        for worker in self.processes:
            worker.release()
        for worker in self.processes:
            worker.end()
        self.processes = []
        atexit.unregister(self.dismiss)

    # ---- the first seconds -----------------------------------------------------------------------

    def _alone(self, sweep: Sweep, claims: Sequence[Claim], stop: Stop) -> int:
        """Train here until the processes are ready; sets `is_due` where there is more to do."""
        relief, ended, start = _Relief(self, sweep, len(claims)), 0, time.monotonic()
        stop.is_handover = relief.is_ready
        try:
            for place, claim in enumerate(claims):
                title = f"pack {place + 1}/{len(claims)}"
                ended += seen_to(claim, sweep.engine, sweep.extensions, stop, title)
        except HandedOver:
            self.is_due = True
        finally:
            stop.is_handover = lambda: False
            self.grace -= time.monotonic() - start
        return ended

    # ---- together --------------------------------------------------------------------------------

    def _together(self, sweep: Sweep, claims: Sequence[Claim], stop: Stop) -> int:
        """Hand the packs to the processes, the longest first."""
        waiting = deque(sorted(claims, key=_updates, reverse=True))
        runs, ended, trouble = sum(len(claim.pack.runs) for claim in claims), 0, None
        self.begin(sweep, len(waiting))
        with _bar(runs, claims) as bar:
            while waiting or any(worker.claim for worker in self.processes):
                if stop.signal or trouble:
                    waiting.clear()
                    self._stop(stop.signal or signal.SIGTERM)
                for worker in self.processes:
                    if worker.claim is None and waiting:
                        worker.give(waiting.popleft(), sweep)
                for worker in self._heard():
                    claim, outcome = worker.take()
                    if isinstance(outcome, int):
                        ended += outcome
                    elif isinstance(outcome, store.StoreError | ConfigError):
                        trouble = outcome
                    elif claim is not None and worker.is_ready:
                        halves = broken(claim, f"pack {claim.folder.name}", outcome)
                        waiting.extend(halves or ())
                        ended += halves == []
                    bar.update(ended - bar.n)
                self._replace(sweep, waiting)
        stop.check()
        if trouble is not None:
            raise trouble
        return ended

    def begin(self, sweep: Sweep, packs: int) -> None:
        """Have as many processes as there is work for; they are ready some seconds later."""
        if not self.processes:
            atexit.register(self.dismiss)  # before multiprocessing waits for its children
        for _ in range(min(self.hands, packs) - len(self.processes)):
            self.processes.append(_Worker(sweep.engine, sweep.extensions))

    def _replace(self, sweep: Sweep, waiting: Sequence[Claim]) -> None:
        """Others in the place of those that died; none where one could not even begin."""
        dead = [worker for worker in self.processes if worker.is_dead]
        if any(not worker.is_ready for worker in dead):
            raise ConfigError(
                "a process for training ends before it is ready, see above: mend that, or train in "
                "one process with hydra.launcher.workers=1"
            )
        self.processes = [worker for worker in self.processes if not worker.is_dead]
        if dead:
            self.begin(sweep, len(self.processes) + min(len(waiting), len(dead)))

    def _stop(self, number: int) -> None:
        for worker in self.processes:
            worker.stop(number)

    def _heard(self) -> Iterator[_Worker]:
        """Those that have said something, after a short while."""
        pipes = {worker.pipe: worker for worker in self.processes}
        for pipe in connection.wait([*pipes], LOOK):
            worker = pipes[pipe]  # type: ignore[index]
            if worker.listen():
                yield worker


class _Relief:
    """Begins the processes when a command has trained for a while, and says when they are ready."""

    def __init__(self, crew: Workers, sweep: Sweep, packs: int) -> None:
        self.crew, self.sweep, self.packs = crew, sweep, packs
        self.next = time.monotonic() + crew.grace

    def is_ready(self) -> bool:
        """Whether one of them waits for a pack."""
        if (now := time.monotonic()) < self.next:
            return False
        self.next = now + LOOK
        self.crew.begin(self.sweep, self.packs)
        for worker in self.crew.processes:
            while not worker.is_dead and worker.pipe.poll():
                worker.listen()
        is_ready = all(worker.is_ready or worker.is_dead for worker in self.crew.processes)
        self.next = now if is_ready else self.next
        return is_ready


class _Worker:
    """A process, as the command sees it."""

    def __init__(self, engine: Engine, extensions: Sequence[str]) -> None:
        self.claim: Claim | None = None
        self.outcome: int | Exception = 0
        self.is_ready = self.is_dead = self.is_told = False
        self.pipe, theirs = Pipe()
        arguments = (theirs, engine, [*extensions])
        self.process = get_context("spawn").Process(target=_work, args=arguments)
        resource_tracker.ensure_running()  # it would let signals through
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a child inherits that
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def give(self, claim: Claim, sweep: Sweep) -> None:
        """Have it train a pack."""
        self.claim = claim
        with contextlib.suppress(OSError):  # dead: the next look says so
            self.pipe.send((Job(claim, sweep.engine, title=""), [*sweep.extensions]))

    def stop(self, number: int) -> None:
        """Have it commit what it trains and end, once."""
        if not self.is_told:
            self.is_told = True
            with contextlib.suppress(OSError):
                self.pipe.send(number)

    def listen(self) -> bool:
        """Take one thing that it says; whether its pack has ended, or itself."""
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.is_dead, self.outcome = True, death(self.process.exitcode or 0)
            return True
        if said == READY:
            self.is_ready = True
        elif isinstance(said, tuple):
            name, level, text = said
            logging.getLogger(name).log(level, "%s", text)
        else:
            self.outcome = said
            return True
        return False

    def take(self) -> tuple[Claim | None, int | Exception]:
        """The pack that has ended, None where it had none, and how."""
        claim, self.claim = self.claim, None
        return claim, self.outcome

    def release(self) -> None:
        """Let it end, if it is not training; else end it now."""
        self.pipe.close()
        if self.claim is not None:
            self.process.kill()

    def end(self) -> None:
        """Wait a moment for it to end, no longer."""
        self.process.join(1.0)
        self.process.kill()
        self.process.join()


def _updates(claim: Claim) -> int:
    return sum(run.steps for run in claim.pack.runs)


def _bar(runs: int, claims: Sequence[Claim]) -> tqdm:
    stage = "/".join(sorted({claim.pack.runs[0].stage for claim in claims}))
    return tqdm(total=runs, desc=stage, unit="run", leave=False, disable=not sys.stdout.isatty())


# ---- in the process ------------------------------------------------------------------------------

READY = "ready"

Jobs = queue.SimpleQueue[tuple[Job, list[str]] | None]
"""Packs and the extensions that each needs; None is the end."""


class _Relay(logging.Handler):
    """Tells the command what is logged."""

    def __init__(self, pipe: connection.Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            self.pipe.send((record.name, record.levelno, self.format(record)))


def _work(pipe: connection.Connection, engine: Engine, extensions: list[str]) -> None:
    """Train what is brought, until nothing more can come."""
    os.setsid()
    tqdm.set_lock(threading.RLock())  # its own one would be left behind by a process that is killed
    jobs: Jobs = queue.SimpleQueue()
    stop, relay = Stop(), _Relay(pipe)
    logging.getLogger().addHandler(relay)
    threading.Thread(target=_listen, args=(pipe, jobs, stop), daemon=True).start()
    prepare((), engine, extensions)
    _say(relay, READY)
    while (asked := jobs.get()) is not None:
        outcome = _outcome(*asked, stop)
        sys.stdout.flush()
        _say(relay, outcome)


def _say(relay: _Relay, what: Any) -> None:
    with contextlib.suppress(OSError), relay.lock or contextlib.nullcontext():
        relay.pipe.send(what)


def _listen(pipe: connection.Connection, jobs: Jobs, stop: Stop) -> None:
    """Take packs, and the number of a signal that asks for an end; the command's end is one too."""
    try:
        while True:
            said = pipe.recv()
            if isinstance(said, int):
                stop.signal = said
            else:
                jobs.put(said)
    except (EOFError, OSError):
        stop.signal = stop.signal or signal.SIGTERM
        jobs.put(None)


def _outcome(job: Job, extensions: Sequence[str], stop: Stop) -> int | Exception:
    """How many runs came to an end, or why they did not."""
    try:
        prepare(job.claim.pack.runs, job.engine, extensions)
        return len(job.run(stop) or ())
    except (OutOfMemory, store.StoreError, ConfigError) as error:
        return error
    except Interrupted:
        return 0
