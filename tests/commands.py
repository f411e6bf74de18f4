"""Commands in processes of their own, and a loss whose training takes its time on clusters."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs import TINY

from lossbench import store

TASK = ["-m", "data=diabetes", "model=linear", "batch_size=16", "engine.pack_size=1"]
WAITING = ["--config-dir", "conf", *TASK, "loss=waiting", "extensions=[waiting_loss]"]

WAITING_LOSS = """
import os, time
from lossbench.losses.spec import Loss

def waiting(output, target):
    if {"SLURM_JOB_ID", "LOSSBENCH_WAITS"} & os.environ.keys() and output.requires_grad:
        time.sleep(0.015)
    return 0.5 * (output - target).square().sum(-1)

LOSSES = (
    Loss(fn=waiting, inverse_link="identity", family="power", task="regression", formula="?",
         claims=frozenset(), source="test"),
)
"""
"""A loss that takes its time on clusters, and no processor."""


def place_of_commands(folder: Path) -> Path:
    """A folder to give commands in, with that loss and a small experiment."""
    (folder / "waiting_loss.py").write_text(WAITING_LOSS)
    (folder / "conf" / "loss").mkdir(parents=True)
    (folder / "conf" / "loss" / "waiting.yaml").write_text("fn: waiting\n")
    (folder / "conf" / "experiment").mkdir()
    (folder / "conf" / "experiment" / "tiny.yaml").write_text(TINY)
    return folder


class Command:
    """A `lossbench` command in a process of its own; what it says so far is `out`.

    `cluster` has the environment in which it is found, and a folder for logs.
    """

    def __init__(self, cluster: Any, place: Path, *line: str) -> None:
        self.log = cluster.folder / "log" / f"command-{time.monotonic_ns()}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lossbench.cli", *line],
                cwd=place,
                env={**cluster.environment, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self.log.read_text()

    def ends(self, code: int) -> str:
        self.process.wait(timeout=500)
        assert self.process.returncode == code, self.out
        return self.out


def until(condition: Callable[[], Any], seconds: float = 300, what: str = "") -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"it never came: {what}")


def packs(place: Path, name: str) -> dict[str, dict[str, Any]]:
    """Commit records of a sweep, by pack_id."""
    found = {}
    for folder in (place / "runs" / name / "packs").glob("*"):
        state = store.committed(folder)
        if state is not None:
            found[folder.name] = state
    return found
