"""Trains all candidates on the seeds of the first look, then more seeds while verdicts are open."""

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

from lossbench import records, statistics
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.question import Candidate, Grid, Question, Run, candidates, varied
from lossbench.question.cells import cell as cell_sha
from lossbench.question.cells import context as context_sha
from lossbench.question.grid import SIDES
from lossbench.question.vary import parameters
from lossbench.statistics.choice import TuningTable
from lossbench.sweep import Sweep

log = logging.getLogger(__name__)

NOTHING = records.planned([])

USUAL = 4
"""Number of candidates of a loss that a forecast expects to go on to a later look."""

_OF_LOSS = "loss.params."
"""Prefix of the keys of loss parameters, which only some losses have."""

_END = {"below": "at the lower end", "above": "at the upper end"}


@dataclass
class Context:
    """Cells that are compared with each other: all factors except the loss are equal.

    Attributes:
        sha: Hash of the equal factors, as in the plan.
        data: Name of the data set.
        label: Data and model.
        task: "regression" or "classification".
        grid: Learning rates at which the losses of the context are trained.
        cells: One run of each cell.
    """

    sha: str
    data: str
    label: str
    task: str
    grid: Grid
    cells: list[Run] = field(default_factory=list)

    @property
    def losses(self) -> set[str]:
        """Names of the losses."""
        return {run.loss.name for run in self.cells}


class Protocol:
    """Trains the runs that answer a question, look by look.

    Args:
        question: Question of an experiment, with candidates.
        sweep: Trains runs and keeps their records.

    Raises:
        ConfigError: The declaration asks for a comparison that no context has.
    """

    def __init__(self, question: Question, sweep: Sweep) -> None:
        assert question.candidates is not None, "without candidates the cells are trained alone"
        self.question, self.sweep = question, sweep
        self.declare, self.looks, self.seeds = question.declared, question.looks, question.seeds
        self.tuned, self.others = question.tuned, question.candidates.others
        self.extend = question.candidates.extend
        self._runs: dict[tuple[str, float, str, int], Run] = {}
        self.contexts = self._contexts(question.cells, Grid(question.candidates.rates))
        self._check_interactions()

    def declaration(self) -> dict[str, object]:
        """Declaration for the records: all choices that are fixed before any measurement."""
        runs = [run for context in self.contexts for run in self._first_of(context, self.seeds[:1])]
        return {
            **self.declare,
            "losses": sorted({run.loss.name for run in runs}),
            "cells": sorted({cell_sha(run, self.tuned) for run in runs}),
            "sources": sorted({run.source_sha for run in runs}),
            "learning_rates": [*self.contexts[0].grid.declared],
            "extend": self.extend,
            "tuned": self.tuned,
            "others": self.others,
            "looks": [*self.looks],
            "seeds": self.seeds,
        }

    def first_look(self) -> list[Run]:
        """Runs of the first look: every candidate of every loss on each of its seeds."""
        seeds = self.seeds[: self.looks[0]]
        return [run for context in self.contexts for run in self._first_of(context, seeds)]

    def later_looks(self) -> tuple[dict[str, list[Run]], int]:
        """Runs of later looks, and the number of later looks whose runs are known.

        After a recorded look the open comparisons are known. All further looks are assumed to have
        the same comparisons; if no look is recorded, every loss with its first `USUAL` candidates.
        """
        looks, known = {}, 0
        usual = [
            self._at(run, candidate, self.seeds[0])
            for context in self.contexts
            for run in context.cells
            for candidate in self.candidates(context, run)[:USUAL]
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
        """Train the first look, extend grids that are too short, then train later looks."""
        if self.sweep.is_settled(self.question):
            log.info("nothing to train: all runs are there, and all comparisons are settled")
            return
        declaration = self.declaration()
        for context in self.contexts:
            name = self._declared("reference", context)
            if name not in context.losses | {*self._trained_before(context.sha).loss}:
                raise ConfigError(
                    f"{context.label}: its reference {name} is neither among the losses nor in "
                    f"{self.sweep.folder}, so nothing can be compared: add {name} to loss=, or "
                    "give the command without loss= first"
                )
        trained = {run.run_id: run for run in self.first_look()}
        self.sweep.run([*trained.values()], declaration=declaration)
        growing = [*self.contexts]
        while True:
            before = {context.sha: context.grid for context in growing}
            loaded = records.load(self.sweep.folder)
            for context in growing:
                self._grow(context, loaded)
            growing = [context for context in growing if context.grid != before[context.sha]]
            seeds = self.seeds[: self.looks[0]]
            runs = {
                run.run_id: run for context in growing for run in self._first_of(context, seeds)
            }
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
        self.sweep.settle(self.question)

    # ---- contexts --------------------------------------------------------------------------------

    def _contexts(self, cells: Sequence[Run], declared: Grid) -> list[Context]:
        """Contexts with the declared grid, extended as the sweep has planned for them before."""
        contexts: dict[str, Context] = {}
        for run in cells:
            sha = context_sha(run, self.tuned)
            if sha not in contexts:
                label = f"{run.data.name} × {run.model.name}"
                grid, planned = declared, {*self._trained_before(sha).lr}
                for side in [side for side in SIDES for _ in range(self.extend)]:
                    grid = grid.grown(side) if grid.grown(side).end(side) in planned else grid
                contexts[sha] = Context(sha, run.data.name, label, run.row.task, grid)
            contexts[sha].cells.append(run)
        return [*contexts.values()]

    def _check_interactions(self) -> None:
        """Refuse a declared factor that does not vary, or a base that is not one of its levels."""
        configs = {context.sha: json.dumps(context.cells[0].facts) for context in self.contexts}
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

    def _declared(self, key: str, context: Context) -> Any:
        return records.declared(self.declare.get(key, {}), data=context.data, task=context.task)

    def _average(self, context: Context) -> str:
        return self._declared("average", context) or "mean"

    @cached_property
    def _planned(self) -> pd.DataFrame:
        """Context, loss and learning rate of the runs that were planned before this command."""
        folder = self.sweep.folder
        runs = records.read_plan(folder).runs if (folder / "sweep.json").exists() else NOTHING
        return runs[["context", "loss", "lr"]].drop_duplicates()

    def _trained_before(self, sha: str) -> pd.DataFrame:
        return self._planned[self._planned.context == sha]

    # ---- the first look --------------------------------------------------------------------------

    def candidates(self, context: Context, run: Run) -> list[Candidate]:
        """Candidates of a cell; all losses of a context get the same number of candidates."""
        of_loss = parameters(LOSSES[run.loss.fn].fn)
        applicable = [
            key
            for key in self.others
            if not key.startswith(_OF_LOSS) or key.removeprefix(_OF_LOSS) in of_loss
        ]
        return candidates(context.grid, self.others, applicable)

    def _first_of(self, context: Context, seeds: Sequence[int]) -> list[Run]:
        return [
            self._at(run, candidate, seed)
            for run in context.cells
            for candidate in self.candidates(context, run)
            for seed in seeds
        ]

    def _grow(self, context: Context, loaded: records.Records) -> None:
        """Extend the grid of a context on each side that is too short, or log why it may not."""
        absent = {*self._trained_before(context.sha).loss} - context.losses
        trials = self._trials(context, context.cells, self.looks[0], loaded)
        reasons = {side: self._too_short(context, trials, side) for side in SIDES}
        for side, why in reasons.items():
            if not why:
                continue
            if absent:
                log.warning(
                    "%s: %s of the grid, which does not grow without %s, trained on it too: give "
                    "all of these losses to grow it for all alike",
                    context.label, why, ", ".join(sorted(absent)),
                )  # fmt: skip
            elif getattr(context.grid, side) >= self.extend:
                log.warning(
                    "%s: %s of the grid, %g, which has grown as often as declared (extend: %d)",
                    context.label, why, context.grid.end(side), self.extend,
                )  # fmt: skip
            else:
                context.grid = context.grid.grown(side)
                log.info(
                    "%s: %s of the grid: it grows to %g, for all %d losses alike",
                    context.label, why, context.grid.end(side), len(context.losses),
                )  # fmt: skip

    def _too_short(self, context: Context, trials: Mapping[str, TuningTable], side: str) -> str:
        """Reason to extend a grid: a best rate lies at its end, or runs at the lowest rate diverge.

        If all rates are too high for a loss, the best of these rates may lie anywhere on the grid.

        Returns:
            Beginning of a sentence; empty if the grid is long enough on this side.
        """
        best, diverging = set(), set()
        for run in context.cells:
            if run.run_id not in trials:
                continue
            table, listed = trials[run.run_id], self.candidates(context, run)
            end = listed[0 if side == "below" else -1].lr
            outermost = np.array([index for index, one in enumerate(listed) if one.lr == end])
            average = self._average(context)
            if statistics.chosen(table.costs, average=average)[0] in outermost:
                best.add(run.loss.name)
            elif side == "below" and table.diverged[:, outermost].any():
                diverging.add(run.loss.name)
        reasons = [f"{', '.join(sorted(best))}: the best learning rate lies"] if best else []
        reasons += [f"{', '.join(sorted(diverging))}: runs diverge"] if diverging else []
        return f"{'; '.join(reasons)} {_END[side]}" if reasons else ""

    def _trials(
        self, context: Context, cells: Sequence[Run], seeds: int, loaded: records.Records
    ) -> dict[str, TuningTable]:
        """Validation costs of each cell's candidates, by the cell's run_id; test data are not used.

        A cell with a failed run is left out, because its choice would rest on fewer runs.
        """
        metric = self._declared("select", context) or self._declared("primary", context)
        places = {
            run.run_id: {
                self._at(run, candidate, seed).run_id: place
                for place, candidate in enumerate(self.candidates(context, run))
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
                    context.label, lost, len(mine), run.loss.name,
                )  # fmt: skip
            elif np.isnan(its.costs).all() and (mine.status == "done").any():
                raise ConfigError(
                    f"{metric} is not defined for loss {run.loss.name} on {context.label}: "
                    "declare another primary metric, in a folder of its own with name=..."
                )
            else:
                trials[run.run_id] = its
        return trials

    def _at(self, run: Run, candidate: Candidate, seed: int) -> Run:
        """Run of a cell with a candidate and a seed, cached because runs are needed repeatedly."""
        key = run.run_id, candidate.lr, repr(candidate.others), seed
        if key not in self._runs:
            self._runs[key] = varied(run, {**candidate.settings, "seed": seed})
        return self._runs[key]

    # ---- later looks -----------------------------------------------------------------------------

    def _next_look(self, before: int, after: int) -> list[Run]:
        """Runs with more seeds for the losses of open comparisons and for their references.

        Each of these losses trains the candidates that `statistics.plausible` finds.
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
        for context in self.contexts:
            cells = [
                run
                for run in context.cells
                if self._at(run, self.candidates(context, run)[0], self.seeds[0]).run_id in going_on
            ]
            if not cells:
                continue
            if self._declared("reference", context) not in {run.loss.name for run in cells}:
                log.warning(
                    "%s: %s stay open, because the reference is not asked for and cannot go on "
                    "with them: add it to the losses",
                    context.label, ", ".join(run.loss.name for run in cells),
                )  # fmt: skip
                continue
            count += len(cells) - 1
            trials = self._trials(context, cells, before, loaded)
            for run in cells:
                if run.run_id not in trials:
                    continue
                listed, its = self.candidates(context, run), trials[run.run_id]
                for place in statistics.plausible(
                    its.costs, its.rates, average=self._average(context)
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
    """Log the verdicts of a comparison at a look with this number of seeds."""
    paired = comparison.paired
    verdicts = paired[paired.seeds == seeds].groupby("verdict", sort=False).loss
    words = [f"{comparison.printed(str(word))}: {', '.join(losses)}" for word, losses in verdicts]
    if words:
        place = f"{comparison.label}, {seeds} seeds, against {comparison.reference}"
        log.info("%s: %s", place, "; ".join(words))
