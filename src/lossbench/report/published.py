"""What the literature says, judged by the records: claims that were declared, one verdict each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from lossbench import records, statistics
from lossbench.report.judged import Comparison, asked, by_context, comparisons, main_of

COLUMNS = [
    *("claim", "source", "says", "task", "loss", "reference", "metric", "difference", "low"),
    *("high", "n", "verdict", "judged"),
]
"""Columns of `judged_claims`."""

UNSETTLED, NOT_RUN = "not distinguishable", "not run"

UNFINISHED = ("incomplete", "too few pairs", "undefined")
"""Verdicts that say that the runs do not suffice, whatever the difference is."""


def judged_claims(found: records.Records) -> pd.DataFrame:
    """Every published claim that the sweep declared first, in every task that it speaks of.

    Args:
        found: The sweep.

    Returns:
        Columns `COLUMNS`, one row a claim and task. `judged` is confirmed, not confirmed, not
        distinguishable, or not run; it follows from the verdict by `records.SAYINGS`.
    """
    mains = [main_of(group) for group in by_context(comparisons(found))]
    claims = asked(found.plan).get("published", [])
    return pd.DataFrame([row for claim in claims for row in _rows(claim, mains)], columns=COLUMNS)


def _rows(claim: Mapping[str, Any], mains: list[Comparison]) -> Iterator[dict[str, Any]]:
    shared = {key: claim[key] for key in ("claim", "source", "says", "loss")}
    tasks = [task for task in mains if task.stage == "confirm" and _speaks_of(claim, task)]
    rows = [row for task in tasks for row in _in_task(claim, task)]
    for row in rows or [{"verdict": "", "judged": NOT_RUN, "n": 0}]:
        yield shared | row


def _speaks_of(claim: Mapping[str, Any], task: Comparison) -> bool:
    """Whether a task has the factors that a claim names."""
    config = task.runs.config.dropna()
    facts = statistics.factors(str(config.iloc[0])) if len(config) else {}
    wanted = {
        "data.name" if key == "data" else statistics.recorded(key): value
        for key, value in claim.get("where", {}).items()
    }
    return all(facts.get(key) == value for key, value in wanted.items())


def _in_task(claim: Mapping[str, Any], task: Comparison) -> Iterator[dict[str, Any]]:
    """What a task's records say of a claim; nothing where one of its losses was not run."""
    table = _compared(claim, task)
    for row in table[table.loss == claim["loss"]].to_dict("records"):
        verdict = str(row["verdict"])
        says = records.SAYINGS[claim["says"]]
        judged = NOT_RUN if verdict in UNFINISHED else says.get(verdict, UNSETTLED)
        names = ("reference", "metric", "difference", "low", "high", "verdict")
        kept = {name: row[name] for name in names}
        yield {"task": row["label"], "n": row["pairs"], "judged": judged, **kept}


def _compared(claim: Mapping[str, Any], task: Comparison) -> pd.DataFrame:
    """The task's own comparison, or that with the claim's reference, metric or margin."""
    metric = claim.get("metric", task.metric)
    reference = claim.get("reference", task.reference)
    if (metric, reference) == (task.metric, task.reference) and "margin" not in claim:
        return task.paired
    if task.paired.empty or reference not in {*task.runs.loss}:
        return task.paired.iloc[:0]
    own = task.paired.iloc[0]
    margin = claim.get("margin", own.margin if metric == task.metric else 0.0)
    return statistics.paired(
        task.runs,
        metric=metric,
        reference=reference,
        margin=float(margin),
        confidence=float(own.confidence),
        declared=sorted({*task.runs.loss}),
    )
