"""A sweep directory made of invented numbers, written the way the launcher writes a real one."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from plans import write_plan

from lossbench import records, store
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve

REGRESSION = {"mse": "power", "mae": "power", "quartic": "power", "huber": "monotone"}
CLASSIFICATION = {"cross_entropy": "proper", "brier": "proper", "mse_logits": "matching"}
METRICS = {
    "regression": ("rmse", "mae", "median_ae", "r2"),
    "classification": ("accuracy", "brier", "nll", "ece", "nll_raw"),
}
HOSTILE = ["<script>alert(1)</script>", r"$\frac$&\"'", "_x", "=cmd|x", "y" * 300]
"""Names that a page, a table or a path might obey."""
SMALL_RATES = (0.01, 0.1, 1.0)
SMALL = {
    ("digits", "mlp"): CLASSIFICATION,
    ("diabetes", "mlp"): REGRESSION,
}


@dataclass(frozen=True)
class Fake:
    """One invented run."""

    data: str
    model: str
    loss: str
    family: str
    task: str
    lr: float
    seed: int
    status: str = "done"
    params: tuple[tuple[str, Any], ...] = ()
    steps: int = 500
    env: str = "cpu"
    rate: float | None = None
    signal: str = "own"

    @property
    def noise(self) -> dict[str, Any]:
        name = "none" if self.rate is None else "symmetric"
        return {
            "name": name,
            "fn": name,
            "params": {} if self.rate is None else {"rate": self.rate},
        }

    @cached_property
    def config(self) -> dict[str, Any]:
        return {
            "data": {"name": self.data, "fn": self.data, "params": {}},
            "corruption": self.noise,
            "model": {"name": self.model, "fn": self.model, "params": {"widths": [64, 64]}},
            "loss": {"name": self.loss, "fn": self.loss, "params": dict(self.params)},
            "optimizer": {"name": "sgd", "fn": "sgd", "params": {}},
            "schedule": {"name": "constant", "fn": "constant", "params": {}},
            "lr": self.lr,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "output_scale": 1.0,
            "seed": self.seed,
            "steps": self.steps,
            "batch_size": 64,
            "log_every": 10,
            "eval_every": 100,
            "precision": "float32",
            "source_sha": _sha(self.loss),
            "signal": self.signal,
        }

    @cached_property
    def run_id(self) -> str:
        facts = {key: value for key, value in self.config.items() if value != "own"}
        return _sha(json.dumps(facts, sort_keys=True))[:16]

    @cached_property
    def keys(self) -> dict[str, Any]:
        """What every row of every table begins with."""
        names = ("run_id", "data", "model", "loss", "lr", "seed")
        return {name: getattr(self, name) for name in names} | {"optimizer": "sgd"}

    @cached_property
    def stop_step(self) -> int:
        return {"done": self.steps, "failed": 0}.get(self.status, 60)

    @cached_property
    def level(self) -> float:
        """What the error settles at, by loss and distance of the rate from the best."""
        worth = {"mse": 0.5, "mae": 0.53, "quartic": 0.62, "huber": 0.505}
        worth |= {"cross_entropy": 0.04, "brier": 0.042, "mse_logits": 0.045}
        base = worth.get(self.loss, 0.5)
        return base * (1 + 0.15 * abs(np.log10(self.lr) + 1.2)) + 0.2 * (self.rate or 0.0)

    @property
    def draw(self) -> np.random.Generator:
        """Noise of the run itself, from its beginning."""
        return np.random.default_rng(int(self.run_id[:8], 16))

    @cached_property
    def block(self) -> float:
        """Noise that runs of one seed share."""
        return np.random.default_rng(self.seed).normal()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def plan_runs(
    tasks: Mapping[tuple[str, str], Mapping[str, str]] = SMALL,
    *,
    rates: Sequence[float] = SMALL_RATES,
    seeds: int = 8,
) -> list[Fake]:
    """Runs of an experiment: every rate on every seed; the quartic diverges at large ones."""
    runs = []
    for (data, model), losses in tasks.items():
        for loss, family in losses.items():
            task = "classification" if data == "digits" else "regression"
            shared = {"data": data, "model": model, "loss": loss, "family": family, "task": task}
            for lr, seed in itertools.product(rates, range(seeds)):
                status = "diverged" if loss == "quartic" and lr > 0.05 + 0.2 * seed else "done"
                runs.append(Fake(lr=lr, seed=seed, status=status, **shared))
    return runs


def own(
    losses: Mapping[str, str] = CLASSIFICATION,
    *,
    seeds: int = 3,
    rates: Sequence[float] = (0.1,),
    status: str = "done",
    data: str = "digits",
) -> list[Fake]:
    """An own sweep, to be built without a declaration."""
    task = "classification" if data == "digits" else "regression"
    return [
        Fake(data, "mlp", loss, family, task, lr, seed, status)
        for loss, family in losses.items()
        for lr in rates
        for seed in range(seeds)
    ]


def with_status(runs: Sequence[Fake], status: str, *, count: int, **where: Any) -> list[Fake]:
    """The runs with the first `count` that match getting another status."""
    found = [run for run in runs if all(getattr(run, k) == v for k, v in where.items())][:count]
    return [replace(run, status=status) if run in found else run for run in runs]


def with_rate(runs: Sequence[Fake], rate: float) -> list[Fake]:
    """The runs on data whose labels are wrong at a rate."""
    return [replace(run, rate=rate) for run in runs]


def with_signal(runs: Sequence[Fake], signal: str) -> list[Fake]:
    """The runs with their updates driven by something else."""
    return [replace(run, signal=signal) for run in runs]


def _declaration(losses: list[str]) -> dict[str, Any]:
    return {
        "primary": {"regression": "rmse", "classification": "accuracy"},
        "endpoint": "last",
        "reference": {"regression": "mse", "classification": "cross_entropy"},
        "margin": {"regression": 0.02, "classification": 0.01},
        "family": "task",
        "confidence": 0.95,
        "looks": [8],
        "seeds": [*range(8)],
        "targets": {"regression": 0.7, "classification": 0.9},
        "losses": losses,
    }


def build(
    folder: Path, runs: Sequence[Fake], *, declaration: bool = True, curves: bool = True
) -> Path:
    """Write the runs as a sweep; those with status "missing" are planned and nothing more."""
    kept = [run for run in runs if run.status != "missing"]
    for pack_id, members in itertools.groupby(
        sorted(kept, key=lambda run: run.data), key=lambda run: _sha(run.data)[:12]
    ):
        _write_pack(folder / "packs" / pack_id, pack_id, list(members))
    declared = _declaration(sorted({run.loss for run in runs}))
    digest = store.sha256(store.to_json(declared))
    facts = ("data", "model", "loss", "lr", "seed", "task", "family")
    planned = [
        {name: getattr(run, name) for name in ("run_id", *facts)}
        | {"optimizer": "sgd", "declaration": digest}
        | {
            "context": _sha(f"{run.data}{run.model}{run.steps}{run.rate}")[:16],
            "params": dict(run.params),
        }
        for run in runs
    ]
    losses = {
        run.loss: {
            "fn": run.loss,
            "params": dict(run.params),
            "inverse_link": "identity",
            "family": run.family,
            "task": run.task,
            "formula": "e²/2",
            "source": "Gauss 1809",
            "claims": ["convex", *(["elicits_mean"] if run.loss in ("mse", "quartic") else [])],
        }
        for run in runs
    }
    plan = {
        "schema": 1,
        "commands": [f"lossbench experiment={folder.name}"],
        "losses": losses,
        "data": {run.data: {"task": run.task, "source": "invented"} for run in runs},
        "declarations": [{"sha256": digest, "declared": declared, "runs_before": 0}] * declaration,
    }
    if curves:
        drawn = _curves(losses)
        plan["curves_sha"] = store.sha256(drawn)
        store.write(records.path_of(folder, "curves", plan["curves_sha"]), drawn)
    write_plan(folder, plan, planned)
    store.write(folder / "machine-0.json", store.sealed({"device": "cpu"}))
    return folder


def _curves(losses: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Curves as a sweep writes them; a loss that is in no catalog has those of `mse` or `brier`."""
    stand_in = {"regression": LOSSES["mse"], "classification": LOSSES["brier"]}
    frames = [
        pd.DataFrame(curve(LOSSES.get(name, stand_in[facts["task"]]))).assign(
            loss=name, task=facts["task"], family=facts["family"]
        )
        for name, facts in losses.items()
    ]
    return records.encode(pa.Table.from_pandas(pd.concat(frames), preserve_index=False))


def _write_pack(folder: Path, pack_id: str, members: Sequence[Fake]) -> None:
    tables = {
        "runs": [_run(run) for run in members],
        "steps": [row for run in members for row in _steps(run)],
        "layers": [row for run in members for row in _layers(run)],
        "evals": [row for run in members for row in [*_evals(run), *_cross(run)]],
        "examples": [],
    }
    files = {}
    for name, rows in tables.items():
        names = [column.name for column in records.COLUMNS[name]]
        columns = {key: [row.get(key, pack_id) for row in rows] for key in names}
        files[f"{name}.parquet"] = records.encode(records.table_from(name, columns))
    status = {run.run_id: {"status": run.status, "reason": ""} for run in members}
    facts = {"schema": records.SCHEMA, "members": status, "is_finished": True}
    store.commit(folder, files, facts)


def _run(run: Fake) -> dict[str, Any]:
    reasons = {"diverged": "loss became inf", "failed": "MemoryError", "done": ""}
    return run.keys | {
        "task": run.task,
        "family": run.family,
        "config": json.dumps(run.config),
        "status": run.status,
        "reason": reasons[run.status],
        "stop_step": run.stop_step,
        "best_step": run.stop_step,
        "init_sha": _sha(f"init {run.data} {run.seed}"),
        "batch_sha": _sha(f"batch {run.data} {run.seed}"),
        "source_sha": _sha(run.loss),
        "data_sha": _sha(f"data {run.data} {run.seed}"),
        "target_scale": 1.0,
        "corrupted_share": run.rate or 0.0,
        "transition": "",
        "train_examples": 283,
        "validation_examples": 70,
        "test_examples": 89,
        "parameters": 4929,
        "shared_sha": _sha("shared"),
        "env_sha": _sha(run.env),
        "environment": json.dumps({"lossbench": "0", "python": "3.11.7", "torch": "2.13.0"}),
        "device": "Intel Xeon",
        "precision": "float32",
        "threads": 1,
        "pack_size": 64,
        "train_seconds": 0.25,
    }


def _steps(run: Fake) -> list[dict[str, Any]]:
    steps = np.arange(0, run.stop_step + 1, 20)
    fall = np.exp(-steps / 80) + 0.05
    noise = np.exp(0.1 * run.draw.normal(size=(4, len(steps))) + 0.1 * run.block)
    cosine = {"mse": 1.0, "cross_entropy": 1.0, "mse_logits": 1.0}.get(run.loss, 0.8)
    return [
        run.keys
        | {
            "step": int(step),
            "loss_value": fall[i] * noise[0, i],
            "gradient_norm": 3 * fall[i] * noise[1, i],
            "error_norm": fall[i] * noise[3, i],
            "output_gradient_norm": (0.9 if run.loss == "mae" else fall[i]) * noise[2, i],
            "cosine": min(1.0, cosine * noise[2, i] ** 0.2) if cosine < 1 else 1.0,
            "saturated_share": 0.1,
            "update_ratio": 0.01 * fall[i],
        }
        for i, step in enumerate(steps)
    ]


def _evals(run: Fake) -> list[dict[str, Any]]:
    rows = []
    splits = ("train", "validation", "test")
    draw = run.draw
    for step in range(0, run.stop_step + 1 if run.status == "done" else 0, 100):
        start = 1.0 if run.task == "regression" else 0.9
        error = run.level + (start - run.level) * np.exp(-step / 90)
        for split, metric in itertools.product(splits, METRICS[run.task]):
            value = error * np.exp(0.02 * run.block + 0.008 * draw.normal())
            value = 1 - value if metric in ("accuracy", "r2") else value
            value = np.nan if metric == "nll_raw" and run.loss == "mse_logits" else value
            names = [metric]
            if run.rate is not None and (split, metric) == ("validation", "accuracy"):
                names.append("accuracy_clean")
            rows += [
                run.keys | {"step": step, "split": split, "metric": name, "value": value}
                for name in names
            ]
    return rows


def _layers(run: Fake) -> list[dict[str, Any]]:
    return [
        run.keys
        | {"step": row["step"], "layer": layer, "gradient_norm": share * row["gradient_norm"]}
        | {"weight_norm": 5.0, "update_ratio": row["update_ratio"]}
        for row in _steps(run)
        for layer, share in (("0", 0.8), ("2", 0.6))
    ]


def _cross(run: Fake) -> list[dict[str, Any]]:
    """The model judged by the losses of its task, after the last step."""
    if run.status != "done":
        return []
    others = CLASSIFICATION if run.task == "classification" else REGRESSION
    return [
        run.keys
        | {"step": run.steps, "split": "test", "metric": f"loss:{other}"}
        | {"value": run.level * (1.0 if other == run.loss else 1.2)}
        for other in others
    ]
