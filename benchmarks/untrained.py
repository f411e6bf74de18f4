"""Training that is not done: a pack has its tables at once, for `scale.py`.

As an extension of a command (`extensions=[untrained]`) it takes the place of `train` in each of its
processes. One run of each loss is really trained, once; the others get its rows, under their own
names, rates and seeds, with values that depend on the rate and the seed. All else is what a
command does: packs are planned, leased, committed and read as ever.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from lossbench.engine import Machine
from lossbench.question import varied
from lossbench.question.packs import Pack, structure
from lossbench.question.run import Run
from lossbench.sweep import training

LEAST_RATE = 1e-4

really_train = training.train
trained: dict[tuple[str, str], dict[str, pa.Table]] = {}


def train(
    pack: Pack, splits_by_seed: Mapping[int, Any], machine: Machine, **how: Any
) -> dict[str, pa.Table]:
    """The tables of a pack, as `engine.train` would return them."""
    by_loss: dict[str, list[Run]] = {}
    for run in pack.runs:
        by_loss.setdefault(run.loss.name, []).append(run)
    parts: dict[str, list[pa.Table]] = {}
    for loss, runs in by_loss.items():
        key = structure(runs[0]), loss
        if key not in trained:
            # At a rate at which no loss diverges.
            one = Pack("template", (varied(runs[0], {"optimizer.lr": LEAST_RATE}),))
            trained[key] = really_train(one, splits_by_seed, machine, **how)
        for name, table in trained[key].items():
            parts.setdefault(name, []).append(_spread(name, table, runs, pack))
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


def _spread(name: str, table: pa.Table, runs: list[Run], pack: Pack) -> pa.Table:
    """The rows of one run as those of several."""
    member = pa.array(np.repeat(np.arange(len(runs)), len(table)))
    rows = table.take(pa.array(np.tile(np.arange(len(table)), len(runs))))
    of_each: dict[str, list[Any]] = {
        "run_id": [run.run_id for run in runs],
        "pack_id": [pack.pack_id] * len(runs),
        "lr": [run.lr for run in runs],
        "seed": [run.seed for run in runs],
    }
    if name == "runs":
        of_each["config"] = [json.dumps(run.facts, sort_keys=True) for run in runs]
        # Equal for all losses at a seed, as pairs have to be.
        for sha in ("init_sha", "batch_sha", "data_sha"):
            alike = f"{sha} {structure(runs[0])}"
            of_each[sha] = [
                hashlib.sha256(f"{alike} {run.seed}".encode()).hexdigest() for run in runs
            ]
    columns = {key: pa.array(values).take(member) for key, values in of_each.items()}
    if name in ("evals", "examples"):
        factors = np.repeat([_factor(run) for run in runs], len(table))
        columns["value"] = pa.array(rows["value"].to_numpy() * factors)
    for key, values in columns.items():
        place = rows.schema.get_field_index(key)
        rows = rows.set_column(place, rows.schema.field(place), values)
    return rows


def _factor(run: Run) -> float:
    """How much worse a run is than the best of its loss could be: least at a rate of 0.03."""
    of_seed = np.random.default_rng(run.seed).normal()
    of_run = np.random.default_rng(int(run.run_id[:8], 16)).normal()
    away = abs(math.log10(run.lr / 0.03))
    return (1 + 0.1 * away) * math.exp(0.05 * of_seed + 0.01 * of_run)


training.train = train
