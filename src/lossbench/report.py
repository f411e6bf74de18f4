"""Estimates and figures as a folder: one HTML page that opens offline, figures, tables.

Completeness comes first, then verdicts, then pictures. Names come from users, so the page is
rendered with autoescape and figures never read a name as a formula.
"""

from __future__ import annotations

import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lossbench import figures, records, statistics, store

STAGES = {"confirm": "test", "exploratory": "test", "tune": "validation"}
"""Stages whose runs are compared, best first, and the split they are judged on."""

PNG_DPI = 200
OTHER_FUNCTIONAL = "does not elicit the mean, so rmse is not what it aims at"
DEFAULTS = {
    "primary": {"regression": "rmse", "classification": "accuracy"},
    "reference": {"regression": "mse", "classification": "cross_entropy"},
    "margin": {"regression": 0.02, "classification": 0.01},
    "endpoint": "last",
    "family": "task",
    "confidence": 0.95,
    "losses": [],
}
"""What a sweep without a declaration is judged by; all of it is exploratory then."""


@dataclass(frozen=True)
class Task:
    """All estimates of one context and condition."""

    label: str
    stage: str
    metric: str
    reference: str
    runs: pd.DataFrame
    summary: pd.DataFrame
    paired: pd.DataFrame
    rates: pd.DataFrame
    refusal: str

    @property
    def split(self) -> str:
        """The split the runs are judged on."""
        return STAGES[self.stage]

    @property
    def name(self) -> str:
        """Part of file names."""
        condition = (
            "" if self.runs.condition.iloc[0] == "own_lr" else f"_{self.runs.condition.iloc[0]}"
        )
        words = re.sub(r"\W+", "_", self.label).strip("_")
        if len(words) > 60:
            words = f"{words[:50]}_{self.runs.context.iloc[0]}"
        return words + condition


def asked(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The first declaration of a sweep, or the defaults of a sweep that declared nothing."""
    declarations = plan.get("declarations") or []
    return {**DEFAULTS, **(declarations[0]["declared"] if declarations else {})}


def declared_losses(plan: Mapping[str, Any], runs: pd.DataFrame) -> list[str]:
    """Losses all of whose given runs were declared before the sweep had any run."""
    first = next(iter(plan["declarations"]), {"sha256": None, "runs_before": -1})
    facts = [plan["planned"][run_id] for run_id in runs.run_id]
    is_declared = [
        first["runs_before"] == 0 and one.get("declaration") == first["sha256"] for one in facts
    ]
    every = pd.Series(is_declared, index=runs.index, dtype=bool).groupby(runs.loss).all()
    return sorted(every.index[every])


def tasks(found: records.Records) -> list[Task]:
    """Every context and condition of a sweep, with the runs that are compared there.

    Those of stage confirm where there are any; else the exploratory ones, else those of tune, each
    loss at its best learning rate on validation.
    """
    runs, question = statistics.placed(found.runs), asked(found.plan)
    together = []
    for _, mine in runs.sort_values("label", kind="stable").groupby("context", sort=False):
        stage = next(stage for stage in STAGES if (mine.stage == stage).any())
        metric = question["primary"].get(mine.task.dropna().iloc[0], "rmse")
        grid = mine[mine.stage == ("tune" if (mine.stage == "tune").any() else stage)]
        grid = statistics.endpoint(
            grid, found.evals, split="validation", metric=metric, endpoint=question["endpoint"]
        )
        judged = mine[mine.stage == stage]
        if stage != "confirm":
            best = statistics.at_best_rate(grid[grid.stage == stage], metric=metric)
            judged = judged[judged.run_id.isin(best.run_id)]
        rates = statistics.learning_rates(grid, metric=metric, confidence=question["confidence"])
        used = pd.MultiIndex.from_frame(judged[["loss", "lr"]])
        rates["best"] = (
            pd.MultiIndex.from_frame(rates[["loss", "lr"]]).isin(used) & rates.value.notna()
        )
        together += [
            _task(
                cell,
                found.evals,
                stage,
                metric,
                rates.assign(split="validation"),
                question,
                declared_losses(found.plan, cell),
            )
            for _, cell in judged.groupby("condition", sort=False)
        ]
    return together


def _task(
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    stage: str,
    metric: str,
    rates: pd.DataFrame,
    question: Mapping[str, Any],
    declared: Sequence[str],
) -> Task:
    kind, losses, confidence = (
        runs.task.dropna().iloc[0],
        sorted({*runs.loss}),
        question["confidence"],
    )
    metrics = [metric, *(n for n, m in records.METRICS.items() if m.task == kind and n != metric)]
    frame = statistics.endpoint(
        runs, evals, split=STAGES[stage], metric=metrics, endpoint=question["endpoint"]
    )
    reference = question["reference"].get(kind)
    refusal, compared = "", statistics.paired(frame.iloc[:0], metric=metric, reference="")
    if reference not in losses:
        reference = next((one for one in ("mse", "cross_entropy") if one in losses), losses[0])
    try:
        compared = statistics.paired(
            frame,
            metric=metric,
            reference=reference,
            margin=question["margin"].get(kind, 0.0),
            family=question["family"],
            confidence=confidence,
            declared=declared if stage == "confirm" else (),
        )
    except ValueError as error:
        refusal = str(error)
    summary = statistics.summary(frame, metrics=metrics, confidence=confidence)
    label = str(runs.label.iloc[0])
    return Task(label, stage, metric, reference, frame, summary, compared, rates, refusal)


# ---- the short table of the command line ---------------------------------------------------------


def table(sweep: Path | records.Records) -> str:
    """The result of a sweep as aligned plain text, at most 80 columns wide.

    Args:
        sweep: Folder of the sweep, or its records.
    """
    found = sweep if isinstance(sweep, records.Records) else records.load(sweep)
    parts = [[*_lines(task, found.plan), ""] for task in tasks(found)]
    counts = found.runs.status.value_counts()
    ended = int(counts.get("done", 0) + counts.get("diverged", 0))
    if ended < len(found.runs):
        parts.append([f"Not complete: {ended} of {len(found.runs)} runs are there.", ""])
    return "\n".join("\n".join(part) for part in parts)


def _lines(task: Task, plan: Mapping[str, Any]) -> Iterator[str]:
    exploratory = "" if task.stage == "confirm" else ", exploratory"
    headline = _headline(task).replace(_LONG_UNIT, "SD of target")
    yield from textwrap.wrap(f"{task.label}: {headline}{exploratory}", 80)
    yield f"n = {task.summary.n.max()} seeds, {_simultaneous(task)}"
    yield f"{'loss':<15} {'mean ± half':<16} {_cut(f'minus {task.reference}', 26):<26} verdict"
    for row in _rows(task, plan):
        verdict = row["verdict"].replace("different but below the margin", "below the margin")
        cells = _cut(row["loss"], 15), _cut(row["short"], 16), _cut(row["difference"], 26)
        yield "{:<15} {:<16} {:<26} {:<20.20}".format(*cells, verdict).rstrip()
    for note in _notes(task, plan):
        yield from textwrap.wrap(note, 80, subsequent_indent="  ")


def _simultaneous(task: Task) -> str:
    if task.paired.empty:
        return "no comparison"
    first = task.paired.iloc[0]
    return f"simultaneous {first.confidence:.0%} intervals, margin ±{first.margin:g}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


_LONG_UNIT = "standard deviations of the training target"


def _headline(task: Task) -> str:
    facts = records.METRICS.get(task.metric)
    unit = f" ({facts.unit})" if facts and facts.unit != "1" else ""
    better = records.direction(task.metric)
    return f"{task.split} {task.metric}{unit}, {better} is better"


def _rows(task: Task, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row of words per loss: the reference first, then from the best to the worst."""
    primary = task.summary[task.summary.metric == task.metric]
    sign = -1 if records.direction(task.metric) == "higher" else 1
    order = primary.assign(first=primary.loss != task.reference, worth=sign * primary.value)
    versus = {row["loss"]: row for row in task.paired.to_dict("records")}
    rows = []
    for row in order.sort_values(["first", "worth"]).to_dict("records"):
        other, half = versus.get(row["loss"], {}), (row["high"] - row["low"]) / 2
        mine = task.summary[task.summary.loss == row["loss"]].set_index("metric")
        verdict = "reference" if row["loss"] == task.reference else other.get("verdict", "")
        rows.append(
            {
                "loss": row["loss"] + ("†" if _aims_elsewhere(row["loss"], task, plan) else ""),
                "short": _number(row["value"], half)
                + (f" ± {_number(half, half)}" if half >= 0 else ""),
                "estimate": _interval(row["value"], row["low"], row["high"]),
                "n": f"{row['n']}/{row['planned']}",
                "diverged": str(row["diverged"]),
                "lr": f"{row['lr']:.3g}",
                "difference": _interval(
                    *(other.get(name, math.nan) for name in ("difference", "low", "high")),
                    sign=True,
                ),
                "pairs": str(other.get("pairs", "")),
                "p_holm": f"{other['p_holm']:.2g}" if other else "",
                "verdict": verdict,
                "exploratory": bool(other.get("exploratory", False)),
                "others": {
                    name: _number(mine.value[name], mine.high[name] - mine.value[name])
                    for name in _other_metrics(task)
                },
            }
        )
    return rows


def _other_metrics(task: Task) -> list[str]:
    present = task.summary[(task.summary.n > 0) & (task.summary.metric != task.metric)]
    return list(dict.fromkeys(present.metric))


def _aims_elsewhere(loss: str, task: Task, plan: Mapping[str, Any]) -> bool:
    facts = plan.get("losses", {}).get(loss.partition("(")[0])
    data = plan.get("data", {}).get(task.runs.data.iloc[0], {})
    if facts is None or task.metric != "rmse" or data.get("is_symmetric", False):
        return False
    return "elicits_mean" not in facts["claims"]


def _notes(task: Task, plan: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the table must know beside it."""
    primary = task.summary[task.summary.metric == task.metric]
    if task.refusal:
        yield f"No pairs: {task.refusal}"
    if note := plan.get("data", {}).get(task.runs.data.iloc[0], {}).get("note"):
        yield note
    if any(_aims_elsewhere(loss, task, plan) for loss in primary.loss):
        yield f"† {OTHER_FUNCTIONAL}."
    for same in _duplicates([*primary.loss], plan):
        yield f"{same}: one loss under two names, up to its learning rate."
    for row in primary.itertuples():
        gone = [f"{getattr(row, s)} {s}" for s in records.STATUSES[1:] if getattr(row, s)]
        if gone:
            yield f"{row.loss}: {', '.join(gone)} of {row.planned} runs; means are over the others."
    ends = task.rates.groupby("loss").lr.agg(["min", "max", "nunique"])
    rates = sorted({*task.rates.lr})
    if task.stage == "exploratory" and len(rates) > 1:
        chosen = ", ".join(f"{r.loss} {r.lr:g}" for r in primary.itertuples())
        yield f"Each loss at its best of {len(rates)} learning rates on validation: {chosen}."
    ran = primary[primary.n > 0]
    edge = [r.loss for r in ran.itertuples() if _is_edge(r.lr, ends.reindex([r.loss]))]
    if edge:
        yield f"Best learning rate on the edge of the grid, maybe not the best: {', '.join(edge)}."
    improving = [row.loss for row in primary.itertuples() if 2 * row.improving > row.n > 0]
    if improving:
        yield f"Still improving at the last step in most runs: {', '.join(improving)}."
    if primary.n.max() == 1:
        yield "One seed gives no interval: add seed='range(10)'."
    late = task.paired.loss[task.paired.exploratory.astype(bool)]
    if len(late) and task.stage == "confirm":
        yield f"Added after the declaration, so exploratory: {', '.join(late)}."
    vague = task.paired[task.paired.verdict == "not distinguishable"]
    for row in vague[vague.pairs_needed > vague.pairs].itertuples():
        needed = "over 100000" if math.isinf(row.pairs_needed) else f"about {row.pairs_needed:.0f}"
        yield f"{row.loss}: {needed} seeds would settle it, if mean and spread stay as they are."


def _duplicates(losses: Sequence[str], plan: Mapping[str, Any]) -> list[str]:
    """Sentences on those losses of a table that are the same up to a factor."""
    facts = plan.get("losses", {})
    found = [
        sentence
        for loss in losses
        for other, sentence in facts.get(loss, {}).get("duplicates", {}).items()
        if other in losses
    ]
    return [*dict.fromkeys(found)]


def _is_edge(lr: float, ends: pd.DataFrame) -> bool:
    return bool(ends["nunique"].iloc[0] > 2 and lr in (ends["min"].iloc[0], ends["max"].iloc[0]))


def _number(value: float, half: float) -> str:
    """A number with two digits of its uncertainty but at most four decimals."""
    if not math.isfinite(value):
        return "none"
    if not (math.isfinite(half) and half > 0) or abs(value) >= 1e4:
        return f"{value:.4g}"
    decimals = min(4, max(0, 1 - math.floor(math.log10(half))))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    if not math.isfinite(value):
        return ""
    plus = "+" if sign else ""
    shown = [_number(number, (high - low) / 2) for number in (value, low, high)]
    value_, low_, high_ = (plus * (not each.startswith("-")) + each for each in shown)
    return f"{value_} [{low_}, {high_}]" if math.isfinite(low) else value_


# ---- the folder ----------------------------------------------------------------------------------


def write(sweep_dir: Path) -> Path:
    """Write `report/` into a sweep's folder.

    Args:
        sweep_dir: Folder of the sweep.

    Returns:
        Path of `report/index.html`.

    Raises:
        store.StoreError: The folder is no sweep, or a file is unreadable, altered or foreign.
    """
    found, folder = records.load(sweep_dir), Path(sweep_dir) / "report"
    together, complete = tasks(found), statistics.completeness(found.runs)
    _write_tables(folder / "tables", together, complete, found.plan)
    shapes = Path(sweep_dir) / "curves.parquet"
    general = pq.read_table(shapes).to_pandas() if shapes.exists() else pd.DataFrame()
    loader = jinja2.PackageLoader("lossbench", "")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    text = page.get_template("report.html.j2").render(
        plan=found.plan,
        asked=asked(found.plan),
        declared=bool(found.plan.get("declarations")),
        sha=next((d["sha256"] for d in found.plan.get("declarations") or []), ""),
        command="\n".join(found.plan.get("commands", [])),
        counts=complete[["planned", *records.STATUSES]].sum().to_dict(),
        complete=complete.to_dict("records"),
        shapes=[_drawn(folder, *figure) for figure in _shape_figures(general)],
        tasks=[
            {
                "label": task.label,
                "stage": task.stage,
                "headline": _headline(task),
                "metric": task.metric,
                "split": task.split,
                "reference": task.reference,
                "rows": _rows(task, found.plan),
                "metrics": _other_metrics(task),
                "notes": list(_notes(task, found.plan)),
                "methods": _methods(task, found.plan),
                "hardware": _hardware(task.runs),
                "comparisons": figures.families(task.paired) if len(task.paired) else "",
                "figures": [_drawn(folder, *figure) for figure in _task_figures(task, found)],
            }
            for task in together
        ],
    )
    store.write(folder / "index.html", text.encode())
    return folder / "index.html"


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
    "seeds overlap, so the intervals speak about new splits of these examples, not about new ones.",
}


def _methods(task: Task, plan: Mapping[str, Any]) -> list[str]:
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


Drawing = Callable[[Any], Any]


def _shape_figures(shapes: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any], Drawing]]:
    for task, rows in shapes.groupby("task") if len(shapes) else ():
        three = {"panels": 3, "shared": "none", "height": 1.7}
        yield f"loss_shapes_{task}", three, lambda axes, rows=rows: figures.loss_shapes(rows, axes)
        if task == "classification" and (rows.weight > 0).any():
            one = {"height": 1.9}
            yield "error_weight", one, lambda axes, rows=rows: figures.error_weight(rows, axes[0])


def _task_figures(
    task: Task, found: records.Records
) -> Iterator[tuple[str, dict[str, Any], Drawing]]:
    """Name, page and drawing of each figure for which there are numbers."""
    reference, confidence = task.reference, float(task.summary.confidence.iloc[0])
    if len(task.paired):
        rows = task.paired
        size = {"height": 0.32 * len(rows) + 0.2}
        yield f"forest_{task.name}", size, lambda axes: figures.forest(rows, axes[0])
    evals = found.evals[(found.evals.metric == task.metric) & (found.evals.split == "validation")]
    told = {"metric": task.metric, "split": "validation"}
    learnt = statistics.curves(
        statistics.joined(evals, task.runs), value="value", confidence=confidence
    ).assign(**told)
    if learnt.value.notna().any() and len({*learnt.step}) > 1:
        yield (
            f"learning_curves_{task.name}",
            {"panels": learnt.loss.nunique()},
            lambda axes: figures.learning_curves(learnt, axes, reference=reference),
        )
    steps = statistics.joined(found.steps, task.runs)
    norms, cosines = (
        statistics.curves(steps, value=name, confidence=confidence, geometric=name != "cosine")
        for name in ("gradient_norm", "cosine")
    )
    if norms.value.notna().any() and len({*norms.step}) > 1:
        two = {"panels": 2, "shared": "x", "height": 2.0}
        yield (
            f"error_signal_{task.name}",
            two,
            lambda axes: figures.error_signal(norms, axes, cosines=cosines),
        )
    if len({*task.rates.lr}) > 1 and task.rates.value.notna().any():
        panels = {"panels": task.rates.loss.nunique()}
        yield (
            f"learning_rate_sensitivity_{task.name}",
            panels,
            lambda axes: figures.learning_rate_sensitivity(task.rates, axes, reference=reference),
        )


def _drawn(folder: Path, name: str, size: Mapping[str, Any], draw: Drawing) -> dict[str, Any]:
    """Draw a figure once, save it as PNG, SVG and PDF, and return what the page shows of it."""
    with figures.style(name):
        figure, axes = figures.page(**size)
        draw(axes)
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
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    opening = f'<svg role="img" aria-label="{escape(title)}"'
    return Markup(svg.replace("<svg", opening, 1))  # matplotlib escaped every text in it


# ---- tables --------------------------------------------------------------------------------------


def _write_tables(
    folder: Path, together: Sequence[Task], complete: pd.DataFrame, plan: Mapping[str, Any]
) -> None:
    results = [
        {"task": task.label, "stage": task.stage, "metric": f"{task.split} {task.metric}"}
        | {name: value for name, value in row.items() if name not in ("others", "short")}
        for task in together
        for row in _rows(task, plan)
    ]
    numbers = {
        "results": pd.DataFrame(results),
        "summary": _stacked(task.summary for task in together),
        "paired": _stacked(task.paired.drop(columns="differences") for task in together),
        "learning_rates": _stacked(task.rates for task in together),
        "completeness": complete,
    }
    for name, frame in numbers.items():
        safe = frame.map(lambda v: f"'{v}" if isinstance(v, str) and v[:1] in tuple("=+-@") else v)
        store.write(folder / f"{name}.csv", safe.to_csv(index=False).encode())
        head = [str(column) for column in frame.columns]
        body = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
        store.write(folder / f"{name}.md", _markdown(head, body).encode())
        store.write(folder / f"{name}.tex", _latex(head, body).encode())


def _stacked(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    clean = [[re.sub(r"([|<>\\`*_\[\]])", r"\\\1", cell) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in clean)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"†": r"\dag{}", "×": r"$\times$"}


def _latex(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [
        " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in row) + r" \\"
        for row in (head, *body)
    ]
    start = rf"\begin{{tabular}}{{{'l' * len(head)}}}"
    rows = [start, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join(rows) + "\n"
