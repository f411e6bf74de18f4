"""Objections of a strict reader to the verdicts of a sweep."""

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
"""Objection to each verdict; {} is the metric."""

WIDE = 0.5
"""Largest share of the reference's error on test that a margin may be without an objection."""

WIDEST = 10.1
"""Largest factor between neighbouring learning rates without an objection."""


def of_sweep(sweep: records.Records, comparisons: Iterable[Comparison]) -> list[str]:
    """Objections to the verdicts of a sweep, one sentence each, from `Verdicts.comparisons`."""
    sentences = []
    if declaration_of(sweep.plan)["size"] == "smoke":
        sentences.append("size=smoke shows that every part runs; its verdicts mean nothing.")
    for status, words in {"failed": "failed", "missing": "are missing"}.items():
        if count := int((sweep.runs.status == status).sum()):
            sentences.append(f"{count} of {len(sweep.runs)} runs {words}.")
    for name, facts in sweep.plan["losses"].items():
        # Older sweeps have not recorded `unsound`.
        sentences += [f"{name} {clause}." for clause in facts.get("unsound", ())]
    for one in comparisons:
        where = one.label
        if not one.is_main:
            where += f" {records.CONDITIONS[one.condition].short}"
        if one.refusal:
            sentences.append(f"{where}: no pairs, {one.refusal}")
        if not one.is_declared:
            sentences.append(f"{where}: nothing was declared before its runs.")
        if not one.is_main or not one.is_declared:
            continue
        if one.late:
            sentences.append(f"{where}: not declared before the first run: {', '.join(one.late)}.")
        if text := seen_text(one.seen, count=len(one.runs)):
            sentences.append(f"{where}: {text}.")
        if one.absent:
            sentences.append(f"{where}: declared, and not run: {', '.join(one.absent)}.")
        grid = (unequal_budgets(one.budgets), coarse_grid(one.rates), edge_of_grid(one))
        sentences += [f"{where}: {text}" for text in (wide_margin(one), *grid) if text]
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
    """Losses whose validation was best at the last step in most runs."""
    rows = comparison.summary[comparison.summary.metric == comparison.metric]
    return [row.loss for row in rows.itertuples() if 2 * row.improving > row.n > 0]


def wide_margin(comparison: Comparison) -> str:
    """Sentence if the margin is a large part of the reference's error on test, else empty.

    A margin that is a share of the error on validation is so large if only validation has noise.
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
    """Sentence if losses of a context had different numbers of candidates, else empty."""
    if budgets.candidates.nunique() < 2:
        return ""
    spent = ", ".join(f"{row.loss} {row.candidates}" for row in budgets.itertuples())
    return f"budgets differ, so these losses were not tuned alike; candidates: {spent}."


def edge_of_grid(comparison: Comparison) -> str:
    """Sentence if a chosen learning rate is the first or last of three or more, else empty."""
    edge = []
    for loss, rates in comparison.rates.groupby("loss", sort=False):
        best = rates.lr[rates.best.astype(bool)]
        if rates.lr.nunique() > 2 and best.isin([rates.lr.min(), rates.lr.max()]).any():
            edge.append(str(loss))
    if not edge:
        return ""
    return f"best learning rate on the edge of the grid, maybe not the best: {', '.join(edge)}."


def coarse_grid(rates: pd.DataFrame) -> str:
    """Sentence if neighbouring learning rates lie more than a decade apart, else empty."""
    tried = sorted({*rates.lr})
    apart = max((high / low for low, high in itertools.pairwise(tried) if low > 0), default=1.0)
    if apart <= WIDEST:
        return ""
    return (
        f"the learning rates tried lie up to a factor of {apart:.3g} apart, too far to say which "
        "suits a loss: verdicts may be those of the grid, not of the losses."
    )
