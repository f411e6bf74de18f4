"""Estimates and figures as a folder, and as a short table for the command line."""

from lossbench.report.judged import Task, asked, declared_losses, objections, tasks
from lossbench.report.page import inlined, write
from lossbench.report.words import OTHER_FUNCTIONAL, table

__all__ = [
    "OTHER_FUNCTIONAL",
    "Task",
    "asked",
    "declared_losses",
    "inlined",
    "objections",
    "table",
    "tasks",
    "write",
]
