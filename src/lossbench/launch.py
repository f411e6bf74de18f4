"""From a composed command to a trained sweep: its folder, its engine, what trains it, its runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from lossbench.config import Composer, to_engine
from lossbench.config.schema import LauncherNode
from lossbench.engine import strategies
from lossbench.protocol import Experiment, Outline
from lossbench.protocol.experiment import USUAL_SIZE
from lossbench.records import RESULTS
from lossbench.runs import TF32, ConfigError
from lossbench.runs.extensions import load_extensions
from lossbench.sweep import Sweep
from lossbench.sweep.crews import Crew, Here, Processes
from lossbench.sweep.machine import processes
from lossbench.sweep.slurm import Cluster
from lossbench.sweep.training import Trainer

log = logging.getLogger(__name__)

SERVE = {"launcher": ("packed", "executor"), "sweeper": ("protocol", "blocks")}
"""The choice of `hydra/...` that serves, and a key that it and all built on it have."""


class RunsFailed(Exception):
    """A run failed; everything else of the sweep is finished and on disk.

    Attributes:
        folder: The sweep's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"runs of {folder} failed")
        self.folder = folder


def train(config: DictConfig, loader: ConfigLoader, *, command: str) -> Path:
    """Train what a command asks for and is not there yet; returns the sweep's folder.

    Args:
        config: The composed configuration, with `hydra`.
        loader: Hydra's, with its search path.
        command: As typed, to be recorded.

    Raises:
        ConfigError: Something asked for cannot be; nothing was trained.
        RunsFailed: A run failed, of a sweep that tunes nothing.
    """
    with _opened(config, loader, command) as (experiment, sweep):
        if protocol := experiment.protocol(sweep):
            protocol.carry_out()
            return sweep.folder
        statuses = sweep.run(experiment.cells)
        if any(facts["status"] not in RESULTS for facts in statuses.values()):
            raise RunsFailed(sweep.folder)
        return sweep.folder


def outline(config: DictConfig, loader: ConfigLoader) -> Outline:
    """What a command asks for; nothing is trained or written.

    Raises:
        ConfigError: Something asked for cannot be.
    """
    with _opened(config, loader) as (experiment, sweep):
        return experiment.outline(sweep)


@contextmanager
def _opened(
    config: DictConfig, loader: ConfigLoader, command: str = ""
) -> Iterator[tuple[Experiment, Sweep]]:
    """The experiment of a command and its sweep, whose processes end with the block."""
    for kind, (serving, key) in SERVE.items():
        group = f"hydra/{kind}"
        if key not in config.hydra[kind]:
            choice = config.hydra.runtime.choices[group]
            raise ConfigError(f"{group}={choice} cannot train packs: use {group}={serving}")
    start = time.monotonic()
    load_extensions(config.extensions)  # those of a yaml; Hydra already knows what was typed
    engine = to_engine(config)
    experiment = Experiment(config, Composer(loader, config))
    seconds = {"compose": time.monotonic() - start}
    if config.engine.precision == TF32:
        log.warning("tf32 rounds factors to 10 bits: steep losses like quartic train otherwise")
    strategies.check(engine.strategies, engine.device)
    hydra = config.hydra
    # An experiment's name says its size, unless its place was typed. With a hyphen: `essay` at size
    # full is not the experiment `essay_full`.
    size = str(hydra.runtime.choices["size"])
    lines = [*hydra.overrides.task, *hydra.overrides.hydra]
    is_placed = any(line.lstrip("+").startswith(("name=", "hydra.sweep.dir=")) for line in lines)
    ending = "" if is_placed or size == USUAL_SIZE else f"-{size}"
    with _crew(hydra.launcher, Trainer(engine, [*config.extensions])) as crew:
        yield (
            experiment,
            Sweep(
                folder=Path(str(hydra.sweep.dir) + ending),
                name=config.name + ending,
                command=command,
                crew=crew,
                seconds=seconds,
            ),
        )


def _crew(launcher: DictConfig, trainer: Trainer) -> Crew:
    """What trains packs: this process, several of this machine, or a cluster."""
    executor, workers = launcher.executor, launcher.workers
    if executor in ("slurm", "local"):
        settings: Any = OmegaConf.to_container(launcher, resolve=True)
        return Cluster(trainer, LauncherNode(**settings))
    if executor != "inline":
        raise ConfigError(
            f"hydra.launcher.executor={executor} is unknown: use inline, local or slurm"
        )
    count = processes(workers, trainer.engine)
    return Here(trainer) if count < 2 else Processes(trainer, count)
