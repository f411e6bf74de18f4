"""Size of an experiment: smaller or larger numbers in its blocks and grid, the same question."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lossbench.ask.blocks import Block, listed_values
from lossbench.ask.compose import Node
from lossbench.ask.grammar import check_key
from lossbench.ask.loader import Loader
from lossbench.errors import ConfigError, nearest
from lossbench.question.grid import spread
from lossbench.question.schema import GROUPS

CANDIDATES = ("rates", "finer", "extend")
"""Keys of `size.candidates`: `rates` is the number of learning rates that span the declared grid,
`finer` the number of steps between two declared rates, `extend` replaces the declared value."""


def check_size(size: Node) -> None:
    """Refuse a size with an unknown key or a count below one, before anything is trained."""
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
    blocks: Sequence[Block], size: Node, *, top: Node, typed: Iterable[str]
) -> list[Block]:
    """Blocks with some numbers scaled and some keys replaced, except keys that were typed.

    `size.scale` multiplies whole numbers that are set in a block or at the top of the experiment
    (`steps`, `eval_every`, ...), `most` keeps the first values of a key that a block lists, and
    `replace` sets a key in every block.

    Raises:
        ConfigError: A value to be scaled is not a whole number.
    """
    typed = {*typed}
    sized: list[Block] = []
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
    candidates: Node, size: Node, *, typed: Iterable[str], loader: Loader
) -> dict[str, object]:
    """Candidates at the chosen `size.candidates`; typed keys below `hydra.sweeper` stay."""
    where, names = "hydra.sweeper.candidates", {*typed}
    new = {key: value for key, value in size.items() if f"{where}.{key}" not in names}
    spans = {key: new.pop(key) for key in ("rates", "finer") if key in new}
    if spans and f"{where}.lr" not in names:
        declared = listed_values("optimizer.lr", candidates.get("lr", ()), loader)
        count = spans.get("rates") or (len(declared) - 1) * spans["finer"] + 1
        new["lr"] = spread(declared, count)
    return {**candidates, **new}


def sized_interactions(
    declared: Mapping[str, object], scale: Mapping[str, float], *, typed: Iterable[str]
) -> dict[str, object]:
    """Declared base levels by factor at the chosen `size.scale`, without typed factors."""
    lines = [f"{key}." for key in typed]
    return {
        key: _scaled(key, base, scale[key]) if key in scale else base
        for key, base in declared.items()
        if not any(line.startswith(f"{key}.") for line in lines)
    }


def _scaled(key: str, numbers: Any, factor: float) -> object:
    """A whole number, or each number of a list, times a factor, rounded, at least 1."""
    listed: list[Any] = [numbers] if isinstance(numbers, int | float | str) else [*numbers]
    if not all(type(number) is int for number in listed):
        raise ConfigError(f"size.scale has {key!r}, which is {numbers!r}: it scales whole numbers")
    scaled = [*dict.fromkeys(max(1, round(number * factor)) for number in listed)]
    return scaled[0] if isinstance(numbers, int) else scaled
