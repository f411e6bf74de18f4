"""Lines of a metric: along training, over learning rates, over rates of corruption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lossbench import records
from lossbench.figures.axes import (
    counted,
    interval,
    label_outer_axes,
    limit_bounded,
    loss_panels,
    mark_decades,
    mark_lost_runs,
    metric_name,
    page_width,
    panels_per_row,
    scale_logs,
    scale_steps,
    scale_values,
    solid_first,
    spans_a_decade,
)
from lossbench.figures.layout import frame, label, wrapped
from lossbench.figures.styles import BAND, DASHES, INK, LossStyle, loss_styles

# ---- over steps ----------------------------------------------------------------------------------


def learning_curves(
    estimates: pd.DataFrame, axes: Sequence[Axes], *, reference: str
) -> Sequence[Axes]:
    """Metric over steps: each loss in its own panel, in front of all other losses in grey.

    Args:
        estimates: Rows from `statistics.curves` for one context, with `metric` and `split`.
        axes: Axes, one for each loss.
        reference: Loss drawn dashed in every panel.
    """
    first = estimates.iloc[0]
    for ax, loss, style in loss_panels(estimates, axes, reference, x="step"):
        rows = estimates[estimates.loss == loss]
        ax.fill_between(rows.step, rows.low, rows.high, color=style.color, alpha=0.22, lw=0)
        ax.plot(rows.step, rows.value, color=style.color)
        mark_lost_runs(ax, rows, style.color)
    scale_steps(axes, estimates.step)
    scale_values(axes, estimates)
    label_outer_axes(axes, "step (updates)", metric_name(first.metric, first.split))
    frame(
        axes[0].figure,
        f"How fast does each loss learn {label(first.label, 60)}?",
        f"Colour: the panel's loss, mean and {interval(first.confidence)}, {counted(estimates.n)}. "
        f"Grey: the others; dashed: {label(reference)}. ×: the first diverged run dropped out.",
    )
    return axes


def error_signal(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Gradient norm, ratio of output gradient to error, and cosine of both, over steps.

    `estimates` are from `statistics.trajectories` for one context, by `measure`: gradient_norm,
    signal_per_error and cosine. There are three axes, one for each measure.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    titles = {
        "gradient_norm": "gradient norm\n(loss / parameter)",
        "signal_per_error": "output gradient norm\n/ error norm",
        "cosine": "cosine of output\ngradient and error",
    }
    for ax, (measure, title) in zip(axes, titles.items(), strict=True):
        rows = estimates[estimates.measure == measure]
        _draw_course(ax, rows, styles)
        ax.set_title(title, loc="left")
        ax.set_xlabel("step (updates)")
        if measure != "cosine":
            scale_logs(ax, rows.value)
    cosines = estimates[estimates.measure == "cosine"]
    low = np.nanmin([cosines.low.min(), cosines.value.min(), 0.98])
    axes[-1].set_ylim(max(-1.05, low - 0.02), 1.02)
    scale_steps(axes, estimates.step)
    frame(
        axes[0].figure,
        f"What does each loss feed back while it learns {label(first.label, 60)}?",
        f"Mean (of norms: geometric) and {interval(first.confidence)}, {counted(estimates.n)}. "
        "Where ratio and cosine are 1, the output gradient is prediction - target. ×: the first "
        "run has diverged.",
        styles,
    )
    return axes


def layer_gradients(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Gradient norm of each layer over steps.

    `estimates` are from `statistics.trajectories` for one context, by `layer`; each layer has its
    axes.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    for ax, (layer, rows) in zip(axes, estimates.groupby("layer", sort=False), strict=True):
        _draw_course(ax, rows, styles)
        ax.set_title(f"layer {label(layer)}", loc="left")
        scale_logs(ax, estimates.value)
    scale_steps(axes, estimates.step)
    label_outer_axes(axes, "step (updates)", "gradient norm (loss/parameter)")
    frame(
        axes[0].figure,
        f"Which layers does each loss move while it learns {label(first.label, 60)}?",
        f"Geometric mean and {interval(first.confidence)}, {counted(estimates.n)}. ×: the first "
        "run has diverged.",
        styles,
    )
    return axes


def time_to_target(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Share of runs that have reached a target that was fixed beforehand, over updates.

    `estimates` are from `statistics.time_to`, one row per loss and context; each context has axes.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    for ax, (_, rows) in zip(axes, estimates.groupby("context", sort=False), strict=True):
        for row in sorted(rows.itertuples(), key=lambda row: DASHES.index(styles[row.loss].dash)):
            style, steps = styles[row.loss], [0, *row.steps, row.budget]
            reached = [0.0, *(1 - share for share in row.survival)]
            ax.step(steps, [*reached, reached[-1]], where="post", color=style.color, ls=style.dash)
        row = rows.iloc[0]
        better = "at most" if records.direction(row.metric) == "lower" else "at least"
        target = f"{row.metric} {better} {row.target:g}"
        letters = int(12 * page_width(ax) / panels_per_row(ax))
        ax.set_title("\n".join([wrapped(row.label, letters), target]), loc="left")
        ax.set(xlim=(0, rows.budget.max()), ylim=(-0.03, 1.03))
    label_outer_axes(axes, "step (updates)", "share of runs at target")
    frame(
        axes[0].figure,
        f"How soon does each loss reach a target in {label(first.task)}?",
        f"Kaplan-Meier, {counted(estimates.n)}; targets were declared beforehand, reached on "
        "validation at an evaluated step. Runs that miss it, diverged ones too, stay below to the "
        "end.",
        styles,
    )
    return axes


def _draw_course(ax: Axes, estimates: pd.DataFrame, styles: dict[str, LossStyle]) -> None:
    """Draw a line and its interval for each loss."""
    for loss, rows in solid_first(estimates, styles):
        style = styles[loss]
        ax.fill_between(rows.step, rows.low, rows.high, color=style.color, alpha=0.15, lw=0)
        ax.plot(rows.step, rows.value, color=style.color, ls=style.dash)
        mark_lost_runs(ax, rows, style.color)


# ---- over learning rates -------------------------------------------------------------------------


def learning_rate_sensitivity(
    estimates: pd.DataFrame, axes: Sequence[Axes], *, reference: str
) -> Sequence[Axes]:
    """Metric over learning rates, with counts of diverged runs and a ring at the chosen rate.

    Args:
        estimates: Rows from `statistics.learning_rates` for one context, with `split`; `best` marks
            the chosen rate.
        axes: Axes, one for each loss.
        reference: Loss drawn dashed in every panel.
    """
    first = estimates.iloc[0]
    worst = 0.04 if records.direction(first.metric) == "higher" else 0.96
    is_shared = first.metric != records.OWN_LOSS  # values of different losses have different units
    for ax, loss, style in loss_panels(estimates, axes, reference, x="lr", with_others=is_shared):
        rows, color = estimates[estimates.loss == loss], style.color
        ax.vlines(rows.lr, rows.low, rows.high, color=color, lw=1)
        ax.plot(rows.lr, rows.value, color=color, marker=style.marker, ms=3)
        best = rows[rows.best]
        ring = {"ms": 8, "mfc": "none", "mec": INK, "mew": 0.8, "zorder": 5, "clip_on": False}
        if len(best):  # no rate is best if the loss diverged at every rate
            ax.plot(best.lr, best.value, "o", **ring)
        for row in rows[rows.diverged > 0].itertuples():
            ax.plot(row.lr, worst, "x", ms=3.5, color=color, transform=ax.get_xaxis_transform())
            ax.annotate(
                str(row.diverged), (row.lr, worst), (0, -9 if worst > 0.5 else 4), ha="center",
                xycoords=ax.get_xaxis_transform(), textcoords="offset points", fontsize=5.5,
            )  # fmt: skip
        ax.set_xscale("log")
        mark_decades(ax.xaxis, estimates.lr.min(), estimates.lr.max(), most=3)
    if is_shared:
        _cut_off_failures(axes, estimates)
    for ax in axes if not is_shared else ():
        rows = estimates[estimates.loss == ax.get_label()]
        if spans_a_decade(rows.value):
            scale_logs(ax, rows.value)
        else:
            _cut_off_failures([ax], rows)
    label_outer_axes(axes, "learning rate", metric_name(first.metric, first.split))
    others = f"Grey: the other losses; dashed: {label(reference)}."
    units = "Each loss in units of its own: compare within a panel."
    frame(
        axes[0].figure,
        f"Which learning rates suit each loss on {label(first.label, 60)}?",
        f"Mean over the seeds that survived and {interval(first.confidence)}, "
        f"{counted(estimates.planned)} a rate. Ring: chosen. × k: k runs diverged. ▲: beyond five "
        f"times the worst ringed value. {others if is_shared else units}",
    )
    return axes


def _cut_off_failures(axes: Sequence[Axes], estimates: pd.DataFrame) -> None:
    """End the scale at five times the worst chosen value; values beyond the end become arrows."""
    top = 5 * estimates.value[estimates.best].max()
    if records.direction(estimates.metric.iloc[0]) == "higher":
        for ax in axes:
            limit_bounded(ax, pd.concat([estimates.low, estimates.high, estimates.value]).dropna())
        return
    chosen = estimates.value[estimates.best].dropna()
    is_wide = len(chosen) and chosen.min() > 0 and chosen.max() > 20 * chosen.min()
    for ax in axes if is_wide else ():
        scale_logs(ax, estimates.value.clip(upper=top))
    if not top < estimates.value.max():
        return
    for ax in axes:
        rows = estimates[(estimates.loss == ax.get_label()) & (estimates.value > top)]
        ax.set_ylim(ax.get_ylim()[0] if is_wide else 0, top)
        across = ax.get_xaxis_transform()
        ax.plot(rows.lr, np.full(len(rows), 0.8), "^", ms=4, color=INK, transform=across)


def learning_rate_cost(
    rates: pd.DataFrame, axes: Sequence[Axes], *, budgets: pd.DataFrame, margin: float
) -> Sequence[Axes]:
    """Cost of a learning rate that is not the best, and cost of trying fewer rates.

    Args:
        rates: Rows from `statistics.learning_rates` for one context, with `split`, `cost` (how much
            worse the mean is than at the loss's best rate, in units of the metric) and `ratio` (the
            rate divided by the best rate).
        axes: Two axes.
        budgets: Rows from `statistics.budget_curve`; `cost` is relative to the largest budget.
        margin: Difference that does not matter, in units of the metric.
    """
    styles, first, floor = loss_styles(rates), rates.iloc[0], margin / 20
    for ax, frame_, x in zip(axes, (rates, budgets), ("ratio", "budget"), strict=True):
        for loss, rows in solid_first(frame_, styles):
            style, sound = styles[loss], rows[rows.cost.notna()]
            ax.plot(sound[x], sound.cost.clip(lower=floor), color=style.color, ls=style.dash)
        ax.axhspan(floor / 1.5, margin, color=BAND, lw=0, zorder=0)
        costs = frame_.cost.dropna().clip(floor, 500 * margin)
        scale_logs(ax, pd.concat([costs, pd.Series([floor, 2 * margin])]))
    axes[0].set_xscale("log")
    ratios = rates.ratio[rates.ratio.notna()]
    mark_decades(axes[0].xaxis, ratios.min(), ratios.max(), most=5)
    axes[0].set_xlabel("learning rate / own best")
    axes[1].set_xlabel("learning rates tried, at random")
    axes[0].set_title(f"lost in {metric_name(first.metric, first.split)}", loc="left")
    axes[1].set_title("expected shortfall", loc="left")
    axes[1].sharey(axes[0])
    frame(
        axes[0].figure,
        f"How much does the learning rate matter to each loss on {label(first.label, 60)}?",
        f"Against the loss's own best rate, means over {counted(rates.planned)} a rate that "
        f"survived. Grey: below the margin of {margin:g}; what is less than {floor:g} is drawn "
        "there. Right: exact expectation, a rate at which a run diverged counts as the worst of "
        "all.",
        styles,
    )
    return axes


# ---- over rates of corruption --------------------------------------------------------------------


def noise_curve(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """Metric over the rate of a corruption, one line per loss.

    `estimates` are from `statistics.noise_curves`, one curve and condition, with `split`.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    rates = np.unique(estimates.rate)
    # Losses are drawn side by side at each rate, so that no interval hides another.
    gap = np.diff(rates).min() if len(rates) > 1 else 1.0
    step = 0.25 * gap / len(styles)
    for place, (loss, rows) in enumerate(solid_first(estimates, styles)):
        style, x = styles[loss], rows.rate + step * (place - (len(styles) - 1) / 2)
        ax.plot(x, rows.value, color=style.color, ls=style.dash, marker=style.marker)
        ax.vlines(x, rows.low, rows.high, color=style.color, lw=0.9)
        lost = rows[(rows.diverged > 0) & rows.value.notna()]
        ax.plot(x[lost.index], lost.value, "x", color=style.color, ms=6, mew=1.2, zorder=5)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.set_xlabel(f"rate of {label(first.corruption)} corruption")
    ax.set_ylabel(metric_name(first.metric, first.split))
    if records.direction(first.metric) == "higher":
        limit_bounded(ax, pd.concat([estimates.low, estimates.high, estimates.value]).dropna())
    else:
        scale_values([ax], estimates)
    frame(
        ax.figure,
        f"How does each loss fare as more is corrupted on {label(first.label, 60)}?",
        f"Mean and {interval(first.confidence)}, {counted(estimates.n)}, each loss at its own "
        "learning rate for each rate of corruption; train and validation are corrupted, test is "
        "not. ×: runs diverged, the mean is over the others.",
        styles,
    )
    return ax
