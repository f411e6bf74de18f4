"""How every figure looks: colours, lines, pages, and the strips of text around the axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths of a paper's figures, inches."""

ROOM, STRIPS = 1.0, 0.55
"""What a page keeps beside its axes, and of that for title, legend and note, inches."""

# Okabe and Ito's hues, and wine in place of their yellow. A family has one hue; families that share
# one are of different tasks. Tests hold them apart for every kind of colour blindness.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"),
)
WINE, BLACK = "#882255", "#000000"
COLORS = {"power": BLUE, "monotone": VERMILION, "redescending": GREEN, "asymmetric": ORANGE}
COLORS |= {"likelihood": PURPLE, "proper": GREEN, "matching": VERMILION, "robust": ORANGE}
COLORS |= {"margin": PURPLE, "weighted": SKY, "regularized": WINE, "divergence": BLACK}
OTHER, FAINT, INK = "#595959", "#C4C4C4", "#222222"
PAPER, BAND, GRID, NOTE = "#FFFFFF", "#EDEDED", "#E6E6E6", "#444444"
NIGHT = {
    BLUE: "#3D9BE9",
    VERMILION: "#E88A45",
    GREEN: "#45E09A",
    ORANGE: "#FCD137",
    PURPLE: "#B77FB8",
    SKY: "#A6CDFF",
    WINE: "#D24E68",
    BLACK: "#F4F4F4",
    OTHER: "#A8A8A8",
    FAINT: "#4C4C4C",
    INK: "#E4E4E4",
    PAPER: "#161616",
    BAND: "#2C2C2C",
    GRID: "#303030",
    NOTE: "#B4B4B4",
}
"""What each colour becomes on a dark page."""
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Look:
    """How a loss is drawn everywhere."""

    color: str
    dash: Any
    marker: str


def looks(estimates: pd.DataFrame) -> dict[str, Look]:
    """The look of each loss of a frame with columns `loss` and `family`, in the order drawn.

    Within `style` of some losses it is the same in every figure.
    """
    found, known = {}, _LOSSES.get()
    for family, rows in estimates.groupby(estimates.family.fillna("")):
        mine = sorted({*rows.loss})
        alike = sorted({loss for loss, its in known if its == family} | {*mine})
        for loss in mine:
            i = alike.index(loss)
            found[loss] = Look(
                COLORS.get(str(family), OTHER), DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
            )
    return found


_LOSSES: ContextVar[frozenset[tuple[str, str]]] = ContextVar("_LOSSES", default=frozenset())
"""Loss and family of all losses that figures may show, so that no look depends on the others."""


@contextmanager
def style(
    salt: str = "lossbench", *, losses: Collection[tuple[str, str]] = frozenset()
) -> Iterator[None]:
    """Settings of every figure, for the time of a `with`; names are never read as formulas.

    Args:
        salt: Makes the ids within an SVG differ from those of other figures on one page.
        losses: Loss and family of all losses that the figures may show; see `looks`.
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
        "grid.color": GRID,
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
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
    }
    token = _LOSSES.set(frozenset(losses))
    try:
        with mpl.rc_context(own):
            yield
    finally:
        _LOSSES.reset(token)


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
    if panels < 1:
        raise ValueError("no panels: there is nothing to draw, so check that the frame has rows")
    rows = math.ceil(panels / columns)
    columns = math.ceil(panels / rows)
    figure = Figure(figsize=(width, rows * height + ROOM), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        rows, columns, sharex=shared != "none", sharey=shared == "both", squeeze=False
    ).ravel()
    empty = slice(columns - (rows * columns - panels), columns)
    for ax in axes[empty]:
        ax.set_axis_off()
    return figure, np.delete(axes, empty)


@dataclass(frozen=True)
class Strips:
    """What stands around the axes: title above, note below.

    Attributes:
        title: The question that the figure answers.
        note: What is drawn, n and the kind of interval.
        top: Height of the title, inches.
        bottom: Height of the note, inches.
    """

    title: str
    note: str
    top: float
    bottom: float


def frame(figure: Any, title: str, note: str, found: dict[str, Look] | None = None) -> None:
    """Title, legend and note in strips of their own, so that nothing can overlap the axes.

    What these need more than a page keeps for them makes it taller, not its axes smaller.
    """
    width = figure.get_figwidth()
    head, foot = textwrap.fill(title, int(width * 13.5)), textwrap.fill(note, int(width * 22.5))
    top, bottom = _heights(head, foot)
    columns, legend = _legend_size(found or {}, width)
    height = figure.get_figheight() + max(0.0, top + bottom + legend - STRIPS)
    figure.set_figheight(height)
    below = figure.text(0.06 / width, 0.04 / height, foot, fontsize=6, color=NOTE, va="bottom")
    above = figure.text(0.06 / width, 1 - 0.05 / height, head, fontsize=8.5, va="top")
    above.set_fontweight("bold")
    above.set_label(title)
    below.set_label(note)
    if found:
        _legend(figure, found, bottom / height, columns)
    bottom += legend
    figure.set_layout_engine(
        "constrained",
        rect=(0.05 / width, bottom / height, 1 - 0.05 / width, 1 - (bottom + top) / height),
        h_pad=0.05,
        w_pad=0.05,
    )


def strips(figure: Any) -> Strips:
    """The strips that `frame` gave a figure."""
    below, above = figure.texts
    return Strips(
        above.get_label(), below.get_label(), *_heights(above.get_text(), below.get_text())
    )


def _heights(head: str, foot: str) -> tuple[float, float]:
    """Of the title and of the note, inches."""
    return 0.08 + 0.155 * len(head.splitlines()), 0.06 + 0.115 * len(foot.splitlines())


def _legend_size(found: dict[str, Look], width: float) -> tuple[int, float]:
    """How many columns fit side by side, and the height that they need, inches."""
    longest = max((len(shown(loss)) for loss in found), default=0)
    columns = max(1, min(len(found), int(width / (0.42 + 0.058 * longest))))
    return columns, 0.08 + 0.135 * math.ceil(len(found) / columns) if found else 0.0


def _legend(figure: Any, found: dict[str, Look], bottom: float, columns: int) -> None:
    """One entry a loss, from the left."""
    handles = [Line2D([], [], color=look.color, ls=look.dash) for look in found.values()]
    figure.legend(
        handles,
        [shown(loss) for loss in found],
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, bottom),
        handlelength=2.6,
        columnspacing=1.2,
        fontsize=6.5,
        borderaxespad=0.2,
    )


def shown(name: str, most: int = 32) -> str:
    """A name that is safe to draw: one line, not too long, visible in a legend."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f" {text}" if text.startswith("_") else text


def wrapped(name: str, width: int, most: int = 3) -> str:
    """A name over a few lines, broken at spaces and underscores, cut off after the last."""
    words = shown(name, 200).replace("_", "_ ")
    lines = [line.replace("_ ", "_") for line in textwrap.wrap(words, width)] or [""]
    return "\n".join([*lines[: most - 1], "…"] if len(lines) > most else lines)
