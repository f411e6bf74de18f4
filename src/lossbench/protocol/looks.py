"""Every candidate on every seed of the first look; then more seeds, while a verdict is open."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lossbench import records, statistics, store
from lossbench.config import Composer, in_type_of_field
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.protocol.cells import listed_values
from lossbench.protocol.declaration import (
    CANDIDATES,
    check_declaration,
    check_extend,
    check_keys,
    check_looks,
    check_others,
)
from lossbench.protocol.grid import SIDES, Candidate, Grid, candidates
from lossbench.question import Run, varied
from lossbench.question.cells import cell, context
from lossbench.question.vary import parameters
from lossbench.statistics.choice import TuningTable
from lossbench.sweep import Sweep

log = logging.getLogger(__name__)

NOTHING = records.planned([])

USUAL = 4
"""Candidates of a loss that go on to a later look, as a plan counts them."""

_OF_LOSS = "loss.params."
"""How the keys begin that only some losses have."""

_END = {"below": "at the lower end", "above": "at the upper end"}


@dataclass
class Task:
    """The cells that are compared with each other: all factors are equal but the loss.

    Attributes:
        context: Hash of those factors, as in the plan.
        data: Name of its data set.
        label: Data and model.
        kind: "regression" or "classification".
        grid: Learning rates that its losses are trained at.
        cells: A run of each cell.
    """

    context: str
    data: str
    label: str
    kind: str
    grid: Grid
    cells: list[Run] = field(default_factory=list)

    @property
    def losses(self) -> set[str]:
        """Names of its losses."""
        return {run.loss.name for run in self.cells}


class Protocol:
    """What an experiment trains, look by look.

    Args:
        sweep: Where its runs go.
        composer: Reads lists of values.
        cells: A run of each.
        candidates: As in the experiment.
        looks: Numbers of seeds, ascending.
        first_seed: The seeds count up from it.
        declare: As in the experiment.

    Raises:
        ConfigError: A part of the experiment is missing, unknown or out of range.
    """

    def __init__(
        self,
        sweep: Sweep,
        composer: Composer,
        cells: Sequence[Run],
        *,
        candidates: Mapping[str, Any],
        looks: Sequence[int],
        first_seed: int,
        declare: Mapping[str, Any],
    ) -> None:
        check_keys("candidates", candidates, CANDIDATES)
        candidates = {**CANDIDATES, **candidates}
        check_looks(looks)
        self.sweep, self.declare, self.looks = sweep, declare, [*looks]
        self.seeds = [*range(first_seed, first_seed + looks[-1])]
        others = candidates["others"] or {}
        check_others(others, declare)
        self.others = {
            key: [in_type_of_field(key, value) for value in listed]
            for key, listed in others.items()
        }
        self.tuned = ["optimizer.lr", *self.others]
        check_extend(candidates["extend"])
        self.extend: int = candidates["extend"]
        self._runs: dict[tuple[str, float, str, int], Run] = {}
        rates = sorted(listed_values("optimizer.lr", candidates["lr"], composer))
        self.tasks = self._tasks(cells, Grid(tuple(rates)))
        check_declaration(
            declare,
            {task.data: task.kind for task in self.tasks},
            known=composer.loader.get_group_options("data"),
            losses=composer.loader.get_group_options("loss"),
        )
        self._check_interactions()

    def declaration(self) -> dict[str, Any]:
        """What is asked, before anything is measured."""
        # Seeds change nothing of it.
        runs = [run for task in self.tasks for run in self._first_of(task, self.seeds[:1])]
        return {
            **_plain(self.declare),
            "losses": sorted({run.loss.name for run in runs}),
            "cells": sorted({cell(run, self.tuned) for run in runs}),
            "sources": sorted({run.source_sha for run in runs}),
            "learning_rates": [*self.tasks[0].grid.declared],
            "extend": self.extend,
            "tuned": self.tuned,
            "others": self.others,
            "looks": self.looks,
            "seeds": self.seeds,
        }

    def first_look(self) -> list[Run]:
        """Every candidate of every loss on every seed of the first look."""
        seeds = self.seeds[: self.looks[0]]
        return [run for task in self.tasks for run in self._first_of(task, seeds)]

    def later_looks(self) -> tuple[dict[str, list[Run]], int]:
        """The runs of later looks, and of how many of these looks they are known.

        What goes on after a look that is recorded is known. After that at most all of it goes on
        again; where no look is recorded, every loss with `USUAL` candidates.
        """
        looks, known = {}, 0
        usual = [
            self._at(run, candidate, self.seeds[0])
            for task in self.tasks
            for run in task.cells
            for candidate in self.candidates(task, run)[:USUAL]
        ]
        reached, statuses = self.first_look(), self.sweep.statuses()
        for before, after in itertools.pairwise(self.looks):
            is_recorded = all(
                statuses.get(run.run_id, {}).get("status") in records.RESULTS for run in reached
            )
            if is_recorded and known == len(looks):
                reached, known = self._next_look(before, after), known + 1
                usual = [run for run in reached if run.seed == self.seeds[before]]
            else:
                seeds = self.seeds[before:after]
                reached = [varied(run, {"seed": seed}) for run in usual for seed in seeds]
            looks[f"{after} seeds"] = reached
        return looks, known

    def carry_out(self) -> None:
        """Train the first look, growing the grids whose ends are best; then what is still open."""
        request = self._request()
        if self.sweep.is_settled(request):
            log.info("nothing to train: all that was asked for is there, and settled")
            return
        declaration = self.declaration()
        self._refuse_without_reference()
        trained = {run.run_id: run for run in self.first_look()}
        self.sweep.run([*trained.values()], declaration=declaration)
        growing = [*self.tasks]
        while True:
            before = {task.context: task.grid for task in growing}
            loaded = records.load(self.sweep.folder)
            for task in growing:
                self._grow(task, loaded)
            growing = [task for task in growing if task.grid != before[task.context]]
            seeds = self.seeds[: self.looks[0]]
            runs = {run.run_id: run for task in growing for run in self._first_of(task, seeds)}
            more = [run for run_id, run in runs.items() if run_id not in trained]
            if not more:
                break
            trained |= runs
            self.sweep.run(more, declaration=declaration)
        for before, after in itertools.pairwise(self.looks):
            runs = self._next_look(before, after)
            if not runs:
                break
            self.sweep.run(runs, declaration=declaration)
        self.sweep.settle(request)

    def _request(self) -> dict[str, Any]:
        """All that decides which runs there have to be, beside the records."""
        return {
            "code": store.code_sha(),
            "declare": _plain(self.declare),
            "cells": sorted(run.run_id for task in self.tasks for run in task.cells),
            "rates": sorted({rate for task in self.tasks for rate in task.grid.declared}),
            "others": self.others,
            "extend": self.extend,
            "looks": self.looks,
            "seeds": self.seeds,
        }

    # ---- tasks -----------------------------------------------------------------------------------

    def _tasks(self, cells: Sequence[Run], declared: Grid) -> list[Task]:
        tasks: dict[str, Task] = {}
        for run in cells:
            key = context(run, self.tuned)
            if key not in tasks:
                label = f"{run.data.name} × {run.model.name}"
                grid = self._as_grown(key, declared)
                tasks[key] = Task(key, run.data.name, label, run.row.task, grid)
            tasks[key].cells.append(run)
        return [*tasks.values()]

    def _check_interactions(self) -> None:
        """Refuse a base that no task has, before anything is trained."""
        configs = {task.context: json.dumps(task.cells[0].facts) for task in self.tasks}
        asked = [
            (key, factor, base)
            for key in ("interactions", "levels")
            for factor, base in self.declare.get(key, {}).items()
        ]
        for key, factor, base in asked:
            by_level = statistics.families(configs, factor, tuned=self.tuned)
            if not by_level:
                raise ConfigError(
                    f"declare.{key} has {factor}, which does not vary: sweep it in a block, "
                    "or leave it out"
                )
            for levels in by_level:
                if str(base) not in levels:
                    raise ConfigError(
                        f"declare.{key}.{factor} is {base!r}: use the level that others are "
                        f"compared with, one of {', '.join(sorted(levels))}"
                    )

    def _refuse_without_reference(self) -> None:
        """Refuse a task that has nothing to compare with, before anything is trained."""
        for task in self.tasks:
            name = self._declared("reference", task)
            known = {*self._trained_before(task.context).loss}
            if name not in task.losses | known:
                raise ConfigError(
                    f"{task.label}: its reference {name} is neither among the losses nor in "
                    f"{self.sweep.folder}, so nothing could be compared: add {name} to loss=, or "
                    "train an experiment that has losses of its own without loss= first"
                )

    def _declared(self, key: str, task: Task) -> Any:
        return records.declared(self.declare.get(key, {}), data=task.data, task=task.kind)

    def _average(self, task: Task) -> str:
        return self._declared("average", task) or "mean"

    @cached_property
    def _planned(self) -> pd.DataFrame:
        """What the sweep planned before this command: each loss and learning rate of a context."""
        folder = self.sweep.folder
        runs = records.read_plan(folder).runs if (folder / "sweep.json").exists() else NOTHING
        return runs[["context", "loss", "lr"]].drop_duplicates()

    def _trained_before(self, context: str) -> pd.DataFrame:
        return self._planned[self._planned.context == context]

    # ---- the first look --------------------------------------------------------------------------

    def candidates(self, task: Task, run: Run) -> list[Candidate]:
        """What a cell tries: as many candidates as every other loss of its task."""
        of_loss = parameters(LOSSES[run.loss.fn].fn)
        applicable = [
            key
            for key in self.others
            if not key.startswith(_OF_LOSS) or key.removeprefix(_OF_LOSS) in of_loss
        ]
        return candidates(task.grid, self.others, applicable)

    def _first_of(self, task: Task, seeds: Sequence[int]) -> list[Run]:
        return [
            self._at(run, candidate, seed)
            for run in task.cells
            for candidate in self.candidates(task, run)
            for seed in seeds
        ]

    def _as_grown(self, context: str, grid: Grid) -> Grid:
        """The grid as it has grown for the losses that the sweep has trained on it already."""
        known = {*self._trained_before(context).lr}
        for side in SIDES:
            for _ in range(self.extend):
                grid = grid.grown(side) if grid.grown(side).end(side) in known else grid
        return grid

    def _grow(self, task: Task, loaded: records.Records) -> None:
        """Grow the task's grid on each side where it does not reach far enough."""
        absent = {*self._trained_before(task.context).loss} - task.losses
        trials = self._trials(task, task.cells, self.looks[0], loaded)
        reasons = {side: self._too_short(task, trials, side) for side in SIDES}
        for side, why in reasons.items():
            if not why:
                continue
            if absent:
                log.warning(
                    "%s: %s of the grid, which does not grow without %s, trained on it too: give "
                    "all losses of the task to grow it for all alike",
                    task.label, why, ", ".join(sorted(absent)),
                )  # fmt: skip
            elif getattr(task.grid, side) >= self.extend:
                log.warning(
                    "%s: %s of the grid, %g, which may not grow further (extend: %d)",
                    task.label, why, task.grid.end(side), self.extend,
                )  # fmt: skip
            else:
                task.grid = task.grid.grown(side)
                log.info(
                    "%s: %s of the grid: it grows to %g, for all %d losses of the task",
                    task.label, why, task.grid.end(side), len(task.losses),
                )  # fmt: skip

    def _too_short(self, task: Task, trials: Mapping[str, TuningTable], side: str) -> str:
        """Which losses' best rate lies on an end of the grid, or diverge at its lower one.

        The best of rates that are all too high for a loss lies anywhere.

        Returns:
            A sentence's beginning; empty where the grid reaches far enough.
        """
        best, diverging = set(), set()
        for run in task.cells:
            if run.run_id not in trials:
                continue
            its, listed = trials[run.run_id], self.candidates(task, run)
            end = listed[0 if side == "below" else -1].lr
            places = np.array([place for place, one in enumerate(listed) if one.lr == end])
            average = self._average(task)
            if statistics.chosen(its.costs, average=average)[0] in places:
                best.add(run.loss.name)
            elif side == "below" and its.diverged[:, places].any():
                diverging.add(run.loss.name)
        reasons = [f"{', '.join(sorted(best))}: the best learning rate lies"] if best else []
        reasons += [f"{', '.join(sorted(diverging))}: runs diverge"] if diverging else []
        return f"{'; '.join(reasons)} {_END[side]}" if reasons else ""

    def _trials(
        self, task: Task, cells: Sequence[Run], seeds: int, loaded: records.Records
    ) -> dict[str, TuningTable]:
        """What each cell's candidates cost on validation, by its run_id; test has no part in it.

        A cell of which a run failed is left out: what it chose would rest on less than the others'.
        """
        metric = self._declared("select", task) or self._declared("primary", task)
        places = {
            run.run_id: {
                self._at(run, candidate, seed).run_id: place
                for place, candidate in enumerate(self.candidates(task, run))
                for seed in self.seeds[:seeds]
            }
            for run in cells
        }
        every = {run_id for place in places.values() for run_id in place}
        rows = statistics.endpoint(
            loaded.runs[loaded.runs.run_id.isin(every)],
            loaded.measured,
            split="validation",
            metric=metric,
            endpoint=self.declare["endpoint"],
        )
        rows = rows.assign(selected_by=rows[metric])
        trials = {}
        for run in cells:
            place = places[run.run_id]
            mine = rows[rows.run_id.isin([*place])]
            mine = mine.assign(candidate=mine.run_id.map(place))
            rule = statistics.Rule(metric=metric)
            its = statistics.costs_alone(mine, rule, seeds=self.seeds[:seeds])
            if lost := int((~mine.status.isin(records.RESULTS)).sum()):
                log.error(
                    "%s: %d of %d runs of %s failed: it has no verdict, because its learning rate "
                    "would rest on less than the others'. The same command tries them again",
                    task.label, lost, len(mine), run.loss.name,
                )  # fmt: skip
            elif np.isnan(its.costs).all() and (mine.status == "done").any():
                raise ConfigError(
                    f"{metric} is not defined for loss {run.loss.name} on {task.label}: "
                    "declare another primary metric, in a folder of its own with name=..."
                )
            else:
                trials[run.run_id] = its
        return trials

    def _at(self, run: Run, candidate: Candidate, seed: int) -> Run:
        """A cell's run with a candidate and a seed; each is asked for several times."""
        key = run.run_id, candidate.lr, repr(candidate.others), seed
        if key not in self._runs:
            self._runs[key] = varied(run, {**candidate.settings, "seed": seed})
        return self._runs[key]

    # ---- later looks -----------------------------------------------------------------------------

    def _next_look(self, before: int, after: int) -> list[Run]:
        """More seeds for the comparisons that are open: those losses and their reference.

        They train the candidates that other seeds might choose, and those beside them.
        """
        loaded = records.load(self.sweep.folder)
        going_on: set[str] = set()
        for comparison in statistics.Verdicts(loaded, seeds=before):
            paired = comparison.paired
            _log_verdicts(comparison, before)
            is_open = [
                statistics.is_open(row.verdict, row.margin) and row.seeds == before
                for row in paired.itertuples()
            ]
            if any(is_open):
                losses = {*paired.loss[is_open], comparison.reference}
                its = comparison.every_run
                going_on |= {*its.run_id[its.loss.isin(losses)]}
        runs, count = [], 0
        for task in self.tasks:
            cells = [
                run
                for run in task.cells
                if self._at(run, self.candidates(task, run)[0], self.seeds[0]).run_id in going_on
            ]
            if not cells:
                continue
            if self._declared("reference", task) not in {run.loss.name for run in cells}:
                log.warning(
                    "%s: %s stay open, because the reference is not asked for and cannot go on "
                    "with them: add it to the losses",
                    task.label, ", ".join(run.loss.name for run in cells),
                )  # fmt: skip
                continue
            count += len(cells) - 1
            trials = self._trials(task, cells, before, loaded)
            for run in cells:
                if run.run_id not in trials:
                    continue
                listed, its = self.candidates(task, run), trials[run.run_id]
                for place in statistics.plausible(
                    its.costs, its.rates, average=self._average(task)
                ):
                    candidate = listed[its.candidates[place]]
                    runs += [self._at(run, candidate, seed) for seed in self.seeds[before:after]]
        if runs:
            log.info(
                "%s open with %d seeds: to %d, with %d runs more",
                "1 comparison is" if count == 1 else f"{count} comparisons are",
                before, after, len(runs),
            )  # fmt: skip
        return runs


def _log_verdicts(comparison: statistics.Comparison, seeds: int) -> None:
    """Say what a look at so many seeds decided, while the next one trains."""
    paired = comparison.paired
    verdicts = paired[paired.seeds == seeds].groupby("verdict", sort=False).loss
    words = [f"{comparison.printed(str(word))}: {', '.join(losses)}" for word, losses in verdicts]
    if words:
        place = f"{comparison.label}, {seeds} seeds, against {comparison.reference}"
        log.info("%s: %s", place, "; ".join(words))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool):
        return value
    return [_plain(item) for item in value]
