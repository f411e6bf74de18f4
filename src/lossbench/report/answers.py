"""Answer of a sweep to its experiment's question, in sentences made from the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from lossbench import records, statistics
from lossbench.report import essay, summary, words
from lossbench.statistics import Comparison


def answers(verdicts: statistics.Verdicts) -> Iterator[str]:
    """Sentences of the answer: the verdicts, then other results that the experiment asks for."""
    loaded, mains = verdicts.sweep, verdicts.mains
    yield from of_own(loaded, mains)
    for alike in statistics.grouped(mains, "metric", "reference"):
        yield of_verdicts(alike)
    for (factor, reference), rows in verdicts.changes.groupby(["factor", "reference"], sort=False):
        moved = rows[rows.verdict.isin(["better", "better by more", "worse", "worse by more"])]
        same = int(rows.verdict.isin(["equivalent", "below the margin"]).sum())
        what = "a difference between losses" if reference else "a loss by itself"
        yield (
            f"Does {what} change with {factor}? Of {len(rows)} changes from "
            f"{rows.base.iloc[0]}, {len(moved)} leave zero out and reach "
            f"beyond the margin, {same} lie within it, {len(rows) - len(moved) - same} are open."
        )
        yield from (f"- {words.change_sentence(row)}" for row in moved.to_dict("records"))
    for finding in essay.of_sweep(verdicts):
        yield f"{finding.says} {finding.verdict}"


def of_own(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """Sentence for each loss of the user: its verdicts, with the contexts of each verdict."""
    known = loaded.plan["losses"]
    for loss in dict.fromkeys(loss for one in mains for loss in one.paired.loss):
        if known.get(loss.partition("(")[0], {}).get("family") != "own":
            continue
        places: dict[str, list[str]] = {word: [] for word in (*summary.BUCKETS, "none")}
        compared = [one for one in mains if loss in {*one.paired.loss}]
        for one in compared:
            (verdict,) = one.paired.verdict[one.paired.loss == loss]
            places[summary.bucket_of(verdict)].append(one.label)
        parts = [
            f"**{'without a verdict' if word == 'none' else word}** on {words.listed(labels)}"
            for word, labels in places.items()
            if labels
        ]
        references = words.listed([*dict.fromkeys(one.reference for one in compared)])
        yield f"{loss} against {references}: {'; '.join(parts)}."


def of_verdicts(alike: Sequence[Comparison]) -> str:
    """Sentences on declared verdicts, else exploratory ones, of one metric and reference."""
    tables = [words.verdicts_of(one).assign(word=[*one.paired.verdict]) for one in alike]
    rows = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    metric, reference = alike[0].metric, alike[0].reference
    if rows.empty:
        return f"In {metric}, nothing was compared with {reference}."
    is_late = rows.exploratory.astype(bool)
    if is_late.all():
        return f"Exploratory: {sentences(rows, metric, reference)}"
    return sentences(rows[~is_late], metric, reference)


def sentences(rows: pd.DataFrame, metric: str, reference: str) -> str:
    """Sentences on contexts where no loss beats the reference, better and worse losses, and counts.

    Args:
        rows: Rows of `words.verdicts`, with the recorded word of each verdict in `word`.
        metric: Metric of all rows.
        reference: Reference of all rows.
    """
    rows = rows.assign(bucket=rows.word.map(summary.bucket_of))
    better, worse = rows[rows.bucket == "better"], rows[rows.bucket == "worse"]
    beaten = rows.context[rows.word == "reference diverges"]
    unbeaten, parts = rows[~rows.context.isin({*better.context, *beaten})], []
    if len(unbeaten):
        count = unbeaten.loss.nunique()
        who = f"none of {count} losses beats"
        if count == 1:
            who = f"{unbeaten.loss.iloc[0]} does not beat"
        parts.append(f"{who} {reference} on {_places(unbeaten)}.")
    for kind, subset in (("better", better), ("worse", worse)):
        if len(subset):
            parts.append(f"{kind} than {reference}: {_who(subset)}.")
    if len(rows) > 1 or not len(better) + len(worse):
        counts = rows.bucket.value_counts()
        phrases = [f"{counts[name]} {phrase}" for name, phrase in COUNTED.items() if name in counts]
        of = "one comparison" if len(rows) == 1 else f"{len(rows)} comparisons"
        parts.append(f"of {of}: {words.listed(phrases)}.")
    first, *others = parts
    return " ".join([f"In {metric}, {first}", *(text[0].upper() + text[1:] for text in others)])


COUNTED = {
    "better": "better",
    "worse": "worse",
    "equivalent or below the margin": "within the margin",
    "undecided": "undecided",
    "told apart by divergence": "told apart by divergence",
    "none": "without a verdict",
}
"""Phrase for counted verdicts, by the group that `summary.bucket_of` returns."""


def _who(rows: pd.DataFrame) -> str:
    """Losses with one kind of verdict by context, with the clearest difference of each group."""
    losses_of = {
        context: tuple(subset.loss) for context, subset in rows.groupby("context", sort=False)
    }
    together = [*dict.fromkeys(losses_of.values())]
    if len(together) > 3:
        counts = [f"{loss} on {count}" for loss, count in rows.loss.value_counts().items()]
        contexts = f"{rows.context.nunique()} contexts"
        return f"{words.listed(counts)} of {contexts}, most clearly {_gap(rows)}"
    parts = []
    for losses in together:
        subset = rows[rows.context.map(losses_of) == losses]
        parts.append(f"{words.listed(losses)} on {_places(subset)}, {_gap(subset)}")
    return "; ".join(parts)


def _places(rows: pd.DataFrame) -> str:
    """Labels of the contexts of rows, or the number of contexts if there are more than four."""
    labels = [*dict.fromkeys(rows.context)]
    return words.listed(labels) if len(labels) <= 4 else f"{len(labels)} contexts"


def _gap(rows: pd.DataFrame) -> str:
    """Size of the difference whose interval is farthest from zero, with its loss and context."""
    nearest = rows[["low", "high"]].astype(float).abs().min(axis=1)
    row = rows.loc[nearest.idxmax()]
    size = (row.estimate, row.low, row.high)
    if row.estimate < 0:
        size = (-row.estimate, -row.high, -row.low)
    by = f"by {words.interval(*size)}"
    if len({*rows.loss}) > 1:
        by = f"{row.loss} {by}"
    return f"{by} on {row.context}" if len({*rows.context}) > 1 else by
