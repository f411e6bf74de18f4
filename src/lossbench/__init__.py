"""Trains identical models under many losses and says with honest statistics what the loss changed.

Importing the package imports none of its subpackages, so that the command line starts at once.
"""

import os
from pathlib import Path

# Unless this is set before MKL's first call, products depend on where a matrix lies in memory, and
# the bits of a member would depend on the member's place in the pack. The speed is the same.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"

_PACKAGED = Path(__file__).parent / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
"""Folder of the yaml files: in the installed package, or in the root of the checkout."""


def __getattr__(name: str) -> object:
    """Import `compare` or `run` on first use, because both import most of the package."""
    if name in ("compare", "run"):
        from lossbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'lossbench' has no attribute {name!r}")
