"""Backend that trains packs on the workers of a cluster, by an executor of `concurrent.futures`.

A worker trains a pack in a child process, by `backend.Processes`, which halves a pack that fails.
The command hands out packs and holds a lock in the sweep's folder. Workers commit their packs and
end when that lock is free, so that an interrupted or killed command loses no work; the next command
reads the leases and checkpoints in the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import multiprocessing
import platform
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

import lossbench
from lossbench import store
from lossbench.errors import in_a_line
from lossbench.progress import progress
from lossbench.question import ENGINE_SCHEMA, ConfigError
from lossbench.sweep.backend import (
    Backend,
    Processes,
    RetryPolicy,
    Trained,
    longest_first,
    run_count,
)
from lossbench.sweep.inventory import OpenPack
from lossbench.sweep.stop import Interrupted, Stop
from lossbench.sweep.training import Trainer, is_out_of_memory

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between two checks of the packs by a command, and of the command's lock by a worker."""

ANSWERING = 10
"""Seconds to wait for the answer of a scheduler, or for a lock."""

Cluster = Callable[[], AbstractContextManager[tuple[Executor, int]]]
"""Function that connects to a cluster: the context yields the executor of the cluster, and the
number of packs that its workers train together."""

COMMANDS = Path("commands")
"""Subfolder of a sweep with lock files: one for each command that has packs on workers, and one for
each pack that a worker trains."""


# ---- on the worker -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Answer of a worker that was given a pack.

    Attributes:
        machine: Name of the worker's machine.
        instructions: PyTorch's name of the processor's instruction set, on which bits depend.
        ended: Number of runs that came to an end.
        refusal: Reason why the worker could not train the pack; empty if the worker could.
        lines: Log lines of the training: name of the logger, level and text.
    """

    machine: str
    instructions: str
    ended: int = 0
    refusal: str = ""
    lines: tuple[tuple[str, int, str], ...] = ()


def versions() -> dict[str, str]:
    """Versions by name, which must be equal on a worker and in its command."""
    return {
        "lossbench": lossbench.__version__,
        "engine": str(ENGINE_SCHEMA),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def train_there(
    trainer: Trainer, pack: OpenPack, lock: Path, expected: Mapping[str, str]
) -> Answer:
    """Train a pack on a worker; commit the pack and end early if the command's `lock` is free.

    The pack's folder is absolute; `expected` is the result of `versions` in the command.
    """
    answer = Answer(socket.gethostname(), torch.backends.cpu.get_cpu_capability())
    present = versions()
    if others := [name for name in expected if present[name] != expected[name]]:
        different = ", ".join(f"{name} {present[name]} and not {expected[name]}" for name in others)
        refusal = f"it has {different}: give it the versions of the command"
        return dataclasses.replace(answer, refusal=refusal)
    if not pack.sweep_folder.is_dir():
        refusal = f"it does not see {pack.sweep_folder}: keep the sweep in a folder that all see"
        return dataclasses.replace(answer, refusal=refusal)
    lines, ended, refusal = _Lines(), 0, ""
    # A worker of Dask is a daemon, which Python forbids to begin processes.
    multiprocessing.current_process().daemon = False
    logging.getLogger("lossbench").addHandler(lines)
    try:
        with _while_held(lock, pack) as stop, Processes(trainer, 1) as apart:
            ended = apart.train([pack], stop).ended
    except Interrupted:
        pass  # the command has ended, and needs no answer
    except (ConfigError, store.StoreError) as error:
        refusal = str(error)
    finally:
        logging.getLogger("lossbench").removeHandler(lines)
    return dataclasses.replace(answer, ended=ended, refusal=refusal, lines=tuple(lines.lines))


@contextlib.contextmanager
def _while_held(lock: Path, pack: OpenPack) -> Iterator[Stop]:
    """Context that yields a `Stop`, which asks for an end if the command loses its lock.

    The context holds a lock for the pack, so that the command waits until the pack is committed.

    Raises:
        store.StoreError: The command does not hold its lock.
    """
    stop, is_over = Stop(), threading.Event()

    def watch() -> None:
        is_held = True
        while is_held and not is_over.wait(POLL_SECONDS):
            try:
                is_held = store.is_held(lock)
            except store.StoreError:
                is_held = False  # the folder is gone: nothing can be committed there either
        stop.signal = signal.SIGTERM

    lock_of_pack = lock.with_suffix(f".{pack.pack_id}")
    with store.lock(lock_of_pack, patience=ANSWERING):
        try:
            # Checked only now, so that a command that frees its lock sees the lock of this worker.
            if not store.is_held(lock):
                raise store.StoreError(
                    f"this worker does not see that the command holds {lock}: the command has "
                    "ended, or the file system's locks do not reach this machine"
                )
            threading.Thread(target=watch, daemon=True).start()
            yield stop
        finally:
            is_over.set()
            lock_of_pack.unlink(missing_ok=True)


class _Lines(logging.Handler):
    """Log handler that collects the lines of one thread; other threads may train other packs."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.lines.append((record.name, record.levelno, record.getMessage()))


# ---- in the command ------------------------------------------------------------------------------


class ExecutorBackend(Backend):
    """Trains packs on the workers of a cluster, such as Dask or Ray.

    A sweep has at least `workers` packs; at 0 as many as the workers train together.
    """

    def __init__(self, trainer: Trainer, cluster: Cluster, *, workers: int = 0) -> None:
        if workers < 0:
            raise ConfigError(
                f"hydra.launcher.workers={workers}: use a positive number, or 0 for as many "
                "as the cluster has"
            )
        self.trainer, self.cluster, self.workers = trainer, cluster, workers
        self.packs_at_once = workers or 1
        self.retries = RetryPolicy(trainer.engine)
        self.machines: dict[str, str] = {}  # by instruction set
        self.refusing: set[str] = set()  # machines that were named in a warning
        self.stack = contextlib.ExitStack()
        self.executor: Executor | None = None

    def close(self) -> None:
        """Disconnect from the cluster; ends a cluster that this backend has started."""
        self.stack.close()
        self.executor = None

    def check(self) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises:
            ConfigError: No cluster answers at the address, or the cluster's package is missing.
        """
        if self.executor is None:
            self.executor, count = self.stack.enter_context(self.cluster())
            self.packs_at_once = self.workers or max(1, count)
            log.info("workers train %d packs at a time", count)

    def train(self, packs: Sequence[OpenPack], stop: Stop) -> Trained:
        """See `Backend`; a pack that a worker could not train is tried again by the next call.

        If no run ended in a call, the packs that failed too often are abandoned.
        """
        assert self.executor is not None
        folder = packs[0].sweep_folder.absolute() / COMMANDS
        for old in folder.glob("*"):
            with store.try_lock(old) as is_free:
                if is_free:
                    old.unlink(missing_ok=True)  # of a command or a worker that was killed
        lock = folder / f"{uuid.uuid4().hex}.lock"
        expected, futures = versions(), {}
        ended, left = 0, {}
        try:
            bar = progress(run_count(packs), unit="run", title="training")
            with store.lock(lock, patience=ANSWERING), bar:
                for pack in longest_first([pack for pack in packs if not pack.is_leased]):
                    absolute = dataclasses.replace(pack, folder=pack.folder.absolute())
                    arguments = self.trainer, absolute, lock, expected
                    try:
                        futures[self.executor.submit(train_there, *arguments)] = pack
                    except Exception as error:  # each cluster has its own errors
                        left[pack.pack_id] = pack, f"the cluster is gone: {one_line(error)}"
                while futures and not stop.signal:
                    for future in wait(futures, POLL_SECONDS, FIRST_COMPLETED).done:
                        pack = futures.pop(future)
                        count, reason = self._ended(pack, future)
                        ended += count
                        if reason:
                            left[pack.pack_id] = pack, reason
                    bar.update(ended - bar.n)
        finally:
            # The lock is free now: workers commit the packs that train, and start no other pack.
            lock.unlink(missing_ok=True)
            for future in futures:
                future.cancel()
        if any(map(store.is_held, folder.glob(f"{lock.stem}.*"))):
            log.info("waiting for the workers, which commit the packs that they train")
        while any(map(store.is_held, folder.glob(f"{lock.stem}.*"))):
            time.sleep(0.1)
        stop.check()
        if ended:
            return Trained(ended)
        if left:
            _, reason = next(iter(left.values()))
            log.warning("%d packs are left for the next command: %s", len(left), reason)
        return Trained(0, left)

    def _ended(self, pack: OpenPack, future: Future[Answer]) -> tuple[int, str]:
        """Number of a pack's runs that have ended, and the reason to abandon the pack, or ""."""
        try:
            answer = future.result()
        except Exception as error:
            how, record = f"its worker was lost: {one_line(error)}", pack.record
            is_of_pack = is_out_of_memory(error) or bool(record and record["starts"])
            if not is_of_pack:
                log.warning("pack %s: %s", pack.pack_id, how)
        else:
            self._log(answer)
            if not answer.refusal:
                return answer.ended, ""
            how, is_of_pack = f"{answer.machine}: {answer.refusal}", False
            if answer.machine not in self.refusing:
                self.refusing.add(answer.machine)
                log.warning("%s; its packs go to other workers", how)
        return 0, self.retries.reason(pack, how, is_of_pack=is_of_pack)

    def _log(self, answer: Answer) -> None:
        """Log the lines of a worker, and warn if workers have processors of several kinds."""
        for name, level, text in answer.lines:
            logging.getLogger(name).log(level, "%s: %s", answer.machine, text)
        if answer.instructions not in self.machines:
            self.machines[answer.instructions] = answer.machine
            if len(self.machines) > 1:
                kinds = ", ".join(f"{kind} on {name}" for kind, name in self.machines.items())
                log.warning(
                    "workers have processors of several kinds (%s): losses that trained on "
                    "different ones are not compared. Use workers of one kind.",
                    kinds,
                )


# ---- for clusters --------------------------------------------------------------------------------


def import_package(name: str, extra: str) -> ModuleType:
    """Import the package of a cluster, which is installed with an extra of lossbench."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"hydra.launcher.executor={extra} needs {name} ({error}): "
            f"pip install 'lossbench[{extra}]'"
        ) from error


def unreachable(cluster: str, address: str | None, error: Exception) -> ConfigError:
    """Error for an address at which no cluster answers."""
    return ConfigError(
        f"no {cluster} answers at hydra.launcher.address={address} ({one_line(error)}): "
        "start it, or correct the address"
    )


def one_line(error: Exception) -> str:
    """Type and text of an error in one line."""
    return f"{type(error).__name__}: {in_a_line(error)[:300]}"
