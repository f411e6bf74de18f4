"""Estimates and figures as a folder, and as a short table for the command line.

What draws is imported when it is asked for: a table needs none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lossbench.report.summary import OTHER_FUNCTIONAL, table
from lossbench.statistics.comparisons import (
    Comparison,
    asked,
    by_context,
    chosen,
    comparisons,
    declared_losses,
    main_of,
    objections,
    selection_costs,
)

if TYPE_CHECKING:
    from lossbench.report.drawings import across, noise_curves, reached
    from lossbench.report.essay import told as claims
    from lossbench.report.page import write
    from lossbench.report.pictures import Picture, inlined, palette, with_classes

__all__ = [
    "OTHER_FUNCTIONAL",
    "Comparison",
    "Picture",
    "across",
    "asked",
    "by_context",
    "chosen",
    "claims",
    "comparisons",
    "declared_losses",
    "inlined",
    "main_of",
    "noise_curves",
    "objections",
    "palette",
    "reached",
    "selection_costs",
    "table",
    "with_classes",
    "write",
]

_DRAWN = {
    **dict.fromkeys(("across", "noise_curves", "reached"), "drawings"),
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
