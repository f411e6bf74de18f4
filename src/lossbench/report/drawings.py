"""Which figures a sweep gives, by section of the page: each bound to its estimates."""

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
    """Every figure for which there are numbers, after its section.

    Those of a context come as soon as it is judged, so that they are drawn while the next one is.

    Args:
        verdicts_of_sweep: The sweep's comparisons.
        sections: Whose figures are wanted; of others nothing is computed.
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
            "tasks": forests if len(forests) > 1 else [],
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
    """The verdicts as pictures: a map of several tasks, the intervals of a single one."""
    compared = [task for task in mains if len(task.paired)]
    if len(compared) > 1:
        return list(_maps(compared))
    return [drawing for task in compared for drawing in _forest(task)]


def _maps(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for kind, alike in _by_kind([task for task in mains if len(task.paired)]):
        for reference in dict.fromkeys(task.reference for task in alike):
            tasks = [task for task in alike if task.reference == reference]
            rows = pd.concat([task.paired.assign(task=kind) for task in tasks], ignore_index=True)
            height = 0.24 * rows.loss.nunique() + 0.75
            ending = "" if len(tasks) == len(alike) else f"_{slug(reference)}"
            yield Drawing(
                f"verdict_map_{kind}{ending}",
                partial(figures.verdict_map, rows),
                {"height": height},
                narrow={"height": height + 0.35},
                is_single=True,
            )


def _by_kind(tasks: Sequence[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    kinds = [str(task.runs.task.dropna().iloc[0]) for task in tasks]
    for kind in dict.fromkeys(kinds):
        yield kind, [task for task, its in zip(tasks, kinds, strict=True) if its == kind]


def _forest(task: Comparison) -> Iterator[Drawing]:
    if len(task.paired):
        size, draw = {"height": 0.32 * len(task.paired) + 0.2}, partial(figures.forest, task.paired)
        yield Drawing(f"forest_{task.name}", draw, size, is_single=True, task=task.label)


def _conditions(group: Sequence[Comparison]) -> Iterator[Drawing]:
    """The same comparison at each condition, where there are several."""
    tasks = [task for task in group if len(task.paired)]
    if len(tasks) < 2:
        return
    settings = [records.CONDITIONS[task.condition].short for task in tasks]
    parts = zip(tasks, settings, strict=True)
    rows = pd.concat([task.paired.assign(setting=each) for task, each in parts], ignore_index=True)
    label, size = tasks[0].label, {"height": 0.4 * rows.loss.nunique() + 0.45}
    draw = partial(
        figures.side_by_side,
        rows,
        question=f"Does the verdict hold at other learning rates on {figures.label(label, 60)}?",
        note="Own: the loss's best learning rate; the reference's: the best of "
        f"{tasks[0].reference} for all, with the seeds of the first look.",
    )
    yield Drawing(f"conditions_{tasks[0].name}", draw, size, is_single=True, task=label)


def _tuning(task: Comparison) -> Iterator[Drawing]:
    rates = task.rates
    if len({*rates.lr}) < 2 or not rates.value.notna().any():
        return
    metric, rows = str(rates.metric.iloc[0]), statistics.excess(rates)
    yield Drawing(
        f"learning_rate_sensitivity_{task.name}",
        partial(figures.learning_rate_sensitivity, rates, reference=task.reference),
        {"panels": rates.loss.nunique(), "shared": "x" if metric == records.OWN_LOSS else "both"},
        task=task.label,
    )
    if metric == records.OWN_LOSS or not len(task.paired) or not rows.ratio.notna().any():
        return  # losses have no common unit, or there is no margin to draw
    budgets = statistics.budget_curve(task.grid, metric=metric)
    margin = float(task.paired.margin.iloc[0])
    yield Drawing(
        f"learning_rate_cost_{task.name}",
        partial(figures.learning_rate_cost, rows, budgets=budgets, margin=margin),
        {"panels": 2, "shared": "none", "height": 1.8},
        narrow={"columns": 1},
        task=task.label,
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
    runs = pd.concat([task.runs for task in mains])
    confidence = statistics.declaration_of(loaded.plan)["confidence"]
    steps, layers = (
        statistics.trajectories(loaded, runs, confidence=confidence, table=table)
        for table in ("steps", "layers")
    )
    for task in mains:
        context = task.runs.context.iloc[0]
        yield from _courses(task, *(rows[rows.context == context] for rows in (steps, layers)))


def _courses(task: Comparison, mine: pd.DataFrame, by_layer: pd.DataFrame) -> Iterator[Drawing]:
    if len({*mine.step}) > 1 and mine[mine.measure == "gradient_norm"].value.notna().any():
        size = {"panels": 3, "shared": "x", "height": 1.7}
        draw = partial(figures.error_signal, mine)
        yield Drawing(
            f"error_signal_{task.name}", draw, size, narrow={"columns": 1}, task=task.label
        )
    if len({*by_layer.layer}) > 1 and len({*by_layer.step}) > 1:
        size = {"panels": by_layer.layer.nunique(), "height": 1.5}
        draw = partial(figures.layer_gradients, by_layer)
        yield Drawing(f"layer_gradients_{task.name}", draw, size, task=task.label)


def _learning(task: Comparison) -> Iterator[Drawing]:
    is_wanted = (task.evals.metric == task.metric) & (task.evals.split == "validation")
    evals = task.evals[is_wanted]
    evals = evals[evals.run_id.isin(task.runs.run_id)]
    confidence = float(task.summary.confidence.iloc[0])
    learnt = statistics.curves(
        statistics.joined(evals, task.runs), value="value", confidence=confidence
    ).assign(metric=task.metric, split="validation")
    learnt = statistics.with_losses_of_runs(learnt, task.runs)
    if learnt.value.notna().any() and len({*learnt.step}) > 1:
        draw = partial(figures.learning_curves, learnt, reference=task.reference)
        size = {"panels": learnt.loss.nunique()}
        yield Drawing(f"learning_curves_{task.name}", draw, size, task=task.label)


def _targets(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for kind, tasks in _by_kind(mains):
        times = [task.times_to_target for task in tasks]
        rows = [each.assign(task=kind) for each in times if len(each) and _is_telling(each)]
        if rows:
            yield Drawing(
                f"time_to_target_{kind}",
                partial(figures.time_to_target, pd.concat(rows, ignore_index=True)),
                {"panels": len(rows), "columns": 3, "shared": "y", "height": 1.55},
            )


def _is_telling(times: pd.DataFrame) -> bool:
    """Whether losses reach a target, and not all of them at the first evaluation."""
    return times.reached.any() and len({*map(tuple, times[["steps", "survival"]].to_numpy())}) > 1


def _calibration(task: Comparison) -> Iterator[Drawing]:
    rows = task.summary[task.summary.metric.isin(["nll", "nll_raw", "ece", "ece_raw"])]
    if len(rows) and rows.value[rows.metric == "nll"].notna().any():
        yield Drawing(
            f"calibration_{task.name}",
            partial(figures.calibration, rows),
            {"panels": 2, "shared": "none", "height": 0.25 * rows.loss.nunique() + 0.4},
            narrow={"columns": 1},
            task=task.label,
        )


def _cross(task: Comparison) -> Iterator[Drawing]:
    rows = statistics.cross_losses(task.runs, task.evals)
    if len({*rows.loss}) > 1:
        size, draw = {"height": 0.24 * rows.loss.nunique() + 0.7}, partial(figures.cross_loss, rows)
        yield Drawing(f"cross_loss_{task.name}", draw, size, is_single=True, task=task.label)


def _noise(mains: Sequence[Comparison]) -> Iterator[Drawing]:
    for curve in statistics.corruption_curves(mains):
        first = curve.iloc[0]
        name = f"label_noise_{slug(first.label)[:50]}_{first.corruption}_{first.curve}"
        draw = partial(figures.noise_curve, curve)
        yield Drawing(name, draw, {"height": 2.2}, is_single=True)
