"""`lossbench export`: a sweep for another tool."""

from __future__ import annotations

from lossbench import export, records
from lossbench.cli.exit_codes import DONE
from lossbench.cli.options import parser
from lossbench.errors import ConfigError, refuse_unknown


def main(arguments: list[str]) -> int:
    """Write a sweep for the tool that is named; returns the exit code."""
    flags = parser("export")
    flags.add_argument("folder", metavar="runs/NAME")
    flags.add_argument("--to", required=True)
    flags.add_argument("--into", default="")
    flags.add_argument("--all", action="store_true")
    options = flags.parse_intermixed_args(arguments)
    refuse_unknown(options.to, export.TARGETS, "--to")
    loaded = records.load(options.folder)
    try:
        print(export.export(loaded, to=options.to, into=options.into, is_whole=options.all))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return DONE
