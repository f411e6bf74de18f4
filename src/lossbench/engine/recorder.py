"""Collects what the loop measures, decides who diverged, and lays it out as the four tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lossbench import records
from lossbench.engine.members import Members
from lossbench.pairing import device_name, environment_json, environment_sha
from lossbench.runs.packs import Pack


class Recorder:
    """Records of one pack.

    Attributes:
        alive: [K], what freezes a member that diverged or failed; changed in place.
        stop_step: [K], updates a member has done; changed in place.
        failures: By place, what a member failed of.
    """

    def __init__(self, pack: Pack, members: Members, *, device: torch.device) -> None:
        self.pack = pack
        self.members = members
        self.device = device
        count = len(members.runs)
        self.alive = torch.ones(count, dtype=torch.bool, device=device)
        self.stop_step = torch.zeros(count, dtype=torch.int64, device=device)
        self.failures: dict[int, str] = {}
        self._steps: list[tuple[int, dict[str, Tensor]]] = []
        self._layers: list[tuple[int, dict[str, dict[str, Tensor]]]] = []
        self._evals: list[tuple[int, dict[tuple[str, str], Tensor]]] = []
        self._saved = (0, 0, 0)

    def check(self, clock: Tensor, loss: Tensor) -> None:
        """Freeze members whose loss [K, B] is not finite; the others have done one step more.

        Args:
            clock: Updates done before this one, [1].
            loss: Of each example, [K, B].
        """
        self.alive.logical_and_(loss.isfinite().all(-1))
        torch.where(self.alive, clock + 1, self.stop_step, out=self.stop_step)

    def fail(self, place: int, step: int, reason: str) -> None:
        """Freeze one member for good, with the first reason."""
        self.failures.setdefault(place, f"step {step}: {reason}")
        self.alive[place] = False

    @property
    def state(self) -> dict[str, Any]:
        """What decides who goes on, for a checkpoint."""
        failures = dict(self.failures)
        return {"alive": self.alive, "stop_step": self.stop_step, "failures": failures}

    def part(self) -> tuple[list[Any], list[Any], list[Any]]:
        """What was kept since this was asked the last time: steps, layers, evals."""
        kept = self._steps, self._layers, self._evals
        since, self._saved = self._saved, (len(kept[0]), len(kept[1]), len(kept[2]))
        return tuple(rows[start:] for rows, start in zip(kept, since, strict=True))  # type: ignore[return-value]

    def restore(self, state: Mapping[str, Any], parts: Iterable[Sequence[Any]]) -> None:
        """Go on from `state` and all that was kept before it."""
        self.alive.copy_(state["alive"])
        self.stop_step.copy_(state["stop_step"])
        self.failures = dict(state["failures"])
        for steps, layers, evals in parts:
            self._steps += steps
            self._layers += layers
            self._evals += evals
        self._saved = (len(self._steps), len(self._layers), len(self._evals))

    def steps(
        self, step: int, values: dict[str, Tensor], layers: dict[str, dict[str, Tensor]]
    ) -> None:
        """Keep a logged step: values [K] by column, and by layer and column."""
        self._steps.append((step, values))
        self._layers.append((step, layers))

    def evals(self, step: int, values: dict[tuple[str, str], Tensor]) -> None:
        """Keep an evaluation; members whose outputs are not finite have diverged."""
        self.alive.logical_and_(values.pop(("", "is_finite")))
        self._evals.append((step, values))

    def instruments(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Keep what instruments found at an update: values [K] by metric, as rows of `evals`."""
        if values:
            self._evals.append((step, {("train", name): value for name, value in values.items()}))

    def tables(self, *, seconds: float, noted: Mapping[str, str]) -> dict[str, pa.Table]:
        """The four tables of the pack's runs; padding is left out.

        Args:
            seconds: The whole training took.
            noted: Further facts for the column `environment`.
        """
        return {
            "runs": self._runs_table(seconds, noted),
            "steps": self._table("steps", [(step, {}, values) for step, values in self._steps]),
            "layers": self._table(
                "layers",
                [
                    (step, {"layer": layer}, values)
                    for step, by_layer in self._layers
                    for layer, values in by_layer.items()
                ],
            ),
            "evals": self._table(
                "evals",
                [
                    (step, {"split": split, "metric": metric}, {"value": value})
                    for step, by_metric in self._evals
                    for (split, metric), value in by_metric.items()
                ],
            ),
        }

    def _runs_table(self, seconds: float, noted: Mapping[str, str]) -> pa.Table:
        rows = [self._run_row(place, seconds, noted) for place in range(self.members.recorded)]
        return records.table_from("runs", {name: [row[name] for row in rows] for name in rows[0]})

    def _run_row(self, place: int, seconds: float, noted: Mapping[str, str]) -> dict[str, Any]:
        run, count = self.members.runs[place], self.members.recorded
        status, reason = self._status(place)
        return {
            **_keys(self.pack.pack_id, run),
            "task": run.row.task,
            "family": run.row.family,
            "config": json.dumps(run.facts, sort_keys=True),
            "status": status,
            "reason": reason,
            "stop_step": int(self.stop_step[place]),
            "best_step": self._best_step(place),
            **self.members.fingerprints[run.seed],
            **self.members.corruption[run.seed],
            "source_sha": run.source_sha,
            "shared_sha": run.shared_sha,
            "env_sha": environment_sha(device_name(self.device), run.precision),
            "environment": environment_json(noted),
            "device": device_name(self.device),
            "precision": run.precision,
            "threads": torch.get_num_threads(),
            "pack_size": count,
            "train_seconds": seconds / count,
        }

    def _status(self, place: int) -> tuple[str, str]:
        if place in self.failures:
            return "failed", self.failures[place]
        if not self.alive[place]:
            return "diverged", f"not finite after {int(self.stop_step[place])} updates"
        return "done", ""

    def _best_step(self, place: int) -> int:
        metric = records.PRIMARY[self.members.runs[place].row.task]
        sign = -records.sign(metric)
        is_done = self._status(place)[0] == "done"
        stop = math.inf if is_done else int(self.stop_step[place])
        scores = [
            (sign * float(values["validation", metric][place]), step)
            for step, values in self._evals
            if ("validation", metric) in values and step < stop
        ]
        finite = [(score, step) for score, step in scores if np.isfinite(score)]
        return min(finite)[1] if finite else 0

    def _table(
        self, table: str, rows: list[tuple[int, Mapping[str, str], Mapping[str, Tensor]]]
    ) -> pa.Table:
        """Run-major rows; a frozen member keeps what came before it stopped, NaN cells are none."""
        count = self.members.recorded
        names = list(rows[0][2])
        values = {
            name: torch.stack([found[name][:count] for _, _, found in rows], -1).cpu().numpy()
            for name in names
        }
        steps = np.array([step for step, _, _ in rows])
        kept = np.ones((count, len(rows)), dtype=bool)
        for place in range(count):
            if self._status(place)[0] != "done":
                kept[place] = steps < int(self.stop_step[place])
        if table == "evals":
            kept &= ~np.isnan(values["value"])
        member, row = np.nonzero(kept)
        keys = [_keys(self.pack.pack_id, run) for run in self.members.runs[:count]]
        columns: dict[str, Any] = {
            name: pa.array([key[name] for key in keys]).take(pa.array(member)) for name in keys[0]
        }
        columns["step"] = steps[row]
        for label in rows[0][1]:
            columns[label] = pa.array([labels[label] for _, labels, _ in rows]).take(pa.array(row))
        return records.table_from(table, columns | {name: values[name][kept] for name in names})


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
