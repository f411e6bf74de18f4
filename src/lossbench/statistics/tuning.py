"""Losses at each learning rate, their sensitivity to the rate, and the cost of tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy

from lossbench import records
from lossbench.statistics.averages import counts
from lossbench.statistics.choice import (
    PLAUSIBLE,
    Choice,
    candidates,
    chosen,
    costs_alone,
    difference,
    reselected,
    tuning_table,
)
from lossbench.statistics.design import FACTS, placed
from lossbench.statistics.intervals import FEWEST_PAIRS, estimate
from lossbench.statistics.rule import Rule
from lossbench.statistics.verdict import verdict

CELL = ["context", "condition", "loss"]


def learning_rates(frame: pd.DataFrame, *, metric: str, confidence: float = 0.95) -> pd.DataFrame:
    """Mean and interval of each loss at each learning rate.

    Args:
        frame: From `endpoint` on validation, one row a run.
        metric: Column to average.
        confidence: Coverage of each interval.

    Returns:
        Rows by `FACTS` and lr: value, low, high, n, `planned`, counts by status.
    """
    columns = frame[[*FACTS, "lr", "status", metric]]  # every group copies all columns
    rows = [
        dict(zip([*FACTS, "lr"], facts, strict=True))
        | {"planned": len(cell), "metric": metric, "confidence": confidence, **counts(cell)}
        | vars(estimate(cell[metric], confidence=confidence))
        for facts, cell in columns.groupby([*FACTS, "lr"], dropna=False)
    ]
    return pd.DataFrame(rows)


# ---- sensitivity and cost of tuning --------------------------------------------------------------


def sensitivity(frame: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Cost of a learning rate drawn at random from the grid: the mean excess over the best rate.

    The number depends on the grid, so losses are comparable only if their grids are equal.

    Args:
        frame: From `endpoint` on validation, one row a run, one setting a rate (see `at_choice`).
        metric: Column to average over seeds.

    Returns:
        Rows by `FACTS`: metric, `sensitivity` (mean over the rates of how much worse the mean is
        than at the loss's best rate, in units of the metric, never negative), `diverged_share`
        (share of rates at which a run diverged), number of `rates`. A rate at which a run diverged
        counts as the worst mean of survivors of any loss in the context and condition;
        `sensitivity` is NaN if a run diverged at every rate.

    Source:
        Bergstra and Bengio 2012, JMLR, for judging by random settings; Wortsman et al.
        2023, arXiv 2309.14322, for the name learning rate sensitivity.
    """
    rows = []
    for facts, settings in _trials(frame, metric=metric, by=["lr"]).groupby(FACTS, dropna=False):
        least = settings.cost[~settings.is_diverged].min()
        rows.append(
            dict(zip(FACTS, facts, strict=True))
            | {
                "metric": metric,
                "sensitivity": (settings.cost - least).mean(),
                "diverged_share": settings.is_diverged.mean(),
                "rates": len(settings),
            }
        )
    columns = ["metric", "sensitivity", "diverged_share", "rates"]
    return pd.DataFrame(rows, columns=[*FACTS, *columns])


def sensitivity_differences(
    runs: pd.DataFrame, rule: Rule, *, seeds: Sequence[int]
) -> pd.DataFrame:
    """Cost of a candidate drawn at random, as the difference of each loss to the reference.

    The cost is the mean excess on test over the candidate that validation chooses, averaged over
    seeds; a diverged run costs as much as the worst run of the two losses on its seed. The interval
    is that of `choice.difference`, which includes the uncertainty of the choice.

    Args:
        runs: One row a run of one context, as `choice.tuning_table` takes them.
        rule: The rule of the verdicts; its confidence is the coverage of all intervals together.
        seeds: Seeds on which every candidate ran.

    Returns:
        A row a loss: `more`, `more_low`, `more_high` (the difference and its interval, in units of
        the metric), `verdict` (better for a lower cost). A loss with other candidates than the
        reference has no row.
    """
    tables = {loss: tuning_table(rows, rule, seeds=seeds) for loss, rows in runs.groupby("loss")}
    columns = ["loss", "more", "more_low", "more_high", "verdict"]
    base, rows = tables.pop(rule.reference, None), []
    if base is None or len(base.candidates) < 2 or len(seeds) < FEWEST_PAIRS:
        return pd.DataFrame(columns=columns)
    level = 1 - (1 - rule.confidence) / max(1, len(tables))
    of_base = Choice.of(base, average="mean")
    for loss, table in tables.items():
        if not np.array_equal(table.candidates, base.candidates):
            continue
        costs = -records.sign(rule.metric) * np.stack([table.results, base.results])  # [2, S, R]
        worst = np.where(np.isfinite(costs), costs, -np.inf).max((0, 2))[:, None]
        costs = np.where(np.isfinite(costs), costs, worst)
        excess = costs.mean(-1, keepdims=True) - costs
        first = replace(Choice.of(table, average="mean"), results=excess[0])
        second = replace(of_base, results=excess[1])
        more, _ = difference([first], [second], confidence=level)
        word = verdict(-more.high, -more.low, rule.margin)
        rows.append([loss, more.value, more.low, more.high, word])
    return pd.DataFrame(rows, columns=columns)


def stability(frame: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Share of resamples of the seeds that choose the same candidate again, for each loss.

    Args:
        frame: One row a run, with `candidate` and `selected_by`, see `choice.tuning_table`.
        rule: Rule with the metric to choose by, `select`, and the average over the seeds.

    Returns:
        Rows by `FACTS`: metric, `best_lr`, `stability` (the share of resamples that choose the
        candidate again), `seeds`, `plausible` (number of candidates that at least `PLAUSIBLE` of
        the resamples choose). `best_lr` and `stability` are NaN if no candidate has run on every
        seed, or all of these runs diverged.
    """
    rows, facts_and = [], [*FACTS, "lr", "seed", "status", "candidate", "selected_by"]
    for facts, cell in frame[facts_and].groupby(FACTS, sort=False, dropna=False):
        table = costs_alone(cell, rule, seeds=[*{*cell.seed}])
        choice = {"best_lr": np.nan, "stability": np.nan, "seeds": cell.seed.nunique()}
        choice["plausible"] = 0
        if np.isfinite(table.costs).any():
            index = int(chosen(table.costs, average=rule.average)[0])
            again = reselected(table.costs, average=rule.average)
            shares = np.bincount(again, minlength=table.costs.shape[1]) / len(again)
            choice |= {"best_lr": table.rates[index], "stability": float(shares[index])}
            choice["plausible"] = int((shares >= PLAUSIBLE).sum())
        rows.append(dict(zip(FACTS, facts, strict=True)) | {"metric": rule.select} | choice)
    columns = ["metric", "best_lr", "stability", "seeds", "plausible"]
    return pd.DataFrame(rows, columns=[*FACTS, *columns])


def budget_curve(frame: pd.DataFrame, *, metric: str, by: Sequence[str] = ("lr",)) -> pd.DataFrame:
    """Expected best validation value after trying some of the grid's settings, drawn at random.

    Exact for settings drawn without replacement; each setting counts with its mean over seeds, or,
    if a run diverged at it, with the worst mean of survivors in the context and condition.

    Args:
        frame: From `endpoint` on validation, one row a run.
        metric: Column to average over seeds.
        by: Columns whose values identify a setting.

    Returns:
        Rows by `FACTS` and `budget` b = 1..n: metric, `value` (the expectation), `trials` (n), and
        `cost`, by which the value is worse than the value at b = n.

    Source:
        Dodge et al. 2019, EMNLP, there with replacement; order statistics of a finite population.
    """
    rows = []
    for facts, settings in _trials(frame, metric=metric, by=[*by]).groupby(FACTS, dropna=False):
        n = len(settings)
        cost = (
            np.sort(settings.cost.to_numpy())
            if not settings.is_diverged.all()
            else np.full(n, np.nan)
        )
        for budget in range(1, n + 1):
            # The i-th best is the best of b if the other b - 1 are among the n - i worse ones.
            ways = scipy.special.comb(n - np.arange(1, n + 1), budget - 1)
            chance = ways / scipy.special.comb(n, budget)
            value = -records.sign(metric) * float(chance @ cost)
            shared = {"metric": metric, "budget": budget, "value": value, "trials": n}
            shared["cost"] = -records.sign(metric) * value - cost[0]
            rows.append(dict(zip(FACTS, facts, strict=True)) | shared)
    return pd.DataFrame(rows)


def excess(rates: pd.DataFrame) -> pd.DataFrame:
    """Excess of each loss at a learning rate over its best learning rate.

    Args:
        rates: From `learning_rates`, with `best`: whether the loss chose the rate.

    Returns:
        The rows with `ratio`, the learning rate divided by the loss's `best` rate, and `cost`, the
        excess of the mean over the loss's best mean in units of the metric, never negative. `cost`
        is NaN if no run survived at the rate, `ratio` if no rate is `best`.
    """
    cell = [rates[name] for name in CELL]
    sign = -records.sign(str(rates.metric.iloc[0])) if len(rates) else 1.0
    least = (sign * rates.value).groupby(cell).transform("min")
    chosen = rates.lr.where(rates.best).groupby(cell).transform("min")
    return rates.assign(ratio=rates.lr / chosen, cost=sign * rates.value - least)


def budgets(runs: pd.DataFrame, *, tuned: Sequence[str] = ()) -> pd.DataFrame:
    """The cost of tuning each loss, so that a reader can see whether budgets are equal.

    Args:
        runs: Table `runs`.
        tuned: Keys that were tuned, as given to `placed`.

    Returns:
        Rows by context, label and loss: `rates` tried, `candidates` (combinations of tuned
        values), `seeds`, `runs`, `updates` done and `train_seconds`, both summed over the runs.
    """
    rows = []
    mine = placed(runs, tuned=tuned)
    keys = ["context", "label", "loss", "lr", "seed", "stop_step", "train_seconds", *tuned]
    mine = mine[[key for key in keys if key in mine]]
    for facts, cell in mine.groupby(["context", "label", "loss"], dropna=False):
        rows.append(
            dict(zip(["context", "label", "loss"], facts, strict=True))
            | {
                "rates": cell.lr.nunique(),
                "candidates": candidates(cell, tuned=tuned).nunique(),
                "seeds": cell.seed.nunique(),
                "runs": len(cell),
                "updates": int(cell.stop_step.fillna(0).sum()),
                "train_seconds": float(cell.train_seconds.fillna(0).sum()),
            }
        )
    columns = ["rates", "candidates", "seeds", "runs", "updates", "train_seconds"]
    return pd.DataFrame(rows, columns=["context", "label", "loss", *columns])


def _trials(frame: pd.DataFrame, *, metric: str, by: list[str]) -> pd.DataFrame:
    """Mean cost of every setting; a setting with a diverged run costs the context's worst mean.

    For a metric `loss:...` the setting costs the worst mean of the same loss, because values of
    different losses cannot be compared. A setting whose runs all failed or are missing is left out.
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
