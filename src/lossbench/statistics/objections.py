"""What a strict reader would hold against the verdicts of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pandas as pd

from lossbench import records
from lossbench.statistics.comparisons import Comparison
from lossbench.statistics.intervals import FEWEST_PAIRS

WIDEST = 10.1
"""Factor from one learning rate to the next that still tells which suits a loss."""


def objections(sweep: records.Records, comparisons: Iterable[Comparison]) -> list[str]:
    """What a strict reader would hold against the verdicts of a sweep, a sentence each.

    Args:
        sweep: Whose verdicts.
        comparisons: From `all_comparisons`.

    Returns:
        Missing and failed runs, pairs that were refused, comparisons that were not declared
        beforehand, have too few pairs or too coarse a grid of learning rates; none where the
        sweep is what it claims to be.
    """
    sentences = []
    for status, words in {"failed": "failed", "missing": "are missing"}.items():
        if count := int((sweep.runs.status == status).sum()):
            sentences.append(f"{count} of {len(sweep.runs)} runs {words}.")
    for one in comparisons:
        where = f"{one.label} ({one.condition})"
        if one.refusal:
            sentences.append(f"{where}: no pairs, {one.refusal}")
        if one.stage != "confirm":
            sentences.append(f"{where}: nothing was confirmed on fresh seeds.")
            continue
        late = one.paired.loss[one.paired.exploratory.astype(bool)]
        if len(late):
            sentences.append(f"{where}: not declared before the first run: {', '.join(late)}.")
        if one.absent:
            sentences.append(f"{where}: declared, and not confirmed: {', '.join(one.absent)}.")
        if one.is_main and (objection := unequal_budgets(one.budgets)):
            sentences.append(f"{where}: {objection}")
        if one.is_main and (objection := coarse_grid(one.rates)):
            sentences.append(f"{where}: {objection}")
        undefined = one.paired.loss[one.paired.undefined.astype(bool)]
        if len(undefined):
            sentences.append(
                f"{where}: {one.metric} has no value in runs of {', '.join(undefined)}."
            )
        short = one.paired.loss[one.paired.verdict == "too few pairs"]
        if len(short):
            sentences.append(
                f"{where}: fewer than {FEWEST_PAIRS} pairs, so no verdict: {', '.join(short)}."
            )
    return sentences


def unequal_budgets(budgets: pd.DataFrame) -> str:
    """A sentence where losses of a context were not tuned alike, else nothing.

    Args:
        budgets: From `budgets`, of one context.
    """
    if len(budgets[["trials", "tuning_runs"]].drop_duplicates()) < 2:
        return ""
    spent = ", ".join(
        f"{row.loss} {row.trials} in {row.tuning_runs}" for row in budgets.itertuples()
    )
    return f"budgets differ, so these losses were not tuned alike; candidates in runs: {spent}."


def coarse_grid(rates: pd.DataFrame) -> str:
    """A sentence where neighbouring learning rates lie more than a decade apart, else nothing.

    Args:
        rates: With a column `lr`.
    """
    tried = sorted({*rates.lr})
    apart = max((high / low for low, high in itertools.pairwise(tried) if low > 0), default=1.0)
    if apart <= WIDEST:
        return ""
    return (
        f"the learning rates tried lie up to a factor of {apart:.3g} apart, too far to say which "
        "suits a loss: verdicts may be those of the grid, not of the losses."
    )
