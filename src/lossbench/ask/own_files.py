"""Words that name files of the user: `loss=FILE.py:NAME`, `data=FILE.csv target=COLUMN`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cloudpickle

from lossbench.data import DATA, Data, Splits
from lossbench.data.files import Files
from lossbench.data.tables import SOURCE, Reading, batch_size, file_table, is_table
from lossbench.errors import ConfigError, describe_error, nearest
from lossbench.losses.spec import Loss
from lossbench.models import Model
from lossbench.user_code.examination import EXAMINATION_PATIENCE, loss_rows
from lossbench.user_code.modules import Own, add, loss_of, model_row, module_of
from lossbench.user_code.trial import TrialProcess

WORD = re.compile(r"(loss|data|model)=(.+)")
OF_FILE = re.compile(r"(.+\.py):(\w+)")


OF_TABLE = {
    "target": "COLUMN",
    "task": "regression|classification",
    "without": "COLUMN,COLUMN",
    "missing": "median|drop",
}
"""Keys that describe a table of the user, with the form of their values."""


def with_names(words: Iterable[str]) -> list[str]:
    """Register a row for each file among the words; returns the words with names in place of files.

    Raises:
        ConfigError: A file, or a function in a file, does not exist or cannot be trained.
    """
    words = [*words]
    tables = [word for word in words if _table(word)]
    of_table = {}
    for key, value in OF_TABLE.items():
        typed = [word for word in words if word.startswith(f"{key}=")]
        if typed and not tables:
            raise ConfigError(f"{key}={value} goes with a table: data=FILE.csv")
        words = [word for word in words if word not in typed]
        if len(typed) > 1:
            raise ConfigError(f"{' '.join(typed)}: give {key}= once")
        of_table[key] = typed[0].partition("=")[2] if typed else ""
    named = []
    for word in words:
        match = WORD.fullmatch(word)
        if (path := _table(word)) is not None:
            without = [column.strip() for column in of_table["without"].split(",") if column]
            row = file_table(path, Reading(**{**of_table, "without": without}))
            add(row)
            word = f"data={row.name}"
        elif match and ".py:" in word:
            names = [_name(match[1], part) for part in match[2].split(",")]
            word = f"{match[1]}={','.join(names)}"
        named.append(word)
    others = [word for word in words if word.startswith(("batch_size=", "experiment="))]
    if tables and others in ([], ["experiment=compare"]):
        row = DATA[named[words.index(tables[-1])].partition("=")[2]]
        named.append(f"batch_size={batch_size(row)}")
    return named


def _table(word: str) -> Path | None:
    """Path of the table that a word names; None if the word names no table."""
    match = WORD.fullmatch(word)
    path = match[2].strip("\"'") if match and match[1] == "data" else ""
    return Path(path) if is_table(path) else None


def _name(kind: str, part: str) -> str:
    """Name of one choice of a word; a function in a file is registered as a row of that name."""
    match = OF_FILE.fullmatch(part.strip())
    if match is None:
        return part
    path, name = Path(match[1]), match[2]
    module = module_of(path)
    value = getattr(module, name, None)
    if not (callable(value) or isinstance(value, Loss | Data | Model)):
        known = [key for key, one in vars(module).items() if callable(one) and key[0] != "_"]
        raise ConfigError(f"{path} has no function {name!r}: {nearest(name, known)}")
    row = value if isinstance(value, Data | Model) else ROW_OF[kind](value)
    add(row)
    return row.name


def _data(function: Callable[..., Splits]) -> Data:
    """Row of a data function; the task is that of the splits that the function returns."""
    when = f"data {function.__name__} is called"
    with TrialProcess(Own(), patience=EXAMINATION_PATIENCE) as process:
        task, drawn = process.call(when, _kind, cloudpickle.dumps(function))
    return Data(function, task, SOURCE, drawn=drawn, licence=SOURCE)


def _kind(pickled: bytes) -> tuple[str, str]:
    """Task of a data function, and "resplit" if its test size is the same for two seeds."""
    function = cloudpickle.loads(pickled)
    row = Data(function, "regression", SOURCE)
    try:
        first, second = (row.splits(seed, Files()) for seed in (0, 1))
        is_same = first.targets["test"].shape == second.targets["test"].shape
        return first.task, "resplit" if is_same else "generated"
    except Exception as error:
        raise ConfigError(describe_error(error, function)[0]) from error


ROW_OF: dict[str, Callable[[Any], Loss | Data | Model]] = {
    "loss": lambda function: loss_rows([loss_of(function)])[0],
    "model": model_row,
    "data": _data,
}
"""Makers of rows from functions by key of the word; rows of losses are examined as well."""
