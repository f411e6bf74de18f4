"""Cells of an experiment: typed words replace the values of their keys in its blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lossbench.ask.compose import Composer
from lossbench.ask.grammar import Axis, axis_in_yaml, in_type_of_field
from lossbench.ask.loader import Loader
from lossbench.errors import ConfigError
from lossbench.question.run import Run
from lossbench.question.vary import checked, fits

log = logging.getLogger(__name__)

Block = Mapping[str, Any]
"""Grid of an experiment: values by override key, each a single value or a list."""


def cells(blocks: Sequence[Block], typed: Mapping[str, Axis], composer: Composer) -> list[Run]:
    """Runs of all blocks: one run for each cell whose loss fits its data, without repetitions.

    Args:
        blocks: Grids whose union is swept.
        typed: Typed axes by key. An axis replaces its key, or all keys of its config group, in
            every block. If a block has a typed data set, only such blocks are swept.
        composer: Composer of the runs.

    Raises:
        ConfigError: No loss fits its data.
    """
    fitting: dict[str, Run] = {}
    unfit: dict[str, None] = {}
    for axes in block_axes(blocks, typed, composer.loader):
        for unchecked in composer.unchecked(axes):
            if fits(unchecked):
                run = checked(unchecked)
                fitting[run.run_id] = run
            else:
                unfit[f"{unchecked.loss.name} on {unchecked.data.name}"] = None
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
        raise ConfigError(f"loss={names}: no data of this sweep has the task of it, leave it out")
    if unfit and "loss" not in typed:
        log.info("left out, made for another task or other targets: %s", ", ".join(unfit))
    return [*fitting.values()]


def block_axes(
    blocks: Sequence[Block], typed: Mapping[str, Axis], loader: Loader
) -> Iterator[list[Axis]]:
    """Axes of each block; a typed axis replaces the axes of the block for its key."""
    # `_with_data` has already chosen the data sets, and the keys below `data` that stay.
    replaced = typed.keys() - {"data"}
    for block in _with_data(blocks, typed.get("data")):
        remaining = {
            key: axis_in_yaml(key, value, loader.choices)
            for key, value in block.items()
            if not {key, key.partition(".")[0]} & replaced
        }
        yield [*{**typed, **remaining}.values()]


def listed_values(key: str, value: object, loader: Loader) -> list[Any]:
    """Values of a key, given as a single value, a list, or text in Hydra's syntax.

    Raises:
        ConfigError: The list is empty, or a value cannot be read or converted.
    """
    try:
        values = axis_in_yaml(key, value, loader.choices).values
        return [in_type_of_field(key, single) for single in values]
    except ConfigError as error:
        if "cannot be read" in str(error):
            raise ConfigError(f"{key} is {value!r}: use [0,1,2] or range(0,3)") from error
        raise


def _with_data(blocks: Sequence[Block], typed: Axis | None) -> list[Block]:
    """Blocks that have a typed data set, without other data; if there are none, all blocks.

    In the second case each block gets all typed data sets, and loses its other keys below `data`
    except those of corruption and augmentation.
    """
    wanted = [str(name) for name in typed.values] if typed else []
    if not wanted:
        return [dict(block) for block in blocks] or [{}]
    restricted: list[Block] = []
    for block in blocks:
        present = block.get("data", ())
        present = [present] if isinstance(present, str) else present
        if names := [name for name in wanted if name in present]:
            restricted.append({**block, "data": names})
    if restricted:
        return restricted
    return [
        {
            key: value
            for key, value in block.items()
            if key.startswith(("data.corruption", "data.augmentation"))
            or not f"{key}.".startswith("data.")
        }
        | {"data": wanted}
        for block in blocks or [{}]
    ]
