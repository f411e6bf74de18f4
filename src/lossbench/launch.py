"""From a composed command to a trained sweep: its folder, its engine, what trains it, its runs."""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

import lossbench
from lossbench import records
from lossbench.config import (
    Composer,
    checked_overrides,
    explained,
    refuse_foreign,
    register,
    to_engine,
)
from lossbench.config.schema import LauncherNode
from lossbench.engine import strategies
from lossbench.processes import BYTES_A_WORKER, cores, free_memory
from lossbench.protocol import Experiment, Outline
from lossbench.protocol.experiment import USUAL_SIZE
from lossbench.question import TF32, ConfigError, Engine, Run
from lossbench.question.cells import context
from lossbench.question.identity import forget
from lossbench.records import RESULTS
from lossbench.sweep import Sweep
from lossbench.sweep.backend import Backend, InProcess, Processes
from lossbench.sweep.executors import CLUSTERS, ExecutorBackend
from lossbench.sweep.slurm import SlurmBackend
from lossbench.sweep.training import Trainer
from lossbench.user_code import load_extensions, own_rows

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


@contextmanager
def hydra(folder: Path | None = None) -> Iterator[Hydra]:
    """Hydra with our search path, which knows every loss, and all rows of somebody's own.

    Args:
        folder: With yaml files of one's own, which go before ours.

    Raises:
        ConfigError: Hydra or OmegaConf refuses something; in a line, with the cure.
    """
    forget()
    store, other = ConfigStore.instance(), GlobalHydra.instance().hydra  # of who calls us
    theirs = {group: copy.copy(store.repo.get(group)) for group in ("loss", "data", "model")}
    GlobalHydra.instance().clear()
    try:
        # Hydra would copy the store for each composition, 0.1 s; what it loads there is copied too.
        vars(store)["__deepcopy__"] = lambda _: store
        register([folder] if folder else [])
        path = create_config_search_path(str(lossbench.CONF))
        assert isinstance(path, ConfigSearchPathImpl)
        if folder:
            path.prepend("command-line", f"file://{folder}")
        instance = Hydra.create_main_hydra2("lossbench", path)
        OmegaConf.clear_resolver("oc.env")  # for what no reading of the text would see
        yield instance
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error)) from error
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
        GlobalHydra.instance().hydra = other
        vars(store).pop("__deepcopy__", None)
        for group, nodes in theirs.items():
            store.repo.pop(group, None)
            if nodes is not None:
                store.repo[group] = nodes


def composed(loader: ConfigLoader, overrides: list[str], folder: Path | None = None) -> DictConfig:
    """The whole configuration of a command, Hydra's own node included.

    Hydra makes an object of nothing in it; what would be one, or reads the environment, is refused.

    Args:
        loader: Hydra's.
        overrides: As typed.
        folder: With yaml files of one's own.

    Raises:
        ConfigError: A key, a choice or a value does not exist.
        HydraException: What Hydra itself would raise.
    """
    checked_overrides(overrides, loader, options={})

    def of(lines: list[str]) -> DictConfig:
        return loader.load_configuration("config", lines, RunMode.MULTIRUN)

    try:
        config = of(overrides)
    except KeyError as error:  # of env_copy, where there is no such variable
        raise ConfigError(f"a yaml asks for {error} of the environment: write the value") from error
    for kind, (serving, key) in SERVE.items():
        group = f"hydra/{kind}"
        if key not in config.hydra[kind]:
            choice = config.hydra.runtime.choices[group]
            raise ConfigError(
                f"{group}={choice} does not serve here, see docs/commands.md: use {group}={serving}"
            )
    refuse_foreign(config, usual=of([]) if folder else None)
    if config.extensions:  # those of a yaml; what was typed is known by now
        load_extensions(config.extensions)
        register([folder] if folder else [])
    return config


class TrainedSweep(NamedTuple):
    """The sweep that a command has trained, or found there.

    Attributes:
        folder: Of the sweep.
        cells: A run of each cell that was asked for; the sweep may have others.
        tuned: Keys that were chosen for each loss.
    """

    folder: Path
    cells: Sequence[Run]
    tuned: Sequence[str]

    @property
    def contexts(self) -> frozenset[str]:
        """Of the cells, as the plan has them."""
        return frozenset(context(run, self.tuned) for run in self.cells)


def train(
    config: DictConfig, loader: ConfigLoader, *, command: str, question: str = ""
) -> TrainedSweep:
    """Train what a command asks for and is not there yet.

    Args:
        config: The composed configuration, with `hydra`.
        loader: Hydra's, with its search path.
        command: As typed, to be recorded.
        question: What it asks; if empty, what the header of its experiment's yaml does.

    Raises:
        ConfigError: Something asked for cannot be; nothing was trained.
        RunsFailed: A run failed, of a sweep that tunes nothing.
    """
    with _opened(config, loader, command, question) as (experiment, sweep):
        trained = TrainedSweep(sweep.folder, experiment.cells, experiment.tuned)
        if protocol := experiment.protocol(sweep):
            protocol.carry_out()
            return trained
        statuses = sweep.run(experiment.cells)
        if any(facts["status"] not in RESULTS for facts in statuses.values()):
            raise RunsFailed(sweep.folder)
        return trained


def outline(config: DictConfig, loader: ConfigLoader) -> Outline:
    """What a command asks for; nothing is trained or written.

    Raises:
        ConfigError: Something asked for cannot be.
    """
    with _opened(config, loader) as (experiment, sweep):
        return experiment.outline(sweep)


@contextmanager
def _opened(
    config: DictConfig, loader: ConfigLoader, command: str = "", question: str = ""
) -> Iterator[tuple[Experiment, Sweep]]:
    """The experiment of a command and its sweep, whose processes end with the block."""
    start = time.monotonic()
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
    with _backend(hydra.launcher, Trainer(engine, own_rows(config.extensions))) as backend:
        yield (
            experiment,
            Sweep(
                folder=Path(str(hydra.sweep.dir) + ending),
                name=config.name + ending,
                command=command,
                question=question or _question(config),
                backend=backend,
                seconds=seconds,
            ),
        )


def _question(config: DictConfig) -> str:
    """What the header of the chosen experiment's yaml asks."""
    name = config.hydra.runtime.choices.get("experiment")
    for source in config.hydra.runtime.config_sources:
        path = Path(source.path) / "experiment" / f"{name}.yaml"
        if name and source.schema == "file" and path.is_file():
            return records.question_in(path.read_text())
    return ""


def _backend(launcher: DictConfig, trainer: Trainer) -> Backend:
    """What trains packs: this process, several of this machine, or a cluster."""
    executor, workers = launcher.executor, launcher.workers
    if executor != "inline":
        settings: Any = OmegaConf.to_container(launcher, resolve=True)
        if executor in ("slurm", "local"):
            return SlurmBackend(trainer, LauncherNode(**settings))
        if executor in CLUSTERS:
            cluster = functools.partial(
                CLUSTERS[executor], LauncherNode(**settings), trainer.engine.threads
            )
            return ExecutorBackend(trainer, cluster, workers=workers)
        raise ConfigError(
            f"hydra.launcher.executor={executor} is unknown: use inline, local, slurm, dask or ray"
        )
    count = process_count(workers, trainer.engine)
    return InProcess(trainer) if count < 2 else Processes(trainer, count)


def process_count(workers: int, engine: Engine) -> int:
    """How many processes train: what was asked for, or what this machine has room for.

    Args:
        workers: As typed; 0 for one on each core.
        engine: How they train.
    """
    if workers < 0:
        raise ConfigError(f"hydra.launcher.workers={workers}: use 0 for one on each core, or more")
    if engine.device != "cpu":
        return 1
    return workers or min(cores() // engine.threads, int(free_memory() // BYTES_A_WORKER))
