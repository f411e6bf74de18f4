"""Backends that train packs in one or several local processes; clusters: `slurm`, `executors`."""

from __future__ import annotations

import abc
import logging
import signal
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Self

from lossbench import store
from lossbench.engine import failed
from lossbench.progress import progress
from lossbench.question import ConfigError, Engine
from lossbench.question.packs import name_of
from lossbench.sweep.inventory import LOCK_PATIENCE, OpenPack, new_pack
from lossbench.sweep.stop import Stop
from lossbench.sweep.training import OutOfMemory, Trainer, finish
from lossbench.sweep.worker import Died, Worker

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""Longest wait for a message of a process, in seconds."""

TRIES = 2
"""Number of failures on a cluster after which a pack is halved or abandoned."""


@dataclass(frozen=True)
class Trained:
    """Result of a backend's work on packs.

    Attributes:
        ended: Number of runs that came to an end.
        abandoned: Packs that the command does not wait for any longer, by pack_id, with the reason.
    """

    ended: int
    abandoned: Mapping[str, tuple[OpenPack, str]] = field(default_factory=dict)


class Backend(abc.ABC):
    """Trainer of packs, a context manager: leaving the context ends all processes of the backend.

    Attributes:
        trainer: Settings of a training.
        packs_at_once: Number of packs that train together; a sweep gets at least as many packs.
    """

    trainer: Trainer
    packs_at_once: int = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  a backend without processes has nothing to end
        """End all processes and connections of the backend."""

    def check(self) -> None:  # noqa: B027  most backends need nothing
        """Refuse a machine on which the backend cannot train, before anything is written.

        Raises:
            ConfigError: The machine lacks a program, a package or a connection.
        """

    def queued(self, sweep_folder: Path) -> set[str]:
        """Names (pack_id) of the packs in the backend's own queue, which must not be divided."""
        return set()

    @abc.abstractmethod
    def train(self, packs: Sequence[OpenPack], stop: Stop) -> Trained:
        """Train packs until all have ended or an end is asked for; a pack that fails is halved.

        Packs that another process trains are skipped.

        Raises:
            Interrupted: An end was asked for; all work is committed.
            ConfigError: No process can be started, or the GPU's memory is too small.
            store.StoreError: A file of the sweep is damaged or cannot be written.
        """


class InProcess(Backend):
    """Trains in this process, one pack after the other."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def train(self, packs: Sequence[OpenPack], stop: Stop) -> Trained:
        """See `Backend`; a pack whose last process was killed trains in a process of its own."""
        return Trained(
            sum(
                self._train(pack, f"pack {number}/{len(packs)}", stop)
                for number, pack in enumerate(packs, 1)
            )
        )

    def _train(self, pack: OpenPack, title: str, stop: Stop) -> int:
        """Train a pack, or its halves if memory is too small; returns the number of ended runs."""
        stop.check()
        if pack.is_suspect:
            log.warning(
                "%s: its last process was killed, so the pack trains in a process of its own now",
                title,
            )
            with Processes(self.trainer, 1) as apart:
                return apart.train([pack], stop).ended
        try:
            return len(self.trainer.train(pack, stop, title) or ())
        except OutOfMemory as error:
            ended, halves = split_pack(pack, error, self.trainer.engine)
        return ended + sum(self._train(half, title, stop) for half in halves)


class Processes(Backend):
    """Trains in several processes of this machine, which live as long as the backend does.

    Each process trains with `engine.threads` threads, so that results are bitwise equal to those
    of a single process.
    """

    def __init__(self, trainer: Trainer, count: int) -> None:
        self.trainer = trainer
        self.packs_at_once = count
        self.processes: list[Worker] = []

    def close(self) -> None:
        """End the processes; later commands train unfinished packs from their checkpoints."""
        for process in self.processes:
            process.release()
        for process in self.processes:
            process.join()
        self.processes = []

    def train(self, packs: Sequence[OpenPack], stop: Stop) -> Trained:
        """See `Backend`; the longest packs train first. A single pack may train in this process."""
        if len(packs) == 1 and self.packs_at_once > 1 and not self.processes:
            return InProcess(self.trainer).train(packs, stop)
        try:
            return Trained(self._train(packs, stop))
        except BaseException:
            self.close()
            raise

    def _train(self, packs: Sequence[OpenPack], stop: Stop) -> int:
        waiting = deque(longest_first(packs))
        ended, trouble = 0, None
        with progress(run_count(packs), unit="run", title="training") as bar:
            while waiting or any(process.pack for process in self.processes):
                if stop.signal or trouble:
                    waiting.clear()
                    for process in self.processes:
                        process.stop(stop.signal or signal.SIGTERM)
                # Forget processes that died, and start as many as there is work for.
                self.processes = [process for process in self.processes if not process.is_dead]
                busy = sum(process.pack is not None for process in self.processes)
                wanted = min(self.packs_at_once, busy + len(waiting))
                while len(self.processes) < wanted:
                    self.processes.append(Worker(self.trainer))
                for process in self.processes:
                    if process.pack is None and waiting:
                        process.train(waiting.popleft())
                pipes = {process.pipe: process for process in self.processes}
                for pipe in connection.wait([*pipes], POLL_SECONDS):
                    process = pipes[pipe]  # type: ignore[index]
                    message = process.listen()
                    if message is None:
                        continue
                    pack, outcome = message
                    if process.is_dead and not process.is_ready:
                        raise ConfigError(
                            "a process for training ended before it was ready: correct the error "
                            "printed above, or train in one process with hydra.launcher.workers=1"
                        )
                    if isinstance(outcome, int):
                        ended += outcome
                    elif isinstance(outcome, store.StoreError | ConfigError):
                        trouble = outcome
                    elif pack is not None:
                        hopeless, halves = split_pack(pack, outcome, self.trainer.engine)
                        ended += hopeless
                        waiting.extend(halves)
                    bar.update(ended - bar.n)
        stop.check()
        if trouble is not None:
            raise trouble
        return ended


def longest_first(packs: Sequence[OpenPack]) -> list[OpenPack]:
    """Sort packs, the longest first, because in that order all packs together end soonest."""
    return sorted(packs, key=lambda pack: sum(run.steps for run in pack.runs), reverse=True)


def run_count(packs: Sequence[OpenPack]) -> int:
    """Number of runs in packs."""
    return sum(len(pack.runs) for pack in packs)


class RetryPolicy:
    """Decides whether a pack that ended unfinished on a cluster is retried, halved or abandoned."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.deaths: Counter[tuple[str, int]] = Counter()  # ends by pack_id and step
        self.others: Counter[str] = Counter()  # ends by pack_id, without fault of a run

    def reason(self, pack: OpenPack, how: str, *, is_of_pack: bool, last_words: str = "") -> str:
        """Reason to abandon a pack; empty if the pack is not abandoned.

        A pack is halved if its runs, and not a machine, may be to blame (`is_of_pack`) and `TRIES`
        attempts ended at the same step. `how` and the last words of the process describe the end.
        """
        record = pack.record
        if record is None or pack.is_leased:
            return ""  # finished or changed by now, or another process has it
        pack_id, step = pack.pack_id, int(record["step"])
        if not is_of_pack:
            self.others[pack_id] += 1
            is_hopeless = self.others[pack_id] >= TRIES
            return f"{how}, not finished{last_words}" if is_hopeless else ""
        self.deaths[pack_id, step] += 1
        log.warning("pack %s ended at step %d: %s", pack_id, step, how)
        if self.deaths[pack_id, step] >= TRIES:
            split_pack(pack, Died(how + last_words), self.engine)
        return ""


def split_pack(pack: OpenPack, error: Exception, engine: Engine) -> tuple[int, list[OpenPack]]:
    """Replace a pack that could not be trained by two halves; a pack of one run is recorded failed.

    Returns:
        Number of runs that are recorded as failed, and the halves; 0 and no halves if another
        process has the pack, or if the pack is finished or its members changed.

    Raises:
        ConfigError: The GPU's memory is too small. On a GPU all packs are padded to one size, so a
            half needs as much.
    """
    title, count = f"pack {pack.pack_id}", len(pack.runs)
    if isinstance(error, OutOfMemory) and engine.device == "cuda":
        raise ConfigError(
            f"{title}, {count} runs, does not fit into the GPU's memory "
            f"({str(error).splitlines()[0]}): use engine.pack_size={engine.pack_size // 2}"
        ) from error
    with store.lock(pack.sweep_folder / store.LOCK, patience=LOCK_PATIENCE), pack.lease() as record:
        if record is None:
            return 0, []
        if count == 1:
            log.error("run %s failed: %s", pack.runs[0].run_id, error)
            finish(pack, failed(pack.pack, f"{type(error).__name__}: {error}"))
            return 1, []
        log.warning("%s, %d runs: %s; each half is tried on its own", title, count, error)
        middle = count // 2
        halves = [
            new_pack(pack.folder.with_name(name_of(half)), half)
            for half in (pack.runs[:middle], pack.runs[middle:])
        ]
        store.dissolve(pack.folder)
        return 0, halves
