"""Modules of users that bring losses, data sets and models of their own."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from lossbench.data import DATA
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.models import MODELS


def load_extensions(modules: Iterable[str]) -> None:
    """Import modules and add the rows in their `LOSSES`, `DATA` and `MODELS`.

    Args:
        modules: Importable names; the current folder counts.

    Raises:
        ConfigError: The import fails, or a name is already taken by another row.
    """
    for name in modules:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            raise ConfigError(f"extension {name!r}: use a module's name, not a path")
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"extension {name!r} cannot be imported ({error}): "
                f"put {name}.py into this folder, or install it"
            ) from error
        for registry, rows in (("LOSSES", LOSSES), ("DATA", DATA), ("MODELS", MODELS)):
            for row in getattr(module, registry, ()):
                if rows.setdefault(row.name, row) is not row:
                    raise ConfigError(f"extension {name!r}: {row.name!r} exists: rename yours")
