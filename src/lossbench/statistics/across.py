"""One number for many tasks: normalised scores, their interquartile mean, profiles and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.design import refuse_unequal
from lossbench.statistics.intervals import estimate


def normalised(
    frame: pd.DataFrame, *, metric: str, reference: str, start: Mapping[str, float]
) -> pd.DataFrame:
    """Scores that mean the same in every task: 0 is no training, 1 the reference's mean.

    Args:
        frame: From `endpoint`, one row a run; condition by condition, see `with_reference`.
        metric: Column to normalise.
        reference: The loss whose mean in the context and condition is 1.
        start: Value of the metric without training, by context: 1 for rmse on a standardised
            target, 1/C for accuracy.

    Returns:
        The done and diverged runs with column `score`. A diverged run has the worst score of its
        context and condition, and at best 0.
    """
    mine = frame[frame.status.isin(records.RESULTS)]
    cell = [mine.context, mine.condition]
    zero = mine.context.map(start).astype(float)
    one = mine[metric].where(mine.loss == reference).groupby(cell).transform("mean")
    score = (mine[metric].astype(float) - zero) / (one - zero)
    worst = score.groupby(cell).transform("min").clip(upper=0)
    return mine.assign(score=score.mask(mine.status == "diverged", worst))


def iqm(
    scores: pd.DataFrame, *, confidence: float = 0.95, draws: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """Interquartile mean over tasks and seeds: the mean of the middle half of all scores.

    Args:
        scores: Columns context, loss and `score`, one row a run, higher is better; a score that is
            no number counts as worse than any.
        confidence: Coverage of the percentile interval; runs are resampled within each task.
        draws: Resamples.
        seed: Of the resamples.

    Returns:
        One row a loss: loss, value, low, high, n runs, `tasks`.

    Source:
        Agarwal et al. 2021, NeurIPS.
    """

    def middle(tasks: Sequence[np.ndarray]) -> np.ndarray:
        ordered = np.sort(np.concatenate(tasks, -1), -1)
        cut = ordered.shape[-1] // 4
        return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)

    rows = [
        {"loss": loss, **_stratified(tasks, middle, confidence, draws, seed)}
        for loss, tasks in _by_task(scores).items()
    ]
    return pd.DataFrame(rows)


def performance_profile(
    scores: pd.DataFrame,
    *,
    taus: Sequence[float],
    confidence: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of runs whose score is at or above each threshold, every task with equal weight.

    Args:
        scores: As for `iqm`.
        taus: Thresholds, in units of the score.
        confidence: Pointwise coverage of the percentile interval; runs are resampled within tasks.
        draws: Resamples.
        seed: Of the resamples.

    Returns:
        Rows by loss and `tau`: value (the share), low, high, n runs, `tasks`.

    Source:
        Agarwal et al. 2021, NeurIPS (there strictly above); Dolan and More 2002.
    """
    rows = []
    for loss, tasks in _by_task(scores).items():
        for tau in taus:

            def above(tasks: Sequence[np.ndarray], tau: float = tau) -> np.ndarray:
                return np.mean([(task >= tau).mean(-1) for task in tasks], 0)

            estimates = _stratified(tasks, above, confidence, draws, seed)
            rows.append({"loss": loss, "tau": tau, **estimates})
    return pd.DataFrame(rows)


def _by_task(scores: pd.DataFrame) -> dict[str, list[np.ndarray]]:
    """Scores of each loss by task; what is no number is the worst there is."""
    table = scores.assign(score=scores.score.astype(float).fillna(-np.inf))
    return {
        str(loss): [cell.score.to_numpy() for _, cell in runs.groupby("context")]
        for loss, runs in table.groupby("loss")
    }


def _stratified(
    tasks: Sequence[np.ndarray],
    statistic: Callable[[Sequence[np.ndarray]], np.ndarray],
    confidence: float,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """A statistic of the tasks' scores, with its percentile interval over stratified resamples."""
    draw = np.random.default_rng(seed)  # the same for every loss, so losses share their resamples
    resampled = [task[draw.integers(len(task), size=(draws, len(task)))] for task in tasks]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    # An order statistic, because infinite scores have no weighted mean.
    low, high = np.quantile(statistic(resampled), tails, method="inverted_cdf")
    shared = {"n": sum(map(len, tasks)), "tasks": len(tasks)}
    return {"value": float(statistic(tasks)), "low": float(low), "high": float(high), **shared}


def mean_ranks(frame: pd.DataFrame, *, metric: str, confidence: float = 0.95) -> pd.DataFrame:
    """Mean rank of each loss over tasks: 1 is best, ties share, a diverged run is last.

    Losses are ranked within each seed, ranks averaged over the seeds of a task, then over tasks.
    Seeds are no tasks: n and the interval count tasks.

    Args:
        frame: From `endpoint`, one row a run; condition by condition, see `with_reference`.
        metric: Its direction is `records.direction(metric)`.
        confidence: Coverage of the t interval over tasks.

    Returns:
        Rows by condition and loss: value (mean rank), low, high, n tasks, `losses` ranked.

    Raises:
        ValueError: A loss lacks a task, or a task has no seed in which every loss ended.

    Source:
        Demsar 2006, JMLR.
    """
    rows = []
    for condition, mine in frame.groupby("condition", sort=False):
        ranks = pd.DataFrame(
            {context: _ranks(cell, metric) for context, cell in mine.groupby("context")}
        )
        for loss, across in ranks.iterrows():
            if across.isna().any():
                lacking = ", ".join(across.index[across.isna()])
                raise ValueError(
                    f"{loss} has no rank in context {lacking}: give tasks in which every loss ran"
                )
            mean = vars(estimate(across, confidence=confidence))
            rows.append({"condition": condition, "loss": loss, **mean, "losses": len(ranks)})
    return pd.DataFrame(rows)


def _ranks(cell: pd.DataFrame, metric: str) -> pd.Series:
    """Mean rank of each loss over those seeds of a context in which every loss ended."""
    refuse_unequal(cell)
    ended = cell[cell.status.isin(records.RESULTS)]
    whole = ended.groupby("seed").loss.transform("nunique") == cell.loss.nunique()
    runs, sign = ended[whole], -records.sign(metric)
    cost = (sign * runs[metric].astype(float)).mask(runs.status == "diverged", np.inf)
    return cost.groupby(runs.seed).rank(method="average").groupby(runs.loss).mean()
