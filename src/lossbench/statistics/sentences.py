"""Verdicts in words: the table a paper quotes, and one sentence for each of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.design import BORROWED
from lossbench.statistics.intervals import FEWEST_PAIRS

VERDICTS = ["task", "loss", "reference", "condition", "metric", "unit", "direction", "estimate"]
VERDICTS += ["low", "high", "n", "diverged", "margin", "p_holm", "verdict", "steps"]
VERDICTS += ["still_improving", "exploratory", "boot_low", "boot_high", "p_wilcoxon_holm"]
VERDICTS += ["wins", "trials", "pairs_needed", "confidence", "reference_diverged"]
"""Columns of `verdicts`."""

WORDS = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent within {margin:g}",
    "different but below the margin": "different but below {margin:g}",
    "not distinguishable": "not distinguishable with {pairs} seeds, {needed} needed",
    "diverges": "diverges in {diverged} of {planned} runs",
    "reference diverges": "the reference diverges in {reference_diverged} of {others} runs",
    "both diverge": "both diverge, in {diverged} of {planned} and {reference_diverged} of {others} "
    "runs",
    "incomplete": "incomplete: {unfinished} of {all} runs failed or are missing",
    "undefined": "undefined in {undefined} of {planned} pairs",
    "too few pairs": f"too few pairs: {{pairs}}, a verdict needs {FEWEST_PAIRS}",
}
"""What each verdict of `paired` reads like."""


def verdicts(
    paired: pd.DataFrame, summary: pd.DataFrame, *, steps: int | Mapping[str, int]
) -> pd.DataFrame:
    """The comparisons as they are published: one row each, with the verdict in words.

    Args:
        paired: From `paired`.
        summary: From `summary`, of the same runs and metrics.
        steps: Update budget of a run, or that of each context.

    Returns:
        Columns `VERDICTS`. `task` is the context's label, `estimate` is loss - reference in units
        of the metric, n counts pairs. `still_improving`: validation was best at the last step in
        most runs of the loss or the reference, so a longer training may turn the verdict.
    """
    rows = []
    for row in paired.to_dict("records"):
        mine, theirs = (_outcome(summary, row, row[name]) for name in ("loss", "reference"))
        rows.append(
            row
            | {
                "task": row["label"],
                "estimate": row["difference"],
                "n": row["pairs"],
                "unit": records.metric_of(row["metric"]).unit,
                "direction": records.direction(row["metric"]),
                "verdict": _in_words(row, mine, theirs),
                "steps": steps[row["context"]] if isinstance(steps, Mapping) else steps,
                "still_improving": any(2 * o["improving"] > o["n"] > 0 for o in (mine, theirs)),
            }
        )
    return pd.DataFrame(rows, columns=VERDICTS)


def _outcome(summary: pd.DataFrame, row: Mapping[str, Any], loss: str) -> Mapping[str, Any]:
    """How the runs of a loss ended; those of a borrowed reference stand in another condition."""
    mine = summary.context.eq(row["context"]) & summary.loss.eq(loss)
    mine &= summary.metric.eq(row["metric"])
    for condition in (row["condition"], BORROWED):
        if (rows := mine & summary.condition.eq(condition)).any():
            return summary[rows].iloc[0].to_dict()
    return dict.fromkeys(("planned", "improving", "n", "failed", "missing"), 0)


def _in_words(row: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    needed = row["pairs_needed"]
    return WORDS[row["verdict"]].format(
        **row,
        needed=f"about {needed:,.0f}" if np.isfinite(needed) else "more than 100,000",
        planned=mine["planned"],
        others=theirs["planned"],
        unfinished=sum(runs[name] for runs in (mine, theirs) for name in ("failed", "missing")),
        all=mine["planned"] + theirs["planned"],
    )


def sentence(row: Mapping[str, Any] | pd.Series) -> str:
    """One row of `verdicts` as a full sentence.

    Args:
        row: Columns `VERDICTS`.
    """
    how = records.CONDITIONS[row["condition"]].about.format(reference=row["reference"])
    notes = [_difference(row)]
    if row["still_improving"]:
        notes.append("validation was still improving")
    if row["exploratory"]:
        notes.append("exploratory, not declared beforehand")
    verdict = f"After {row['steps']} updates on {row['task']}, {how}, {_clause(row)}"
    return f"{verdict}: {'; '.join(notes)}."


def _clause(row: Mapping[str, Any] | pd.Series) -> str:
    """The verdict as a clause with subject and verb."""
    loss, reference, words = row["loss"], row["reference"], str(row["verdict"])
    first, _, rest = words.partition(" ")
    clauses = {
        "better": f"{loss} is better than {reference}",
        "worse": f"{loss} is worse than {reference}",
        "equivalent": f"{loss} is equivalent to {reference} {rest}",
        "different": f"{loss} is different from {reference} {rest}",
        "not": f"{loss} is not distinguishable from {reference} {rest.partition(' ')[2]}",
        "diverges": f"{loss} {words}",
        "the": words.replace("the reference", reference),
        "both": f"{loss} and {reference} {words}",
    }
    return clauses.get(first, f"{loss} has no verdict against {reference} ({words})")


def _difference(row: Mapping[str, Any] | pd.Series) -> str:
    """The difference with unit, interval and n."""
    lost = [
        f"{row[loss]} diverged in {row[count]}"
        for loss, count in (("loss", "diverged"), ("reference", "reference_diverged"))
        if row[count] and "diverge" not in row["verdict"]
    ]
    if not row["n"]:
        return "no pair of seeds is there to compare"
    unit = "" if row["unit"] == "1" else f" {row['unit']}"
    bounds = f" [{row['low']:+.3g}, {row['high']:+.3g}]" if np.isfinite(row["low"]) else ""
    kind = f"{100 * row['confidence']:g} % simultaneous interval" if bounds else "no interval"
    left = " that survived" if row["diverged"] or row["reference_diverged"] else ""
    difference = f"{row['metric']} differs by {row['estimate']:+.3g}{bounds}{unit}"
    basis = f"{kind}, n = {row['n']} seeds{left}, {row['direction']} is better"
    return "; ".join([f"{difference} ({basis})", *lost])
