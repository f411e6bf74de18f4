"""Refusal of code, the environment and Hydra's own parts, typed or in a yaml."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lossbench.errors import ConfigError

ALLOWED = ("launcher", "sweeper", "sweep", "run", "verbose")
"""Keys below `hydra` that may be set: all that lossbench reads."""

_NOT_USED = f"lossbench does not use: below hydra you may set {', '.join(ALLOWED)}"

_COMPUTED = ("mode", "overrides", "runtime", "job")
"""Keys below `hydra` whose values differ from command to command."""

_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\b")


def refuse_foreign_word(key: str, line: str) -> None:
    """Refuse an override that would run code, read the environment or set Hydra's own parts.

    Args:
        key: The key that it sets, like `hydra.launcher.workers`.
        line: As typed.

    Raises:
        ConfigError: Names the words that may be typed instead.
    """
    top, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    if key == "hydra.run.dir":
        raise ConfigError(
            f"{line!r}: a single run lies in the folder of its sweep too: type "
            "hydra.sweep.dir=DIR, or name=NAME for runs/NAME"
        )
    if top == "hydra" and name not in ALLOWED:
        raise ConfigError(f"{line!r} sets a part of Hydra that {_NOT_USED}")
    if "_target_" in key.split(".") or "_target_:" in line:
        raise ConfigError(f"{line!r}: {_NO_CODE}")
    if _ENVIRONMENT.search(line):
        raise ConfigError(f"{line!r}: {_NO_ENVIRONMENT}")


_NO_CODE = (
    "a configuration names things and runs no code, so _target_ is refused: your own functions "
    "come from a module, with extensions=[MODULE]"
)
_NO_ENVIRONMENT = (
    "a configuration does not read the environment, which may hold secrets: write the value itself"
)


def refuse_foreign(config: DictConfig, *, usual: DictConfig | None = None) -> None:
    """Refuse a composed configuration whose yaml sets a key that no override may set.

    Args:
        config: The whole one, with `hydra`; nothing of it has been resolved.
        usual: The same without anybody's words, where files of one's own took part.

    Raises:
        ConfigError: Names the key, and the keys that may be set instead.
    """
    for key, value in _leaves(OmegaConf.to_container(config, resolve=False)):
        if "_target_" in key.split("."):
            raise ConfigError(f"{key} is {value!r}: {_NO_CODE}")
        if isinstance(value, str) and _ENVIRONMENT.search(value):
            raise ConfigError(f"{key} is {value!r}: {_NO_ENVIRONMENT}")
    job = config.hydra.job
    if job.env_copy or job.env_set:
        raise ConfigError(f"hydra.job.env_copy or env_set is set in a yaml: {_NO_ENVIRONMENT}")
    if usual is None:
        return
    others = [name for name in config.hydra if name not in {*ALLOWED, *_COMPUTED}]
    for name in sorted(map(str, others)):
        if config.hydra[name] != usual.hydra[name]:
            raise ConfigError(f"a yaml sets hydra.{name}, which {_NOT_USED}")


def check_folder(folder: Path) -> None:
    """Refuse yaml files of one's own that would take the place of ours, or never end.

    Args:
        folder: Of `--config-dir`.

    Raises:
        ConfigError: There is a `config.yaml`, or a file whose references, written out, are endless
            or more than `MOST_VALUES`; names it.
    """
    if (folder / "config.yaml").exists():
        raise ConfigError(
            f"{folder / 'config.yaml'} would replace that of lossbench: put what you set into "
            f"{folder}/experiment/NAME.yaml, and type experiment=NAME"
        )
    for path in sorted(_yamls(folder)):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is a pipe, folder or device: put a yaml file there")
        if status.st_size > MOST_BYTES:
            raise ConfigError(f"{path} has more than {MOST_BYTES:,} bytes: is it a configuration?")
        try:
            content = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        except (yaml.YAMLError, OSError):
            continue  # Hydra says so where it is asked for
        hydra = content.get("hydra") if isinstance(content, dict) else None
        for name in hydra if isinstance(hydra, dict) else ():
            if name not in ALLOWED:  # before Hydra obeys it, as it does env_copy
                raise ConfigError(f"{path} sets hydra.{name}, which {_NOT_USED}")
        if _written_out(content, {}) > MOST_VALUES:
            raise ConfigError(
                f"{path}: its references (*name) stand for more than {MOST_VALUES:,} values: "
                "write out what they stand for"
            )


MOST_BYTES, MOST_VALUES = 10**6, 10**5


def _yamls(folder: Path) -> Iterator[Path]:
    """All yaml files below a folder, those behind links to folders too: Hydra finds them there."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(name)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(name) / file for file in files if file.endswith((".yaml", ".yml")))


def _written_out(value: Any, known: dict[int, float]) -> float:
    """Number of values of a yaml when each reference is written out; infinite if it never ends."""
    if not isinstance(value, Mapping | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # what refers to itself
        inner = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_written_out(one, known) for one in inner)
    return known[id(value)]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of everything in nested mappings and lists."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{prefix}{name}.")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{prefix}{place}.")
    else:
        yield prefix[:-1], value
