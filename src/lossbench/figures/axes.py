"""Axes, scales and texts that several figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lossbench import records
from lossbench.figures.layout import label
from lossbench.figures.styles import DASHES, FAINT, INK, OTHER, LossStyle, loss_styles


def loss_panels(
    estimates: pd.DataFrame,
    axes: Sequence[Axes],
    reference: str,
    *,
    x: str,
    with_others: bool = True,
) -> Iterator[tuple[Axes, str, LossStyle]]:
    """One panel per loss, the reference first, with all other losses already drawn in grey."""
    styles = loss_styles(estimates)
    order = sorted(styles, key=lambda loss: (loss != reference, [*styles].index(loss)))
    curves = {loss: estimates.loc[estimates.loss == loss, [x, "value"]] for loss in order}
    for ax, loss in zip(axes, order, strict=True):
        for other in order if with_others else ():
            if other == loss:
                continue
            rows, look = curves[other], {"color": FAINT, "zorder": 1.8}
            if other == reference:
                look = {"color": OTHER, "zorder": 1.9, "ls": (0, (3, 2))}
            ax.plot(rows[x], rows.value, lw=0.9, **look)
        ax.set_label(loss)
        name = label(loss, int(10 * page_width(ax) / panels_per_row(ax)))
        ax.set_title(name, color=INK, loc="left", fontweight="bold", pad=3)
        yield ax, loss, styles[loss]


def solid_first(
    estimates: pd.DataFrame, styles: dict[str, LossStyle]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows by loss, solid lines first, because a dashed line on a solid line shows both."""
    for loss in sorted(styles, key=lambda loss: DASHES.index(styles[loss].dash)):
        yield loss, estimates[estimates.loss == loss]


def mark_lost_runs(ax: Axes, rows: pd.DataFrame, color: str) -> None:
    """Draw a cross at the first point of a curve from which a diverged or failed run is missing."""
    is_fewer = (rows.step >= rows.lost_at) & rows.value.notna()
    step, value = rows.step[is_fewer], rows.value[is_fewer]
    ax.plot(step[:1], value[:1], "x", color=color, ms=4, mew=1.2, zorder=5)


def scale_steps(axes: Iterable[Axes], steps: pd.Series) -> None:
    """Set a logarithmic scale with room for step 0, if the steps span more than a decade."""
    first, last = steps[steps > 0].min(), steps.max()
    if not last > 10 * first:
        return
    decades = 10.0 ** np.arange(np.ceil(np.log10(first)), np.ceil(np.log10(last)))
    inner = [d for d in decades if 2 * first <= d <= last / 2.5]
    ticks = [*([0] if (steps == 0).any() else []), first, *inner, last]
    for ax in axes:
        ax.set_xscale("symlog", linthresh=first, linscale=0.5)
        ax.set_xlim(-0.15 * first if 0 in ticks else first / 1.2, last * 1.15)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())


def scale_values(axes: Iterable[Axes], estimates: pd.DataFrame) -> None:
    """Set a logarithmic scale if costs span a factor of 20; end at 1 if higher is better."""
    values = estimates.value.dropna()
    is_bounded = records.direction(estimates.metric.iloc[0]) == "higher"
    is_wide = len(values) and values.min() > 0 and values.max() > 20 * values.min()
    for ax in axes:
        if is_wide and not is_bounded:
            scale_logs(ax, values)
        elif is_bounded and len(values):
            limit_bounded(ax, values)


def limit_bounded(ax: Axes, values: pd.Series) -> None:
    """Set limits that show all values of a metric of 1 at most, and end little above 1."""
    low, high = values.min(), values.max()
    pad = 0.06 * max(high - low, 1e-3)
    ax.set_ylim(low - pad, min(high + pad, 1 + 0.2 * pad))


def scale_logs(ax: Axes, values: pd.Series) -> None:
    """Set a logarithmic scale around the positive values, if there are any."""
    values = values.loc[(values > 0) & np.isfinite(values)]
    if len(values):
        ax.set_yscale("log")
        ax.set_ylim(values.min() / 1.5, values.max() * 1.5)
        mark_decades(ax.yaxis, values.min(), values.max())


def mark_decades(axis: Axis, low: float, high: float, most: int = 6) -> None:
    """Set logarithmic ticks with labels that are not formulas; 2 and 5 if there are few decades."""
    subs = (1.0, 2.0, 5.0) if high < 30 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=most))
    axis.set_major_formatter(FuncFormatter(power_of_ten))
    axis.set_minor_locator(NullLocator())


def power_of_ten(value: float, _: float = 0) -> str:
    """Label of a tick on a logarithmic axis: a plain number near 1, else a power of ten."""
    if 0.01 <= value < 1000:
        return f"{value:g}"
    exponent = str(round(math.log10(value))) if value > 0 else ""
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def label_outer_axes(axes: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    """Label the panels at the left and at the bottom, for all panels."""
    for ax in axes:
        if is_leftmost(ax):
            ax.set_ylabel(ylabel.replace(" (", "\n("))
        if ax in axes[-panels_per_row(axes[0]) :]:
            ax.set_xlabel(xlabel)


def label_rows(ax: Axes, losses: Sequence[str]) -> None:
    """Label one row for each loss, from the bottom up; names are cut if the page is narrow."""
    most = min(32, int(6 * page_width(ax)))
    ax.set_ylim(-0.6, len(losses) - 0.4)
    ax.set_yticks(range(len(losses)), [label(loss, most) for loss in losses])
    ax.tick_params(axis="y", length=0, pad=6)
    ax.grid(False, axis="y")


def is_leftmost(ax: Axes) -> bool:
    """Whether no other panel is left of the axes."""
    place = ax.get_subplotspec()
    return place is None or place.is_first_col()


def page_width(ax: Axes) -> float:
    """Width in inches of the page that has the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure.get_figwidth()


def panels_per_row(ax: Axes) -> int:
    """Number of panels side by side on the page that has the axes."""
    place = ax.get_subplotspec()
    return place.get_gridspec().ncols if place else 1


def metric_name(metric: str, split: str) -> str:
    """Text with split, metric and unit."""
    if metric == records.OWN_LOSS:
        return f"{split} loss, its own"
    unit = records.METRICS[metric].unit if metric in records.METRICS else ""
    unit = unit.replace("standard deviations of the training target", "SD of target")
    return f"{split} {label(metric)}" + (f" ({unit})" if unit not in ("", "1") else "")


def interval(confidence: float) -> str:
    """Name of the kind of interval that curves have."""
    return f"pointwise {confidence:.0%} t interval"


def counted(n: pd.Series, what: str = "seeds") -> str:
    """Text with the number of seeds, or of other things that `what` names."""
    low, high = int(n.min()), int(n.max())
    return f"n = {high} {what}" if low == high else f"n = {low} to {high} {what}"


def spans_a_decade(values: pd.Series) -> bool:
    """Whether positive values span more than a decade."""
    positive = values[(values > 0) & np.isfinite(values)]
    return len(positive) > 1 and positive.max() > 10 * positive.min()
