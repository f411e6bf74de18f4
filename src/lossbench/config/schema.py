"""What may be typed: the nodes of Hydra's configuration, as dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from lossbench import CONF
from lossbench.data import DATA
from lossbench.data.files import ROOT
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.question.run import NEUTRAL, Draft
from lossbench.question.vary import parameters
from lossbench.user_code import is_added, is_own


@dataclass
class PartNode:
    """Any config group: a name (the yaml's stem), the function it uses, its parameters."""

    name: str = MISSING
    fn: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class ChangeNode:
    """What is done to targets or inputs of the data, by name."""

    name: str = "none"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataNode(PartNode):
    """The `data` group. Where its files lie, and whether they may be downloaded, is no factor."""

    title: str = ""
    root: str = ROOT
    download: bool = False
    targets: str = Draft.targets
    corruption: ChangeNode = field(default_factory=ChangeNode)
    augmentation: ChangeNode = field(default_factory=ChangeNode)


@dataclass
class OptimizerNode:
    """The `optimizer` group."""

    name: str = MISSING
    lr: float = MISSING
    momentum: float = Draft.momentum
    weight_decay: float = Draft.weight_decay
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleNode:
    """The `schedule` group."""

    name: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class PretrainedNode:
    """A model that is trained before the sweep."""

    loss: str = Draft.pretrained.loss
    model: str = Draft.pretrained.model
    steps: int = Draft.pretrained.steps
    lr: float = Draft.pretrained.lr
    share: float = Draft.pretrained.share
    temperature: float = Draft.pretrained.temperature


@dataclass
class EngineNode:
    """The `engine` group."""

    name: str = MISSING
    device: str = "cpu"
    precision: str = Draft.precision
    pack_size: int = 128
    threads: int = 1
    commit_every: float = 30.0
    patience: float = 60.0
    strategies: list[str] = field(default_factory=list)


@dataclass
class SizeNode:
    """The `size` group: what it changes of an experiment's blocks, grid and seeds."""

    name: str = MISSING
    scale: dict[str, float] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    replace: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, Any] = field(default_factory=dict)
    looks: list[int] = field(default_factory=list)


@dataclass
class Config:
    """Everything a run is made of."""

    data: DataNode = field(default_factory=DataNode)
    model: PartNode = field(default_factory=PartNode)
    loss: PartNode = field(default_factory=PartNode)
    optimizer: OptimizerNode = field(default_factory=OptimizerNode)
    schedule: ScheduleNode = field(default_factory=ScheduleNode)
    engine: EngineNode = field(default_factory=EngineNode)
    size: SizeNode = field(default_factory=SizeNode)
    # A plain dictionary: `from` is no name that Python lets a field have.
    init: dict[str, Any] = field(default_factory=lambda: dict(NEUTRAL["init"]))
    pretrained: PretrainedNode = field(default_factory=PretrainedNode)
    name: str = "default"
    signal: str = Draft.signal
    instruments: list[str] = field(default_factory=list)
    seed: int = Draft.seed
    steps: int = Draft.steps
    batch_size: int = Draft.batch_size
    log_every: int = Draft.log_every
    eval_every: int = Draft.eval_every
    report: str = "all"
    extensions: list[str] = field(default_factory=list)


@dataclass
class LauncherNode:
    """`hydra/launcher=packed`; `address` is for Dask and Ray, what follows it for Slurm."""

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
    """`hydra/sweeper=protocol`: what an experiment sweeps, tries, declares, and with which seeds.

    Attributes:
        blocks: Grids whose union is swept, each a mapping of override key to value or list.
        candidates: What every loss tries: `lr` (the grid), `extend` (most rates added at either
            end), `others` (values by key of what else is chosen for it); None sweeps the blocks
            unchanged.
        looks: Numbers of seeds at which verdicts are read.
        first_seed: The seeds count up from it.
        declare: What is fixed beforehand: primary metric, endpoint, reference, margin, family.
    """

    blocks: list[Any] = field(default_factory=list)
    candidates: Any = None
    looks: list[int] = field(default_factory=list)
    first_seed: int = 0
    declare: dict[str, Any] = field(default_factory=dict)


GROUPS = ("data", "model", "loss", "optimizer", "schedule", "engine", "size")


def register(folders: Iterable[Path] = ()) -> None:
    """Make known to Hydra the schema, the one launcher and sweeper, each loss, somebody's own rows.

    Their parameters and defaults are those of the signatures; a yaml file is for a variant.

    Args:
        folders: Folders of yaml files of one's own. What has a file `GROUP/NAME.yaml` there is left
            to it: Hydra would check the file against the parameters, and warn.
    """
    store, schema = ConfigStore.instance(), OmegaConf.structured(Config)
    # No config group brings their parameters, so any may be typed; `checked` knows which there are.
    for part in (schema.data.corruption, schema.data.augmentation):
        OmegaConf.set_struct(part.params, False)
    store.store(name="schema", node=schema)
    store.store(group="hydra/launcher", name="packed", node=LauncherNode, provider="lossbench")
    store.store(group="hydra/sweeper", name="protocol", node=SweeperNode, provider="lossbench")
    for group, rows in {"loss": LOSSES, "data": DATA, "model": MODELS}.items():
        store.repo.pop(group, None)  # those of an earlier call, whose extensions may be gone
        files = {
            path.stem for folder in (*folders, CONF) for path in (folder / group).glob("*.yaml")
        }
        for name, row in rows.items():
            if name not in files and (group == "loss" or is_own(row.fn) or is_added(row)):
                params = {
                    key: MISSING if default is inspect.Parameter.empty else default
                    for key, default in parameters(row.fn).items()
                }
                store.store(group=group, name=name, node={"fn": name, "params": params})


def loss_node(name: str) -> dict[str, Any]:
    """Function and parameters of a loss as `register` made them known; empty where a yaml did.

    Empty too where a parameter has no default: Hydra says that it is missing.
    """
    node = ConfigStore.instance().repo.get("loss", {}).get(f"{name}.yaml")
    if node is None or OmegaConf.missing_keys(node.node):
        return {}
    return OmegaConf.to_container(node.node)  # type: ignore[return-value]


FREE_KEY = re.compile(
    r"(data|data\.corruption|data\.augmentation|model|loss|optimizer|schedule)\.params\.\w+|hydra\.|hydra$"
)
"""Keys that may exist though `known_keys` does not list them."""


def known_keys() -> set[str]:
    """Dotted names of all that may be typed as KEY=VALUE."""
    return {*_dotted(Config)} | {f"init.{name}" for name in NEUTRAL["init"]}


def _dotted(node: type, prefix: str = "") -> Iterator[str]:
    """Keys of a node and of those below it."""
    for item in dataclasses.fields(node):
        yield f"{prefix}{item.name}"
        kind = item.default_factory
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _dotted(kind, f"{prefix}{item.name}.")


def is_key(key: str) -> bool:
    """Whether something may be typed as KEY=VALUE, a parameter of any part included."""
    return bool(FREE_KEY.match(key)) or key in known_keys()
