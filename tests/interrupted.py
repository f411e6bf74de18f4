"""Sweeps that are cut short, and what is left of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lossbench import records
from lossbench.question import Engine
from lossbench.sweep import Sweep
from lossbench.sweep.backend import Backend, InProcess
from lossbench.sweep.inventory import OpenPack, Statuses
from lossbench.sweep.stop import Stop
from lossbench.sweep.training import Trainer
from lossbench.user_code import own_rows

ENGINE = Engine(device="cpu", pack_size=128, threads=1, commit_every=30)

NOT_COMPARED = ["pack_id", "pack_size", "train_seconds"]
"""Columns that say how a run was trained, not what came out."""


def trainer(
    *, pack_size: int = 128, commit_every: float = 30, extensions: Sequence[str] = ()
) -> Trainer:
    engine = Engine(device="cpu", pack_size=pack_size, threads=1, commit_every=commit_every)
    return Trainer(engine, own_rows(extensions))


class Spoiling(Trainer):
    """Puts a folder where a pack's table is to be: as on a full disk, no write succeeds."""

    def train(self, pack: OpenPack, stop: Stop, title: str = "") -> Statuses | None:
        (pack.folder / "steps.parquet" / "x").mkdir(parents=True, exist_ok=True)
        return super().train(pack, stop, title)


def sweep_by(backend: Backend, folder: Path) -> Sweep:
    return Sweep(folder, name=folder.name, command="lossbench", backend=backend)


def sweep_in(folder: Path, *, pack_size: int = 128, commit_every: float = 30) -> Sweep:
    return sweep_by(InProcess(trainer(pack_size=pack_size, commit_every=commit_every)), folder)


def contents(folder: Path, *, but: str = "") -> dict[str, str]:
    """By run_id the sha256 of all that is recorded of it, but for one metric."""
    found = records.load(folder)
    digests: dict[str, str] = {}
    evals = found.evals[found.evals.metric != but]
    runs = found.runs[found.runs.status != "missing"].infer_objects()
    for table in (runs, found.steps, found.layers, evals):
        kept = table.drop(columns=NOT_COMPARED, errors="ignore")
        numbers = kept.select_dtypes("number").columns
        kept = kept.astype(dict.fromkeys(numbers, float))  # where a value is missing they all are
        for run_id, rows in kept.groupby("run_id"):
            text = rows.to_csv(index=False, float_format="%a")
            own = digests.get(str(run_id), "") + text
            digests[str(run_id)] = hashlib.sha256(own.encode()).hexdigest()
    return digests


@contextlib.contextmanager
def mounted(place, options):
    """A file system of its own in the memory, with such options."""
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(line, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
