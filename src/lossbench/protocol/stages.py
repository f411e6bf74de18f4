"""Tune and confirm: what is launched in which order, and what is chosen in between."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from lossbench import records, statistics
from lossbench.config import Composer, in_type_of_field
from lossbench.losses import LOSSES
from lossbench.optimizers import SCALE_FREE
from lossbench.protocol.cells import listed_values
from lossbench.protocol.declaration import (
    CONFIRM,
    TUNE,
    check_conditions,
    check_declaration,
    check_keys,
    check_others,
    refuse_overlap,
)
from lossbench.protocol.grid import SIDES, Candidate, Grid, candidates
from lossbench.records import Records
from lossbench.runs import ConfigError, Run, varied
from lossbench.runs.checks import parameters
from lossbench.sweep import Sweep
from lossbench.sweep.plan import cell, context

log = logging.getLogger(__name__)


@dataclass
class Task:
    """The cells that are compared with each other: all factors are equal but the loss.

    Attributes:
        context: Hash of those factors, as in the plan.
        data: Name of its data set.
        label: Data and model.
        kind: "regression" or "classification".
        grid: Learning rates that its losses are tuned on.
        unmatched: Why a multiple of a loss is not the same training at that part of the rate;
            empty where it is.
        cells: A run of each cell, by its run_id.
        others: By the same, the keys it has of everything else that is tuned.
    """

    context: str
    data: str
    label: str
    kind: str
    grid: Grid
    unmatched: str
    cells: dict[str, Run] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)

    @property
    def losses(self) -> set[str]:
        """Names of its losses."""
        return {run.loss.name for run in self.cells.values()}


@dataclass(frozen=True)
class Chosen:
    """What tuning found for one loss of a task.

    Attributes:
        candidate: Learning rate and other values.
        rivals: Learning rates that did exactly as well.
        scale: Geometric mean over tuning seeds of the initial RMS of the output gradient.
        diverged: Learning rates at which a run diverged.
    """

    candidate: Candidate
    scale: float
    rivals: frozenset[float] = frozenset()
    diverged: frozenset[float] = frozenset()


class Protocol:
    """One pass through tune and confirm for the cells of a command.

    Args:
        sweep: Where its runs go.
        composer: Reads lists of values.
        cells: A run of each.
        tune: As in the experiment.
        confirm: As in the experiment.
        declare: As in the experiment.
        seeds: Typed in the place of those that confirm; empty if none were.

    Raises:
        ConfigError: A part of `tune`, `confirm` or `declare` is missing, unknown or out of range.
    """

    def __init__(
        self,
        sweep: Sweep,
        composer: Composer,
        cells: Sequence[Run],
        *,
        tune: Mapping[str, Any],
        confirm: Mapping[str, Any],
        declare: Mapping[str, Any],
        seeds: str,
    ) -> None:
        check_keys("tune", tune, TUNE)
        check_keys("confirm", confirm, CONFIRM)
        tune, confirm = {**TUNE, **tune}, {**CONFIRM, **confirm}
        self.sweep, self.declare = sweep, declare
        self.tune_seeds = listed_values("seed", tune["seeds"], composer)
        self.confirm_seeds = listed_values("seed", seeds or confirm["seeds"], composer)
        refuse_overlap(self.tune_seeds, self.confirm_seeds)
        self.conditions = [str(name) for name in confirm["conditions"]]
        check_conditions(self.conditions)
        others = tune["others"] or {}
        check_others(others, declare)
        self.others = {
            key: [in_type_of_field(key, value) for value in listed]
            for key, listed in others.items()
        }
        self.tuned = ["optimizer.lr", *self.others]
        self.extend = int(tune["extend"])
        rates = sorted(listed_values("optimizer.lr", tune["lr"], composer))
        self.tasks = self._tasks(cells, Grid(tuple(rates)))
        check_declaration(
            declare,
            {task.data: task.kind for task in self.tasks},
            known=composer.loader.get_group_options("data"),
            losses=composer.loader.get_group_options("loss"),
        )

    def _declared(self, key: str, task: Task) -> Any:
        return records.declared(self.declare.get(key, {}), data=task.data, task=task.kind)

    def declaration(self) -> dict[str, Any]:
        """What is asked, before anything is measured."""
        runs = [run for task in self.tasks for run in self._tuning(task)]
        return {
            **_plain(self.declare),
            "losses": sorted({run.loss.name for run in runs}),
            "cells": sorted({cell(run, self.tuned) for run in runs}),
            "sources": sorted({run.source_sha for run in runs}),
            "learning_rates": [*self.tasks[0].grid.declared],
            "extend": self.extend,
            "tuned": self.tuned,
            "others": self.others,
            "conditions": self.conditions,
            "tune_seeds": self.tune_seeds,
            "confirm_seeds": self.confirm_seeds,
        }

    def outline(self) -> dict[str, list[Run]]:
        """The runs of both stages; rates that only tuning can tell are the first of the grid."""
        confirming = []
        for task in self.tasks:
            guess = {}
            for run_id, run in task.cells.items():
                known = self._confirmed(run, "own_lr")
                guess[run_id] = Chosen(known or self._candidates(task, run_id)[0], scale=1.0)
            reference = self._reference(task, guess, None)
            for run, condition, candidate in self._conditions(task, guess, reference):
                known = self._confirmed(run, condition)
                confirming += self._confirming(run, condition, known or candidate)
        tuning = [run for task in self.tasks for run in self._tuning(task)]
        return {"tune": tuning, "confirm": confirming}

    def carry_out(self) -> None:
        """Tune, growing the grids where a best rate lies on their edge; then confirm."""
        sweep, declaration = self.sweep, self.declaration()
        self._say_without_reference()
        trained = {run.run_id: run for task in self.tasks for run in self._tuning(task)}
        sweep.run([*trained.values()], declaration=declaration)
        loaded = records.load(sweep.folder)
        chosen = {task.context: self._chosen(task, loaded) for task in self.tasks}
        while grown := [task for task in self.tasks if self._has_grown(task, chosen[task.context])]:
            more = {run.run_id: run for task in grown for run in self._tuning(task)}
            more = {run_id: run for run_id, run in more.items() if run_id not in trained}
            trained |= more
            sweep.run([*more.values()], declaration=declaration)
            loaded = records.load(sweep.folder)
            chosen |= {task.context: self._chosen(task, loaded) for task in grown}
        self._share_reference(chosen)
        confirming: list[Run] = []
        for task in self.tasks:
            reference = self._reference(task, chosen[task.context], loaded)
            for run, condition, candidate in self._conditions(
                task, chosen[task.context], reference
            ):
                confirming += self._confirming(run, condition, candidate)
        if confirming:
            sweep.run(confirming, declaration=declaration)

    def _say_without_reference(self) -> None:
        """Before anything is trained: which tasks will have nothing to compare with."""
        for task in self.tasks:
            name = self._declared("reference", task)
            known = {facts["loss"] for facts in self._tuned_before(task.context)}
            if name not in task.losses | known:
                log.warning(
                    "%s: the reference %s is neither among its losses nor in the sweep, so there "
                    "will be nothing to compare with: add it, or run the experiment as it is first",
                    task.label, name,
                )  # fmt: skip

    # ---- tasks -----------------------------------------------------------------------------------

    def _tasks(self, cells: Sequence[Run], declared: Grid) -> list[Task]:
        tasks: dict[str, Task] = {}
        for run in cells:
            key = context(run, self.tuned)
            if key not in tasks:
                tasks[key] = Task(
                    context=key,
                    data=run.data.name,
                    label=f"{run.data.name} × {run.model.name}",
                    kind=run.row.task,
                    grid=self._as_grown(key, declared),
                    unmatched=self._unmatched(run),
                )
            of_loss = parameters(LOSSES[run.loss.fn].fn)
            tasks[key].cells[run.run_id] = run
            tasks[key].others[run.run_id] = [
                other
                for other in self.others
                if not other.startswith(_OF_LOSS) or other.removeprefix(_OF_LOSS) in of_loss
            ]
        return list(tasks.values())

    def _unmatched(self, run: Run) -> str:
        if run.signal != "own":
            return f"with signal={run.signal} a multiple of a loss takes the same step"
        if run.optimizer.fn in SCALE_FREE:
            return f"{run.optimizer.name} takes the same step for a multiple of a loss"
        if run.weight_decay > 0 or "optimizer.weight_decay" in self.others:
            return "with weight decay the scale of a loss does not only scale its steps"
        return ""

    @cached_property
    def _planned(self) -> dict[str, Any]:
        """What the sweep planned before this command."""
        path = self.sweep.folder / "sweep.json"
        return records.read_plan(path)["planned"] if path.exists() else {}

    @cached_property
    def _tuned_by_cell(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Tuned values by cell and condition, of what the sweep planned before this command."""
        tuned: dict[tuple[str, str], dict[str, Any]] = {}
        for facts in self._planned.values():
            tuned.setdefault((facts["cell"], facts["condition"]), facts["tuned"])
        return tuned

    def _tuned_before(self, context: str) -> list[dict[str, Any]]:
        tuned = (facts for facts in self._planned.values() if facts["stage"] == "tune")
        return [facts for facts in tuned if facts["context"] == context]

    def _as_grown(self, context: str, grid: Grid) -> Grid:
        """The grid as it has grown for the losses that the sweep has tuned on it already."""
        known = {facts["lr"] for facts in self._tuned_before(context)}
        for side in SIDES:
            for _ in range(self.extend):
                grid = grid.grown(side) if grid.grown(side).end(side) in known else grid
        return grid

    def _has_grown(self, task: Task, chosen: Mapping[str, Chosen]) -> bool:
        """Grow the task's grid on each side where it does not reach far enough; whether it did."""
        absent = {facts["loss"] for facts in self._tuned_before(task.context)}
        absent -= task.losses
        before = task.grid
        names = {run_id: task.cells[run_id].loss.name for run_id in chosen}
        by_loss = {names[run_id]: best for run_id, best in chosen.items()}
        for side in SIDES:
            ends = {}
            for run_id, name in names.items():
                rates = [candidate.lr for candidate in self._candidates(task, run_id)]
                ends[name] = rates[0 if side == "below" else -1]
            why = why_too_short(by_loss, ends, side)
            if not why:
                continue
            if absent:
                log.warning(
                    "%s: %s of the grid, which does not grow without %s, tuned on it too: give all "
                    "losses of the task to grow it for all alike",
                    task.label, why, ", ".join(sorted(absent)),
                )  # fmt: skip
            elif getattr(task.grid, side) >= self.extend:
                log.warning(
                    "%s: %s of the grid (%g), after %d more rates",
                    task.label, why, before.end(side), self.extend,
                )  # fmt: skip
            else:
                task.grid = task.grid.grown(side)
                log.info(
                    "%s: %s of the grid: it grows to %g, for all %d losses of the task",
                    task.label, why, task.grid.end(side), len(task.losses),
                )  # fmt: skip
        return task.grid != before

    # ---- tune ------------------------------------------------------------------------------------

    def _candidates(self, task: Task, run_id: str) -> list[Candidate]:
        return candidates(task.grid, self.others, task.others[run_id])

    def _tried(self, run: Run, candidate: Candidate) -> list[Run]:
        """The runs of a cell that tune with a candidate."""
        values = {"condition": "grid", **candidate.settings}
        return [varied(run, {**values, "seed": seed}) for seed in self.tune_seeds]

    def _tuning(self, task: Task) -> list[Run]:
        return [
            tried
            for run_id, run in task.cells.items()
            for candidate in self._candidates(task, run_id)
            for tried in self._tried(run, candidate)
        ]

    def _chosen(self, task: Task, loaded: Records) -> dict[str, Chosen]:
        """The best candidate of every cell, by the primary metric on validation."""
        best = {run_id: self._best(task, run, loaded) for run_id, run in task.cells.items()}
        return {run_id: choice for run_id, choice in best.items() if choice is not None}

    def _best(self, task: Task, cell: Run, loaded: Records) -> Chosen | None:
        metric = self._declared("select", task) or self._declared("primary", task)
        tried = self._candidates(task, cell.run_id)
        place = {
            run.run_id: number
            for number, candidate in enumerate(tried)
            for run in self._tried(cell, candidate)
        }
        rows = loaded.runs[loaded.runs.run_id.isin(list(place))]
        if lost := len(place) - int(rows.status.isin(records.RESULTS).sum()):
            log.error(
                "%s: %d of %d tuning runs of %s failed: it is not confirmed, because its learning "
                "rate would rest on less than the others'. The same command tries them again",
                task.label, lost, len(place), cell.loss.name,
            )  # fmt: skip
            return None
        scores = statistics.endpoint(
            rows,
            loaded.evals,
            split="validation",
            metric=metric,
            endpoint=self.declare["endpoint"],
        ).assign(candidate=rows.run_id.map(place))
        if scores[metric].isna().all() and (rows.status == "done").any():
            raise ConfigError(
                f"{metric} is not defined for loss {cell.loss.name} on {task.label}: "
                "declare another primary metric, in a folder of its own with name=..."
            )
        number = statistics.best(scores, metric=metric, by="candidate")
        means = scores.groupby("candidate")[metric].mean()
        equals = means.index[means == means[number]].difference([number])  # none equals NaN
        best = [run_id for run_id, other in place.items() if other == number]
        rivals = frozenset(tried[int(other)].lr for other in equals) - {tried[int(number)].lr}
        diverged = frozenset(rows.lr[rows.status == "diverged"])
        return Chosen(tried[int(number)], _scale(loaded, best), rivals, diverged)

    # ---- confirm ---------------------------------------------------------------------------------

    def _reference(
        self, task: Task, chosen: Mapping[str, Chosen], loaded: Records | None
    ) -> Chosen | None:
        """What tuning found for the reference, in this command or in an earlier one."""
        name = self._declared("reference", task)
        for run_id, best in chosen.items():
            if task.cells[run_id].loss.name == name:
                return best
        if name in task.losses:
            return None
        mine = [
            facts
            for facts in self._planned.values()
            if (facts["context"], facts["loss"]) == (task.context, name)
        ]
        confirmed = [facts for facts in mine if facts["condition"] == "own_lr"]
        if not confirmed:
            return None
        tuned = confirmed[-1]["tuned"]
        if loaded is None:
            return Chosen(_candidate(tuned), scale=1.0)
        same = [
            run_id
            for run_id, facts in self._planned.items()
            if (facts["context"], facts["loss"], facts["stage"]) == (task.context, name, "tune")
            and facts["tuned"] == tuned
        ]
        return Chosen(_candidate(tuned), _scale(loaded, same))

    def _share_reference(self, chosen: Mapping[str, dict[str, Chosen]]) -> None:
        """Give the reference under other signals what tuning found for it under its own.

        Driven by itself it is the same training, up to rounding, which may decide a near tie
        otherwise: then losses under two signals would be compared at two rates.

        Args:
            chosen: By context and cell; changed in place.
        """
        own = {run_id: best for by_cell in chosen.values() for run_id, best in by_cell.items()}
        for task in self.tasks:
            for run_id in chosen[task.context]:
                run = task.cells[run_id]
                same = varied(run, {"signal": "own"}).run_id
                if run.loss.name == self._declared("reference", task) and same in own:
                    chosen[task.context][run_id] = own[same]

    def _confirmed(self, run: Run, condition: str) -> Candidate | None:
        """What a cell was confirmed with before, if it was."""
        tuned = self._tuned_by_cell.get((cell(run, self.tuned), condition))
        return _candidate(tuned) if tuned else None

    def _conditions(
        self, task: Task, chosen: Mapping[str, Chosen], reference: Chosen | None
    ) -> Iterator[tuple[Run, str, Candidate]]:
        """Every loss at every condition; the reference's own rate serves it in all."""
        name = self._declared("reference", task)
        if reference is None and name in task.losses:
            log.error("%s: the reference %s failed, so nothing is confirmed", task.label, name)
            return
        for run_id, best in chosen.items():
            run = task.cells[run_id]
            yield run, "own_lr", best.candidate
            if run.loss.name == name or reference is None:
                continue
            for condition in self.conditions:
                if condition != "own_lr":
                    candidate = self._transferred(task, run, condition, best, reference)
                    if candidate is not None:
                        yield run, condition, candidate

    def _confirming(self, run: Run, condition: str, candidate: Candidate) -> list[Run]:
        values = {"condition": condition, **candidate.settings}
        return [varied(run, {**values, "seed": seed}) for seed in self.confirm_seeds]

    def _transferred(
        self, task: Task, run: Run, condition: str, best: Chosen, reference: Chosen
    ) -> Candidate | None:
        """The reference's optimizer settings with the loss's own parameters."""
        lr = reference.candidate.lr
        if condition == "scale_matched":
            if task.unmatched:
                log.info("%s: scale_matched is left out: %s", task.label, task.unmatched)
                return None
            ratio = reference.scale / best.scale if best.scale > 0 else math.nan
            if not (math.isfinite(ratio) and ratio > 0):
                log.warning(
                    "%s: %s has no output gradient at the start, so no scale to match: left out",
                    task.label, run.loss.name,
                )  # fmt: skip
                return None
            lr = float(f"{lr * ratio:.9g}")
        of_loss = [pair for pair in best.candidate.others if pair[0].startswith(_OF_LOSS)]
        shared = [pair for pair in reference.candidate.others if not pair[0].startswith(_OF_LOSS)]
        return Candidate(lr, (*shared, *of_loss))


_OF_LOSS = "loss.params."
"""How the keys begin that only some losses have."""

_END = {"below": "at the lower end", "above": "at the upper end"}


def why_too_short(chosen: Mapping[str, Chosen], ends: Mapping[str, float], side: str) -> str:
    """Which losses' best rate lies on an end of the grid, or diverge at its lower one.

    The best of rates that are all too high for a loss lies anywhere.

    Args:
        chosen: By loss.
        ends: By loss, the last of its rates on that side.
        side: One of `SIDES`.

    Returns:
        A sentence's beginning; empty where the grid reaches far enough.
    """
    best, diverging = [], []
    for loss in sorted(chosen):
        choice, end = chosen[loss], ends[loss]
        if choice.candidate.lr == end and not choice.rivals:
            best.append(loss)
        elif side == "below" and end in choice.diverged:
            diverging.append(loss)
    reasons = [f"{', '.join(best)}: the best learning rate lies"] if best else []
    reasons += [f"{', '.join(diverging)}: runs diverge"] if diverging else []
    return f"{'; '.join(reasons)} {_END[side]}" if reasons else ""


def _candidate(tuned: Mapping[str, Any]) -> Candidate:
    """A candidate from the tuned values that a plan records."""
    others = tuple((key, value) for key, value in tuned.items() if key != "optimizer.lr")
    return Candidate(tuned["optimizer.lr"], others)


def _scale(loaded: Records, run_ids: Iterable[str]) -> float:
    """Geometric mean over runs of the RMS of their output gradient before any update."""
    steps: pd.DataFrame = loaded.steps
    first = steps[(steps.step == 0) & steps.run_id.isin(list(run_ids))]
    return statistics.geometric_mean(first.output_gradient_norm)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool):
        return value
    return [_plain(item) for item in value]
