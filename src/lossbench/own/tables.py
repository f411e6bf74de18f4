"""Data of somebody's own: arrays, tensors, frames and files of a table, as a row like any other."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

import lossbench
from lossbench.data import DATA
from lossbench.data.files import Files
from lossbench.data.splits import Data, Splits, by_split, classification, permuted, regression
from lossbench.errors import ConfigError, in_a_line, refuse_unknown
from lossbench.own.modules import add, renamed
from lossbench.pairing import tensors_sha

log = logging.getLogger(__name__)

MOST_LABELS = 20
"""Whole numbers of more different values than these are measured, not labels, if nobody says."""

MOST_CATEGORIES = 50
"""Of a column: each becomes an input of its own."""

SOURCE = "your own"

MISSING = ("", "median", "drop")
"""What becomes of missing numbers and dates: refused, filled in, or their rows are left out."""

LEAST_EXAMPLES = 20
LEAST_OF_A_CLASS = 5
"""Of the classes' examples a fifth is test, and a fifth validation."""


def _read_csv(path: Path) -> pd.DataFrame:
    """A table of a file whose columns are divided by commas, or by semicolons."""
    frame = pd.read_csv(path)
    if len(frame.columns) == 1 and ";" in str(frame.columns[0]):
        return pd.read_csv(path, sep=";")
    return frame


TABLES = {".csv": _read_csv, ".parquet": pd.read_parquet}
"""What reads a file, by how its name ends."""


def file_table(
    path: Path, target: str, *, task: str = "", without: Sequence[str] = (), missing: str = ""
) -> Data:
    """A row of a file's table, named after the file.

    Args:
        path: The file.
        target: The column that is to be predicted.
        task: As of `table`.
        without: Columns that are no inputs.
        missing: As of `table`.

    Raises:
        ConfigError: It cannot be read, or served; names the cure.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        frame = TABLES[path.suffix](path)
    except (ValueError, OSError, UnicodeError) as error:
        raise ConfigError(f"{path} cannot be read: {in_a_line(error)}") from error
    frame.columns = [*map(str, frame.columns)]
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    if not name or not name[0].isalpha():
        name = f"table_{name}".rstrip("_")
    return table(frame, target, name=name[:40], task=task, without=without, missing=missing)


def table(
    inputs: Any,
    targets: Any,
    *,
    name: str,
    task: str = "",
    without: Sequence[str] = (),
    missing: str = "",
) -> Data:
    """A row of what lies in memory, whose content is part of a run's identity.

    Args:
        inputs: [N, F] or images [N, channels, height, width], as an array, a tensor or a frame.
            Columns of a frame that are no numbers become one input for each of their values, dates
            days since the first.
        targets: [N], or [N, 1]: numbers, or labels of any kind; or the name of the frame's column.
        name: What it is called.
        task: "regression" or "classification"; empty: labels are words, truths, or whole numbers of
            few values.
        without: Columns of a frame that are no inputs.
        missing: "median" fills missing numbers and dates in, with the median of a seed's training
            examples; "drop" leaves their rows out, those of missing targets too; empty: refused.

    Raises:
        ConfigError: What cannot be served, with the cure.
    """
    if missing not in MISSING:
        raise ConfigError(f"missing is {missing!r}: use median, which fills them in, or drop")
    unit = "units of the target"
    if isinstance(targets, str):
        if not targets:
            raise ConfigError(f"data {name}: say which column is to be predicted, with target=")
        if not isinstance(inputs, pd.DataFrame) or targets not in inputs.columns:
            known = ", ".join(map(str, getattr(inputs, "columns", ())))
            raise ConfigError(f"data {name}: there is no column {targets!r}, but {known or 'none'}")
        if targets in without:
            raise ConfigError(f"data {name}: {targets} is to be predicted: it cannot be left out")
        unit = f"units of {targets}"
        inputs, targets = inputs.drop(columns=targets), inputs[targets]
    if without:
        for one in without:
            refuse_unknown(one, getattr(inputs, "columns", ()), f"data {name}: column")
        inputs = inputs.drop(columns=[*without])
    features, column = _features(inputs, name, may_miss=missing != ""), _column(targets, name)
    if len(features) != len(column):
        raise ConfigError(
            f"data {name}: {len(features)} rows of inputs and {len(column)} targets: one a row"
        )
    if missing == "drop":
        is_whole = ~features.flatten(1).isnan().any(1).numpy() & column.notna().to_numpy()
        if count := int((~is_whole).sum()):
            log.info("data %s: %d of %d rows miss something: left out", name, count, len(column))
        features, column = features[torch.from_numpy(is_whole)], column[is_whole]
    elif count := int(features.isnan().sum()):
        log.info("data %s: %d missing inputs get the median of training examples", name, count)
    if len(column) < LEAST_EXAMPLES:
        raise ConfigError(f"data {name}: {len(column)} examples: {LEAST_EXAMPLES} are the least")
    if column.isna().any():
        raise ConfigError(
            f"data {name}: {int(column.isna().sum())} targets are missing: missing=drop leaves "
            "their rows out"
        )
    if (count := column.nunique()) == 1:
        raise ConfigError(f"data {name}: all targets are {column.iloc[0]}: nothing can be learnt")
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if is_number and (column.dtype.kind == "c" or not np.isfinite(column.to_numpy(float)).all()):
        raise ConfigError(f"data {name}: targets are infinite or complex: leave their rows out")
    is_whole = is_number and bool((column % 1 == 0).all())
    if task not in ("", "regression", "classification"):
        raise ConfigError(f"task is {task!r}: use regression or classification")
    if not task:
        is_label = not is_number or (is_whole and count <= MOST_LABELS)
        task = "classification" if is_label else "regression"
    if task == "regression":
        if not is_number:
            raise ConfigError(f"data {name}: the targets are no numbers, and regression needs them")
        numbers = torch.tensor(column.to_numpy(float))[:, None]
        return _row(name, features, numbers, unit=unit)
    sizes = column.value_counts()
    if sizes.min() < LEAST_OF_A_CLASS:
        raise ConfigError(
            f"data {name}: {count} classes, and {sizes.index[-1]} has {sizes.min()} examples: "
            f"{LEAST_OF_A_CLASS} are the least; leave it out"
            + (", or say task=regression" if is_number else "; numbers must stand without a unit")
        )
    labels = torch.tensor(pd.factorize(column, sort=True)[0])
    return _row(name, features, labels, classes=count)


def data_row(
    data: Any, target: str, *, task: str, without: Sequence[str] = (), missing: str = ""
) -> Data:
    """The row of what somebody means by his data, made known where it is his own.

    Args:
        data: A name, a row, a frame, the path of a table's file, or (inputs, targets).
        target: The column of a frame or a file.
        task: As of `table`.
        without: As of `table`.
        missing: As of `table`.

    Raises:
        ConfigError: It is none of these, or cannot be served.
    """
    of_table = {"task": task, "without": without, "missing": missing}
    match data:
        case str() if Path(data).suffix not in TABLES:
            return _variant(data)
        case Data():
            row = data
        case str() | Path():
            row = file_table(Path(data), target, **of_table)
        case pd.DataFrame():
            row = table(data, target, name="data", **of_table)
        case (inputs, targets) if isinstance(data, tuple):
            row = table(inputs, targets, name="data", **of_table)
        case _:
            raise ConfigError(
                "data: give a name, (inputs, targets), or a frame or a file with target=COLUMN"
            )
    add(row)
    return row


def _variant(name: str) -> Data:
    """The row of a name, or of a yaml that gives one other parameters, under the yaml's name."""
    files = {path.stem: path for path in (lossbench.CONF / "data").glob("*.yaml")}
    refuse_unknown(name, {**files, **DATA}, "data")
    if name in DATA:
        return DATA[name]
    fn = yaml.safe_load(files[name].read_text())["fn"]
    return replace(DATA[fn], fn=renamed(DATA[fn].fn, name))


def batch_size(row: Data) -> int:
    """The usual one, or, of few examples, the largest power of two that fits."""
    examples = len(row.splits(0, Files()).targets["train"])
    return min(64, 2 ** int(math.log2(examples)))


def _row(name: str, inputs: Tensor, targets: Tensor, *, classes: int = 0, unit: str = "") -> Data:
    """The row; targets are labels, [N], where there are classes, else numbers, [N, 1]."""
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
    return Data(table_splits, task, SOURCE, licence="your own", unit=unit, content=content)


def _features(inputs: Any, name: str, *, may_miss: bool) -> Tensor:
    """Inputs in float64, [N, ...]; NaN where one is missing, if it may be."""
    if isinstance(inputs, pd.DataFrame):
        if not inputs.columns.is_unique:
            doubles = ", ".join(map(str, inputs.columns[inputs.columns.duplicated()]))
            raise ConfigError(f"data {name}: several columns are called {doubles}: rename them")
        columns, problems = [], []
        for column in inputs.columns:
            try:
                columns.append(_inputs_of(inputs[column], name, may_miss=may_miss))
            except ConfigError as error:
                problems.append(f"column {column!r} {error}")
        if problems:
            raise ConfigError(f"data {name}: {'; '.join(problems)}")
        if not columns:
            raise ConfigError(f"data {name}: no column is left as an input")
        return torch.tensor(np.concatenate(columns, 1))
    values = inputs
    if not isinstance(inputs, Tensor):
        array = np.array(inputs)  # a copy: PyTorch warns of what cannot be written
        try:
            if array.dtype.kind == "c":
                raise TypeError("complex ones")
            values = torch.as_tensor(array if array.dtype.kind in "biuf" else array.astype(float))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"data {name}: inputs are no real numbers ({error})") from error
    values = values.detach().cpu()
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim not in (2, 4):
        raise ConfigError(
            f"data {name}: inputs have shape {list(values.shape)}: give [N, F], or images as "
            "[N, channels, height, width]"
        )
    is_refused = values.double().isinf() if may_miss else ~values.double().isfinite()
    if count := int(is_refused.sum()):
        raise ConfigError(
            f"data {name}: {count} inputs are NaN or infinite: missing=median fills NaN in"
        )
    return values.double() if values.ndim == 2 else values


def _inputs_of(column: pd.Series, name: str, *, may_miss: bool) -> np.ndarray[Any, Any]:
    """A column as inputs, [N, F]: its numbers, or an input of zeros and ones for each value."""
    values = None
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(float, na_value=np.nan)
    elif (days := _days(column)) is not None:
        log.info("data %s: column %r has dates: days since the first", name, column.name)
        values = days.to_numpy(float)
    if values is not None:
        if count := int(np.isinf(values).sum()):
            raise ConfigError(f"has {count} infinite numbers: mend them, or without={column.name}")
        count = int(np.isnan(values).sum())
        if count == len(values):
            raise ConfigError(f"is empty: leave it out, without={column.name}")
        if count and not may_miss:
            raise ConfigError(
                f"misses {count} of {len(values)}: fill them in with missing=median, or leave "
                "their rows out with missing=drop"
            )
        return values[:, None]
    if (count := column.nunique(dropna=False)) > MOST_CATEGORIES:
        raise ConfigError(
            f"has {count} different values that are no numbers, {MOST_CATEGORIES} are the most: "
            f"leave it out, without={column.name}, or join rare ones"
        )
    return pd.get_dummies(column.astype("string").fillna("missing")).to_numpy(float)


def _days(column: pd.Series) -> pd.Series | None:
    """Dates as days since the first of them; None where they are none."""
    if not pd.api.types.is_datetime64_any_dtype(column):
        texts = column.dropna().astype(str)
        if not len(texts) or not texts.str.match(r"\d{4}-\d\d-\d\d").all():
            return None
        try:
            column = pd.to_datetime(column, format="ISO8601")
        except (ValueError, TypeError):
            return None
    return (column - column.min()) / pd.Timedelta(days=1)


def _column(targets: Any, name: str) -> pd.Series:
    if isinstance(targets, Tensor):
        targets = targets.detach().cpu().numpy()
    values = targets if isinstance(targets, pd.Series) else np.asarray(targets)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ConfigError(
            f"data {name}: targets have shape {list(values.shape)}: give [N], a number or a label "
            "for each example"
        )
    return pd.Series(np.asarray(values)) if not isinstance(values, pd.Series) else values
