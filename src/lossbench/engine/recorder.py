"""Recorder that collects the observations of a pack and makes the five tables of records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

    def includes(self, step: Any) -> Any:
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

    def restore(self, failures: Mapping[int, str], parts: Iterable[Any]) -> None:
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

        Args:
            state: State after training, with the last step of each member.
            seconds: Duration of the whole training.
            environment: Further fields for the column `environment`.
        """
        outcomes = [self._outcome(index, state) for index in range(self._members.recorded_count)]
        runs = [
            self._runs_row(index, outcome, seconds, environment)
            for index, outcome in enumerate(outcomes)
        ]
        # Values of a table as [rows, columns, K].
        steps = torch.stack([values for _, values, _ in self._steps])
        layers = torch.stack([values for _, _, values in self._steps]).flatten(0, 1)
        evals = [(step, key, value) for step, row in self._evals for key, value in row.items()]
        values = torch.stack([value for _, _, value in evals])[:, None]
        run, count_of_examples = self._members.runs[0], self._examples.shape[1]
        names = [*layer_names([*self._members.parameters])]
        places = {
            "steps": {"step": [step for step, _, _ in self._steps]},
            "layers": {
                "step": [step for step, _, _ in self._steps for _ in names],
                "layer": names * len(self._steps),
            },
            "evals": {
                "step": [step for step, _, _ in evals],
                "split": [split for _, (split, _), _ in evals],
                "metric": [metric for _, (_, metric), _ in evals],
            },
            "examples": {
                "step": [run.steps] * count_of_examples,
                "example": range(count_of_examples),
                "metric": [records.PRIMARY[run.row.task]] * count_of_examples,
            },
        }
        return {
            "runs": records.table_from(
                "runs", {name: [row[name] for row in runs] for name in runs[0]}
            ),
            "steps": self._table("steps", outcomes, places["steps"], STEP_COLUMNS, steps),
            "layers": self._table("layers", outcomes, places["layers"], LAYER_COLUMNS, layers),
            "evals": self._table("evals", outcomes, places["evals"], ("value",), values),
            "examples": self._table(
                "examples", outcomes, places["examples"], ("value",), self._examples.T[:, None]
            ),
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
        """Row of a member in the table `runs`."""
        run, count = self._pack.runs[index], self._members.recorded_count
        parameters = self._members.parameters.values()
        return {
            **_run_facts(self._pack, run),
            "status": outcome.status,
            "reason": outcome.reason,
            "stop_step": outcome.stop_step,
            "best_step": self._best_step(index, outcome),
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

    def _best_step(self, place: int, outcome: Outcome) -> int:
        """Step of the evaluation with the best primary metric on validation; 0 if none is finite.

        The metric is that of the task in `records.PRIMARY`. For the metric that a sweep declares,
        `statistics` finds the best step in the table `evals`.
        """
        metric = records.PRIMARY[self._members.runs[place].row.task]
        sign = -records.sign(metric)
        scores = [
            (sign * float(values["validation", metric][place]), step)
            for step, values in self._evals
            if ("validation", metric) in values and outcome.includes(step)
        ]
        finite = [(score, step) for score, step in scores if np.isfinite(score)]
        return min(finite)[1] if finite else 0

    def _table(
        self,
        table: str,
        outcomes: Sequence[Outcome],
        places: Mapping[str, Sequence[Any]],
        names: Sequence[str],
        values: Tensor,
    ) -> pa.Table:
        """Table of all recorded rows, run by run; rows of `evals` with NaN are left out.

        Args:
            table: Name of the table.
            outcomes: Outcomes of the recorded members; rows after a member's stop are left out.
            places: Step, and layer, split, metric or example of each row, by column.
            names: Names of the columns with values.
            values: Values, [rows, columns, K].
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


def _run_facts(pack: Pack, run: Run) -> dict[str, Any]:
    """Columns of `runs` that are known before a run trains."""
    return {
        **_keys(pack, run),
        "task": run.row.task,
        "family": run.row.family,
        "config": json.dumps(run.facts, sort_keys=True),
        "source_sha": run.source_sha,
    }


def _keys(pack: Pack, run: Run) -> dict[str, Any]:
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
