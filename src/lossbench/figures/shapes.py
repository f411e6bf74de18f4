"""Figures of the losses themselves, without training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lossbench.figures.axes import scale_logs, solid_first
from lossbench.figures.layout import frame, label
from lossbench.figures.styles import INK, loss_styles


def loss_shapes(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Losses with first and second derivative, over the error or the true class's probability.

    `estimates` are rows of one task of curves.parquet. There are three axes.
    """
    styles, regression = loss_styles(estimates), estimates.task.iloc[0] == "regression"
    about = "error e (SD of target)" if regression else "prediction p of the true class"
    parts = {"value": "loss", "first": "first derivative", "second": "second derivative"}
    for ax, (column, name) in zip(axes, parts.items(), strict=True):
        for loss, rows in solid_first(estimates, styles):
            ax.plot(rows.argument, rows[column], color=styles[loss].color, ls=styles[loss].dash)
        ax.set(xlabel=about, ylim=_window(estimates, column))
        ax.set_title(name, loc="left")
        ax.axhline(0, color=INK, lw=0.4, zorder=1)
    kinks = [
        loss
        for loss, rows in estimates.groupby("loss")
        if np.allclose(rows.second, 0, atol=1e-9) and np.ptp(rows["first"]) > 0
    ]
    spikes = "".join(
        f" {label(loss)}: second derivative 0, with a spike where the first jumps."
        for loss in kinks
    )
    output = "output" if regression else "true class's output, the other of two classes at 0"
    frame(
        axes[0].figure,
        "How hard does each loss push, and where?",
        f"Exact, no training. Derivatives with respect to the {output}; steep ends are cut off."
        f"{spikes}",
        styles,
    )
    return axes


def error_weight(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """Weight of the error in each loss's output gradient, over the true class's probability.

    `estimates` are classification rows of curves.parquet; `weight` is |output gradient| / |error|.
    """
    styles = loss_styles(estimates)
    for loss, rows in solid_first(estimates, styles):
        weight = rows.weight.where(rows.weight > 0)
        ax.plot(rows.argument, weight, color=styles[loss].color, ls=styles[loss].dash)
    ax.axhline(1, color=INK, lw=0.4, zorder=1)
    ax.set(xlabel="prediction p of the true class", ylabel="weight w(p)")
    scale_logs(ax, estimates.weight.clip(lower=estimates.weight.max() / 1e4))
    note = "w(p) = |output gradient| / |prediction - target|; 1 feeds back the error itself. Exact."
    frame(ax.figure, "How much of the error does each loss feed back?", note, styles)
    return ax


def _window(estimates: pd.DataFrame, column: str) -> tuple[float, float]:
    """Limits for one curve per loss; a curve that goes far beyond the others is cut off."""
    numbers = estimates[column].where(np.isfinite(estimates[column]))
    sizes = numbers.abs().groupby(estimates.loss).agg(["min", "max"]).sort_values("max")
    most = sizes["max"].iloc[-1]
    if len(sizes) > 1 and most > 3 * (second := sizes["max"].iloc[-2]) > 3 * sizes["min"].iloc[-1]:
        most = second
    pad = 0.08 * most or 1.0
    return max(min(numbers.min(), 0), -most) - pad, min(max(numbers.max(), 0), most) + pad
