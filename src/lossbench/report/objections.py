"""What a strict reader would hold against the verdicts of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pandas as pd

from lossbench import records
from lossbench.report.words import MANY_ERRORS, fragility, seen_text
from lossbench.statistics.comparisons import Comparison
from lossbench.statistics.declared import declaration_of
from lossbench.statistics.intervals import FEWEST_PAIRS

WORDS = {
    "undefined": "{} has no value in runs of",
    "incomplete": "runs failed or are missing, so there is no verdict",
    "too few pairs": f"fewer than {FEWEST_PAIRS} pairs, so there is no verdict",
    "undecided": "undecided after all the seeds there are",
}
"""What is held against a verdict; {} is the metric."""

WIDE = 0.5
"""Share of the reference's error on test that a margin may be."""

WIDEST = 10.1
"""Factor from one learning rate to the next that still tells which suits a loss."""


def of_sweep(sweep: records.Records, comparisons: Iterable[Comparison]) -> list[str]:
    """What a strict reader would hold against the verdicts of a sweep, a sentence each.

    Args:
        sweep: Whose verdicts.
        comparisons: From `Verdicts.comparisons`.

    Returns:
        Missing and failed runs, what is unsound about a loss, pairs that were refused, comparisons
        that were not declared beforehand or whose runs had been seen, are undecided, have too few
        pairs, a margin that is a large part of the reference's error, a grid of learning rates that
        is too coarse or too short, were still improving, or rest on one seed; none where nothing
        is to be said.
    """
    sentences = []
    if declaration_of(sweep.plan)["size"] == "smoke":
        sentences.append("size=smoke shows that every part runs; its verdicts mean nothing.")
    for status, words in {"failed": "failed", "missing": "are missing"}.items():
        if count := int((sweep.runs.status == status).sum()):
            sentences.append(f"{count} of {len(sweep.runs)} runs {words}.")
    for name, facts in sweep.plan["losses"].items():
        # Sweeps of before have not recorded it.
        sentences += [f"{name} {clause}." for clause in facts.get("unsound", ())]
    for one in comparisons:
        where = one.label
        if not one.is_main:
            where += f" {records.CONDITIONS[one.condition].short}"
        if one.refusal:
            sentences.append(f"{where}: no pairs, {one.refusal}")
        if not one.is_declared:
            sentences.append(f"{where}: nothing was declared before its runs.")
            continue
        if not one.is_main:
            continue
        if one.late:
            sentences.append(f"{where}: not declared before the first run: {', '.join(one.late)}.")
        if text := seen_text(one.seen, count=len(one.runs)):
            sentences.append(f"{where}: {text}.")
        if one.absent:
            sentences.append(f"{where}: declared, and not run: {', '.join(one.absent)}.")
        grid = (unequal_budgets(one.budgets), coarse_grid(one.rates), edge_of_grid(one))
        for text in (wide_margin(one), *grid):
            if text:
                sentences.append(f"{where}: {text}")
        for word, why in WORDS.items():
            losses = one.paired.loss[one.paired.verdict == word]
            if len(losses):
                sentences.append(f"{where}: {why.format(one.metric)}: {', '.join(losses)}.")
        if improving := still_improving(one):
            sentences.append(
                f"{where}: still improving at the last step in most runs: {', '.join(improving)}."
            )
        for row in one.paired.to_dict("records"):
            if text := fragility(row):
                sentences.append(f"{where}: {row['loss']}: {text}.")
    return sentences


def still_improving(comparison: Comparison) -> list[str]:
    """Losses of which validation was best at the last step, in most runs."""
    rows = comparison.summary[comparison.summary.metric == comparison.metric]
    return [row.loss for row in rows.itertuples() if 2 * row.improving > row.n > 0]


def wide_margin(comparison: Comparison) -> str:
    """A sentence where the margin is a large part of the reference's own error, else nothing.

    A share of the error on validation is, where validation carries noise that test does not.

    Args:
        comparison: With its `summary`.
    """
    rows, metric = comparison.summary, comparison.metric
    value = rows.value[(rows.loss == comparison.reference) & (rows.metric == metric)].mean()
    error, margin = abs(value - records.metric_of(metric).perfect), comparison.margin.value
    if not margin > WIDE * error:
        return ""
    if 100 * margin >= MANY_ERRORS * error:
        size = f"more than {MANY_ERRORS // 100} times"
    else:
        size = f"{margin / error:.0%} of"
    return (
        f"the margin, ±{margin:g}, is {size} the error of {comparison.reference} on test: "
        "differences of that size count as none; where they matter declare a smaller one, in a "
        "sweep of its own."
    )


def unequal_budgets(budgets: pd.DataFrame) -> str:
    """A sentence where losses of a context were not tuned alike, else nothing.

    Args:
        budgets: From `budgets`, of one context.
    """
    if budgets.candidates.nunique() < 2:
        return ""
    spent = ", ".join(f"{row.loss} {row.candidates}" for row in budgets.itertuples())
    return f"budgets differ, so these losses were not tuned alike; candidates: {spent}."


def edge_of_grid(comparison: Comparison) -> str:
    """A sentence where a chosen learning rate is the first or last of three or more, else nothing.

    Args:
        comparison: With its `rates`.
    """
    edge = []
    for loss, rates in comparison.rates.groupby("loss", sort=False):
        best = rates.lr[rates.best.astype(bool)]
        if rates.lr.nunique() > 2 and best.isin([rates.lr.min(), rates.lr.max()]).any():
            edge.append(str(loss))
    if not edge:
        return ""
    return f"best learning rate on the edge of the grid, maybe not the best: {', '.join(edge)}."


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
