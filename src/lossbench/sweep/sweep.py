"""Trains a list of runs: plans them in sweep.json, skips finished runs, trains all other packs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lossbench import records, store
from lossbench.question import Engine, Question, Run
from lossbench.records import status
from lossbench.sweep.backend import Backend
from lossbench.sweep.inventory import (
    ATTEMPTS,
    LOCK_PATIENCE,
    PLANNED,
    Inventory,
    OpenPack,
    Statuses,
)
from lossbench.sweep.planning import plan_runs
from lossbench.sweep.preflight import preflight
from lossbench.sweep.stop import Stop, stopping

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between two checks of packs that other processes train."""


@dataclass(frozen=True)
class Sweep:
    """Folder of runs, with the backend that trains them. Many processes may share the folder.

    Attributes:
        name, command: Name of the sweep and command line, as sweep.json records them.
        backend: Trainer of packs: this process, several of this machine, or a cluster. The caller
            that makes a backend ends it: `with sweep.backend:`.
        question: Question of the sweep, in words.
        seconds: Wall time spent so far, by part; see `timed`.
        checked: Finished packs whose files have been read and found undamaged.
    """

    folder: Path
    name: str
    command: str
    backend: Backend
    question: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    checked: set[Path] = field(default_factory=set)

    @property
    def engine(self) -> Engine:
        """Settings of the engine."""
        return self.backend.trainer.engine

    def run(
        self, runs: Sequence[Run], *, declaration: records.Declaration | None = None
    ) -> Statuses:
        """Train the missing runs, or wait while other processes train them.

        Runs that are done or diverged are skipped, and so are runs that have failed `ATTEMPTS`
        times. The declaration, if there is one, was fixed before any of the runs.

        Raises:
            ConfigError: A part of a run is refused, or the backend cannot train.
            Interrupted: A signal asked for an end; all work is committed.
            store.StoreError: A file of the sweep is damaged or cannot be written.
        """
        torch.set_num_threads(self.engine.threads)
        start, ended = time.monotonic(), 0
        abandoned: dict[str, tuple[OpenPack, str]] = {}
        with stopping() as stop:
            with self.timed("check"):
                Inventory(self.folder).check(self.checked)
                preflight(
                    runs,
                    self.engine.files,
                    seeds=(declaration or {}).get("seeds", ()),
                    own=self.backend.trainer.own,
                    patience=self.engine.patience,
                )
                self.backend.check()
            stop.check()
            allowed = self._begin(runs, declaration)
            packs = self._open_packs(runs, allowed)
            count = len({run.run_id for run in runs})
            missing = sum(len(pack.runs) for pack in packs)
            log.info(
                "%d runs, %d already there, %d to train in %d packs",
                *(count, count - missing, missing, len(packs)),
            )
            while packs:
                with self.timed("train"):
                    trained = self.backend.train(packs, stop)
                ended += trained.ended
                abandoned |= trained.abandoned
                if not trained.ended:
                    _wait_for_others(packs, stop)
                stop.check()
                packs = self._open_packs(runs, allowed)
                packs = [pack for pack in packs if pack.pack_id not in abandoned]
        if ended:
            parts = ", ".join(f"{part} {spent:.1f} s" for part, spent in self.seconds.items())
            spent = time.monotonic() - start
            log.info("%d runs in %.1f s (of this command until now: %s)", ended, spent, parts)
        known = {
            run.run_id: {**PLANNED, "reason": why}
            for pack, why in abandoned.values()
            for run in pack.runs
        }
        known |= {run_id: facts for run_id, facts in self.statuses().items() if facts != PLANNED}
        return {run.run_id: known.get(run.run_id, PLANNED) for run in runs}

    def statuses(self) -> Statuses:
        """Best recorded status of each run, with the reason, by run_id."""
        return Inventory(self.folder).statuses

    def settle(self, question: Question) -> None:
        """Record that a question is settled, if all recorded runs of the sweep have a result."""
        if all(facts["status"] in records.RESULTS for facts in self.statuses().values()):
            store.write(self.folder / status.SETTLED, store.sealed(self._settled(question)))

    def is_settled(self, question: Question) -> bool:
        """Whether `settle` recorded this question, and no record was changed or added since."""
        try:
            is_same = store.read_sealed(self.folder / status.SETTLED) == self._settled(question)
            return is_same and records.has_curves(self.folder, records.read_facts(self.folder))
        except (OSError, store.StoreError):
            return False

    def _settled(self, question: Question) -> dict[str, str]:
        return {"question": question.sha256, "records": store.sweep_sha(self.folder)}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Context that adds its duration to the `seconds` of one part of the work."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start

    def _begin(
        self, runs: Sequence[Run], declaration: records.Declaration | None
    ) -> dict[str, int]:
        """Plan the runs; returns the number of failures at which each run (run_id) still trains."""
        with self.timed("write"), store.lock(self.folder / store.LOCK, patience=LOCK_PATIENCE):
            store.clean_temporaries(self.folder)
            inventory = Inventory(self.folder)
            plan_runs(
                self.folder,
                runs,
                name=self.name,
                command=self.command,
                question=self.question,
                declaration=declaration,
                recorded=len(inventory.statuses),
            )
        failures = {run.run_id: inventory.failures[run.run_id] for run in runs}
        hopeless = sum(count >= ATTEMPTS for count in failures.values())
        if hopeless:
            log.warning(
                "%d runs have failed %d times and are not tried again. When the cause is removed, "
                "delete their packs' folders.",
                hopeless,
                ATTEMPTS,
            )
        return {run_id: min(count, ATTEMPTS - 1) for run_id, count in failures.items()}

    def _open_packs(self, runs: Sequence[Run], allowed: Mapping[str, int]) -> list[OpenPack]:
        """Unfinished packs of the runs that have no result yet."""
        queued = self.backend.queued(self.folder)
        with self.timed("write"), store.lock(self.folder / store.LOCK, patience=LOCK_PATIENCE):
            return Inventory(self.folder).open_packs(
                runs,
                pack_size=self.engine.pack_size,
                allowed=allowed,
                packs_at_once=self.backend.packs_at_once,
                queued=queued,
            )


def _wait_for_others(packs: Sequence[OpenPack], stop: Stop) -> None:
    """Wait until at least one of the packs is not in training by another process."""
    holders = {store.holder(pack.folder / store.LOCK) for pack in packs if pack.is_leased}
    if holders:
        names = ", ".join(sorted(holders))
        log.info("waiting for packs that other processes train: process %s", names)
    while all(pack.is_leased for pack in packs):
        stop.check()
        time.sleep(POLL_SECONDS)
