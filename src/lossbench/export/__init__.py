"""A sweep for a tool that a researcher has open, and its verdicts for programs."""

from lossbench.export.tools import TARGETS, export
