"""Source of configurations for Hydra: the schema and all rows of the registries."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss
from lossbench.models import MODELS
from lossbench.question.schema import MISSING, Config, LauncherNode, SweeperNode
from lossbench.question.vary import parameters
from lossbench.user_code import is_added, is_own
from lossbench.user_code.modules import Row

SCHEME = "lossbench"
ADDRESS = f"{SCHEME}://rows"
NODES = {
    "schema": Config,
    "hydra/launcher/packed": LauncherNode,
    "hydra/sweeper/protocol": SweeperNode,
}
ROWS: dict[str, Mapping[str, Row]] = {"loss": LOSSES, "data": DATA, "model": MODELS}


class RowsSource(ConfigSource):
    """Last entry of Hydra's search path: Hydra uses a row if no yaml file has its name.

    The parameters and defaults of a row are those of the signature of its function; a variant has
    a yaml file. Data sets and models of lossbench have yaml files, so the rows of data sets and
    models are listed only if they are the user's own.
    """

    @staticmethod
    def scheme() -> str:
        """Scheme of the URL `ADDRESS`."""
        return SCHEME

    def available(self) -> bool:
        """Whether this source can be read: always True."""
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        """Configuration at a path like `loss/huber`."""
        path = config_path.removesuffix(".yaml")
        if not self.is_config(path):
            raise ConfigLoadError(f"{path} is not a row (Loss, Data, Model or Metric) of lossbench")
        group, _, name = path.rpartition("/")
        if path in NODES:
            node = OmegaConf.structured(NODES[path])
        else:
            node = OmegaConf.create({"fn": name, "params": default_parameters(ROWS[group][name])})
        if path == "schema":
            # No config group lists these parameters: any may be typed, `checked` refuses others.
            for part in (node.data.corruption, node.data.augmentation):
                OmegaConf.set_struct(part.params, False)
        header: dict[str, str | None] = {"package": None}
        return ConfigResult(self.provider, f"{SCHEME}://{path}", node, header)

    def is_group(self, config_path: str) -> bool:
        """Whether a path is a folder of configurations."""
        path = config_path.strip("/")
        return path in ("", "hydra", "hydra/launcher", "hydra/sweeper", *ROWS)

    def is_config(self, config_path: str) -> bool:
        """Whether a path is a configuration."""
        path = config_path.strip("/").removesuffix(".yaml")
        group, _, name = path.rpartition("/")
        return path in NODES or (group in ROWS and _is_listed(ROWS[group].get(name)))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Sorted names of the configurations in a group."""
        group = config_path.strip("/")
        names = {name for name, row in ROWS.get(group, {}).items() if _is_listed(row)}
        places = [path.rpartition("/") for path in NODES]
        names |= {name for place, _, name in places if place == group}
        return sorted(names) if results_filter != ObjectType.GROUP else []


def _is_listed(row: Row | None) -> bool:
    return isinstance(row, Loss) or (row is not None and (is_own(row.fn) or is_added(row)))


def default_parameters(row: Row) -> dict[str, object]:
    """Parameters of a row's function with their defaults, `???` for a required parameter."""
    return {
        name: MISSING if default is inspect.Parameter.empty else default
        for name, default in parameters(row.fn).items()
    }
