"""Chooses the backend of a launcher: this process, several local processes, or a cluster."""

from __future__ import annotations

import functools

from lossbench.errors import ConfigError
from lossbench.processes import BYTES_A_WORKER, cores, free_memory
from lossbench.question.schema import LauncherNode
from lossbench.question.settings import Engine
from lossbench.sweep import dask, ray
from lossbench.sweep.backend import Backend, InProcess, Processes
from lossbench.sweep.executors import ExecutorBackend
from lossbench.sweep.slurm import SlurmBackend
from lossbench.sweep.training import Trainer

CLUSTERS = {"dask": dask.connect, "ray": ray.connect}
"""Functions that connect to a cluster, by the name in `hydra.launcher.executor`."""


def backend_of(launcher: LauncherNode, trainer: Trainer) -> Backend:
    """Backend for the settings of a launcher; refuses an unknown executor."""
    executor, workers = launcher.executor, launcher.workers
    if executor in ("slurm", "local"):
        return SlurmBackend(trainer, launcher)
    if executor in CLUSTERS:
        cluster = functools.partial(CLUSTERS[executor], launcher, trainer.engine.threads)
        return ExecutorBackend(trainer, cluster, workers=workers)
    if executor != "inline":
        raise ConfigError(
            f"hydra.launcher.executor={executor} is unknown: use inline, local, slurm, dask or ray"
        )
    count = process_count(workers, trainer.engine)
    return InProcess(trainer) if count < 2 else Processes(trainer, count)


def process_count(workers: int, engine: Engine) -> int:
    """Number of processes: 1 on a GPU, else `workers`; at 0 as many as cores and memory allow."""
    if workers < 0:
        raise ConfigError(
            f"hydra.launcher.workers={workers}: use a positive number, or 0 for one on each core"
        )
    if engine.device != "cpu":
        return 1
    return workers or min(cores() // engine.threads, int(free_memory() // BYTES_A_WORKER))
