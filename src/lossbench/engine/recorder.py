"""Collects what is observed of a pack, and lays it out as the four tables."""

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
from lossbench.pairing import device_name, environment_json, environment_sha
from lossbench.runs.packs import Pack

Step = tuple[int, tuple[tuple[str, str], ...], Tensor]
"""A logged step: its number, columns and values, see `Logged`."""

Evaluated = tuple[int, dict[tuple[str, str], Tensor]]
"""Number of a step, and values [K] by split and metric."""


@dataclass(frozen=True)
class Outcome:
    """How a member ended.

    Attributes:
        status: "done", "diverged" or "failed".
        reason: Why it is not done; empty if it is.
        stop_step: Updates it has done.
    """

    status: str
    reason: str
    stop_step: int

    def includes(self, step: Any) -> Any:
        """Whether what was observed at a step, or steps, is recorded: not from its stop on."""
        return self.status == "done" or step < self.stop_step


class Recorder:
    """What is observed of one pack while it trains. Training needs nothing of it.

    Attributes:
        failures: By place, what a member failed of.
    """

    def __init__(self, pack: Pack, members: Members, *, device: torch.device) -> None:
        self.failures: dict[int, str] = {}
        self._pack, self._members, self._device = pack, members, device
        self._steps: list[Step] = []
        self._evals: list[Evaluated] = []
        self._saved = (0, 0)

    def fail(self, place: int, reason: str) -> None:
        """Write down why a member failed; its first reason stays."""
        self.failures.setdefault(place, reason)

    def steps(self, step: int, logged: Logged) -> None:
        """Keep what was said of a logged step."""
        self._steps.append((step, logged.columns, logged.values))

    def evals(self, step: int, values: Mapping[tuple[str, str], Tensor]) -> None:
        """Keep an evaluation: values [K] by split and metric."""
        self._evals.append((step, dict(values)))

    def instruments(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Keep what instruments measured at an update: values [K] by metric, as rows of `evals`."""
        if values:
            self._evals.append((step, {("train", name): value for name, value in values.items()}))

    def part(self) -> tuple[list[Step], list[Evaluated]]:
        """What was kept since this was called the last time."""
        steps, evals = self._saved
        self._saved = (len(self._steps), len(self._evals))
        return self._steps[steps:], self._evals[evals:]

    def restore(self, failures: Mapping[int, str], parts: Iterable[Any]) -> None:
        """Go on from failures, and all that was kept before."""
        self.failures = dict(failures)
        for steps, evals in parts:
            self._steps += steps
            self._evals += evals
        self._saved = (len(self._steps), len(self._evals))

    def tables(
        self, state: State, *, seconds: float, noted: Mapping[str, str]
    ) -> dict[str, pa.Table]:
        """The four tables of the pack's runs; padding is left out.

        Args:
            state: After training: who lived, and until when.
            seconds: The whole training took.
            noted: Further facts for the column `environment`.
        """
        outcomes = [self._outcome(state, place) for place in range(self._members.recorded_count)]
        steps, layers = [], []
        for step, columns, values in self._steps:
            by_layer: dict[str, dict[str, Tensor]] = {}
            for (layer, name), value in zip(columns, values, strict=True):
                by_layer.setdefault(layer, {})[name] = value
            steps.append((step, {}, by_layer.pop("")))
            layers += [(step, {"layer": layer}, row) for layer, row in by_layer.items()]
        evals = [
            (step, {"split": split, "metric": metric}, {"value": value})
            for step, values in self._evals
            for (split, metric), value in values.items()
        ]
        rows = [
            self._run_row(place, outcome, seconds, noted) for place, outcome in enumerate(outcomes)
        ]
        runs = {name: [row[name] for row in rows] for name in rows[0]}
        return {
            "runs": records.table_from("runs", runs),
            "steps": self._table("steps", steps, outcomes),
            "layers": self._table("layers", layers, outcomes),
            "evals": self._table("evals", evals, outcomes),
        }

    def _outcome(self, state: State, place: int) -> Outcome:
        stop = int(state.stop_step[place])
        if place in self.failures:
            return Outcome("failed", self.failures[place], stop)
        if not state.alive[place]:
            return Outcome("diverged", f"not finite after {stop} updates", stop)
        return Outcome("done", "", stop)

    def _run_row(
        self, place: int, outcome: Outcome, seconds: float, noted: Mapping[str, str]
    ) -> dict[str, Any]:
        run, count = self._members.runs[place], self._members.recorded_count
        device = device_name(self._device)
        return {
            **_keys(self._pack.pack_id, run),
            "task": run.row.task,
            "family": run.row.family,
            "config": json.dumps(run.facts, sort_keys=True),
            "status": outcome.status,
            "reason": outcome.reason,
            "stop_step": outcome.stop_step,
            "best_step": self._best_step(place, outcome),
            **self._members.fingerprints[run.seed],
            **self._members.corruption[run.seed],
            "source_sha": run.source_sha,
            "shared_sha": run.shared_sha,
            "env_sha": environment_sha(device, run.precision),
            "environment": environment_json(noted),
            "device": device,
            "precision": run.precision,
            "threads": torch.get_num_threads(),
            "pack_size": count,
            "train_seconds": seconds / count,
        }

    def _best_step(self, place: int, outcome: Outcome) -> int:
        """The evaluation with the best primary metric on validation; 0 where none is finite."""
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
        rows: Sequence[tuple[int, Mapping[str, str], Mapping[str, Tensor]]],
        outcomes: Sequence[Outcome],
    ) -> pa.Table:
        """Run-major rows; a frozen member keeps what came before it stopped, NaN cells are none."""
        count = len(outcomes)
        values = {
            name: torch.stack([row[name][:count] for _, _, row in rows], -1).cpu().numpy()
            for name in rows[0][2]
        }
        steps = np.array([step for step, _, _ in rows])
        is_kept = np.empty((count, len(rows)), dtype=bool)
        for place, outcome in enumerate(outcomes):
            is_kept[place] = outcome.includes(steps)
        if table == "evals":
            is_kept &= ~np.isnan(values["value"])
        member, row = np.nonzero(is_kept)
        keys = [_keys(self._pack.pack_id, run) for run in self._members.runs[:count]]
        columns: dict[str, Any] = {
            name: pa.array([key[name] for key in keys]).take(pa.array(member)) for name in keys[0]
        }
        columns["step"] = steps[row]
        for label in rows[0][1]:
            columns[label] = pa.array([labels[label] for _, labels, _ in rows]).take(pa.array(row))
        cells = {name: value[is_kept] for name, value in values.items()}
        return records.table_from(table, columns | cells)


def failed(pack: Pack, reason: str) -> dict[str, pa.Table]:
    """The tables of a pack that broke as a whole: every run failed, nothing measured."""
    rows = [
        {
            **_keys(pack.pack_id, run),
            "task": run.row.task,
            "family": run.row.family,
            "config": json.dumps(run.facts, sort_keys=True),
            "status": "failed",
            "reason": reason,
            "corrupted_share": 0.0 if run.corruption.fn == "none" else float("nan"),
            "transition": "",
            "source_sha": run.source_sha,
        }
        for run in pack.runs
    ]
    columns = [column.name for column in records.COLUMNS["runs"]]
    runs = records.table_from("runs", {name: [row.get(name) for row in rows] for name in columns})
    return {"runs": runs} | {
        table: records.schema(table).empty_table() for table in ("steps", "layers", "evals")
    }


def _keys(pack_id: str, run: Any) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "pack_id": pack_id,
        "stage": run.stage,
        "condition": run.condition,
        "data": run.data.name,
        "model": run.model.name,
        "loss": run.loss.name,
        "optimizer": run.optimizer.name,
        "lr": run.lr,
        "seed": run.seed,
    }
