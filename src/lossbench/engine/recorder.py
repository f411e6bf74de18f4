"""Recorder that collects the observations of a pack and makes the five tables of records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lossbench import records
from lossbench.engine.members import Members
from lossbench.engine.state import State
from lossbench.engine.strategy import Logged
from lossbench.fingerprints import device_name, environment_json, environment_sha
from lossbench.measures.probes import LAYER_COLUMNS, STEP_COLUMNS, layer_names
from lossbench.question import Run
from lossbench.question.packs import Pack

Step = tuple[int, Tensor, Tensor]
"""A logged step: its number, and both tensors of `Logged`."""

Evaluated = tuple[int, dict[tuple[str, str], Tensor]]
"""Number of a step, and values [K] by split and metric."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a member's training.

    Attributes:
        status: "done", "diverged" or "failed".
        reason: Reason why the status is not "done"; empty for "done".
        stop_step: Number of updates that the member has done.
    """

    status: str
    reason: str
    stop_step: int

    def includes(self, step: int | np.ndarray) -> bool | np.ndarray:
        """Whether a step, or each of several steps, is recorded: False once the member stopped."""
        return self.status == "done" or step < self.stop_step


class Recorder:
    """Observations of one pack in training; training does not depend on any observation.

    Attributes:
        failures: Reasons of failures, by index of the member.
    """

    def __init__(self, pack: Pack, members: Members, *, device: torch.device) -> None:
        self.failures: dict[int, str] = {}
        self._pack, self._members, self._device = pack, members, device_name(device)
        self._steps: list[Step] = []
        self._evals: list[Evaluated] = []
        self._examples = torch.empty(len(members.runs), 0)
        self._saved = (0, 0)

    def fail(self, place: int, reason: str) -> None:
        """Write down why a member failed; only the first reason of a member is kept."""
        self.failures.setdefault(place, reason)

    def steps(self, step: int, logged: Logged) -> None:
        """Write down the logged values of a step."""
        self._steps.append((step, logged.steps, logged.layers))

    def evals(self, step: int, values: Mapping[tuple[str, str], Tensor]) -> None:
        """Write down an evaluation: values [K] by split and metric."""
        self._evals.append((step, dict(values)))

    def examples(self, values: Tensor) -> None:
        """Write down the contribution of each test example after the last update, [K, N]."""
        self._examples = values

    def instruments(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Write down the instruments' values at an update, [K] by metric, as rows of `evals`."""
        if values:
            self._evals.append((step, {("train", name): value for name, value in values.items()}))

    def part(self) -> tuple[list[Step], list[Evaluated]]:
        """Observations since the last call of this method."""
        steps, evals = self._saved
        self._saved = (len(self._steps), len(self._evals))
        return self._steps[steps:], self._evals[evals:]

    def restore(
        self, failures: Mapping[int, str], parts: Iterable[tuple[list[Step], list[Evaluated]]]
    ) -> None:
        """Restore failures, and the observations that were written down before an interruption."""
        self.failures = dict(failures)
        for steps, evals in parts:
            self._steps += steps
            self._evals += evals
        self._saved = (len(self._steps), len(self._evals))

    def tables(
        self, state: State, *, seconds: float, environment: Mapping[str, str]
    ) -> dict[str, pa.Table]:
        """Five tables of the pack's runs, without members that are padding.

        `seconds` is the duration of the whole training, `environment` has further fields for the
        column of that name.
        """
        outcomes = [self._outcome(index, state) for index in range(self._members.recorded_count)]
        runs = [
            self._runs_row(index, outcome, seconds, environment)
            for index, outcome in enumerate(outcomes)
        ]
        # Values of a table as [rows, columns, K].
        steps = torch.stack([values for _, values, _ in self._steps])
        layers = torch.stack([values for _, _, values in self._steps]).flatten(0, 1)
        evals = [(step, *key, value) for step, row in self._evals for key, value in row.items()]
        values = torch.stack([value for *_, value in evals])[:, None]
        run, count = self._members.runs[0], self._examples.shape[1]
        names = [*layer_names([*self._members.parameters])]
        of_steps = {"step": [step for step, _, _ in self._steps]}
        of_layers = {
            "step": [step for step, _, _ in self._steps for _ in names],
            "layer": names * len(self._steps),
        }
        of_evals = {
            "step": [step for step, _, _, _ in evals],
            "split": [split for _, split, _, _ in evals],
            "metric": [metric for _, _, metric, _ in evals],
        }
        of_examples = {
            "step": [run.steps] * count,
            "example": range(count),
            "metric": [records.PRIMARY[run.row.task]] * count,
        }
        examples = self._examples.T[:, None]
        columns = {name: [row[name] for row in runs] for name in runs[0]}
        return {
            "runs": records.table_from("runs", columns),
            "steps": self._table("steps", outcomes, of_steps, STEP_COLUMNS, steps),
            "layers": self._table("layers", outcomes, of_layers, LAYER_COLUMNS, layers),
            "evals": self._table("evals", outcomes, of_evals, ("value",), values),
            "examples": self._table("examples", outcomes, of_examples, ("value",), examples),
        }

    def _outcome(self, index: int, state: State) -> Outcome:
        """Outcome of a member, from the state after training."""
        stop = int(state.stop_step[index])
        if index in self.failures:
            return Outcome("failed", self.failures[index], stop)
        if not state.alive[index]:
            return Outcome("diverged", f"not finite after {stop} updates", stop)
        return Outcome("done", "", stop)

    def _runs_row(
        self, index: int, outcome: Outcome, seconds: float, environment: Mapping[str, str]
    ) -> dict[str, object]:
        """Row of a member in the table `runs`.

        `best_step` is that of the best finite value of the task's metric (`records.PRIMARY`) on
        validation. For the metric that a sweep declares, `statistics` finds the best step.
        """
        run, count = self._pack.runs[index], self._members.recorded_count
        parameters = self._members.parameters.values()
        metric = records.PRIMARY[run.row.task]
        scores = [
            (-records.sign(metric) * float(values["validation", metric][index]), step)
            for step, values in self._evals
            if ("validation", metric) in values and outcome.includes(step)
        ]
        finite = [(score, step) for score, step in scores if np.isfinite(score)]
        return {
            **_run_facts(self._pack, run),
            "status": outcome.status,
            "reason": outcome.reason,
            "stop_step": outcome.stop_step,
            "best_step": min(finite)[1] if finite else 0,
            **self._members.fingerprints[run.seed],
            **self._members.data_columns[run.seed],
            "parameters": sum(of_all[index].numel() for of_all in parameters),
            "shared_sha": run.shared_sha,
            "env_sha": environment_sha(self._device, run.precision),
            "environment": environment_json(environment),
            "device": self._device,
            "precision": run.precision,
            "threads": torch.get_num_threads(),
            "pack_size": count,
            "train_seconds": seconds / count,
        }

    def _table(
        self,
        table: str,
        outcomes: Sequence[Outcome],
        places: Mapping[str, Sequence[int | str]],
        names: Sequence[str],
        values: Tensor,
    ) -> pa.Table:
        """Table of all recorded rows, run by run, without rows after a member's stop.

        Rows of `evals` with NaN are left out. `places` has the step, and the layer, split, metric
        or example, of each row by column; `values` [rows, columns, K] belong to columns `names`.
        """
        count, steps = len(outcomes), np.asarray(places["step"])
        cells = dict(zip(names, values[..., :count].permute(1, 2, 0).cpu().numpy(), strict=True))
        is_recorded = np.empty((count, len(steps)), dtype=bool)
        for place, outcome in enumerate(outcomes):
            is_recorded[place] = outcome.includes(steps)
        if table == "evals":
            is_recorded &= ~np.isnan(cells["value"])
        member, row = np.nonzero(is_recorded)
        keys = [_keys(self._pack, run) for run in self._pack.runs]
        columns = {
            name: pa.array([key[name] for key in keys]).take(pa.array(member)) for name in keys[0]
        }
        columns |= {name: pa.array(column).take(pa.array(row)) for name, column in places.items()}
        return records.table_from(
            table, columns | {name: value[is_recorded] for name, value in cells.items()}
        )


def failed(pack: Pack, reason: str) -> dict[str, pa.Table]:
    """Tables of a pack that failed as a whole: every run has failed, without measurements."""
    rows = [
        {
            **_run_facts(pack, run),
            "status": "failed",
            "reason": reason,
            "corrupted_share": 0.0 if run.corruption.fn == "none" else float("nan"),
            "transition": "",
        }
        for run in pack.runs
    ]
    empty = {table: records.schema(table).empty_table() for table in records.TABLES[1:]}
    names = [column.name for column in records.COLUMNS["runs"]]
    runs = {name: [row.get(name) for row in rows] for name in names}
    return {"runs": records.table_from("runs", runs), **empty}


def _run_facts(pack: Pack, run: Run) -> dict[str, object]:
    """Columns of `runs` that are known before a run trains."""
    return {
        **_keys(pack, run),
        "task": run.row.task,
        "family": run.row.family,
        "config": json.dumps(run.facts, sort_keys=True),
        "source_sha": run.source_sha,
    }


def _keys(pack: Pack, run: Run) -> dict[str, object]:
    """Columns of a run with which every table begins."""
    return {
        "run_id": run.run_id,
        "pack_id": pack.pack_id,
        "data": run.data.name,
        "model": run.model.name,
        "loss": run.loss.name,
        "optimizer": run.optimizer.name,
        "lr": run.lr,
        "seed": run.seed,
    }
