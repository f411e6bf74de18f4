"""The gallery: one function per figure, `(estimates, ax) -> Axes`. Computes nothing, reads nothing.

Draw within `style()` and on a `page()`. A figure's title is the question it answers; it owns the
whole page of its axes: title above, one legend and one note below. Colour is the family of a loss;
line style and marker tell the losses of a family apart.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lossbench import records

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths of a paper's figures, inches."""

# Okabe and Ito's hues, and a dark one of their yellow. A family has one hue; families that share
# one are of different tasks.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"),
)
OLIVE, BLACK = "#8A6D00", "#000000"
COLORS = {"power": BLUE, "monotone": VERMILION, "redescending": GREEN, "asymmetric": ORANGE}
COLORS |= {"likelihood": PURPLE, "proper": GREEN, "matching": VERMILION, "robust": ORANGE}
COLORS |= {"margin": PURPLE, "weighted": SKY, "regularized": OLIVE, "divergence": BLACK}
OTHER, FAINT, INK = "#595959", "#C4C4C4", "#222222"
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Look:
    """How a loss is drawn everywhere."""

    color: str
    dash: Any
    marker: str


def looks(estimates: pd.DataFrame) -> dict[str, Look]:
    """The look of each loss of a frame with columns `loss` and `family`, in the order drawn."""
    found = {}
    for family, rows in estimates.groupby(estimates.family.fillna("")):
        for i, loss in enumerate(sorted({*rows.loss})):
            found[loss] = Look(
                COLORS.get(str(family), OTHER), DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
            )
    return found


@contextmanager
def style(salt: str = "lossbench") -> Iterator[None]:
    """Settings of every figure, for the time of a `with`; names are never read as formulas.

    Args:
        salt: Makes the ids within an SVG differ from those of other figures on one page.
    """
    own: dict[Any, Any] = {
        **sns.axes_style("ticks"),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 7,
        "axes.labelsize": 7,
        "axes.titlesize": 7.5,
        "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5,
        "ytick.minor.size": 1.5,
        "axes.grid": True,
        "grid.linewidth": 0.4,
        "grid.color": "#E6E6E6",
        "axes.axisbelow": True,
        "lines.linewidth": 1.3,
        "lines.markersize": 3.5,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "text.parse_math": False,
        "svg.fonttype": "path",
        "svg.hashsalt": salt,
        "pdf.fonttype": 42,
        "savefig.dpi": 200,
        "figure.facecolor": "white",
    }
    with mpl.rc_context(own):
        yield


def page(
    panels: int = 1,
    *,
    columns: int = 5,
    width: float = TWO_COLUMNS,
    height: float = 1.5,
    shared: str = "both",
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes.

    Args:
        panels: How many axes; the first row ends with what is left over.
        columns: Most axes side by side.
        width: Of the page, inches.
        height: Of one row of axes, inches; title and notes come on top of it.
        shared: Which scales the panels share: "both", "x" or "none".

    Returns:
        The figure and its `panels` axes.
    """
    rows = math.ceil(panels / columns)
    columns = math.ceil(panels / rows)
    figure = Figure(figsize=(width, rows * height + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        rows, columns, sharex=shared != "none", sharey=shared == "both", squeeze=False
    ).ravel()
    empty = slice(columns - (rows * columns - panels), columns)
    for ax in axes[empty]:
        ax.set_axis_off()
    return figure, np.delete(axes, empty)


# ---- the figures ---------------------------------------------------------------------------------


def loss_shapes(estimates: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Losses with first and second derivative, over the error or the true class's probability.

    Args:
        estimates: Rows of one task of curves.parquet.
        axes: Three axes.
    """
    found, regression = looks(estimates), estimates.task.iloc[0] == "regression"
    about = "error e (SD of target)" if regression else "prediction p of the true class"
    parts = {"value": "loss", "first": "first derivative", "second": "second derivative"}
    for ax, (column, name) in zip(axes, parts.items(), strict=True):
        for loss, rows in _solid_first(estimates, found):
            ax.plot(rows.argument, rows[column], color=found[loss].color, ls=found[loss].dash)
        ax.set(xlabel=about, ylim=_window(estimates, column))
        ax.set_title(name, loc="left")
        ax.axhline(0, color=INK, lw=0.4, zorder=1)
    kinks = [
        loss
        for loss, rows in estimates.groupby("loss")
        if np.allclose(rows.second, 0, atol=1e-9) and np.ptp(rows["first"]) > 0
    ]
    spikes = "".join(f" {shown(loss)}: second derivative 0, with a spike at 0." for loss in kinks)
    output = "output" if regression else "true class's output"
    _frame(
        axes[0].figure,
        "How hard does each loss push, and where?",
        f"Exact, no training. Derivatives with respect to the {output}; steep ends are cut off."
        f"{spikes}",
        found,
    )
    return axes


def error_weight(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """How many times prediction - target each loss feeds back, over the true class's probability.

    Args:
        estimates: Classification rows of curves.parquet; `weight` is |output gradient| / |error|.
        ax: One axes.
    """
    found = looks(estimates)
    for loss, rows in _solid_first(estimates, found):
        weight = rows.weight.where(rows.weight > 0)
        ax.plot(rows.argument, weight, color=found[loss].color, ls=found[loss].dash)
    ax.axhline(1, color=INK, lw=0.4, zorder=1)
    ax.set(xlabel="prediction p of the true class", ylabel="weight w(p)")
    _scale_logs(ax, estimates.weight.clip(lower=estimates.weight.max() / 1e4))
    note = "w(p) = |output gradient| / |prediction - target|; 1 feeds back the error itself. Exact."
    _frame(ax.figure, "How much of the error does each loss feed back?", note, found)
    return ax


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
    for ax, loss, look in _multiples(estimates, axes, reference, x="step"):
        rows = estimates[estimates.loss == loss]
        ax.fill_between(rows.step, rows.low, rows.high, color=look.color, alpha=0.22, lw=0)
        ax.plot(rows.step, rows.value, color=look.color)
        _mark_losses_of_runs(ax, rows, look.color)
    _scale_steps(axes, estimates.step)
    _scale_values(axes, estimates)
    _outer(axes, "step (updates)", _measured(first.metric, first.split))
    _frame(
        axes[0].figure,
        f"How fast does each loss learn {shown(first.label, 60)}?",
        f"Colour: the panel's loss, mean and {_interval(first.confidence)}, {_ns(estimates.n)}. "
        f"Grey: the others; dashed: {shown(reference)}. ×: the first diverged run dropped out.",
    )
    return axes


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
    for ax, loss, look in _multiples(estimates, axes, reference, x="lr"):
        rows, color = estimates[estimates.loss == loss], look.color
        ax.vlines(rows.lr, rows.low, rows.high, color=color, lw=1)
        ax.plot(rows.lr, rows.value, color=color, marker=look.marker, ms=3)
        best = rows[rows.best]
        ax.plot(best.lr, best.value, "o", ms=8, mfc="none", mec=INK, mew=0.8, zorder=5)
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
        _plain_logs(ax.xaxis, estimates.lr.min(), estimates.lr.max(), most=3)
    _cut_off_failures(axes, estimates)
    _outer(axes, "learning rate", _measured(first.metric, first.split))
    _frame(
        axes[0].figure,
        f"Which learning rates suit each loss on {shown(first.label, 60)}?",
        f"Mean over the seeds that survived and {_interval(first.confidence)}, "
        f"{_ns(estimates.planned)} a rate. Ring: chosen. × k: k runs diverged. ▲: beyond five "
        f"times the worst ringed value. Grey: the other losses; dashed: {shown(reference)}.",
    )
    return axes


def error_signal(
    norms: pd.DataFrame, axes: Sequence[Axes], *, cosines: pd.DataFrame
) -> Sequence[Axes]:
    """Gradient norm, and how well the output gradient is aligned with the error, over steps.

    Args:
        norms: From `statistics.curves` (geometric) of `gradient_norm`, one context.
        axes: Two axes.
        cosines: From `statistics.curves` of `cosine`, the same runs.
    """
    found, first = looks(norms), norms.iloc[0]
    for ax, frame in zip(axes, (norms, cosines), strict=True):
        for loss, rows in _solid_first(frame, found):
            look = found[loss]
            ax.fill_between(rows.step, rows.low, rows.high, color=look.color, alpha=0.15, lw=0)
            ax.plot(rows.step, rows.value, color=look.color, ls=look.dash)
            _mark_losses_of_runs(ax, rows, look.color)
        ax.set_xlabel("step (updates)")
    _scale_steps(axes, norms.step)
    _scale_logs(axes[0], norms.value)
    axes[0].set_title("gradient norm (loss / parameter)", loc="left")
    axes[1].set_title("cosine of output gradient and error", loc="left")
    low = np.nanmin([cosines.low.min(), cosines.value.min(), 0.98])
    axes[1].set_ylim(max(-1.05, low - 0.02), 1.02)
    _frame(
        axes[0].figure,
        f"What does each loss feed back while it learns {shown(first.label, 60)}?",
        f"Mean (norms: geometric) and {_interval(first.confidence)}, {_ns(norms.n)}. A cosine of "
        "1: the output gradient points along prediction - target. ×: the first run has diverged.",
        found,
    )
    return axes


def forest(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """Paired differences to the reference, with the margin within which they do not matter.

    Args:
        estimates: From `statistics.paired` for one context and condition.
        ax: One axes.
    """
    first = estimates.iloc[0]
    sign = 1 if records.direction(first.metric) == "higher" else -1
    order = (sign * estimates.difference).sort_values(na_position="first").index
    rows, found = estimates.loc[order].reset_index(drop=True), looks(estimates)
    low, high = _forest_window(rows)
    ax.axvspan(-first.margin, first.margin, color="#EDEDED", lw=0, zorder=0)
    ax.axvline(0, color=INK, lw=0.7, zorder=1)
    for y, row in enumerate(rows.itertuples()):
        every_late = bool(rows.exploratory.all())
        _forest_row(ax, y, row, found[row.loss], low, high, every_late=every_late)
    ax.set(xlim=(low, high), ylim=(-0.6, len(rows) - 0.4))
    ax.set_yticks(range(len(rows)), [shown(loss) for loss in rows.loss])
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    better = "positive is better" if sign > 0 else "negative is better"
    ax.set_xlabel(f"difference in {_measured(first.metric, 'test')}; {better}")
    _frame(
        ax.figure,
        f"Does another loss beat {shown(first.reference)} on {shown(first.label, 60)}?",
        f"Bar: simultaneous {first.confidence:.0%} paired-t interval over {families(rows)}. "
        f"Diamond: mean. Dots: {_ns(rows.pairs, 'pairs')}, each of one seed. "
        f"Grey band: ±{first.margin:g}, too small to matter.",
    )
    return ax


def families(rows: pd.DataFrame) -> str:
    """How many comparisons the intervals hold for together, declared and exploratory ones."""
    parts = []
    for is_late, kind in ((False, "declared"), (True, "exploratory")):
        some = rows[rows.exploratory.astype(bool) == is_late]
        if len(some):
            parts.append(f"{some.comparisons.max()} {kind} comparisons")
    return ", ".join(parts)


def _forest_row(
    ax: Axes, y: int, row: Any, look: Look, low: float, high: float, *, every_late: bool
) -> None:
    dots = np.array(row.differences, dtype=float)
    seen = dots[np.isfinite(dots) & (dots >= low) & (dots <= high)]
    ax.plot(seen, np.full(len(seen), y - 0.22), "o", ms=2.2, color=look.color, alpha=0.55, mew=0)
    lost = [f"{row.diverged} diverged"] * (row.diverged > 0)
    lost += [f"{row.reference_diverged} of {row.reference} diverged"] * (row.reference_diverged > 0)
    at_right = ("axes fraction", "data")
    late = ["exploratory"] * bool(row.exploratory and not every_late)
    words = textwrap.fill(" · ".join([row.verdict, *lost, *late]), 22)
    ax.annotate(
        words,
        (1, y),
        (5, 0),
        xycoords=at_right,
        textcoords="offset points",
        va="center",
        fontsize=6.5,
    )
    if not np.isfinite(row.difference):
        ax.annotate("no pair survived", (0.5, y), xycoords=at_right, ha="center", fontsize=6.5)
    elif low <= row.difference <= high:
        ax.plot(row.difference, y, "D", ms=4.5, mfc="white", mec=look.color, mew=1, zorder=3)
        ends = np.clip([row.low, row.high], low, high)
        ax.plot(ends, [y, y], color=look.color, lw=2.2, solid_capstyle="butt", zorder=4)
    else:
        right = row.difference > high
        ends = np.clip([row.low, row.high], low, high)
        ax.plot(ends, [y, y], color=look.color, lw=2.2, solid_capstyle="butt", zorder=2)
        ax.annotate(
            f"{row.difference:.3g} [{row.low:.3g}, {row.high:.3g}]".replace("-", "−"),
            (1.0 if right else 0.0, y),
            (-14 if right else 14, 0),
            xycoords=at_right,
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            bbox={"fc": "white", "ec": "none", "pad": 0.8, "alpha": 0.85},
            fontsize=6.5,
        )
        ax.plot(
            [1.0 if right else 0.0],
            [y],
            ">" if right else "<",
            color=look.color,
            ms=5,
            transform=ax.get_yaxis_transform(),
            clip_on=False,
        )


def _forest_window(rows: pd.DataFrame) -> tuple[float, float]:
    """Limits that show zero, the margin and all rows but those three times farther off."""
    ends = rows[["low", "high"]].fillna({"low": rows.difference, "high": rows.difference})
    reach = ends.abs().max(axis=1).dropna().sort_values()
    floor = max(2 * rows.margin.iloc[0], 1e-12)
    last = next((a for a, b in itertools.pairwise(reach) if b > 3 * max(a, floor)), np.inf)
    shown = rows[reach.reindex(rows.index).fillna(np.inf) <= last] if len(reach) else rows[:0]
    values = [v for each in shown.differences for v in each] + [
        *ends.loc[shown.index].to_numpy().ravel()
    ]
    finite = [v for v in values if np.isfinite(v)] + [
        -1.5 * rows.margin.iloc[0],
        1.5 * rows.margin.iloc[0],
    ]
    low, high = min(finite), max(finite)
    pad = 0.05 * (high - low) or 1.0
    return low - pad, high + pad


# ---- what figures share --------------------------------------------------------------------------


def _multiples(
    estimates: pd.DataFrame, axes: Sequence[Axes], reference: str, *, x: str
) -> Iterator[tuple[Axes, str, Look]]:
    """One panel per loss, the reference first, with all other losses already drawn in grey."""
    found = looks(estimates)
    order = sorted(found, key=lambda loss: (loss != reference, [*found].index(loss)))
    for ax, loss in zip(axes, order, strict=True):
        for other in order:
            rows, ahead = estimates[estimates.loss == other], other == reference
            if other != loss:
                ax.plot(
                    rows[x],
                    rows.value,
                    color=OTHER if ahead else FAINT,
                    zorder=1.9 if ahead else 1.8,
                    ls=(0, (3, 2)) if ahead else "-",
                    lw=0.9,
                )
        ax.set_label(loss)
        ax.set_title(shown(loss), color=INK, loc="left", fontweight="bold", pad=3)
        yield ax, loss, found[loss]


def _solid_first(
    estimates: pd.DataFrame, found: dict[str, Look]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows by loss in an order in which a dashed line on a solid one shows both."""
    for loss in sorted(found, key=lambda loss: DASHES.index(found[loss].dash)):
        yield loss, estimates[estimates.loss == loss]


def _mark_losses_of_runs(ax: Axes, rows: pd.DataFrame, color: str) -> None:
    fewer = rows[(rows.n < rows.n.max()) & rows.value.notna()]
    fewer = fewer[fewer.step > rows.step[rows.n.idxmax()]]
    ax.plot(fewer.step[:1], fewer.value[:1], "x", color=color, ms=4, mew=1.2, zorder=5)


def _scale_steps(axes: Iterable[Axes], steps: pd.Series) -> None:
    """Logarithmic steps with room for step 0, where they span more than a decade."""
    positive = steps[steps > 0]
    if positive.empty or positive.max() <= 10 * positive.min():
        return
    first, last = positive.min(), positive.max()
    decades = 10.0 ** np.arange(np.ceil(np.log10(first)), np.ceil(np.log10(last)))
    inner = [d for d in decades if 2 * first <= d <= last / 2.5]
    ticks = [*([0] if (steps == 0).any() else []), first, *inner, last]
    for ax in axes:
        ax.set_xscale("symlog", linthresh=first, linscale=0.5)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())


def _scale_values(axes: Iterable[Axes], estimates: pd.DataFrame) -> None:
    values = estimates.value.dropna()
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        for ax in axes:
            _scale_logs(ax, values)


def _cut_off_failures(axes: Sequence[Axes], estimates: pd.DataFrame) -> None:
    """Ends the scale at five times the worst chosen value; what lies beyond becomes an arrow."""
    top = 5 * estimates.value[estimates.best].max()
    if records.direction(estimates.metric.iloc[0]) == "higher" or not top < estimates.value.max():
        return
    for ax in axes:
        rows = estimates[(estimates.loss == ax.get_label()) & (estimates.value > top)]
        ax.set_ylim(0, top)
        across = ax.get_xaxis_transform()
        ax.plot(rows.lr, np.full(len(rows), 0.8), "^", ms=4, color=INK, transform=across)


def _scale_logs(ax: Axes, values: pd.Series) -> None:
    values = values.loc[(values > 0) & np.isfinite(values)]
    if len(values):
        ax.set_yscale("log")
        ax.set_ylim(values.min() / 1.5, values.max() * 1.5)
        _plain_logs(ax.yaxis, values.min(), values.max())


def _plain_logs(axis: Any, low: float, high: float, most: int = 6) -> None:
    """Logarithmic ticks written without formulas, with 2 and 5 where there are few decades."""
    subs = (1.0, 2.0, 5.0) if high < 30 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=most))
    axis.set_major_formatter(FuncFormatter(power_of_ten))
    axis.set_minor_locator(NullLocator())


def power_of_ten(value: float, _: float = 0) -> str:
    """A tick of a logarithmic axis: plain near 1, else a power of ten."""
    if 0.01 <= value < 1000:
        return f"{value:g}"
    exponent = str(round(math.log10(value))) if value > 0 else ""
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _outer(axes: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    for ax in axes:
        place = ax.get_subplotspec()
        if place is None or place.is_first_col():
            ax.set_ylabel(ylabel.replace(" (", "\n("))
        if ax in axes[-_columns(axes) :]:
            ax.set_xlabel(xlabel)


def _columns(axes: Sequence[Axes]) -> int:
    place = axes[0].get_subplotspec()
    return place.get_gridspec().ncols if place else 1


def _window(estimates: pd.DataFrame, column: str) -> tuple[float, float]:
    """Limits for one curve per loss; one that shoots off far beyond the others is cut short."""
    numbers = estimates[column].where(np.isfinite(estimates[column]))
    sizes = numbers.abs().groupby(estimates.loss).agg(["min", "max"]).sort_values("max")
    most = sizes["max"].iloc[-1]
    if len(sizes) > 1 and most > 3 * (second := sizes["max"].iloc[-2]) > 3 * sizes["min"].iloc[-1]:
        most = second
    pad = 0.08 * most or 1.0
    return max(min(numbers.min(), 0), -most) - pad, min(max(numbers.max(), 0), most) + pad


def _frame(figure: Any, title: str, note: str, found: dict[str, Look] | None = None) -> None:
    """Title, legend and note in strips of their own, so that nothing can overlap the axes."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    figure.set_label(title)
    title, note = textwrap.fill(title, int(width * 13.5)), textwrap.fill(note, int(width * 22.5))
    bottom = 0.06 + 0.115 * len(note.splitlines())
    figure.text(0.06 / width, 0.04 / height, note, fontsize=6, color="#444444", va="bottom")
    if found:
        columns = max(
            1, min(len(found), int(width / (0.42 + 0.058 * max(map(len, map(shown, found))))))
        )
        handles = [Line2D([], [], color=look.color, ls=look.dash) for look in found.values()]
        figure.legend(
            handles,
            [shown(loss) for loss in found],
            ncols=columns,
            loc="lower left",
            bbox_to_anchor=(0, bottom / height),
            handlelength=2.6,
            columnspacing=1.2,
            fontsize=6.5,
            borderaxespad=0.2,
        )
        bottom += 0.08 + 0.135 * math.ceil(len(found) / columns)
    top = 0.08 + 0.155 * len(title.splitlines())
    figure.text(0.06 / width, 1 - 0.05 / height, title, fontsize=8.5, fontweight="bold", va="top")
    figure.set_layout_engine(
        "constrained",
        rect=(0.05 / width, bottom / height, 1 - 0.05 / width, 1 - (bottom + top) / height),
        h_pad=0.05,
        w_pad=0.05,
    )


def shown(name: str, most: int = 32) -> str:
    """A name that is safe to draw: one line, not too long, visible in a legend."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f" {text}" if text.startswith("_") else text


def _measured(metric: str, split: str) -> str:
    facts = records.METRICS.get(metric)
    unit = (
        facts.unit.replace("standard deviations of the training target", "SD of target")
        if facts
        else ""
    )
    return f"{split} {shown(metric)}" + (f" ({unit})" if unit not in ("", "1") else "")


def _interval(confidence: float) -> str:
    return f"pointwise {confidence:.0%} t interval"


def _ns(n: pd.Series, what: str = "seeds") -> str:
    low, high = int(n.min()), int(n.max())
    return f"n = {high} {what}" if low == high else f"n = {low} to {high} {what}"
