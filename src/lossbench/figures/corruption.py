"""What corruption of the training data does."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lossbench import records
from lossbench.figures.axes import bound, interval, measured, ns, scale_values, solid_first
from lossbench.figures.layout import frame, label
from lossbench.figures.styles import loss_styles


def noise_curve(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """A metric over the rate of a corruption, a line a loss.

    Args:
        estimates: From `statistics.noise_curves`, one curve and condition, with `split`.
        ax: Where to draw.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    rates = np.unique(estimates.rate)
    # Losses stand side by side at a rate, so that no interval hides another.
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
    ax.set_ylabel(measured(first.metric, first.split))
    if records.direction(first.metric) == "higher":
        bound(ax, pd.concat([estimates.low, estimates.high, estimates.value]).dropna())
    else:
        scale_values([ax], estimates)
    frame(
        ax.figure,
        f"How does each loss fare as more is corrupted on {label(first.label, 60)}?",
        f"Mean and {interval(first.confidence)}, {ns(estimates.n)}, each loss at its own learning "
        "rate for each rate of corruption; train and validation are corrupted, test is not. "
        "×: runs diverged, the mean is over the others.",
        styles,
    )
    return ax
