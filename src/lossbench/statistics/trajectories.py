"""Training over time: curves, convergence, and the time to reach a target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy

from lossbench import records
from lossbench.statistics.design import FACTS, placed
from lossbench.statistics.intervals import half_width, share

NEAR = 0.05
"""Largest distance of a settled run's own loss from its final value, as a share of its decrease."""

EARLY = 0.8
"""Share of a run's updates within which the run must settle to count as converged."""

LAST = 5
"""Number of logged steps that are averaged into a final value."""


def curves(
    frame: pd.DataFrame, *, value: str, confidence: float = 0.95, geometric: bool = False
) -> pd.DataFrame:
    """Mean over seeds at every step, with a pointwise t interval; n decreases as runs diverge.

    Args:
        frame: From `joined`.
        value: Column to average.
        confidence: Pointwise coverage.
        geometric: Whether to average logarithms; values that are not positive are left out.

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
    means = pd.DataFrame({name: back(bound) for name, bound in bounds.items()}, index=table.index)
    return means.assign(n=table["count"], confidence=confidence, metric=value).reset_index()


MEASURES = {
    "gradient_norm": "gradient_norm",
    "signal_per_error": "output_gradient_norm / nullif(error_norm, 0)",
    "cosine": "cosine",
}
"""SQL expressions of the measures in `trajectories`; all measures but the cosine are norms."""


def trajectories(
    sweep: records.Records, runs: pd.DataFrame, *, confidence: float = 0.95, table: str = "steps"
) -> pd.DataFrame:
    """Means of norms and cosines of gradients at every step, for tables larger than memory.

    Args:
        sweep: Records of the sweep.
        runs: Runs to average, from `placed`.
        confidence: Pointwise coverage.
        table: "steps", or "layers" for the gradient norm of each layer.

    Returns:
        Rows by `FACTS`, `measure` (see `MEASURES`), step and, for layers, `layer` in the model's
        order: value, low, high, n, `lost_at` (see `with_losses_of_runs`). Norms are averaged as
        logarithms; norms that are not positive and values that are not finite are left out.
    """
    cells = runs[["run_id"]].assign(cell=runs.groupby(FACTS, dropna=False).ngroup())
    facts = runs[FACTS].assign(cell=cells.cell).drop_duplicates("cell").set_index("cell")
    keys = ["cell", "step", *(["layer"] if table == "layers" else [])]
    parts = []
    for measure in MEASURES if table == "steps" else ["gradient_norm"]:
        x = f"cast({MEASURES[measure]} as double)"
        x = x if measure == "cosine" else f"case when {x} > 0 then ln({x}) end"
        parts.append(
            f"select '{measure}' as measure, {', '.join(keys)}, avg(x) as mean, stddev_samp(x) as "
            f"std, count(x) as n from (select {', '.join(keys)}, {x} as x from chosen) "
            f"where x is null or isfinite(x) group by {', '.join(keys)}"
        )
    query = " union all ".join(parts)
    rows = sweep.sql(
        f"with chosen as (select * from {table} join cells using (run_id)) {query}", cells=cells
    )
    half = half_width(rows["std"], rows.n.where(rows.n > 1), confidence)
    bounds = {"value": rows["mean"], "low": rows["mean"] - half, "high": rows["mean"] + half}
    is_norm = rows.measure != "cosine"
    back = {name: bound.mask(is_norm, np.exp(bound)) for name, bound in bounds.items()}
    rows = rows[["measure", *keys, "n"]].assign(**back, confidence=confidence)
    rows = rows.sort_values([*keys, "measure"], key=_in_order).join(facts, on="cell")
    return with_losses_of_runs(rows.drop(columns="cell").reset_index(drop=True), runs)


def with_losses_of_runs(estimates: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Add the column `lost_at` to estimates: the step at which the first run diverged or failed.

    Args:
        estimates: Rows by `FACTS`.
        runs: From `placed`.

    Returns:
        The estimates with `lost_at`, infinite if no run of the estimate diverged or failed.
    """
    lost = runs[runs.status.isin(["diverged", "failed"])]
    first = lost.groupby(FACTS, dropna=False).stop_step.min().rename("lost_at").reset_index()
    table = estimates.merge(first, on=FACTS, how="left")
    return table.assign(lost_at=table.lost_at.astype(float).fillna(np.inf))


def _in_order(column: pd.Series) -> pd.Series:
    """Sort key by which layers are ordered by the numbers in their names: 10 comes after 9."""
    if column.name != "layer":
        return column
    return column.str.replace(r"\d+", lambda digits: digits[0].zfill(6), regex=True)


# ---- convergence ---------------------------------------------------------------------------------


def convergence(runs: pd.DataFrame, signals: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """Convergence of each run in its own loss, with the signals of its gradients.

    Args:
        runs: Table `runs`, or from `placed`; runs that are done or diverged count.
        signals: From `signals`.
        evals: Table `evals` with the run's own loss, metric "loss:own" on split train.

    Returns:
        One row a run: `FACTS`, run_id, lr, seed, status, stop_step; `steps_to_final`, the first
        evaluated step from which on the own loss differs from its final value by at most 5 % of its
        total decrease (NaN without values, or if a value is not finite); `converged`, whether the
        run is done and `steps_to_final` is within 80 % of its updates; the columns of `signals`.
    """
    mine = placed(runs)
    mine = mine[mine.status.isin(records.RESULTS)]
    is_own = (evals.metric == records.OWN_LOSS) & (evals.split == "train")
    losses = evals.loc[is_own, ["run_id", "step", "value"]]
    losses = losses[losses.run_id.isin(mine.run_id)].sort_values("step")
    steps: dict[object, float] = {}
    for run_id, rows in losses.groupby("run_id"):
        values = rows.value.to_numpy(dtype=float)
        if np.isfinite(values).all():
            away = abs(values - values[-1]) > NEAR * max(0.0, values[0] - values[-1])
            steps[run_id] = rows.step.iloc[np.flatnonzero(away).max(initial=-1) + 1]
    mine = mine[[*FACTS, "run_id", "lr", "seed", "status", "stop_step"]]
    mine = mine.assign(steps_to_final=mine.run_id.map(steps).astype(float))
    is_early = mine.steps_to_final.fillna(np.inf) <= EARLY * mine.stop_step.astype(float)
    mine["converged"] = mine.status.eq("done") & is_early
    return mine.join(signals, on="run_id")


SIGNALS = {
    "initial_signal_per_error": ("first", "output_gradient_norm / error_norm"),
    "final_signal_per_error": ("late", "output_gradient_norm", "error_norm"),
    "initial_gradient_norm": ("first", "gradient_norm"),
    "final_gradient_norm": ("late", "gradient_norm"),
    "final_error_norm": ("late", "error_norm"),
    "mean_cosine": ("mean", "cosine"),
    "final_cosine": ("late", "cosine"),
}
"""Time and columns of each signal; a signal with two columns is the ratio of their means."""


def signals(sweep: records.Records) -> pd.DataFrame:
    """Summaries of the logged steps of each run, for tables larger than memory.

    Args:
        sweep: Records of the sweep.

    Returns:
        A row a run, indexed by run_id: `initial_gradient_norm`; `final_gradient_norm`,
        `final_error_norm` and `final_cosine`, averaged over the last five logged steps;
        `mean_cosine` over all steps; `initial_signal_per_error` and `final_signal_per_error`, norm
        of the output gradient over norm of the error.
    """
    when = {"first": "arg_min({x}, step)", "late": "avg({x})", "mean": "avg({x})"}
    columns = []
    for name, (time, *parts) in SIGNALS.items():
        late = " and step >= late" if time == "late" else ""
        means = [
            f"{when[time].format(x=f'cast({x} as double)')} filter (not isnan({x}){late})"
            for x in parts
        ]
        columns.append(f"{' / '.join(means)} as {name}")
    rows = sweep.sql(
        f"with ends as (select run_id, list_min(max(step, {LAST})) as late from steps group by "
        f"run_id) select run_id, {', '.join(columns)} from steps join ends using (run_id) "
        "group by run_id"
    )
    return rows.set_index("run_id").astype(float)


def converged(frame: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """Number of runs of each loss that converged, and medians of the signals.

    Args:
        frame: From `convergence`.
        confidence: Coverage of the exact binomial interval.

    Returns:
        Rows by `FACTS`: n runs, `diverged`, `converged`, the share of converged runs `value` with
        `low` and `high`, and the median over the runs of `steps_to_final` (infinite for a run
        without it), `initial_gradient_norm`, `final_gradient_norm`, `final_error_norm`,
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
    """Number of updates until a target is reached; runs that miss the target count as censored.

    A run that never reaches the target, or that diverges at any time, counts as censored at the
    budget: the last evaluated step of any run of its context.

    Args:
        runs: Table `runs`, or from `placed`; runs that are done or diverged count.
        evals: Table `evals`.
        metric: Name of the metric; its direction is `records.direction(metric)`.
        target: Value that was fixed before the runs were seen, in units of the metric.
        split: Split on which the target is to be reached.

    Returns:
        Rows by `FACTS`: metric, target, n runs, number of runs that `reached` the target, `median`
        updates (infinite if fewer than half reached it), `budget`, and the Kaplan-Meier curve: at
        each of `steps` (a tuple) the share of runs in `survival` (a tuple) that had not reached the
        target.

    Source:
        Kaplan and Meier 1958, JASA; `scipy.stats.ecdf`.
    """
    mine = placed(runs)
    mine = mine[mine.status.isin(records.RESULTS)]
    is_wanted = (evals.split == split) & (evals.metric == metric)
    rows = evals.loc[is_wanted, ["run_id", "step", "value"]]
    rows = rows[rows.run_id.isin(mine.run_id)]
    sign = -records.sign(metric)
    there = rows[sign * rows.value <= sign * target].groupby("run_id").step.min()
    first = mine.run_id.map(there).astype(float).mask(mine.status == "diverged")
    last = mine.run_id.map(rows.groupby("run_id").step.max())
    budget = last.groupby(mine.context).transform("max").fillna(mine.stop_step.astype(float))
    table, curves = mine[FACTS].assign(first=first, budget=budget), []
    for facts, cell in table.groupby(FACTS, sort=False, dropna=False):
        steps, last_step = cell["first"], float(cell.budget.max())
        sample = scipy.stats.CensoredData.right_censored(steps.fillna(last_step), steps.isna())
        survival = scipy.stats.ecdf(sample).sf
        half = survival.quantiles[survival.probabilities <= 0.5]
        curves.append(
            dict(zip(FACTS, facts, strict=True))
            | {
                "metric": metric,
                "target": target,
                "n": len(steps),
                "reached": int(steps.notna().sum()),
                "median": float(half[0]) if len(half) else np.inf,
                "budget": last_step,
                "steps": tuple(survival.quantiles.tolist()),
                "survival": tuple(survival.probabilities.tolist()),
            }
        )
    return pd.DataFrame(curves)
