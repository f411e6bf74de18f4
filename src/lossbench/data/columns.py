"""Conversion of a table's columns to numeric inputs; others are refused."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lossbench.errors import ConfigError, in_a_line

log = logging.getLogger(__name__)

MOST_CATEGORIES = 50
"""Most distinct words of a column, each of which becomes a separate input."""

ABSENT = "(missing)"
"""Category of a missing word."""

LIKE_A_NUMBER = re.compile(r"[-+$€£]?\s*\d[\d.,' ]*%?")
"""Pattern of texts that people write as numbers, but that Python does not parse."""


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table from a file whose columns are separated by commas, semicolons or tabs."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    divider = max(",;\t", key=header.count)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # for rows longer than the header
        frames = [
            pd.read_csv(path, sep=divider, decimal=mark, index_col=False)
            for mark in (".," if divider != "," else ".")
        ]
    return max(frames, key=lambda frame: frame.select_dtypes("number").shape[1])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": pd.read_parquet,
}
"""Readers of table files, by the file's suffix in lower case."""


def read(path: Path) -> pd.DataFrame:
    """Read the table of a file; column names become stripped strings.

    Raises:
        ConfigError: The file cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        frame = READERS[path.suffix.lower()](path)
    except pd.errors.ParserWarning as error:
        raise ConfigError(
            f"{path}: some rows have more cells than the first line: correct them"
        ) from error
    except UnicodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {in_a_line(error)}") from error
    if any(name is not None for name in frame.index.names):  # only parquet files name the index
        frame = frame.reset_index()
    return frame.rename(columns=lambda name: str(name).strip())


def inputs_of_columns(frame: pd.DataFrame, *, may_miss: bool) -> Tensor:
    """Convert all columns to inputs [N, F], float64; `may_miss` permits missing numbers, as NaN.

    Raises:
        ConfigError: Columns cannot be used; the message names each column, and the cure.
    """
    if not frame.columns.is_unique:
        doubles = ", ".join(frame.columns[frame.columns.duplicated()])
        raise ConfigError(f"several columns are called {doubles}: rename them")
    parts, problems = [], []
    for name in frame.columns:
        try:
            parts.append(_inputs_of_column(frame[name], may_miss=may_miss))
        except ConfigError as error:
            problems.append(f"column {name!r} {error}")
    if problems:
        raise ConfigError("; ".join(problems))
    if not parts:
        raise ConfigError("no column is left as an input")
    return torch.tensor(np.concatenate(parts, 1))


def _inputs_of_column(column: pd.Series, *, may_miss: bool) -> np.ndarray:
    """Convert a column to inputs [N, F]: numbers, or a one-hot input for each distinct word."""
    leave_out = f"leave it out, without={column.name}"
    if column.isna().all():
        raise ConfigError(f"is empty: {leave_out}")
    if column.dtype.kind == "c":
        raise ConfigError(f"has complex numbers: {leave_out}")
    numbers = _numbers(column)
    if numbers is not None:
        if count := int(np.isinf(numbers).sum()):
            raise ConfigError(f"has {count} infinite numbers: replace them, or {leave_out}")
        count = int(np.isnan(numbers).sum())
        if count and not may_miss:
            raise ConfigError(
                f"has no value in {count} of {len(numbers)} rows: fill them in with "
                "missing=median, or leave their rows out with missing=drop"
            )
        return numbers[:, None]
    try:
        words = column.astype("string")
        count = column.nunique(dropna=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"has values that are neither numbers nor words: {leave_out}") from error
    if count > MOST_CATEGORIES:
        raise ConfigError(
            f"has {count} different words, at most {MOST_CATEGORIES} are allowed: "
            f"{leave_out}, or join rare ones"
        )
    log.info("column %r has words: an input for each of %d", column.name, count)
    return pd.get_dummies(words.fillna(ABSENT)).to_numpy(float)


def _numbers(column: pd.Series) -> np.ndarray | None:
    """Convert a column to numbers, with NaN for missing ones and days for dates; None for words.

    Raises:
        ConfigError: Some values are numbers, and others are not.
    """
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(float, na_value=np.nan)
    known = column.dropna()
    dates = column if pd.api.types.is_datetime64_any_dtype(column) else None
    if dates is None and len(known) and known.astype(str).str.match(r"\d{4}-\d\d-\d\d").all():
        with contextlib.suppress(ValueError, TypeError):
            dates = pd.to_datetime(column, format="ISO8601")
    if dates is not None:
        log.info("column %r has dates: days since the first", column.name)
        return ((dates - dates.min()) / pd.Timedelta(days=1)).to_numpy(float)
    try:
        numbers = pd.to_numeric(known, errors="coerce")
    except TypeError:  # raised for lists
        return None
    others = known[numbers.isna()].astype(str)
    if len(others) == 0:
        return numbers.astype(float).reindex(column.index).to_numpy()
    if 2 * len(others) < len(known) or others.map(LIKE_A_NUMBER.fullmatch).notna().all():
        examples = ", ".join(map(repr, others.unique()[:3]))
        raise ConfigError(
            f"has numbers, and {examples}, which Python does not read as one: write it like "
            f"1234.5, leave it empty, or without={column.name}"
        )
    return None


def inputs_of_arrays(inputs: Any, *, may_miss: bool) -> Tensor:
    """Convert arrays or tensors to inputs [N, F], float64, or images [N, channels, height, width].

    Raises:
        ConfigError: The inputs are not real numbers, not finite, or have another shape.
    """
    values = inputs
    if not isinstance(inputs, Tensor):
        array = np.array(inputs)  # a copy, because PyTorch warns of read-only arrays
        try:
            if array.dtype.kind == "c":
                raise TypeError("complex ones")
            values = torch.as_tensor(array if array.dtype.kind in "biuf" else array.astype(float))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"inputs are not real numbers ({error})") from error
    values = values.detach().cpu()
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim not in (2, 4):
        raise ConfigError(
            f"inputs have shape {list(values.shape)}: give [N, F], or images as "
            "[N, channels, height, width]"
        )
    is_refused = values.double().isinf() if may_miss else ~values.double().isfinite()
    if count := int(is_refused.sum()):
        raise ConfigError(
            f"{count} inputs are NaN or infinite: missing=median fills NaN in, missing=drop leaves "
            "their rows out"
        )
    return values.double() if values.ndim == 2 else values


def targets_of(targets: Any) -> pd.Series:
    """Convert targets to a series [N]: numbers, including texts of numbers, or any labels.

    Raises:
        ConfigError: The targets have another shape.
    """
    if isinstance(targets, Tensor):
        targets = targets.detach().cpu().numpy()
    values = targets if isinstance(targets, pd.Series) else np.asarray(targets)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ConfigError(
            f"targets have shape {list(values.shape)}: give [N], a number or a label for each "
            "example"
        )
    column = pd.Series(values).reset_index(drop=True)
    if not pd.api.types.is_numeric_dtype(column):
        numbers = pd.to_numeric(column, errors="coerce")
        if numbers.notna().eq(column.notna()).all():
            return numbers
    return column
