"""Runs of one context as a frame of invented values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lossbench import statistics

SEEDS = range(10)


def frame(values, *, metric="rmse", **columns):
    """Runs of one context from {loss: values by seed}; NaN means diverged."""
    rows = [
        {
            "context": "c",
            "label": "toy × linear",
            "task": "regression",
            "family": "power",
            "condition": "own_lr",
            "loss": loss,
            "seed": seed,
            "lr": 0.1,
            metric: value,
            "status": "diverged" if np.isnan(value) else "done",
            "best_step": 9,
            "stop_step": 9,
            **dict.fromkeys(statistics.design.CURES, f"{seed}"),
        }
        for loss, numbers in values.items()
        for seed, value in enumerate(numbers)
    ]
    return pd.DataFrame(rows).assign(**columns)


def drawn(shift, *, spread=0.01, n=10, seed=0):
    draw = np.random.default_rng(seed)
    base = draw.normal(1.0, 0.3, n)
    return {"mse": base, "other": base + shift + draw.normal(0, spread, n)}


def diverge(values, loss, count):
    return {**values, loss: np.where(np.arange(len(values[loss])) < count, np.nan, values[loss])}
