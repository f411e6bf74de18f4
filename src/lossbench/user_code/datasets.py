"""`Data` rows from a user's value: a name, a row, a frame, a table file or two arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

import lossbench
from lossbench.data import DATA, Data
from lossbench.data.tables import Reading, file_table, frame_table, is_table, table
from lossbench.errors import ConfigError, refuse_unknown
from lossbench.user_code.modules import add, renamed


def data_row(data: object, reading: Reading) -> Data:
    """Make the `Data` row of a name, row, frame, table's file or (inputs, targets).

    A new row is registered.

    Raises:
        ConfigError: The data are of another kind, or cannot be used.
    """
    of_columns = reading.target or reading.without
    is_new = not isinstance(data, str) or is_table(data)
    match data:
        case str() if not is_table(data):
            files = {path.stem: path for path in (lossbench.CONF / "data").glob("*.yaml")}
            refuse_unknown(data, {**files, **DATA}, "data")
            if data in DATA:
                row = DATA[data]
            else:  # a yaml, whose name the row gets
                fn = yaml.safe_load(files[data].read_text())["fn"]
                row = replace(DATA[fn], fn=renamed(DATA[fn].fn, data))
        case Data():
            row = data
        case str() | Path():
            row = file_table(Path(data), reading)
        case pd.DataFrame():
            row = frame_table(data, reading, name="data")
        case (inputs, targets) if isinstance(data, tuple):
            if of_columns:
                raise ConfigError(
                    "target= and without= name columns: give a frame, or leave both out"
                )
            row = table(inputs, targets, reading, name="data")
        case _:
            raise ConfigError(
                "data: give a name, (inputs, targets), or a frame or a file with target=COLUMN"
            )
    is_read = is_new and not isinstance(data, Data)
    if not is_read and (of_columns or reading.missing):
        raise ConfigError(
            f"data {row.name}: target=, without= and missing= belong to tables: leave them out"
        )
    if reading.task not in ("", row.task):
        raise ConfigError(f"data {row.name} are for {row.task}, not {reading.task}")
    if is_new:
        add(row)
    return row
