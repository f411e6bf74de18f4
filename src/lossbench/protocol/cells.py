"""Which cells an experiment asks for: its blocks, with what was typed in their place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lossbench.config import Composer, in_type_of_field, parsed, values_of
from lossbench.question import ConfigError, Run, checked, fits

log = logging.getLogger(__name__)

LISTS = ("instruments",)
"""Keys whose value is a list itself: a list of a block is one value of them."""


def cells(
    blocks: Sequence[Mapping[str, Any]], typed: Mapping[str, str], composer: Composer
) -> list[Run]:
    """A run of every cell of every block whose loss fits its data, each once.

    Args:
        blocks: Grids whose union is swept, each a mapping of override key to value or list.
        typed: Typed lines by key; each replaces that key, and all of that group, in every block. A
            data set that some blocks have keeps to these.
        composer: Composes them.

    Raises:
        ConfigError: No cell is left.
    """
    fitting: dict[str, Run] = {}
    unfit: dict[str, None] = {}
    for lines in block_overrides(blocks, typed):
        for draft in composer.drafts(lines):
            if fits(draft):
                run = checked(draft)
                fitting[run.run_id] = run
            else:
                unfit[f"{draft.loss.name} on {draft.data.name}"] = None
    if not fitting:
        raise ConfigError(
            "the sweep is empty: no loss fits the task and targets of its data. For numbers type "
            "loss=mse,mae,huber or others, for classes loss=cross_entropy,brier or others; "
            "'lossbench losses' lists the task of each"
        )
    losses = {text.partition(" on ")[0] for text in unfit}
    useless = losses - {run.loss.name for run in fitting.values()}
    if useless and "loss" in typed:
        names = ",".join(sorted(useless))
        raise ConfigError(f"loss={names}: made for another task than all of the data, leave it out")
    if unfit and "loss" not in typed:
        log.info("left out, made for another task or other targets: %s", ", ".join(unfit))
    return [*fitting.values()]


def block_overrides(
    blocks: Sequence[Mapping[str, Any]], typed: Mapping[str, str]
) -> list[list[str]]:
    """The overrides of each block, sweeps included, with what was typed in their place."""
    # `_with_data` has settled which data, and which of its settings stay.
    replaced = typed.keys() - {"data"}
    by_block = []
    for block in _with_data(blocks, typed.get("data", "")):
        remaining = {
            key: _line(key, value)
            for key, value in block.items()
            if not {key, key.partition(".")[0]} & replaced
        }
        by_block.append([*{**typed, **remaining}.values()])
    return by_block


def listed_values(key: str, value: Any, composer: Composer) -> list[Any]:
    """Single values of a key whose values are typed or listed in some way Hydra knows.

    Raises:
        ConfigError: There is none, or they cannot be read.
    """
    if not isinstance(value, str | int | float) and not value:
        raise ConfigError(f"the list of {key} is empty: give it at least one value")
    try:
        (override,) = parsed([_line(key, value)], composer.loader)
        return [in_type_of_field(key, single) for single in values_of(override)]
    except ConfigError as error:
        if "cannot be read" in str(error):
            raise ConfigError(f"{key} is {value!r}: use [0,1,2] or range(0,3)") from error
        raise


def _with_data(blocks: Sequence[Mapping[str, Any]], typed: str) -> list[dict[str, Any]]:
    """The blocks, each with those of the typed data sets that it has; all of them if none has any.

    A block that is given data of another kind loses its settings of the old one; how they are
    corrupted and augmented is no such setting.
    """
    wanted = [name for name in typed.partition("=")[2].split(",") if name]
    if not wanted:
        return [dict(block) for block in blocks] or [{}]
    restricted = []
    for block in blocks:
        present = block.get("data", ())
        present = [present] if isinstance(present, str) else present
        if names := [name for name in wanted if name in present]:
            restricted.append({**block, "data": names})
    if restricted:
        return restricted
    return [
        {key: value for key, value in block.items() if not _is_of_one_data_set(key)}
        | {"data": wanted}
        for block in blocks or [{}]
    ]


def _is_of_one_data_set(key: str) -> bool:
    is_general = key.startswith(("data.corruption", "data.augmentation"))
    return key == "data" or (key.startswith("data.") and not is_general)


def _line(key: str, value: Any) -> str:
    if isinstance(value, str | int | float):
        return f"{key}={value}"
    text = ",".join(str(item) for item in value)
    return f"{key}=[{text}]" if key in LISTS else f"{key}={text}"
