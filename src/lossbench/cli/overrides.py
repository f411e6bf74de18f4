"""Reads commands that consist of overrides: parses the flags, and makes a `Question`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable

import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from lossbench import protocol
from lossbench.ask import SEARCH_PATH, Loader, composed, named, open_hydra, question, with_names
from lossbench.cli.exit_codes import DONE, SOME_FAILED, refuse, shortened
from lossbench.cli.options import Parser, extensions_in, yaml_folder
from lossbench.cli.report import finish, loading
from lossbench.errors import ConfigError
from lossbench.question import Question
from lossbench.question.schema import GROUPS, is_key
from lossbench.store import WriteError
from lossbench.user_code import load_extensions

FOREIGN_FLAGS = {
    "--hydra-help": "see 'lossbench --help', and 'lossbench --info' for what Hydra sees",
    "--config-name": "name an experiment, with experiment=NAME",
    "--config-path": "add yaml files of your own with --config-dir DIR",
    "--run": "leave it out, one run goes the way of many",
    "--experimental-rerun": "give the same command again, it trains what is missing",
    "--shell-completion": "see docs/commands.md for 'lossbench complete'",
}
"""Flags of Hydra that have no effect here, with advice for the error message."""


def with_question(
    arguments: list[str], act: Callable[[Question], int], *, command: str = "", text: str = ""
) -> int:
    """Make a question from overrides, and call `act` with the question; returns the exit code.

    The whole command line is for the records; for the `text` see `ask.question`.
    """
    flags = _parsed(arguments)
    words = flags.overrides
    if any(".py:" in word or word.startswith("data=") for word in words):
        words = with_names(words)
    # Hydra requires a + before experiment=, because no experiment is chosen by default.
    words = [re.sub(r"^\+\+?experiment=", "experiment=", word) for word in words]
    if not words and not flags.multirun:
        words = ["experiment=essay"]
    load_extensions(extensions_in(words))
    folder = yaml_folder(flags.config_dir) if flags.config_dir else None
    try:
        with open_hydra(folder) as loader:
            if flags.cfg or flags.info:
                return _show(flags, words, loader)
            typed_question = question(words, loader, command=command, text=text)
        return act(typed_question)
    except protocol.RunsFailed as failure:
        return max(SOME_FAILED, finish(failure.folder, loading(failure.folder), extent="none"))
    except UnicodeDecodeError as error:
        return refuse(f"a yaml file of --config-dir is not UTF-8 ({error}): save it as UTF-8")
    except yaml.YAMLError as error:
        return refuse(f"a yaml file cannot be read: {error}")
    except RecursionError:
        return refuse("a yaml file takes in itself, or is nested without end: mend its defaults")
    except WriteError as error:
        print(f"lossbench: {shortened(str(error))}", file=sys.stderr)
        return SOME_FAILED


def _parsed(arguments: list[str]) -> argparse.Namespace:
    """Parse flags and overrides; refuses unknown flags, and overrides that begin with dashes."""
    for word in arguments:
        flag = word.partition("=")[0]
        key = flag.removeprefix("--")
        if word.startswith("--") and (key in (*GROUPS, "experiment") or is_key(key)):
            raise ConfigError(f"{word}: write it without the dashes, as {word[2:]}")
        if flag in FOREIGN_FLAGS:
            raise ConfigError(f"{flag} is Hydra's, and does nothing here: {FOREIGN_FLAGS[flag]}")
    parser = Parser("")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--info", "-i", nargs="?", const="all")
    flags, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}: see 'lossbench --help'")
    return flags


def _show(flags: argparse.Namespace, words: list[str], loader: Loader) -> int:
    """Print the configuration that overrides give or, for `--info`, Hydra's information on it."""
    if flags.info:
        logging.getLogger().handlers.clear()  # Hydra brings its own
        lines = [SEARCH_PATH, *words]
        GlobalHydra.instance().hydra.show_info(flags.info, "config", lines)  # type: ignore[union-attr]
        return DONE
    config, _ = composed(words, loader)
    hydra = config.hydra
    if flags.cfg != "hydra":
        config = named(config, {**hydra.runtime.choices})
    if flags.cfg == "all":
        config = OmegaConf.merge({"hydra": hydra}, config)
    shown = OmegaConf.create({"hydra": hydra}) if flags.cfg == "hydra" else config
    if flags.package:
        shown = OmegaConf.select(shown, flags.package)
        if shown is None:
            raise ConfigError(f"--package {flags.package}: there is no such part")
    text = OmegaConf.to_yaml(shown, resolve=flags.resolve) if OmegaConf.is_config(shown) else shown
    print(text, end="" if str(text).endswith("\n") else "\n")
    return DONE
