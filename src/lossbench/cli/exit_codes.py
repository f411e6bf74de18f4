"""Exit codes, and the line on standard error that goes with a refusal."""

from __future__ import annotations

import signal
import sys

from lossbench.errors import in_a_line

DONE, SOME_FAILED, MISTAKE, BY_SIGNAL = 0, 1, 2, 128
"""Exit codes; the last is added to the number of the signal that ended a command."""

INTERRUPTED = BY_SIGNAL + signal.SIGINT

LONGEST = 1000
"""Letters of a message, at most."""


def refuse(message: str) -> int:
    """Say in one line why a command is refused; returns its exit code."""
    print(f"lossbench: {shortened(message)}", file=sys.stderr)
    return MISTAKE


def shortened(message: str) -> str:
    """A message without breaks, the middle of an endless one left out."""
    line = in_a_line(message)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 200]} ... {line[-200:]}"
