"""How losses fare at each learning rate, and which is best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from lossbench import records
from lossbench.statistics.design import FACTS, placed
from lossbench.statistics.intervals import estimate, resamples
from lossbench.statistics.outcomes import counts

CELL = ["context", "condition", "loss"]


def learning_rates(frame: pd.DataFrame, *, metric: str, confidence: float = 0.95) -> pd.DataFrame:
    """How each loss fares at each learning rate, and which is best.

    Args:
        frame: From `endpoint` on validation, one row a run.
        metric: Column to average.
        confidence: Coverage of each interval.

    Returns:
        Rows by `FACTS` and lr: value, low, high, n, `planned`, counts by status, `best`.
    """
    rows = [
        dict(zip([*FACTS, "lr"], facts, strict=True))
        | {"planned": len(cell), "metric": metric, "confidence": confidence, **counts(cell)}
        | vars(estimate(cell[metric], confidence=confidence))
        for facts, cell in frame.groupby([*FACTS, "lr"], dropna=False)
    ]
    table = pd.DataFrame(rows)
    rates = frame.groupby(CELL).apply(lambda runs: best_learning_rate(runs, metric=metric))
    chosen = rates.reindex(pd.MultiIndex.from_frame(table[CELL])).to_numpy()
    return table.assign(best=(table.lr == chosen) & table.value.notna())


def best_learning_rate(runs: pd.DataFrame, *, metric: str) -> float:
    """The learning rate with the best mean of a metric over seeds, see `best`.

    Args:
        runs: Runs of one loss, with columns lr and the metric; NaN where a run has no value.
        metric: Its direction is `records.direction(metric)`.
    """
    return float(best(runs, metric=metric, by="lr"))


def best(frame: pd.DataFrame, *, metric: str, by: str | Sequence[str]) -> Any:
    """The setting with the best mean of a metric over seeds.

    A run without a value has diverged or failed and ranks worst: first come the settings with the
    fewest of them, then the mean decides; the smallest key wins a tie.

    Args:
        frame: Runs of one loss, with the metric; NaN where a run has no value.
        metric: Its direction is `records.direction(metric)`.
        by: Column or columns that were tuned.

    Returns:
        The value of the column; of several, a tuple of theirs.
    """
    cost = (-records.sign(metric) * frame[metric]).where(np.isfinite(frame[metric].astype(float)))
    table = frame[[by] if isinstance(by, str) else [*by]].assign(lost=cost.isna(), mean=cost)
    groups = table.groupby(by if isinstance(by, str) else [*by], dropna=False)
    ranked = groups.agg({"lost": "sum", "mean": "mean"})
    first = ranked.sort_values(["lost", "mean"], kind="stable").index[0]
    return first if isinstance(by, str) or isinstance(first, tuple) else (first,)


def profiled(frame: pd.DataFrame, *, metric: str, tuned: Sequence[str]) -> pd.DataFrame:
    """The runs at the best values of what was tuned beside the learning rate, at each of its rates.

    What `learning_rates`, `at_best_rate` and `sensitivity` need where a loss has several settings
    at one learning rate.

    Args:
        frame: From `endpoint` on validation, placed with the same `tuned`.
        metric: Decides, see `best`.
        tuned: Keys that tuning chose, as `placed` names their columns.
    """
    others = [key for key in tuned if key != "optimizer.lr"]
    if not others:
        return frame
    cell = [*CELL, "lr"]
    tagged = frame.assign(setting=frame.groupby(others, dropna=False).ngroup())
    chosen = tagged.groupby(cell).apply(lambda runs: best(runs, metric=metric, by="setting"))
    return frame[tagged.setting == chosen.reindex(pd.MultiIndex.from_frame(frame[cell])).to_numpy()]


def at_best_rate(frame: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """The runs of each loss at its own best learning rate, as `learning_rates` finds it."""
    table, cell = learning_rates(frame, metric=metric), [*CELL, "lr"]
    is_chosen = table.best | ~table.groupby(CELL).best.transform("any")
    chosen = table.loc[is_chosen].drop_duplicates(CELL)[cell]
    return frame[pd.MultiIndex.from_frame(frame[cell]).isin(pd.MultiIndex.from_frame(chosen))]


# ---- what a loss asks of the tuner ---------------------------------------------------------------


def sensitivity(frame: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """What a learning rate drawn blindly from the grid costs: the mean excess over the own best.

    The number belongs to the grid; losses are comparable where theirs is one and the same.

    Args:
        frame: From `endpoint` on validation, one row a run, one setting a rate (see `profiled`).
        metric: Column to average over seeds.

    Returns:
        Rows by `FACTS`: metric, `sensitivity` (mean over the rates of how much worse the mean is
        than at the loss's best rate, in units of the metric, never negative), `diverged_share` of
        the rates, number of `rates`, `best_lr` and `best_value`. A rate at which a run diverged
        counts as the worst mean of survivors of any loss in the context and condition; NaN where
        every rate has one.

    Source:
        Bergstra and Bengio 2012, JMLR, for judging by what random settings give.
    """
    rows = []
    for facts, trials in _trials(frame, metric=metric, by=["lr"]).groupby(FACTS, dropna=False):
        sound = trials[~trials.is_diverged].sort_values(["cost", "lr"])
        top = sound.iloc[0] if len(sound) else pd.Series({"cost": np.nan, "lr": np.nan})
        rows.append(
            dict(zip(FACTS, facts, strict=True))
            | {
                "metric": metric,
                "sensitivity": (trials.cost - top.cost).mean(),
                "diverged_share": trials.is_diverged.mean(),
                "rates": len(trials),
                "best_lr": top.lr,
                "best_value": top.cost * -records.sign(metric),
            }
        )
    columns = ["metric", "sensitivity", "diverged_share", "rates", "best_lr", "best_value"]
    return pd.DataFrame(rows, columns=[*FACTS, *columns])


def stability(frame: pd.DataFrame, *, metric: str, draws: int = 999, seed: int = 0) -> pd.DataFrame:
    """How often tuning on other seeds like these would choose the same learning rate.

    The seeds are resampled, all rates of a loss together, and the best one is chosen again. What
    the intervals of `paired` say holds at the chosen rates; this says how settled those are.

    Args:
        frame: From `endpoint` on validation, one row a run, one setting a rate (see `profiled`).
        metric: Decides, see `best`.
        draws: Resamples.
        seed: Of their generator.

    Returns:
        Rows by `FACTS`: metric, `best_lr`, `stability` (the share of resamples that choose it
        again), `seeds`, `plausible` (rates that at least one resample in twenty chooses). No rate
        and NaN where no run of a loss has a value.
    """
    rows = []
    for facts, cell in frame.groupby(FACTS, sort=False, dropna=False):
        cost = cell.assign(cost=-records.sign(metric) * cell[metric].astype(float)).pivot_table(
            index="seed", columns="lr", values="cost", dropna=False
        )
        values, picks = cost.to_numpy(), resamples(len(cost), draws=draws, seed=seed)
        chosen = _chosen(values, picks)
        first = int(_chosen(values, np.ones((1, len(cost))))[0])
        shares = np.bincount(chosen, minlength=values.shape[1]) / draws
        is_known = bool(np.isfinite(values).any())
        choice = {
            "best_lr": float(cost.columns[first]) if is_known else np.nan,
            "stability": float(shares[first]) if is_known else np.nan,
            "seeds": len(cost),
            "plausible": int((shares >= 0.05).sum()) if is_known else 0,
        }
        rows.append(dict(zip(FACTS, facts, strict=True)) | {"metric": metric} | choice)
    columns = ["metric", "best_lr", "stability", "seeds", "plausible"]
    return pd.DataFrame(rows, columns=[*FACTS, *columns])


def _chosen(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Place of the best rate, [D], as in `best`: the fewest lost first, then the mean.

    Args:
        values: Costs, [S, R]; those that are not finite are lost.
        counts: How often each seed counts, [D, S].
    """
    is_lost = ~np.isfinite(values)
    lost, survivors = counts @ is_lost, counts @ ~is_lost
    mean = counts @ np.where(is_lost, 0.0, values) / np.maximum(survivors, 1)
    return np.where(lost == lost.min(1, keepdims=True), mean, np.inf).argmin(1)


def budget_curve(frame: pd.DataFrame, *, metric: str, by: Sequence[str] = ("lr",)) -> pd.DataFrame:
    """Expected best validation value after trying some of the grid's settings, drawn at random.

    Exact for settings drawn without replacement; each counts with its mean over seeds, and one at
    which a run diverged as the worst mean of survivors in the context and condition.

    Args:
        frame: From `endpoint` on validation, one row a run.
        metric: Column to average over seeds.
        by: Columns that make a setting.

    Returns:
        Rows by `FACTS` and `budget` b = 1..n: metric, `value` (the expectation), `trials` (n), and
        `cost`, how much worse the value is than that of all n.

    Source:
        Dodge et al. 2019, EMNLP, there with replacement; order statistics of a finite population.
    """
    rows = []
    for facts, trials in _trials(frame, metric=metric, by=[*by]).groupby(FACTS, dropna=False):
        n = len(trials)
        cost = (
            np.sort(trials.cost.to_numpy()) if not trials.is_diverged.all() else np.full(n, np.nan)
        )
        for budget in range(1, n + 1):
            # The i-th best is the best of b where the other b - 1 come from the n - i behind it.
            chance = special.comb(n - np.arange(1, n + 1), budget - 1) / special.comb(n, budget)
            value = -records.sign(metric) * float(chance @ cost)
            shared = {"metric": metric, "budget": budget, "value": value, "trials": n}
            shared["cost"] = -records.sign(metric) * value - cost[0]
            rows.append(dict(zip(FACTS, facts, strict=True)) | shared)
    return pd.DataFrame(rows)


def excess(rates: pd.DataFrame) -> pd.DataFrame:
    """How much worse each loss fares at a learning rate than at the best one of its own.

    Args:
        rates: From `learning_rates`.

    Returns:
        The rows with `ratio`, the learning rate over the loss's `best` one, and `cost`, the mean's
        excess over its best mean in units of the metric, never negative; NaN where no run
        survived or no rate is best.
    """
    cell = [rates[name] for name in CELL]
    sign = -records.sign(str(rates.metric.iloc[0])) if len(rates) else 1.0
    least = (sign * rates.value).groupby(cell).transform("min")
    chosen = rates.lr.where(rates.best).groupby(cell).transform("min")
    return rates.assign(ratio=rates.lr / chosen, cost=sign * rates.value - least)


def budgets(runs: pd.DataFrame, *, tuned: Sequence[str] = ()) -> pd.DataFrame:
    """What tuning each loss was allowed to cost, so that equal budgets can be seen to be equal.

    Args:
        runs: Table `runs`; only those of stage tune count.
        tuned: What was tuned beside the learning rate, as given to `placed`.

    Returns:
        Rows by context, label and loss: `rates` tried, `trials` (combinations with what was
        tuned), `tuning_runs`, `updates` done and `train_seconds`, both summed over the runs.
    """
    rows = []
    mine = placed(runs[runs.stage == "tune"], tuned=tuned)
    for facts, cell in mine.groupby(["context", "label", "loss"], dropna=False):
        rows.append(
            dict(zip(["context", "label", "loss"], facts, strict=True))
            | {
                "rates": cell.lr.nunique(),
                "trials": len(cell[["lr", *tuned]].drop_duplicates()),
                "tuning_runs": len(cell),
                "updates": int(cell.stop_step.fillna(0).sum()),
                "train_seconds": float(cell.train_seconds.fillna(0).sum()),
            }
        )
    columns = ["rates", "trials", "tuning_runs", "updates", "train_seconds"]
    return pd.DataFrame(rows, columns=["context", "label", "loss", *columns])


def _trials(frame: pd.DataFrame, *, metric: str, by: list[str]) -> pd.DataFrame:
    """Mean cost of every setting; one with a diverged run costs the context's worst mean.

    Of a loss's own value it costs the worst of that loss: values of different losses have no order.
    A setting whose runs all failed or are missing says nothing and is left out.
    """
    numbers = frame[metric].astype(float)
    cost = -records.sign(metric) * numbers.where(np.isfinite(numbers))
    table = frame.assign(cost=cost, is_diverged=frame.status == "diverged")
    groups = table.groupby([*FACTS, *by], dropna=False)
    trials = groups.agg({"cost": "mean", "is_diverged": "any"}).reset_index()
    alike = ["context", "condition", *(["loss"] if metric.startswith("loss:") else [])]
    worst = trials.groupby(alike).cost.transform("max")
    trials["cost"] = trials.cost.mask(trials.is_diverged, worst)
    return trials[trials.cost.notna() | trials.is_diverged]
