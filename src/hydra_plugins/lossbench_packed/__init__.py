"""Registers hydra/launcher=packed; the launcher itself is `lossbench.launch`."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher

from lossbench import launch


@dataclass
class PackedLauncherConf:
    """Configuration of the packed launcher."""

    _target_: str = "hydra_plugins.lossbench_packed.PackedLauncher"


class PackedLauncher(launch.PackedLauncher, Launcher):
    """Hydra's interface over `lossbench.launch.PackedLauncher`."""


ConfigStore.instance().store(
    group="hydra/launcher", name="packed", node=PackedLauncherConf, provider="lossbench"
)
