"""The flags of the commands, and how what stands behind a command is read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from lossbench.errors import ConfigError

FLAGS = {
    "plan": ("--power", "--spread", "--json"),
    "status": ("--json",),
    "report": ("--strict", "--figures", "--json"),
    "export": ("--to", "--into", "--all"),
    "verify": ("--machine",),
    "losses": ("--measure", "--json", "--wide", "--card", "--config-dir"),
    "try": ("--task", "--link", "--against", "--data", "--model", "--name"),
}
"""Flags by command."""


def parser(command: str) -> argparse.ArgumentParser:
    """A parser of a command's own flags whose mistakes are ours."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{command}: {message}: see 'lossbench --help'")

    return Parser(prog=f"lossbench {command}", add_help=False, allow_abbrev=False)


def extensions_in(words: Iterable[str]) -> list[str]:
    """The modules in `extensions=[a,b]` among the words of a command."""
    typed = [word.partition("=")[2] for word in words if word.startswith("extensions=")]
    return re.findall(r"""[^\s,\[\]"']+""", " ".join(typed))


def yaml_folder(config_dir: str) -> Path:
    """The folder of `--config-dir`, refused where a yaml in it would do more than choose."""
    from lossbench.ask import check_folder

    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder, name one with yaml files")
    check_folder(folder)
    return folder
