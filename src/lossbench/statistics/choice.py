"""Which candidate a loss is judged at, and how far a difference rests on that choice's luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

from lossbench import records
from lossbench.statistics.intervals import Estimate, half_width, mean_interval, resamples

TIE = 1e-6
"""Share of a cost within which averages are equal: what float32 cannot tell apart."""

RESAMPLES = 400
"""Resamples of the seeds on which candidates are chosen again."""

PLAUSIBLE = 0.02
"""Share of the resamples that must choose a candidate so that it is still plausible."""


@dataclass(frozen=True)
class Trials:
    """Runs of one loss: every candidate that was trained on every seed.

    Attributes:
        candidates: R of them, by learning rate.
        rates: The learning rate of each, [R].
        run_ids: [S, R].
        costs: What chooses among candidates, on validation, lower is better, [S, R]; NaN where a
            run diverged.
        results: What is judged, on test, [S, R]; likewise.
        diverged: [S, R].
    """

    candidates: np.ndarray
    rates: np.ndarray
    run_ids: np.ndarray
    costs: np.ndarray
    results: np.ndarray
    diverged: np.ndarray


def trials(runs: pd.DataFrame, *, metric: str, select: str, seeds: Sequence[int]) -> Trials:
    """The runs of one loss on some seeds, laid out by seed and candidate.

    Args:
        runs: One row a run, with `candidate` (a number, ascending with the learning rate), the
            metric on test, and `selected_by`, the value on validation that chooses.
        metric: What is judged.
        select: The metric that `selected_by` is a value of.
        seeds: A candidate that lacks one of them is left out.
    """
    rows = np.flatnonzero(runs.seed.isin(seeds) & runs.status.isin(records.RESULTS))
    observed, seed_of = np.unique(runs.seed.to_numpy()[rows], return_inverse=True)
    listed, candidate_of = np.unique(runs.candidate.to_numpy()[rows], return_inverse=True)
    place = np.full((len(observed), len(listed)), -1)
    place[seed_of, candidate_of] = rows
    is_complete = (place >= 0).all(0) & (len(observed) == len({*seeds}))
    place = place[:, is_complete]
    costs = -records.sign(select) * runs.selected_by.to_numpy(dtype=float)[place]
    return Trials(
        candidates=listed[is_complete],
        rates=runs.lr.to_numpy(dtype=float)[place[:1].ravel()],
        run_ids=runs.get("run_id", runs.index.to_series()).to_numpy(dtype=object)[place],
        costs=np.where(np.isfinite(costs), costs, np.nan),
        results=runs[metric].to_numpy(dtype=float)[place],
        diverged=runs.status.eq("diverged").to_numpy()[place],
    )


def chosen(
    costs: np.ndarray, weights: np.ndarray | None = None, *, average: str = "mean"
) -> np.ndarray:
    """Place of the best candidate: the fewest diverged runs, then the least average over seeds.

    What is averaged is how far a candidate lies behind the best one of its seed. Where no run
    diverged the mean chooses alike without that; candidates that diverged on different seeds would
    be compared by how hard the seeds are that each survived, and the median would choose by
    whichever seed happens to lie in the middle.
    Of candidates that do equally well the middle one is chosen: the edge of a plateau is where a
    small change matters most.

    Args:
        costs: [S, R] on validation; NaN where a run diverged.
        weights: How often each seed counts, [D, S]; None counts each once.
        average: "mean" or "median", of the seeds that survived.

    Returns:
        Places, [D], or [1].
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
    """Weighted mean over seeds of the finite values, [D, R]; 0 where there are none."""
    is_there = np.isfinite(values)
    return weights @ np.where(is_there, values, 0.0) / np.maximum(weights @ is_there, 1)


def _medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median over seeds, each counted as often as its weight says; likewise."""
    order = np.argsort(values, axis=0)  # NaN last
    ordered = np.take_along_axis(np.where(np.isfinite(values), values, 0.0), order, 0)
    is_there = np.take_along_axis(np.isfinite(values), order, 0)
    below = np.cumsum(weights[:, order] * is_there, axis=1)  # [D, S, R]
    half = below[:, -1:] / 2
    places = (below < half).sum(1), (below <= half).sum(1)
    ends = [np.minimum(place, len(values) - 1) for place in places]
    return (np.take_along_axis(ordered, ends[0], 0) + np.take_along_axis(ordered, ends[1], 0)) / 2


AVERAGES = {"mean": _means, "median": _medians}
"""How seeds are summarised, in the choice and in what is judged."""


def chosen_again(costs: np.ndarray, *, average: str = "mean") -> np.ndarray:
    """Places that other seeds like these would choose, one for each resample of them, [D]."""
    return chosen(costs, resamples(len(costs), draws=RESAMPLES), average=average)


def plausible(costs: np.ndarray, rates: np.ndarray, *, average: str = "mean") -> np.ndarray:
    """Places of the candidates that other seeds might choose, and of those one rate beside them.

    Args:
        costs: See `chosen`, [S, R].
        rates: The learning rate of each candidate, ascending, [R]; of what else is tuned there are
            as many values at every rate, in the same order.
        average: See `chosen`.

    Returns:
        Ascending, at least one.
    """
    places = chosen_again(costs, average=average)
    shares = np.bincount(places, minlength=costs.shape[1]) / len(places)
    likely = {*np.flatnonzero(shares >= PLAUSIBLE), *chosen(costs, average=average)}
    stride = len(rates) // len(np.unique(rates))
    beside = {place + step for place in likely for step in (-stride, 0, stride)}
    return np.array(sorted(beside & {*range(costs.shape[1])}))


def least_step(values: np.ndarray, *, metric: str) -> float:
    """What one test example is worth, 1/N, of a metric that counts them; 0 of others.

    Args:
        values: Of runs with any seed, candidate and loss: the least step between shares of N
            examples. A few of them may show a longer step; equal ones show none, and count as
            shares of one example, so that nothing is settled by them.
        metric: Which one.
    """
    if metric.partition(":")[0] not in ("accuracy", "accuracy_clean"):
        return 0.0
    steps = np.diff(np.unique(values[np.isfinite(values)]))
    steps = steps[steps > TIE]  # float32 rounds equal shares apart
    return float(steps.min(initial=1.0))


@dataclass(frozen=True)
class Choice:
    """The runs of one loss on some seeds, and the candidate that they, or others, choose.

    Attributes:
        results: What is judged, on test, [S, R]; NaN where a run diverged.
        place: The chosen candidate's.
        again: Places that resamples of the seeds choose, [D].
    """

    results: np.ndarray
    place: int
    again: np.ndarray

    @classmethod
    def of(cls, its: Trials, *, average: str) -> Choice:
        """The choice that a loss makes on its own validation."""
        again = chosen_again(its.costs, average=average)
        return cls(its.results, int(chosen(its.costs, average=average)[0]), again)

    @property
    def result(self) -> np.ndarray:
        """On test at the chosen candidate, [S]."""
        return self.results[:, self.place]


def difference(
    added: Sequence[Choice],
    subtracted: Sequence[Choice],
    *,
    confidence: float,
    average: str = "mean",
    resolution: float = 0.0,
) -> tuple[Estimate, Estimate]:
    """Difference between losses, each at its own choice, seed by seed, with two intervals.

    The first is that of the whole procedure: it holds the spread over seeds, and that other seeds
    would have chosen other candidates. Either side is √(a² + b²): a is that of the second interval,
    at these candidates as if nobody had chosen them; b is t times the standard deviation of the
    average difference when all candidates are chosen again on resampled seeds.

    Args:
        added: One loss; or two, for a difference of differences.
        subtracted: The reference on the same seeds, with the same resamples; or two.
        confidence: Coverage of each interval.
        average: "mean", with `mean_interval`, or "median", with its exact interval.
        resolution: Least step of the metric, 1/N for a share of N examples; 0 if it has none.
            Where n seeds agree, all of n N predictions did, and no interval is shorter than the
            exact limit of what they never showed: log(2 / (1 - confidence)) / (n N).

    Source:
        Thompson 1936, Annals of Mathematical Statistics, for the median; Clopper and Pearson 1934,
        Biometrika, for what was never seen; what both cover: benchmarks/coverage.py.
    """
    signed = [*((1, one) for one in added), *((-1, one) for one in subtracted)]
    values = np.sum([sign * one.result for sign, one in signed], axis=0)
    return two_intervals(
        values[np.isfinite(values)],
        luck=luck(added, subtracted, average=average),
        confidence=confidence,
        average=average,
        resolution=resolution,
    )


def luck(added: Sequence[Choice], subtracted: Sequence[Choice], *, average: str = "mean") -> float:
    """Standard deviation of an average difference when all candidates are chosen again.

    Args:
        added: As of `difference`.
        subtracted: Likewise.
        average: Likewise.

    Returns:
        NaN where no pair survived.
    """
    signed = [*((1, one) for one in added), *((-1, one) for one in subtracted)]
    again = np.stack([one.again for _, one in signed])
    places, counts = np.unique(again, axis=1, return_counts=True)
    parts = zip(signed, places, strict=True)
    differences = np.sum([sign * one.results[:, place] for (sign, one), place in parts], axis=0)
    is_known = np.isfinite(differences).any(0)
    if not is_known.any():
        return np.nan
    once = np.ones((1, len(differences)))
    averages = AVERAGES[average](differences[:, is_known], once)[0]
    return float(np.repeat(averages, counts[is_known]).std())


def two_intervals(
    values: np.ndarray, *, luck: float, confidence: float, average: str, resolution: float
) -> tuple[Estimate, Estimate]:
    """The two intervals of `difference`, from what the chosen candidates gave; both grow with it.

    Args:
        values: Differences of the pairs that survived, [n]; fewer than two have no interval.
        luck: Standard deviation of the average when all candidates are chosen again.
        confidence: Likewise.
        average: Likewise.
        resolution: Likewise.
    """
    if (n := len(values)) < 2:
        none = Estimate(float(values.mean()) if n else np.nan, np.nan, np.nan, n)
        return none, none
    center, low, high = INTERVALS[average](values, confidence)
    unseen = resolution * np.log(2 / (1 - confidence)) / n
    low, high = min(low, center - unseen), max(high, center + unseen)
    chosen_again = half_width(luck * np.sqrt(n), n, confidence)
    below, above = (float(np.hypot(side, chosen_again)) for side in (center - low, high - center))
    return Estimate(center, center - below, center + above, n), Estimate(center, low, high, n)


def _of_mean(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    low, high = mean_interval(values, confidence=confidence)
    return float(values.mean()), float(low), float(high)


def _of_median(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """The median, and order statistics around it; infinite with too few values."""
    median = float(np.median(values))
    interval = scipy.stats.quantile_test(values, q=median, p=0.5).confidence_interval(confidence)
    low, high = (
        end if np.isfinite(end) else without
        for end, without in zip(interval, (-np.inf, np.inf), strict=True)
    )
    return median, float(low), float(high)


INTERVALS = {"mean": _of_mean, "median": _of_median}
"""An average and its interval, from n values."""


def candidates(frame: pd.DataFrame, *, tuned: Sequence[str]) -> pd.Series:
    """A number for each candidate, ascending with the learning rate, then with what else is tuned.

    Args:
        frame: Runs, placed with the same `tuned`.
        tuned: Keys that are chosen for each loss; the learning rate always is.
    """
    others = [key for key in tuned if key != "optimizer.lr"]  # missing where a loss has no such
    table = frame[["lr", *others]].astype(dict.fromkeys(others, str))
    return table.groupby(["lr", *others], dropna=False).ngroup()


def at_choice(
    frame: pd.DataFrame,
    *,
    select: str,
    average: str = "mean",
    by: Sequence[str] = ("context", "loss"),
) -> pd.DataFrame:
    """The runs of each loss at the candidate that it chooses on all of its seeds.

    Args:
        frame: One row a run, with `candidate` and `selected_by`, see `trials`.
        select: The metric that `selected_by` is a value of.
        average: Of the seeds: "mean" or "median".
        by: Columns within whose values it chooses: with `lr`, what else is tuned at each rate.
    """
    needed = ["seed", "status", "candidate", "lr", "selected_by", *by]
    rows = frame[[*dict.fromkeys(needed)]].reset_index(drop=True)  # wide tables are slow to cut
    places = []
    for _, mine in rows.groupby([*by], sort=False):
        seeds = [*{*mine.seed}]
        its = trials(mine, metric="selected_by", select=select, seeds=seeds)
        if len(its.candidates):
            candidate = its.candidates[chosen(its.costs, average=average)[0]]
        else:  # none has run on every seed: the one that has on most
            candidate = mine.candidate.value_counts().sort_index().idxmax()
        places.extend(mine.index[mine.candidate == candidate])
    return frame.iloc[places]
