"""Every loss against a reference, seed by seed, each at the candidate it chose, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy

from lossbench import records
from lossbench.statistics.choice import (
    Choice,
    Trials,
    chosen,
    least_step,
    luck,
    trials,
    two_intervals,
)
from lossbench.statistics.design import CURES, FACTS, refuse_unequal
from lossbench.statistics.examples import contributions, variance_of_examples
from lossbench.statistics.intervals import FEWEST_PAIRS, bootstrap_t
from lossbench.statistics.looks import level_at, look_of
from lossbench.statistics.verdict import divergence_p, gain, seeds_needed, verdict

PAIRED = [*FACTS, "metric", "reference", "lr", "reference_lr", "seeds", "pairs", "difference"]
PAIRED += ["low", "high", "verdict", "margin", "confidence", "comparisons", "look", "level"]
PAIRED += ["fixed_low", "fixed_high", "chosen_again", "diverged", "reference_diverged"]
PAIRED += ["p_diverged", "unfinished", "undefined", "median", "won", "largest_share", "boot_low"]
PAIRED += ["boot_high", "seeds_needed", "exploratory", "average", "test_examples", "examples_low"]
PAIRED += ["examples_high", "examples_verdict", "limited_by", "luck", "resolution", "differences"]
PAIRED += ["value", "reference_value"]
"""Columns of `paired`."""


def paired(
    frame: pd.DataFrame,
    *,
    metric: str,
    reference: str,
    select: str = "",
    condition: str = "own_lr",
    margin: float = 0.0,
    confidence: float = 0.95,
    looks: Sequence[int] = (),
    declared: Sequence[str] = (),
    declared_challengers: int = 0,
    average: str = "mean",
    examples: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Every loss against the reference, seed by seed, with simultaneous intervals and a verdict.

    Both stand at the candidate with the best average on validation over the seeds they share; the
    interval holds that other seeds would have chosen others. Each context is a family of its own:
    Bonferroni over its m comparisons, the declared challengers, and over the looks. A loss outside
    the declaration is exploratory, and its m counts all challengers.

    Args:
        frame: One row a run, see `choice.trials`; without `candidate` each loss has one.
        metric: Column to compare; its direction is `records.direction(metric)`.
        reference: The loss the others are compared with.
        select: Metric of the column `selected_by`; empty takes `metric`.
        condition: "own_lr", or "reference_lr": every loss at the rate that the reference chose.
        margin: Largest difference that does not matter, in units of the metric.
        confidence: Simultaneous coverage over family and looks.
        looks: Numbers of seeds at which verdicts may be read; none has one look, at all of them.
        declared: Losses named beforehand; none makes every comparison exploratory.
        declared_challengers: How many were declared for the context, absent ones included.
        average: How seeds are summarised, in choosing and in judging: "mean" or "median".
        examples: Table `examples`, where a verdict is asked to carry over to new test examples.

    Returns:
        Per context and challenger: `lr` and `reference_lr`, `seeds` that both have, `pairs` in
        which both survived, `value` and `reference_value` (their averages over these pairs),
        `difference` (loss - reference, its average), `low` and `high`,
        `fixed_low` and `fixed_high` (the narrower interval at these rates, as if nobody had chosen
        them), `chosen_again` (share of resamples that choose both again), `verdict`,
        `comparisons` (m), `look` (from 1) and `level` (confidence of this one interval);
        `diverged` and `reference_diverged` seeds with the exact paired test `p_diverged`;
        `unfinished` runs, `undefined` pairs; `median` difference, seeds `won`, `largest_share` of
        the variance that one seed makes, and the bootstrap-t interval `boot_low`, `boot_high`;
        `seeds_needed` (where it is undecided); `differences` by seed, `luck` and `resolution`, of
        which `choice.two_intervals` makes the interval at another confidence. Where every pair has
        its `test_examples`: `examples_low`, `examples_high` and `examples_verdict` for new seeds
        and new examples, and `limited_by`, "seeds" or "test examples": what makes more of its
        variance.

    Raises:
        ValueError: Two runs of a pair differ in a fingerprint, or a run has a twin.
    """
    tables = [pd.DataFrame(columns=PAIRED)]
    for _, cell in _with_candidates(frame, metric).groupby("context", sort=False):
        if reference in {*cell.loss}:
            refuse_unequal(cell)
        cell = cell.drop(columns=[*CURES], errors="ignore")
        challengers = sorted({*cell.loss} - {reference})
        early = [loss for loss in challengers if {loss, reference} <= {*declared}]
        base, rows = cell.loc[cell.loss == reference], []
        for loss in challengers if len(base) else []:
            runs = cell.loc[cell.loss == loss]
            m = max(len(early if loss in early else challengers), declared_challengers)
            row = _versus(
                runs,
                base,
                metric=metric,
                select=select or metric,
                condition=condition,
                margin=margin,
                confidence=confidence,
                comparisons=m,
                looks=looks,
                average=average,
                resolution=least_step(cell[metric].to_numpy(dtype=float), metric=metric),
                examples=examples,
            )
            if row:
                rows.append(row | {"exploratory": loss not in early})
        if rows:
            tables.append(pd.DataFrame(rows))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    return table.assign(metric=metric, reference=reference, condition=condition)[PAIRED]


def _with_candidates(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs with what chooses among candidates; one candidate a loss needs no choice."""
    if "candidate" not in frame:
        frame = frame.assign(candidate=0, selected_by=frame[metric])
    # Long texts, like a run's whole configuration, would be copied at every step.
    names = [*FACTS, "run_id", "lr", "seed", "status", "candidate", "selected_by", metric, *CURES]
    return frame[[name for name in dict.fromkeys(names) if name in frame]]


def _versus(
    runs: pd.DataFrame,
    base: pd.DataFrame,
    *,
    metric: str,
    select: str,
    condition: str,
    margin: float,
    confidence: float,
    comparisons: int,
    looks: Sequence[int],
    average: str,
    resolution: float,
    examples: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """One row of `paired`; empty where the loss was not trained at the reference's rate."""
    seeds = sorted({*runs.seed} & {*base.seed})
    runs, base = (rows[rows.seed.isin(seeds)] for rows in (runs, base))
    loss, reference = (
        trials(rows, metric=metric, select=select, seeds=seeds) for rows in (runs, base)
    )
    unfinished = ["failed", "missing"]
    look = look_of(len(seeds), looks)
    level = level_at(look, looks, confidence=confidence, comparisons=comparisons)
    row: dict[str, Any] = {name: runs[name].iloc[0] for name in FACTS} | {
        "margin": margin,
        "confidence": confidence,
        "comparisons": comparisons,
        "look": look + 1,
        "level": level,
        "seeds": len(seeds),
        "average": average,
        "resolution": resolution,
        "unfinished": sum(int(rows.status.isin(unfinished).sum()) for rows in (runs, base)),
    }
    if not (len(loss.candidates) and len(reference.candidates)):
        return _without_pairs(row)
    theirs = Choice.of(reference, average=average)
    mine: Choice | None = Choice.of(loss, average=average)
    if condition == "reference_lr":
        mine, theirs = _at_rate_of(theirs, loss, reference, average)
    if mine is None:
        return {}
    lost, gained = loss.diverged[:, mine.place], reference.diverged[:, theirs.place]
    if (lost | gained).any():  # two ways to a verdict share what may err
        row["level"] = level = 1 - (1 - level) / 2
    values = mine.result - theirs.result
    survived = np.isfinite(values)
    survivors = values[survived]
    its_luck = luck([mine], [theirs], average=average)
    shared = {"confidence": level, "average": average, "resolution": resolution}
    whole, fixed = two_intervals(survivors, luck=its_luck, **shared)
    low, high = bootstrap_t(survivors, confidence=level)
    sign = records.sign(metric)
    squares = (survivors - survivors.mean()) ** 2 if len(survivors) else survivors
    row |= {
        "lr": loss.rates[mine.place],
        "reference_lr": reference.rates[theirs.place],
        "pairs": whole.n,
        "value": _average(mine.result[survived], average),
        "reference_value": _average(theirs.result[survived], average),
        "difference": whole.value,
        "low": whole.low,
        "high": whole.high,
        "luck": its_luck,
        "fixed_low": fixed.low,
        "fixed_high": fixed.high,
        "chosen_again": float(((mine.again == mine.place) & (theirs.again == theirs.place)).mean()),
        "diverged": int(lost.sum()),
        "reference_diverged": int(gained.sum()),
        "p_diverged": divergence_p(lost, gained),
        "undefined": int((~np.isfinite(values) & ~lost & ~gained).sum()),
        "median": _average(survivors, "median"),
        "won": int((sign * survivors > 0).sum()),
        "largest_share": float(squares.max() / squares.sum()) if squares.any() else 0.0,
        "boot_low": float(low),
        "boot_high": float(high),
        "differences": tuple(values),
    }
    word = _verdict(row, sign)
    needed = np.nan
    if word == "undecided":
        needed = seeds_needed(whole, margin, confidence=level, average=average)
    carried = dict.fromkeys(CARRIED, np.nan)
    if examples is not None and average == "mean":
        run_ids = [
            by_candidate.run_ids[survived, choice.place].tolist()
            for by_candidate, choice in ((loss, mine), (reference, theirs))
        ]
        carried |= _on_new_examples(examples, run_ids, row, sign)
    return row | carried | {"verdict": word, "seeds_needed": needed}


def _average(values: np.ndarray[Any, Any], average: str) -> float:
    """Mean or median; NaN of nothing."""
    if not len(values):
        return np.nan
    return float(np.median(values) if average == "median" else np.mean(values))


CARRIED = ("test_examples", "examples_low", "examples_high", "examples_verdict", "limited_by")


def _on_new_examples(
    examples: pd.DataFrame, run_ids: Sequence[Sequence[str]], row: Mapping[str, Any], sign: float
) -> dict[str, Any]:
    """The columns `CARRIED` of a row; empty where the runs' examples are not recorded."""
    mine, theirs = (contributions(examples, its) for its in run_ids)
    if mine is None or theirs is None or len(mine) < FEWEST_PAIRS:
        return {}
    of_examples = variance_of_examples(mine - theirs)
    half = scipy.stats.t.ppf(0.5 + row["level"] / 2, mine.shape[1] - 1) * of_examples**0.5
    sides = row["difference"] - row["low"], row["high"] - row["difference"]
    ends = (
        row["difference"] - np.hypot(sides[0], half),
        row["difference"] + np.hypot(sides[1], half),
    )
    return {
        "test_examples": mine.shape[1],
        "examples_low": ends[0],
        "examples_high": ends[1],
        "examples_verdict": verdict(*gain(*ends, sign=sign), row["margin"]),
        "limited_by": "test examples" if half > np.mean(sides) else "seeds",
    }


def _without_pairs(row: dict[str, Any]) -> dict[str, Any]:
    """A comparison in which no candidate has run on every seed."""
    numbers = dict.fromkeys(set(PAIRED) - row.keys() - {"metric", "reference", "condition"}, np.nan)
    counts = dict.fromkeys(("pairs", "diverged", "reference_diverged", "undefined", "won"), 0)
    word = "incomplete" if row["unfinished"] else "too few pairs"
    return row | numbers | counts | {"verdict": word, "differences": ()}


def _at_rate_of(
    theirs: Choice, loss: Trials, reference: Trials, average: str
) -> tuple[Choice | None, Choice]:
    """The loss at the rate that the reference chose, and of what else was tuned for it the best."""
    place_of = np.full(len(reference.candidates), -1)
    for place, rate in enumerate(reference.rates):
        same = np.flatnonzero(loss.rates == rate)
        if len(same):
            place_of[place] = same[chosen(loss.costs[:, same], average=average)[0]]
    place = int(place_of[theirs.place])
    if place < 0:
        return None, theirs
    # A resampled rate that the loss was not trained at on these seeds tells nothing.
    is_known = place_of[theirs.again] >= 0
    mine = Choice(loss.results, place, np.where(is_known, place_of[theirs.again], place))
    again = np.where(is_known, theirs.again, theirs.place)
    return mine, replace(theirs, again=again)


def _verdict(row: dict[str, Any], sign: float) -> str:
    """The verdict in words, from counts and the interval of the gain over the reference."""
    if row["unfinished"]:
        return "incomplete"
    if row["undefined"]:
        return "undefined"
    if row["p_diverged"] <= 1 - row["level"]:
        is_mine = row["diverged"] > row["reference_diverged"]
        return "diverges" if is_mine else "reference diverges"
    if row["pairs"] < FEWEST_PAIRS:
        return "too few pairs"
    return verdict(*gain(row["low"], row["high"], sign=sign), row["margin"])


# ---- the same loss in two contexts ---------------------------------------------------------------

CONTRASTED = ["first", "second", *(name for name in PAIRED if name not in ("context", "label"))]
"""Columns of `contrasted`."""


def contrasted(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    metric: str,
    select: str = "",
    margin: float = 0.0,
    confidence: float = 0.95,
    looks: Sequence[int] = (),
) -> pd.DataFrame:
    """Each loss against itself in another context, seed by seed: what one factor changes.

    Bonferroni over the losses that both contexts have. Start, batches and machine must be equal
    within a seed; the data may differ, they may be the factor.

    Args:
        first: The runs of one context, as `paired` takes them.
        second: The same of the other one.
        metric: Column to compare; its direction is `records.direction(metric)`.
        select: Metric of the column `selected_by`; empty takes `metric`.
        margin: Largest difference that does not matter, in units of the metric.
        confidence: Simultaneous coverage over losses and looks.
        looks: Numbers of seeds at which verdicts may be read; none has one look, at all of them.

    Returns:
        Per loss the columns of `paired`, where `difference` is second - first, "better" means that
        second is better, and what is said of a reference is said of first.

    Raises:
        ValueError: A frame holds several contexts, or the runs of a seed are no pairs.
    """
    for frame in (first, second):
        if (count := frame.context.nunique()) != 1:
            raise ValueError(f"{count} contexts in one frame: contrast one with one other")
    names = [str(frame.label.iloc[0]) for frame in (first, second)]
    first, second = (_with_candidates(frame, metric) for frame in (first, second))
    losses, rows = sorted({*first.loss} & {*second.loss}), []
    for loss in losses:
        pair = second[second.loss == loss], first[first.loss == loss]
        _refuse_unlike(*pair, names)
        row = _versus(
            *pair,
            metric=metric,
            select=select or metric,
            condition="own_lr",
            margin=margin,
            confidence=confidence,
            comparisons=len(losses),
            looks=looks,
            average="mean",
            resolution=least_step(pd.concat(pair)[metric].to_numpy(dtype=float), metric=metric),
        )
        rows.append(row | {"reference": loss, "exploratory": True})  # no declaration asks it
    table = pd.DataFrame(rows, columns=[*PAIRED]).drop(columns=["context", "label"])
    return table.assign(first=names[0], second=names[1], metric=metric, condition="own_lr")[
        CONTRASTED
    ]


def _refuse_unlike(second: pd.DataFrame, first: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse runs of one loss in two contexts that do not share start, batches and machine."""
    loss = first.loss.iloc[0]
    named = [
        first.assign(loss=f"{loss} (first: {names[0]})"),
        second.assign(loss=f"{loss} (second: {names[1]})"),
    ]
    shared = ("init_sha", "batch_sha", "env_sha")
    refuse_unequal(pd.concat(named, ignore_index=True), columns=shared)
