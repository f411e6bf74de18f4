"""Estimates and figures as a folder, and as a short table for the command line."""

from lossbench.report.essay import told as claims
from lossbench.report.judged import (
    Comparison,
    asked,
    by_context,
    comparisons,
    declared_losses,
    main_of,
    objections,
)
from lossbench.report.page import inlined, write
from lossbench.report.words import OTHER_FUNCTIONAL, table

__all__ = [
    "OTHER_FUNCTIONAL",
    "Comparison",
    "asked",
    "by_context",
    "claims",
    "comparisons",
    "declared_losses",
    "inlined",
    "main_of",
    "objections",
    "table",
    "write",
]
