"""What a sweep answers to its experiment's question, in sentences made of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from lossbench import records, statistics
from lossbench.report import essay, summary, words
from lossbench.statistics import Comparison


def answers(verdicts: statistics.Verdicts) -> Iterator[str]:
    """Sentences that answer: what the verdicts say, then what else the experiment asks for.

    Args:
        verdicts: The comparisons of a sweep; its folder is named like its experiment.
    """
    loaded, mains = verdicts.sweep, verdicts.mains
    yield from of_own(loaded, mains)
    for tasks in statistics.grouped(mains, "metric", "reference"):
        yield of_verdicts(tasks)
    yield from _changes(verdicts.changes)
    for finding in essay.of_sweep(verdicts):
        yield f"{finding.says} {finding.verdict}"


def of_own(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """A sentence for each loss of somebody's own: how it came out, and where."""
    known = loaded.plan["losses"]
    names = [loss for task in mains for loss in task.paired.loss]
    for loss in dict.fromkeys(names):
        if known.get(loss.partition("(")[0], {}).get("family") != "own":
            continue
        places: dict[str, list[str]] = {word: [] for word in (*summary.BUCKETS, "none")}
        compared = [task for task in mains if loss in {*task.paired.loss}]
        for task in compared:
            (verdict,) = task.paired.verdict[task.paired.loss == loss]
            places[summary.bucket_of(verdict)].append(task.label)
        parts = [
            f"**{'without a verdict' if word == 'none' else word}** on {words.listed(labels)}"
            for word, labels in places.items()
            if labels
        ]
        references = words.listed([*dict.fromkeys(task.reference for task in compared)])
        yield f"{loss} against {references}: {'; '.join(parts)}."


def of_verdicts(tasks: Sequence[Comparison], *, has_names: bool = True) -> str:
    """How the losses came out against one reference in one metric, and by how much.

    Args:
        tasks: Their comparisons, alike in metric and reference.
        has_names: Whether each loss is named; those of a single task always are.
    """
    first = tasks[0]
    verdicts = [words.verdicts_of(task).assign(word=[*task.paired.verdict]) for task in tasks]
    rows = pd.concat([rows for rows in verdicts if len(rows)] or verdicts, ignore_index=True)
    against = f"Against {first.reference} in {first.metric}"
    if rows.empty:
        return f"{against}: no verdict."
    is_late = rows.exploratory.astype(bool)
    if is_late.all():
        against = f"Exploratory: {against[0].lower()}{against[1:]}"
    else:
        rows = rows[~is_late]
    parts, sorted_words = [], [word for kinds in summary.BUCKETS.values() for word in kinds]
    for bucket, kinds in {**summary.BUCKETS, "without a verdict": ()}.items():
        mine = rows[rows.word.isin(kinds) if kinds else ~rows.word.isin(sorted_words)]
        if len(mine):
            names = ""
            if has_names or len(tasks) == 1:
                names = f" ({_counted_names(mine.loss, rows.loss, is_single=len(tasks) == 1)})"
            parts.append(f"**{bucket}** in {len(mine)}{names}")
        elif bucket in ("better", "worse"):
            parts.append(f"**{bucket}** in none")
    where = f"on {len(tasks)} tasks" if len(tasks) > 1 else f"on {first.label}"
    every = "one comparison" if len(rows) == 1 else f"{len(rows)} comparisons"
    counts = f"{against} {where}, of {every}: {', '.join(parts)}."
    return " ".join([counts, *_strongest(rows)])


def _changes(changes: pd.DataFrame) -> Iterator[str]:
    """Whether differences change with a factor, where the experiment declares that it asks this."""
    for (factor, reference), rows in changes.groupby(["factor", "reference"], sort=False):
        moved = rows[rows.verdict.isin(["better", "better by more", "worse", "worse by more"])]
        same = int(rows.verdict.isin(["equivalent", "below the margin"]).sum())
        what = "a difference between losses" if reference else "a loss by itself"
        yield (
            f"Does {what} change with {factor}? Of {len(rows)} changes from "
            f"{rows.base.iloc[0]}, {len(moved)} leave zero out and reach "
            f"beyond the margin, {same} lie within it, {len(rows) - len(moved) - same} are open."
        )
        for row in moved.to_dict("records"):
            yield f"- {words.change_sentence(row)}"


def _counted_names(losses: pd.Series, every: pd.Series, *, is_single: bool) -> str:
    """Losses by how often they came out so, and in how many tasks they were compared."""
    of = every.value_counts()
    return ", ".join(
        f"{loss}" if is_single else f"{loss} {count} of {of[loss]}"
        for loss, count in losses.value_counts().items()
    )


def _strongest(rows: pd.DataFrame) -> Iterator[str]:
    """The comparison, better and worse, whose interval stays furthest from zero."""
    for kind in ("better", "worse"):
        mine = rows[rows.word.isin([kind, f"{kind} by more"])]
        if len(mine):
            nearest = mine[["low", "high"]].astype(float).abs().min(axis=1)
            row = mine.loc[nearest.idxmax()]
            difference = words.interval(row.estimate, row.low, row.high, sign=True)
            yield f"Most clearly {kind}: {row.loss} on {row.task}, {difference}, n = {row.n}."
