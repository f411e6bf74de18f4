"""The names that can be typed after `loss=`: rows, and yaml files that give a row parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lossbench.errors import in_a_line
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss


class CatalogError(ValueError):
    """A name, a yaml file or a row is wrong; the message has the cure."""


@dataclass(frozen=True)
class Entry:
    """A name that can be typed after `loss=`.

    Args:
        name: Name as typed: of a row, or of a yaml file that gives a row other parameters.
        loss: The row, at the parameters of the yaml file.
        params: Parameters of the yaml file that are not the row's defaults.
        path: Path of the yaml file; None if there is no yaml file.
    """

    name: str
    loss: Loss
    params: Mapping[str, object]
    path: Path | None

    @property
    def is_variant(self) -> bool:
        """Whether a yaml file gives the row another name or other parameters."""
        return bool(self.params) or self.name != self.loss.name


def entries(folders: Sequence[Path] = ()) -> dict[str, Entry]:
    """Every name that can be typed after `loss=`: rows in their order, then variants.

    Args:
        folders: Folders of yaml files, each with a folder `loss`; the first that has a file wins.

    Raises:
        CatalogError: A yaml file cannot be read, or gives a row a parameter that the row lacks.
    """
    files = {
        path.stem: path
        for folder in reversed(folders)
        for path in sorted((folder / "loss").glob("*.yaml"))
    }
    by_name = {}
    for name in [*LOSSES, *sorted(files.keys() - LOSSES.keys())]:
        fn, params = _composed(name, files)
        if fn not in LOSSES:
            continue
        row, path = LOSSES[fn], files.get(name)
        try:
            # Hydra reads 1e-6 as a number, plain yaml as a string.
            typed = {
                key: float(value) if isinstance(row.defaults.get(key), float) else value
                for key, value in params.items()
            }
            changed = {key: value for key, value in typed.items() if value != row.defaults.get(key)}
            by_name[name] = Entry(name, row.at(**changed) if changed else row, changed, path)
        except (TypeError, ValueError) as error:
            raise CatalogError(f"{path}: {error}") from error
    return by_name


def _composed(name: str, files: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    """Function and parameters of a name, from its yaml file composed with the file's `defaults`."""
    if name not in files:
        return name, {}
    others = {other: path for other, path in files.items() if other != name}
    fn, params = name, {}
    try:
        content = yaml.safe_load(files[name].read_text()) or {}
        layers = [*(content.get("defaults") or ())]
        for layer in layers if "_self_" in layers else [*layers, "_self_"]:
            if layer == "_self_":
                params |= content.get("params") or {}
            else:
                fn, inherited = _composed(layer, others)
                params |= inherited
        return content.get("fn", fn), params
    except (AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = in_a_line(error)
        raise CatalogError(f"{files[name]} cannot be read: {reason}") from error
