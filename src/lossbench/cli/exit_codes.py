"""Exit codes, and the line on standard error that goes with a refusal."""

from __future__ import annotations

import signal
import sys

from lossbench.errors import in_a_line

DONE, SOME_FAILED, MISTAKE, BY_SIGNAL = 0, 1, 2, 128
"""Exit codes; `BY_SIGNAL` is added to the number of the signal that ended a command."""

INTERRUPTED = BY_SIGNAL + signal.SIGINT

LONGEST = 1000
"""Number of letters above which a message is shortened."""


def refuse(message: str) -> int:
    """Print in one line why a command is refused; returns the exit code."""
    print(f"lossbench: {shortened(message)}", file=sys.stderr)
    return MISTAKE


def shortened(message: str) -> str:
    """Message in one line; the middle of a message longer than `LONGEST` is left out."""
    line = in_a_line(message)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 200]} ... {line[-200:]}"
