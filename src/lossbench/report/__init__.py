"""Estimates and figures as a folder, and as a short table for the command line.

What draws is imported when it is asked for: a table needs none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lossbench.report.summary import OTHER_FUNCTIONAL, table

if TYPE_CHECKING:
    from lossbench.report.essay import told as claims
    from lossbench.report.page import write
    from lossbench.report.pictures import Picture, inlined, palette, with_classes

__all__ = [
    "OTHER_FUNCTIONAL",
    "Picture",
    "claims",
    "inlined",
    "palette",
    "table",
    "with_classes",
    "write",
]

_DRAWN = {
    **dict.fromkeys(("Picture", "inlined", "palette", "with_classes"), "pictures"),
    "claims": "essay",
    "write": "page",
}
"""Where the rest stands."""


def __getattr__(name: str) -> Any:
    if name not in _DRAWN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_module(f"{__name__}.{_DRAWN[name]}")
    return getattr(found, "told" if name == "claims" else name)
