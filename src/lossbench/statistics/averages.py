"""Counts of runs by status, and averages of their metrics, for each loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.design import FACTS, placed
from lossbench.statistics.intervals import estimate, share


def summary(
    frame: pd.DataFrame, *, metrics: Sequence[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Mean and t interval over the runs that are done, per context, condition, loss and metric.

    Args:
        frame: From `endpoint`, one row a run.
        metrics: Columns to summarise.
        confidence: Coverage of each interval, not adjusted for the number of intervals.

    Returns:
        Long rows: `FACTS`, metric, value, low, high, n; `planned`, `diverged`, `failed`, `missing`
        runs; `improving` (done runs whose best validation step is their last); `lr` (NaN if mixed).
    """
    rows, columns = [], [*FACTS, "status", "lr", "best_step", "stop_step", *metrics]
    for facts, cell in frame[columns].groupby(FACTS, sort=False, dropna=False):
        done, rates = cell[cell.status == "done"], cell.lr.unique()
        shared = dict(zip(FACTS, facts, strict=True)) | {"planned": len(cell), **counts(cell)}
        shared["improving"] = int((done.best_step == done.stop_step).sum())
        shared["lr"] = rates[0] if len(rates) == 1 else np.nan
        for metric in metrics:
            mean = estimate(cell[metric], confidence=confidence)
            rows.append(shared | {"metric": metric, "confidence": confidence} | vars(mean))
    return pd.DataFrame(rows)


def counts(cell: pd.DataFrame) -> dict[str, int]:
    """Number of runs by status."""
    there = cell.status.tolist()
    return {status: there.count(status) for status in records.STATUSES}


def divergence_rates(runs: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """Share of runs of each loss that diverged, with the share's exact binomial interval.

    Args:
        runs: Table `runs`, or from `placed`; runs that failed or are missing do not count.
        confidence: Coverage of each interval.

    Returns:
        Rows by `FACTS`: `diverged`, value (the share), low, high, n.
    """
    mine, rows = placed(runs)[[*FACTS, "status"]], []
    mine = mine[mine.status.isin(records.RESULTS)]
    for facts, cell in mine.groupby(FACTS, sort=False, dropna=False):
        count = int((cell.status == "diverged").sum())
        shared = dict(zip(FACTS, facts, strict=True)) | {"diverged": count}
        rows.append(shared | vars(share(count, len(cell), confidence=confidence)))
    return pd.DataFrame(rows)


def completeness(runs: pd.DataFrame) -> pd.DataFrame:
    """Number of planned runs by status, per context.

    Args:
        runs: Table `runs`.

    Returns:
        Rows by context and label: `planned`, counts by status, and `unfinished`: a text that lists
        the runs that failed or are missing.
    """
    rows, columns = [], ["context", "label", "status", "loss", "lr", "seed", "reason"]
    for facts, cell in placed(runs)[columns].groupby(["context", "label"], dropna=False):
        left = cell[cell.status.isin(["failed", "missing"])].sort_values(["loss", "lr", "seed"])
        names = [
            f"{row.loss} lr={row.lr:g} seed={row.seed:g} {row.status}"
            + (f" ({row.reason})" if isinstance(row.reason, str) and row.reason else "")
            for row in left.itertuples()
        ]
        shared = dict(zip(["context", "label"], facts, strict=True))
        rows.append(shared | {"planned": len(cell), **counts(cell), "unfinished": "; ".join(names)})
    columns = ["context", "label", "planned", *records.STATUSES, "unfinished"]
    return pd.DataFrame(rows, columns=columns)


def cross_losses(runs: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """Mean of every loss for the models trained with every loss, on test at the last step.

    Args:
        runs: From `placed`, of one context and condition; runs that are done count.
        evals: Table `evals` with the metrics `loss:NAME`.

    Returns:
        Rows by loss (trained with) and `other` (judged by): label, value (mean over seeds), n, and
        `ratio` to the least value of the same `other` (NaN if the least value is not positive). A
        pair has no row if `other` has no value for the outputs of the models.
    """
    mine, names = runs[runs.status == "done"], [*dict.fromkeys(runs.loss)]
    facts = mine.set_index("run_id")[["label", "loss", "stop_step"]]
    is_wanted = (evals.split == "test") & evals.metric.isin([f"loss:{name}" for name in names])
    rows = evals.loc[is_wanted, ["run_id", "step", "metric", "value"]]
    rows = rows[rows.run_id.isin(facts.index)].join(facts, on="run_id", how="inner")
    rows = rows[(rows.step == rows.stop_step) & np.isfinite(rows.value)]
    rows = rows.assign(other=rows.metric.str.removeprefix("loss:"))
    table = rows.groupby(["label", "loss", "other"]).value.agg(["mean", "count"]).reset_index()
    table = table.rename(columns={"mean": "value", "count": "n"})
    least = table.groupby("other").value.transform("min")
    table["ratio"] = (table.value / least).where(least > 0)
    place = {name: rank for rank, name in enumerate(names)}
    return table.sort_values(["loss", "other"], key=lambda names: names.map(place)).reset_index(
        drop=True
    )
