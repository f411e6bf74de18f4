"""`lossbench export`: writes a sweep for another tool."""

from __future__ import annotations

from lossbench import export, records
from lossbench.cli.exit_codes import DONE
from lossbench.cli.options import parser
from lossbench.errors import ConfigError, refuse_unknown


def main(arguments: list[str]) -> int:
    """Write a sweep for the tool that `--to` names; returns the exit code."""
    options = parser("export").parse_intermixed_args(arguments)
    refuse_unknown(options.to, export.TARGETS, "--to")
    loaded = records.load(options.sweep)
    try:
        print(export.export(loaded, to=options.to, into=options.into, is_whole=options.all))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return DONE
