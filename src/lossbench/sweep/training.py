"""Trains one pack of a sweep: from its start or its last checkpoint, to its tables."""

from __future__ import annotations

import functools
import logging
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch

from lossbench import records, store
from lossbench.engine import Machine, OtherStart, Saved, Snapshot, failed, train
from lossbench.engine.state import FORMAT
from lossbench.fingerprints import device_name, environment_sha
from lossbench.progress import progress
from lossbench.question import ENGINE_SCHEMA, ConfigError, Engine, Run, refuse_other_code
from lossbench.sweep.invariance import recorded_invariance
from lossbench.sweep.inventory import OpenPack, Statuses, record_of
from lossbench.sweep.preflight import splits_of
from lossbench.sweep.pretrained import with_pretrained
from lossbench.sweep.stop import Stop
from lossbench.user_code import CALL_PATIENCE, Own

log = logging.getLogger(__name__)


class OutOfMemory(Exception):
    """A pack does not fit into memory."""


@dataclass(frozen=True)
class Trainer:
    """Trains packs of a sweep, in this process or, sent as a pickle, in another process.

    Attributes:
        engine: Settings of the engine.
        own: Losses, data and models of the user, which each process has to load.
        place: Working folder of the command, to which relative paths and extensions refer.
    """

    engine: Engine
    own: Own = field(default_factory=Own)
    place: Path = field(default_factory=Path.cwd)

    @functools.cached_property
    def machine(self) -> Machine:
        """Machine of the engine, with intermediate results that the packs of this process share."""
        device = torch.device(self.engine.device)
        return Machine(device, self.engine.padding, self.engine.strategies)

    def prepare(self, runs: Sequence[Run]) -> None:
        """Prepare a new process for training: working folder, user's code, log level and threads.

        Raises:
            ConfigError: The command's folder is missing, an extension cannot be loaded, or code
                differs from the code with which the runs were planned.
        """
        try:
            os.chdir(self.place)
        except OSError as error:
            raise ConfigError(
                f"{self.place}, where the command was given, is not there "
                f"({error.strerror}): give the command in a folder that all workers can see"
            ) from error
        logging.getLogger("lossbench").setLevel(logging.INFO)
        self.own.load()
        refuse_other_code(runs)
        torch.set_num_threads(self.engine.threads)

    def train(self, pack: OpenPack, stop: Stop, title: str = "") -> Statuses | None:
        """Train a pack, unless another process trains it or has finished it.

        Returns:
            Status and reason of the pack's runs by run_id; None if the pack was not trained.

        Raises:
            OutOfMemory: The pack does not fit into memory.
            Interrupted: An end was asked for; the pack's checkpoint is committed.
            store.StoreError: A file of the pack cannot be written or read.
        """
        before = CALL_PATIENCE.set(self.engine.patience)
        try:
            with pack.lease() as record:
                return Training(self, pack, record, stop, title).run() if record else None
        finally:
            CALL_PATIENCE.reset(before)


class Training:
    """Training of one pack, whose lease this process holds; commits checkpoints now and then."""

    def __init__(
        self, trainer: Trainer, pack: OpenPack, record: store.Record, stop: Stop, title: str
    ) -> None:
        self.engine, self.machine = trainer.engine, trainer.machine
        self.pack, self.stop = pack, stop
        self.folder, self.first = pack.folder, pack.runs[0]
        self.saved = self._saved(record)
        self.record = record if self.saved else {**record, "files": {}, "step": 0}
        self.last_commit = time.monotonic()
        self.bar = progress(
            self.first.steps,
            unit="step",
            title=f"{self.first.data.name} {title}" if title else "",
            initial=self.record["step"],
        )

    def run(self) -> Statuses:
        """Train the pack from its start or checkpoint; returns status and reason of its runs."""
        store.clean(self.folder)
        # Count the start, in case this process crashes.
        self._commit(self.record["step"], {}, starts=self.record["starts"] + 1)
        statuses = finish(self.pack, self._tables())
        for run_id, status in statuses.items():
            if status["status"] == "failed":
                log.error("run %s failed: %s", run_id, status["reason"].splitlines()[-1])
        return statuses

    def __call__(self, step: int, snapshot: Snapshot) -> None:
        """Commit a checkpoint if it is time; if an end is asked for, also raise `Interrupted`."""
        if step % self.first.log_every == 0:
            self.bar.update(step - self.bar.n)
        is_due = time.monotonic() - self.last_commit >= self.engine.commit_every
        is_last = bool(self.stop.signal)
        if is_due or is_last:
            try:
                saved = snapshot()
                files = {
                    f"part-{saved.step:09d}.pt": saved.parts[0],
                    f"checkpoint-{saved.step:09d}.pt": saved.checkpoint,
                }
                self._commit(saved.step, files, starts=0 if is_last else self.record["starts"])
            except (KeyError, AssertionError, OSError) as error:
                raise store.StoreError(
                    f"{self.folder}: another process changed it while it trained here"
                ) from error
            self.last_commit = time.monotonic()
        if is_last:
            self.stop.check()

    def _tables(self) -> dict[str, pa.Table]:
        """Train the pack and return its tables; if the training raises, tables of failed runs."""
        engine, folder = self.engine, self.pack.sweep_folder
        try:
            # Whether members depend on their pack-mates on this machine, as it was measured.
            measured = recorded_invariance(
                folder, engine.device, self.first.precision, engine.padding
            )
            splits = {
                seed: with_pretrained(
                    run, splits_of(run, engine.files), sweep_folder=folder, stop=self.stop
                )
                for seed, run in {run.seed: run for run in self.pack.runs}.items()
            }
            trained = functools.partial(
                train,
                self.pack.pack,
                splits,
                self.machine,
                flush=self,
                environment={"packs": measured.mode},
            )
            with self.bar:
                try:
                    return trained(saved=self.saved)
                except OtherStart as difference:
                    log.warning(
                        "pack %s begins again: its checkpoint was written with another %s",
                        self.folder.name, difference,
                    )  # fmt: skip
                    self.record = {**self.record, "files": {}}
                    self._commit(0, {}, starts=self.record["starts"])
                # Outside the handler, where nothing holds on to the first attempt any more.
                return trained(saved=None)
        except store.StoreError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(str(error)) from error
            return failed(self.pack.pack, traceback.format_exc())

    def _saved(self, record: store.Record) -> Saved | None:
        """State at the last checkpoint; None if the pack trains from its start."""
        if not record["files"]:
            return None
        if record["made_by"] != self.made_by:
            log.warning(
                "pack %s was begun by other versions, on another machine or with other threads: "
                "it begins again, because its numbers would not be bitwise equal",
                self.folder.name,
            )
            return None
        try:
            content = {name: store.read(self.folder, name, record) for name in record["files"]}
        except store.StoreError as error:
            log.warning(
                "pack %s begins again, its checkpoint cannot be read: %s", self.folder.name, error
            )
            return None
        parts = tuple(content[name] for name in sorted(content) if name.startswith("part-"))
        (checkpoint,) = (name for name in content if name.startswith("checkpoint-"))
        return Saved(record["step"], content[checkpoint], parts)

    @functools.cached_property
    def made_by(self) -> str:
        """Versions and settings on which the bits of results depend, except settings of runs."""
        device = device_name(self.machine.device)
        sha = environment_sha(device, self.first.precision)
        strategies = ", ".join(sorted(self.engine.strategies))
        return f"{ENGINE_SCHEMA}:{FORMAT}:{self.engine.padding}:{sha}:{strategies}"

    def _commit(self, step: int, files: dict[str, bytes], *, starts: int) -> None:
        """Commit new files and keep old parts; if there are no new files, keep all old files."""
        keep = [name for name in self.record["files"] if not files or name.startswith("part-")]
        record = record_of(self.record["members"], step=step, starts=starts, made_by=self.made_by)
        store.commit(self.folder, files, record, keep=keep)
        self.record = store.committed(self.folder) or record


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, torch or CUDA says that memory was too small."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    phrases = ("can't allocate memory", "out of memory", "not enough memory", "low on memory")
    return isinstance(error, kinds) or any(phrase in str(error).lower() for phrase in phrases)


def finish(pack: OpenPack, tables: Mapping[str, pa.Table]) -> Statuses:
    """Commit the tables of a pack, which finishes the pack; the caller holds the lease."""
    rows = tables["runs"].select(["run_id", "status", "reason"]).to_pylist()
    statuses = {row["run_id"]: {"status": row["status"], "reason": row["reason"]} for row in rows}
    files = {f"{name}.parquet": records.encode(table) for name, table in tables.items()}
    store.commit(pack.folder, files, record_of(statuses, is_finished=True))
    return statuses
