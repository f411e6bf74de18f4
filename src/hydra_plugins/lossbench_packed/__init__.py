"""Registers hydra/launcher=packed; the launcher itself is `lossbench.launch`."""

from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher

from lossbench import launch


@dataclass
class PackedLauncherConf:
    """Configuration of the packed launcher; all but `executor` and `workers` is for clusters."""

    _target_: str = "hydra_plugins.lossbench_packed.PackedLauncher"
    executor: str = "inline"
    workers: int = 0
    partition: Optional[str] = None  # noqa: UP045  OmegaConf reads it
    account: Optional[str] = None  # noqa: UP045
    qos: Optional[str] = None  # noqa: UP045
    timeout_min: int = 60
    mem_gb: float = 4.0
    cpus_per_task: int = 1
    gpus_per_node: int = 0
    array_parallelism: int = 256
    requeues: int = 1000
    signal_delay_s: int = 60
    additional: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)


class PackedLauncher(launch.PackedLauncher, Launcher):
    """Hydra's interface over `lossbench.launch.PackedLauncher`."""


ConfigStore.instance().store(
    group="hydra/launcher", name="packed", node=PackedLauncherConf, provider="lossbench"
)
