"""`lossbench status`: how far a sweep is, also while others train it."""

from __future__ import annotations

import json
from pathlib import Path

from lossbench.cli.exit_codes import DONE, SOME_FAILED
from lossbench.cli.options import parser
from lossbench.records import status


def main(arguments: list[str]) -> int:
    """Say what is done, trains, waits and has failed; returns the exit code."""
    flags = parser("status")
    flags.add_argument("sweep", metavar="runs/NAME")
    flags.add_argument("--json", action="store_true")
    options = flags.parse_args(arguments)
    found = status.status(Path(options.sweep))
    print(
        json.dumps(status.plain(found), indent=1)
        if options.json
        else "\n".join(status.lines(found))
    )
    return SOME_FAILED if found.failed else DONE
