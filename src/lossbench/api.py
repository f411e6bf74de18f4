"""Python interface: `lossbench.compare(...)` and `lossbench.run(...)`, as on the command line."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lossbench import catalog, protocol, records, statistics
from lossbench.ask import open_hydra, question
from lossbench.data import Data
from lossbench.errors import ConfigError, refuse_unknown
from lossbench.export import plain
from lossbench.losses.spec import Loss
from lossbench.question import Question
from lossbench.records import Records
from lossbench.report import summary
from lossbench.statistics import Comparison
from lossbench.user_code import (
    SOURCE,
    Reading,
    add,
    batch_size,
    data_row,
    loss_of,
    loss_rows,
    model_row,
    renamed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIRST = ["loss", "verdict", "estimate", "low", "high", "n", "metric", "margin"]
"""Columns that come first in a table of verdicts."""


class Result:
    """Records, verdicts and pictures of an answered question.

    Attributes:
        records: The tables: `.runs`, `.steps`, `.layers`, `.evals`, `.examples` and `.sql(query)`.
    """

    def __init__(self, question: Question) -> None:
        self.records: Records = records.load(question.folder)
        self._contexts = question.contexts
        self._verdicts = statistics.Verdicts(self.records)

    @functools.cached_property
    def comparison(self) -> Comparison:
        """Comparison of this question's losses; the sweep may also have others, on other data."""
        return next(one for one in self._verdicts if self._contexts & {*one.runs.planned_context})

    @property
    def verdicts(self) -> pd.DataFrame:
        """Table with a row for each loss except the reference; docs/json.md names the columns."""
        frame = pd.DataFrame(plain.rows(self.comparison), columns=[*plain.FIELDS])
        return frame[[*FIRST, *frame.columns.difference(FIRST, sort=False)]]

    def forest(self, axes: Axes | None = None) -> Axes:
        """Draw the differences from the reference with their intervals; returns the axes."""
        from matplotlib import pyplot  # packages that draw take seconds to import

        from lossbench import figures

        paired = self.comparison.paired
        with figures.style():
            if axes is not None:
                return figures.forest(paired, axes)
            # A notebook shows only figures that pyplot has made.
            size = (figures.TWO_COLUMNS, 0.32 * len(paired) + 0.9)
            return figures.forest(paired, pyplot.subplots(figsize=size, layout="constrained")[1])

    def report(self, *, has_figures: bool = False) -> Path:
        """Write the report page and its tables; returns the path of the page.

        Args:
            has_figures: Whether to write each figure as PNG, SVG and PDF files too.
        """
        from lossbench.report import page

        return page.write(self._verdicts, has_figures=has_figures)

    def __str__(self) -> str:
        return summary.table(self._verdicts)

    def _repr_html_(self) -> str:
        return self.verdicts[FIRST].to_html(index=False, float_format="{:.3g}".format)

    __repr__ = __str__


def compare(
    losses: Iterable[object] | Mapping[str, object],
    data: object,
    model: object = "mlp",
    *,
    name: str,
    target: str = "",
    task: str = "",
    without: Sequence[str] = (),
    missing: str = "",
    reference: str = "",
    metric: str = "",
    average: str = "mean",
    margin: float | str | None = None,
    looks: Iterable[int] | None = None,
    workers: int = 0,
    **keys: object,
) -> Result:
    """Train identical models under several losses until their comparison is settled.

    The protocol, the records and the page are those of `lossbench experiment=compare`; a repeated
    call trains only the missing runs.

    Args:
        losses: Catalog names, functions `(output [..., C], target [..., C]) -> [...]`, or `Loss`
            rows; a mapping gives its keys as names. The reference is added if it is missing.
        data: Name of a data set; or (inputs, targets) as arrays, tensors or frames, inputs [N, F]
            or [N, channels, height, width], targets [N]; or a frame, or the path of a .csv or
            .parquet file, whose column `target` has the targets; or a `Data` row.
        model: Name of a model, a function `(inputs, outputs) -> nn.Module`, or a `Model` row.
        name: Name of the sweep, whose folder is runs/NAME.
        target: Name of the column with the targets, in a frame or file.
        task: "regression" or "classification", if the data do not show the task.
        without: Columns of a frame or file that are not inputs.
        missing: "median" replaces missing numbers by the median of the training examples, "drop"
            leaves out rows with missing numbers; if empty, missing numbers are refused.
        reference: Loss that the other losses are compared with; mse or cross_entropy, if empty.
        metric: Metric by which the losses are compared; rmse or accuracy, if empty.
        average: Average over seeds: "mean", or "median" for heavy tails.
        margin: Differences below the margin do not matter in practice: a number in the metric's
            unit, or a share like "5% of error".
        looks: Numbers of seeds at which verdicts are read.
        workers: Number of processes; 0 for as many as the cores and the memory allow.
        keys: Other settings of the command line: `steps=500`, `**{"optimizer.momentum": 0.9}`.

    Raises:
        ConfigError: A value is wrong; the message says the cure.
    """
    given = {key: value for key, value in locals().items() if key not in ("keys", *PARTS)}
    reading = Reading(target, task, without, missing)
    names, row = _known_parts(losses, data, reading)
    reference = reference or records.REFERENCE[row.task]
    if not isinstance(reference, str):
        raise ConfigError("reference: give the name of one of the losses")
    _refuse_other_task([reference], row.task)
    metric = metric or records.PRIMARY[row.task]
    refuse_unknown(metric, [*records.METRICS], "metric:")
    declared = {"reference": reference, "primary": metric, "average": average, "margin": margin}
    sweeper = "hydra.sweeper"
    lines = [
        f"{sweeper}.declare.{what}.{row.task}={_typed(value)}"
        for what, value in declared.items()
        if value is not None
    ]
    if looks is not None:
        seeds = [looks] if isinstance(looks, int) else [*map(int, looks)]
        lines.append(f"{sweeper}.looks={_typed(seeds)}")
    model = _model_name(model)
    folder = Path("runs") / name
    if (folder / "sweep.json").is_file():
        planned = records.load(folder).planned
        contexts = {*zip(planned["data"], planned["model"], strict=True)}
        if contexts and (row.name, model) not in contexts:
            there = ", ".join(sorted(f"{one} × {other}" for one, other in contexts))
            raise ConfigError(f"{folder} is a comparison on {there}: give this one another name=")
    command = _as_call(compare, [names, _data_words(data, row), model], {**given, **keys})
    losses = ",".join(dict.fromkeys([reference, *names]))
    lines = ["experiment=compare", f"loss={losses}", f"name={name}", *lines]
    return Result(_train(lines, row, model, keys, workers, command=command))


def run(
    loss: object,
    data: object,
    model: object = "mlp",
    *,
    name: str = "default",
    target: str = "",
    task: str = "",
    without: Sequence[str] = (),
    missing: str = "",
    **keys: object,
) -> Records:
    """Train one model with one loss; see `compare` for arguments. `keys` may set `optimizer.lr`."""
    given = {key: value for key, value in locals().items() if key not in ("keys", *PARTS)}
    (one,), row = _known_parts([loss], data, Reading(target, task, without, missing))
    model = _model_name(model)
    command = _as_call(run, [one, _data_words(data, row), model], {**given, **keys})
    lines = [f"loss={one}", f"name={name}"]
    return records.load(_train(lines, row, model, keys, 1, command=command).folder)


PARTS = ("loss", "losses", "data", "model")
"""Parameters whose values a recorded call gives by name; `keys` may not contain these words."""


def _data_words(data: object, row: Data) -> str:
    """Name or path of the data as the caller gave it; for other data the name of the row."""
    return str(data) if isinstance(data, str | Path) else row.name


def _as_call(
    function: Callable[..., object], parts: Sequence[object], given: Mapping[str, object]
) -> str:
    """Text of a call for the records: names of the parts, and arguments other than the defaults."""
    defaults = {
        key: repr(one.default) for key, one in inspect.signature(function).parameters.items()
    }
    further = {key: value for key, value in given.items() if repr(value) != defaults.get(key)}
    words = [repr(part) for part in parts]
    words += [f"{key}={value!r}" for key, value in further.items() if key.isidentifier()]
    dotted = {key: value for key, value in further.items() if not key.isidentifier()}
    words += [f"**{dotted}"] if dotted else []
    return f"lossbench.{function.__name__}({', '.join(words)})"


def _train(
    lines: list[str],
    data: Data,
    model: str,
    keys: Mapping[str, object],
    workers: int,
    *,
    command: str,
) -> Question:
    """Train the runs of the question that overrides and keys describe; returns the question."""
    for key in keys:
        if key in (*PARTS, "experiment"):
            raise ConfigError(
                f"{key}={keys[key]!r}: not a key of a run here: pass it as an argument, or leave "
                "it out"
            )
    values = {"data": data.name, "model": model, "hydra.launcher.workers": workers}
    if data.source == SOURCE:
        values["batch_size"] = batch_size(data)
    values |= keys
    lines = [*lines, *(f"{key}={_typed(value)}" for key, value in values.items())]
    with _logging_to_stderr():
        with open_hydra() as loader:
            asked = question(lines, loader, command=command)
        protocol.answer(asked)
    return asked


def _typed(value: Any) -> str:
    """Text of a value that Hydra can parse; numpy values become Python values first."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./-]+", value) else json.dumps(value)
    return json.dumps(value)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Print log messages on standard error, unless the program has a log handler already."""
    log = logging.getLogger("lossbench")
    handler, level = logging.StreamHandler(sys.stderr), log.level
    log.setLevel(logging.INFO)
    if not log.hasHandlers():
        log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _known_parts(losses: Any, data: object, reading: Reading) -> tuple[list[str], Data]:
    """Register the user's losses and data; returns the names of all losses and the data's row."""
    if isinstance(losses, str) or callable(losses):
        losses = [losses]
    if isinstance(losses, Mapping):
        for name, one in losses.items():
            if isinstance(one, str) and one != name:
                raise ConfigError(f"losses: {one} keeps its name: give a function to {name!r}")
        losses = [
            one if isinstance(one, str) else renamed(loss_of(one), name)
            for name, one in losses.items()
        ]
    losses, variants = [*map(loss_of, losses)], catalog.entries()
    if not losses:
        raise ConfigError("no losses are given: give names, functions or classes")
    for one in losses:
        if isinstance(one, str):
            refuse_unknown(one, variants, "losses:")
        elif not isinstance(one, Loss) and not hasattr(one, "__name__"):
            raise ConfigError(
                f"losses: {type(one).__name__} is not a name, a function or a row; give a "
                "callable object a name, as in losses={'mine': object}"
            )
    names = [one for one in losses if isinstance(one, str)]
    tasks = {variants[name].loss.task for name in names}
    if not reading.task and len(tasks) == 1:
        reading = replace(reading, task=tasks.pop())
    row = data_row(data, reading)
    functions = [one for one in losses if not isinstance(one, str)]
    own_rows = loss_rows(functions, task=row.task)
    add(*own_rows)
    _refuse_other_task(names, row.task)
    following = iter(own_rows)
    return [one if isinstance(one, str) else next(following).name for one in losses], row


def _refuse_other_task(names: Iterable[str], task: str) -> None:
    variants = catalog.entries()
    for name in names:
        refuse_unknown(name, variants, "reference:")
        if (its := variants[name].loss.task) != task:
            raise ConfigError(f"loss {name} is for {its}, the data are {task}: leave it out")


def _model_name(model: object) -> str:
    """Name of a model; registers a model of the user."""
    if isinstance(model, str):
        return model
    row = model_row(model)
    add(row)
    return row.name
