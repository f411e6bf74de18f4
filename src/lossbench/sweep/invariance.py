"""Measures whether the results of a run depend on the other runs of its pack on this machine.

PyTorch does not promise equal bits of a batched product and its slices. On the machines measured so
far there is no difference if a pack has two members or more; this module measures the present
machine, once for each sweep, machine and version.
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import lossbench
from lossbench import engine, store
from lossbench.engine import Machine, train
from lossbench.fingerprints import device_name, environment_sha
from lossbench.question import ENGINE_SCHEMA, Run, checked, packs, part
from lossbench.sweep.inventory import LOCK_PATIENCE
from lossbench.sweep.preflight import splits_of

STEPS = 7
"""Updates of a run; every third is logged, and updates between may use another code path."""

LOSSES = {"regression": ("mse", "huber", "quartic"), "classification": ("cross_entropy", "brier")}
DATA = {"regression": "noisy_linear", "classification": "gaussian_mixture"}
MODELS: Mapping[str, Mapping[str, str]] = {"stack": {}, "vmap": {"normalisation": "layer"}}
"""Model parameters that select a strategy, by strategy; in a loop, members cannot interact."""

MEASURED = {
    "steps": ("loss_value", "gradient_norm", "output_gradient_norm", "error_norm", "update_ratio"),
    "layers": ("gradient_norm", "weight_norm", "update_ratio"),
    "evals": ("value",),
}


@dataclass(frozen=True)
class Invariance:
    """Differences between the records of the same runs in different packs.

    Attributes:
        device: "cpu" or "cuda".
        compared: Number of values of the records that were compared.
        differing: Number of these values whose bits differ.
        worst: Largest difference relative to the value.
    """

    device: str
    compared: int
    differing: int
    worst: float

    @property
    def mode(self) -> str:
        """Invariance as runs record it: "bitwise", or "within" the largest relative difference."""
        return "bitwise" if not self.differing else f"within {self.worst:.0e}"


def recorded_invariance(folder: Path, device: str, precision: str, padding: int) -> Invariance:
    """Invariance of this machine, read from the sweep's folder, or else measured and recorded."""
    # All facts that the invariance depends on.
    environment = environment_sha(device_name(torch.device(device)), precision)
    facts = (environment, padding, ENGINE_SCHEMA, lossbench.__version__, _processor(), _code())
    path = folder / f"machine-{store.sha256(repr(facts).encode())[:16]}.json"
    try:
        return Invariance(**store.read_sealed(path))
    except (store.StoreError, TypeError):  # not there, or not whole
        measured = invariance(device, precision, padding)
    with store.lock(folder / store.LOCK, patience=LOCK_PATIENCE):
        store.write(path, store.sealed(asdict(measured)))
    return measured


@functools.cache
def _processor() -> str:
    """Name of the processor model; libraries choose kernels by model, not only by instructions."""
    try:
        line = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        line = None
    return line[1] if line else platform.processor()


@functools.cache
def _code() -> str:
    """Hash of the source files of the engine."""
    files = sorted(Path(engine.__file__).parent.rglob("*.py"))
    return store.sha256(b"".join(file.read_bytes() for file in files))


@functools.cache
def invariance(device: str, precision: str, padding: int, strategy: str = "stack") -> Invariance:
    """Train the same runs in several packs, and compare their records.

    The padding is the least number of members, see `engine.Machine`; the strategy one of `MODELS`.
    """
    compared, differing, worst = 0, 0, 0.0
    machine = Machine(torch.device(device), padding)
    for task in LOSSES:
        unchecked = [
            Run(
                data=part(DATA[task], examples=200),
                model=part("mlp", widths=[16, 16], activation="relu", **MODELS[strategy]),
                loss=part(loss),
                lr=0.05,
                momentum=0.9,
                seed=seed,
                steps=STEPS,
                batch_size=16,
                log_every=3,
                eval_every=6,
                precision=precision,
            )
            for loss in LOSSES[task]
            for seed in (0, 1)
        ]
        runs = [checked(run) for run in unchecked]
        whole = _records([runs], machine)
        # Alone, in a pair, and in larger packs of unequal size and in another order.
        for division in (
            [runs[:1], runs[1:]],
            [[runs[-1], runs[0]], runs[-2:0:-1]],
            [runs[0::2], runs[1::2]],
        ):
            divided = _records(division, machine)
            for key, expected in whole.items():
                values = divided[key]
                same = (values == expected) | (np.isnan(values) & np.isnan(expected))
                off = np.abs(values - expected)[~same] / np.maximum(np.abs(expected[~same]), 1e-30)
                compared += len(same)
                differing += int((~same).sum())
                worst = max([worst, *off.tolist()])
    return Invariance(device, compared, differing, worst)


def _records(
    division: Sequence[Sequence[Run]], machine: Machine
) -> dict[tuple[str, str, str], np.ndarray]:
    """Train runs in the given packs; returns recorded values by run, table and column."""
    values = {}
    for runs in division:
        (pack,) = packs.group(runs, pack_size=len(runs))
        splits = {run.seed: splits_of(run) for run in runs}
        tables = train(pack, splits, machine)
        for name, columns in MEASURED.items():
            frame = tables[name].to_pandas()
            for run_id, rows in frame.groupby("run_id"):
                for column in columns:
                    values[str(run_id), name, column] = rows[column].to_numpy(dtype=float)
    return values
