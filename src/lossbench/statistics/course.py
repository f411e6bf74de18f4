"""What happens along training: curves, how far a run converged, and when it reached a target."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lossbench import records
from lossbench.statistics.design import FACTS, placed
from lossbench.statistics.intervals import half_width, share

"""Metric of `evals` that is a run's own loss."""

NEAR = 0.05
"""A run has settled where its own loss is this share of its whole decrease from its final value."""

EARLY = 0.8
"""It has converged where it settled within this share of its updates."""

LAST = 5
"""Logged steps that are averaged into a final value."""


def curves(
    frame: pd.DataFrame, *, value: str, confidence: float = 0.95, geometric: bool = False
) -> pd.DataFrame:
    """Mean over seeds at every step, with a pointwise t interval; n falls where runs diverge.

    Args:
        frame: From `joined`.
        value: Column to average.
        confidence: Pointwise coverage.
        geometric: Whether to average logarithms; values that are not positive drop out.

    Returns:
        Rows by `FACTS` and step: value, low, high, n.
    """
    numbers = frame[value].astype(float)
    numbers = np.log(numbers.where(numbers > 0)) if geometric else numbers
    numbers = numbers.where(np.isfinite(numbers)).rename("number")
    groups = numbers.groupby([frame[name] for name in [*FACTS, "step"]], dropna=False)
    table = groups.agg(["mean", "std", "count"])
    half = half_width(table["std"], table["count"].where(table["count"] > 1), confidence)
    bounds = {"value": table["mean"], "low": table["mean"] - half, "high": table["mean"] + half}
    back = np.exp if geometric else np.asarray
    found = pd.DataFrame({name: back(bound) for name, bound in bounds.items()}, index=table.index)
    return found.assign(n=table["count"], confidence=confidence, metric=value).reset_index()


# ---- convergence ---------------------------------------------------------------------------------


def convergence(runs: pd.DataFrame, steps: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """How far each run came by its own loss, and what its gradients did meanwhile.

    Args:
        runs: Table `runs`, or from `placed`; those that are done or diverged count.
        steps: Table `steps`.
        evals: Table `evals` with the run's own loss, metric "loss:own" on split train.

    Returns:
        One row a run: `FACTS`, run_id, lr, seed, status, stop_step; `steps_to_final`, the first
        evaluated step from which on the own loss stays within 5 % of its total decrease from its
        final value (NaN without values); `converged`, whether it is done and that came within 80 %
        of its updates; `initial_gradient_norm`, and averaged over the last five logged steps
        `final_gradient_norm`, `final_error_norm` and `final_cosine`; `mean_cosine` over all;
        `initial_signal_per_error` and `final_signal_per_error`, norm of the output gradient over
        that of the error.
    """
    mine = placed(runs)
    mine = mine[mine.status.isin(["done", "diverged"])]
    own = evals[(evals.metric == records.OWN_LOSS) & (evals.split == "train")]
    own = own[own.run_id.isin(mine.run_id)].sort_values("step")
    settled = {run_id: _settled(rows) for run_id, rows in own.groupby("run_id")}
    mine = mine[[*FACTS, "run_id", "lr", "seed", "status", "stop_step"]]
    mine = mine.assign(steps_to_final=mine.run_id.map(settled).astype(float))
    is_early = mine.steps_to_final.fillna(np.inf) <= EARLY * mine.stop_step.astype(float)
    mine["converged"] = mine.status.eq("done") & is_early
    return mine.join(_signals(steps[steps.run_id.isin(mine.run_id)]), on="run_id")


def _settled(rows: pd.DataFrame) -> float:
    """First step from which on the value stays near its last one; rows are one run's, by step."""
    values = rows.value.to_numpy(dtype=float)
    if not np.isfinite(values).all():
        return np.nan
    away = abs(values - values[-1]) > NEAR * max(0.0, values[0] - values[-1])
    first = 0 if not away.any() else int(np.flatnonzero(away)[-1]) + 1
    return float(rows.step.iloc[first])


def _signals(steps: pd.DataFrame) -> pd.DataFrame:
    """What the logged steps say of each run, by run_id."""
    by_run = steps.sort_values("step").groupby("run_id")
    last = by_run.tail(LAST).groupby("run_id")
    signal, error = last.output_gradient_norm.mean(), last.error_norm.mean()
    columns = {
        "initial_signal_per_error": by_run.output_gradient_norm.first() / by_run.error_norm.first(),
        "final_signal_per_error": signal / error,
        "initial_gradient_norm": by_run.gradient_norm.first(),
        "final_gradient_norm": last.gradient_norm.mean(),
        "final_error_norm": last.error_norm.mean(),
        "mean_cosine": by_run.cosine.mean(),
        "final_cosine": last.cosine.mean(),
    }
    return pd.DataFrame(columns).astype(float)


def converged(frame: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """How many runs of each loss converged, and the median run's signals.

    Args:
        frame: From `convergence`.
        confidence: Coverage of the exact binomial interval.

    Returns:
        Rows by `FACTS`: n runs, `diverged`, `converged`, their share `value` with `low` and
        `high`, and the median over the runs of `steps_to_final` (a run without counts as
        infinitely late), `initial_gradient_norm`, `final_gradient_norm`, `final_error_norm`,
        `initial_signal_per_error`, `final_signal_per_error`, `mean_cosine`, `final_cosine`.
    """
    signals = ["initial_gradient_norm", "final_gradient_norm", "final_error_norm"]
    signals += ["initial_signal_per_error", "final_signal_per_error"]
    rows = []
    for facts, cell in frame.groupby(FACTS, sort=False, dropna=False):
        count = int(cell.converged.sum())
        late = cell.steps_to_final.fillna(np.inf)
        rows.append(
            dict(zip(FACTS, facts, strict=True))
            | {"diverged": int((cell.status == "diverged").sum()), "converged": count}
            | vars(share(count, len(cell), confidence=confidence))
            | {"steps_to_final": float(late.quantile(interpolation="higher"))}
            | cell[[*signals, "mean_cosine", "final_cosine"]].median().to_dict()
        )
    return pd.DataFrame(rows)


# ---- time to a target ----------------------------------------------------------------------------


def time_to(
    runs: pd.DataFrame, evals: pd.DataFrame, *, metric: str, target: float, split: str
) -> pd.DataFrame:
    """Updates until a target is reached, where a miss is censored, not left out.

    A run that never reaches the target, and one that diverges at any time, is known only to need
    more than the budget: the last evaluated step of any run of its context.

    Args:
        runs: Table `runs`, or from `placed`; those that are done or diverged count.
        evals: Table `evals`.
        metric: Its direction is `records.direction(metric)`.
        target: Value that was fixed before the runs were seen, in units of the metric.
        split: Split on which it is to be reached.

    Returns:
        Rows by `FACTS`: metric, target, n runs, how many `reached` it, `median` updates (infinite
        where fewer than half did), `budget`, and the Kaplan-Meier curve: at each of `steps` (a
        tuple) the share of runs in `survival` (a tuple) that had not reached it.

    Source:
        Kaplan and Meier 1958, JASA; `scipy.stats.ecdf`.
    """
    mine = placed(runs)
    mine = mine[mine.status.isin(["done", "diverged"])]
    rows = evals[(evals.split == split) & (evals.metric == metric)]
    sign = -1.0 if records.direction(metric) == "higher" else 1.0
    there = rows[sign * rows.value <= sign * target].groupby("run_id").step.min()
    first = mine.run_id.map(there).astype(float).mask(mine.status == "diverged")
    last = mine.run_id.map(rows.groupby("run_id").step.max())
    budget = last.groupby(mine.context).transform("max").fillna(mine.stop_step.astype(float))
    table = mine.assign(first=first, budget=budget)
    return pd.DataFrame(
        dict(zip(FACTS, facts, strict=True))
        | {"metric": metric, "target": target}
        | _survival(cell["first"], float(cell.budget.max()))
        for facts, cell in table.groupby(FACTS, sort=False, dropna=False)
    )


def _survival(first: pd.Series, budget: float) -> dict[str, object]:
    """The Kaplan-Meier curve of the first steps at the target, NaN where it was missed."""
    sample = stats.CensoredData.right_censored(first.fillna(budget), first.isna())
    found = stats.ecdf(sample).sf
    half = found.quantiles[found.probabilities <= 0.5]
    return {
        "n": len(first),
        "reached": int(first.notna().sum()),
        "median": float(half[0]) if len(half) else np.inf,
        "budget": budget,
        "steps": tuple(found.quantiles.tolist()),
        "survival": tuple(found.probabilities.tolist()),
    }
