"""Every loss against a reference, seed by seed, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lossbench import records
from lossbench.statistics.design import CURES, FACTS, refuse_unequal, with_reference
from lossbench.statistics.intervals import (
    FEWEST_PAIRS,
    Estimate,
    bootstrap_t,
    estimate,
    holm,
    share,
    wilcoxon,
)
from lossbench.statistics.power import pairs_for

PAIRED = [*FACTS, "metric", "reference", "pairs", "difference", "low", "high", "verdict", "margin"]
PAIRED += ["confidence", "comparisons", "p", "p_holm", "diverged", "reference_diverged", "wins"]
PAIRED += ["trials", "win_low", "win_high", "pairs_needed", "exploratory", "differences"]
PAIRED += ["undefined", "boot_low", "boot_high", "p_wilcoxon", "p_wilcoxon_holm", "smallest_p"]
"""Columns of `paired`."""


def paired(
    frame: pd.DataFrame,
    *,
    metric: str,
    reference: str,
    margin: float = 0.0,
    family: str = "task",
    confidence: float = 0.95,
    declared: Sequence[str] = (),
    declared_challengers: int = 0,
) -> pd.DataFrame:
    """Every loss against the reference, seed by seed, with simultaneous intervals and a verdict.

    Each context and condition is a family of its own. Bonferroni over its m comparisons: the
    declared challengers. A loss outside the declaration is exploratory, and its m counts all
    challengers. Where the reference was not trained it is borrowed, see `with_reference`.

    Args:
        frame: From `endpoint`, one row a run.
        metric: Column to compare; its direction is `records.direction(metric)`.
        reference: The loss the others are compared with.
        margin: Largest difference that does not matter, in units of the metric.
        family: What the intervals hold for simultaneously; "task" is the only one so far.
        confidence: Simultaneous coverage over the family.
        declared: Losses named beforehand; none makes every comparison exploratory.
        declared_challengers: How many were declared for the context, those that are absent here
            included: m is never less.

    Returns:
        Per context, condition and challenger: `pairs`, `difference` (loss - reference, mean over
        pairs in which both survived), `low`, `high`, `verdict`, `comparisons` (m), `p`, `p_holm`,
        `diverged` and `reference_diverged` runs, `wins` of `trials` with their exact binomial
        interval (a diverged run loses, a tie is no trial), `pairs_needed` (where nothing is
        settled: those that would settle it with a power of 80 %, were mean and spread the true
        ones), `undefined` (pairs of done runs without a value), `exploratory`, and `differences`
        (all of them, by seed). Beside the verdict, never part of it: the bootstrap-t interval at
        the same level, `boot_low` and `boot_high`, and `p_wilcoxon` (exact signed rank) with its
        Holm adjustment. Its `smallest_p` is what the pairs that differ can attain; where that
        misses the level it is refused (NaN), and counts as 1 for the others' adjustment.

    Raises:
        ValueError: Two runs of a pair differ in a fingerprint, or a run has a twin.
    """
    if family != "task":
        raise ValueError(f"family {family!r} is unknown: declare 'task'")
    tables = [pd.DataFrame(columns=PAIRED)]
    columns = [*dict.fromkeys([*FACTS, "seed", "lr", "status", *CURES, metric])]
    full = with_reference(frame[[name for name in columns if name in frame]], reference)
    for _, cell in full.groupby(["context", "condition"], sort=False):
        challengers = sorted({*cell.loss} - {reference})
        early = [loss for loss in challengers if {loss, reference} <= {*declared}]
        base, rows = cell.loc[cell.loss == reference], []
        for loss in challengers if len(base) else []:
            runs = cell.loc[cell.loss == loss]
            refuse_unequal(pd.concat([base, runs]))
            m = max(len(early if loss in early else challengers), declared_challengers)
            row = _versus(runs, base, metric=metric, margin=margin, level=1 - (1 - confidence) / m)
            rows.append(row | {"comparisons": m, "exploratory": loss not in early})
        if rows:
            tables.append(_with_holm(pd.DataFrame(rows)))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    shared = {"metric": metric, "reference": reference, "margin": margin, "confidence": confidence}
    return table.assign(**shared)[PAIRED]


def _with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one family with adjusted p's; a refused test still counts as one."""
    rank = table.p_wilcoxon.mask(table.p_wilcoxon.isna() & (table.pairs > 0), 1.0)
    adjusted = {
        name: holm(p.mask(table.exploratory)).where(~table.exploratory, holm(p))
        for name, p in {"p_holm": table.p, "p_wilcoxon_holm": rank}.items()
    }
    refused = adjusted["p_wilcoxon_holm"].mask(table.p_wilcoxon.isna())
    return table.assign(p_holm=adjusted["p_holm"], p_wilcoxon_holm=refused)


def _versus(
    runs: pd.DataFrame, base: pd.DataFrame, *, metric: str, margin: float, level: float
) -> dict[str, Any]:
    """One row of `paired`, its level shared out already."""
    mine, theirs = (
        rows[rows.status.isin(records.RESULTS)].set_index("seed") for rows in (runs, base)
    )
    seeds = mine.index.intersection(theirs.index).sort_values()
    mine, theirs = mine.loc[seeds], theirs.loc[seeds]
    difference = (mine[metric] - theirs[metric]).astype(float)
    sign = records.sign(metric)
    lost, gained = mine.status == "diverged", theirs.status == "diverged"
    wins = int((~lost & (gained | (sign * difference > 0))).sum())
    trials = len(seeds) - int((difference == 0).sum())
    is_undefined = ~np.isfinite(difference) & ~lost & ~gained
    wins -= int((is_undefined & (sign * difference > 0)).sum())
    trials -= int(is_undefined.sum())
    survivors = difference[np.isfinite(difference)]
    mean, won = estimate(survivors, confidence=level), share(wins, trials)
    both = pd.concat([runs, base])
    row = {name: runs[name].iloc[0] for name in FACTS} | {
        "seeds": len(seeds),
        "unfinished": int(both.status.isin(["failed", "missing"]).sum()),
        "undefined": int(is_undefined.sum()),
        "pairs": mean.n,
        "difference": mean.value,
        "low": mean.low,
        "high": mean.high,
        "diverged": int((runs.status == "diverged").sum()),
        "reference_diverged": int((base.status == "diverged").sum()),
        "wins": wins,
        "trials": trials,
        "win_low": won.low,
        "win_high": won.high,
        "p": _p_value(survivors),
        "differences": tuple(difference),
        **_robust(survivors.to_numpy(), level),
    }
    low, high = sorted((sign * mean.low, sign * mean.high))
    verdict = _verdict(row, low, high, margin)
    is_vague = verdict == "not distinguishable"
    needed = _pairs_needed(survivors, margin, level) if is_vague else np.nan
    return row | {"verdict": verdict, "pairs_needed": needed}


def _robust(differences: np.ndarray, level: float) -> dict[str, float]:
    """What does not rest on normal differences: robustness columns, never the verdict."""
    low, high = bootstrap_t(differences, confidence=level)
    smallest = min(1.0, 2.0 ** (1 - np.count_nonzero(differences))) if len(differences) else np.nan
    reached = smallest <= 1 - level
    return {
        "boot_low": float(low),
        "boot_high": float(high),
        "p_wilcoxon": wilcoxon(differences) if reached else np.nan,
        "smallest_p": smallest,
    }


def _verdict(row: Mapping[str, Any], low: float, high: float, margin: float) -> str:
    """The verdict in words, from the interval of the gain over the reference.

    A mean over survivors excuses no divergence: a loss with diverged runs can only be worse, and
    a reference with diverged runs can only be beaten.
    """
    if row["unfinished"]:
        return "incomplete"
    if row["undefined"]:
        return "undefined"
    inside = -margin <= low and high <= margin
    mine, theirs = row["diverged"] > 0, row["reference_diverged"] > 0
    if row["seeds"] >= FEWEST_PAIRS and (mine or theirs):
        if row["pairs"] >= FEWEST_PAIRS and not inside and mine != theirs:
            if mine and high < 0:
                return "worse"
            if theirs and low > 0:
                return "better"
        return "both diverge" if mine and theirs else "diverges" if mine else "reference diverges"
    if row["pairs"] < FEWEST_PAIRS:
        return "too few pairs"
    if low <= 0 <= high:
        return "equivalent" if inside else "not distinguishable"
    return "different but below the margin" if inside else "better" if low > 0 else "worse"


def _p_value(differences: pd.Series) -> float:
    """Two-sided p of the paired t test; differences without spread have p 0 or 1."""
    n = len(differences)
    if n < 2:
        return np.nan
    if differences.std() == 0:
        return float(differences.iloc[0] == 0)
    return float(2 * stats.t.sf(abs(differences.mean()) / differences.std() * np.sqrt(n), n - 1))


def _pairs_needed(differences: pd.Series, margin: float, level: float) -> float:
    """Pairs that settle it with a power of 80 %, were today's mean and spread the true ones.

    Either they find the difference, or they show that what is beyond it fits into the margin.
    """
    mean, spread = abs(float(differences.mean())), float(differences.std())
    needed = pairs_for(spread, size=mean, comparisons=1, confidence=level).difference
    if margin > mean:
        room = pairs_for(spread, size=margin - mean, comparisons=1, confidence=level).margin
        needed = min(needed, room)
    return needed


# ---- which scatters more -------------------------------------------------------------------------


def spread_ratio(
    frame: pd.DataFrame, *, metric: str, reference: str, confidence: float = 0.95
) -> pd.DataFrame:
    """Variance over seeds of each loss, divided by the reference's.

    The interval uses that seeds are paired. It is not adjusted for the number of losses, and
    unlike that of a mean it needs normal values.

    Args:
        frame: From `endpoint`, one row a run.
        metric: Column whose variance is compared.
        reference: The loss the others are compared with.
        confidence: Coverage of each interval.

    Returns:
        Rows by `FACTS`: metric, reference, value (the ratio of variances), low, high, n pairs in
        which both are done; NaN below three or where the reference does not vary.

    Source:
        Pitman 1939, Biometrika; Morgan 1939, Biometrika.
    """
    rows, full = [], with_reference(frame, reference)
    for _, cell in full.groupby(["context", "condition"], sort=False):
        values = cell.pivot(index="seed", columns="loss", values=metric)  # noqa: PD010
        for loss in sorted({*values} - {reference}) if reference in values else []:
            refuse_unequal(cell[cell.loss.isin([loss, reference])])
            both = values[[loss, reference]].astype(float)
            ratio = _pitman_morgan(both[np.isfinite(both).all(axis=1)].to_numpy(), confidence)
            facts = cell[cell.loss == loss].iloc[0][FACTS].to_dict()
            rows.append(facts | {"metric": metric, "reference": reference} | vars(ratio))
    return pd.DataFrame(rows)


def _pitman_morgan(values: np.ndarray, confidence: float) -> Estimate:
    """Ratio of the variances of two columns of pairs, [n, 2]."""
    n = len(values)
    mine, theirs = values.var(0, ddof=1) if n > 2 else (np.nan, np.nan)
    if not theirs > 0:
        return Estimate(np.nan, np.nan, np.nan, n)
    ratio = mine / theirs
    if mine == 0:
        return Estimate(0.0, np.nan, np.nan, n)
    # How far the ratio must be stretched until mine + theirs and mine - theirs do not correlate.
    unlike = max(0.0, 1 - np.corrcoef(values.T)[0, 1] ** 2)
    k = 1 + 2 * unlike * stats.t.ppf(0.5 + confidence / 2, n - 2) ** 2 / (n - 2)
    root = np.sqrt(k**2 - 1)
    return Estimate(float(ratio), float(ratio * (k - root)), float(ratio * (k + root)), n)


# ---- the same loss in two contexts ---------------------------------------------------------------

CONTRASTED = ["first", "second", "task", "condition", "loss", "family", "metric", "pairs"]
CONTRASTED += ["difference", "low", "high", "verdict", "margin", "confidence", "comparisons", "p"]
CONTRASTED += ["p_holm", "diverged", "first_diverged", "wins", "trials", "win_low", "win_high"]
CONTRASTED += ["pairs_needed", "differences", "boot_low", "boot_high", "p_wilcoxon"]
CONTRASTED += ["p_wilcoxon_holm", "smallest_p"]
"""Columns of `contrasted`."""


def contrasted(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    metric: str,
    margin: float = 0.0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Each loss against itself in another context, seed by seed: what one factor changes.

    Bonferroni over the losses of a condition that both contexts have. Start, batches and machine
    must be equal within a seed; the data may differ, they may be the factor.

    Args:
        first: From `endpoint`, the runs of one context.
        second: The same of the other one.
        metric: Column to compare; its direction is `records.direction(metric)`.
        margin: Largest difference that does not matter, in units of the metric.
        confidence: Simultaneous coverage over the losses of a condition.

    Returns:
        Per condition and loss the columns of `paired`, where `difference` is second - first,
        "better" means that second is better, and the reference of a code is first.

    Raises:
        ValueError: A frame holds several contexts, or the runs of a seed are no pairs.
    """
    for frame in (first, second):
        if (count := frame.context.nunique()) != 1:
            raise ValueError(f"{count} contexts in one frame: contrast one with one other")
    names = [str(frame.label.iloc[0]) for frame in (first, second)]
    tables = [pd.DataFrame(columns=CONTRASTED)]
    for condition, cell in second.groupby("condition", sort=False):
        base = first[first.condition == condition]
        losses = sorted({*cell.loss} & {*base.loss})
        level, rows = 1 - (1 - confidence) / max(1, len(losses)), []
        for loss in losses:
            pair = cell[cell.loss == loss], base[base.loss == loss]
            _refuse_unlike(*pair, names)
            row = _versus(*pair, metric=metric, margin=margin, level=level)
            rows.append(row | {"comparisons": len(losses), "exploratory": False})
        if rows:
            tables.append(_with_holm(pd.DataFrame(rows)))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    table = table.rename(columns={"reference_diverged": "first_diverged"})
    shared = {"metric": metric, "margin": margin, "confidence": confidence}
    return table.assign(first=names[0], second=names[1], **shared)[CONTRASTED]


def _refuse_unlike(second: pd.DataFrame, first: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse runs of one loss in two contexts that do not share start, batches and machine."""
    loss = first.loss.iloc[0]
    named = [
        first.assign(loss=f"{loss} (first: {names[0]})"),
        second.assign(loss=f"{loss} (second: {names[1]})"),
    ]
    shared = ("init_sha", "batch_sha", "env_sha")
    refuse_unequal(pd.concat(named, ignore_index=True), columns=shared)
