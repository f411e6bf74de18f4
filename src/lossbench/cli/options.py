"""Parsers of all commands, and readers of words that several commands take."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from lossbench.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Argument parser that raises a `ConfigError` for a wrong argument."""

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"lossbench {command}".strip(), add_help=False, allow_abbrev=False)
        self.start = f"{command}: " if command else ""

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigError` with a message of argparse."""
        raise ConfigError(f"{self.start}{message}: see 'lossbench --help'")


COMMANDS = ("plan", "status", "report", "export", "verify", "losses", "try")
"""Commands whose flags `parser` declares."""


def parser(command: str) -> Parser:
    """Parser of a command; shell completion offers the flags of this parser.

    Args:
        command: One of `COMMANDS`.
    """
    parser = Parser(command)
    if command == "plan":
        parser.add_argument("--power", action="store_true")
        parser.add_argument("--spread", type=float, default=math.nan)
    elif command == "report":
        parser.add_argument("--strict", action="store_true")
        parser.add_argument("--figures", action="store_true")
    elif command == "export":
        parser.add_argument("--to", required=True)
        parser.add_argument("--into", default="")
        parser.add_argument("--all", action="store_true")
    elif command == "verify":
        parser.add_argument("--machine", action="store_true")
    elif command == "losses":
        parser.add_argument("--measure", action="store_true")
        parser.add_argument("--wide", action="store_true")
        parser.add_argument("--card", metavar="FILE.html", default="")
        parser.add_argument("--config-dir", metavar="DIR", action="append", default=[])
        parser.add_argument("names", nargs="*")
    elif command == "try":
        for flag in ("--task", "--link", "--against", "--data", "--model", "--name"):
            parser.add_argument(flag, default="")
        parser.add_argument("file", metavar="FILE.py")
        parser.add_argument("names", nargs="*")
    if command in ("plan", "status", "report", "losses"):
        parser.add_argument("--json", action="store_true")
    if command in ("status", "report", "export"):
        parser.add_argument("sweep", metavar="runs/NAME", type=Path)
    if command == "verify":
        parser.add_argument("sweep", metavar="runs/NAME", type=Path, nargs="?")
    return parser


def flags_of(command: str) -> list[str]:
    """Long flags of a command; for any other word, the flags that overrides may have."""
    if command not in COMMANDS:
        return ["--multirun", "--config-dir", "--cfg", "--info"]
    return re.findall(r"--[a-z-]+", parser(command).format_usage())


def extensions_in(words: Iterable[str]) -> list[str]:
    """Names of the modules in the words `extensions=[a,b]` of a command."""
    typed = [word.partition("=")[2] for word in words if word.startswith("extensions=")]
    return re.findall(r"""[^\s,\[\]"']+""", " ".join(typed))


def yaml_folder(config_dir: str) -> Path:
    """Folder of `--config-dir`; refuses a folder that is missing or has forbidden yaml files."""
    from lossbench.ask import check_folder

    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder, name one with yaml files")
    check_folder(folder)
    return folder
