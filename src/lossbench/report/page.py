"""The folder of a report: one HTML page that opens offline, figures, tables.

Completeness comes first, then verdicts, then pictures. Names come from users, so the page is
rendered with autoescape and figures never read a name as a formula.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lossbench import figures, records, statistics, store
from lossbench.report import essay, words
from lossbench.report.judged import Comparison, asked, by_context, comparisons, main_of, objections
from lossbench.report.tables import stacked, write_tables

PNG_DPI = 200
MANY = 8
"""Fewer figures than this are drawn before other processes have started."""


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn, in this process or another.

    Attributes:
        name: Stem of its files.
        size: Arguments of `figures.page`.
        draw: Given the axes, or the only one of them.
        is_single: Whether `draw` takes one.
    """

    name: str
    size: Mapping[str, Any]
    draw: Callable[..., Any]
    is_single: bool = False


def write(sweep: Path | records.Records, *, workers: int = 1) -> Path:
    """Write `report/` into a sweep's folder.

    Args:
        sweep: Folder of the sweep, or its records.
        workers: Processes that draw; 1 draws in this one.

    Returns:
        Path of `report/index.html`.

    Raises:
        store.StoreError: The folder is no sweep, or a file is unreadable, altered or foreign.
    """
    found = sweep if isinstance(sweep, records.Records) else records.load(sweep)
    folder = found.sweep_dir / "report"
    together, complete = comparisons(found), statistics.completeness(found.runs)
    answers = essay.answers(found, together)
    write_tables(folder / "tables", _numbers(together, complete, answers, found))
    shapes = found.sweep_dir / "curves.parquet"
    general = pq.read_table(shapes).to_pandas() if shapes.exists() else pd.DataFrame()
    groups = by_context(together)
    mains = [main_of(group) for group in groups]
    drawings = [[*_shape_figures(general)], *([*_task_figures(task, found)] for task in mains)]
    drawn = _all_drawn(folder, drawings, workers=workers)
    loader = jinja2.PackageLoader("lossbench.report", "")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    text = page.get_template("page.html.j2").render(
        plan=found.plan,
        asked=asked(found.plan),
        declared=bool(found.plan.get("declarations")),
        sha=next((d["sha256"] for d in found.plan.get("declarations") or []), ""),
        command="\n".join(found.plan.get("commands", [])),
        counts=complete[["planned", *records.STATUSES]].sum().to_dict(),
        complete=complete.to_dict("records"),
        against=objections(found, together),
        shapes=drawn[0],
        answers=[{**vars(one), "rows": _shown(one.table)} for one in answers],
        tasks=[
            _section(task, group, found) | {"figures": pictures}
            for task, group, pictures in zip(mains, groups, drawn[1:], strict=True)
        ],
    )
    store.write(folder / "index.html", text.encode())
    return folder / "index.html"


def _shown(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of a table as the page shows them: four digits, a dash where there is no number."""

    def cell(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:.4g}" if math.isfinite(value) else "–"
        return str(value)

    return [{name: cell(value) for name, value in row.items()} for row in table.to_dict("records")]


def _section(
    task: Comparison, group: Sequence[Comparison], found: records.Records
) -> dict[str, Any]:
    """What the page says of one context: its main comparison, then the other conditions."""
    return {
        "label": task.label,
        "stage": task.stage,
        "headline": words.headline(task),
        "metric": task.metric,
        "split": task.split,
        "reference": task.reference,
        "rows": words.rows(task, found.plan),
        "metrics": words.other_metrics(task),
        "notes": list(words.notes(task, found.plan)),
        "sentences": [statistics.sentence(row) for _, row in task.verdicts.iterrows()],
        "methods": _methods(task, found.plan),
        "hardware": _hardware(task.runs),
        "comparisons": figures.families(task.paired) if len(task.paired) else "",
        "others": [_condition(one, found) for one in group if one is not task],
    }


def _condition(task: Comparison, found: records.Records) -> dict[str, Any]:
    return {
        "title": records.CONDITIONS[task.condition].about.format(reference=task.reference),
        "rows": [row for row in words.rows(task, found.plan) if row["verdict"] != "reference"],
        "notes": [note for note in words.notes(task, found.plan) if "diverged" in note],
        "refusal": task.refusal,
    }


def _numbers(
    together: Sequence[Comparison],
    complete: pd.DataFrame,
    answers: Sequence[essay.Answer],
    found: records.Records,
) -> dict[str, pd.DataFrame]:
    """All tables by file stem."""
    results = [
        {"task": task.label, "stage": task.stage, "condition": task.condition}
        | {"metric": f"{task.split} {task.metric}"}
        | {name: value for name, value in row.items() if name not in ("others", "short")}
        for task in together
        for row in words.rows(task, found.plan)
    ]
    mains = [task for task in together if task.is_main]
    return {
        "verdicts": stacked(task.verdicts for task in together),
        "results": pd.DataFrame(results),
        "summary": stacked(task.summary for task in together),
        "paired": stacked(task.paired.drop(columns="differences") for task in together),
        "learning_rates": stacked(task.rates for task in mains),
        "sensitivity": stacked(_tuned(task) for task in mains if len({*task.rates.lr}) > 1),
        "budgets": statistics.budgets(found.runs, tuned=asked(found.plan)["tuned"]),
        "completeness": complete,
        **{one.name: one.table for one in answers if len(one.table)},
    }


def _tuned(task: Comparison) -> pd.DataFrame:
    """What the learning rate matters to each loss, and how settled its choice is."""
    metric = str(task.rates.metric.iloc[0])
    settled = statistics.stability(task.grid, metric=metric)
    columns = [*statistics.FACTS, "stability", "plausible"]
    found = statistics.sensitivity(task.grid, metric=metric)
    return found.merge(settled[columns], on=statistics.FACTS, how="left")


def _hardware(runs: pd.DataFrame) -> str:
    ran = runs.dropna(subset="device")
    return "; ".join(
        f"{device}, {threads:.0f} thread{'s' * (threads > 1)}, {precision}"
        for device, threads, precision in {
            tuple(row) for row in ran[["device", "threads", "precision"]].to_numpy()
        }
    )


_DRAWN = {
    "generated": "Every seed generates data of its own, the same for all losses.",
    "resplit": "Every seed splits the same examples anew, alike for all losses. Test sets of two "
    "seeds overlap, so the intervals speak about new splits of these examples, not about new ones. "
    "The seeds that tuned split the same examples too: most of what is a test example here helped "
    "to choose a learning rate there, for all losses alike.",
}


def _methods(task: Comparison, plan: Mapping[str, Any]) -> list[str]:
    """How the runs of a task came about, in sentences, as far as the records tell."""
    known = [json.loads(text) for text in task.runs.config.dropna() if text][:1]
    facts, ran = (known or [{}])[0], task.runs[task.runs.status.isin(["done", "diverged"])]
    numbers = {"steps": "updates", "batch_size": "examples a batch"}
    told = [f"{facts[name]} {what}" for name, what in numbers.items() if name in facts]
    lines = [f"{', '.join([f'Optimizer {task.runs.optimizer.iloc[0]}', *told])}."] if told else []
    if len(ran) and len({*ran.seed}) > 1:
        own = len({*ran.data_sha}) > 1
        lines.append(
            _DRAWN[plan.get("data", {}).get(task.runs.data.iloc[0], {}).get("drawn", "generated")]
            if own
            else "All seeds share one data set and split: conditional on this test set."
        )
    if len(ran):
        lines.append(
            f"{ran.seed.nunique()} seeds; {ran.train_seconds.sum():.3g} s of training on "
            f"{_hardware(ran)}."
        )
    return lines


# ---- figures -------------------------------------------------------------------------------------


def _shape_figures(shapes: pd.DataFrame) -> Iterator[Drawing]:
    for task, rows in shapes.groupby("task") if len(shapes) else ():
        three = {"panels": 3, "shared": "none", "height": 1.7}
        yield Drawing(f"loss_shapes_{task}", three, partial(figures.loss_shapes, rows))
        if task == "classification" and (rows.weight > 0).any():
            draw = partial(figures.error_weight, rows)
            yield Drawing("error_weight", {"height": 1.9}, draw, is_single=True)


def _task_figures(task: Comparison, found: records.Records) -> Iterator[Drawing]:
    """Each figure for which there are numbers."""
    reference, confidence = task.reference, float(task.summary.confidence.iloc[0])
    if len(task.paired):
        size = {"height": 0.32 * len(task.paired) + 0.2}
        draw = partial(figures.forest, task.paired)
        yield Drawing(f"forest_{task.name}", size, draw, is_single=True)
    evals = found.evals[(found.evals.metric == task.metric) & (found.evals.split == "validation")]
    told = {"metric": task.metric, "split": "validation"}
    learnt = statistics.curves(
        statistics.joined(evals, task.runs), value="value", confidence=confidence
    ).assign(**told)
    if learnt.value.notna().any() and len({*learnt.step}) > 1:
        yield Drawing(
            f"learning_curves_{task.name}",
            {"panels": learnt.loss.nunique()},
            partial(figures.learning_curves, learnt, reference=reference),
        )
    steps = statistics.joined(found.steps, task.runs)
    norms, cosines = (
        statistics.curves(steps, value=name, confidence=confidence, geometric=name != "cosine")
        for name in ("gradient_norm", "cosine")
    )
    if norms.value.notna().any() and len({*norms.step}) > 1:
        yield Drawing(
            f"error_signal_{task.name}",
            {"panels": 2, "shared": "x", "height": 2.0},
            partial(figures.error_signal, norms, cosines=cosines),
        )
    if len({*task.rates.lr}) > 1 and task.rates.value.notna().any():
        yield Drawing(
            f"learning_rate_sensitivity_{task.name}",
            {"panels": task.rates.loss.nunique()},
            partial(figures.learning_rate_sensitivity, task.rates, reference=reference),
        )


def _all_drawn(
    folder: Path, drawings: Sequence[Sequence[Drawing]], *, workers: int
) -> list[list[dict[str, Any]]]:
    """All drawings, in their order."""
    flat = [drawing for part in drawings for drawing in part]
    if workers == 1 or len(flat) < MANY:
        pictures = iter([_drawn(folder, drawing) for drawing in flat])
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            pictures = iter([*pool.map(partial(_drawn, folder), flat, chunksize=1)])
    return [[next(pictures) for _ in part] for part in drawings]


def _drawn(folder: Path, drawing: Drawing) -> dict[str, Any]:
    """Draw a figure once, save it as PNG, SVG and PDF, and return what the page shows of it."""
    name = drawing.name
    with figures.style(name):
        figure, axes = figures.page(**drawing.size)
        drawing.draw(axes[0] if drawing.is_single else axes)
        files = _encoded(figure)
    for kind, content in files.items():
        store.write(folder / "figures" / f"{name}.{kind}", content)
    title = str(figure.get_label())
    return {"name": name, "title": title, "svg": inlined(files["svg"].decode(), name, title)}


def _encoded(figure: Figure) -> dict[str, bytes]:
    """The figure by format; drawn once each, where `savefig` would draw twice and lay out anew."""
    figure.set_dpi(PNG_DPI)
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the layout's solver is exact to rounding only; equal runs, equal bytes
        left, bottom, width, height = (round(number, 4) for number in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))
    png, svg, pdf = (io.BytesIO() for _ in range(3))
    FigureCanvasAgg(figure).print_png(png)
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    return {"png": png.getvalue(), "svg": svg.getvalue(), "pdf": pdf.getvalue()}


def inlined(svg: str, name: str, title: str) -> Markup:
    """An SVG of matplotlib as part of a page: ids unique, no prolog, comments or metadata."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    own = store.sha256(name.encode())[:5]  # each letter of each text refers to an id: keep it short
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>f{own}-", svg)
    svg = re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    opening = f'<svg role="img" aria-label="{escape(title)}"'
    return Markup(svg.replace("<svg", opening, 1))  # matplotlib escaped every text in it
