"""The folder of a report: one HTML page that opens offline, figures, tables.

The page answers, in this order: what was asked, what came out, how sure we are, why it is so, how
to do it again. Names come from users, so it is rendered with autoescape and figures never read a
name as a formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from lossbench import figures, records, statistics, store
from lossbench.report import drawings, essay, methods, pictures, summary
from lossbench.report.tables import KINDS, stacked, write_tables
from lossbench.statistics import Comparison

SECTIONS: dict[str, tuple[str, str, str]] = {
    "verdicts": (
        "Verdicts",
        "What does each loss change?",
        "Every loss against the reference of its task, seed by seed. A verdict needs an interval "
        "that settles it: what is undecided is not equal.",
    ),
    "tasks": (
        "Task by task",
        "How well does each loss do, and how much do seeds differ?",
        "Means on their own, then the differences within seeds that the verdicts rest on. What the "
        "columns are stands under Words.",
    ),
    "tuning": (
        "Learning rates",
        "Did every loss get the learning rate that suits it?",
        "One grid for all losses of a task, chosen on validation. A ring on the edge, a flat or a "
        "noisy curve would be a reason for doubt.",
    ),
    "losses": (
        "The losses",
        "How do the losses differ by construction?",
        "Exact curves, no training: this is all that was changed between the runs.",
    ),
    "dynamics": (
        "Gradients",
        "What does each loss feed back while the model learns?",
        "The output gradient is the loss's error signal. Where its ratio to the error and its "
        "cosine with it are both 1, it is prediction - target.",
    ),
    "convergence": (
        "Convergence",
        "How fast does each loss learn, and had it finished?",
        "On validation. Losses that still improve at the end might change places with more "
        "updates.",
    ),
    "calibration": (
        "Calibration",
        "How good are the probabilities?",
        "Accuracy looks at the largest probability only; these measures look at all of them.",
    ),
    "cross": (
        "Cross-loss matrix",
        "Is each loss best at its own game?",
        "Each trained model judged by every loss of the task. Nobody is ranked by this.",
    ),
    "robustness": (
        "Robustness",
        "Would the verdicts be others with other choices?",
        "Other learning rates, other tests, all tasks together. Verdicts come from the paired-t "
        "intervals alone; what stands here can only make you trust them less.",
    ),
}
"""Sections with figures in the order of the page: short name, question, how to read it."""


FOLDED = ("tuning", "dynamics", "convergence", "calibration", "cross", "robustness")
"""Sections that show their first task and fold the others."""


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


def write(
    sweep: Path | records.Records, *, workers: int = 1, drawn_in: Collection[str] = tuple(SECTIONS)
) -> Path:
    """Write `report/` into a sweep's folder.

    Args:
        sweep: Folder of the sweep, or its records.
        workers: Processes that draw; 1 draws in this one.
        drawn_in: Sections that get their figures, which take most of the time.

    Returns:
        Path of `report/index.html`.

    Raises:
        store.StoreError: The folder is no sweep, or a file is unreadable, altered or foreign.
    """
    found = sweep if isinstance(sweep, records.Records) else records.load(sweep)
    folder = found.sweep_dir / "report"
    together, answers = statistics.all_comparisons(found), essay.of_sweep(found)
    groups = statistics.by_context(together)
    mains = [statistics.main_of(group) for group in groups]
    numbers = _numbers(together, mains, answers, found)
    files = sorted(name for name, frame in numbers.items() if len(frame))
    write_tables(folder / "tables", {name: numbers[name] for name in files})
    planned = {
        section: some if section in drawn_in else []
        for section, some in drawings.gallery(found, groups, mains).items()
    }
    flat = [drawing for section in planned.values() for drawing in section]
    losses = {(row.loss, str(row.family)) for row in found.runs.itertuples()}
    drawn = pictures.all_drawn(folder / "figures", flat, workers=workers, losses=losses)
    rules, drawn = pictures.with_classes(drawn)
    by_name = {picture.name: picture for picture in drawn}
    loader = jinja2.PackageLoader("lossbench.report", "")
    page = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.globals["told"] = _told
    text = page.get_template("page.html.j2").render(
        plan=found.plan,
        asked=statistics.declaration_of(found.plan),
        rules=rules,
        day=pictures.palette(is_night=False),
        night=pictures.palette(is_night=True),
        counts=numbers["completeness"][["planned", *records.STATUSES]].sum().to_dict(),
        complete=numbers["completeness"].to_dict("records"),
        against=statistics.objections(found, together),
        scope=_scope(mains),
        summary=[_summarised(task) for task in mains],
        buckets=[*summary.BUCKETS],
        counted=summary.counted(mains),
        seeds=_seeds(found),
        metrics=_metrics(mains),
        answers=[{**vars(one), "rows": _texts(one.table)} for one in answers],
        sections=SECTIONS,
        folded=FOLDED,
        terms=summary.TERMS.items(),
        pictures={
            name: [by_name[d.name] for d in some if d.name in by_name]
            for name, some in planned.items()
        },
        tables=_tables(groups, mains, numbers),
        tasks=[_section(task, found) for task in mains],
        catalog=sorted(found.plan["losses"].items()),
        methods=methods.paragraph(found, mains),
        command="\n".join(found.plan.get("commands", [])),
        files=files,
    )
    store.write(folder / "index.html", text.encode())
    _forget(folder / "figures", {file for one in drawn for _, file in one.files})
    _forget(folder / "tables", {f"{name}.{kind}" for name in files for kind in KINDS})
    return folder / "index.html"


def _forget(folder: Path, named: set[str]) -> None:
    """Delete files of an earlier report that this one does not have."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in named and path.suffix[1:] in (*KINDS, *pictures.FORMATS):
            path.unlink()


# ---- numbers -------------------------------------------------------------------------------------


def _numbers(
    together: Sequence[Comparison],
    mains: Sequence[Comparison],
    answers: Sequence[essay.Answer],
    found: records.Records,
) -> dict[str, pd.DataFrame]:
    """All tables by file stem."""
    results = [
        {"task": task.label, "stage": task.stage, "condition": task.condition}
        | {"metric": f"{task.split} {task.metric}"}
        | {name: value for name, value in row.items() if name not in ("others", "short")}
        for task in together
        for row in summary.rows(task, found.plan)
    ]
    signals = statistics.signals(found)
    return {
        "verdicts": stacked(task.verdicts for task in together),
        "results": pd.DataFrame(results),
        "summary": stacked(task.summary for task in together),
        "paired": stacked(task.paired.drop(columns="differences") for task in together),
        "learning_rates": stacked(task.rates for task in mains),
        "sensitivity": stacked(_tuned(task) for task in mains if len({*task.rates.lr}) > 1),
        "convergence": stacked(
            statistics.converged(statistics.convergence(task.runs, signals, found.evals))
            for task in mains
        ),
        "time_to_target": stacked(
            statistics.times_to_target(task, found).drop(
                columns=["steps", "survival"], errors="ignore"
            )
            for task in mains
        ),
        "cross_loss": stacked(statistics.cross_losses(task.runs, found.evals) for task in mains),
        "spread": stacked(
            statistics.spread_ratio(task.runs, metric=task.metric, reference=task.reference)
            for task in mains
            if not task.refusal
        ),
        "divergence": statistics.divergence_rates(found.runs),
        "across_tasks": stacked(_across(mains, found)),
        "selection_cost": stacked(statistics.selection_costs(mains, found)),
        "budgets": statistics.budgets(
            found.runs, tuned=statistics.declaration_of(found.plan)["tuned"]
        ),
        "completeness": statistics.completeness(found.runs),
        **{one.name: one.table for one in answers if len(one.table)},
    }


def _tuned(task: Comparison) -> pd.DataFrame:
    """What the learning rate matters to each loss, and how settled its choice is."""
    metric = str(task.rates.metric.iloc[0])
    columns = [*statistics.FACTS, "stability", "plausible"]
    found = statistics.sensitivity(task.grid, metric=metric)
    return found.merge(task.stability[columns], on=statistics.FACTS, how="left")


def _across(mains: Sequence[Comparison], found: records.Records) -> Iterator[pd.DataFrame]:
    """Interquartile mean of the normalised scores and mean rank of losses that share tasks."""
    for kind, metric, scores in statistics.normalised_scores(mains, found):
        try:
            ranks = dict(statistics.mean_ranks(scores, metric=metric).set_index("loss").value)
        except ValueError:
            ranks = {}  # no seed of some task in which every loss ended
        rows = statistics.iqm(scores).assign(task=kind, metric=metric)
        yield rows.assign(mean_rank=rows.loss.map(ranks), reference=scores.reference.iloc[0])


# ---- words ---------------------------------------------------------------------------------------


def _scope(mains: Sequence[Comparison]) -> str:
    """What was asked, in a sentence or two."""
    losses = {loss for task in mains for loss in task.runs.loss}
    told = "What does the loss change, when nothing else does?"
    if not mains:
        return told
    tasks = f"{len(mains)} task{'s' * (len(mains) > 1)}"
    told += f" {len(losses)} loss{'es' * (len(losses) > 1)} on {tasks}"
    if any(task.stage == "confirm" for task in mains):
        told += (
            ", each loss with the learning rate that suits it best on validation, then trained "
            "afresh on seeds that no tuning has seen; at a seed all losses share the start, the "
            "data and the batches"
        )
    return f"{told}."


def _seeds(found: records.Records) -> str:
    """Which seeds each stage used."""
    told = []
    for stage, rows in found.runs.groupby("stage", sort=False):
        seeds = sorted({int(seed) for seed in rows.seed.dropna()})
        is_range = seeds == [*range(seeds[0], seeds[-1] + 1)] and len(seeds) > 2
        some = f"{seeds[0]} to {seeds[-1]}" if is_range else ", ".join(map(str, seeds[:40]))
        told.append(f"{stage} {some}")
    return "; ".join(told)


def _metrics(mains: Sequence[Comparison]) -> list[tuple[str, records.Metric]]:
    """The metrics that the page shows, with what they are."""
    shown = {name for task in mains for name in (task.metric, *summary.other_metrics(task))}
    return [(name, metric) for name, metric in records.METRICS.items() if name in shown]


def _summarised(task: Comparison) -> dict[str, Any]:
    """One line of the summary."""
    base = task.summary[
        (task.summary.loss == task.reference) & (task.summary.metric == task.metric)
    ]
    row = base.iloc[0] if len(base) else None
    half = (row.high - row.low) / 2 if row is not None else math.nan
    return {
        "label": task.label,
        "metric": task.metric,
        "direction": records.direction(task.metric),
        "reference": task.reference,
        "value": summary.rounded(row.value, half) if row is not None else "none",
        "margin": f"{task.paired.margin.iloc[0]:g}" if len(task.paired) else "",
        "n": methods.span(task.paired.pairs) if len(task.paired) else "",
        "stage": task.stage,
        "refusal": task.refusal,
        **summary.bucketed(task),
    }


def _section(task: Comparison, found: records.Records) -> dict[str, Any]:
    """What the page says of one context beside its figures and verdicts."""
    return {
        "label": task.label,
        "stage": task.stage,
        "headline": summary.headline(task),
        "metric": task.metric,
        "split": task.split,
        "rows": summary.rows(task, found.plan),
        "metrics": summary.other_metrics(task),
        "notes": list(summary.notes(task, found.plan)),
        "methods": methods.of_task(task, found.plan),
    }


def _tables(
    groups: Sequence[Sequence[Comparison]],
    mains: Sequence[Comparison],
    numbers: Mapping[str, pd.DataFrame],
) -> dict[str, list[Table]]:
    """The tables of each section, those of tasks with their task."""
    return {
        "verdicts": [*_verdict_tables(groups)],
        "tuning": [
            *_by_task(numbers["sensitivity"], "sensitivity", _TUNING, _tuning_row),
            *_by_task(numbers["selection_cost"], "selection_cost", _SELECTION, _selection_row),
        ],
        "convergence": [*_by_task(numbers["convergence"], "convergence", _COURSE, _course_row)],
        "robustness": [*_robust_tables(mains), *_spreads(numbers["spread"]), *_together(numbers)],
    }


def _verdict_tables(groups: Sequence[Sequence[Comparison]]) -> Iterator[Table]:
    for group in groups:
        task, others = statistics.main_of(group), [one for one in group if not one.is_main]
        elsewhere = {
            records.CONDITIONS[one.condition].short: one.paired.set_index("loss") for one in others
        }
        rows = []
        for row in task.paired.itertuples():
            told = {"loss": row.loss, "difference": _difference(row), "pairs": str(row.pairs)}
            told |= {"verdict": _verdict(row, task)}
            for name, found in elsewhere.items():
                other = found.loc[row.loss] if row.loss in found.index else None
                told[name] = _verdict_elsewhere(other)
            rows.append(told)
        if rows:
            first = task.paired.iloc[0]
            yield Table(
                f"{task.label}: loss minus {task.reference} in {summary.headline(task)}; mean over "
                f"pairs of one seed, simultaneous {first.confidence:.0%} paired-t interval over "
                f"{figures.families(task.paired)}, margin ±{first.margin:g}.",
                rows,
                "verdicts",
                task.label,
            )


def _verdict(row: Any, task: Comparison) -> str:
    late = " (exploratory)" if row.exploratory and task.stage == "confirm" else ""
    lost = f", {row.diverged} diverged" if row.diverged and "diverge" not in row.verdict else ""
    return f"{row.verdict}{lost}{late}"


def _verdict_elsewhere(row: Any) -> str:
    if row is None:
        return ""
    if row.verdict in ("better", "worse") and math.isfinite(row.difference):
        return f"{row.verdict} by {abs(row.difference):.2g}"
    return str(row.verdict)


def _difference(row: Any) -> str:
    return summary.interval(row.difference, row.low, row.high, sign=True) or "no pair survived"


def _by_task(
    frame: pd.DataFrame, file: str, caption: str, row: Callable[[Any], dict[str, str]]
) -> Iterator[Table]:
    """A table of each context of a frame."""
    for label, rows in frame.groupby("label", sort=False) if len(frame) else ():
        yield Table(caption, [row(one) for one in rows.itertuples()], file, str(label))


_TUNING = (
    "Stability: share of resampled tuning seeds that choose the same rate again. Plausible: rates "
    "that at least one resample in twenty chooses. Excess: what a rate drawn blindly from the grid "
    "costs. Diverged: share of the rates at which a run did."
)


def _tuning_row(row: Any) -> dict[str, str]:
    return {
        "loss": row.loss,
        "best rate": _number(row.best_lr),
        "stability": f"{row.stability:.0%}" if math.isfinite(row.stability) else "–",
        "plausible": f"{row.plausible} of {row.rates}",
        f"excess {row.metric.replace(records.OWN_LOSS, 'own loss')}": _number(row.sensitivity),
        "diverged": f"{row.diverged_share:.0%}",
    }


_SELECTION = (
    "What selection on noisy labels cost. Learning rates were selected on validation that is as "
    "corrupted as training. Oracle: the rate that the same runs choose by the targets from before "
    "the corruption. Cost: by how much the rate chosen is worse on those, mean over tuning seeds "
    "with its paired t interval, not adjusted for the number of losses; on these seeds the oracle "
    "cannot lose, so the cost is an upper bound. Nothing was selected by the oracle."
)


def _selection_row(row: Any) -> dict[str, str]:
    lost = f" ({row.lost} lost)" if row.lost else ""
    cost = summary.interval(row.cost, row.low, row.high) or "–"
    return {
        "loss": row.loss,
        f"chosen by {row.selected_by.replace(records.OWN_LOSS, 'own loss')}": _number(row.noisy_lr),
        "oracle": _number(row.clean_lr),
        f"{row.metric} of the chosen": _number(row.noisy_value),
        "of the oracle": _number(row.clean_value),
        "cost": "0, the same choice" if row.is_same else cost,
        "seeds": f"{row.n}{lost}",
    }


_COURSE = (
    "Converged: runs whose own training loss stays within 5 % of its whole decrease from its final "
    "value in the last fifth of the updates. Other columns: medians over runs; last values are "
    "means of the last five logged steps."
)


def _course_row(row: Any) -> dict[str, str]:
    return {
        "loss": row.loss,
        "converged": f"{row.converged} of {row.n}",
        "settled after": _number(row.steps_to_final),
        "first gradient": _number(row.initial_gradient_norm),
        "last gradient": _number(row.final_gradient_norm),
        "last error": _number(row.final_error_norm),
        "mean cosine": _number(row.mean_cosine),
    }


def _robust_tables(mains: Sequence[Comparison]) -> Iterator[Table]:
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
        if rows:
            yield Table(
                f"{task.label}, {task.metric}: the same differences by other means. p rank: exact "
                "Wilcoxon signed rank, refused (–) where no outcome could reach the level. Wins: "
                "seeds in which the loss beats the reference, ties left out.",
                rows,
                "paired",
                task.label,
            )


def _spreads(frame: pd.DataFrame) -> Iterator[Table]:
    rows = [
        {
            "task": row.label,
            "loss": row.loss,
            "variance / reference's": summary.interval(row.value, row.low, row.high),
        }
        for row in frame.itertuples()
        if math.isfinite(row.low) and not row.low <= 1 <= row.high
    ]
    if len(frame):
        yield Table(
            "Losses whose results spread more or less over seeds than the reference's: ratio of "
            "variances with its 95 % Pitman-Morgan interval, where that excludes 1 "
            f"({len(rows)} of {len(frame)}; one in twenty would by chance).",
            rows,
            "spread",
        )


def _together(numbers: Mapping[str, pd.DataFrame]) -> Iterator[Table]:
    for (kind, metric), rows in _groups(numbers["across_tasks"], ["task", "metric"]):
        yield Table(
            f"Losses that {rows.tasks.iloc[0]} tasks of {kind} have in common, {metric}. Score: 0 "
            f"before training, 1 the mean of {rows.reference.iloc[0]}; interquartile mean over "
            "tasks and seeds with its 95 % bootstrap interval within tasks. Mean rank: within "
            "seeds, then over tasks; 1 is best.",
            [
                {
                    "loss": row.loss,
                    "score": summary.interval(row.value, row.low, row.high),
                    "mean rank": f"{row.mean_rank:.2f}" if math.isfinite(row.mean_rank) else "–",
                    "runs": str(row.n),
                }
                for row in rows.sort_values("value", ascending=False).itertuples()
            ],
            "across_tasks",
        )


def _groups(frame: pd.DataFrame, by: list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    if len(frame):
        yield from frame.groupby(by, sort=False)


def _number(value: float) -> str:
    """Three digits; a dash where there is no number, a sign where it is never reached."""
    if math.isnan(value):
        return "–"
    return "never" if math.isinf(value) else f"{value:.3g}"


def _told(choices: Mapping[str, Any]) -> str:
    """A declared choice by kind of task or data set."""
    return ", ".join(f"{choice} for {kind}" for kind, choice in choices.items())


def _texts(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of a table as the page shows them: four digits, a dash where there is no number."""

    def cell(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:.4g}" if math.isfinite(value) else "–"
        return str(value)

    return [
        {str(name): cell(value) for name, value in row.items()} for row in table.to_dict("records")
    ]
