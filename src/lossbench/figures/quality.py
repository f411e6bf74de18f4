"""Figures of trained models by metrics other than the primary metric."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lossbench.figures.axes import (
    counted,
    is_leftmost,
    label_rows,
    mark_decades,
    metric_name,
    page_width,
    spans_a_decade,
)
from lossbench.figures.layout import frame, label
from lossbench.figures.styles import BAND, BLUE, GRID, INK, OTHER, PAPER, loss_styles

CLEARLY = 1.01
"""Ratio of the second best value to the best above which the best is printed in bold."""

UNREADABLE = 12
"""Largest number of losses for which each cell of a matrix has a number."""


def calibration(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Negative log-likelihood and calibration error, before and after recalibration.

    `estimates` are from `statistics.summary` for one context, with `split`; `metric` is nll,
    nll_raw, ece or ece_raw. There are two axes.
    """
    styles, first = loss_styles(estimates), estimates.iloc[0]
    after = estimates[estimates.metric == "nll"].set_index("loss").value
    order = [*after.sort_values(ascending=False).index]
    for ax, metric in zip(axes, ("nll", "ece"), strict=True):
        of_metric = estimates[estimates.metric.isin([metric, f"{metric}_raw"])]
        for row in of_metric[of_metric.value.notna()].itertuples():
            y, is_raw = order.index(row.loss), row.metric.endswith("_raw")
            color = styles[row.loss].color
            y += 0.16 if is_raw else -0.16
            low = max(row.low, row.value / 10) if spans_a_decade(of_metric.value) else row.low
            ax.plot([low, row.high], [y, y], color=color, lw=1.1, solid_capstyle="butt")
            ax.plot(row.value, y, "o", ms=4, mfc=PAPER if is_raw else color, mec=color, mew=1)
        if spans_a_decade(of_metric.value):
            ax.set_xscale("log")
            mark_decades(ax.xaxis, of_metric.value.min(), of_metric.value.max(), most=4)
        else:
            ax.set_xlim(left=0)
        label_rows(ax, order)
        ax.set_xlabel(metric_name(metric, first.split))
        if not is_leftmost(ax):
            ax.tick_params(axis="y", labelleft=False)
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, mfc=fill, mec=OTHER) for fill in (PAPER, OTHER)
    ]
    axes[0].legend(
        handles, ["as it comes", "recalibrated"], loc="lower left", bbox_to_anchor=(0, 1),
        ncols=2, fontsize=6.5, borderaxespad=0.2, handletextpad=0.2,
    )  # fmt: skip
    frame(
        axes[0].figure,
        f"How good are the probabilities on {label(first.label, 60)}?",
        f"Mean and {first.confidence:.0%} t interval, {counted(estimates.n[estimates.n > 0])}; "
        "lower is better. Recalibrated: one softmax(a output + b) for every loss alike, fitted on "
        "validation. Losses whose outputs are no probabilities have only that.",
    )
    return axes


def cross_loss(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """Matrix of every model under every loss: is each model best under its own loss?

    `estimates` are from `statistics.cross_losses` for one context: rows by `loss` (trained with)
    and `other` (judged by), with `value`, `ratio` to the best of its column, and n.
    """
    rows = [*dict.fromkeys(estimates.loss)]
    seconds = estimates[estimates.ratio > 1].groupby("other").ratio.min()
    columns = [*dict.fromkeys([*rows, *estimates.other])]
    first, is_readable, drawn = estimates.iloc[0], len(columns) <= UNREADABLE, set()
    for row in estimates.itertuples():
        x, y = columns.index(row.other), rows.index(row.loss)
        shade = min(1.0, np.log10(row.ratio)) if row.ratio > 0 else 0.0
        if np.isnan(row.ratio):
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=PAPER, ec=GRID, hatch="////", lw=0))
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=BLUE, alpha=0.8 * shade, lw=0))
        if is_readable:
            number = f"{row.value:.2g}".replace("e-0", "e-").replace("-", "−")
            color = PAPER if shade > 0.75 else INK
            is_best = row.ratio == 1 and seconds.get(row.other, 1) > CLEARLY
            weight = "bold" if is_best else "normal"
            ax.text(
                x, y, number, ha="center", va="center", fontsize=5.5, color=color, weight=weight
            )
        drawn.add((x, y))
        if row.loss == row.other:
            edge = Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fc="none", ec=INK, lw=0.8, zorder=4)
            ax.add_patch(edge)
    for x, y in itertools.product(range(len(columns)), range(len(rows))):
        if (x, y) not in drawn:
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=BAND, lw=0))
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    letters = max(len(label(loss)) for loss in columns)
    is_roomy = 0.8 * page_width(ax) / len(columns) > 0.06 * letters
    turn = {} if is_roomy else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(columns)), [label(loss) for loss in columns], **turn)
    ax.set_yticks(range(len(rows)), [label(loss) for loss in rows])
    ax.set(xlabel="judged by (mean test loss)", ylabel="trained with")
    ax.grid(False)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set(visible=True, color=GRID)
    best = "bold: best of its column by more than 1 %; " if is_readable else ""
    frame(
        ax.figure,
        f"Is each loss best at its own game on {label(first.label, 60)}?",
        f"Mean over {counted(estimates.n)}, last step; {best}outlined: its own loss. Shade: ratio "
        "to the column's best, white 1, full 10 and more, hatched: the best is not above 0. Grey: "
        "that loss has no value for these outputs. Losses have units of their own: compare within "
        "a column.",
    )
    return ax
