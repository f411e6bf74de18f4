"""Findings of the literature, judged by the records: one judgement of each declared finding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy

from lossbench import records
from lossbench.statistics.choice import procedure_and_fixed_intervals
from lossbench.statistics.comparisons import Comparison
from lossbench.statistics.design import Row, factors
from lossbench.statistics.levels import LARGEST, SMALLEST, adjust_for_looks
from lossbench.statistics.pairs import paired
from lossbench.statistics.verdict import gain
from lossbench.statistics.verdicts import Verdicts

Finding = Mapping[str, Any]
"""A finding as declared."""

COLUMNS = ["finding", "source", "says", "context", "loss", "reference", "metric", "difference"]
COLUMNS += ["low", "high", "n", "verdict", "exploratory", "confidence", "p", "q", "judged"]
"""Columns of `judged_findings`."""

CONFIRMED, REFUTED = "confirmed", "not confirmed"
UNSETTLED, NOT_RUN, EXPLORATORY = "undecided", "not run", "exploratory"

UNFINISHED = ("incomplete", "too few pairs", "undefined")
"""Verdicts of comparisons whose runs do not suffice to judge a finding."""


def judged_findings(verdicts: Verdicts) -> pd.DataFrame:
    """Judge every published finding that a sweep declared, in every context that it applies to.

    Returns columns `COLUMNS`, one row a finding and context; the rows are one family, see
    `as_family`.
    """
    return as_family(findings_of(verdicts))


def findings_of(verdicts: Verdicts) -> pd.DataFrame:
    """Rows of `judged_findings`, each finding judged alone by `outcome`, with q missing."""
    findings = verdicts.declaration.get("published", [])
    rows = [row for finding in findings for row in judged(finding, verdicts.mains)]
    return pd.DataFrame(rows, columns=COLUMNS)


def as_family(findings: pd.DataFrame) -> pd.DataFrame:
    """Judge findings as one family: compute q, and confirm a finding only if q is small enough.

    Args:
        findings: From `findings_of`, of one sweep or of several.

    Returns:
        The same rows. `q` is `p` adjusted for the false discovery rate among all findings that were
        tested; `confirmed` becomes undecided if q exceeds 1 - confidence.

    Source:
        Benjamini and Hochberg 1995, JRSS B.
    """
    p = findings.p.astype(float)
    q = pd.Series(np.nan, index=findings.index)
    q[p.notna()] = scipy.stats.false_discovery_control(p[p.notna()])
    is_lost = findings.judged.eq(CONFIRMED) & ~(q <= 1 - findings.confidence.astype(float))
    return findings.assign(q=q, judged=findings.judged.mask(is_lost, UNSETTLED))


def judged(finding: Finding, comparisons: Iterable[Comparison]) -> Iterator[Row]:
    """Rows of `judged_findings` for one finding, from fair comparisons; at least one row."""
    shared = {key: finding[key] for key in ("finding", "source", "says", "loss")}
    names = ("reference", "metric", "difference", "low", "high", "verdict", "exploratory")
    names += ("confidence",)
    rows = []
    for comparison in comparisons:
        config = comparison.runs.config.dropna()
        facts = factors(str(config.iloc[0])) if len(config) else {}
        if not speaks_of(finding, facts):
            continue
        pairs = comparison.exploring(_compared(finding, comparison), comparison.declared.asked_runs)
        for row in pairs[pairs.loss == finding["loss"]].to_dict("records"):
            judgement = {
                "context": row["label"],
                "n": row["pairs"],
                "judged": outcome(finding["says"], row),
                "p": p_value(finding["says"], row, looks=comparison.rule.looks),
            }
            rows.append(judgement | {name: row[name] for name in names})
    for row in rows or [{"verdict": "", "judged": NOT_RUN, "n": 0}]:
        yield shared | row


def speaks_of(finding: Finding, facts: Mapping[str, object]) -> bool:
    """Whether a run with the given factors, from `statistics.factors`, has those of a finding."""
    wanted = {
        f"{key}.name" if key in records.FACTORS else records.recorded(key): value
        for key, value in finding.get("where", {}).items()
    }
    return all(facts.get(key) == value for key, value in wanted.items())


def outcome(says: str, row: Row) -> str:
    """The judgement of one finding by one comparison, without regard to other findings.

    `better` and `worse` follow from the verdict by `records.SAYINGS`; `not_worse` is confirmed if
    the whole interval of the gain lies above minus the margin, and not confirmed if the whole
    interval lies below.

    Args:
        says: better, worse or not_worse.
        row: Row of `statistics.paired`.

    Returns:
        confirmed, not confirmed or undecided; not run if the runs do not suffice;
        exploratory if loss or reference came after the declaration.
    """
    if row["verdict"] in UNFINISHED:
        return NOT_RUN
    if row["exploratory"]:
        return EXPLORATORY
    if says != records.NOT_WORSE:
        return records.SAYINGS[says].get(row["verdict"], UNSETTLED)
    if row["verdict"] == "diverges":
        return REFUTED
    low, high = gain(row["low"], row["high"], sign=records.sign(row["metric"]))
    if row["verdict"] == "reference diverges" or low >= -row["margin"]:
        return CONFIRMED
    return REFUTED if high < -row["margin"] else UNSETTLED


def p_value(says: str, row: Row, *, looks: Sequence[int] = ()) -> float:
    """One-sided p-value of a comparison under the hypothesis that a finding is false.

    The p-value is half the least error at which the interval of the comparison excludes, on the
    near side, the value that the finding denies: a difference of zero, or for not_worse a loss that
    is worse by exactly the margin. So the p-value accounts for skewness or the order of the values,
    and for the choice of other candidates by other seeds. If divergence decides, the p-value is
    half of McNemar's exact p. The p-value is adjusted for the looks, and for two tests if a run
    diverged.

    Args:
        says: better, worse or not_worse.
        row: Row of `statistics.paired`.
        looks: Numbers of seeds at which the comparison may have been read.

    Returns:
        The p-value, at most 0.5; 1 if no error is large enough, as for a difference on the other
        side. NaN if the finding is not run or exploratory.
    """
    if row["verdict"] in UNFINISHED or row["exploratory"]:
        return math.nan
    if "diverges" in row["verdict"]:
        is_worse = row["verdict"] == "diverges"
        error = row["p_diverged"] if is_worse == (says == "worse") else 1.0
    else:
        error = _least_error(says, row)
    if row["diverged"] or row["reference_diverged"]:  # each of two tests had half of the error
        error = min(1.0, 2 * error)
    error = adjust_for_looks(error, int(row["look"]) - 1, looks)
    return error / 2 if error < 1 else 1.0


def _least_error(says: str, row: Row) -> float:
    """Two-sided error of the widest interval that confirms a finding; 1 if no interval does."""
    sign = records.sign(row["metric"]) * (-1 if says == "worse" else 1)
    least = -row["margin"] if says == records.NOT_WORSE else 0.0
    gains = sign * np.array(row["differences"], dtype=float)
    gains = gains[np.isfinite(gains)]

    def confirms(logarithm: float) -> bool:
        whole, _ = procedure_and_fixed_intervals(
            gains,
            selection_sd=row["luck"],
            confidence=1 - math.exp(logarithm),
            average=row["average"],
            resolution=row["resolution"],
        )
        return whole.low > least

    low, high = math.log(SMALLEST), math.log(LARGEST)
    if not confirms(high):
        return 1.0
    if confirms(low):
        return SMALLEST
    while high - low > 5e-4:  # difference of logarithms
        middle = (low + high) / 2
        low, high = (low, middle) if confirms(middle) else (middle, high)
    return math.exp(high)


def _compared(finding: Finding, comparison: Comparison) -> pd.DataFrame:
    """The comparison's own pairs, or pairs with the finding's reference, metric or margin.

    As for the main verdict, the family has all declared losses, also those without finished runs.
    """
    metric = finding.get("metric", comparison.metric)
    reference = finding.get("reference", comparison.reference)
    is_own = (metric, reference) == (comparison.metric, comparison.reference)
    if is_own and "margin" not in finding:
        return comparison.paired
    if comparison.paired.empty or reference not in {*comparison.runs.loss}:
        return comparison.paired.iloc[:0]
    rule = replace(
        comparison.rule,
        metric=metric,
        reference=reference,
        margin=float(finding.get("margin", comparison.rule.margin)),
    )
    pairs = paired(
        comparison.every_run,
        rule,
        declared=comparison.declared.losses,
        declared_challengers=len(comparison.declared.expected - {reference}),
    )
    return comparison.exploring(pairs, comparison.declared.seen_runs.run_id)
