"""Folder of a report: one HTML page that opens offline, tables, and figure files on request.

The page shows, in this order: the question, the results, their uncertainty, their causes, and how
to repeat the sweep. Names come from users, so the page is rendered with autoescape, and figures
never read a name as a formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from lossbench import records, statistics, store
from lossbench.report import (
    answers,
    drawings,
    edition,
    essay,
    methods,
    objections,
    page_tables,
    paper,
    pictures,
    summary,
    terminal,
    words,
)
from lossbench.report.sections import FOLDED, SECTIONS
from lossbench.report.table_files import stacked, write_tables
from lossbench.statistics import Comparison, published


def write(
    sweep: Path | records.Records | statistics.Verdicts,
    *,
    workers: int = 1,
    drawn_in: Collection[str] = tuple(SECTIONS),
    has_figures: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> Path:
    """Write `report/` into a sweep's folder; unchanged figures of the last report are reused.

    Args:
        sweep: Folder of the sweep, its records, or its verdicts.
        workers: Number of processes that draw; 1 draws in this process.
        drawn_in: Sections whose figures are drawn.
        has_figures: Whether each figure is also written as PNG, SVG and PDF, at both widths of a
            paper.
        meanwhile: Function that is called once other processes have started to draw.

    Returns:
        Path of `report/index.html`.

    Raises:
        store.StoreError: The folder is not a sweep, or a file is unreadable, altered or foreign.
    """
    verdicts = statistics.Verdicts.of(sweep)
    loaded = verdicts.sweep
    folder, plan = store.refuse_link(loaded.sweep_dir / "report"), loaded.plan
    for part in ("figures", "tables", "paper"):
        store.refuse_link(folder / part)
    mark = "SMOKE: " if summary.is_smoke(plan) else ""
    losses = drawings.losses_by_task(loaded)
    planned: dict[str, list[pictures.Drawing]] = {section: [] for section in SECTIONS}

    def wanted() -> Iterator[pictures.Drawing]:
        for section, drawing in drawings.of_sweep(verdicts, drawn_in):
            planned[section].append(drawing)
            yield drawing

    with pictures.of_page(folder, wanted(), workers=workers, losses=losses) as finish:
        groups = [*verdicts.contexts()]
        mains = verdicts.mains
        meanwhile()
        findings = essay.of_sweep(verdicts)
        cells = {one.name: summary.rows(one, plan) for group in groups for one in group}
        every = _numbers(verdicts, findings, cells)
        numbers = {name: every[name] for name in sorted(every) if len(every[name])}
        tables = write_tables(folder / "tables", numbers)
        papers = paper.write(folder / "paper", loaded, mains)
        drawn = finish()
    saved = []
    if has_figures:
        flat = [drawing for section in planned.values() for drawing in section]
        how = {"workers": workers, "losses": losses, "across": "SMOKE" if mark else ""}
        saved = [*pictures.save(folder / "figures", flat, **how)]
    rules, drawn = pictures.with_classes(drawn)
    by_name = {picture.name: picture for picture in drawn}
    text = _template().render(
        **_question(verdicts),
        **_answer(verdicts, cells),
        mark=mark,
        rules=rules,
        day=pictures.palette(is_night=False),
        night=pictures.palette(is_night=True),
        counts=every["completeness"][["planned", *records.STATUSES]].sum().to_dict(),
        complete=every["completeness"].to_dict("records"),
        findings=[{**vars(one), "rows": _texts(one.table)} for one in findings],
        sections=SECTIONS,
        folded=FOLDED,
        saved=saved,
        terms=summary.TERMS.items(),
        pictures={
            section: [by_name[one.name] for one in section_drawings if one.name in by_name]
            for section, section_drawings in planned.items()
        },
        tables=_tables(groups, every, mark),
        files=[*numbers],
        paper=papers,
    )
    store.write(folder / "index.html", text.encode())
    files = [file for name in saved for _, file in pictures.files(name)]
    written = [
        "index.html",
        *(f"figures/{file}" for file in files),
        *(f"tables/{file}" for file in tables),
        *(f"paper/{file}" for file in papers),
    ]
    for name in edition.files(folder) - {*written}:
        (folder / name).unlink(missing_ok=True)
    edition.write(
        folder,
        written,
        sweep_sha=loaded.sha,
        sections=drawn_in,
        has_figures=has_figures,
        answer=terminal.answer(verdicts),
    )
    return folder / "index.html"


def _template() -> jinja2.Template:
    """Template of the page, with autoescape, because names come from users."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lossbench.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["listed_by_kind"] = lambda choices: ", ".join(
        f"{choice} for {kind}" for kind, choice in choices.items()
    )
    return environment.get_template("page.html.j2")


# ---- variables of the template -------------------------------------------------------------------


def _question(verdicts: statistics.Verdicts) -> dict[str, Any]:
    """Variables of the template for the question, the declaration and the command."""
    loaded, mains, plan = verdicts.sweep, verdicts.mains, verdicts.sweep.plan
    return {
        "plan": plan,
        "asked": plan.get("question", ""),
        "declaration": _present(verdicts.declaration, mains),
        "scope": _scope(mains),
        "seeds": _seeds(loaded.runs),
        "metrics": _metrics(mains),
        "catalog": sorted(plan["losses"].items()),
        "methods": methods.paragraph(loaded, mains),
        "command": "\n".join(plan.get("commands", [])),
        "to_save": f"lossbench report runs/{loaded.sweep_dir.name} --figures",
    }


def _answer(
    verdicts: statistics.Verdicts, cells: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Variables of the template for the answer, the summary, the objections and the contexts."""
    loaded, mains, plan = verdicts.sweep, verdicts.mains, verdicts.sweep.plan
    own = [text.replace("**", "") for text in answers.of_own(loaded, mains)]
    rows = [_summary_row(one) for one in mains]
    return {
        "answers": [
            *own,
            *map(answers.of_verdicts, statistics.grouped(mains, "metric", "reference")),
        ],
        "summary": rows,
        "buckets": [name for name in summary.BUCKETS if any(row[name] for row in rows)],
        "against": objections.of_sweep(loaded, verdicts.comparisons),
        "contexts": [
            {
                "label": one.label,
                "title": one.title,
                "unit": one.margin.unit if math.isfinite(one.margin.scale) else "",
                "is_declared": one.is_declared,
                "headline": summary.headline(one),
                "metric": one.metric,
                "split": one.split,
                "rows": cells[one.name],
                "metrics": summary.other_metrics(one),
                "notes": list(summary.notes(one, plan)),
                "methods": methods.of_task(one, plan),
            }
            for one in mains
        ],
    }


def _tables(
    groups: Sequence[Sequence[Comparison]], numbers: Mapping[str, pd.DataFrame], mark: str
) -> dict[str, list[page_tables.Table]]:
    """Tables of the page by section."""
    return {
        "verdicts": [
            *page_tables.verdict_tables(groups),
            *page_tables.interaction_tables(numbers["interactions"], mark=mark),
            *page_tables.finding_tables(numbers["published"], mark=mark),
        ],
        "tuning": [
            *page_tables.tuning_tables(numbers["sensitivity"]),
            *page_tables.selection_tables(numbers["selection_cost"]),
        ],
        "convergence": [*page_tables.convergence_tables(numbers["convergence"])],
        "robustness": [*page_tables.robustness_tables([group[0] for group in groups])],
    }


# ---- numbers -------------------------------------------------------------------------------------


def _numbers(
    verdicts: statistics.Verdicts,
    findings: Sequence[essay.Finding],
    cells: Mapping[str, list[dict[str, Any]]],
) -> dict[str, pd.DataFrame]:
    """All tables by file stem."""
    mains, together = verdicts.mains, verdicts.comparisons
    results = [
        {"context": comparison.label, "condition": comparison.condition}
        | {"metric": f"{comparison.split} {comparison.metric}"}
        | {name: value for name, value in row.items() if name not in ("others", "short")}
        for comparison in together
        for row in cells[comparison.name]
    ]
    signals, placed = verdicts.signals, statistics.placed(verdicts.sweep.runs)
    return {
        "verdicts": stacked(words.verdicts_of(comparison) for comparison in together),
        "results": pd.DataFrame(results),
        "summary": stacked(comparison.summary for comparison in together),
        "paired": stacked(
            comparison.paired.drop(columns="differences").assign(
                verdict=comparison.paired.verdict.map(comparison.printed)
            )
            for comparison in together
        ),
        "interactions": verdicts.changes,
        "published": published.judged_findings(verdicts),
        "learning_rates": stacked(comparison.rates for comparison in mains),
        "sensitivity": stacked(
            _sensitivity(comparison) for comparison in mains if len({*comparison.rates.lr}) > 1
        ),
        "convergence": stacked(
            statistics.converged(statistics.convergence(comparison.runs, signals, comparison.evals))
            for comparison in mains
        ),
        "time_to_target": stacked(
            comparison.times_to_target.drop(columns=["steps", "survival"], errors="ignore")
            for comparison in mains
        ),
        "cross_loss": stacked(
            statistics.cross_losses(comparison.runs, comparison.evals) for comparison in mains
        ),
        "divergence": statistics.divergence_rates(placed),
        "selection_cost": stacked(comparison.selection_cost for comparison in mains),
        "budgets": stacked(comparison.budgets for comparison in mains),
        "completeness": statistics.completeness(placed),
        **{one.name: one.table for one in findings},
    }


def _sensitivity(comparison: Comparison) -> pd.DataFrame:
    """Sensitivity of each loss to the learning rate, and stability of the choice of that rate."""
    columns = [*statistics.FACTS, "best_lr", "stability", "plausible"]
    return comparison.sensitivity.merge(
        comparison.stability[columns], on=statistics.FACTS, how="left"
    )


# ---- words ---------------------------------------------------------------------------------------


def _present(declaration: dict[str, Any], mains: Sequence[Comparison]) -> dict[str, Any]:
    """Declaration without entries for tasks and data sets that the sweep does not have."""
    present = {comparison.task for comparison in mains} | {
        str(comparison.runs.data.iloc[0]) for comparison in mains
    }
    chosen = {
        key: {name: choice for name, choice in declaration[key].items() if name in present}
        for key in ("primary", "reference", "margin")
    }
    return declaration | {key: choices for key, choices in chosen.items() if choices}


def _scope(mains: Sequence[Comparison]) -> str:
    """Sentence on the design: how many losses and contexts, and what the losses share."""
    if not mains:
        return ""
    count = len({loss for comparison in mains for loss in comparison.runs.loss})
    losses = "1 loss" if count == 1 else f"{count} losses"
    contexts = "1 context" if len(mains) == 1 else f"{len(mains)} contexts"
    design = ""
    if any(comparison.is_declared and comparison.summary.n.any() for comparison in mains):
        design = (
            ", each loss with the learning rate that suits it best on validation; at a seed all "
            "losses share the start, the data and the batches"
        )
    return f"{losses} on {contexts}{design}."


def _seeds(runs: pd.DataFrame) -> str:
    """Seeds of the runs as text: a range, or a list of at most 40 numbers."""
    seeds = sorted({int(seed) for seed in runs.seed.dropna()})
    is_range = len(seeds) > 2 and seeds == [*range(seeds[0], seeds[-1] + 1)]
    return f"{seeds[0]} to {seeds[-1]}" if is_range else ", ".join(map(str, seeds[:40]))


def _metrics(mains: Sequence[Comparison]) -> list[tuple[str, records.Metric]]:
    """Metrics that the page shows, each with its name and its row of `records.METRICS`."""
    names = {
        name
        for comparison in mains
        for name in (comparison.metric, *summary.other_metrics(comparison))
    }
    return [(name, metric) for name, metric in records.METRICS.items() if name in names]


def _summary_row(comparison: Comparison) -> dict[str, Any]:
    """Row of the summary for one context."""
    rows, value = comparison.summary, "none"
    for row in rows[
        (rows.loss == comparison.reference) & (rows.metric == comparison.metric)
    ].itertuples():
        value = words.rounded(row.value, (row.high - row.low) / 2)
    return {
        "label": comparison.label,
        "title": comparison.title,
        "metric": comparison.metric,
        "direction": records.direction(comparison.metric),
        "reference": comparison.reference,
        "value": value,
        "margin": words.margin_text([comparison.margin]),
        "n": summary.counted_from_to(comparison.paired.pairs) if len(comparison.paired) else "",
        "is_declared": comparison.is_declared,
        "refusal": comparison.refusal,
        **summary.bucketed(comparison),
    }


def _texts(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of a table as text: four digits, and a dash if a number is not finite."""

    def cell(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:.4g}" if math.isfinite(value) else "–"
        return str(value)

    return [
        {str(name): cell(value) for name, value in row.items()} for row in table.to_dict("records")
    ]
