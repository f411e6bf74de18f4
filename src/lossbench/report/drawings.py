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
        verdicts_of_sweep: The sweep's comparisons.
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
    forests = [drawing for main in mains for drawing in _forest(main)]
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
    compared = [comparison for comparison in mains if len(comparison.paired)]
    if len(compared) > 1:
        return list(_maps(compared))
    return [drawing for comparison in compared for drawing in _forest(comparison)]


def _maps(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for kind, alike in _by_kind([comparison for comparison in mains if len(comparison.paired)]):
        for reference in dict.fromkeys(comparison.reference for comparison in alike):
            comparisons = [comparison for comparison in alike if comparison.reference == reference]
            rows = pd.concat(
                [comparison.paired.assign(task=kind) for comparison in comparisons],
                ignore_index=True,
            )
            height = 0.24 * rows.loss.nunique() + 0.75
            ending = "" if len(comparisons) == len(alike) else f"_{slug(reference)}"
            yield Drawing(
                f"verdict_map_{kind}{ending}",
                partial(figures.verdict_map, rows),
                {"height": height},
                narrow={"height": height + 0.35},
                is_single=True,
            )


def _by_kind(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    kinds = [str(comparison.runs.task.dropna().iloc[0]) for comparison in comparisons]
    for kind in dict.fromkeys(kinds):
        yield (
            kind,
            [comparison for comparison, its in zip(comparisons, kinds, strict=True) if its == kind],
        )


def _forest(comparison: Comparison) -> Iterator[Drawing]:
    if len(comparison.paired):
        size, draw = (
            {"height": 0.32 * len(comparison.paired) + 0.2},
            partial(figures.forest, comparison.paired),
        )
        yield Drawing(
            f"forest_{comparison.name}", draw, size, is_single=True, context=comparison.label
        )


def _conditions(group: Sequence[Comparison]) -> Iterator[Drawing]:
    """Figure of a context's comparison at each condition; none if there is only one condition."""
    comparisons = [comparison for comparison in group if len(comparison.paired)]
    if len(comparisons) < 2:
        return
    settings = [records.CONDITIONS[comparison.condition].short for comparison in comparisons]
    parts = zip(comparisons, settings, strict=True)
    rows = pd.concat(
        [comparison.paired.assign(setting=each) for comparison, each in parts], ignore_index=True
    )
    label, size = comparisons[0].label, {"height": 0.4 * rows.loss.nunique() + 0.45}
    draw = partial(
        figures.side_by_side,
        rows,
        question=f"Does the verdict hold at other learning rates on {figures.label(label, 60)}?",
        note="Own: the loss's best learning rate; the reference's: the best of "
        f"{comparisons[0].reference} for all, with the seeds of the first look.",
    )
    yield Drawing(f"conditions_{comparisons[0].name}", draw, size, is_single=True, context=label)


def _tuning(comparison: Comparison) -> Iterator[Drawing]:
    rates = comparison.rates
    if len({*rates.lr}) < 2 or not rates.value.notna().any():
        return
    metric, rows = str(rates.metric.iloc[0]), statistics.excess(rates)
    yield Drawing(
        f"learning_rate_sensitivity_{comparison.name}",
        partial(figures.learning_rate_sensitivity, rates, reference=comparison.reference),
        {"panels": rates.loss.nunique(), "shared": "x" if metric == records.OWN_LOSS else "both"},
        context=comparison.label,
    )
    if metric == records.OWN_LOSS or not len(comparison.paired) or not rows.ratio.notna().any():
        return  # losses have no common unit, or there is no margin to draw
    budgets = statistics.budget_curve(comparison.grid, metric=metric)
    margin = float(comparison.paired.margin.iloc[0])
    yield Drawing(
        f"learning_rate_cost_{comparison.name}",
        partial(figures.learning_rate_cost, rows, budgets=budgets, margin=margin),
        {"panels": 2, "shared": "none", "height": 1.8},
        narrow={"columns": 1},
        context=comparison.label,
    )


def _shapes(loaded: records.Records) -> Iterator[Drawing]:
    shapes = loaded.curves
    for task, rows in shapes.groupby("task") if len(shapes) else ():
        three = {"panels": 3, "shared": "none", "height": 1.7}
        draw, narrow = partial(figures.loss_shapes, rows), {"columns": 1}
        yield Drawing(f"loss_shapes_{task}", draw, three, narrow, is_exact=True)
        if task == "classification" and (rows.weight > 0).any():
            draw = partial(figures.error_weight, rows)
            yield Drawing("error_weight", draw, {"height": 1.9}, is_single=True, is_exact=True)


def _dynamics(mains: Sequence[Comparison], loaded: records.Records) -> Iterator[Drawing]:
    if not mains:
        return
    runs = pd.concat([comparison.runs for comparison in mains])
    confidence = statistics.declaration_of(loaded.plan)["confidence"]
    steps, layers = (
        statistics.trajectories(loaded, runs, confidence=confidence, table=table)
        for table in ("steps", "layers")
    )
    for comparison in mains:
        context = comparison.runs.context.iloc[0]
        yield from _courses(
            comparison, *(rows[rows.context == context] for rows in (steps, layers))
        )


def _courses(
    comparison: Comparison, mine: pd.DataFrame, by_layer: pd.DataFrame
) -> Iterator[Drawing]:
    if len({*mine.step}) > 1 and mine[mine.measure == "gradient_norm"].value.notna().any():
        size = {"panels": 3, "shared": "x", "height": 1.7}
        draw = partial(figures.error_signal, mine)
        yield Drawing(
            f"error_signal_{comparison.name}",
            draw,
            size,
            narrow={"columns": 1},
            context=comparison.label,
        )
    if len({*by_layer.layer}) > 1 and len({*by_layer.step}) > 1:
        size = {"panels": by_layer.layer.nunique(), "height": 1.5}
        draw = partial(figures.layer_gradients, by_layer)
        yield Drawing(f"layer_gradients_{comparison.name}", draw, size, context=comparison.label)


def _learning(comparison: Comparison) -> Iterator[Drawing]:
    is_wanted = (comparison.evals.metric == comparison.metric) & (
        comparison.evals.split == "validation"
    )
    evals = comparison.evals[is_wanted]
    evals = evals[evals.run_id.isin(comparison.runs.run_id)]
    confidence = float(comparison.summary.confidence.iloc[0])
    learnt = statistics.curves(
        statistics.joined(evals, comparison.runs), value="value", confidence=confidence
    ).assign(metric=comparison.metric, split="validation")
    learnt = statistics.with_losses_of_runs(learnt, comparison.runs)
    if learnt.value.notna().any() and len({*learnt.step}) > 1:
        draw = partial(figures.learning_curves, learnt, reference=comparison.reference)
        size = {"panels": learnt.loss.nunique()}
        yield Drawing(f"learning_curves_{comparison.name}", draw, size, context=comparison.label)


def _targets(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for kind, comparisons in _by_kind(mains):
        times = [comparison.times_to_target for comparison in comparisons]
        rows = [each.assign(task=kind) for each in times if len(each) and _is_telling(each)]
        if rows:
            yield Drawing(
                f"time_to_target_{kind}",
                partial(figures.time_to_target, pd.concat(rows, ignore_index=True)),
                {"panels": len(rows), "columns": 3, "shared": "y", "height": 1.55},
            )


def _is_telling(times: pd.DataFrame) -> bool:
    """Whether any run reaches the target, and the curves of the losses are not all equal."""
    return times.reached.any() and len({*map(tuple, times[["steps", "survival"]].to_numpy())}) > 1


def _calibration(comparison: Comparison) -> Iterator[Drawing]:
    rows = comparison.summary[comparison.summary.metric.isin(["nll", "nll_raw", "ece", "ece_raw"])]
    if len(rows) and rows.value[rows.metric == "nll"].notna().any():
        yield Drawing(
            f"calibration_{comparison.name}",
            partial(figures.calibration, rows),
            {"panels": 2, "shared": "none", "height": 0.25 * rows.loss.nunique() + 0.4},
            narrow={"columns": 1},
            context=comparison.label,
        )


def _cross(comparison: Comparison) -> Iterator[Drawing]:
    rows = statistics.cross_losses(comparison.runs, comparison.evals)
    if len({*rows.loss}) > 1:
        size, draw = {"height": 0.24 * rows.loss.nunique() + 0.7}, partial(figures.cross_loss, rows)
        yield Drawing(
            f"cross_loss_{comparison.name}", draw, size, is_single=True, context=comparison.label
        )


def _noise(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for curve in statistics.corruption_curves(mains):
        first = curve.iloc[0]
        name = f"label_noise_{slug(first.label)[:50]}_{first.corruption}_{first.curve}"
        draw = partial(figures.noise_curve, curve)
        yield Drawing(name, draw, {"height": 2.2}, is_single=True)
