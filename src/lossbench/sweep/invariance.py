"""Does a member of a pack depend on its pack-mates on this machine? Measured, not assumed.

PyTorch promises no equal bits between a batched product and its slices. On the machines that were
measured there is no difference for two members or more; this measures the one at hand, once for
each sweep, machine and version.
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import lossbench
from lossbench import engine, store
from lossbench.config import to_run
from lossbench.engine import train
from lossbench.pairing import device_name, environment_sha
from lossbench.runs import ENGINE_SCHEMA, Run, packs
from lossbench.sweep.leases import PATIENCE
from lossbench.sweep.preflight import splits_of

STEPS = 7
"""Updates of a run: every third is logged, and between those others may be made in another way."""

LOSSES = {"regression": ("mse", "huber", "quartic"), "classification": ("cross_entropy", "brier")}
DATA = {"regression": "noisy_linear", "classification": "gaussian_mixture"}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "stack": {},
    "vmap": {"normalisation": "layer"},
}
"""By strategy, what makes a perceptron compute by it; a loop's members meet nowhere."""

MEASURED = {
    "steps": ("loss_value", "gradient_norm", "output_gradient_norm", "error_norm", "update_ratio"),
    "layers": ("gradient_norm", "weight_norm", "update_ratio"),
    "evals": ("value",),
}


@dataclass(frozen=True)
class Invariance:
    """What was found.

    Attributes:
        device: Where.
        compared: How many values of the records were compared.
        differing: How many of them were not the same bits.
        worst: Largest difference relative to the value.
    """

    device: str
    compared: int
    differing: int
    worst: float

    @property
    def mode(self) -> str:
        """What the records say of it."""
        return "bitwise" if not self.differing else f"within {self.worst:.0e}"


def known(folder: Path, device: str, precision: str, padding: int) -> Invariance:
    """What was found on this machine, measured unless the sweep's folder has it.

    Args:
        folder: Of the sweep.
        device: "cpu" or "cuda".
        precision: "float32" or "float64".
        padding: Least number of members, see `engine.train`.
    """
    path = folder / f"machine-{_machine(device, precision, padding)}.json"
    try:
        facts = store.read_sealed(path)
        return Invariance(**facts)
    except (store.StoreError, TypeError):  # not there, or not whole
        found = invariance(device, precision, padding)
    with store.lock(folder / store.LOCK, patience=PATIENCE):
        store.write(path, store.sealed(asdict(found)))
    return found


def _machine(device: str, precision: str, padding: int) -> str:
    """16 hex digits of everything that what is found depends on."""
    environment = environment_sha(device_name(torch.device(device)), precision)
    facts = (environment, padding, ENGINE_SCHEMA, lossbench.__version__, _processor(), _code())
    return store.sha256(repr(facts).encode())[:16]


@functools.cache
def _processor() -> str:
    """The processor's name: libraries choose their kernels by it, not by its instructions alone."""
    try:
        told = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        told = None
    return told[1] if told else platform.processor()


@functools.cache
def _code() -> str:
    """Hash of the engine as it was loaded."""
    files = sorted(Path(engine.__file__).parent.rglob("*.py"))
    return store.sha256(b"".join(file.read_bytes() for file in files))


@functools.cache
def invariance(device: str, precision: str, padding: int, strategy: str = "stack") -> Invariance:
    """Train the same runs in several packs, and compare their records.

    Args:
        device: "cpu" or "cuda".
        precision: "float32" or "float64".
        padding: Least number of members, see `engine.train`.
        strategy: One of `MODELS`.
    """
    compared, differing, worst = 0, 0, 0.0
    for task in LOSSES:
        runs = [
            _run(task, loss, seed, precision, MODELS[strategy])
            for loss in LOSSES[task]
            for seed in (0, 1)
        ]
        whole = _records([runs], device, padding)
        for division in _divisions(runs):
            found = _records(division, device, padding)
            for key, values in whole.items():
                mine, theirs = found[key], values
                same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
                off = np.abs(mine - theirs)[~same] / np.maximum(np.abs(theirs[~same]), 1e-30)
                compared += len(same)
                differing += int((~same).sum())
                worst = max([worst, *off.tolist()])
    return Invariance(device, compared, differing, worst)


def _divisions(runs: Sequence[Run]) -> Iterator[list[list[Run]]]:
    """The same runs alone, in a pair, and in larger packs of unequal size and other order."""
    yield [[runs[0]], [*runs[1:]]]
    yield [[runs[-1], runs[0]], [*runs[-2:0:-1]]]
    yield [[*runs[start::2]] for start in (0, 1)]


def _records(
    division: Sequence[Sequence[Run]], device: str, padding: int
) -> dict[tuple[str, str, str], np.ndarray]:
    """By run, table and column all values, in the order of their steps."""
    found = {}
    for runs in division:
        (pack,) = packs.group(runs, pack_size=len(runs))
        splits = {run.seed: splits_of(run) for run in runs}
        tables = train(
            pack,
            splits,
            device=torch.device(device),
            padding=padding,
            flush=lambda step, snapshot: None,
        )
        for table, columns in MEASURED.items():
            found |= dict(_by_run(table, tables[table], columns))
    return found


def _by_run(
    name: str, table: pa.Table, columns: Sequence[str]
) -> Iterator[tuple[tuple[str, str, str], np.ndarray]]:
    run_ids = table["run_id"].to_numpy(zero_copy_only=False)
    for column in columns:
        values = table[column].to_numpy(zero_copy_only=False).astype(float)
        for run_id in dict.fromkeys(run_ids):
            yield (run_id, name, column), values[run_ids == run_id]


def _run(task: str, loss: str, seed: int, precision: str, more: Mapping[str, Any]) -> Run:
    def part(name: str, **params: Any) -> Mapping[str, Any]:
        return {"name": name, "fn": name, "params": params}

    data = part(DATA[task], examples=200)
    return to_run(
        {
            "data": {
                **data,
                "targets": "sampled",
                "corruption": {"name": "none", "params": {}},
                "augmentation": {"name": "none", "params": {}},
            },
            "model": part("mlp", widths=[16, 16], activation="relu", **more),
            "loss": part(loss),
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0}
            | {"params": {}},
            "schedule": {"name": "constant", "params": {}},
            "engine": {"name": "cpu", "device": "cpu", "precision": precision, "pack_size": 8}
            | {"threads": 1, "commit_every": 1e9},
            "init": {"from": "random", "output_scale": 1.0},
            "name": "machine",
            "condition": "as_given",
            "signal": "own",
            "instruments": [],
            "seed": seed,
            "steps": STEPS,
            "batch_size": 16,
            "log_every": 3,
            "eval_every": 6,
            "extensions": [],
        }
    )
