"""What the learning rate matters to each loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lossbench import records
from lossbench.figures.axes import (
    bound,
    interval,
    is_logged,
    measured,
    multiples,
    ns,
    outer,
    plain_logs,
    scale_logs,
    solid_first,
)
from lossbench.figures.layout import frame, label
from lossbench.figures.styles import BAND, INK, loss_styles


def learning_rate_sensitivity(
    estimates: pd.DataFrame, axes: Sequence[Axes], *, reference: str
) -> Sequence[Axes]:
    """A metric over learning rates, with diverged runs as a rug and the chosen rate ringed.

    Args:
        estimates: From `statistics.learning_rates` for one context, with `split`; `best` is ringed.
        axes: As many axes as losses.
        reference: Loss drawn dashed in every panel.
    """
    first = estimates.iloc[0]
    worst = 0.04 if records.direction(first.metric) == "higher" else 0.96
    is_shared = first.metric != records.OWN_LOSS  # own losses have units of their own
    for ax, loss, style in multiples(estimates, axes, reference, x="lr", with_others=is_shared):
        rows, color = estimates[estimates.loss == loss], style.color
        ax.vlines(rows.lr, rows.low, rows.high, color=color, lw=1)
        ax.plot(rows.lr, rows.value, color=color, marker=style.marker, ms=3)
        best = rows[rows.best]
        ring = {"ms": 8, "mfc": "none", "mec": INK, "mew": 0.8, "zorder": 5, "clip_on": False}
        if len(best):  # a loss that diverged at every rate has none
            ax.plot(best.lr, best.value, "o", **ring)
        for row in rows[rows.diverged > 0].itertuples():
            ax.plot(row.lr, worst, "x", ms=3.5, color=color, transform=ax.get_xaxis_transform())
            ax.annotate(
                str(row.diverged),
                (row.lr, worst),
                (0, -9 if worst > 0.5 else 4),
                xycoords=ax.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                fontsize=5.5,
            )
        ax.set_xscale("log")
        plain_logs(ax.xaxis, estimates.lr.min(), estimates.lr.max(), most=3)
    if is_shared:
        _cut_off_failures(axes, estimates)
    for ax in axes if not is_shared else ():
        rows = estimates[estimates.loss == ax.get_label()]
        if is_logged(rows.value):
            scale_logs(ax, rows.value)
        else:
            _cut_off_failures([ax], rows)
    outer(axes, "learning rate", measured(first.metric, first.split))
    others = f"Grey: the other losses; dashed: {label(reference)}."
    units = "Each loss in units of its own: compare within a panel."
    frame(
        axes[0].figure,
        f"Which learning rates suit each loss on {label(first.label, 60)}?",
        f"Mean over the seeds that survived and {interval(first.confidence)}, "
        f"{ns(estimates.planned)} a rate. Ring: chosen. × k: k runs diverged. ▲: beyond five "
        f"times the worst ringed value. {others if is_shared else units}",
    )
    return axes


def _cut_off_failures(axes: Sequence[Axes], estimates: pd.DataFrame) -> None:
    """Ends the scale at five times the worst chosen value; what lies beyond becomes an arrow."""
    top = 5 * estimates.value[estimates.best].max()
    if records.direction(estimates.metric.iloc[0]) == "higher":
        for ax in axes:
            bound(ax, pd.concat([estimates.low, estimates.high, estimates.value]).dropna())
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
    """What a rate beside the best costs, and what trying fewer rates costs.

    Args:
        rates: From `statistics.learning_rates` for one context, with `split`, and `cost`: how much
            worse the mean is than at the loss's best rate, in units of the metric, and `ratio`, the
            rate over the best one.
        axes: Two axes.
        budgets: From `statistics.budget_curve`, with `cost`: how much worse than its last value.
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
    plain_logs(axes[0].xaxis, ratios.min(), ratios.max(), most=5)
    axes[0].set_xlabel("learning rate / own best")
    axes[1].set_xlabel("learning rates tried, at random")
    axes[0].set_title(f"lost in {measured(first.metric, first.split)}", loc="left")
    axes[1].set_title("expected shortfall", loc="left")
    axes[1].sharey(axes[0])
    frame(
        axes[0].figure,
        f"How much does the learning rate matter to each loss on {label(first.label, 60)}?",
        f"Against the loss's own best rate, means over {ns(rates.planned)} a rate that survived. "
        f"Grey: below the margin of {margin:g}; what is less than {floor:g} is drawn there. Right: "
        "exact expectation, a rate at which a run diverged counts as the worst of all.",
        styles,
    )
    return axes
