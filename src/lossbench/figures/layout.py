"""Page of a figure: axes, title, legend and note, and names that are short enough for a page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossbench.figures.styles import NOTE, LossStyle

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths of a paper's figures, in inches."""

ROOM, STRIPS = 1.0, 0.55
"""Height of a page beyond its axes, and the part of that height for the strips, in inches."""


def page(
    panels: int = 1,
    *,
    columns: int = 5,
    width: float = TWO_COLUMNS,
    height: float = 1.5,
    shared: str = "both",
) -> tuple[Figure, np.ndarray]:
    """Make a figure and its axes.

    Args:
        panels: Number of axes; places that are left over are empty, at the end of the first row.
        columns: Largest number of axes side by side.
        width: Width of the page, in inches.
        height: Height of one row of axes, in inches, without title and notes.
        shared: Scales that the panels share: "both", "x" or "none".

    Returns:
        The figure and its `panels` axes.
    """
    if panels < 1:
        raise ValueError("no panels: there is nothing to draw, so check that the frame has rows")
    rows = math.ceil(panels / columns)
    columns = math.ceil(panels / rows)
    figure = Figure(figsize=(width, rows * height + ROOM), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        rows, columns, sharex=shared != "none", sharey=shared == "both", squeeze=False
    ).ravel()
    for spine in (spine for ax in axes for spine in ax.spines.values()):
        spine.set_in_layout(False)  # a spine needs no room, and would measure all ticks again
    empty = slice(columns - (rows * columns - panels), columns)
    for ax in axes[empty]:
        ax.set_axis_off()
    return figure, np.delete(axes, empty)


@dataclass(frozen=True)
class Strips:
    """Texts around the axes: title above, note below, and the heights of both in inches."""

    title: str
    note: str
    top: float
    bottom: float


def frame(
    figure: Any, title: str, note: str, styles: Mapping[str, LossStyle] | None = None
) -> None:
    """Add title, legend and note in separate strips, so that no text can overlap the axes.

    If the strips need more than the height `STRIPS`, the page becomes taller, not the axes smaller.
    """
    styles, width = styles or {}, figure.get_figwidth()
    head, foot = textwrap.fill(title, int(width * 13.5)), textwrap.fill(note, int(width * 22.5))
    top, bottom = _heights(head, foot)
    longest = max((len(label(loss)) for loss in styles), default=0)
    columns = max(1, min(len(styles), int(width / (0.42 + 0.058 * longest))))
    legend = 0.08 + 0.135 * math.ceil(len(styles) / columns) if styles else 0.0
    height = figure.get_figheight() + max(0.0, top + bottom + legend - STRIPS)
    figure.set_figheight(height)
    below = figure.text(0.06 / width, 0.04 / height, foot, fontsize=6, color=NOTE, va="bottom")
    above = figure.text(0.06 / width, 1 - 0.05 / height, head, fontsize=8.5, va="top")
    above.set(fontweight="bold", label=title, gid="title")
    below.set(label=note, gid="note")
    if styles:
        figure.legend(
            [Line2D([], [], color=style.color, ls=style.dash) for style in styles.values()],
            [label(loss) for loss in styles],
            ncols=columns,
            loc="lower left",
            bbox_to_anchor=(0, bottom / height),
            handlelength=2.6,
            columnspacing=1.2,
            fontsize=6.5,
            borderaxespad=0.2,
        )
    bottom += legend
    figure.set_layout_engine(
        "constrained",
        rect=(0.05 / width, bottom / height, 1 - 0.05 / width, 1 - (bottom + top) / height),
        h_pad=0.05,
        w_pad=0.05,
    )


def stamp(figure: Figure, word: str) -> None:
    """Write a word across a figure, so that nobody takes the figure for a result."""
    across = {"ha": "center", "va": "center", "rotation": 20, "fontsize": 44, "alpha": 0.25}
    figure.text(0.5, 0.5, word, color=NOTE, fontweight="bold", **across)


def strips(figure: Any) -> Strips:
    """Strips that `frame` gave a figure; works only before `stamp`."""
    below, above = figure.texts
    return Strips(
        above.get_label(), below.get_label(), *_heights(above.get_text(), below.get_text())
    )


def _heights(head: str, foot: str) -> tuple[float, float]:
    """Heights of the title and of the note, in inches."""
    return 0.08 + 0.155 * len(head.splitlines()), 0.06 + 0.115 * len(foot.splitlines())


def label(name: str, most: int = 32) -> str:
    """A name that is safe to draw: one line, not too long, visible in a legend."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f" {text}" if text.startswith("_") else text


def wrapped(name: str, width: int, most: int = 3) -> str:
    """Name over at most `most` lines, broken at spaces and underscores; the rest is cut off."""
    words = label(name, 200).replace("_", "_ ")
    lines = [line.replace("_ ", "_") for line in textwrap.wrap(words, width)] or [""]
    return "\n".join([*lines[: most - 1], "…"] if len(lines) > most else lines)
