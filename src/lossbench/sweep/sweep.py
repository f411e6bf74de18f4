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
from lossbench.data import files
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve
from lossbench.runs import Engine, Run
from lossbench.sweep import plan
from lossbench.sweep.care import Crew, Here, Left
from lossbench.sweep.leases import ATTEMPTS, PATIENCE, PLANNED, Claim, Claims, Members
from lossbench.sweep.preflight import preflight
from lossbench.sweep.training import Stop, stopping

log = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds between two looks at packs that other processes train."""


@dataclass
class Sweep:
    """One folder of runs and what it takes to fill it. Any number of processes may share it.

    Attributes:
        folder: Where everything of the sweep is written.
        engine: How to train.
        facts: What sweep.json says beside the runs: name, command, declaration.
        extensions: Modules that a process has to import to know all losses, data and models.
        crew: What trains packs: this process, several of this machine, or a cluster.
        seconds: Wall time spent so far, by part.
    """

    folder: Path
    engine: Engine
    facts: Mapping[str, Any]
    extensions: Sequence[str] = ()
    crew: Crew = field(default_factory=Here)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, runs: Sequence[Run]) -> Members:
        """Train what is missing of `runs`, or wait for other processes that do.

        Args:
            runs: What is asked for; runs that are done or diverged are skipped, and so are those
                that have failed `ATTEMPTS` times.

        Returns:
            Status and reason by run_id.

        Raises:
            ConfigError: Data, model and batch size do not fit; nothing was trained.
            Interrupted: A signal asked for an end; what was done is committed.
            store.StoreError: A file of the sweep is damaged or cannot be written.
        """
        torch.set_num_threads(self.engine.threads)
        files.use(self.engine.data_root, download=self.engine.download)
        start, trained = time.monotonic(), 0
        with self._clock("check"):
            preflight(runs)
            self.crew.check()
        with stopping() as stop:
            claims, left = self._claims(runs, allowed := self._begun(runs)), Left()
            log.info("%s", _announcement(runs, claims))
            while claims:
                with self._clock("train"):
                    done = self.crew.train(self, claims, stop, left)
                trained += done
                if not done:
                    self._wait(claims, stop)
                stop.check()
                claims = [one for one in self._claims(runs, allowed) if one.folder.name not in left]
        if trained:
            so_far = ", ".join(f"{part} {spent:.1f} s" for part, spent in self.seconds.items())
            log.info("%d runs in %.1f s (so far: %s)", trained, time.monotonic() - start, so_far)
        missing = {run_id: {**PLANNED, "reason": why} for run_id, why in left.by_run().items()}
        recorded = {i: facts for i, facts in self.members().items() if facts != PLANNED}
        known = missing | recorded
        return {run.run_id: known.get(run.run_id, PLANNED) for run in runs}

    def members(self) -> Members:
        """Status and reason of every recorded run, the best of each."""
        return Claims(self.folder).members

    def _begun(self, runs: Sequence[Run]) -> dict[str, int]:
        """Plan the runs; returns how often each may have failed before and be trained now."""
        with self._clock("write"), store.lock(self.folder / store.LOCK, patience=PATIENCE):
            store.clean_temporaries(self.folder)
            now = Claims(self.folder)
            self._plan(runs, recorded=len(now.members))
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

    def _claims(self, runs: Sequence[Run], allowed: Mapping[str, int]) -> list[Claim]:
        queued, size = self.crew.holding(self), self.engine.pack_size
        with self._clock("write"), store.lock(self.folder / store.LOCK, patience=PATIENCE):
            now = Claims(self.folder)
            return now.asked(
                runs, pack_size=size, allowed=allowed, hands=self.crew.hands, queued=queued
            )

    def _wait(self, claims: Sequence[Claim], stop: Stop) -> None:
        """Until one of the packs that others train is free."""
        locks = [claim.folder / store.LOCK for claim in claims]
        holders = sorted({store.holder(lock) for lock in locks if store.is_held(lock)})
        if holders:
            log.info("waiting for process %s, which trains what is left", ", ".join(holders))
        while all(store.is_held(lock) for lock in locks):
            stop.check()
            time.sleep(LOOK)

    def _plan(self, runs: Sequence[Run], *, recorded: int) -> None:
        """Add runs and declaration to sweep.json, and the curves of the losses beside it."""
        path = self.folder / "sweep.json"
        old = records.read_plan(path) if path.exists() else plan.EMPTY
        new = plan.extended(old, runs, **self.facts, recorded=recorded)
        if len(new["declarations"]) > max(1, len(old["declarations"])):
            log.warning(
                "%s was declared before: what is new here counts as exploratory. "
                "Give a new question its own folder with name=...",
                self.folder,
            )
        drawn = self.folder / "curves.parquet"
        sha, is_there = old.get("curves_sha", ""), drawn.exists()
        if {**new, "curves_sha": sha} == old and is_there and _sha_of(drawn) == sha:
            return
        curves = _curves(new["losses"])
        store.write(drawn, curves)
        store.write(path, store.sealed({**new, "curves_sha": store.sha256(curves)}))

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start


def _sha_of(path: Path) -> str:
    return store.sha256(path.read_bytes())


def _announcement(runs: Sequence[Run], claims: Sequence[Claim]) -> str:
    stage = "/".join(sorted({run.stage for run in runs}))
    asked, missing = len({run.run_id for run in runs}), sum(len(one.pack.runs) for one in claims)
    return (
        f"{stage}: {asked} runs, {asked - missing} already there, "
        f"{missing} to train in {len(claims)} packs"
    )


def _curves(losses: Mapping[str, Mapping[str, Any]]) -> bytes:
    parts = []
    for name, facts in losses.items():
        columns = _curve(facts)
        count = len(columns["argument"])
        labels = {"loss": name, "task": facts["task"], "family": facts["family"]}
        parts.append(pa.table({key: [value] * count for key, value in labels.items()} | columns))
    return records.encode(pa.concat_tables(parts, promote_options="default"))


def _curve(facts: Mapping[str, Any]) -> dict[str, list[float]]:
    """A loss's curve; empty where the loss raises or its extension is not loaded now."""
    try:
        columns = curve(LOSSES[facts["fn"]], facts["params"])
        pa.table(columns)  # refuses what is not as many numbers in each
    except (Exception, SystemExit):
        return {name: [] for name in ("argument", "value", "first", "second", "weight")}
    return columns
