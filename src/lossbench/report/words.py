"""Verdicts in words: the table that a paper quotes, and a sentence for each row of the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.comparisons import SMOKE, Comparison
from lossbench.statistics.intervals import FEWEST_PAIRS
from lossbench.statistics.margins import Margin

VERDICTS = ["context", "loss", "reference", "condition", "metric", "unit", "direction", "estimate"]
VERDICTS += ["low", "high", "fixed_low", "fixed_high", "n", "look", "diverged", "margin"]
VERDICTS += ["margin_share", "verdict", "steps", "still_improving", "exploratory", "lr"]
VERDICTS += ["reference_lr", "chosen_again", "boot_low", "boot_high", "median", "won"]
VERDICTS += ["largest_share", "seeds_needed", "confidence", "reference_diverged", "p_diverged"]
VERDICTS += ["average", "test_examples", "examples_low", "examples_high", "examples_verdict"]
VERDICTS += ["limited_by", "target_scale", "target_unit", "value", "reference_value"]
"""Columns of `verdicts`."""

Row = Mapping[str, Any] | pd.Series
"""Row of a table, by column."""

WORDS = {
    "better by more": "better by more than {margin:g}",
    "better": "better",
    "below the margin": "different, by less than {margin:g}",
    "equivalent": "equivalent within {margin:g}",
    "undecided": "undecided with {pairs} seeds, {needed}",
    "worse": "worse",
    "worse by more": "worse by more than {margin:g}",
    "diverges": "diverges in {diverged} of {seeds} runs",
    "reference diverges": "the reference diverges in {reference_diverged} of {seeds} runs",
    "incomplete": "incomplete: {unfinished} runs failed or are missing",
    "undefined": "undefined in {undefined} of {seeds} pairs",
    "too few pairs": f"too few pairs: {{pairs}}, a verdict needs {FEWEST_PAIRS}",
}
"""Text of each verdict of `paired`."""

DOMINATED = 0.5
"""Largest share of the variance that one seed may have without a remark on the verdict."""


def verdicts_of(comparison: Comparison) -> pd.DataFrame:
    """Rows of verdicts.csv: one for each compared loss, with the verdict in words."""
    rows = verdicts(comparison.paired, comparison.summary, steps=comparison.steps)
    return rows.assign(verdict=rows.verdict.map(comparison.printed))


def verdicts(
    paired: pd.DataFrame, summary: pd.DataFrame, *, steps: int | Mapping[str, int]
) -> pd.DataFrame:
    """Table of comparisons for publication: one row each, with the verdict in words.

    Args:
        paired: Rows from `paired`.
        summary: Rows from `summary`, of the same runs and metrics.
        steps: Update budget of a run, for all contexts or by context.

    Returns:
        Columns `VERDICTS`. `context` is the context's label, `estimate` is loss - reference in
        units of the metric, n is the number of pairs, `value` and `reference_value` are the
        averages of loss and reference over the pairs. `still_improving`: validation was best at the
        last step in most runs of the loss or the reference, so a longer training may change the
        verdict. `margin_share`: the margin as a share of the reference's error. `target_scale`: one
        unit of the metric in `target_unit`, the unit of the target. NaN if `paired` lacks a column.
    """
    rows = []
    for row in paired.to_dict("records"):
        mine = summary[summary.context.eq(row["context"]) & summary.metric.eq(row["metric"])]
        mine = mine[mine.loss.isin([row["loss"], row["reference"]])]
        rows.append(
            row
            | {
                "context": row["label"],
                "estimate": row["difference"],
                "n": row["pairs"],
                "unit": records.metric_of(row["metric"]).unit,
                "direction": records.direction(row["metric"]),
                "verdict": _in_words(row),
                "steps": steps[row["context"]] if isinstance(steps, Mapping) else steps,
                "still_improving": bool(((2 * mine.improving > mine.n) & (mine.n > 0)).any()),
            }
        )
    return pd.DataFrame(rows, columns=VERDICTS)


def _in_words(row: Row) -> str:
    text = WORDS[row["verdict"]].format(**row, needed=seeds_text(row))
    if row["verdict"] == "too few pairs" and (row["diverged"] or row["reference_diverged"]):
        # With so few seeds the exact test cannot distinguish loss and reference either.
        text += "; diverges in {diverged} of {seeds} runs, the reference in {reference_diverged}"
    return text.format(**row)


def seeds_text(row: Row) -> str:
    """Text on the number of seeds that would decide a row of `paired`, or give an interval."""
    needed = row["seeds_needed"]
    if not np.isfinite(needed):
        return "over 100,000 would decide it"
    if not np.isfinite(row["high"] - row["low"]):
        return f"at least {needed:,.0f} give an interval"
    return f"about {needed:,.0f} would decide it"


MANY_ERRORS = 1000
"""Percent of the reference's error from which on a margin is not given as a share, because the
error is almost zero."""


def margin_text(margins: Sequence[Margin]) -> str:
    """Text of margins with one metric and reference, also in other units, as far as known.

    Example: `0.02 = 1.5 points of the progression score (4 % of the error of mse)`.
    """
    first = margins[0]
    text = _from_to([one.value for one in margins], "{:.3g}")
    own = [one.in_target for one in margins]
    if np.isfinite(own).all() and len({one.unit for one in margins}) == 1:
        text += f" = {_from_to(own, '{:.3g}')} {first.unit}"
    shares = [100 * one.share for one in margins if np.isfinite(one.share)]
    if shares and max(shares) >= MANY_ERRORS:
        return f"{text} (more than {MANY_ERRORS // 100} times the error of {first.reference})"
    if shares:
        digits = "{:.0f}" if min(shares) >= 10 else "{:.2g}"
        share = f"{_from_to(shares, digits)} % of the error of {first.reference} on validation"
        return f"{text} ({share})"
    if isinstance(first.declared, str):
        return f"{text} ({first.declared} is declared, and no run of {first.reference} has one)"
    return text


def seen_text(seen: pd.DataFrame, *, count: int) -> str:
    """Sentence on rows from `seen_before`, of `count` runs; empty if there are no rows."""
    if seen.empty:
        return ""
    places = [
        f"{row.declaration[:16] or 'undeclared'}, sweep {row.sweep}"
        for row in seen.drop_duplicates(["sweep", "declaration"]).itertuples()
    ]
    return (
        f"{len(seen)} of {count} runs had been seen under another declaration "
        f"({'; '.join(places)}) before this one was made: its verdicts are exploratory"
    )


def _from_to(numbers: Sequence[float], digits: str) -> str:
    texts = [digits.format(number) for number in (min(numbers), max(numbers))]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def fragility(row: Row) -> str:
    """Reasons to doubt the interval in a row of `paired` or `verdicts`; empty if there are none."""
    n = row["pairs"] if "pairs" in row else row["n"]
    if n < FEWEST_PAIRS or row["average"] == "median":
        return ""
    reasons = []
    if row["largest_share"] > DOMINATED:
        reasons.append(f"one seed makes {row['largest_share']:.0%} of the variance")
    if not row["low"] <= 0 <= row["high"] and row["boot_low"] <= 0 <= row["boot_high"]:
        reasons.append("the bootstrap-t interval includes zero")
    if not reasons:
        return ""
    return f"{', '.join(reasons)}: median {row['median']:+.3g}, {row['won']} of {n} seeds won"


def on_new_examples(row: Row) -> str:
    """Verdict of a row for new test examples; empty if the test examples were not recorded."""
    word = row["examples_verdict"]
    if not isinstance(word, str):
        return ""
    if word != "undecided":  # `WORDS` recommends more seeds, which may not help here
        word = WORDS[word].format(**row)
    interval = f"[{row['examples_low']:+.3g}, {row['examples_high']:+.3g}]"
    limit = f"{row['test_examples']:.0f} test examples"
    if row["limited_by"] == "seeds":
        limit = f"seeds more than by its {limit}"
    return f"on new test examples {word} {interval}, limited by {limit}"


def sentence(row: Row) -> str:
    """One row of `verdicts` as a full sentence."""
    how = records.CONDITIONS[row["condition"]].about.format(reference=row["reference"])
    notes = [*filter(None, (_difference(row), fragility(row), on_new_examples(row)))]
    if row["still_improving"]:
        notes.append("validation was still improving")
    if row["exploratory"]:
        notes.append("exploratory, not declared beforehand")
    mark = "SMOKE: " if str(row["verdict"]).startswith(SMOKE) else ""
    verdict = f"{mark}After {row['steps']} updates on {row['context']}, {how}, {_clause(row)}"
    return f"{verdict}: {'; '.join(notes)}."


def _clause(row: Row) -> str:
    """The verdict as a clause with subject and verb."""
    loss, reference, words = row["loss"], row["reference"], str(row["verdict"]).removeprefix(SMOKE)
    first, _, rest = words.partition(" ")
    clauses = {
        "better": f"{loss} is better than {reference} {rest}".rstrip(),
        "worse": f"{loss} is worse than {reference} {rest}".rstrip(),
        "equivalent": f"{loss} is equivalent to {reference} {rest}",
        "different,": f"{loss} differs from {reference} {rest}",
        "undecided": f"between {loss} and {reference} it is {words}",
        "diverges": f"{loss} {words}",
        "the": words.replace("the reference", reference),
    }
    return clauses.get(first, f"{loss} has no verdict against {reference} ({words})")


def _bounds(row: Row, scale: float) -> str:
    """Interval in another unit; empty if there is no interval."""
    if not np.isfinite(row["low"]):
        return ""
    return f" [{scale * row['low']:+.3g}, {scale * row['high']:+.3g}]"


def _difference(row: Row) -> str:
    """The difference with unit, interval and n."""
    if not row["n"]:
        return "no pair of seeds is there to compare"
    unit = "" if row["unit"] == "1" else f" {row['unit']}"
    bounds = _bounds(row, 1.0)
    kind = f"{100 * row['confidence']:g} % simultaneous interval" if bounds else "no interval"
    left = " that survived" if row["diverged"] or row["reference_diverged"] else ""
    median = "the median of " if row["average"] == "median" else ""
    difference = f"{median}{row['metric']} differs by {row['estimate']:+.3g}{bounds}{unit}"
    if np.isfinite(scale := row["target_scale"]):
        difference += f", {scale * row['estimate']:+.3g}{_bounds(row, scale)} {row['target_unit']}"
    basis = f"{kind}, n = {row['n']} seeds{left}, {row['direction']} is better"
    return "; ".join([f"{difference} ({basis})", *diverged_in(row)])


def diverged_in(row: Row) -> list[str]:
    """Losses with diverged runs, as texts, if the verdict of a row of `verdicts` has none."""
    if "diverge" in row["verdict"]:
        return []
    who = {"diverged": row["loss"], "reference_diverged": row["reference"]}
    return [f"{loss} diverged in {row[count]}" for count, loss in who.items() if row[count]]


# ---- changes with a factor -----------------------------------------------------------------------

CHANGES = {
    "better by more": "gains more than {margin:g} on {reference}",
    "better": "gains on {reference}",
    "below the margin": "changes against {reference}, by less than {margin:g}",
    "equivalent": "differs from {reference} as before, within {margin:g}",
    "worse": "loses against {reference}",
    "worse by more": "loses more than {margin:g} against {reference}",
    "undecided": "is undecided",
    "incomplete": "has no answer, because runs failed or are missing",
    "undefined": "has no answer, because {metric} has no value in some runs",
    "diverges": "has no answer in numbers: one of both diverged more often than the other",
    "too few pairs": f"has too few pairs, an answer needs {FEWEST_PAIRS}",
}
"""Text of each verdict on a change of a difference, to follow the name of the loss."""

LEVELS = CHANGES | {
    "better by more": "is better there by more than {margin:g}",
    "better": "is better there",
    "below the margin": "is another there, by less than {margin:g}",
    "equivalent": "is as good there, within {margin:g}",
    "worse": "is worse there",
    "worse by more": "is worse there by more than {margin:g}",
    "diverges": "has no answer in numbers: it diverged more often at one of both",
}
"""Text of each verdict on a change of a loss by itself, to follow the name of the loss."""


def change_in_words(row: Row) -> str:
    """Verdict of a row of `interactions`, in words that follow the name of the loss."""
    words = CHANGES if row["reference"] else LEVELS
    return words[row["verdict"]].format(**row)


def change_sentence(row: Row) -> str:
    """One row of `interactions` as a sentence."""
    seeds = "seeds" if row["pairs"] == row["seeds"] else f"of {row['seeds']} seeds, which survived"
    late = ", exploratory" if row["exploratory"] else ""
    numbers = f"n = {row['pairs']} {seeds}{late}"
    if row["pairs"] >= FEWEST_PAIRS:
        change = f"{row['change']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"
        what, ends = row["metric"], f"{row['at_base']:.3g} to {row['at_level']:.3g}"
        if row["reference"]:
            what = f"{row['metric']} minus that of {row['reference']}"
            ends = f"{row['at_base']:+.3g} to {row['at_level']:+.3g}"
        numbers = f"{what} goes from {ends}, by {change}, {numbers}"
    return (
        f"{row['context']}, {row['factor']} {row['level']} after {row['base']}: {row['loss']} "
        f"{change_in_words(row)} ({numbers})."
    )


# ---- numbers -------------------------------------------------------------------------------------


def rounded(value: float, half: float) -> str:
    """A number with two digits of its uncertainty but at most four decimals."""
    if not math.isfinite(value):
        return "none"
    if not (math.isfinite(half) and half > 0) or abs(value) >= 1e4:
        return f"{value:.4g}"
    decimals = min(4, max(0, 1 - math.floor(math.log10(half))))
    if half < abs(value) < 0.5 * 10.0**-decimals:  # not zero, but would round to zero
        return f"{value:.1e}"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """A value with its interval, as in +0.0064 [-0.0012, +0.0141]."""
    if not math.isfinite(value):
        return ""
    texts = [rounded(number, (high - low) / 2) for number in (value, low, high)]
    if sign:
        texts = [text if text.startswith("-") else f"+{text}" for text in texts]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if math.isfinite(low) else texts[0]


def listed(names: Sequence[object]) -> str:
    """Names or numbers as in a sentence: a, b and c."""
    *others, last = [f"{name}" for name in names] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def updates_taken(row: Row) -> str:
    """Median updates to a target, or the number of runs that reached it; `row` is of `time_to`."""
    if math.isfinite(row["median"]):
        return f"{row['loss']} {row['median']:.0f}"
    count = row["reached"] or "none"
    return f"{row['loss']} in {count} of {row['n']} runs within {row['budget']:.0f}"
