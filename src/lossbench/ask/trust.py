"""Refusal of overrides and yaml files that run code, read the environment or change Hydra."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from lossbench.errors import ConfigError

ALLOWED = ("launcher", "sweeper", "sweep", "run", "verbose")
"""Keys below `hydra` that may be set: the keys that lossbench reads."""

_NOT_USED = f"lossbench does not use: below hydra you may set {', '.join(ALLOWED)}"

_COMPUTED = ("mode", "overrides", "runtime", "job")
"""Keys below `hydra` whose values differ from command to command."""

_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\b")


def refuse_foreign_word(key: str, line: str) -> None:
    """Refuse an override that would run code, read the environment or set Hydra's own parts.

    The line is the override as typed; the message of the error names the words to type instead.
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
        config: Whole configuration, including `hydra`, whose interpolations are not resolved.
        usual: Configuration without typed words, if yaml files of the user took part, else None.

    Raises:
        ConfigError: A key is refused; the message names the key and the cure.
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
    """Refuse yaml files in a `--config-dir` that replace lossbench's, set Hydra's parts, are huge.

    Raises:
        ConfigError: A file is refused, for instance because its references, written out, stand for
            more than `MOST_VALUES` values; the message names the file.
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
            continue  # Hydra reports the error if the file is used
        hydra = content.get("hydra") if isinstance(content, dict) else None
        for name in hydra if isinstance(hydra, dict) else ():
            if name not in ALLOWED:  # refused before Hydra applies the key, as it would `env_copy`
                raise ConfigError(f"{path} sets hydra.{name}, which {_NOT_USED}")
        if _written_out(content, {}) > MOST_VALUES:
            raise ConfigError(
                f"{path}: its references (*name) stand for more than {MOST_VALUES:,} values: "
                "write out what they stand for"
            )


MOST_BYTES, MOST_VALUES = 10**6, 10**5


def _yamls(folder: Path) -> Iterator[Path]:
    """All yaml files below a folder, including those in linked folders, where Hydra finds them."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(name)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(name) / file for file in files if file.endswith((".yaml", ".yml")))


def _written_out(value: object, known: dict[int, float]) -> float:
    """Number of values of a yaml with all references written out; infinite for a circular one."""
    if not isinstance(value, Mapping | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # stays infinite if the value refers to itself
        inner = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_written_out(one, known) for one in inner)
    return known[id(value)]


def _leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of all leaves of nested mappings and lists."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{prefix}{name}.")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{prefix}{place}.")
    else:
        yield prefix[:-1], value
