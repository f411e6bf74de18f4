"""Which cells an experiment asks for: its blocks, with what was typed in their place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

Cell = tuple[str, ...]
"""Overrides of one cell: all factors but the seed and what is tuned."""


def typed_lines(arguments: Sequence[str], composer: Any) -> dict[str, str]:
    """Typed overrides by key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=composer).parse_overrides(list(arguments))
    return {override.get_key_element(): str(override.input_line) for override in parsed}


def asked(
    blocks: Sequence[Mapping[str, Any]], held: Mapping[str, str], composer: Any
) -> list[Cell]:
    """Overrides of every cell of every block whose loss fits its data, each once.

    Args:
        blocks: Grids whose union is swept, each a mapping of override key to value or list.
        held: Typed lines by key; each replaces that key, and all of that group, in every block. A
            data set that some blocks have keeps to these.
        composer: Composes configurations.

    Raises:
        ConfigError: No cell is left.
    """
    from lossbench.config import fits
    from lossbench.runs import ConfigError

    cells: dict[Cell, None] = {}
    left_out: dict[str, None] = {}
    for block in _with_data(blocks, held.get("data", "")):
        # `_with_data` has settled which data, and which of its settings stay.
        gone = held.keys() - {"data"}
        lines = {
            key: _line(key, value)
            for key, value in block.items()
            if not {key, key.partition(".")[0]} & gone
        }
        for cell in product([*{**held, **lines}.values()], composer):
            config = composer.compose(cell)
            if fits(config):
                cells[cell] = None
            else:
                left_out[f"{config.loss.name} on {config.data.name}"] = None
    if not cells:
        raise ConfigError(
            "the sweep is empty: no loss fits the task and targets of its data. Regression "
            "losses need regression data; 'lossbench losses' lists the task of each"
        )
    if left_out and "loss" not in held:
        log.info("left out, made for another task or other targets: %s", ", ".join(left_out))
    return list(cells)


def product(lines: Sequence[str], composer: Any) -> list[Cell]:
    """Every combination of the values in override lines."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from lossbench.config import check_overrides

    check_overrides(lines, composer)
    overrides = OverridesParser.create(config_loader=composer).parse_overrides(list(lines))
    return [tuple(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]


def values(key: str, value: Any, composer: Any) -> list[str]:
    """Single values of a key whose values are typed or listed in some way Hydra knows."""
    from lossbench.runs import ConfigError

    if not isinstance(value, str | int | float) and not value:
        raise ConfigError(f"the list of {key} is empty: give it at least one value")
    try:
        found = product([_line(key, value)], composer)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key} is {value!r}: use [0,1,2] or range(0,3)") from error
    return [job[0].partition("=")[2] for job in found]


def _with_data(blocks: Sequence[Mapping[str, Any]], typed: str) -> list[dict[str, Any]]:
    """The blocks, each with those of the typed data sets that it has; all of them if none has any.

    A block that is given data of another kind loses its settings of the old one; how they are
    corrupted and augmented is no such setting.
    """
    wanted = [name for name in typed.partition("=")[2].split(",") if name]
    if not wanted:
        return [dict(block) for block in blocks] or [{}]
    found = []
    for block in blocks:
        own = block.get("data", ())
        kept = [name for name in wanted if name in ([own] if isinstance(own, str) else own)]
        if kept:
            found.append({**block, "data": kept})
    strange = [
        {key: value for key, value in block.items() if key != "data" and not _is_own(key)}
        for block in blocks or [{}]
    ]
    return found or [{**block, "data": wanted} for block in strange]


LISTS = ("instruments",)
"""Keys whose value is a list itself: a list of a block is one value of them."""


def _is_own(key: str) -> bool:
    """Whether a key sets what only some data sets have."""
    return key.startswith("data.") and not key.startswith(("data.corruption", "data.augmentation"))


def _line(key: str, value: Any) -> str:
    if key in LISTS and not isinstance(value, str):
        return f"{key}=[{','.join(str(item) for item in value)}]"
    if isinstance(value, str | int | float):
        return f"{key}={value}"
    return f"{key}={','.join(str(item) for item in value)}"
