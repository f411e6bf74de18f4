"""Trains identical models under many losses and says with honest statistics what the loss changed.

Importing the package imports no room of it, so that the command line starts at once.
"""

import os
from pathlib import Path

# MKL's products depend on where a matrix lies in memory unless this is set before its first call:
# a member of a pack would then change bits with its place. The speed is the same.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"

_PACKAGED = Path(__file__).parent / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
"""The folder of yaml files: inside the installed package, or the checkout's own."""


def __getattr__(name: str) -> object:
    """`compare` and `run`, which import everything, when they are asked for."""
    if name in ("compare", "run"):
        from lossbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'lossbench' has no attribute {name!r}")
