"""Estimates and figures as a folder, and as a short table for the command line."""

from lossbench.report.drawings import across, noise_curves, reached
from lossbench.report.essay import told as claims
from lossbench.report.judged import (
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
from lossbench.report.page import write
from lossbench.report.pictures import Picture, inlined, palette, with_classes
from lossbench.report.words import OTHER_FUNCTIONAL, table

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
