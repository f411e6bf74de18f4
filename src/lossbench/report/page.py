"""Folder of a report: one HTML page that opens offline, tables, and figure files on request.

The page shows, in this order: the question, the results, their uncertainty, their causes, and how
to repeat the sweep. Names come from users, so the page is rendered with autoescape, and figures
never read a name as a formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

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
        has_figures: Whether each figure is also written as a file, see `pictures.save`.
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
        meanwhile()
        findings = essay.of_sweep(verdicts)
        cells = {one.name: summary.rows(one, plan) for group in groups for one in group}
        every = _numbers(verdicts, findings, cells)
        numbers = {name: every[name] for name in sorted(every) if len(every[name])}
        tables = write_tables(folder / "tables", numbers)
        papers = paper.write(folder / "paper", loaded, verdicts.mains)
        drawn = finish()
    flat = [drawing for section in planned.values() for drawing in section]
    how = {"workers": workers, "losses": losses, "across": "SMOKE" if mark else ""}
    saved = [*pictures.save(folder / "figures", flat, **how)] if has_figures else []
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
            section: [by_name[one.name] for one in those if one.name in by_name]
            for section, those in planned.items()
        },
        tables=_tables(groups, every, mark),
        files=[*numbers],
        paper=papers,
    )
    store.write(folder / "index.html", text.encode())
    written = [
        "index.html",
        *(f"figures/{file}" for name in saved for _, file in pictures.files(name)),
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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lossbench.report", ""),
        autoescape=True,  # names come from users
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["listed_by_kind"] = lambda choices: ", ".join(
        f"{choice} for {kind}" for kind, choice in choices.items()
    )
    return environment.get_template("page.html.j2")


# ---- variables of the template -------------------------------------------------------------------


def _question(verdicts: statistics.Verdicts) -> dict[str, object]:
    """Variables of the template for the question, the declaration and the command."""
    loaded, mains, plan = verdicts.sweep, verdicts.mains, verdicts.sweep.plan
    seeds = sorted({int(seed) for seed in loaded.runs.seed.dropna()})
    is_range = len(seeds) > 2 and seeds == [*range(seeds[0], seeds[-1] + 1)]
    # Choices for tasks and data sets that the sweep does not have are left out.
    present = {one.task for one in mains} | {str(one.runs.data.iloc[0]) for one in mains}
    chosen = {
        key: {name: choice for name, choice in verdicts.declaration[key].items() if name in present}
        for key in ("primary", "reference", "margin")
    }
    shown = {name for one in mains for name in (one.metric, *summary.other_metrics(one))}
    return {
        "plan": plan,
        "asked": plan.get("question", ""),
        "declaration": verdicts.declaration | {key: its for key, its in chosen.items() if its},
        "scope": _scope(mains),
        "seeds": f"{seeds[0]} to {seeds[-1]}" if is_range else ", ".join(map(str, seeds[:40])),
        "metrics": [(name, metric) for name, metric in records.METRICS.items() if name in shown],
        "catalog": sorted(plan["losses"].items()),
        "methods": methods.paragraph(loaded, mains),
        "command": "\n".join(plan.get("commands", [])),
        "to_save": f"lossbench report runs/{loaded.sweep_dir.name} --figures",
    }


def _answer(
    verdicts: statistics.Verdicts, cells: Mapping[str, list[dict[str, object]]]
) -> dict[str, object]:
    """Variables of the template for the answer, the summary, the objections and the contexts."""
    loaded, mains, plan = verdicts.sweep, verdicts.mains, verdicts.sweep.plan
    own = [text.replace("**", "") for text in answers.of_own(loaded, mains)]
    alike = statistics.grouped(mains, "metric", "reference")
    rows = [_summary_row(one) for one in mains]
    return {
        "answers": [*own, *map(answers.of_verdicts, alike)],
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
    cells: Mapping[str, list[dict[str, object]]],
) -> dict[str, pd.DataFrame]:
    """All tables by file stem."""
    mains, together = verdicts.mains, verdicts.comparisons
    results = [
        {"context": one.label, "condition": one.condition, "metric": f"{one.split} {one.metric}"}
        | {name: value for name, value in row.items() if name not in ("others", "short")}
        for one in together
        for row in cells[one.name]
    ]
    signals, placed = verdicts.signals, statistics.placed(verdicts.sweep.runs)
    facts = statistics.FACTS
    stability = [*facts, "best_lr", "stability", "plausible"]
    return {
        "verdicts": stacked(words.verdicts_of(one) for one in together),
        "results": pd.DataFrame(results),
        "summary": stacked(one.summary for one in together),
        "paired": stacked(
            one.paired.drop(columns="differences").assign(
                verdict=one.paired.verdict.map(one.printed)
            )
            for one in together
        ),
        "interactions": verdicts.changes,
        "published": published.judged_findings(verdicts),
        "learning_rates": stacked(one.rates for one in mains),
        "sensitivity": stacked(
            one.sensitivity.merge(one.stability[stability], on=facts, how="left")
            for one in mains
            if len({*one.rates.lr}) > 1
        ),
        "convergence": stacked(
            statistics.converged(statistics.convergence(one.runs, signals, one.evals))
            for one in mains
        ),
        "time_to_target": stacked(
            one.times_to_target.drop(columns=["steps", "survival"], errors="ignore")
            for one in mains
        ),
        "cross_loss": stacked(statistics.cross_losses(one.runs, one.evals) for one in mains),
        "divergence": statistics.divergence_rates(placed),
        "selection_cost": stacked(one.selection_cost for one in mains),
        "budgets": stacked(one.budgets for one in mains),
        "completeness": statistics.completeness(placed),
        **{one.name: one.table for one in findings},
    }


# ---- words ---------------------------------------------------------------------------------------


def _scope(mains: Sequence[Comparison]) -> str:
    """Sentence on the design: how many losses and contexts, and what the losses share."""
    if not mains:
        return ""
    count = len({loss for one in mains for loss in one.runs.loss})
    losses = "1 loss" if count == 1 else f"{count} losses"
    contexts = "1 context" if len(mains) == 1 else f"{len(mains)} contexts"
    design = ""
    if any(one.is_declared and one.summary.n.any() for one in mains):
        design = (
            ", each loss with the learning rate that suits it best on validation; at a seed all "
            "losses share the start, the data and the batches"
        )
    return f"{losses} on {contexts}{design}."


def _summary_row(one: Comparison) -> dict[str, object]:
    """Row of the summary for one context."""
    rows, value = one.summary, "none"
    for row in rows[(rows.loss == one.reference) & (rows.metric == one.metric)].itertuples():
        value = words.rounded(row.value, (row.high - row.low) / 2)
    return {
        "label": one.label,
        "title": one.title,
        "metric": one.metric,
        "direction": records.direction(one.metric),
        "reference": one.reference,
        "value": value,
        "margin": words.margin_text([one.margin]),
        "n": summary.counted_from_to(one.paired.pairs) if len(one.paired) else "",
        "is_declared": one.is_declared,
        "refusal": one.refusal,
        **summary.bucketed(one),
    }


def _texts(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of a table as text: four digits, and a dash if a number is not finite."""

    def cell(value: object) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float | np.floating):
            return f"{value:.4g}" if math.isfinite(value) else "–"
        return str(value)

    return table.map(cell).rename(columns=str).to_dict("records")
