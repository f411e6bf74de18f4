"""Tune, then confirm: the sweeper that gives every loss its own best learning rate, fairly.

Every loss is tuned on the same grid with the same seeds, chosen on validation alone, and judged
on fresh seeds. Tuning seeds never confirm.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from lossbench.config import Run
    from lossbench.launch import PackedLauncher

log = logging.getLogger(__name__)

Cell = tuple[str, ...]
"""Overrides of one cell: all factors but learning rate and seed."""


class ProtocolSweeper:
    """Tunes and confirms. Registered with Hydra by `hydra_plugins.lossbench_protocol`.

    Args:
        blocks: Grids whose union is swept, each a mapping of override key to value or list.
        tune: `lr` (the grid) and `seeds`; None sweeps the blocks as they stand.
        confirm: `seeds`, none of which may tune.
        declare: What is fixed beforehand: primary metric, endpoint, reference, margin, family.
    """

    config: DictConfig
    launcher: PackedLauncher

    def __init__(
        self,
        blocks: Sequence[Mapping[str, Any]],
        tune: Mapping[str, Any] | None,
        confirm: Mapping[str, Any] | None,
        declare: Mapping[str, Any],
    ) -> None:
        self.blocks = blocks
        self.tune = tune
        self.confirm = confirm
        self.declare = declare

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's call before the sweep."""
        from hydra.core.plugins import Plugins

        from lossbench.config import ConfigError

        self.config = config
        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not hasattr(launcher, "sweep"):
            raise ConfigError(
                f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']} trains one run "
                "a job and cannot tune: use hydra/launcher=packed"
            )
        self.launcher = launcher

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Tune every cell, choose, confirm.

        Args:
            arguments: What was typed; a typed key replaces that key in every block.

        Raises:
            ConfigError: No cell is left, seeds overlap, or a value is refused; nothing trained.
        """
        typed = self._typed(arguments)
        typed_seed = typed.get("seed", "").partition("=")[2]
        cells = self._cells(typed)
        if self.tune is None:
            return [self.launcher.launch([list(cell) for cell in cells], 0)]
        check_declaration(self.declare)
        tune_seeds = self._values("seed", self._asked("tune", "seeds"))
        confirm_seeds = self._values("seed", typed_seed or self._asked("confirm", "seeds"))
        _refuse_overlap(tune_seeds, confirm_seeds)
        rates = self._values("optimizer.lr", self._asked("tune", "lr"))
        jobs = {
            cell: [[*cell, "condition=grid", rate, seed] for rate in rates for seed in tune_seeds]
            for cell in cells
        }
        tuning = [job for cell in cells for job in jobs[cell]]
        self._declare(self.launcher.runs(tuning), rates, tune_seeds, confirm_seeds)
        tuned = self.launcher.launch(tuning, 0)
        chosen = self._chosen(jobs)
        confirming = [
            [*cell, "condition=own_lr", f"optimizer.lr={chosen[cell]!r}", seed]
            for cell in cells
            for seed in confirm_seeds
            if cell in chosen
        ]
        if not confirming:
            return [tuned]
        return [tuned, self.launcher.launch(confirming, len(tuned))]

    def _typed(self, arguments: Sequence[str]) -> dict[str, str]:
        """Typed overrides by key; learning rate and seed belong to the protocol."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from lossbench.config import ConfigError

        parser = OverridesParser.create(config_loader=self.launcher.composer)  # type: ignore[arg-type]
        typed = {
            o.get_key_element(): str(o.input_line) for o in parser.parse_overrides(list(arguments))
        }
        for key in ("optimizer.lr",):
            if key in typed and self.tune is not None:
                raise ConfigError(
                    f"{key} is chosen by tuning: change the grid with hydra.sweeper.tune.lr=[...], "
                    "or sweep it yourself with 'lossbench -m ...' without an experiment"
                )
        return typed

    def _cells(self, typed: Mapping[str, str]) -> list[Cell]:
        """Overrides of every cell of every block whose loss fits its data, each once."""
        from lossbench.config import ConfigError, fits

        held = {key: line for key, line in typed.items() if key != "seed" or self.tune is None}
        cells: dict[Cell, None] = {}
        for block in self.blocks or [{}]:
            lines = {key: _line(key, value) for key, value in block.items() if key not in typed}
            for cell in self._product([*held.values(), *lines.values()]):
                if fits(self.launcher.composer.compose(cell)):
                    cells[cell] = None
        if not cells:
            raise ConfigError(
                "the sweep is empty: no loss fits the task and targets of its data. Regression "
                "losses need regression data; 'lossbench losses' lists the task of each"
            )
        return list(cells)

    def _product(self, lines: Sequence[str]) -> list[Cell]:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from lossbench.config import check_overrides

        check_overrides(lines, self.launcher.composer)
        parser = OverridesParser.create(config_loader=self.launcher.composer)  # type: ignore[arg-type]
        overrides = parser.parse_overrides(list(lines))
        return [tuple(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]

    def _values(self, key: str, value: Any) -> list[str]:
        from lossbench.config import ConfigError

        if not isinstance(value, str | int | float) and not value:
            raise ConfigError(f"the list of {key} is empty: give it at least one value")
        return [job[0] for job in self._product([_line(key, value)])]

    def _asked(self, stage: str, key: str) -> Any:
        from lossbench.config import ConfigError

        value = (getattr(self, stage) or {}).get(key)
        if value is None:
            raise ConfigError(f"hydra.sweeper.{stage}.{key} is missing: the protocol needs it")
        return value

    def _declare(
        self, runs: Sequence[Run], rates: Sequence[str], tune: Sequence[str], confirm: Sequence[str]
    ) -> None:
        """Write down what is asked before anything is measured."""
        from lossbench.plan import cell

        self.launcher.sweep.facts = {
            **self.launcher.sweep.facts,
            "declaration": {
                **_plain(self.declare),
                "losses": sorted({run.loss.name for run in runs}),
                "cells": sorted({cell(run) for run in runs}),
                "sources": sorted({run.source_sha for run in runs}),
                "learning_rates": [float(line.partition("=")[2]) for line in rates],
                "tune_seeds": [int(line.partition("=")[2]) for line in tune],
                "confirm_seeds": [int(line.partition("=")[2]) for line in confirm],
            },
        }

    def _chosen(self, jobs: Mapping[Cell, list[list[str]]]) -> dict[Cell, float]:
        """The learning rate of each cell, by the primary metric on validation."""
        from lossbench import records, statistics
        from lossbench.config import ConfigError

        loaded = records.load(self.launcher.sweep.folder)
        chosen = {}
        for cell, asked in jobs.items():
            runs = self.launcher.runs(asked)
            rows = loaded.runs[loaded.runs.run_id.isin([run.run_id for run in runs])]
            if not rows.status.isin(["done", "diverged"]).any():
                log.error("%s: every tuning run failed, nothing to confirm", " ".join(cell))
                continue
            metric = self.declare["primary"][runs[0].row.task]
            scores = statistics.endpoint(
                rows,
                loaded.evals,
                split="validation",
                metric=metric,
                endpoint=self.declare["endpoint"],
            )
            if scores[metric].isna().all() and (rows.status == "done").any():
                raise ConfigError(
                    f"{metric} is not defined for loss {runs[0].loss.name} on {runs[0].data.name}: "
                    "declare another primary metric, in a folder of its own with name=..."
                )
            chosen[cell] = statistics.best_learning_rate(scores, metric=metric)
            if chosen[cell] in (rows.lr.min(), rows.lr.max()):
                log.warning(
                    "%s on %s: the best learning rate %g lies on the edge of the grid",
                    runs[0].loss.name,
                    runs[0].data.name,
                    chosen[cell],
                )
        return chosen


def check_declaration(declared: Mapping[str, Any]) -> None:
    """Refuse a declaration that cannot be judged, before anything is trained.

    Args:
        declared: `hydra.sweeper.declare`.

    Raises:
        ConfigError: A part is missing, unknown or out of range; the message names the cure.
    """
    from lossbench.config import ConfigError, nearest
    from lossbench.losses import LOSSES
    from lossbench.records import METRICS

    keys = ("primary", "endpoint", "reference", "margin", "family", "confidence")
    if missing := [key for key in keys if key not in declared]:
        raise ConfigError(f"hydra.sweeper.declare lacks {missing[0]}: declare {', '.join(keys)}")
    known = {"primary": METRICS, "reference": LOSSES}
    for key, rows in known.items():
        for task, name in declared[key].items():
            fitting = [other for other, row in rows.items() if row.task == task]
            if name not in fitting:
                raise ConfigError(f"{key} of {task} is {name!r}: {nearest(name, fitting)}")
    for key, allowed in {"endpoint": ("last", "best"), "family": ("task",)}.items():
        if declared[key] not in allowed:
            raise ConfigError(f"{key} is {declared[key]!r}: use {' or '.join(allowed)}")
    if not 0 < declared["confidence"] < 1:
        raise ConfigError(f"confidence is {declared['confidence']}: use 0.95, or between 0 and 1")
    for task, margin in declared["margin"].items():
        if not margin >= 0:
            raise ConfigError(f"margin of {task} is {margin}: use 0 or more")


def _line(key: str, value: Any) -> str:
    if isinstance(value, str | int | float):
        return f"{key}={value}"
    return f"{key}={','.join(str(item) for item in value)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _refuse_overlap(tune: Sequence[str], confirm: Sequence[str]) -> None:
    from lossbench.config import ConfigError

    seeds = ({int(line.partition("=")[2]) for line in lines} for lines in (tune, confirm))
    if shared := sorted(set.intersection(*seeds)):
        raise ConfigError(
            f"seeds {', '.join(map(str, shared))} would tune and confirm: a seed that tuned cannot "
            "confirm. Type other seeds to confirm, like seed='range(20,30)'"
        )
