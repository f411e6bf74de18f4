"""Finds the module that carries out a command; only that module is imported."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence

import lossbench
from lossbench.cli import options
from lossbench.cli.exit_codes import BY_SIGNAL, DONE, refuse
from lossbench.cli.help import usage, usage_of
from lossbench.errors import ConfigError, nearest
from lossbench.store import StoreError

FILES = {name: name for name in options.COMMANDS} | {
    "plan": "cost",
    "try": "challenge",
    "complete": "completion",
}
"""Module in this folder that carries out a command, by command; imports may take seconds."""

BEGINNING = "Loading PyTorch and reading the question ..."
"""Line that a terminal shows before the first output of a command that trains or plans."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `lossbench` command; returns its exit code."""
    atexit.register(_end_at_once)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # the caller has closed it
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding may lack ± and ×
            stream.reconfigure(errors="replace")
    if any(word in arguments for word in ("--help", "-h", "help")):
        is_of_command = arguments[0] in options.COMMANDS
        print(usage_of(arguments[0]) if is_of_command else usage(), end="")
        return DONE
    if "--version" in arguments:
        print(f"lossbench {lossbench.__version__}")
        return DONE
    if arguments[:1] == ["--config-dir"] and {*arguments[2:3]} & FILES.keys():
        arguments = [arguments[2], *arguments[:2], *arguments[3:]]
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("lossbench").setLevel(logging.INFO)
    command = next(iter(arguments), "")
    try:
        if command in FILES:
            return _obey(FILES[command], arguments[1:])
        if re.fullmatch(r"[A-Za-z][\w-]*", command):
            hint = nearest(command, options.COMMANDS)
            if command == "compare":
                hint = "use lossbench experiment=compare data=... loss=..."
            raise ConfigError(f"unknown command {command!r}: {hint}")
        return _obey("launch", arguments)
    except (ConfigError, StoreError) as error:
        return refuse(str(error))
    except KeyboardInterrupt as end:
        print("\nInterrupted. What was done is kept; the same command goes on from there.")
        return BY_SIGNAL + getattr(end, "signal", signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        return refuse(str(error))


def _end_at_once() -> None:
    """Keep Python from searching all objects for reference cycles at exit, which takes seconds."""
    if "triton" not in sys.modules:  # a loss may have imported it; it prints each object left
        gc.freeze()


def _obey(file: str, arguments: list[str]) -> int:
    if file in ("launch", "cost", "challenge") and sys.stderr.isatty():
        print(BEGINNING, end="\r", file=sys.stderr, flush=True)
    return importlib.import_module(f"lossbench.cli.{file}").main(arguments)
