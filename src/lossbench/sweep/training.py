"""Trains one pack of a sweep: from its start or its last checkpoint, to its tables."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from tqdm import tqdm

from lossbench import records, store
from lossbench.engine import Saved, Snapshot, failed, strategies, train
from lossbench.engine.state import FORMAT
from lossbench.pairing import device_name, environment_sha
from lossbench.runs import ENGINE_SCHEMA, Engine
from lossbench.sweep.invariance import known
from lossbench.sweep.leases import Claim, Members, state_of
from lossbench.sweep.preflight import splits_of

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ask for an end in order: what is training is committed first."""


class Interrupted(KeyboardInterrupt):
    """A signal asked for an end; all that was done is committed.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class OutOfMemory(Exception):
    """A pack does not fit into the memory there is."""


class HandedOver(BaseException):
    """Other processes go on with what was training here; all that was done is committed."""


class Stop:
    """Whether an end of what is training has been asked for.

    Attributes:
        signal: Number of the one that asked, 0 before.
        is_handover: Whether other processes are ready to go on with it.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.is_handover: Callable[[], bool] = lambda: False

    def is_asked(self) -> bool:
        """Whether to commit what is training, and end."""
        return bool(self.signal) or self.is_handover()

    def check(self) -> None:
        """End here if an end was asked for.

        Raises:
            Interrupted: By a signal.
            HandedOver: By processes that go on.
        """
        if self.signal:
            raise Interrupted(self.signal)
        if self.is_handover():
            raise HandedOver


@contextmanager
def stopping() -> Iterator[Stop]:
    """Catches `SIGNALS`; a second one ends at once, and loses nothing that is committed."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # no other thread may catch signals
        return

    def note(number: int, _: Any) -> None:
        if stop.signal:
            raise Interrupted(number)
        stop.signal = number
        log.info(
            "%s: committing what is training; once more to end at once",
            signal.Signals(number).name,
        )

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Job:
    """One pack to be trained, in this process or another.

    Attributes:
        claim: The pack.
        engine: How to train.
        title: Of its progress bar; empty for none.
    """

    claim: Claim
    engine: Engine
    title: str

    def run(self, stop: Stop) -> Members | None:
        """Train it unless it is being trained, or has been meanwhile.

        Returns:
            Status and reason of its runs; None where there was nothing to do.

        Raises:
            OutOfMemory: It does not fit.
            Interrupted: An end was asked for; its checkpoint is committed.
            store.StoreError: Its files cannot be written or read.
        """
        with store.try_lock(self.claim.folder / store.LOCK) as is_mine:
            state = self.claim.record if is_mine else None
            return self._trained(state, stop) if state else None

    def _trained(self, state: dict[str, Any], stop: Stop) -> Members:
        store.clean(self.claim.folder)
        saved = self._saved(state)
        progress = _Progress(self, state if saved else {**state, "files": {}, "step": 0}, stop)
        progress.begin()
        members = finished(self.claim, self._tables(saved, progress))
        for run_id, facts in members.items():
            if facts["status"] == "failed":
                log.error("run %s failed: %s", run_id, facts["reason"].splitlines()[-1])
        return members

    def _tables(self, saved: Saved | None, progress: _Progress) -> dict[str, pa.Table]:
        pack = self.claim.pack
        try:
            one_each = {run.seed: run for run in pack.runs}
            splits = {seed: splits_of(run) for seed, run in one_each.items()}
            with progress:
                return train(
                    pack,
                    splits,
                    device=torch.device(self.engine.device),
                    padding=self.engine.padding,
                    flush=progress,
                    saved=saved,
                    noted={"packs": self.packs},
                    strategies=self.engine.strategies,
                )
        except store.StoreError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(str(error)) from error
            return failed(pack, traceback.format_exc())

    def _saved(self, state: dict[str, Any]) -> Saved | None:
        """Where the pack stopped; None where it has to begin again, which is said."""
        folder, files = self.claim.folder, state["files"]
        if not files:
            return None
        if state["made_by"] != self.made_by:
            log.warning(
                "pack %s was begun by other versions, on another machine or with other threads: "
                "it begins again, because its bits would not be the same",
                folder.name,
            )
            return None
        try:
            content = {name: store.read(folder, name, state) for name in files}
        except store.StoreError as error:
            log.warning("pack %s begins again: %s", folder.name, error)
            return None
        parts = tuple(content[name] for name in sorted(content) if name.startswith("part-"))
        (checkpoint,) = (name for name in content if name.startswith("checkpoint-"))
        return Saved(state["step"], content[checkpoint], parts)

    @property
    def packs(self) -> str:
        """Whether members depend on their pack-mates on this machine, as it was measured."""
        precision = self.claim.pack.runs[0].precision
        sweep = self.claim.folder.parent.parent
        return known(sweep, self.engine.device, precision, self.engine.padding).mode

    @property
    def made_by(self) -> str:
        """Everything that bits depend on beside the runs themselves."""
        device = torch.device(self.engine.device)
        sha = environment_sha(device_name(device), self.claim.pack.runs[0].precision)
        versions = strategies.versions(self.engine.strategies)
        return f"{ENGINE_SCHEMA}:{FORMAT}:{self.engine.padding}:{sha}:{versions}"


class _Progress:
    """Commits a pack's state now and then, and moves its bar."""

    def __init__(self, job: Job, state: dict[str, Any], stop: Stop) -> None:
        self.job = job
        self.state = state
        self.stop = stop
        self.last = time.monotonic()
        run = job.claim.pack.runs[0]
        self.bar = tqdm(
            total=run.steps,
            initial=state["step"],
            desc=f"{run.stage} {run.data.name} {job.title}",
            unit="step",
            leave=False,
            disable=not (job.title and sys.stdout.isatty()),
        )
        self.every = run.log_every

    def begin(self) -> None:
        """Note that a process has begun, for the case that it ends without a word."""
        self.commit(self.state["step"], {}, [*self.state["files"]], starts=self.state["starts"] + 1)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, step: int, snapshot: Snapshot) -> None:
        if step % self.every == 0:
            self.bar.update(step - self.bar.n)
        is_due = time.monotonic() - self.last >= self.job.engine.commit_every
        is_asked = self.stop.is_asked()
        if is_due or is_asked:
            try:
                self._keep(snapshot(), is_last=is_asked)
            except (KeyError, AssertionError, OSError) as error:
                raise store.StoreError(
                    f"{self.job.claim.folder}: another process changed it while it trained here"
                ) from error
            self.last = time.monotonic()
        if is_asked:
            self.stop.check()

    def _keep(self, saved: Saved, *, is_last: bool) -> None:
        parts = [name for name in self.state["files"] if name.startswith("part-")]
        files = {
            f"part-{saved.step:09d}.pt": saved.parts[0],
            f"checkpoint-{saved.step:09d}.pt": saved.checkpoint,
        }
        starts = 0 if is_last else self.state["starts"]
        self.commit(saved.step, files, parts, starts=starts)

    def commit(self, step: int, files: dict[str, bytes], keep: list[str], *, starts: int) -> None:
        folder, members = self.job.claim.folder, self.state["members"]
        facts = state_of(members, step=step, starts=starts, made_by=self.job.made_by)
        store.commit(folder, files, facts, keep=keep)
        self.state = store.committed(folder) or facts


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory was too small, in the words of Python, torch or CUDA."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    told = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, kinds) or any(words in str(error).lower() for words in told)


def give_up(claim: Claim, reason: str) -> Members:
    """Record the runs of a pack that cannot be trained as failed; its lock is held."""
    return finished(claim, failed(claim.pack, reason))


def finished(claim: Claim, tables: Mapping[str, pa.Table]) -> Members:
    """Commit the tables of a pack as its last word; its lock is held."""
    rows = tables["runs"].select(["run_id", "status", "reason"]).to_pylist()
    members = {row["run_id"]: {"status": row["status"], "reason": row["reason"]} for row in rows}
    files = {f"{name}.parquet": records.encode(table) for name, table in tables.items()}
    store.commit(claim.folder, files, state_of(members, is_finished=True))
    return members
