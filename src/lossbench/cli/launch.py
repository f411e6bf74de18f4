"""Overrides alone: what they ask for is trained, and what came out is said."""

from __future__ import annotations

import functools
import shlex
from typing import Any

from lossbench import launch
from lossbench.cli.overrides import with_hydra
from lossbench.cli.report import finish, loading


def main(arguments: list[str]) -> int:
    """Train what the overrides ask for; returns the exit code."""
    typed = shlex.join(["lossbench", *arguments])
    return with_hydra(arguments, functools.partial(_launch, command=typed))


def _launch(config: Any, loader: Any, *, command: str) -> int:
    folder = launch.train(config, loader, command=command).folder
    # An experiment has the report that it asks for, another sweep none.
    is_experiment = any("experiment=" in line for line in config.hydra.overrides.task)
    extent = str(config.report) if is_experiment else "none"
    return finish(folder, loading(folder), extent=extent)
