"""The choice of a candidate for each loss, and the uncertainty due to it in a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy

from lossbench import records
from lossbench.statistics.intervals import Estimate, half_width, mean_interval, resamples
from lossbench.statistics.rule import Rule

TIE = 1e-6
"""Share of a cost within which averages count as equal: the precision of float32."""

RESAMPLES = 400
"""Number of resamples of the seeds on which candidates are chosen again."""

PLAUSIBLE = 0.02
"""Least share of the resamples that choose a plausible candidate."""


@dataclass(frozen=True)
class TuningTable:
    """Runs of one loss at the R candidates that were trained on all S seeds.

    Attributes:
        candidates: Numbers of the R candidates, by learning rate.
        rates: Learning rate of each candidate, [R].
        run_ids: Identities of the runs, [S, R].
        costs: Values on validation by which a candidate is chosen, lower is better, [S, R]; NaN
            where a run diverged.
        results: Values on test to judge, in units of the metric, [S, R]; NaN where a run diverged.
        diverged: Whether a run diverged, [S, R].
    """

    candidates: np.ndarray
    rates: np.ndarray
    run_ids: np.ndarray
    costs: np.ndarray
    results: np.ndarray
    diverged: np.ndarray


def tuning_table(runs: pd.DataFrame, rule: Rule, *, seeds: Sequence[int]) -> TuningTable:
    """Arrange the runs of one loss by seed and candidate.

    Args:
        runs: One row a run, with `candidate` (a number, ascending with the learning rate), the
            metric on test, and `selected_by`, the value on validation by which one is chosen.
        rule: Rule with the metric to judge by and the metric to choose by.
        seeds: Seeds to take; a candidate without a run on each of these seeds is left out.
    """
    rows = np.flatnonzero(runs.seed.isin(seeds) & runs.status.isin(records.RESULTS))
    observed, seed_of = np.unique(runs.seed.to_numpy()[rows], return_inverse=True)
    listed, candidate_of = np.unique(runs.candidate.to_numpy()[rows], return_inverse=True)
    index = np.full((len(observed), len(listed)), -1)
    index[seed_of, candidate_of] = rows
    is_complete = (index >= 0).all(0) & (len(observed) == len({*seeds}))
    index = index[:, is_complete]
    costs = -records.sign(rule.select) * runs.selected_by.to_numpy(dtype=float)[index]
    return TuningTable(
        candidates=listed[is_complete],
        rates=runs.lr.to_numpy(dtype=float)[index[:1].ravel()],
        run_ids=runs.get("run_id", runs.index.to_series()).to_numpy(dtype=object)[index],
        costs=np.where(np.isfinite(costs), costs, np.nan),
        results=runs[rule.metric].to_numpy(dtype=float)[index],
        diverged=runs.status.eq("diverged").to_numpy()[index],
    )


def costs_alone(runs: pd.DataFrame, rule: Rule, *, seeds: Sequence[int]) -> TuningTable:
    """A `tuning_table` of runs without values on test, with those on validation as results."""
    return tuning_table(runs, replace(rule, metric="selected_by"), seeds=seeds)


def chosen(
    costs: np.ndarray, weights: np.ndarray | None = None, *, average: str = "mean"
) -> np.ndarray:
    """Index of the best candidate: the fewest diverged runs, then the least average over seeds.

    A candidate's average is over the differences of its cost to the least cost on the same seed.
    Averages of the costs themselves would compare candidates that diverged on different seeds by
    the difficulty of the seeds that each survived, and the median would depend on the one seed in
    the middle; for the mean without diverged runs, both ways choose alike.
    If several candidates do equally well, the middle one is chosen, because a small change matters
    most at the edge of a plateau.

    Args:
        costs: Values on validation, [S, R]; NaN where a run diverged.
        weights: Number of times that each seed counts in each of D resamples, [D, S]; None counts
            each seed once.
        average: "mean" or "median", of the seeds that survived.

    Returns:
        Indices, [D]; [1] without weights.
    """
    weights = np.ones((1, len(costs))) if weights is None else weights
    is_lost = ~np.isfinite(costs)
    lost = weights @ is_lost
    best = np.where(is_lost, np.inf, costs).min(1, keepdims=True)
    best = np.where(np.isfinite(best), best, 0.0)
    averages = AVERAGES[average](costs - best, weights)
    averages = np.where(lost == lost.min(1, keepdims=True), averages, np.inf)
    least = averages.min(1, keepdims=True)
    is_best = averages <= least + TIE * np.median(abs(best))
    middle = (is_best.sum(1, keepdims=True) + 1) // 2
    return (is_best & (is_best.cumsum(1) == middle)).argmax(1)


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over seeds of the finite values, [D, R]; 0 if no value is finite."""
    is_there = np.isfinite(values)
    return weights @ np.where(is_there, values, 0.0) / np.maximum(weights @ is_there, 1)


def _medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median over seeds of the finite values, [D, R]; 0 if no value is finite."""
    order = np.argsort(values, axis=0)  # NaN last
    ordered = np.take_along_axis(np.where(np.isfinite(values), values, 0.0), order, 0)
    is_there = np.take_along_axis(np.isfinite(values), order, 0)
    below = np.cumsum(weights[:, order] * is_there, axis=1)  # [D, S, R]
    half = below[:, -1:] / 2
    middles = (below < half).sum(1), (below <= half).sum(1)
    ends = [np.minimum(index, len(values) - 1) for index in middles]
    return (np.take_along_axis(ordered, ends[0], 0) + np.take_along_axis(ordered, ends[1], 0)) / 2


AVERAGES = {"mean": _means, "median": _medians}
"""Summaries of the seeds, in the choice and in the verdict."""


def reselected(costs: np.ndarray, *, average: str = "mean") -> np.ndarray:
    """Index of the candidate that each of D bootstrap resamples of the seeds chooses, [D]."""
    return chosen(costs, resamples(len(costs), draws=RESAMPLES), average=average)


def plausible(costs: np.ndarray, rates: np.ndarray, *, average: str = "mean") -> np.ndarray:
    """Indices of the candidates that other seeds might choose, and of those at neighbouring rates.

    Args:
        costs: Values on validation, [S, R]; NaN where a run diverged.
        rates: Learning rate of each candidate, ascending, [R]; if other settings are tuned too,
            each rate is repeated for each of their combinations, in the same order.
        average: "mean" or "median", of the seeds that survived.

    Returns:
        Indices in ascending order, at least one.
    """
    indices = reselected(costs, average=average)
    shares = np.bincount(indices, minlength=costs.shape[1]) / len(indices)
    likely = {*np.flatnonzero(shares >= PLAUSIBLE), *chosen(costs, average=average)}
    stride = len(rates) // len(np.unique(rates))
    beside = {index + step for index in likely for step in (-stride, 0, stride)}
    return np.array(sorted(beside & {*range(costs.shape[1])}))


def least_step(values: np.ndarray, *, metric: str) -> float:
    """Change of a metric by one of N test examples: 1/N for an accuracy, 0 for other metrics.

    Args:
        values: Values of runs with any seed, candidate and loss; 1/N is taken to be the least
            difference between two values. A few values may give too large a result; if all values
            are equal, the result is 1, so that no comparison is settled by equal values.
        metric: Name of the metric.
    """
    if metric.partition(":")[0] not in ("accuracy", "accuracy_clean"):
        return 0.0
    steps = np.diff(np.unique(values[np.isfinite(values)]))
    steps = steps[steps > TIE]  # float32 rounds equal shares apart
    return float(steps.min(initial=1.0))


@dataclass(frozen=True)
class Choice:
    """Results of one loss, and the candidates that its seeds and resamples of the seeds choose.

    Attributes:
        results: Values on test to judge, [S, R]; NaN where a run diverged.
        index: Index of the chosen candidate.
        again: Indices that resamples of the seeds choose, [D].
    """

    results: np.ndarray
    index: int
    again: np.ndarray

    @classmethod
    def of(cls, table: TuningTable, *, average: str) -> Choice:
        """Choose a candidate by the costs in a table."""
        again = reselected(table.costs, average=average)
        return cls(table.results, int(chosen(table.costs, average=average)[0]), again)

    @property
    def result(self) -> np.ndarray:
        """Values on test at the chosen candidate, [S]."""
        return self.results[:, self.index]


def difference(
    added: Sequence[Choice],
    subtracted: Sequence[Choice],
    *,
    confidence: float,
    average: str = "mean",
    resolution: float = 0.0,
) -> tuple[Estimate, Estimate]:
    """Difference between losses, each at its own choice, seed by seed, with two intervals.

    The first interval is that of the whole procedure: it includes the spread over seeds, and the
    uncertainty of the choice, because other seeds would have chosen other candidates. Either side
    has the length √(a² + b²): a is the length in the second interval, which takes the candidates as
    fixed; b is t times the standard deviation of the average difference when all candidates are
    chosen again on resampled seeds.

    Args:
        added: Choice of one loss; or of two, for a difference of differences.
        subtracted: Choice of the reference on the same seeds, with the same resamples; or of two.
        confidence: Coverage of each interval.
        average: "mean", with `mean_interval`, or "median", with its exact interval.
        resolution: Least step of the metric, 1/N for a share of N examples; 0 if it has none.
            If n seeds agree, all n N predictions agree, and neither side is shorter than the exact
            limit for a disagreement that was never observed: log(2 / (1 - confidence)) / (n N).

    Source:
        Thompson 1936, Annals of Mathematical Statistics, for the median; Clopper and Pearson 1934,
        Biometrika, for the limit; the coverage of both is measured in benchmarks/coverage.py.
    """
    signed = [*((1, one) for one in added), *((-1, one) for one in subtracted)]
    values = np.sum([sign * one.result for sign, one in signed], axis=0)
    return procedure_and_fixed_intervals(
        values[np.isfinite(values)],
        selection_sd=selection_sd(added, subtracted, average=average),
        confidence=confidence,
        average=average,
        resolution=resolution,
    )


def selection_sd(
    added: Sequence[Choice], subtracted: Sequence[Choice], *, average: str = "mean"
) -> float:
    """Standard deviation of an average difference when all candidates are chosen again.

    Args:
        added: Choices whose results count positively, see `difference`.
        subtracted: Choices whose results count negatively.
        average: Summary of the seeds: "mean" or "median".

    Returns:
        The standard deviation, in units of the metric; NaN if no pair survived.
    """
    signed = [*((1, one) for one in added), *((-1, one) for one in subtracted)]
    again = np.stack([one.again for _, one in signed])
    indices, counts = np.unique(again, axis=1, return_counts=True)
    parts = zip(signed, indices, strict=True)
    differences = np.sum([sign * one.results[:, index] for (sign, one), index in parts], axis=0)
    is_known = np.isfinite(differences).any(0)
    if not is_known.any():
        return np.nan
    once = np.ones((1, len(differences)))
    averages = AVERAGES[average](differences[:, is_known], once)[0]
    return float(np.repeat(averages, counts[is_known]).std())


def procedure_and_fixed_intervals(
    values: np.ndarray, *, selection_sd: float, confidence: float, average: str, resolution: float
) -> tuple[Estimate, Estimate]:
    """The two intervals of `difference`: of the whole procedure, and at fixed candidates.

    Both intervals grow with the confidence.

    Args:
        values: Differences of the pairs that survived at the chosen candidates, [n]; fewer than
            two have no interval.
        selection_sd: Standard deviation of the average when all candidates are chosen again.
        confidence: Coverage of each interval.
        average: Summary of the seeds: "mean" or "median".
        resolution: Least step of the metric, see `difference`.
    """
    if (n := len(values)) < 2:
        none = Estimate(float(values.mean()) if n else np.nan, np.nan, np.nan, n)
        return none, none
    center, low, high = INTERVALS[average](values, confidence)
    unseen = resolution * np.log(2 / (1 - confidence)) / n
    low, high = min(low, center - unseen), max(high, center + unseen)
    of_choice = half_width(selection_sd * np.sqrt(n), n, confidence)
    below, above = (float(np.hypot(side, of_choice)) for side in (center - low, high - center))
    return Estimate(center, center - below, center + above, n), Estimate(center, low, high, n)


def _of_mean(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    low, high = mean_interval(values, confidence=confidence)
    return float(values.mean()), float(low), float(high)


def _of_median(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """The median and its bounds from order statistics; infinite bounds for too few values."""
    median = float(np.median(values))
    interval = scipy.stats.quantile_test(values, q=median, p=0.5).confidence_interval(confidence)
    low, high = (
        end if np.isfinite(end) else without
        for end, without in zip(interval, (-np.inf, np.inf), strict=True)
    )
    return median, float(low), float(high)


INTERVALS = {"mean": _of_mean, "median": _of_median}
"""Functions that return an average of n values, and the bounds of its interval."""


def candidates(frame: pd.DataFrame, *, tuned: Sequence[str]) -> pd.Series:
    """Number of each run's candidate, ascending with the learning rate, then with other tuned keys.

    Args:
        frame: Runs, placed with the same `tuned`.
        tuned: Keys that are chosen for each loss; the learning rate is always one of them.
    """
    others = [key for key in tuned if key != "optimizer.lr"]  # missing for a loss without the key
    table = frame[["lr", *others]].astype(dict.fromkeys(others, str))
    return table.groupby(["lr", *others], dropna=False).ngroup()


def at_choice(
    frame: pd.DataFrame, rule: Rule, *, by: Sequence[str] = ("context", "loss")
) -> pd.DataFrame:
    """The runs of each loss at the candidate that is chosen on all seeds of the loss.

    Args:
        frame: One row a run, with `candidate` and `selected_by`, see `tuning_table`.
        rule: Rule with the metric to choose by, `select`, and the average over the seeds.
        by: Columns of the groups in each of which a candidate is chosen: with `lr`, one per rate.
    """
    needed = ["seed", "status", "candidate", "lr", "selected_by", *by]
    rows = frame[[*dict.fromkeys(needed)]].reset_index(drop=True)  # wide tables are slow to slice
    places = []
    for _, cell in rows.groupby([*by], sort=False):
        table = costs_alone(cell, rule, seeds=[*{*cell.seed}])
        if len(table.candidates):
            candidate = table.candidates[chosen(table.costs, average=rule.average)[0]]
        else:  # no candidate has run on every seed: take the one with the most runs
            candidate = cell.candidate.value_counts().sort_index().idxmax()
        places.extend(cell.index[cell.candidate == candidate])
    return frame.iloc[places]
