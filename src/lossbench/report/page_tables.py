"""The tables of the page: words by column, from the numbers of a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossbench import figures, records, statistics
from lossbench.report import summary
from lossbench.statistics import Comparison


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: What it shows, with n and the kind of interval.
        rows: Of words, by column.
        file: Stem of the files that hold its numbers.
        task: As in `pictures.Drawing`.
    """

    caption: str
    rows: Sequence[Mapping[str, str]]
    file: str
    task: str = ""


def verdict_tables(groups: Sequence[Sequence[Comparison]]) -> list[Table]:
    """Every difference with its interval, and the verdicts at other learning rates beside it."""
    tables = []
    for group in groups:
        task, rows = statistics.main_of(group), []
        if task.paired.empty:
            continue
        elsewhere = {
            records.CONDITIONS[one.condition].short: one.paired.set_index("loss")
            for one in group
            if not one.is_main
        }
        for row in task.paired.itertuples():
            verdict = str(row.verdict)
            if row.diverged and "diverge" not in verdict:
                verdict += f", {row.diverged} diverged"
            if row.exploratory and task.stage == "confirm":
                verdict += " (exploratory)"
            cells = {"loss": row.loss, "difference": _difference(row), "pairs": str(row.pairs)}
            cells["verdict"] = verdict
            for name, paired in elsewhere.items():
                is_there = row.loss in paired.index
                cells[name] = _verdict_elsewhere(paired.loc[row.loss]) if is_there else ""
            rows.append(cells)
        first = task.paired.iloc[0]
        caption = (
            f"{task.label}: loss minus {task.reference} in {summary.headline(task)}; mean over "
            f"pairs of one seed, simultaneous {first.confidence:.0%} paired-t interval over "
            f"{figures.families(task.paired)}, margin ±{first.margin:g}."
        )
        tables.append(Table(caption, rows, "verdicts", task.label))
    return tables


def _verdict_elsewhere(row: Any) -> str:
    if row.verdict in ("better", "worse") and math.isfinite(row.difference):
        return f"{row.verdict} by {abs(row.difference):.2g}"
    return str(row.verdict)


def _difference(row: Any) -> str:
    return summary.interval(row.difference, row.low, row.high, sign=True) or "no pair survived"


def tuning_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """How settled the choice of each learning rate is."""
    caption = (
        "Stability: share of resampled tuning seeds that choose the same rate again. Plausible: "
        "rates that at least one resample in twenty chooses. Excess: what a rate drawn blindly "
        "from the grid costs. Diverged: share of the rates at which a run did."
    )
    for label, rows in _groups(frame, "label"):
        cells = [
            {
                "loss": row.loss,
                "best rate": _number(row.best_lr),
                "stability": f"{row.stability:.0%}" if math.isfinite(row.stability) else "–",
                "plausible": f"{row.plausible} of {row.rates}",
                f"excess {_of_loss(row.metric)}": _number(row.sensitivity),
                "diverged": f"{row.diverged_share:.0%}",
            }
            for row in rows.itertuples()
        ]
        yield Table(caption, cells, "sensitivity", label)


def selection_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """What selection on corrupted validation cost."""
    caption = (
        "What selection on noisy labels cost. Learning rates were selected on validation that is "
        "as corrupted as training. Oracle: the rate that the same runs choose by the targets from "
        "before the corruption. Cost: by how much the rate chosen is worse on those, mean over "
        "tuning seeds with its paired t interval, not adjusted for the number of losses; on these "
        "seeds the oracle cannot lose, so the cost is an upper bound. Nothing was selected by the "
        "oracle."
    )
    for label, rows in _groups(frame, "label"):
        cells = [
            {
                "loss": row.loss,
                f"chosen by {_of_loss(row.selected_by)}": _number(row.noisy_lr),
                "oracle": _number(row.clean_lr),
                f"{row.metric} of the chosen": _number(row.noisy_value),
                "of the oracle": _number(row.clean_value),
                "cost": "0, the same choice"
                if row.is_same
                else summary.interval(row.cost, row.low, row.high) or "–",
                "seeds": f"{row.n} ({row.lost} lost)" if row.lost else str(row.n),
            }
            for row in rows.itertuples()
        ]
        yield Table(caption, cells, "selection_cost", label)


def convergence_tables(frame: pd.DataFrame) -> list[Table]:
    """Whether runs had settled, and how."""
    caption = (
        "Converged: runs whose own training loss stays within 5 % of its whole decrease from its "
        "final value in the last fifth of the updates. Other columns: medians over runs; last "
        "values are means of the last five logged steps."
    )
    tables = []
    for label, rows in _groups(frame, "label"):
        cells = [
            {
                "loss": row.loss,
                "converged": f"{row.converged} of {row.n}",
                "settled after": _number(row.steps_to_final),
                "first gradient": _number(row.initial_gradient_norm),
                "last gradient": _number(row.final_gradient_norm),
                "last error": _number(row.final_error_norm),
                "mean cosine": _number(row.mean_cosine),
            }
            for row in rows.itertuples()
        ]
        tables.append(Table(caption, cells, "convergence", label))
    return tables


def robustness_tables(mains: Sequence[Comparison]) -> Iterator[Table]:
    """The same differences by other intervals and tests."""
    for task in mains:
        rows = [
            {
                "loss": row.loss,
                "verdict": row.verdict,
                "paired t": _difference(row),
                "bootstrap-t": summary.interval(
                    row.difference, row.boot_low, row.boot_high, sign=True
                ),
                "p, Holm": _number(row.p_holm),
                "p rank, Holm": _number(row.p_wilcoxon_holm),
                "wins": f"{row.wins} of {row.trials}",
            }
            for row in task.paired.itertuples()
        ]
        caption = (
            f"{task.label}, {task.metric}: the same differences by other means. p rank: exact "
            "Wilcoxon signed rank, refused (–) where no outcome could reach the level. Wins: "
            "seeds in which the loss beats the reference, ties left out."
        )
        if rows:
            yield Table(caption, rows, "paired", task.label)


def spread_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """Losses whose spread over seeds is not the reference's."""
    rows = [
        {
            "task": row.label,
            "loss": row.loss,
            "variance / reference's": summary.interval(row.value, row.low, row.high),
        }
        for row in frame.itertuples()
        if math.isfinite(row.low) and not row.low <= 1 <= row.high
    ]
    caption = (
        "Losses whose results spread more or less over seeds than the reference's: ratio of "
        "variances with its 95 % Pitman-Morgan interval, where that excludes 1 "
        f"({len(rows)} of {len(frame)}; one in twenty would by chance)."
    )
    if len(frame):
        yield Table(caption, rows, "spread")


def across_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """Scores and ranks over several tasks."""
    for (kind, metric), rows in _groups(frame, ["task", "metric"]):
        caption = (
            f"Losses that {rows.tasks.iloc[0]} tasks of {kind} have in common, {metric}. Score: 0 "
            f"before training, 1 the mean of {rows.reference.iloc[0]}; interquartile mean over "
            "tasks and seeds with its 95 % bootstrap interval within tasks. Mean rank: within "
            "seeds, then over tasks; 1 is best."
        )
        cells = [
            {
                "loss": row.loss,
                "score": summary.interval(row.value, row.low, row.high),
                "mean rank": f"{row.mean_rank:.2f}" if math.isfinite(row.mean_rank) else "–",
                "runs": str(row.n),
            }
            for row in rows.sort_values("value", ascending=False).itertuples()
        ]
        yield Table(caption, cells, "across_tasks")


def _groups(frame: pd.DataFrame, by: str | list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    if len(frame):
        yield from frame.groupby(by, sort=False)


def _of_loss(metric: str) -> str:
    return metric.replace(records.OWN_LOSS, "own loss")


def _number(value: float) -> str:
    """Three digits; a dash where there is no number, a sign where it is never reached."""
    if math.isnan(value):
        return "–"
    return "never" if math.isinf(value) else f"{value:.3g}"
