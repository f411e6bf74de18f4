"""What a sweep answers to its experiment's question, in sentences made of its records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
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
    if loaded.sweep_dir.name in BEYOND_VERDICTS:
        yield from BEYOND_VERDICTS[loaded.sweep_dir.name](loaded, mains)


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
            f"**{'without a verdict' if word == 'none' else word}** on {summary.listed(labels)}"
            for word, labels in places.items()
            if labels
        ]
        references = summary.listed([*dict.fromkeys(task.reference for task in compared)])
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
            difference = summary.interval(row.estimate, row.low, row.high, sign=True)
            yield f"Most clearly {kind}: {row.loss} on {row.task}, {difference}, n = {row.n}."


# ---- what some experiments ask beside verdicts ---------------------------------------------------


def _good_rates(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """Over which learning rates a loss stays within the margin of its best."""
    for task in mains:
        if task.rule.select != task.metric:
            yield (
                f"{task.label}: learning rates were chosen by {task.rule.select}, and the margin "
                f"is one in {task.metric}: which rates are good enough is not said."
            )
            continue
        rates = statistics.excess(task.rates)
        margin = task.margin.value
        good = rates[(rates.cost <= margin) & (rates.diverged == 0)]
        ends = good.groupby("loss").lr.agg(["min", "max"])
        ends = ends.assign(width=ends["max"] / ends["min"]).sort_values("width", ascending=False)
        texts = [
            f"{row.Index} {row.min:g} to {row.max:g} ({math.log10(row.width):.1f} decades)"
            for row in ends.itertuples()
        ]
        yield (
            f"{task.label}: learning rates that cost at most {margin:g} in {task.rule.select} on "
            f"validation, n = {task.grid.seed.nunique()} seeds: {', '.join(texts)}."
        )


def _sensitivity(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """How much more a loss loses at rates that are not its best one than the reference does."""
    for task in mains:
        rows = task.sensitivity[np.isfinite(task.sensitivity.more)].sort_values("more")
        texts = [
            f"{row.loss} {summary.interval(row.more, row.more_low, row.more_high, sign=True)}, "
            f"{row.verdict}"
            for row in rows.itertuples()
        ]
        if texts:
            yield (
                f"{task.label}: how much more a learning rate drawn blindly from the "
                f"{rows.rates.max():g} costs than with {task.reference}, in {task.metric} on test "
                f"over {len(task.declared.first_seeds)} seeds; below zero a loss is less "
                f"sensitive, which is better: {'; '.join(texts)}."
            )
    yield from _good_rates(loaded, mains)


def _agreement(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """How far the parameters' gradients of losses point the same way, and those of examples."""
    for task in mains:
        measured = statistics.joined(loaded.measured[loaded.measured.split == "train"], task.runs)
        metrics = measured.groupby(["metric", "loss"]).value
        mean, median = metrics.mean(), metrics.median()
        for metric, values, what in (
            (
                f"agreement:{task.reference}",
                mean,
                f"cosine of the gradients of all parameters of a loss and {task.reference}, mean "
                "along training",
            ),
            (
                "gradient_noise_scale",
                median,
                "batch size at which noise and gradient are alike, median along training",
            ),
        ):
            if metric in values:
                ends = values[metric].dropna().sort_values(ascending=False)
                texts = [f"{loss} {value:.3g}" for loss, value in ends.items()]
                yield f"{task.label}: {what}: {', '.join(texts)}."


def _updates_needed(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """Updates until the declared target."""
    for task in mains:
        times = task.times_to_target
        if len(times):
            first = times.iloc[0]
            rows = times.rename(columns={"median": "median_steps"}).sort_values("median_steps")
            texts = [essay.time_taken(row) for row in rows.itertuples()]
            yield (
                f"{task.label}: updates until {first.metric} {first.target:g} on validation, "
                f"median over seeds, each at its own rate: {', '.join(texts)}."
            )


def _parts(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """What the size of the gradients does to a difference, what their weights, what the rest."""
    for data in dict.fromkeys(task.runs.data.iloc[0] for task in mains):
        main = next(task for task in mains if task.runs.data.iloc[0] == data)
        lr = float(main.runs.lr[main.runs.loss == main.reference].iloc[0])
        runs = loaded.runs[(loaded.runs.data == data) & (loaded.runs.lr == lr)]
        ends = statistics.endpoint(
            statistics.placed(runs, tuned=["signal"]),
            loaded.measured,
            split=main.split,
            metric=main.metric,
        )
        parts = statistics.decomposition(ends, metric=main.metric, reference=main.reference)
        for loss, rows in parts.groupby("loss"):
            texts = [
                f"{row.part} {summary.interval(row.value, row.low, row.high, sign=True)}"
                for row in rows.itertuples()
            ]
            yield (
                f"{loss} minus {main.reference} in {main.metric} on {data} at learning rate "
                f"{lr:g}, n = {rows.n.max()} seeds: {', '.join(texts)}."
            )


def _arrivals(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    """Which losses arrive at their own Bayes point, and who ends furthest from it."""
    for task in mains:
        rows = task.summary[(task.summary.metric == "tv_bayes") & (task.summary.n > 0)]
        margin = task.margin.value
        there = sorted(rows.loss[rows.high < margin])
        left = rows[~(rows.high < margin)].sort_values("value", ascending=False)
        texts = [
            f"{row.loss} {summary.interval(row.value, row.low, row.high)}"
            for row in left.itertuples()
        ]
        rest = f" The others: {', '.join(texts)}." if texts else ""
        yield (
            f"{task.label}: {len(there)} of {len(rows)} losses end less than {margin:g} (total "
            f"variation, upper end of the interval) from their own Bayes point: "
            f"{', '.join(there) or 'none'}.{rest}"
        )


BEYOND_VERDICTS: dict[str, Callable[[records.Records, Sequence[Comparison]], Iterator[str]]] = {
    "bayes_points": _arrivals,
    "decomposition": _parts,
    "gradient_agreement": _agreement,
    "learning_rate": _good_rates,
    "time_to_target": _updates_needed,
    "z_loss": _sensitivity,
}
"""By experiment what answers a question that no verdict answers."""
