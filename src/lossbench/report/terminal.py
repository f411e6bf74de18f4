"""Results of a sweep as text for the terminal, with coloured verdicts."""

from __future__ import annotations

import functools

from lossbench import statistics
from lossbench.report import essay, summary

_COLORS = {
    "better by more": "1;32",
    "better": "32",
    "worse": "31",
    "worse by more": "1;31",
    "diverges": "1;31",
    "reference": "1",
    "undecided": "2",
}


@functools.lru_cache(maxsize=1)
def answer(verdicts: statistics.Verdicts) -> str:
    """Table of a sweep's results, verdicts coloured, and the essay's findings."""
    return f"{table(verdicts)}\n{essay.as_text(verdicts)}"


def table(verdicts: statistics.Verdicts) -> str:
    """Table of a sweep's results, verdicts coloured."""

    def painted(text: str, verdict: str) -> str:
        return f"\033[{_COLORS[verdict]}m{text}\033[0m" if verdict in _COLORS else text

    return summary.table(verdicts, paint=painted)
