"""Figures of a sweep by section of the page, each bound to its estimates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import pandas as pd

from lossbench import figures, records, statistics
from lossbench.report.pictures import Drawing
from lossbench.report.sections import SECTIONS
from lossbench.statistics import Comparison
from lossbench.statistics.comparisons import slug


def of_sweep(
    verdicts_of_sweep: statistics.Verdicts, sections: Collection[str] = tuple(SECTIONS)
) -> Iterator[tuple[str, Drawing]]:
    """Every figure for which there are numbers, as pairs of section and figure.

    Figures of a context come as soon as the context is judged, to be drawn while others are judged.

    Args:
        verdicts_of_sweep: Comparisons of the sweep.
        sections: Sections whose figures are wanted; for other sections no statistics are computed.
    """

    def wanted(parts: Mapping[str, Iterable[Drawing]]) -> Iterator[tuple[str, Drawing]]:
        for section, those in parts.items():
            if section in sections:
                yield from ((section, drawing) for drawing in those)

    loaded = verdicts_of_sweep.sweep
    yield from wanted({"losses": _shapes(loaded)})
    mains: list[Comparison] = []
    for group in verdicts_of_sweep.contexts():
        main = group[0]
        mains.append(main)
        yield from wanted(
            {
                "tuning": _tuning(main),
                "convergence": _learning(main),
                "calibration": _calibration(main),
                "cross": _cross(main),
                "robustness": _conditions(group),
            }
        )
    forests = [drawing for one in mains for drawing in _forest(one)]
    yield from wanted(
        {
            "verdicts": verdicts(mains),
            "contexts": forests if len(forests) > 1 else [],
            "dynamics": _dynamics(mains, loaded),
            "convergence": _targets(mains),
            "robustness": _noise(mains),
        }
    )


def losses_by_task(loaded: records.Records) -> list[dict[str, str]]:
    """Family by name of the losses of regression and of classification, for `figures.style`."""
    by_task = loaded.runs.dropna(subset="family").groupby("task")
    return [dict(zip(runs.loss, runs.family, strict=True)) for _, runs in by_task]


def verdicts(mains: Sequence[Comparison]) -> list[Drawing]:
    """Figures of the verdicts: maps of several contexts, or the intervals of a single context."""
    compared = [one for one in mains if len(one.paired)]
    if len(compared) < 2:
        return [drawing for one in compared for drawing in _forest(one)]
    maps = []
    for alike in statistics.grouped(compared, "task"):
        for those in statistics.grouped(alike, "reference"):
            task, reference = those[0].task, those[0].reference
            rows = pd.concat([one.paired.assign(task=task) for one in those], ignore_index=True)
            ending = "" if len(those) == len(alike) else f"_{slug(reference)}"
            height, draw = 0.24 * rows.loss.nunique() + 0.75, partial(figures.verdict_map, rows)
            size, narrow = {"height": height}, {"height": height + 0.35}
            maps.append(Drawing(f"verdict_map_{task}{ending}", draw, size, narrow, is_single=True))
    return maps


def _forest(one: Comparison) -> Iterator[Drawing]:
    if len(one.paired):
        size, draw = {"height": 0.32 * len(one.paired) + 0.2}, partial(figures.forest, one.paired)
        yield Drawing(f"forest_{one.name}", draw, size, is_single=True, context=one.label)


def _conditions(group: Sequence[Comparison]) -> Iterator[Drawing]:
    """Figure of a context's comparison at each condition; none if there is only one condition."""
    compared = [one for one in group if len(one.paired)]
    if len(compared) < 2:
        return
    parts = [one.paired.assign(setting=records.CONDITIONS[one.condition].short) for one in compared]
    rows, first = pd.concat(parts, ignore_index=True), compared[0]
    draw = partial(
        figures.side_by_side,
        rows,
        question="Does the verdict hold at other learning rates on "
        f"{figures.label(first.label, 60)}?",
        note="Own: the loss's best learning rate; the reference's: the best of "
        f"{first.reference} for all, with the seeds of the first look.",
    )
    size = {"height": 0.4 * rows.loss.nunique() + 0.45}
    yield Drawing(f"conditions_{first.name}", draw, size, is_single=True, context=first.label)


def _tuning(one: Comparison) -> Iterator[Drawing]:
    rates = one.rates
    if len({*rates.lr}) < 2 or not rates.value.notna().any():
        return
    metric, rows = str(rates.metric.iloc[0]), statistics.excess(rates)
    shared = "x" if metric == records.OWN_LOSS else "both"
    draw = partial(figures.learning_rate_sensitivity, rates, reference=one.reference)
    size = {"panels": rates.loss.nunique(), "shared": shared}
    yield Drawing(f"learning_rate_sensitivity_{one.name}", draw, size, context=one.label)
    if metric == records.OWN_LOSS or not len(one.paired) or not rows.ratio.notna().any():
        return  # losses have no common unit, or there is no margin to draw
    budgets = statistics.budget_curve(one.grid, metric=metric)
    margin = float(one.paired.margin.iloc[0])
    draw = partial(figures.learning_rate_cost, rows, budgets=budgets, margin=margin)
    size, narrow = {"panels": 2, "shared": "none", "height": 1.8}, {"columns": 1}
    yield Drawing(f"learning_rate_cost_{one.name}", draw, size, narrow, context=one.label)


def _shapes(loaded: records.Records) -> Iterator[Drawing]:
    three, narrow = {"panels": 3, "shared": "none", "height": 1.7}, {"columns": 1}
    for task, rows in loaded.curves.groupby("task") if len(loaded.curves) else ():
        draw = partial(figures.loss_shapes, rows)
        yield Drawing(f"loss_shapes_{task}", draw, three, narrow, is_exact=True)
        if task == "classification" and (rows.weight > 0).any():
            draw = partial(figures.error_weight, rows)
            yield Drawing("error_weight", draw, {"height": 1.9}, is_single=True, is_exact=True)


def _dynamics(mains: Sequence[Comparison], loaded: records.Records) -> Iterator[Drawing]:
    if not mains:
        return
    runs = pd.concat([one.runs for one in mains])
    confidence = statistics.declaration_of(loaded.plan)["confidence"]
    steps, layers = (
        statistics.trajectories(loaded, runs, confidence=confidence, table=table)
        for table in ("steps", "layers")
    )
    for one in mains:
        mine, by_layer = (rows[rows.context == one.context] for rows in (steps, layers))
        if len({*mine.step}) > 1 and mine[mine.measure == "gradient_norm"].value.notna().any():
            size, narrow = {"panels": 3, "shared": "x", "height": 1.7}, {"columns": 1}
            draw = partial(figures.error_signal, mine)
            yield Drawing(f"error_signal_{one.name}", draw, size, narrow, context=one.label)
        if len({*by_layer.layer}) > 1 and len({*by_layer.step}) > 1:
            size = {"panels": by_layer.layer.nunique(), "height": 1.5}
            draw = partial(figures.layer_gradients, by_layer)
            yield Drawing(f"layer_gradients_{one.name}", draw, size, context=one.label)


def _learning(one: Comparison) -> Iterator[Drawing]:
    is_wanted = (one.evals.metric == one.metric) & (one.evals.split == "validation")
    evals = one.evals[is_wanted & one.evals.run_id.isin(one.runs.run_id)]
    confidence = float(one.summary.confidence.iloc[0])
    joined = statistics.joined(evals, one.runs)
    curves = statistics.curves(joined, value="value", confidence=confidence)
    curves = curves.assign(metric=one.metric, split="validation")
    curves = statistics.with_losses_of_runs(curves, one.runs)
    if curves.value.notna().any() and len({*curves.step}) > 1:
        draw = partial(figures.learning_curves, curves, reference=one.reference)
        size = {"panels": curves.loss.nunique()}
        yield Drawing(f"learning_curves_{one.name}", draw, size, context=one.label)


def _targets(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for alike in statistics.grouped(mains, "task"):
        task, rows = alike[0].task, []
        for times in (one.times_to_target for one in alike):
            curves = times[["steps", "survival"]].to_numpy() if len(times) else ()
            if len({*map(tuple, curves)}) > 1 and times.reached.any():
                rows.append(times.assign(task=task))
        if rows:
            draw = partial(figures.time_to_target, pd.concat(rows, ignore_index=True))
            size = {"panels": len(rows), "columns": 3, "shared": "y", "height": 1.55}
            yield Drawing(f"time_to_target_{task}", draw, size)


def _calibration(one: Comparison) -> Iterator[Drawing]:
    rows = one.summary[one.summary.metric.isin(["nll", "nll_raw", "ece", "ece_raw"])]
    if rows.value[rows.metric == "nll"].notna().any():
        size = {"panels": 2, "shared": "none", "height": 0.25 * rows.loss.nunique() + 0.4}
        draw, narrow = partial(figures.calibration, rows), {"columns": 1}
        yield Drawing(f"calibration_{one.name}", draw, size, narrow, context=one.label)


def _cross(one: Comparison) -> Iterator[Drawing]:
    rows = statistics.cross_losses(one.runs, one.evals)
    if len({*rows.loss}) > 1:
        size, draw = {"height": 0.24 * rows.loss.nunique() + 0.7}, partial(figures.cross_loss, rows)
        yield Drawing(f"cross_loss_{one.name}", draw, size, is_single=True, context=one.label)


def _noise(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for curve in statistics.corruption_curves(mains):
        first = curve.iloc[0]
        name = f"label_noise_{slug(first.label)[:50]}_{first.corruption}_{first.curve}"
        draw = partial(figures.noise_curve, curve)
        yield Drawing(name, draw, {"height": 2.2}, is_single=True)
