"""Conversion of a user's arrays, tensors, data frames and table files to a `Data` row."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lossbench.data.columns import READERS, inputs_of_arrays, inputs_of_columns, read, targets_of
from lossbench.data.files import Files
from lossbench.data.splits import Data, Splits, by_split, classification, permuted, regression
from lossbench.errors import ConfigError, nearest, refuse_unknown
from lossbench.fingerprints import tensors_sha

log = logging.getLogger(__name__)

SOURCE = "your own"
"""Source and licence in the row of a user's data."""

MOST_LABELS = 20
"""Most distinct whole numbers that are taken for labels if the task is not given."""

LEAST_EXAMPLES = 20
LEAST_OF_A_CLASS = 5
"""Fewest examples of a class, of which a fifth is test and a fifth validation."""

MISSING = ("", "median", "drop")
TASKS = ("", "regression", "classification")


@dataclass(frozen=True)
class Reading:
    """Settings for reading a table.

    Attributes:
        target: Column of a frame or a file to predict.
        task: "regression" or "classification"; if empty, words, booleans, and whole numbers with at
            most `MOST_LABELS` distinct values are labels.
        without: Columns that are not used as inputs.
        missing: "median" replaces missing numbers and dates by the median of a seed's training
            examples; "drop" drops rows with missing numbers or dates; if empty, missing values are
            refused. "median" and "drop" both drop rows without a target; a missing word becomes a
            category.
    """

    target: str = ""
    task: str = ""
    without: Sequence[str] = ()
    missing: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.without, str):
            object.__setattr__(self, "without", (self.without,))
        if self.missing not in MISSING:
            raise ConfigError(f"missing is {self.missing!r}: use median or drop")
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}: use regression or classification")


def is_table(word: str) -> bool:
    """Whether a word is the name of a table file, by its suffix."""
    return Path(word).suffix.lower() in READERS


def file_table(path: Path, reading: Reading) -> Data:
    """Make a `Data` row from a table file, named after the file.

    Raises:
        ConfigError: The file cannot be read or used; the message names the cure.
    """
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    if not name or not name[0].isalpha():
        name = f"table_{name}".rstrip("_")
    return frame_table(read(path), reading, name=name[:40])


def frame_table(frame: pd.DataFrame, reading: Reading, *, name: str) -> Data:
    """Make a `Data` row from a frame, whose content is part of a run's identity.

    A column of words becomes one input for each distinct word; dates become days since the first.

    Raises:
        ConfigError: A column or the target cannot be used; the message names the cure.
    """
    what = f"data {name}"
    frame = frame.rename(columns=str)
    target = str(reading.target)
    if not target:
        columns = ", ".join(frame.columns[:30])
        raise ConfigError(f"{what}: say which column is to be predicted, with target= ({columns})")
    if target not in frame.columns:
        hint = nearest(target, frame.columns)
        raise ConfigError(f"{what}: there is no column {target!r}: {hint}")
    if target in reading.without:
        raise ConfigError(f"{what}: {target} is to be predicted: without= cannot name it")
    for column in reading.without:
        refuse_unknown(column, frame.columns, f"{what}: column")
    inputs = frame.drop(columns=[target, *reading.without])
    return table(inputs, frame[target], reading, name=name, unit=f"units of {target}")


def table(
    inputs: Any, targets: Any, reading: Reading, *, name: str, unit: str = "units of the target"
) -> Data:
    """Make a `Data` row from arrays or a frame, whose content is part of a run's identity.

    Inputs are [N, F] or images [N, channels, height, width]; targets are [N] or [N, 1], numbers or
    labels of any kind. Of `reading`, the task and the treatment of missing values are used.

    Raises:
        ConfigError: A column or the target cannot be used; the message names the cure.
    """
    try:
        as_inputs = inputs_of_columns if isinstance(inputs, pd.DataFrame) else inputs_of_arrays
        features = as_inputs(inputs, may_miss=bool(reading.missing))
        column = targets_of(targets)
        if len(features) != len(column):
            raise ConfigError(
                f"{len(features)} rows of inputs and {len(column)} targets: give one target for "
                "each row"
            )
        if column.isna().any() and not reading.missing:
            raise ConfigError(
                f"{int(column.isna().sum())} targets are missing: missing=drop leaves their rows "
                "out"
            )
        stays = column.notna().to_numpy(copy=True)
        if reading.missing == "drop":
            stays &= ~features.flatten(1).isnan().any(1).numpy()
        if count := int((~stays).sum()):
            log.info("%d of %d rows have missing values: left out", count, len(column))
        features, column = features[torch.from_numpy(stays)], column[stays]
        if count := int(features.isnan().sum()):
            log.info("%d missing inputs get the median of training examples", count)
        task = _task(column, reading.task)
        if task == "regression":
            numbers = torch.tensor(column.to_numpy(float))[:, None]
            return _row(name, features, numbers, unit=unit)
        labels = torch.tensor(pd.factorize(column, sort=True)[0])
        return _row(name, features, labels, classes=column.nunique())
    except ConfigError as error:
        raise ConfigError(f"data {name}: {error}") from error


def _task(targets: pd.Series, task: str) -> str:
    """Determine the task from the targets; ConfigError if the targets suit no task."""
    if len(targets) < LEAST_EXAMPLES:
        raise ConfigError(f"{len(targets)} examples: at least {LEAST_EXAMPLES} are needed")
    if (count := targets.nunique()) == 1:
        raise ConfigError(f"all targets are {targets.iloc[0]}: nothing can be learnt")
    is_number = pd.api.types.is_numeric_dtype(targets) and not pd.api.types.is_bool_dtype(targets)
    if is_number and (targets.dtype.kind == "c" or not np.isfinite(targets.to_numpy(float)).all()):
        raise ConfigError("targets are infinite or complex: leave their rows out")
    is_whole = is_number and bool((targets % 1 == 0).all())
    if not task:
        is_label = not is_number or (is_whole and count <= MOST_LABELS)
        task = "classification" if is_label else "regression"
    if task == "regression":
        if not is_number:
            raise ConfigError("the targets are not numbers, and regression needs numbers")
        return task
    if is_number and not is_whole:
        raise ConfigError(
            "the targets are numbers that are not whole, and classification needs labels: take "
            "losses for regression"
        )
    sizes = targets.value_counts()
    if sizes.min() < LEAST_OF_A_CLASS:
        raise ConfigError(
            f"{count} classes, and {sizes.index[-1]} has {sizes.min()} examples: "
            f"{LEAST_OF_A_CLASS} are needed; leave it out"
            + (", or say task=regression" if is_number else "; numbers are written without a unit")
        )
    return task


def batch_size(row: Data) -> int:
    """Default batch size of 64, or the largest power of two up to the number of examples."""
    examples = len(row.splits(0, Files()).targets["train"])
    return min(64, 2 ** int(math.log2(examples)))


def _row(name: str, inputs: Tensor, targets: Tensor, *, classes: int = 0, unit: str = "") -> Data:
    """Make the `Data` row; targets are labels [N] if `classes` is not 0, else numbers [N, 1]."""
    has_gaps = bool(inputs.isnan().any())

    def table_splits(*, seed: int) -> Splits:
        rows = permuted(len(inputs), seed)
        values = by_split(inputs, rows)
        if has_gaps:
            medians = values["train"].nanmedian(dim=0)[0].nan_to_num()
            values = {split: torch.where(x.isnan(), medians, x) for split, x in values.items()}
        parts = values, by_split(targets, rows)
        return classification(*parts, classes=classes) if classes else regression(*parts)

    table_splits.__name__ = name
    task = "classification" if classes else "regression"
    content = tensors_sha({"inputs": inputs, "targets": targets})
    return Data(table_splits, task, SOURCE, licence=SOURCE, unit=unit, content=content)
