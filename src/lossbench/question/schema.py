"""Nodes of the configuration as dataclasses: all keys that may be typed, with their defaults."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lossbench.data.files import ROOT
from lossbench.question.run import NEUTRAL, Run

MISSING: Any = "???"
"""Mark of OmegaConf for a key that has no default, so that a yaml has to set the key."""


@dataclass
class PartNode:
    """Node of any config group: a name (the yaml's stem), a function, and its parameters."""

    name: str = MISSING
    fn: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class ChangeNode:
    """Node of a corruption of targets or an augmentation of inputs, by name."""

    name: str = "none"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataNode(PartNode):
    """Node of the `data` group; `root` and `download` are not factors of a run."""

    title: str = ""
    root: str = ROOT
    download: bool = False
    targets: str = Run.targets
    corruption: ChangeNode = field(default_factory=ChangeNode)
    augmentation: ChangeNode = field(default_factory=ChangeNode)


@dataclass
class OptimizerNode:
    """Node of the `optimizer` group."""

    name: str = MISSING
    lr: float = MISSING
    momentum: float = Run.momentum
    weight_decay: float = Run.weight_decay
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleNode:
    """Node of the `schedule` group."""

    name: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class PretrainedNode:
    """Node `pretrained`: a model that is trained before the sweep."""

    loss: str = Run.pretrained.loss
    model: str = Run.pretrained.model
    steps: int = Run.pretrained.steps
    lr: float = Run.pretrained.lr
    share: float = Run.pretrained.share
    temperature: float = Run.pretrained.temperature


@dataclass
class EngineNode:
    """Node of the `engine` group."""

    name: str = MISSING
    device: str = "cpu"
    precision: str = Run.precision
    pack_size: int = 128
    threads: int = 1
    commit_every: float = 30.0
    patience: float = 60.0
    strategies: list[str] = field(default_factory=list)


@dataclass
class SizeNode:
    """Node of the `size` group: changes of an experiment's blocks, grid and seeds."""

    name: str = MISSING
    scale: dict[str, float] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    replace: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, Any] = field(default_factory=dict)
    looks: list[int] = field(default_factory=list)


@dataclass
class Config:
    """Root of the configuration, without `hydra`."""

    data: DataNode = field(default_factory=DataNode)
    model: PartNode = field(default_factory=PartNode)
    loss: PartNode = field(default_factory=PartNode)
    optimizer: OptimizerNode = field(default_factory=OptimizerNode)
    schedule: ScheduleNode = field(default_factory=ScheduleNode)
    engine: EngineNode = field(default_factory=EngineNode)
    size: SizeNode = field(default_factory=SizeNode)
    # A plain dictionary, because Python does not allow a field with the name `from`.
    init: dict[str, Any] = field(default_factory=lambda: dict(NEUTRAL["init"]))
    pretrained: PretrainedNode = field(default_factory=PretrainedNode)
    name: str = "default"
    signal: str = Run.signal
    instruments: list[str] = field(default_factory=list)
    seed: int = Run.seed
    steps: int = Run.steps
    batch_size: int = Run.batch_size
    log_every: int = Run.log_every
    eval_every: int = Run.eval_every
    report: str = "all"
    extensions: list[str] = field(default_factory=list)


@dataclass
class LauncherNode:
    """Node `hydra/launcher=packed`; `address` is for Dask and Ray, all later keys for Slurm."""

    executor: str = "inline"
    workers: int = 0
    address: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    timeout_min: int = 60
    mem_gb: float = 4.0
    cpus_per_task: int = 1
    gpus_per_node: int = 0
    array_parallelism: int = 256
    requeues: int = 1000
    signal_delay_s: int = 60
    additional: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)


@dataclass
class SweeperNode:
    """Node `hydra/sweeper=protocol`: blocks, candidates, seeds, declaration of an experiment.

    Attributes:
        blocks: Grids whose union is swept, each a mapping of override key to value or list.
        candidates: Values that every loss tries: `lr` (the grid), `extend` (most rates added at
            either end), `others` (values of other keys); if None, nothing is tuned.
        looks: Numbers of seeds at which verdicts are read.
        first_seed: The first seed; all seeds are consecutive numbers.
        declare: Choices fixed beforehand: primary metric, endpoint, reference, margin, family.
    """

    blocks: list[Any] = field(default_factory=list)
    candidates: Any = None
    looks: list[int] = field(default_factory=list)
    first_seed: int = 0
    declare: dict[str, Any] = field(default_factory=dict)


GROUPS = ("data", "model", "loss", "optimizer", "schedule", "engine", "size")

FREE_KEY = re.compile(
    r"(data|data\.corruption|data\.augmentation|model|loss|optimizer|schedule)\.params\.\w+|hydra\.|hydra$"
)
"""Pattern of keys that may be typed although `known_keys` does not list them."""


def known_keys() -> set[str]:
    """Dotted names of all keys that may be typed as KEY=VALUE, without parameters of parts."""
    return {*_dotted(Config)} | {f"init.{name}" for name in NEUTRAL["init"]}


def _dotted(node: type, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a node and of all nodes below it."""
    for item in dataclasses.fields(node):
        yield f"{prefix}{item.name}"
        kind = item.default_factory
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _dotted(kind, f"{prefix}{item.name}.")


def is_key(key: str) -> bool:
    """Whether a key may be typed as KEY=VALUE; parameters of all parts are included."""
    return bool(FREE_KEY.match(key)) or key in known_keys()
