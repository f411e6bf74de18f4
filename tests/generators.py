"""The scripts of docs/generate as modules."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "docs" / "generate"


@functools.cache
def generator(name: str) -> ModuleType:
    """Import docs/generate/NAME.py, whose folder is on no path."""
    spec = importlib.util.spec_from_file_location(f"generate_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
