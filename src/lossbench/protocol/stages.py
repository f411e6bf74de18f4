"""Tune and confirm: what is launched in which order, and what is chosen in between."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from lossbench.protocol.cells import Cell, values
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

if TYPE_CHECKING:
    import pandas as pd
    from hydra.core.utils import JobReturn

    from lossbench.launch import PackedLauncher
    from lossbench.records import Records
    from lossbench.runs import Run

log = logging.getLogger(__name__)


@dataclass
class Task:
    """The cells that are compared with each other: all factors are equal but the loss.

    Attributes:
        context: Hash of those factors, as in the plan.
        data: Name of its data set.
        label: Data and model.
        kind: "regression" or "classification".
        losses: Name of the loss by cell.
        grid: Learning rates that its losses are tuned on.
        others: By cell, the keys it has of everything else that is tuned.
        unmatched: Why a multiple of a loss is not the same training at that part of the rate;
            empty where it is.
    """

    context: str
    data: str
    label: str
    kind: str
    grid: Grid
    unmatched: str
    losses: dict[Cell, str] = field(default_factory=dict)
    others: dict[Cell, list[str]] = field(default_factory=dict)


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
        launcher: Launches lists of jobs into the sweep.
        asked: The cells.
        tune: As in the experiment.
        confirm: As in the experiment.
        declare: As in the experiment.
        seeds: Typed in the place of those that confirm; empty if none were.

    Raises:
        ConfigError: A part of `tune`, `confirm` or `declare` is missing, unknown or out of range.
    """

    def __init__(
        self,
        launcher: PackedLauncher,
        asked: Sequence[Cell],
        *,
        tune: Mapping[str, Any],
        confirm: Mapping[str, Any],
        declare: Mapping[str, Any],
        seeds: str,
    ) -> None:
        check_keys("tune", tune, TUNE)
        check_keys("confirm", confirm, CONFIRM)
        tune, confirm = {**TUNE, **tune}, {**CONFIRM, **confirm}
        self.launcher, self.declare, composer = launcher, declare, launcher.composer
        self.tune_seeds = [int(v) for v in values("seed", tune["seeds"], composer)]
        self.confirm_seeds = [int(v) for v in values("seed", seeds or confirm["seeds"], composer)]
        refuse_overlap(self.tune_seeds, self.confirm_seeds)
        self.conditions = [str(name) for name in confirm["conditions"]]
        check_conditions(self.conditions)
        self.others = {key: [*listed] for key, listed in (tune["others"] or {}).items()}
        check_others(self.others, declare)
        self.tuned = ["optimizer.lr", *self.others]
        self.extend = int(tune["extend"])
        rates = sorted(_number(rate) for rate in values("optimizer.lr", tune["lr"], composer))
        self.tasks = self._tasks(asked, Grid(tuple(rates)))
        check_declaration(
            declare,
            {task.data: task.kind for task in self.tasks},
            known=composer.get_group_options("data"),
            losses=composer.get_group_options("loss"),
        )

    def _declared(self, key: str, task: Task) -> Any:
        from lossbench.records import declared

        return declared(self.declare.get(key, {}), data=task.data, task=task.kind)

    def declaration(self) -> dict[str, Any]:
        """What is asked, before anything is measured."""
        from lossbench.sweep.plan import cell

        runs = [run for task in self.tasks for run in self._tuning_runs(task)]
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

    def outlined(self) -> dict[str, list[Run]]:
        """The runs of both stages; rates that only tuning can tell are the first of the grid."""
        confirming = []
        for task in self.tasks:
            guess = {
                cell: Chosen(
                    self._confirmed(cell, "own_lr") or self._candidates(task, cell)[0], scale=1.0
                )
                for cell in task.losses
            }
            for cell, condition, candidate in self._conditions(
                task, guess, self._reference(task, guess, None)
            ):
                known = self._confirmed(cell, condition)
                confirming += self._confirm_jobs(cell, condition, known or candidate)
        tuning = [run for task in self.tasks for run in self._tuning_runs(task)]
        return {"tune": tuning, "confirm": self.launcher.runs(confirming)}

    def carried_out(self) -> list[Sequence[JobReturn]]:
        """Tune, growing the grids where a best rate lies on their edge; then confirm."""
        self._say_without_reference()
        train = partial(self.launcher.train, declaration=self.declaration())
        jobs = [job for task in self.tasks for job in self._tuning(task)]
        returned, launched = [train(jobs, 0)], {*map(tuple, jobs)}
        loaded = self._loaded()
        chosen = {task.context: self._chosen(task, loaded) for task in self.tasks}
        while grown := [task for task in self.tasks if self._has_grown(task, chosen[task.context])]:
            jobs = [job for task in grown for job in self._tuning(task)]
            jobs = [job for job in jobs if tuple(job) not in launched]
            launched |= {*map(tuple, jobs)}
            returned.append(train(jobs, sum(map(len, returned))))
            loaded = self._loaded()
            chosen |= {task.context: self._chosen(task, loaded) for task in grown}
        self._share_reference(chosen)
        confirming = [
            job
            for task in self.tasks
            for found in self._conditions(
                task,
                chosen[task.context],
                self._reference(task, chosen[task.context], loaded),
            )
            for job in self._confirm_jobs(*found)
        ]
        if confirming:
            returned.append(train(confirming, len(launched)))
        return returned

    def _say_without_reference(self) -> None:
        """Before anything is trained: which tasks will have nothing to compare with."""
        for task in self.tasks:
            name = self._declared("reference", task)
            known = {facts["loss"] for facts in self._tuned_before(task.context)}
            if name not in {*task.losses.values(), *known}:
                log.warning(
                    "%s: the reference %s is neither among its losses nor in the sweep, so there "
                    "will be nothing to compare with: add it, or run the experiment as it is first",
                    task.label, name,
                )  # fmt: skip

    # ---- tasks -----------------------------------------------------------------------------------

    def _tasks(self, cells: Sequence[Cell], declared: Grid) -> list[Task]:
        from lossbench.config import parameters
        from lossbench.losses import LOSSES
        from lossbench.sweep.plan import context

        tasks: dict[str, Task] = {}
        runs = self.launcher.runs([list(cell) for cell in cells])
        for cell, run in zip(cells, runs, strict=True):
            key = context(run, self.tuned)
            if key not in tasks:
                grid = self._as_grown(key, declared)
                tasks[key] = Task(
                    context=key,
                    data=run.data.name,
                    label=f"{run.data.name} × {run.model.name}",
                    kind=run.row.task,
                    grid=grid,
                    unmatched=self._unmatched(run),
                )
            own = parameters(LOSSES[run.loss.fn].fn)
            tasks[key].losses[cell] = run.loss.name
            tasks[key].others[cell] = [
                other
                for other in self.others
                if not other.startswith(_OWN) or other.removeprefix(_OWN) in own
            ]
        return list(tasks.values())

    def _unmatched(self, run: Run) -> str:
        from lossbench.optimizers import SCALE_FREE

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
        from lossbench.records import read_plan

        path = self.launcher.sweep.folder / "sweep.json"
        return read_plan(path)["planned"] if path.exists() else {}

    @cached_property
    def _tuned_by_cell(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Tuned values by cell and condition, of what the sweep planned before this command."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for facts in self._planned.values():
            found.setdefault((facts["cell"], facts["condition"]), facts["tuned"])
        return found

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

    def _has_grown(self, task: Task, chosen: Mapping[Cell, Chosen]) -> bool:
        """Grow the task's grid on each side where it does not reach far enough; whether it did."""
        absent = {facts["loss"] for facts in self._tuned_before(task.context)}
        absent -= {*task.losses.values()}
        before = task.grid
        by_loss = {task.losses[cell]: found for cell, found in chosen.items()}
        for side in SIDES:
            ends = {task.losses[cell]: self._end(task, cell, side) for cell in chosen}
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

    def _end(self, task: Task, cell: Cell, side: str) -> float:
        rates = [candidate.lr for candidate in self._candidates(task, cell)]
        return rates[0 if side == "below" else -1]

    # ---- tune ------------------------------------------------------------------------------------

    def _candidates(self, task: Task, cell: Cell) -> list[Candidate]:
        return candidates(task.grid, self.others, task.others[cell])

    def _jobs(self, cell: Cell, candidate: Candidate) -> list[list[str]]:
        start = [*cell, "condition=grid", *candidate.overrides]
        return [[*start, f"seed={seed}"] for seed in self.tune_seeds]

    def _tuning(self, task: Task) -> list[list[str]]:
        return [
            job
            for cell in task.losses
            for candidate in self._candidates(task, cell)
            for job in self._jobs(cell, candidate)
        ]

    def _tuning_runs(self, task: Task) -> list[Run]:
        return self.launcher.runs(self._tuning(task))

    def _loaded(self) -> Records:
        from lossbench import records

        return records.load(self.launcher.sweep.folder)

    def _chosen(self, task: Task, loaded: Records) -> dict[Cell, Chosen]:
        """The best candidate of every loss, by the primary metric on validation."""
        found = {cell: self._best(task, cell, loaded) for cell in task.losses}
        return {cell: best for cell, best in found.items() if best is not None}

    def _best(self, task: Task, cell: Cell, loaded: Records) -> Chosen | None:
        from lossbench import statistics
        from lossbench.runs import ConfigError

        metric = self._declared("select", task) or self._declared("primary", task)
        tried = self._candidates(task, cell)
        place = {
            run.run_id: number
            for number, candidate in enumerate(tried)
            for run in self.launcher.runs(self._jobs(cell, candidate))
        }
        rows = loaded.runs[loaded.runs.run_id.isin(list(place))]
        if lost := len(place) - int(rows.status.isin(["done", "diverged"]).sum()):
            log.error(
                "%s: %d of %d tuning runs of %s failed: it is not confirmed, because its learning "
                "rate would rest on less than the others'. The same command tries them again",
                task.label, lost, len(place), task.losses[cell],
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
                f"{metric} is not defined for loss {task.losses[cell]} ({' '.join(cell)}): "
                "declare another primary metric, in a folder of its own with name=..."
            )
        number = statistics.best(scores, metric=metric, by="candidate")
        means = scores.groupby("candidate")[metric].mean()
        equals = means.index[means == means[number]].difference([number])  # none equals NaN
        best = [run_id for run_id, other in place.items() if other == number]
        rivals = frozenset(tried[int(other)].lr for other in equals) - {tried[int(number)].lr}
        gone = frozenset(rows.lr[rows.status == "diverged"])
        return Chosen(tried[int(number)], _scale(loaded, best), rivals, gone)

    # ---- confirm ---------------------------------------------------------------------------------

    def _reference(
        self, task: Task, chosen: Mapping[Cell, Chosen], loaded: Records | None
    ) -> Chosen | None:
        """What tuning found for the reference, in this command or in an earlier one."""
        name = self._declared("reference", task)
        for cell, found in chosen.items():
            if task.losses[cell] == name:
                return found
        if name in task.losses.values():
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

    def _share_reference(self, chosen: Mapping[str, dict[Cell, Chosen]]) -> None:
        """Give the reference under other signals what tuning found for it under its own.

        Driven by itself it is the same training, up to rounding, which may decide a near tie
        otherwise: then losses under two signals would be compared at two rates.

        Args:
            chosen: By context and cell; changed in place.
        """
        own = {cell: found for by_cell in chosen.values() for cell, found in by_cell.items()}
        for task in self.tasks:
            for cell in chosen[task.context]:
                same = tuple(f"{_SIGNAL}own" if one.startswith(_SIGNAL) else one for one in cell)
                if task.losses[cell] == self._declared("reference", task) and same in own:
                    chosen[task.context][cell] = own[same]

    def _confirmed(self, cell: Cell, condition: str) -> Candidate | None:
        """What a cell was confirmed with before, if it was."""
        from lossbench.sweep.plan import cell as hashed

        (run,) = self.launcher.runs([list(cell)])
        tuned = self._tuned_by_cell.get((hashed(run, self.tuned), condition))
        return _candidate(tuned) if tuned else None

    def _conditions(
        self, task: Task, chosen: Mapping[Cell, Chosen], reference: Chosen | None
    ) -> Iterator[tuple[Cell, str, Candidate]]:
        """Every loss at every condition; the reference's own rate serves it in all."""
        name = self._declared("reference", task)
        if reference is None and name in task.losses.values():
            log.error("%s: the reference %s failed, so nothing is confirmed", task.label, name)
            return
        for cell, mine in chosen.items():
            yield cell, "own_lr", mine.candidate
            if task.losses[cell] == name or reference is None:
                continue
            for condition in self.conditions:
                if condition != "own_lr":
                    candidate = self._transferred(task, cell, condition, mine, reference)
                    if candidate is not None:
                        yield cell, condition, candidate

    def _confirm_jobs(self, cell: Cell, condition: str, candidate: Candidate) -> list[list[str]]:
        start = [*cell, f"condition={condition}", *candidate.overrides]
        return [[*start, f"seed={seed}"] for seed in self.confirm_seeds]

    def _transferred(
        self, task: Task, cell: Cell, condition: str, mine: Chosen, reference: Chosen
    ) -> Candidate | None:
        """The reference's optimizer settings with the loss's own parameters."""
        lr = reference.candidate.lr
        if condition == "scale_matched":
            if task.unmatched:
                log.info("%s: scale_matched is left out: %s", task.label, task.unmatched)
                return None
            ratio = reference.scale / mine.scale if mine.scale > 0 else math.nan
            if not (math.isfinite(ratio) and ratio > 0):
                log.warning(
                    "%s: %s has no output gradient at the start, so no scale to match: left out",
                    task.label, task.losses[cell],
                )  # fmt: skip
                return None
            lr = float(f"{lr * ratio:.9g}")
        own = [line for line in mine.candidate.others if line.startswith(_OWN)]
        shared = [line for line in reference.candidate.others if not line.startswith(_OWN)]
        return Candidate(lr, (*shared, *own))


_OWN = "loss.params."
"""How the keys begin that only some losses have."""

_SIGNAL = "signal="
"""How the override of a cell begins that says what drives it."""

_SAID = {"below": "at the lower end", "above": "at the upper end"}


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
    best, gone = [], []
    for loss in sorted(chosen):
        found, end = chosen[loss], ends[loss]
        if found.candidate.lr == end and not found.rivals:
            best.append(loss)
        elif side == "below" and end in found.diverged:
            gone.append(loss)
    told = [f"{', '.join(best)}: the best learning rate lies"] if best else []
    told += [f"{', '.join(gone)}: runs diverge"] if gone else []
    return f"{'; '.join(told)} {_SAID[side]}" if told else ""


def _candidate(tuned: Mapping[str, Any]) -> Candidate:
    """A candidate from the tuned values that a plan records."""
    others = (f"{key}={value}" for key, value in tuned.items() if key != "optimizer.lr")
    return Candidate(tuned["optimizer.lr"], tuple(others))


def _scale(loaded: Records, run_ids: Iterable[str]) -> float:
    """Geometric mean over runs of the RMS of their output gradient before any update."""
    from lossbench import statistics

    steps: pd.DataFrame = loaded.steps
    first = steps[(steps.step == 0) & steps.run_id.isin(list(run_ids))]
    return statistics.geometric_mean(first.output_gradient_norm)


def _number(rate: str) -> float:
    from lossbench.runs import ConfigError

    try:
        return float(rate)
    except ValueError:
        raise ConfigError(f"optimizer.lr is {rate!r}: use a number") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool):
        return value
    return [_plain(item) for item in value]
