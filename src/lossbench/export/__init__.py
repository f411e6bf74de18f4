"""Export of a sweep to tools that a researcher uses, and of its verdicts to programs."""

from lossbench.export.tools import TARGETS, export
