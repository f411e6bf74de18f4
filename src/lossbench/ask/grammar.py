"""Words of a command: parse overrides, refuse wrong ones early, and explain errors of Hydra."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    Glob,
    Override,
    OverrideType,
    RangeSweep,
    Sweep,
    ValueType,
)
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from lossbench.ask.trust import refuse_foreign_word
from lossbench.errors import ConfigError, nearest, refuse_unknown
from lossbench.question.schema import FREE_KEY, GROUPS, Config, is_key, known_keys

MOST_RUNS = 1_000_000
"""Largest number of runs of one command; `lossbench plan` forecasts the cost of runs."""

SEED_CURE = "use seed=3, seed=1,2,3 or seed='range(10)'"


@dataclass(frozen=True)
class Axis:
    """Values that a word of the command, or a line of a block, gives to one key.

    Attributes:
        key: Key as typed, without `+`, `~` and a package.
        values: Plain values, at least one.
        lines: One override for each value, in Hydra's syntax.
        line: The whole override.
        is_change: Whether the override changes an existing key; False if it adds or deletes a key.
    """

    key: str
    values: Sequence[Any]
    lines: Sequence[str]
    line: str
    is_change: bool = True


Choices = Callable[[str], list[str]]
"""Function that gives the names in a config group."""


def axes_of(words: Iterable[str], choices: Choices) -> list[Axis]:
    """Axes of the words of a command; wrong words are refused before Hydra composes anything."""
    overrides = read(words, choices)
    check(overrides, choices)
    return [*map(axis_of, overrides)]


def read(words: Iterable[str], choices: Choices) -> list[Override]:
    """Overrides that Hydra's parser reads; a list of names replaces a pattern like `glob(mse*)`."""
    parser = OverridesParser.create()
    overrides = []
    for line in words:
        try:
            overrides += [_listed(one, parser, choices) for one in parser.parse_overrides([line])]
        except HydraException as error:
            cure = SEED_CURE if line.startswith("seed=") else "use KEY=VALUE, or KEY=A,B to sweep"
            raise ConfigError(f"{line!r} cannot be read: {cure}") from error
    return overrides


def axis_of(override: Override) -> Axis:
    """Axis of a typed override.

    Raises:
        ConfigError: The override sweeps an interval, or has no value or too many values.
    """
    line = str(override.input_line)
    values, lines = values_of(override), [line]
    if not values:
        raise ConfigError(f"{line!r} has no value: give it at least one")
    if override.is_sweep_override():
        head = override.get_key_element()
        lines = [f"{head}={value}" for value in override.sweep_string_iterator()]
    is_change = override.type == OverrideType.CHANGE and override.package is None
    return Axis(override.key_or_group, values, lines, line, is_change)


def axis_in_yaml(key: str, value: object, choices: Choices) -> Axis:
    """Axis of a line of a block, from a value, a list of values, or text in Hydra's syntax.

    Raises:
        ConfigError: The list is empty, or the text cannot be read.
    """
    items = [value] if isinstance(value, str | int | float) else [*value]  # type: ignore[call-overload]
    if not items and key not in LISTS:
        raise ConfigError(f"the list of {key} is empty: give it at least one value")
    text = f"{key}={','.join(map(str, items))}"
    if key in LISTS and not isinstance(value, str):
        line = f"{key}=[{','.join(map(str, items))}]"
        return Axis(key, [items], [line], line)
    if all(isinstance(item, int | float | list) or SIMPLE.fullmatch(str(item)) for item in items):
        return Axis(key, items, [f"{key}={item}" for item in items], text)
    (override,) = read([text], choices)
    return axis_of(override)


SIMPLE = re.compile(r"(?!(?:null|true|false|inf|nan)$)[A-Za-z_]\w*", re.IGNORECASE)
"""Text that Hydra's parser reads as a plain string."""

LISTS = ("instruments",)
"""Keys whose value is a list: a list in a block is one value of such a key, not a sweep."""


def _listed(override: Override, parser: OverridesParser, choices: Choices) -> Override:
    """The override; if its value is a pattern, an override that lists all matching choices."""
    pattern = override.value()
    if not isinstance(pattern, Glob):
        return override
    key = override.key_or_group
    if not (names := pattern.filter(choices(key))):
        raise ConfigError(f"{override.input_line!r} matches no {key}")
    return parser.parse_overrides([f"{key}={','.join(names)}"])[0]


def check(overrides: Iterable[Override], choices: Choices) -> None:
    """Refuse keys, choices and seeds that do not exist; the message names the nearest one."""
    for override in overrides:
        key, line = override.key_or_group, str(override.input_line)
        refuse_foreign_word(key, line)
        if override.is_delete():
            if key in GROUPS:
                raise ConfigError(f"'~{key}' leaves no {key}: choose one with {key}=NAME")
        elif key in ("experiment", "size") and override.is_sweep_override():
            raise ConfigError(f"{line!r}: one {key} a command, give them one after the other")
        elif key in (*GROUPS, "experiment") or key.startswith("hydra/"):
            names = choices(key)
            for choice in values_of(override):
                if str(choice) not in names:
                    serving = [name for name in names if name != "basic"]  # Hydra's own choice
                    refuse_unknown(str(choice), serving, key, OWN.get(key, ""))
        elif key == "seed":
            for value in map(str, values_of(override)):
                if not value.isdecimal() or int(value) >= 2**63:
                    raise ConfigError(f"seed {value!r} is not a whole number: {SEED_CURE}")
        else:
            check_key(key)


def check_key(key: str) -> None:
    """Refuse a key that may not be typed as KEY=VALUE."""
    if is_key(key):
        return
    declared = [f"hydra.sweeper.declare.{name}" for name in ("primary", "reference", "margin")]
    names = {*known_keys(), *GROUPS, *declared, "hydra.sweeper.looks"} - {"size.looks"}
    whole = [name for name in names if name.endswith(f".{key}")]
    whole = [name for name in whole if not name.startswith("pretrained.")] or whole
    if key in ("margin", "reference", "average"):
        hint = f"use hydra.sweeper.declare.{key}.regression= or .classification="
    elif len(whole) == 1:
        hint = f"did you mean {whole[0]!r}?"
    else:
        hint = f"use {declared[0]}.TASK=NAME" if key == "metric" else nearest(key, names)
    raise ConfigError(f"unknown key {key!r}: {hint}")


OWN = {
    kind: f" (a function of your own: {kind}=FILE.py:NAME)" for kind in ("loss", "data", "model")
}
"""Hint by config group, in case the unknown name means a function of the user."""


def values_of(override: Override) -> list[Any]:
    """Values that an override sweeps, or its single value.

    Raises:
        ConfigError: The override sweeps an interval, more than `MOST_RUNS` values, or a list that
            contains a sweep.
    """
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line!r} is an interval: list values, as KEY=A,B")
    sweep = override.value()
    if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None:
        count = (sweep.stop - sweep.start) / (sweep.step or 1)
        if count > MOST_RUNS:
            raise ConfigError(
                f"{override.input_line!r} has {count:,.0f} values: use at most {MOST_RUNS:,}"
            )
    key = override.key_or_group
    elements = [*override.sweep_iterator()]
    if any(isinstance(element, Sweep) for element in elements):
        raise ConfigError(f"{override.input_line!r} cannot be read: a sweep has no sweep in it")
    return [Override(override.type, key, ValueType.ELEMENT, item).value() for item in elements]


def in_type_of_field(key: str, value: object) -> Any:
    """Value converted to the type of its key in the schema; parameters are not converted.

    Raises:
        ConfigError: The value cannot be converted.
    """
    if FREE_KEY.match(key):
        return value
    node = _schema()  # shared by all calls, so the value is read at once
    try:
        OmegaConf.update(node, key, value, merge=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explained(error)) from error
    converted = OmegaConf.select(node, key)
    return OmegaConf.to_container(converted) if OmegaConf.is_config(converted) else converted


@functools.cache
def _schema() -> DictConfig:
    """Configuration that converts values, cached because it takes long to make."""
    return OmegaConf.structured(Config)


def explained(error: BaseException) -> str:
    """Message in one line about a failed composition: the key, its value and the cure.

    Args:
        error: Error of Hydra; its first cause is the error of OmegaConf, which knows the key.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Hydra names the file in a first line that ends in a colon, and the mistake in the next one.
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    key = getattr(error, "full_key", None)
    if key == "experiment" or "@experiment." in text or "Key 'experiment' not in" in text:
        return f"{text} A yaml of an experiment begins with the line '# @package _global_'."
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and key:
        prefix, _, name = key.rpartition(".")
        siblings = [str(node) for node in error.parent_node or () if node != "_target_"]
        if not siblings and FREE_KEY.match(key):
            group = key.partition(".")[0]
            return f"{key}: a chosen {group} has no such parameter, sweep those that have it apart"
        return f"unknown key {key!r}: below {prefix!r} {nearest(name, siblings)}"
    if isinstance(error, ValidationError) and key:
        kinds = {"Float": "a number", "Integer": "a whole number"}
        match = re.match(r"Value (.*) of type .* could not be converted to (\w+)", text)
        if match and match[2] in kinds:
            return f"{key} is {match[1]}: use {kinds[match[2]]}"
        if text.startswith("Cannot assign") and "Dict" in text:
            return f"{key} is no single value: set the keys below it"
        if "is not a ListConfig" in text:
            return f"{key} is no list: use {key}=[NAME], or {key}=[NAME,NAME]"
        return f"{key}: {text}"
    return text
