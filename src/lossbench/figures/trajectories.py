"""What happens along training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lossbench import records
from lossbench.figures.axes import (
    columns,
    interval,
    mark_losses_of_runs,
    measured,
    multiples,
    ns,
    outer,
    page_width,
    scale_logs,
    scale_steps,
    scale_values,
    solid_first,
)
from lossbench.figures.layout import frame, label, wrapped
from lossbench.figures.styles import DASHES, LossStyle, loss_styles


def learning_curves(
    estimates: pd.DataFrame, axes: Sequence[Axes], *, reference: str
) -> Sequence[Axes]:
    """A metric over steps: each loss in its own panel before all others in grey.

    Args:
        estimates: From `statistics.curves` for one context, with `metric` and `split`.
        axes: As many axes as losses.
        reference: Loss drawn dashed in every panel.
    """
    first = estimates.iloc[0]
    for ax, loss, style in multiples(estimates, axes, reference, x="step"):
        rows = estimates[estimates.loss == loss]
        ax.fill_between(rows.step, rows.low, rows.high, color=style.color, alpha=0.22, lw=0)
        ax.plot(rows.step, rows.value, color=style.color)
        mark_losses_of_runs(ax, rows, style.color)
    scale_steps(axes, estimates.step)
    scale_values(axes, estimates)
    outer(axes, "step (updates)", measured(first.metric, first.split))
    frame(
        axes[0].figure,
        f"How fast does each loss learn {label(first.label, 60)}?",
        f"Colour: the panel's loss, mean and {interval(first.confidence)}, {ns(estimates.n)}. "
        f"Grey: the others; dashed: {label(reference)}. ×: the first diverged run dropped out.",
    )
    return axes


def error_signal(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Gradient norm, size of the signal per error, and its alignment with the error, over steps.

    Args:
        estimates: From `statistics.courses` for one context; `measure` is gradient_norm,
            signal_per_error or cosine.
        axes: Three axes.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    titles = {
        "gradient_norm": "gradient norm\n(loss / parameter)",
        "signal_per_error": "output gradient norm\n/ error norm",
        "cosine": "cosine of output\ngradient and error",
    }
    for ax, (measure, title) in zip(axes, titles.items(), strict=True):
        mine = estimates[estimates.measure == measure]
        _draw_course(ax, mine, styles)
        ax.set_title(title, loc="left")
        ax.set_xlabel("step (updates)")
        if measure != "cosine":
            scale_logs(ax, mine.value)
    cosines = estimates[estimates.measure == "cosine"]
    low = np.nanmin([cosines.low.min(), cosines.value.min(), 0.98])
    axes[-1].set_ylim(max(-1.05, low - 0.02), 1.02)
    scale_steps(axes, estimates.step)
    frame(
        axes[0].figure,
        f"What does each loss feed back while it learns {label(first.label, 60)}?",
        f"Mean (of norms: geometric) and {interval(first.confidence)}, {ns(estimates.n)}. Where "
        "ratio and cosine are 1, the output gradient is prediction - target. ×: the first run has "
        "diverged.",
        styles,
    )
    return axes


def layer_gradients(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Gradient norm of each layer over steps.

    Args:
        estimates: From `statistics.courses` for one context, by `layer`.
        axes: As many as layers.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    for ax, (layer, mine) in zip(axes, estimates.groupby("layer", sort=False), strict=True):
        _draw_course(ax, mine, styles)
        ax.set_title(f"layer {label(layer)}", loc="left")
        scale_logs(ax, estimates.value)
    scale_steps(axes, estimates.step)
    outer(axes, "step (updates)", "gradient norm (loss/parameter)")
    frame(
        axes[0].figure,
        f"Which layers does each loss move while it learns {label(first.label, 60)}?",
        f"Geometric mean and {interval(first.confidence)}, {ns(estimates.n)}. ×: the first run has "
        "diverged.",
        styles,
    )
    return axes


def time_to_target(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Share of runs that have reached a target that was fixed beforehand, over updates.

    Args:
        estimates: From `statistics.time_to`, one row a loss and context.
        axes: As many as contexts.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    for ax, (_, mine) in zip(axes, estimates.groupby("context", sort=False), strict=True):
        for row in sorted(mine.itertuples(), key=lambda row: DASHES.index(styles[row.loss].dash)):
            style, steps = styles[row.loss], [0, *row.steps, row.budget]
            reached = [0.0, *(1 - share for share in row.survival)]
            ax.step(steps, [*reached, reached[-1]], where="post", color=style.color, ls=style.dash)
        mine_first = mine.iloc[0]
        better = "at most" if records.direction(mine_first.metric) == "lower" else "at least"
        target = f"{mine_first.metric} {better} {mine_first.target:g}"
        letters = int(12 * page_width(ax) / columns(ax))
        ax.set_title("\n".join([wrapped(mine_first.label, letters), target]), loc="left")
        ax.set(xlim=(0, mine.budget.max()), ylim=(-0.03, 1.03))
    outer(axes, "step (updates)", "share of runs at target")
    frame(
        axes[0].figure,
        f"How soon does each loss reach a target in {label(first.task)}?",
        f"Kaplan-Meier, {ns(estimates.n)}; targets were declared beforehand, reached on validation "
        "at an evaluated step. Runs that miss it, diverged ones too, stay below to the end.",
        styles,
    )
    return axes


def _draw_course(ax: Axes, estimates: pd.DataFrame, styles: dict[str, LossStyle]) -> None:
    """A line and its interval for each loss."""
    for loss, rows in solid_first(estimates, styles):
        style = styles[loss]
        ax.fill_between(rows.step, rows.low, rows.high, color=style.color, alpha=0.15, lw=0)
        ax.plot(rows.step, rows.value, color=style.color, ls=style.dash)
        mark_losses_of_runs(ax, rows, style.color)
