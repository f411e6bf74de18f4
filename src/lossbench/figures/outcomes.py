"""Figures of results: every loss against the reference."""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lossbench import records
from lossbench.figures.axes import counted, label_rows, metric_name, page_width
from lossbench.figures.layout import frame, label, wrapped
from lossbench.figures.styles import (
    BAND,
    BLUE,
    FAINT,
    GRID,
    INK,
    MARKERS,
    OTHER,
    PAPER,
    VERMILION,
    LossStyle,
    loss_styles,
)

SHADES = {
    "better by more": (BLUE, 0.75, "▲"),
    "better": (BLUE, 0.35, "△"),
    "worse": (VERMILION, 0.35, "▽"),
    "worse by more": (VERMILION, 0.75, "▼"),
    "diverges": (VERMILION, 0.75, "▼"),
    "reference diverges": (BLUE, 0.75, "▲"),
    "equivalent": (FAINT, 0.7, "="),
    "below the margin": (FAINT, 0.35, "≈"),
    "undecided": (PAPER, 1.0, "?"),
}
"""Colour, opacity and sign of each verdict; all other verdicts have a dash."""

DIVERGED = {
    "diverges": "diverges",
    "reference diverges": "ref. div.",
}
"""Text in place of the difference, which would be computed from surviving runs only."""


def verdict_map(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """Map of every loss on every context: difference to the reference, and verdict.

    `estimates` are from `statistics.paired` for many contexts of one kind of task, with `task`.
    """
    losses, first = [*dict.fromkeys(estimates.sort_values("family").loss)], estimates.iloc[0]
    places = [*dict.fromkeys(estimates.context)]
    column_width = 0.8 * page_width(ax) / len(places)
    is_roomy = column_width > 0.75
    for row in estimates.itertuples():
        shade, opacity, sign = SHADES.get(row.verdict, (PAPER, 1.0, "–"))
        x, y = places.index(row.context), losses.index(row.loss)
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=shade, alpha=opacity, lw=0))
        number = DIVERGED.get(row.verdict, _to_margin(row.difference, row.margin))
        text = f"{sign} {number}" if is_roomy else f"{sign}\n{number}"
        size = 6.5 if is_roomy else 5
        ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, linespacing=1)
    labels = estimates.drop_duplicates("context").set_index("context")
    parts = [labels.label[context].split(" · ") for context in places]
    # Leading parts that all labels share go to the title; each label keeps at least one part.
    columns = zip(*(words[:-1] for words in parts), strict=False) if len(parts) > 1 else ()
    shared = [words[0] for words in itertools.takewhile(lambda words: len({*words}) == 1, columns)]
    names = [" · ".join(words[len(shared) :]) for words in parts]
    names = [
        wrapped(n.replace("=", " "), int(19 * column_width), 7) if is_roomy else label(n, 50)
        for n in names
    ]
    heads = [
        f"{name}\n{labels.metric[c]}, ±{labels.margin[c]:g}"
        for name, c in zip(names, places, strict=True)
    ]
    ax.set(xlim=(-0.5, len(places) - 0.5), ylim=(len(losses) - 0.5, -0.5))
    turn = {"rotation": 50, "ha": "left", "rotation_mode": "anchor"} if not is_roomy else {}
    ax.set_xticks(range(len(places)), heads, fontsize=6, **turn)
    ax.set_yticks(range(len(losses)), [label(loss) for loss in losses])
    ax.xaxis.tick_top()
    ax.grid(False)
    ax.tick_params(length=0)
    for edge in np.arange(0.5, len(places) - 1):
        ax.axvline(edge, color=GRID, lw=0.8)
    for edge in np.arange(0.5, len(losses) - 1):
        ax.axhline(edge, color=GRID, lw=0.8)
    for side in ax.spines.values():
        side.set_visible(False)
    rates = records.CONDITIONS[first.condition].about.format(reference=label(first.reference))
    if (estimates.condition != first.condition).any():
        rates = "learning rates as each context has them"
    frame(
        ax.figure,
        f"What does another loss than {label(first.reference)} change in {label(first.task)}"
        f"{' on ' + label(' · '.join(shared)) if shared else ''}?",
        f"Loss minus {label(first.reference)}, {counted(estimates.pairs, 'pairs')}, {rates}. "
        "▲ better, ▼ worse by more than the margin (±), △ ▽ better, worse, = equivalent within it, "
        f"≈ different, by less than it, ? undecided, – no verdict; by simultaneous "
        f"{first.confidence:.0%} intervals within a context. Blank: not compared.",
    )
    return ax


def forest(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """Paired differences to the reference, with the margin within which differences do not matter.

    `estimates` are from `statistics.paired` for one context and condition.
    """
    first = estimates.iloc[0]
    order = records.sign(first.metric) * estimates.difference
    order = order.sort_values(na_position="first").index
    rows, styles = estimates.loc[order].reset_index(drop=True), loss_styles(estimates)
    low, high = forest_window(rows)
    ax.axvspan(-first.margin, first.margin, color=BAND, lw=0, zorder=0)
    ax.axvline(0, color=INK, lw=0.7, zorder=1)
    every_late = bool(rows.exploratory.all())
    for y, row in enumerate(rows.itertuples()):
        _draw_forest_row(ax, y, row, styles[row.loss], low, high, every_late=every_late)
    ax.set_xlim(low, high)
    label_rows(ax, [*rows.loss])
    ax.set_xlabel(_difference(first))
    frame(
        ax.figure,
        f"Does another loss beat {label(first.reference)} on {label(first.label, 60)}?",
        f"Bar: simultaneous {first.confidence:.0%} paired interval over {families(rows)}. "
        f"Diamond: {first.average}. Dots: {counted(rows.pairs, 'pairs')}, each of one seed. "
        f"Grey band: ±{first.margin:g}, too small to matter.",
    )
    return ax


def _to_margin(value: float, margin: float) -> str:
    """Difference with two digits; below the margin, with two digits after the margin's first."""
    if not math.isfinite(value):
        return ""
    digits = ".2g" if abs(value) >= margin else f".{2 - math.floor(math.log10(margin))}f"
    return f"{value:+{digits}}".replace("-", "−")


def side_by_side(
    estimates: pd.DataFrame, ax: Axes, *, by: str = "setting", question: str, note: str
) -> Axes:
    """Paired differences of each loss in several settings, such as learning rates or sweeps.

    Args:
        estimates: Rows from `statistics.paired`, one context in each setting.
        ax: One axes.
        by: Column that names the setting.
        question: Title of the figure.
        note: Description of the settings.
    """
    first, styles = estimates.iloc[0], loss_styles(estimates)
    settings = [*dict.fromkeys(estimates[by])]
    largest = records.sign(first.metric) * estimates.groupby("loss").difference.max()
    order = [*largest.sort_values().index]
    low, high = forest_window(estimates.reset_index(drop=True))
    ax.axvspan(-first.margin, first.margin, color=BAND, lw=0, zorder=0)
    ax.axvline(0, color=INK, lw=0.7, zorder=1)
    for row in estimates.itertuples():
        i = settings.index(getattr(row, by))
        y = order.index(row.loss) + 0.24 * ((len(settings) - 1) / 2 - i)
        _draw_setting(ax, y, row, styles[row.loss].color, MARKERS[i], low, high)
    ax.set_xlim(low, high)
    label_rows(ax, order)
    ax.set_xlabel(_difference(first))
    _name_markers(ax, [label(each, 40) for each in settings], ncols=len(settings))
    frame(
        ax.figure,
        question,
        f"{note} Bars: simultaneous {first.confidence:.0%} paired intervals, "
        f"{counted(estimates.pairs, 'pairs')}. Grey band: ±{first.margin:g}, too small to matter. "
        "◂ ▸: beyond the axis. Where runs diverged, the rest is shown and is not the verdict.",
    )
    return ax


def _name_markers(ax: Axes, names: list[str], *, ncols: int) -> None:
    """Add a legend of markers above the axes, the first filled; one per line on a narrow page."""
    handles = [
        Line2D([], [], color=OTHER, marker=MARKERS[i], mfc=PAPER if i else OTHER, ls="-", lw=1)
        for i in range(len(names))
    ]
    ax.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0, 1),
        ncols=1 if page_width(ax) < 5 else ncols, fontsize=6.5, borderaxespad=0.3,
    )  # fmt: skip


def _draw_setting(
    ax: Axes, y: float, row: Any, color: str, marker: str, low: float, high: float
) -> None:
    if not np.isfinite(row.difference):
        ax.text(0, y, f" {row.verdict}", va="center", fontsize=5.5, color=color)
        return
    ends, fill = np.clip([row.low, row.high], low, high), color if marker == MARKERS[0] else PAPER
    if lost := row.diverged + row.reference_diverged:
        ax.annotate(
            f"{lost} diverged", (1, y), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=5.5, color=color,
        )  # fmt: skip
    ax.plot(ends, [y, y], color=color, lw=1.2, solid_capstyle="butt", zorder=3)
    if low <= row.difference <= high:
        ax.plot(row.difference, y, marker, ms=3.6, mfc=fill, mec=color, mew=0.9, zorder=4)
        return
    is_right = row.difference > high
    edge, side, end, shift = (high, "right", ">", -5) if is_right else (low, "left", "<", 5)
    ax.plot(edge, y, end, ms=4, color=color, clip_on=False)
    ax.annotate(
        f"{row.difference:+.2g}".replace("-", "−"), (edge, y), (shift, 0), ha=side, va="center",
        textcoords="offset points", fontsize=5.5, bbox={"fc": PAPER, "ec": "none", "pad": 0.3},
    )  # fmt: skip


PARTS = {
    "total": "all of it",
    "scale": "scale: own minus norm-matched gradient",
    "weighting": "weighting: the reference's gradient, reweighted",
    "rest": "the rest",
}
"""Description of the parts of a decomposition, in drawing order."""


def decomposition(estimates: pd.DataFrame, ax: Axes) -> Axes:
    """Differences to the reference, split into the effects of scale, weighting and the rest.

    `estimates` are from `statistics.decomposition` for one context, condition and learning rate.
    """
    first, styles = estimates.iloc[0], loss_styles(estimates)
    parts = [part for part in PARTS if part in {*estimates.part}]
    totals = estimates[estimates.part == "total"].set_index("loss").value
    sign = records.sign(first.metric)
    order = [*(sign * totals).sort_values(na_position="first").index]
    ax.axvline(0, color=INK, lw=0.7, zorder=1)
    for row in estimates.itertuples():
        i, color = parts.index(row.part), styles[row.loss].color
        y = order.index(row.loss) + 0.18 * ((len(parts) - 1) / 2 - i)
        dots = np.full(len(row.differences), y)
        ax.plot(row.differences, dots, ".", ms=1.8, color=color, alpha=0.4, mew=0, zorder=2)
        ax.plot([row.low, row.high], [y, y], color=color, lw=1.2, solid_capstyle="butt", zorder=3)
        fill = PAPER if i else color
        ax.plot(row.value, y, MARKERS[i], ms=3.6, mfc=fill, mec=color, mew=0.9, zorder=4)
    label_rows(ax, order)
    ax.set_xlabel(_difference(first))
    _name_markers(ax, [PARTS[part] for part in parts], ncols=2)
    lost = ""
    if left_out := int(estimates.left_out.max()):
        lost = f" Up to {left_out} seeds left out, in which a run did not survive."
    frame(
        ax.figure,
        f"What makes losses differ from {label(first.reference)} on {label(first.label, 60)}?",
        f"All at learning rate {first.lr:g}. Bars: pointwise {first.confidence:.0%} paired-t "
        f"interval, {counted(estimates.n, 'pairs')}; dots: single seeds.{lost}",
    )
    return ax


def _difference(first: pd.Series) -> str:
    better = {"higher": "; positive is better", "lower": "; negative is better", "": ""}
    name = metric_name(first.metric, first.split)
    return f"difference in {name}{better[records.direction(first.metric)]}"


def families(rows: pd.DataFrame) -> str:
    """Number of comparisons with simultaneous intervals, declared and exploratory, as text."""
    most = rows.comparisons.groupby(rows.exploratory.astype(bool)).max()  # declared ones first
    return ", ".join(
        f"{count} {'exploratory' if is_late else 'declared'} comparisons"
        for is_late, count in most.items()
    )


def _draw_forest_row(
    ax: Axes, y: int, row: Any, style: LossStyle, low: float, high: float, *, every_late: bool
) -> None:
    dots = np.array(row.differences, dtype=float)
    seen = dots[np.isfinite(dots) & (dots >= low) & (dots <= high)]
    ax.plot(seen, np.full(len(seen), y - 0.22), "o", ms=2.2, color=style.color, alpha=0.55, mew=0)
    at_right, words = ("axes fraction", "data"), [row.verdict]
    if row.diverged:
        words.append(f"{row.diverged} diverged")
    if row.reference_diverged:
        words.append(f"{row.reference_diverged} of {row.reference} diverged")
    if row.exploratory and not every_late:
        words.append("exploratory")
    ax.annotate(
        textwrap.fill(" · ".join(words), 22), (1, y), (5, 0), xycoords=at_right,
        textcoords="offset points", va="center", fontsize=6.5,
    )  # fmt: skip
    if not np.isfinite(row.difference):
        ax.annotate("no pair survived", (0.5, y), xycoords=at_right, ha="center", fontsize=6.5)
        return
    is_inside, is_right = low <= row.difference <= high, row.difference > high
    ends, zorder = np.clip([row.low, row.high], low, high), 4 if is_inside else 2
    ax.plot(ends, [y, y], color=style.color, lw=2.2, solid_capstyle="butt", zorder=zorder)
    if is_inside:
        ax.plot(row.difference, y, "D", ms=4.5, mfc=PAPER, mec=style.color, mew=1, zorder=3)
        return
    edge, side, marker, shift = (1.0, "right", ">", -14) if is_right else (0.0, "left", "<", 14)
    ax.annotate(
        f"{row.difference:.3g} [{row.low:.3g}, {row.high:.3g}]".replace("-", "−"), (edge, y),
        (shift, 0), xycoords=at_right, textcoords="offset points", ha=side, va="center",
        bbox={"fc": PAPER, "ec": "none", "pad": 0.8, "alpha": 0.85}, fontsize=6.5,
    )  # fmt: skip
    across = ax.get_yaxis_transform()
    ax.plot([edge], [y], marker, color=style.color, ms=5, transform=across, clip_on=False)


def forest_window(rows: pd.DataFrame) -> tuple[float, float]:
    """Limits that show zero, the margin and all rows, except rows over three times farther off."""
    ends = rows[["low", "high"]].fillna({"low": rows.difference, "high": rows.difference})
    reach = ends.abs().max(axis=1).dropna().sort_values()
    floor = max(2 * rows.margin.iloc[0], 1e-12)
    last = next((a for a, b in itertools.pairwise(reach) if b > 3 * max(a, floor)), np.inf)
    near = rows[reach.reindex(rows.index).fillna(np.inf) <= last] if len(reach) else rows[:0]
    values = np.concatenate([*near.differences, ends.loc[near.index].to_numpy().ravel()])
    margin = 1.5 * rows.margin.iloc[0]
    low = min(values[np.isfinite(values)].min(initial=0), -margin)
    high = max(values[np.isfinite(values)].max(initial=0), margin)
    pad = 0.05 * (high - low) or 1.0
    return low - pad, high + pad
