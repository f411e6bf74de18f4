"""Runs a list of runs: plans them in sweep.json, skips what is done, sees every pack to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from lossbench import records, store
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve
from lossbench.runs import Engine, Run
from lossbench.sweep import plan
from lossbench.sweep.crews import Crew
from lossbench.sweep.leases import ATTEMPTS, PATIENCE, PLANNED, Lease, Leases, Statuses
from lossbench.sweep.preflight import preflight
from lossbench.sweep.training import Stop, stopping

log = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds between two looks at packs that other processes train."""


@dataclass(frozen=True)
class Sweep:
    """One folder of runs and what it takes to fill it. Any number of processes may share it.

    Attributes:
        folder: Where everything of the sweep is written.
        name: Of the sweep, as sweep.json records it.
        command: What was typed, recorded there too.
        crew: What trains packs, and how: this process, several of this machine, or a cluster. Who
            makes a crew ends it: `with sweep.crew:`.
        seconds: Wall time spent so far, by part; see `timed`.
    """

    folder: Path
    name: str
    command: str
    crew: Crew
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        """How packs are trained."""
        return self.crew.trainer.engine

    def run(self, runs: Sequence[Run], *, declaration: Mapping[str, Any] | None = None) -> Statuses:
        """Train what is missing of `runs`, or wait for other processes that do.

        Args:
            runs: What is asked for; runs that are done or diverged are skipped, and so are those
                that have failed `ATTEMPTS` times.
            declaration: What was fixed before any of them; None where nothing was.

        Returns:
            Status and reason by run_id.

        Raises:
            ConfigError: Data, model and batch size do not fit; nothing was trained.
            Interrupted: A signal asked for an end; what was done is committed.
            store.StoreError: A file of the sweep is damaged or cannot be written.
        """
        torch.set_num_threads(self.engine.threads)
        start, ended = time.monotonic(), 0
        abandoned: dict[str, tuple[Lease, str]] = {}
        with self.timed("check"):
            preflight(runs, self.engine.files)
            self.crew.check()
        with stopping() as stop:
            allowed = self._begin(runs, declaration)
            leases = self._leases(runs, allowed)
            stage = "/".join(sorted({run.stage for run in runs}))
            count = len({run.run_id for run in runs})
            missing = sum(len(lease.pack.runs) for lease in leases)
            log.info(
                "%s: %d runs, %d already there, %d to train in %d packs",
                *(stage, count, count - missing, missing, len(leases)),
            )
            while leases:
                with self.timed("train"):
                    trained = self.crew.train(leases, stop)
                ended += trained.ended
                abandoned |= trained.abandoned
                if not trained.ended:
                    self._wait(leases, stop)
                stop.check()
                leases = self._leases(runs, allowed)
                leases = [lease for lease in leases if lease.folder.name not in abandoned]
        if ended:
            so_far = ", ".join(f"{part} {spent:.1f} s" for part, spent in self.seconds.items())
            log.info("%d runs in %.1f s (so far: %s)", ended, time.monotonic() - start, so_far)
        known = {
            run.run_id: {**PLANNED, "reason": why}
            for lease, why in abandoned.values()
            for run in lease.pack.runs
        }
        known |= {run_id: facts for run_id, facts in self.statuses().items() if facts != PLANNED}
        return {run.run_id: known.get(run.run_id, PLANNED) for run in runs}

    def statuses(self) -> Statuses:
        """Status and reason of every recorded run, the best of each."""
        return Leases(self.folder).statuses

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds what it encloses to the seconds of one part of the work."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start

    def _begin(self, runs: Sequence[Run], declaration: Mapping[str, Any] | None) -> dict[str, int]:
        """Plan the runs; returns how often each may have failed before and be trained now."""
        with self.timed("write"), store.lock(self.folder / store.LOCK, patience=PATIENCE):
            store.clean_temporaries(self.folder)
            now = Leases(self.folder)
            self._plan(runs, declaration, recorded=len(now.statuses))
        failures = {run.run_id: now.failures[run.run_id] for run in runs}
        hopeless = sum(count >= ATTEMPTS for count in failures.values())
        if hopeless:
            log.warning(
                "%d runs have failed %d times and are not tried again. When the cause is mended, "
                "delete their packs' folders.",
                hopeless,
                ATTEMPTS,
            )
        return {run_id: min(count, ATTEMPTS - 1) for run_id, count in failures.items()}

    def _leases(self, runs: Sequence[Run], allowed: Mapping[str, int]) -> list[Lease]:
        """Leases on what is missing of the runs now."""
        queued = self.crew.queued(self.folder)
        with self.timed("write"), store.lock(self.folder / store.LOCK, patience=PATIENCE):
            return Leases(self.folder).take(
                runs,
                pack_size=self.engine.pack_size,
                allowed=allowed,
                hands=self.crew.hands,
                queued=queued,
            )

    def _wait(self, leases: Sequence[Lease], stop: Stop) -> None:
        """Until one of the packs that others train is free."""
        locks = [lease.folder / store.LOCK for lease in leases]
        holders = sorted({store.holder(lock) for lock in locks if store.is_held(lock)})
        if holders:
            log.info("waiting for process %s, which trains what is left", ", ".join(holders))
        while all(store.is_held(lock) for lock in locks):
            stop.check()
            time.sleep(LOOK)

    def _plan(
        self, runs: Sequence[Run], declaration: Mapping[str, Any] | None = None, *, recorded: int
    ) -> None:
        """Add runs and declaration to sweep.json, and the curves of the losses beside it."""
        path = self.folder / "sweep.json"
        old = records.read_plan(path) if path.exists() else plan.EMPTY
        new = plan.extended(
            old,
            runs,
            name=self.name,
            command=self.command,
            declaration=declaration,
            recorded=recorded,
        )
        if len(new["declarations"]) > max(1, len(old["declarations"])):
            log.warning(
                "%s was declared before: what is new here counts as exploratory. "
                "Give a new question its own folder with name=...",
                self.folder,
            )
        curves_path, sha = self.folder / "curves.parquet", old.get("curves_sha", "")
        is_known = {**new, "curves_sha": sha} == old and curves_path.exists()
        if is_known and store.sha256(curves_path.read_bytes()) == sha:
            return
        curves = _curves(new["losses"])
        store.write(curves_path, curves)
        store.write(path, store.sealed({**new, "curves_sha": store.sha256(curves)}))


def _curves(losses: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Curves of losses as parquet; empty where one raises or its extension is not loaded now."""
    parts = []
    for name, facts in losses.items():
        try:
            columns = curve(LOSSES[facts["fn"]], facts["params"])
            pa.table(columns)  # refuses what is not as many numbers in each
        except (Exception, SystemExit):
            columns = {name: [] for name in ("argument", "value", "first", "second", "weight")}
        count = len(columns["argument"])
        labels = {"loss": name, "task": facts["task"], "family": facts["family"]}
        parts.append(pa.table({key: [value] * count for key, value in labels.items()} | columns))
    return records.encode(pa.concat_tables(parts, promote_options="default"))
