"""Causes of a loss's difference to the reference: gradient scale, weighting, and the rest."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.design import FACTS, refuse_unequal
from lossbench.statistics.intervals import estimate

PARTS = ("total", "scale", "weighting", "rest")
"""A difference and its three parts, which sum to the difference."""

DECOMPOSED = [*FACTS, "lr", "part", "metric", "reference", "value", "low", "high", "n"]
DECOMPOSED += ["left_out", "confidence", "differences"]
"""Columns of `decomposition`."""


def decomposition(
    frame: pd.DataFrame, *, metric: str, reference: str, confidence: float = 0.95
) -> pd.DataFrame:
    """Difference of every loss to the reference, split into scale, weighting and the rest.

    Let m(loss, signal) be the metric of a run with a signal of `records.SIGNALS`. Within a seed and
    at one learning rate: total = m(loss, own) - m(reference, own), scale = m(loss, own) -
    m(loss, norm_matched), weighting = m(loss, reweighted) - m(reference, own), and rest = total -
    scale - weighting. Scale and weighting are effects of one replacement with all else unchanged;
    another order of the replacements would give other parts of the difference.

    Args:
        frame: From `endpoint`, one row a run, of runs from `placed` with `tuned=["signal"]`, so
            that the signal is a column and not a factor of the context.
        metric: Column to compare.
        reference: The loss the others are compared with.
        confidence: Coverage of each interval, pointwise.

    Returns:
        Per context, condition, learning rate, loss with all three signals, and part: mean over the
        seeds in which all four runs survived, with its paired-t interval, `n` such seeds,
        `left_out` other seeds, and `differences` (by seed, in order). Empty if the reference or a
        signal is missing.

    Raises:
        ValueError: The frame has no column `signal`, or runs of a seed differ in a fingerprint.
    """
    if "signal" not in frame:
        raise ValueError("no column signal: place the runs with placed(runs, tuned=['signal'])")
    full = frame[frame.signal.isin([*records.SIGNALS])]
    rows = []
    for (_, _, lr), cell in full.groupby(["context", "condition", "lr"], sort=False):
        base = cell[(cell.loss == reference) & (cell.signal == "own")]
        for loss in sorted({*cell.loss} - {reference}) if len(base) else []:
            runs = cell[cell.loss == loss]
            if {*runs.signal} != {*records.SIGNALS}:
                continue
            four = pd.concat([base, runs])
            refuse_unequal(four.assign(loss=four.loss + " (" + four.signal + ")"))
            parts = _parts(runs, base, metric)
            is_whole = np.isfinite(parts).all(axis=1)
            facts = {name: runs[name].iloc[0] for name in FACTS} | {"lr": lr}
            for part in PARTS:
                differences = tuple(parts.loc[is_whole, part])
                row = {"part": part, "left_out": int((~is_whole).sum()), "differences": differences}
                rows.append(facts | row | asdict(estimate(differences, confidence=confidence)))
    shared = {"metric": metric, "reference": reference, "confidence": confidence}
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=DECOMPOSED)
    return table.assign(**shared)[DECOMPOSED]


def _parts(runs: pd.DataFrame, base: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Total and parts of each seed, in columns; NaN if one of the four runs has no value."""
    value = {signal: rows.set_index("seed")[metric] for signal, rows in runs.groupby("signal")}
    m = pd.DataFrame({**value, "reference": base.set_index("seed")[metric]}).astype(float)
    total = m.own - m.reference
    scale, weighting = m.own - m.norm_matched, m.reweighted - m.reference
    parts = pd.DataFrame({"total": total, "scale": scale, "weighting": weighting})
    return parts.assign(rest=total - scale - weighting).sort_index()
