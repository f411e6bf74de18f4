"""An experiment's size: blocks, grid and seeds made smaller or larger, its question left alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lossbench.ask.blocks import listed_values
from lossbench.ask.grammar import check_key
from lossbench.ask.loader import Loader
from lossbench.errors import ConfigError, nearest
from lossbench.question.grid import spread
from lossbench.question.schema import GROUPS

CANDIDATES = ("rates", "finer", "extend")
"""What a size may replace of the candidates; `rates` is how many learning rates span the declared
grid, `finer` how many steps it has for each declared one."""


def check_size(size: Mapping[str, Any]) -> None:
    """Refuse a size with an unknown key or a count below one, before anything is trained.

    Args:
        size: The `size` node of the configuration.

    Raises:
        ConfigError: Names the key and the nearest one, or the value and the cure.
    """
    for key, value in size["candidates"].items():
        if key not in CANDIDATES:
            known = nearest(key, CANDIDATES)
            raise ConfigError(f"size.candidates.{key} is {value!r}: {known}")
    counts = {key: value for key, value in size["candidates"].items() if key != "extend"}
    for key, count in counts.items():
        if type(count) is not int or count < 1:
            raise ConfigError(f"size.candidates.{key} is {count!r}: use a whole number, 1 or more")
    if len(counts) > 1:
        raise ConfigError(f"size.candidates has rates {counts['rates']} and finer: use one of them")
    for key, factor in size["scale"].items():
        if not (math.isfinite(factor) and factor > 0):
            raise ConfigError(f"size.scale.{key} is {factor}: use a positive number, like 0.1")
    for key, count in size["most"].items():
        if count < 1:
            raise ConfigError(f"size.most.{key} is {count}: use a whole number, 1 or more")
    for part in ("scale", "most", "replace"):
        for key in size[part]:
            if key not in GROUPS:
                check_key(key)


def sized_blocks(
    blocks: Sequence[Mapping[str, Any]],
    size: Mapping[str, Any],
    *,
    top: Mapping[str, Any],
    typed: Iterable[str],
) -> list[dict[str, Any]]:
    """Blocks with their numbers scaled and some keys replaced; typed keys stay.

    Args:
        blocks: As the experiment has them.
        size: Its `scale` multiplies whole numbers wherever the experiment sets them: in a block, or
            at its top (`steps`, `eval_every`, ...). Its `most` keeps the first values of a key that
            a block lists, and its `replace` sets a key in every block.
        top: The composed configuration.
        typed: Keys that were typed.

    Raises:
        ConfigError: A number to be scaled is none.
    """
    typed = {*typed}
    sized = []
    for block in blocks or [{}]:
        new = dict(block)
        for key, factor in size["scale"].items():
            numbers = block.get(key, None if "." in key else top.get(key))
            if numbers is not None and key not in typed:
                new[key] = _scaled(key, numbers, factor)
        for key, count in size["most"].items():
            if key in new and not isinstance(new[key], int | float | str):
                new[key] = [*new[key]][:count]
        new |= {key: value for key, value in size["replace"].items() if key not in typed}
        sized.append(new)
    return sized


def sized_candidates(
    candidates: Mapping[str, Any],
    size: Mapping[str, Any],
    *,
    typed: Iterable[str],
    loader: Loader,
) -> dict[str, Any]:
    """Candidates at another size; typed keys below `hydra.sweeper` stay.

    Args:
        candidates: As the experiment has them.
        size: The size's own.
        typed: Keys that were typed.
        loader: Reads lists of values.
    """
    where, names = "hydra.sweeper.candidates", {*typed}
    new = {key: value for key, value in size.items() if f"{where}.{key}" not in names}
    spans = {key: new.pop(key) for key in ("rates", "finer") if key in new}
    if spans and f"{where}.lr" not in names:
        declared = listed_values("optimizer.lr", candidates.get("lr", ()), loader)
        count = spans.get("rates") or (len(declared) - 1) * spans["finer"] + 1
        new["lr"] = spread(declared, count)
    return {**candidates, **new}


def sized_interactions(
    declared: Mapping[str, Any], scale: Mapping[str, float], *, typed: Iterable[str]
) -> dict[str, Any]:
    """Levels that others are compared with at another size; a factor that was typed varies no more.

    Args:
        declared: As the experiment has them, by factor.
        scale: The size's own.
        typed: Keys that were typed.
    """
    lines = [f"{key}." for key in typed]
    return {
        key: _scaled(key, base, scale[key]) if key in scale else base
        for key, base in declared.items()
        if not any(line.startswith(f"{key}.") for line in lines)
    }


def _scaled(key: str, numbers: Any, factor: float) -> Any:
    """A whole number, or each of a list, times a factor, and at least 1."""
    listed: list[Any] = [numbers] if isinstance(numbers, int | float | str) else [*numbers]
    if not all(type(number) is int for number in listed):
        raise ConfigError(f"size.scale has {key!r}, which is {numbers!r}: it scales whole numbers")
    scaled = [*dict.fromkeys(max(1, round(number * factor)) for number in listed)]
    return scaled[0] if isinstance(numbers, int) else scaled
