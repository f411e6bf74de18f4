"""Commands made of overrides: read as Hydra reads them, with our checks and exit codes."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from lossbench import launch
from lossbench.cli.exit_codes import DONE, SOME_FAILED, refuse, shortened
from lossbench.cli.options import extensions_in, yaml_folder
from lossbench.cli.report import finish, loading
from lossbench.config import named
from lossbench.config.schema import GROUPS, is_key
from lossbench.errors import ConfigError
from lossbench.store import WriteError
from lossbench.user_code import load_extensions, with_names

FOREIGN_FLAGS = {
    "hydra-help": "see 'lossbench --help', and 'lossbench --info' for what Hydra sees",
    "config-name": "name an experiment, with experiment=NAME",
    "config-path": "add yaml files of your own with --config-dir DIR",
    "run": "leave it out, one run goes the way of many",
    "experimental-rerun": "give the same command again, it trains what is missing",
}
"""Flags of Hydra's own main that would be taken and not be obeyed, and what serves."""


def with_hydra(arguments: list[str], act: Callable[[Any, Any], int]) -> int:
    """Read overrides as Hydra does, act, and turn mistakes into one line and exit code 2.

    Args:
        arguments: As typed.
        act: Given the composed configuration and Hydra's loader, returns the exit code.
    """
    for word in arguments:  # else Hydra takes the beginning of a flag of its own for it
        key = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and (key in (*GROUPS, "experiment") or is_key(key)):
            raise ConfigError(f"{word}: write it without the dashes, as {word[2:]}")
    args, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if any(".py:" in word or word.startswith("data=") for word in args.overrides):
        args.overrides = with_names(args.overrides)
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}: see 'lossbench --help'")
    for flag, cure in FOREIGN_FLAGS.items():
        if getattr(args, flag.replace("-", "_")):
            raise ConfigError(f"--{flag} is Hydra's, and does nothing here: {cure}")
    # Hydra would have it that an experiment is added, because it is none by default.
    args.overrides = [re.sub(r"^\+\+?experiment=", "experiment=", word) for word in args.overrides]
    if not args.overrides and not args.multirun:
        args.overrides = ["experiment=essay"]
    try:
        return _hydra(args, act)
    except launch.RunsFailed as failure:
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


def _hydra(args: Any, act: Callable[[Any, Any], int]) -> int:
    """What Hydra's own main does, with our search path, checks and exit codes."""
    load_extensions(extensions_in(args.overrides))
    folder = yaml_folder(args.config_dir) if args.config_dir else None
    with launch.hydra(folder) as hydra:
        if args.shell_completion:
            hydra.shell_completion("config", args.overrides)
            return DONE
        config = launch.composed(hydra.config_loader, args.overrides, folder)
        if args.cfg == "job" and not args.package:
            config = named(config, {**config.hydra.runtime.choices})
            print(OmegaConf.to_yaml(config, resolve=args.resolve), end="")
            return DONE
        if args.cfg:
            hydra.show_cfg("config", args.overrides, args.cfg, args.package, args.resolve)
            return DONE
        if args.info:
            logging.getLogger().handlers.clear()  # Hydra brings its own
            hydra.show_info(args.info, "config", args.overrides)
            return DONE
        return act(config, hydra.config_loader)
