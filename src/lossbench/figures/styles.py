"""How every figure is drawn: colours, lines and markers of the losses, settings of matplotlib."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns

# Okabe and Ito's hues, and wine in place of their yellow. A family has one hue; families that share
# one are of different tasks. Tests hold them apart for every kind of colour blindness.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"
WINE, BLACK = "#882255", "#000000"
COLORS = {
    "power": BLUE,
    "monotone": VERMILION,
    "redescending": GREEN,
    "asymmetric": ORANGE,
    "likelihood": PURPLE,
    "proper": GREEN,
    "matching": VERMILION,
    "robust": ORANGE,
    "margin": PURPLE,
    "weighted": SKY,
    "regularized": WINE,
    "divergence": BLACK,
}
"""By family of a loss."""

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
class LossStyle:
    """How a loss is drawn everywhere."""

    color: str
    dash: Any
    marker: str


def loss_styles(estimates: pd.DataFrame) -> dict[str, LossStyle]:
    """The style of each loss of a frame with columns `loss` and `family`, in the order drawn.

    Within `style` of some losses it is the same in every figure.
    """
    styles = {}
    for family, rows in estimates.groupby(estimates.family.fillna("")):
        losses = sorted({*rows.loss})
        relatives = sorted({loss for loss, other in _LOSSES.get() if other == family} | {*losses})
        for loss in losses:
            i = relatives.index(loss)
            dash, marker = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
            styles[loss] = LossStyle(COLORS.get(str(family), OTHER), dash, marker)
    return styles


_LOSSES: ContextVar[frozenset[tuple[str, str]]] = ContextVar("_LOSSES", default=frozenset())
"""Loss and family of all losses that figures may show, so that no style depends on the others."""


@contextmanager
def style(
    salt: str = "lossbench", *, losses: Collection[tuple[str, str]] = frozenset()
) -> Iterator[None]:
    """Settings of every figure, for the time of a `with`; names are never read as formulas.

    Args:
        salt: Makes the ids within an SVG differ from those of other figures on one page.
        losses: Loss and family of all losses that the figures may show; see `loss_styles`.
    """
    settings: dict[Any, Any] = {
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
        with mpl.rc_context(settings):
            yield
    finally:
        _LOSSES.reset(token)
