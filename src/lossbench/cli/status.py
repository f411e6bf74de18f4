"""`lossbench status`: progress of a sweep, even while other processes train it."""

from __future__ import annotations

import json

from lossbench.cli.exit_codes import DONE, SOME_FAILED
from lossbench.cli.options import parser
from lossbench.records import status


def main(arguments: list[str]) -> int:
    """Print the state of a sweep; returns the exit code."""
    options = parser("status").parse_args(arguments)
    state = status.status(options.sweep)
    if options.json:
        print(json.dumps(status.plain(state), indent=1))
    else:
        print("\n".join(status.lines(state)))
    return SOME_FAILED if state.failed else DONE
