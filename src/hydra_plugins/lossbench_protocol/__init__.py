"""Registers hydra/sweeper=protocol; the sweeper itself is `lossbench.protocol`."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

from lossbench import protocol


@dataclass
class ProtocolSweeperConf:
    """Configuration of the protocol sweeper."""

    _target_: str = "hydra_plugins.lossbench_protocol.ProtocolSweeper"
    blocks: list[Any] = field(default_factory=list)
    tune: Any = None
    confirm: Any = None
    declare: dict[str, Any] = field(default_factory=dict)


class ProtocolSweeper(protocol.ProtocolSweeper, Sweeper):
    """Hydra's interface over `lossbench.protocol.ProtocolSweeper`."""


ConfigStore.instance().store(
    group="hydra/sweeper", name="protocol", node=ProtocolSweeperConf, provider="lossbench"
)
