"""The cost of a learning rate that was selected on corrupted validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from lossbench import records
from lossbench.statistics.choice import at_choice, candidates
from lossbench.statistics.design import FACTS, endpoint, placed
from lossbench.statistics.intervals import estimate
from lossbench.statistics.rule import Rule

SELECTED = [*FACTS, "selected_by", "metric", "noisy_lr", "clean_lr", "is_same", "noisy_value"]
SELECTED += ["clean_value", "cost", "low", "high", "n", "lost", "confidence"]
"""Columns of `selection_cost`."""


def selection_cost(
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    rule: Rule,
    *,
    at: str = "last",
    tuned: Sequence[str] = (),
) -> pd.DataFrame:
    """Cost to each loss of choosing on corrupted validation, compared with clean validation.

    Both choices are made by `choice.chosen` among the same candidates, evaluated at the same steps.
    The clean choice has the best mean of the clean metric on these seeds:
    without divergence the cost cannot be negative, and is somewhat more than an oracle would
    gain on fresh seeds. If a run diverged, so that means and pairs are over different seeds, or if
    the median chooses, the cost can be negative.

    Args:
        runs: Table `runs`, or from `placed`, of one kind of task, with every candidate on
            every seed.
        evals: Table `evals`.
        rule: Its `select` is the metric that the sweep chose by, its confidence the coverage of
            each interval, not adjusted for the number of intervals.
        at: The declared endpoint, "last" or "best".
        tuned: Keys tuned beside the learning rate, as given to `placed`.

    Returns:
        Rows by `FACTS` of contexts with corrupted targets: selected_by, metric (that of
        `records.CLEAN`), noisy_lr and clean_lr (rates of the two choices), is_same (whether the
        candidates are equal), noisy_value and clean_value (means of the clean metric at the two
        choices over seeds that survived), cost (mean over seeds by which the noisy choice is worse,
        in units of the metric) with its paired t interval, n pairs in which both runs survived,
        lost pairs in which a run did not.
    """
    mine = placed(runs, tuned=tuned)
    corrupted = evals.run_id[evals.metric.isin([*records.CLEAN.values()])]
    mine = mine[mine.context.isin(mine.context[mine.run_id.isin(corrupted)])]
    if mine.empty:
        return pd.DataFrame(columns=SELECTED)
    clean, rows = records.CLEAN[str(mine.task.dropna().iloc[0])], []
    frame = endpoint(mine, evals, split="validation", metric=[rule.select, clean], endpoint=at)
    frame["candidate"] = candidates(frame, tuned=tuned)
    for facts, cell in frame.groupby(FACTS, sort=False, dropna=False):
        noisy, oracle = (
            at_choice(cell.assign(selected_by=cell[name]), replace(rule, select=name))
            for name in (rule.select, clean)
        )
        noisy, oracle = noisy.set_index("seed"), oracle.set_index("seed")
        cost = -records.sign(clean) * (noisy[clean] - oracle[clean])
        mean = estimate(cost, confidence=rule.confidence)
        row = {
            "selected_by": rule.select,
            "metric": clean,
            "noisy_lr": noisy.lr.iloc[0],
            "clean_lr": oracle.lr.iloc[0],
            "is_same": bool(noisy.candidate.iloc[0] == oracle.candidate.iloc[0]),
            "noisy_value": noisy[clean].mean(),
            "clean_value": oracle[clean].mean(),
            "cost": mean.value,
            "lost": int(cost.isna().sum()),
            "confidence": rule.confidence,
        }
        rows.append(dict(zip(FACTS, facts, strict=True)) | row | vars(mean))
    return pd.DataFrame(rows, columns=SELECTED)
