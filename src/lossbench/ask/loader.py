"""Hydra's loader of configurations, with lossbench's search path, without the environment."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

import lossbench
from lossbench.ask.grammar import explained
from lossbench.ask.rows import ADDRESS, RowsSource
from lossbench.errors import ConfigError
from lossbench.question.code import forget

SEARCH_PATH = f"hydra.searchpath=[{ADDRESS}]"
"""Override that lets Hydra look for rows of registries if no yaml file is found."""


VERSION_BASE: dict[str, Any] = (
    {"version_base": None} if hydra.__version__.startswith("1.3.") else {}
)
"""Argument `version_base`: Hydra 1.3 warns if it is missing, Hydra 1.4 if it is given."""

REGISTER = (
    "register_new_resolver" if omegaconf.__version__.startswith("2.3.") else "register_resolver"
)
"""Function that registers a resolver; in OmegaConf 2.3 `register_resolver` does something else."""


@dataclass(frozen=True)
class Loader:
    """Loader of configurations from the user's yaml files, lossbench's, and rows of registries.

    Attributes:
        hydra: Hydra's own loader.
        folder: Folder of the user's yaml files, which take precedence over lossbench's.
    """

    hydra: ConfigLoader
    folder: Path | None = None

    @functools.cache  # noqa: B019 - a loader lives as long as a command
    def choices(self, group: str) -> list[str]:
        """Names that may be chosen in a config group."""
        return self.hydra.get_group_options(group, config_name="config", overrides=[SEARCH_PATH])

    def whole(self, words: list[str]) -> DictConfig:
        """Configuration of a whole command, including `hydra`; words that sweep are left out."""
        return self.hydra.load_configuration("config", [SEARCH_PATH, *words], RunMode.MULTIRUN)

    def single(self, whole: DictConfig, lines: list[str]) -> DictConfig:
        """Configuration of overrides with one value each, given that of the whole command."""
        return self.hydra.load_sweep_config(whole, lines)

    def variants(self, group: str) -> frozenset[str]:
        """Names in a config group for which a yaml file exists."""
        folders = (self.folder, lossbench.CONF)
        paths = [path for folder in folders if folder for path in (folder / group).glob("*.yaml")]
        return frozenset(path.stem for path in paths)


@contextmanager
def open_hydra(folder: Path | None = None) -> Iterator[Loader]:
    """Context with a loader, see `Loader`; fingerprints of code are computed anew.

    Raises:
        ConfigError: Hydra or OmegaConf raised an error; the message is one line with the cure.
    """
    forget()
    Plugins.instance().register(RowsSource)
    of_caller = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(lossbench.CONF), **VERSION_BASE):
            OmegaConf.clear_resolver("oc.env")  # a check of the text would miss some uses
            loader = GlobalHydra.instance().config_loader()
            if folder:
                loader.get_search_path().prepend("command-line", f"file://{folder}")
            yield Loader(loader, folder)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error)) from error
    finally:
        getattr(OmegaConf, REGISTER)("oc.env", oc.env, replace=True)
        GlobalHydra.instance().hydra = of_caller
