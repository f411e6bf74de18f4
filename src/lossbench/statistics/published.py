"""What the literature says, judged by the records: claims that were declared, one verdict each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from lossbench import records, statistics
from lossbench.statistics.comparisons import Comparison, asked, by_context, comparisons, main_of

COLUMNS = [
    *("claim", "source", "says", "task", "loss", "reference", "metric", "difference", "low"),
    *("high", "n", "verdict", "exploratory", "judged"),
]
"""Columns of `judged_claims`."""

CONFIRMED, REFUTED = "confirmed", "not confirmed"
UNSETTLED, NOT_RUN, EXPLORATORY = "not distinguishable", "not run", "exploratory"

UNFINISHED = ("incomplete", "too few pairs", "undefined")
"""Verdicts that say that the runs do not suffice, whatever the difference is."""


def judged_claims(found: records.Records) -> pd.DataFrame:
    """Every published claim that the sweep declared first, in every task that it speaks of.

    Args:
        found: The sweep.

    Returns:
        Columns `COLUMNS`, one row a claim and task. `judged` is as `outcome` says.
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
    return speaks_of(claim, facts)


def speaks_of(claim: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a run has the factors that a claim names.

    Args:
        claim: As declared.
        facts: Of the run's configuration, from `statistics.factors`.
    """
    wanted = {
        f"{key}.name" if key in records.FACTORS else statistics.recorded(key): value
        for key, value in claim.get("where", {}).items()
    }
    return all(facts.get(key) == value for key, value in wanted.items())


def _in_task(claim: Mapping[str, Any], task: Comparison) -> Iterator[dict[str, Any]]:
    """What a task's records say of a claim; nothing where one of its losses was not run."""
    table = _compared(claim, task)
    for row in table[table.loss == claim["loss"]].to_dict("records"):
        names = ("reference", "metric", "difference", "low", "high", "verdict", "exploratory")
        kept = {name: row[name] for name in names}
        judged = outcome(claim["says"], row)
        yield {"task": row["label"], "n": row["pairs"], "judged": judged, **kept}


def outcome(says: str, row: Mapping[str, Any]) -> str:
    """What a comparison makes of a claim.

    `better` and `worse` follow from the verdict by `records.SAYINGS`; `not_worse` is confirmed
    where the whole interval of the gain lies above minus the margin, not confirmed where all of it
    lies below.

    Args:
        says: better, worse or not_worse.
        row: Of `statistics.paired`.

    Returns:
        confirmed, not confirmed or not distinguishable; not run where the runs do not suffice;
        exploratory where loss or reference came after the declaration, whatever came out.
    """
    if row["verdict"] in UNFINISHED:
        return NOT_RUN
    if row["exploratory"]:
        return EXPLORATORY
    if says == records.NOT_WORSE:
        return _not_worse(row)
    return records.SAYINGS[says].get(row["verdict"], UNSETTLED)


def _not_worse(row: Mapping[str, Any]) -> str:
    """Non-inferiority; a loss with diverged runs is worse, a reference with some no proof of it."""
    sign = records.sign(row["metric"])
    low, high = sorted((sign * row["low"], sign * row["high"]))
    if row["diverged"]:
        return UNSETTLED if row["reference_diverged"] else REFUTED
    if row["pairs"] >= statistics.FEWEST_PAIRS and low >= -row["margin"]:
        return CONFIRMED
    return REFUTED if high < -row["margin"] and not row["reference_diverged"] else UNSETTLED


def _compared(claim: Mapping[str, Any], task: Comparison) -> pd.DataFrame:
    """The task's own comparison, or that with the claim's reference, metric or margin.

    The guards are those of the main verdict: what was declared counts, absent or failed.
    """
    metric = claim.get("metric", task.metric)
    reference = claim.get("reference", task.reference)
    if (metric, reference) == (task.metric, task.reference) and "margin" not in claim:
        return task.paired
    if task.paired.empty or reference not in {*task.runs.loss}:
        return task.paired.iloc[:0]
    own = task.paired.iloc[0]
    return statistics.paired(
        task.runs,
        metric=metric,
        reference=reference,
        margin=float(claim.get("margin", own.margin)),
        confidence=float(own.confidence),
        declared=task.declared,
        declared_challengers=len(task.expected - {reference}),
    )
