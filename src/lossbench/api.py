"""The door from Python: `lossbench.compare(...)` and `lossbench.run(...)`, on the shell's path."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from lossbench import catalog, figures, launch, records, statistics
from lossbench.data import Data
from lossbench.errors import ConfigError, refuse_unknown
from lossbench.export import plain
from lossbench.losses.spec import Loss
from lossbench.own import SOURCE, add, batch_size, data_row, examine, model_row, renamed
from lossbench.records import Records
from lossbench.report import page, summary
from lossbench.statistics import Comparison

FIRST = ["loss", "verdict", "estimate", "low", "high", "n", "metric", "margin"]
"""Fields of a verdict that are read first."""


class Result:
    """What a comparison came to.

    Attributes:
        records: The tables: `.runs`, `.steps`, `.layers`, `.evals`, `.examples` and `.sql(query)`.
    """

    def __init__(self, trained: launch.TrainedSweep) -> None:
        self.records: Records = records.load(trained.folder)
        self._contexts = trained.contexts

    @functools.cached_property
    def comparison(self) -> Comparison:
        """All that the statistics know of what was asked; the sweep may have more tasks."""
        mains = statistics.main_comparisons(self.records)
        return next(one for one in mains if self._contexts & {*one.runs.planned_context})

    @property
    def verdicts(self) -> pd.DataFrame:
        """A row for each loss but the reference, with the fields of docs/json.md."""
        frame = pd.DataFrame(plain.rows(self.comparison), columns=[*plain.FIELDS])
        return frame[[*FIRST, *frame.columns.difference(FIRST, sort=False)]]

    def forest(self, axes: Axes | None = None) -> Axes:
        """Differences from the reference with their intervals, drawn on axes or on new ones."""
        paired = self.comparison.paired
        with figures.style():
            if axes is not None:
                return figures.forest(paired, axes)
            _, panels = figures.page(height=0.32 * len(paired) + 0.2, width=figures.TWO_COLUMNS)
            return figures.forest(paired, panels[0])

    def report(self, *, has_figures: bool = False) -> Path:
        """Write the page and its tables; returns the page's path.

        Args:
            has_figures: Whether each figure is written as PNG, SVG and PDF too.
        """
        return page.write(self.records, has_figures=has_figures)

    def __str__(self) -> str:
        return summary.table(self.records)

    def _repr_html_(self) -> str:
        return self.verdicts[FIRST].to_html(index=False, float_format="{:.3g}".format)

    __repr__ = __str__


def compare(
    losses: Iterable[Any] | Mapping[str, Any],
    data: Any,
    model: Any = "mlp",
    *,
    name: str,
    target: str = "",
    task: str = "",
    reference: str = "",
    metric: str = "",
    average: str = "mean",
    margin: float | str | None = None,
    looks: Iterable[int] | None = None,
    workers: int = 0,
    **keys: Any,
) -> Result:
    """Train identical models under several losses until their comparison is settled.

    The protocol, the records and the page are those of `lossbench experiment=compare`; the same
    call again trains only what is missing.

    Args:
        losses: Names of the catalog, functions `(output [..., C], target [..., C]) -> [...]`, or
            rows; a mapping gives them names. The reference is added where it is not among them.
        data: A name; or (inputs, targets) as arrays, tensors or frames, inputs [N, F] or
            [N, channels, height, width], targets [N]; or a frame, or the path of a .csv or .parquet
            file, with `target` the name of a column; or a row.
        model: A name, a function `(inputs, outputs) -> nn.Module`, or a row.
        name: The sweep's; its folder is runs/NAME.
        target: The column of a frame.
        task: "regression" or "classification", where the data do not show it.
        reference: What the others are compared with; mse or cross_entropy, if nobody says.
        metric: What they are compared by; rmse or accuracy, if nobody says.
        average: Over seeds: "mean", or "median" where tails are heavy.
        margin: Differences below it are of no practical weight: a number in the metric's unit, or a
            share like "5% of error".
        looks: Numbers of seeds at which verdicts are read.
        workers: Processes; 0: one on each core where that is faster.
        keys: Anything else that may be typed, as `steps=500` or `**{"optimizer.momentum": 0.9}`.

    Raises:
        ConfigError: Something asked for cannot be, and nothing was trained; says the cure.
    """
    names, row = _known_parts(losses, data, target, task)
    reference = reference or records.REFERENCE[row.task]
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
        lines.append(f"{sweeper}.looks={_typed([*map(int, looks)])}")
    losses = [*dict.fromkeys([reference, *names])]
    lines = ["experiment=compare", f"loss={','.join(losses)}", *lines]
    model = _model_name(model)
    _refuse_taken(name, row.name, model)
    keys = {"name": name, **keys}
    command = _as_call("compare", losses, row.name, model, keys)
    return Result(_train(lines, row, model, keys, workers, command=command))


def run(
    loss: Any,
    data: Any,
    model: Any = "mlp",
    *,
    name: str = "default",
    target: str = "",
    task: str = "",
    workers: int = 0,
    **keys: Any,
) -> Records:
    """Train one model with one loss; arguments as of `compare`, `keys` the learning rate too."""
    (one,), row = _known_parts([loss], data, target, task)
    keys, model = {"name": name, **keys}, _model_name(model)
    command = _as_call("run", one, row.name, model, keys)
    trained = _train([f"loss={one}"], row, model, keys, workers, command=command)
    return records.load(trained.folder)


def _as_call(function: str, losses: Any, data: str, model: str, keys: Mapping[str, Any]) -> str:
    """A call as it is recorded, with the names of what it was given."""
    words = [f"{losses!r}, {data!r}, {model!r}"]
    words += [f"{key}={value!r}" for key, value in keys.items() if key.isidentifier()]
    dotted = {key: value for key, value in keys.items() if not key.isidentifier()}
    return f"lossbench.{function}({', '.join([*words, *([f'**{dotted}'] if dotted else [])])})"


def _refuse_taken(name: str, data: str, model: str) -> None:
    """Refuse the name of a sweep of other data or of another model."""
    folder = Path("runs") / name
    if not (folder / "sweep.json").is_file():
        return
    planned = records.load(folder).planned
    tasks = {*zip(planned["data"], planned["model"], strict=True)}
    if tasks and (data, model) not in tasks:
        there = ", ".join(sorted(f"{one} × {other}" for one, other in tasks))
        raise ConfigError(f"{folder} is a comparison on {there}: give this one another name=")


def _train(
    lines: list[str],
    data: Data,
    model: str,
    keys: Mapping[str, Any],
    workers: int,
    *,
    command: str,
) -> launch.TrainedSweep:
    """Train what overrides and keys ask for."""
    values = {"data": data.name, "model": model, "hydra.launcher.workers": workers}
    if data.source == SOURCE:
        values["batch_size"] = batch_size(data)
    values |= keys
    lines = [*lines, *(f"{key}={_typed(value)}" for key, value in values.items())]
    with _logging_to_stderr(), launch.hydra() as hydra:
        config = launch.composed(hydra.config_loader, lines)
        return launch.train(config, hydra.config_loader, command=command)


def _typed(value: Any) -> str:
    """A value as Hydra reads it; numpy's numbers as Python's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./-]+", value) else json.dumps(value)
    return json.dumps(value)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Says on standard error what is logged, where nobody else listens."""
    log = logging.getLogger("lossbench")
    handler = logging.StreamHandler(sys.stderr)
    is_heard = log.hasHandlers()
    level = log.level
    log.setLevel(logging.INFO)
    if not is_heard:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _known_parts(losses: Any, data: Any, target: str, task: str) -> tuple[list[str], Data]:
    """Names of the losses and the row of the data, all known from now on.

    Raises:
        ConfigError: One of them is none, or a loss is for another task.
    """
    if isinstance(losses, str) or callable(losses):
        losses = [losses]
    if isinstance(losses, Mapping):
        losses = [
            one if isinstance(one, str) else renamed(one, name) for name, one in losses.items()
        ]
    losses, variants = [*losses], catalog.entries()
    for one in losses:
        if isinstance(one, str):
            refuse_unknown(one, variants, "losses:")
        elif not isinstance(one, Loss) and not hasattr(one, "__name__"):
            raise ConfigError(
                f"losses: {type(one).__name__} is no name, function or row; an object that can be "
                "called gets a name in losses={'mine': object}"
            )
    names = [one for one in losses if isinstance(one, str)]
    tasks = {variants[name].loss.task for name in names}
    row = data_row(data, target, task or (tasks.pop() if len(tasks) == 1 else ""))
    functions = [one for one in losses if not isinstance(one, str)]
    own_rows = [one.row for one in examine(functions, task=row.task)] if functions else []
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


def _model_name(model: Any) -> str:
    """The name of a model, made known where it is somebody's own."""
    if isinstance(model, str):
        return model
    row = model_row(model)
    add(row)
    return row.name
