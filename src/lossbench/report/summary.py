"""Estimates in words: the table of the command line, and the rows and notes of the page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench import records, statistics
from lossbench.report import words
from lossbench.report.objections import coarse_grid, still_improving, unequal_budgets, wide_margin
from lossbench.statistics import Comparison

OTHER_FUNCTIONAL = "does not elicit the mean, so rmse is not what it aims at"


Paint = Callable[[str, str], str]
"""Function that colours a text for a terminal, given the text and the verdict in the text."""


def table(
    sweep: Path | records.Records | statistics.Verdicts, *, paint: Paint = lambda text, _: text
) -> str:
    """The result of a sweep as aligned plain text, at most 80 columns wide.

    Args:
        sweep: Folder of the sweep, its records, or its verdicts.
        paint: Function that colours a verdict without adding visible letters.
    """
    verdicts = statistics.Verdicts.of(sweep)
    loaded, lines = verdicts.sweep, []
    for group in verdicts.contexts():
        lines += [*_lines(group, loaded.plan, paint), ""]
    mark = "SMOKE: " if is_smoke(loaded.plan) else ""
    changes = verdicts.changes
    for row in changes[changes.verdict != "undecided"].to_dict("records"):
        text = f"{mark}{words.change_sentence(row)}"
        lines += textwrap.wrap(text, 80, subsequent_indent="  ")
    if count := int((changes.verdict == "undecided").sum()):
        lines.append(f"Of {len(changes)} changes with a factor {count} undecided.")
    lines += [""] * bool(len(changes))
    ended = int(loaded.runs.status.isin(records.RESULTS).sum())
    if ended < len(loaded.runs):
        lines += [f"Not complete: {ended} of {len(loaded.runs)} runs are there.", ""]
    return "\n".join(lines)


def _lines(group: Sequence[Comparison], plan: Mapping[str, Any], paint: Paint) -> Iterator[str]:
    comparison = group[0]
    exploratory = "" if comparison.is_declared else ", exploratory"
    title = headline(comparison).replace(LONG_UNIT, "SD of target")
    label = comparison.label
    name = label if comparison.title == label else f"{comparison.title} ({label})"
    yield from textwrap.wrap(f"{name}: {title}{exploratory}", 80)
    intervals = "no comparison"
    for first in comparison.paired[:1].itertuples():
        over = f"{first.comparisons} losses" if first.comparisons > 1 else "one loss"
        if len(comparison.rule.looks) > 1:
            over += f" and looks at {words.listed(comparison.rule.looks)} seeds"
        intervals = f"{first.confidence:.0%} intervals of differences, simultaneous over {over}, "
        intervals += f"margin ±{words.margin_text([comparison.margin])}"
    primary = comparison.summary[comparison.summary.metric == comparison.metric]
    yield from textwrap.wrap(f"n = {counted_from_to(primary.n)} seeds, {intervals}", 80)
    median = "median " if comparison.rule.average == "median" else ""
    minus = _cut(f"{median}minus {comparison.reference}", 26)
    yield f"{'loss':<15} {'mean ± half CI':<16} {minus:<26} verdict"
    for row in rows(comparison, plan):
        cells = _cut_name(row["loss"], 15), _cut(row["short"], 16), _cut(row["difference"], 26)
        verdict = paint(_cut(row["verdict"], 20), row["verdict"])
        yield "{:<15} {:<16} {:<26} ".format(*cells) + verdict
    others = group[1:]  # at other learning rates than a loss's own, one line per loss
    if others:
        heads = (records.CONDITIONS[other.condition].short for other in others)
        yield f"{'':<15} " + " ".join(f"{head:<30}" for head in heads).rstrip()
    verdicts = [other.paired.set_index("loss").verdict.map(other.printed) for other in others]
    for loss in dict.fromkeys(loss for by_loss in verdicts for loss in by_loss.index):
        those = [by_loss.get(loss, "") for by_loss in verdicts]
        cells = [paint(word, word) + " " * (30 - len(word)) for word in those]
        yield f"{_cut_name(loss, 15):<15} " + " ".join(cells).rstrip()
    for note in notes(comparison, plan):
        yield from textwrap.wrap(note, 80, subsequent_indent="  ")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _cut_name(loss: str, width: int) -> str:
    """Name of a loss, shortened before the parameters, which distinguish losses of one name."""
    parameters = loss[loss.find("(") :] if "(" in loss else ""
    if len(loss) <= width or len(parameters) > width - 2:
        return _cut(loss, width)
    return f"{loss[: width - 1 - len(parameters)]}…{parameters}"


TERMS = {
    "context": "a data set and a model; what follows a dot is what else was varied",
    "reference": "the loss that all others of a context are compared with, declared beforehand",
    "margin": "the difference, declared beforehand, that is too small to matter",
    "own best rate": "the learning rate with the best mean on validation over all seeds, or "
    "the best median where that is declared",
    "look": "a number of seeds, declared beforehand, at which verdicts are read; what is open then "
    "goes on to the next",
    "at these rates": "the narrower interval that takes the chosen learning rates for given",
    "diverged": "a run whose loss or outputs were no longer finite; it ranks as the worst",
    "incomplete": "a run of the loss or the reference failed or is missing",
    "still improving": "in most runs validation was best at the last evaluation",
    "would decide it": "seeds for a verdict with a chance of 80 %, mean and spread as seen here; "
    "of medians roughly, by the length of the interval seen here",
    "give an interval": "of a median fewer seeds than this have none",
    "gradient norm": "of the mean loss by all parameters",
    "output gradient": "of the loss by the model's outputs, before the inverse link: what the loss "
    "feeds back, its error signal",
    "error": "prediction - target, over a batch and all outputs",
    "cosine": "between output gradient and error, as one long vector over the batch",
    "inverse link": "what makes a prediction of the outputs: identity, sigmoid, softmax",
    "own loss": "the mean of the loss that a run was trained with",
}
"""Meaning of the terms on the page."""

LONG_UNIT = records.STANDARD

BUCKETS = {
    "better": ("better by more", "better"),
    "equivalent or below the margin": ("equivalent", "below the margin"),
    "undecided": ("undecided",),
    "worse": ("worse by more", "worse"),
    "told apart by divergence": ("diverges", "reference diverges"),
}
"""Groups of verdicts in a summary; a verdict in no group counts as `none`."""


def bucket_of(verdict: str) -> str:
    """Group of a verdict in a summary: a key of `BUCKETS`, or `none`."""
    return next((name for name, kinds in BUCKETS.items() if verdict in kinds), "none")


def bucketed(comparison: Comparison) -> dict[str, list[str]]:
    """Losses of a comparison by group of their verdicts; losses without a verdict are in `none`."""
    losses: dict[str, list[str]] = {name: [] for name in [*BUCKETS, "none"]}
    for row in comparison.paired.itertuples():
        name = bucket_of(row.verdict)
        late = " (exploratory)" if row.exploratory and comparison.is_declared else ""
        verdict = f": {row.verdict}" if name == "none" else ""
        losses[name].append(f"{row.loss}{verdict}{late}")
    return losses


def is_smoke(plan: Mapping[str, Any]) -> bool:
    """Whether a sweep is so small that its verdicts say nothing about losses."""
    return statistics.declaration_of(plan)["size"] == "smoke"


def headline(comparison: Comparison) -> str:
    """Split, metric, unit and direction."""
    facts = records.METRICS.get(comparison.metric)
    unit = f" ({facts.unit})" if facts and facts.unit != "1" else ""
    better = records.direction(comparison.metric)
    return f"{comparison.split} {comparison.metric}{unit}, {better} is better"


def rows(comparison: Comparison, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row of words per loss: the reference first, then from the best to the worst."""
    primary = comparison.summary[comparison.summary.metric == comparison.metric]
    sign = -records.sign(comparison.metric)
    versus = {row["loss"]: row for row in comparison.paired.to_dict("records")}
    worth = primary.value
    if comparison.rule.average == "median":  # the judged order; one seed may dominate a mean
        judged = primary.loss.map({loss: row["difference"] for loss, row in versus.items()})
        worth = judged.fillna(math.inf * sign)
    order = primary.assign(first=primary.loss != comparison.reference, worth=sign * worth)
    cells, scale, others = [], comparison.margin.scale, other_metrics(comparison)
    means = {(row.loss, row.metric): row for row in comparison.summary.itertuples()}
    not_compared = dict.fromkeys(("difference", "low", "high", "fixed_low", "fixed_high"), math.nan)
    for row in order.sort_values(["first", "worth"]).to_dict("records"):
        loss, bounds = row["loss"], (row["value"], row["low"], row["high"])
        half, other = (row["high"] - row["low"]) / 2, versus.get(loss, not_compared)
        verdict = "reference" if loss == comparison.reference else ""
        if loss in versus:
            verdict = comparison.printed(other["verdict"])
        elsewhere = {}
        for name in others:
            mean = means[loss, name]
            count = "" if mean.n in (0, row["n"]) else f" (n = {mean.n})"
            elsewhere[name] = words.rounded(mean.value, mean.high - mean.value) + count
        size, fixed = (other["low"], other["high"]), (other["fixed_low"], other["fixed_high"])
        cells.append(
            {
                "loss": f"{loss}†" if _aims_elsewhere(loss, comparison, plan) else loss,
                "short": words.rounded(row["value"], half)
                + (f" ± {_half(half)}" if half >= 0 else ""),
                "estimate": words.interval(*bounds),
                "in_target": words.interval(*(scale * number for number in bounds)),
                "n": f"{row['n']}/{row['planned']}",
                "diverged": str(row["diverged"]),
                "lr": f"{row['lr']:.3g}" if row["n"] else "",
                "difference": words.interval(other["difference"], *size, sign=True),
                "pairs": str(other.get("pairs", "")),
                "fixed": words.interval(other["difference"], *fixed, sign=True),
                "verdict": verdict,
                "exploratory": bool(other.get("exploratory", False)),
                "others": elsewhere,
            }
        )
    return cells


def _half(half: float) -> str:
    """Half an interval as text; a number that is not zero never prints as zeros."""
    text = words.rounded(half, half)
    return text if text == "none" or float(text) or not half else f"{half:.0e}"


def other_metrics(comparison: Comparison) -> list[str]:
    """Metrics with values except the primary one, and except metrics of the last step only."""
    present = comparison.summary[
        (comparison.summary.n > 0) & (comparison.summary.metric != comparison.metric)
    ]
    return [name for name in dict.fromkeys(present.metric) if not records.metric_of(name).is_final]


def _aims_elsewhere(loss: str, comparison: Comparison, plan: Mapping[str, Any]) -> bool:
    facts = plan.get("losses", {}).get(loss.partition("(")[0])
    data = plan.get("data", {}).get(comparison.runs.data.iloc[0], {})
    if facts is None or comparison.metric != "rmse":
        return False
    # Mean and median of symmetric targets are equal, unless outliers lie on one side.
    configs = comparison.runs.config.dropna()
    factors = statistics.factors(str(configs.iloc[0])) if len(configs) else {}
    is_skewed = factors.get("corruption.fn") == "outliers" and bool(
        factors.get("corruption.params.is_one_sided")
    )
    is_symmetric = data.get("is_symmetric", False) and not is_skewed
    return not is_symmetric and "elicits_mean" not in facts["claims"]


def notes(comparison: Comparison, plan: Mapping[str, Any]) -> Iterator[str]:
    """Notes that a reader of the table must know."""
    primary = comparison.summary[comparison.summary.metric == comparison.metric]
    if comparison.refusal:
        yield f"No pairs: {comparison.refusal}"
    if note := plan.get("data", {}).get(comparison.runs.data.iloc[0], {}).get("note"):
        yield note
    if any(_aims_elsewhere(loss, comparison, plan) for loss in primary.loss):
        yield f"† {OTHER_FUNCTIONAL}."
    for sentence in _duplicates([*primary.loss], plan):
        yield f"{sentence}: one loss under two names, up to its learning rate."
    for row in primary.itertuples():
        lost = [f"{getattr(row, s)} {s}" for s in records.STATUSES[1:] if getattr(row, s)]
        if lost:
            others = "; means are over the others" if row.n else ""
            yield f"{row.loss}: {', '.join(lost)} of {row.planned} runs{others}."
    rates = comparison.rates.lr.nunique()
    chosen = ", ".join(f"{row.loss} {row.lr:g}" for row in primary.itertuples() if row.n)
    if comparison.is_main and rates > 1 and chosen:
        yield f"Each loss at its best of {rates} learning rates on validation: {chosen}."
    if comparison.is_declared and comparison.is_main:
        grid = (unequal_budgets(comparison.budgets), coarse_grid(comparison.rates))
        for sentence in filter(None, (wide_margin(comparison), *grid)):
            yield f"{sentence[0].upper()}{sentence[1:]}"
    if comparison.absent:
        yield f"Declared, and not run here: {', '.join(comparison.absent)}."
    ends = comparison.rates.groupby("loss").lr.agg(["min", "max", "nunique"])
    edge = [
        row.loss
        for row in primary[primary.n > 0].join(ends, on="loss").itertuples()
        if comparison.is_main and row.nunique > 2 and row.lr in (row.min, row.max)
    ]
    if edge:
        yield f"Best learning rate on the edge of the grid, maybe not the best: {', '.join(edge)}."
    if improving := still_improving(comparison):
        yield f"Still improving at the last step in most runs: {', '.join(improving)}."
    if primary.n.max() == 1:
        yield "One seed gives no interval: add seed='range(10)'."
    if comparison.late and comparison.is_declared:
        yield f"Added after the declaration, so exploratory: {', '.join(comparison.late)}."
    if text := words.seen_text(comparison.seen, count=len(comparison.runs)):
        yield f"{text}."
    yield from _earlier_looks(comparison, primary)
    versus = comparison.paired.to_dict("records")
    fragile = [f"{row['loss']}: {text}." for row in versus if (text := words.fragility(row))]
    yield from fragile
    if fragile:
        typed = f"++hydra.sweeper.declare.average.{comparison.task}=median name=NEW"
        yield f"Where one seed makes a mean, ask for medians in a sweep of its own: {typed}"
    for row in versus:
        if row["verdict"] == "undecided":
            basis = "power 80 %, as" if row["average"] == "mean" else "by the interval"
            text = f"undecided with {row['pairs']} seeds, {words.seeds_text(row)}"
            yield f"{row['loss']}: {text} ({basis} seen so far)."


def _earlier_looks(comparison: Comparison, primary: pd.DataFrame) -> Iterator[str]:
    """Notes on losses settled at an earlier look, with the reference's mean over those seeds."""
    chosen = dict(zip(primary.loss, primary.lr, strict=True))
    reference: Any = next(primary[primary.loss == comparison.reference].itertuples(), None)
    if reference is None:
        return
    half = (reference.high - reference.low) / 2
    settled = comparison.paired[comparison.paired.seeds < reference.planned]
    for seeds, rows in settled.groupby("seeds"):
        names = []
        for row in rows.itertuples():
            pairs = ((row.loss, row.lr), (row.reference, row.reference_lr))
            other = [f"{name} at {lr:g}" for name, lr in pairs if lr != chosen.get(name)]
            names.append(row.loss + (f" ({', '.join(other)})" if other else ""))
        values = rows.reference_value.dropna()
        ends = [words.rounded(value, half) for value in (values.min(), values.max())]
        over = " to ".join(dict.fromkeys(ends)) if len(values) else "no value"
        where = f"over which {reference.loss} has {over}"
        yield f"Settled with {seeds} seeds, {where}: {', '.join(names)}."


def caveats(row: words.Row, *, is_declared: bool) -> list[str]:
    """Caveats of a verdict, each in a few words.

    Args:
        row: Row of `words.verdicts`.
        is_declared: Whether anything in the context of the row was declared beforehand.
    """
    notes = [words.fragility(row), words.on_new_examples(row)]
    if row["still_improving"]:
        notes.append("still improving")
    if row["exploratory"] and is_declared:
        notes.append("exploratory")
    return [note for note in (*notes, *words.diverged_in(row)) if note]


def counted_from_to(numbers: pd.Series, form: str = "") -> str:
    """Numbers as text: a single number, or the least and the largest, in a format like ","."""
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"


def _duplicates(losses: Sequence[str], plan: Mapping[str, Any]) -> list[str]:
    """Sentences on losses of a table that are equal up to a factor."""
    known = plan.get("losses", {})
    every = [known.get(loss, {}).get("duplicates", {}) for loss in losses]
    sentences = [text for one in every for other, text in one.items() if other in losses]
    return [*dict.fromkeys(sentences)]
