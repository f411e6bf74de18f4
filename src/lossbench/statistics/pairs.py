"""Paired comparison of every loss with a reference, each at its chosen candidate, with verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy

from lossbench import records
from lossbench.statistics.choice import (
    Choice,
    TuningTable,
    chosen,
    least_step,
    procedure_and_fixed_intervals,
    selection_sd,
    tuning_table,
)
from lossbench.statistics.design import CURES, FACTS, Row, refuse_unequal
from lossbench.statistics.intervals import FEWEST_PAIRS, Estimate, bootstrap_t
from lossbench.statistics.new_examples import contributions, variance_of_examples
from lossbench.statistics.rule import Rule
from lossbench.statistics.verdict import divergence_p, gain, seeds_needed, verdict

COLUMNS = {
    "metric": "the metric compared, on test",
    "reference": "the loss that it is compared with",
    "lr": "learning rate of the loss",
    "reference_lr": "learning rate of the reference",
    "seeds": "seeds that both have",
    "pairs": "seeds in which both survived",
    "difference": "loss - reference, its average over the pairs, in units of the metric",
    "low": "lower end of its interval, which holds seeds and the choice of candidates",
    "high": "upper end",
    "verdict": "a word of `verdict`, or incomplete, undefined, diverges, reference diverges, "
    "too few pairs",
    "margin": "largest difference that does not matter, in units of the metric",
    "confidence": "simultaneous coverage over the comparisons and the looks",
    "comparisons": "comparisons of the context among which it is shared (m of Bonferroni)",
    "look": "look at which it is read, from 1",
    "level": "confidence of this one interval",
    "fixed_low": "lower end of the narrower interval at these candidates, as if none was chosen",
    "fixed_high": "upper end",
    "chosen_again": "share of resamples of the seeds that choose both candidates again",
    "diverged": "seeds in which the loss diverged",
    "reference_diverged": "seeds in which the reference diverged",
    "p_diverged": "p of the exact paired test of divergence",
    "unfinished": "runs that failed or are missing",
    "undefined": "pairs in which the metric has no value, though neither diverged",
    "median": "median difference",
    "won": "pairs in which the loss was better",
    "largest_share": "largest share of the variance that one seed makes",
    "boot_low": "lower end of the bootstrap-t interval",
    "boot_high": "upper end",
    "seeds_needed": "seeds that would decide an undecided comparison",
    "exploratory": "whether loss or reference was not declared beforehand",
    "average": "summary of the seeds: mean or median",
    "test_examples": "test examples, where every pair has their contributions recorded",
    "examples_low": "lower end of the interval for new seeds and new examples",
    "examples_high": "upper end",
    "examples_verdict": "verdict for new seeds and new examples",
    "limited_by": "seeds or test examples: which makes more of its variance",
    "luck": "standard deviation of the average when all candidates are chosen again",
    "resolution": "least step of the metric, see `difference`",
    "differences": "differences by seed",
    "value": "average of the loss over the pairs",
    "reference_value": "average of the reference over the pairs",
}
"""Columns of `paired` after `FACTS`, with their meaning.

`choice.procedure_and_fixed_intervals` computes the interval at another confidence from
`differences`, `luck` and `resolution`.
"""

PAIRED = [*FACTS, *COLUMNS]
"""All columns of `paired`."""


def paired(
    frame: pd.DataFrame,
    rule: Rule,
    *,
    condition: str = "own_lr",
    declared: Sequence[str] = (),
    declared_challengers: int = 0,
    examples: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Compare every loss with the reference seed by seed: simultaneous intervals and verdicts.

    Loss and reference each have the candidate with the best average on validation over the seeds
    that both share; the interval includes that other seeds would have chosen other candidates. Each
    context is a family of its own: Bonferroni over its m comparisons, the declared challengers, and
    over the looks. A loss outside the declaration is exploratory, and its m counts all challengers.

    Args:
        frame: One row a run, see `choice.tuning_table`; without a column `candidate` each loss has
            one candidate.
        rule: The rule of the choices and verdicts, with metric, reference and margin.
        condition: "own_lr", or "reference_lr": every loss at the rate that the reference chose.
        declared: Losses declared beforehand; if empty, every comparison is exploratory.
        declared_challengers: Number of challengers declared for the context, with or without runs.
        examples: Table `examples`, for a verdict on new test examples.

    Returns:
        Per context and challenger the columns `PAIRED`, see `COLUMNS` for their meaning.

    Raises:
        ValueError: Two runs of a pair differ in a fingerprint, or a loss has several runs at one
            candidate and seed.
    """
    tables = [pd.DataFrame(columns=PAIRED)]
    for _, cell in _with_candidates(frame, rule.metric).groupby("context", sort=False):
        if rule.reference in {*cell.loss}:
            refuse_unequal(cell)
        cell = cell.drop(columns=[*CURES], errors="ignore")
        resolution = least_step(cell[rule.metric].to_numpy(dtype=float), metric=rule.metric)
        challengers = sorted({*cell.loss} - {rule.reference})
        early = [loss for loss in challengers if {loss, rule.reference} <= {*declared}]
        base, rows = cell.loc[cell.loss == rule.reference], []
        for loss in challengers if len(base) else []:
            row = _compared(
                cell.loc[cell.loss == loss],
                base,
                rule,
                condition=condition,
                comparisons=max(len(early if loss in early else challengers), declared_challengers),
                resolution=resolution,
                examples=examples,
            )
            if row:
                rows.append(row | {"exploratory": loss not in early})
        if rows:
            tables.append(pd.DataFrame(rows))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    return table.assign(metric=rule.metric, reference=rule.reference, condition=condition)[PAIRED]


def _with_candidates(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Columns of runs that `paired` needs; runs without candidates all get candidate 0."""
    if "candidate" not in frame:
        frame = frame.assign(candidate=0, selected_by=frame[metric])
    # Long texts, like a run's whole configuration, would be copied with every selection of rows.
    names = [*FACTS, "run_id", "lr", "seed", "status", "candidate", "selected_by", metric, *CURES]
    return frame[[name for name in dict.fromkeys(names) if name in frame]]


def _compared(
    runs: pd.DataFrame,
    base: pd.DataFrame,
    rule: Rule,
    *,
    condition: str,
    comparisons: int,
    resolution: float,
    examples: pd.DataFrame | None = None,
) -> Row:
    """One row of `paired`; empty if the loss was not trained at the reference's rate."""
    seeds = sorted({*runs.seed} & {*base.seed})
    runs, base = (rows[rows.seed.isin(seeds)] for rows in (runs, base))
    level = rule.level(len(seeds), comparisons)
    row: Row = {name: runs[name].iloc[0] for name in FACTS} | {
        "margin": rule.margin,
        "confidence": rule.confidence,
        "comparisons": comparisons,
        "look": rule.look(len(seeds)) + 1,
        "level": level,
        "seeds": len(seeds),
        "average": rule.average,
        "resolution": resolution,
        "unfinished": int(pd.concat([runs, base]).status.isin(["failed", "missing"]).sum()),
    }
    tables = [tuning_table(rows, rule, seeds=seeds) for rows in (runs, base)]
    if not all(len(table.candidates) for table in tables):
        return _without_pairs(row)
    choices = [Choice.of(table, average=rule.average) for table in tables]
    if condition == "reference_lr":
        choices = _at_rate_of_reference(choices[1], tables[0], tables[1], rule.average)
        if not choices:
            return {}
    sides = [(table, choice.index) for table, choice in zip(tables, choices, strict=True)]
    lost, gained = (table.diverged[:, index] for table, index in sides)
    lr, reference_lr = (table.rates[index] for table, index in sides)
    if (lost | gained).any():  # two tests may give the verdict, so each gets half of the error
        row["level"] = 1 - (1 - level) / 2
    values = choices[0].result - choices[1].result
    survived = np.isfinite(values)
    row |= {
        "lr": lr,
        "reference_lr": reference_lr,
        "diverged": int(lost.sum()),
        "reference_diverged": int(gained.sum()),
        "p_diverged": divergence_p(lost, gained),
        "undefined": int((~survived & ~lost & ~gained).sum()),
        "differences": tuple(values),
    }
    row |= _difference(choices, survived, row, rule)
    sign = records.sign(rule.metric)
    row["verdict"] = _verdict(row, sign)
    row["seeds_needed"] = np.nan
    if row["verdict"] == "undecided":
        whole = Estimate(row["difference"], row["low"], row["high"], row["pairs"])
        how = {"confidence": row["level"], "average": rule.average}
        row["seeds_needed"] = seeds_needed(whole, rule.margin, **how)
    row |= dict.fromkeys(CARRIED, np.nan)
    if examples is not None and rule.average == "mean":
        run_ids = [table.run_ids[survived, index].tolist() for table, index in sides]
        row |= _on_new_examples(examples, run_ids, row, sign)
    return row


def _difference(choices: Sequence[Choice], survived: np.ndarray, row: Row, rule: Rule) -> Row:
    """Columns of `paired` on the difference over the pairs that survived, and its intervals."""
    first, second = choices
    values = (first.result - second.result)[survived]
    deviation = selection_sd([first], [second], average=rule.average)
    whole, fixed = procedure_and_fixed_intervals(
        values,
        selection_sd=deviation,
        confidence=row["level"],
        average=rule.average,
        resolution=row["resolution"],
    )
    low, high = bootstrap_t(values, confidence=row["level"])
    squares = (values - values.mean()) ** 2 if len(values) else values
    is_chosen_again = (first.again == first.index) & (second.again == second.index)
    return {
        "pairs": whole.n,
        "value": _average(first.result[survived], rule.average),
        "reference_value": _average(second.result[survived], rule.average),
        "difference": whole.value,
        "low": whole.low,
        "high": whole.high,
        "luck": deviation,
        "fixed_low": fixed.low,
        "fixed_high": fixed.high,
        "chosen_again": float(is_chosen_again.mean()),
        "median": _average(values, "median"),
        "won": int((records.sign(rule.metric) * values > 0).sum()),
        "largest_share": float(squares.max() / squares.sum()) if squares.any() else 0.0,
        "boot_low": float(low),
        "boot_high": float(high),
    }


def _average(values: np.ndarray, average: str) -> float:
    """Mean or median; NaN without values."""
    if not len(values):
        return np.nan
    return float(np.median(values) if average == "median" else np.mean(values))


CARRIED = ("test_examples", "examples_low", "examples_high", "examples_verdict", "limited_by")
"""Columns on new test examples; NaN if the examples of some pair are not recorded."""


def _on_new_examples(
    examples: pd.DataFrame, run_ids: Sequence[Sequence[str]], row: Row, sign: float
) -> Row:
    """The columns `CARRIED` of a row; empty for unrecorded examples or too few pairs."""
    of_loss, of_reference = (contributions(examples, listed) for listed in run_ids)
    if of_loss is None or of_reference is None or len(of_loss) < FEWEST_PAIRS:
        return {}
    of_examples = variance_of_examples(of_loss - of_reference)
    half = scipy.stats.t.ppf(0.5 + row["level"] / 2, of_loss.shape[1] - 1) * of_examples**0.5
    center = row["difference"]
    sides = center - row["low"], row["high"] - center
    ends = center - np.hypot(sides[0], half), center + np.hypot(sides[1], half)
    return {
        "test_examples": of_loss.shape[1],
        "examples_low": ends[0],
        "examples_high": ends[1],
        "examples_verdict": verdict(*gain(*ends, sign=sign), row["margin"]),
        "limited_by": "test examples" if half > np.mean(sides) else "seeds",
    }


def _without_pairs(row: Row) -> Row:
    """Row of a comparison in which no candidate of one loss has run on every seed."""
    numbers = dict.fromkeys(set(PAIRED) - row.keys() - {"metric", "reference", "condition"}, np.nan)
    counts = dict.fromkeys(("pairs", "diverged", "reference_diverged", "undefined", "won"), 0)
    word = "incomplete" if row["unfinished"] else "too few pairs"
    return row | numbers | counts | {"verdict": word, "differences": ()}


def _at_rate_of_reference(
    choice: Choice, loss: TuningTable, reference: TuningTable, average: str
) -> list[Choice]:
    """Choices of loss and reference at the rate that the reference chose.

    The loss has its best candidate with that rate. Empty if the loss was not trained at the rate.
    """
    index_of = np.full(len(reference.candidates), -1)
    for index, rate in enumerate(reference.rates):
        same = np.flatnonzero(loss.rates == rate)
        if len(same):
            index_of[index] = same[chosen(loss.costs[:, same], average=average)[0]]
    index = int(index_of[choice.index])
    if index < 0:
        return []
    # Rates that resamples choose do not count if the loss was not trained at them on these seeds.
    is_known = index_of[choice.again] >= 0
    of_loss = Choice(loss.results, index, np.where(is_known, index_of[choice.again], index))
    return [of_loss, replace(choice, again=np.where(is_known, choice.again, choice.index))]


def _verdict(row: Row, sign: float) -> str:
    """The verdict of a row, from its counts and the interval of the gain over the reference."""
    if row["unfinished"]:
        return "incomplete"
    if row["undefined"]:
        return "undefined"
    if row["p_diverged"] <= 1 - row["level"]:
        is_loss = row["diverged"] > row["reference_diverged"]
        return "diverges" if is_loss else "reference diverges"
    if row["pairs"] < FEWEST_PAIRS:
        return "too few pairs"
    return verdict(*gain(row["low"], row["high"], sign=sign), row["margin"])


# ---- one loss in two contexts --------------------------------------------------------------------

CONTRASTED = ["first", "second", *(name for name in PAIRED if name not in ("context", "label"))]
"""Columns of `contrasted`."""


def contrasted(first: pd.DataFrame, second: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Compare each loss with itself in another context, seed by seed: the effect of one factor.

    Bonferroni over the losses that both contexts have. Initial parameters, batches and machine must
    be equal within a seed; the data may differ, because the data may be the factor.

    Args:
        first: Runs of one context, as `paired` takes them.
        second: Runs of the other context.
        rule: The rule of the verdicts; its reference is not used.

    Returns:
        Per loss the columns of `paired`, where `difference` is second - first, "better" means that
        second is better, and columns on a reference are about first.

    Raises:
        ValueError: A frame holds several contexts, or the runs of a seed are not pairs.
    """
    for frame in (first, second):
        if (count := frame.context.nunique()) != 1:
            raise ValueError(f"{count} contexts in one frame: contrast one with one other")
    names = [str(frame.label.iloc[0]) for frame in (first, second)]
    first, second = (_with_candidates(frame, rule.metric) for frame in (first, second))
    losses, rows = sorted({*first.loss} & {*second.loss}), []
    for loss in losses:
        pair = second[second.loss == loss], first[first.loss == loss]
        named = [
            rows.assign(loss=f"{loss} ({place}: {name})")
            for rows, place, name in zip(pair[::-1], ("first", "second"), names, strict=True)
        ]
        refuse_unequal(
            pd.concat(named, ignore_index=True), columns=("init_sha", "batch_sha", "env_sha")
        )
        values = pd.concat(pair)[rule.metric].to_numpy(dtype=float)
        row = _compared(
            *pair,
            rule,
            condition="own_lr",
            comparisons=len(losses),
            resolution=least_step(values, metric=rule.metric),
        )
        rows.append(row | {"reference": loss, "exploratory": True})  # never declared
    table = pd.DataFrame(rows, columns=[*PAIRED]).drop(columns=["context", "label"])
    return table.assign(first=names[0], second=names[1], metric=rule.metric, condition="own_lr")[
        CONTRASTED
    ]
