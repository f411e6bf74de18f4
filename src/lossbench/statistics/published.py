"""What the literature says, judged by the records: one verdict for each declared finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from lossbench import records
from lossbench.statistics.comparisons import Comparison, declaration_of, main_comparisons
from lossbench.statistics.design import factors, recorded
from lossbench.statistics.intervals import FEWEST_PAIRS
from lossbench.statistics.pairs import paired

COLUMNS = ["finding", "source", "says", "task", "loss", "reference", "metric", "difference"]
COLUMNS += ["low", "high", "n", "verdict", "exploratory", "judged"]
"""Columns of `judged_findings`."""

CONFIRMED, REFUTED = "confirmed", "not confirmed"
UNSETTLED, NOT_RUN, EXPLORATORY = "not distinguishable", "not run", "exploratory"

UNFINISHED = ("incomplete", "too few pairs", "undefined")
"""Verdicts that say that the runs do not suffice, whatever the difference is."""


def judged_findings(sweep: records.Records) -> pd.DataFrame:
    """Every published finding that the sweep declared first, in every task that it speaks of.

    Args:
        sweep: Its declaration names the findings.

    Returns:
        Columns `COLUMNS`, one row a finding and task. `judged` is as `outcome` says.

    Raises:
        ValueError: The sweep was declared by a version that had another word for them.
    """
    mains = main_comparisons(sweep)
    findings = declaration_of(sweep.plan).get("published", [])
    if any("claim" in finding for finding in findings):
        raise ValueError(
            f"{sweep.sweep_dir} declares its findings under 'claim', and the word is 'finding' "
            "now: give the experiment's command again with another name=..."
        )
    rows = [row for finding in findings for row in judged(finding, mains)]
    return pd.DataFrame(rows, columns=COLUMNS)


def judged(
    finding: Mapping[str, Any], comparisons: Iterable[Comparison]
) -> Iterator[dict[str, Any]]:
    """Rows of `judged_findings` for one finding, at least one.

    Args:
        finding: As declared.
        comparisons: The fair ones; those without confirmed runs judge nothing.
    """
    shared = {key: finding[key] for key in ("finding", "source", "says", "loss")}
    rows = []
    for comparison in comparisons:
        config = comparison.runs.config.dropna()
        facts = factors(str(config.iloc[0])) if len(config) else {}
        if comparison.stage == "confirm" and speaks_of(finding, facts):
            rows += _in_task(finding, comparison)
    for row in rows or [{"verdict": "", "judged": NOT_RUN, "n": 0}]:
        yield shared | row


def speaks_of(finding: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a run has the factors that a finding names.

    Args:
        finding: As declared.
        facts: Of the run's configuration, from `statistics.factors`.
    """
    wanted = {
        f"{key}.name" if key in records.FACTORS else recorded(key): value
        for key, value in finding.get("where", {}).items()
    }
    return all(facts.get(key) == value for key, value in wanted.items())


def _in_task(finding: Mapping[str, Any], comparison: Comparison) -> list[dict[str, Any]]:
    """What a task's records say of a finding; nothing where one of its losses was not run."""
    table = _compared(finding, comparison)
    names = ("reference", "metric", "difference", "low", "high", "verdict", "exploratory")
    return [
        {
            "task": row["label"],
            "n": row["pairs"],
            "judged": outcome(finding["says"], row),
            **{name: row[name] for name in names},
        }
        for row in table[table.loss == finding["loss"]].to_dict("records")
    ]


def outcome(says: str, row: Mapping[str, Any]) -> str:
    """How a comparison judges a finding.

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
    if row["pairs"] >= FEWEST_PAIRS and low >= -row["margin"]:
        return CONFIRMED
    return REFUTED if high < -row["margin"] and not row["reference_diverged"] else UNSETTLED


def _compared(finding: Mapping[str, Any], comparison: Comparison) -> pd.DataFrame:
    """The comparison's own pairs, or those with the finding's reference, metric or margin.

    The guards are those of the main verdict: what was declared counts, absent or failed.
    """
    metric = finding.get("metric", comparison.metric)
    reference = finding.get("reference", comparison.reference)
    is_own = (metric, reference) == (comparison.metric, comparison.reference)
    if is_own and "margin" not in finding:
        return comparison.paired
    if comparison.paired.empty or reference not in {*comparison.runs.loss}:
        return comparison.paired.iloc[:0]
    first = comparison.paired.iloc[0]
    return paired(
        comparison.runs,
        metric=metric,
        reference=reference,
        margin=float(finding.get("margin", first.margin)),
        confidence=float(first.confidence),
        declared=comparison.declared,
        declared_challengers=len(comparison.expected - {reference}),
    )
