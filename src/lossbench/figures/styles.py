"""Style of every figure: colours, lines and markers of the losses, settings of matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns

from lossbench.records import REFERENCE

# Okabe and Ito's colours, with wine instead of yellow. Families that share a colour have different
# tasks. Tests check that the colours differ for every kind of colour blindness.
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
"""Colour of each family of losses."""

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
"""Replacement of each colour on a dark page."""
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class LossStyle:
    """Style of a loss in every figure."""

    color: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


def loss_styles(estimates: pd.DataFrame) -> dict[str, LossStyle]:
    """Style of each loss of a frame with columns `loss` and `family`, in drawing order.

    Within `style(losses=...)`, the style of each of these losses is the same in every figure.
    Up to eight losses have a colour each: the first loss of a family (the reference, or the first
    by name) has the family's colour, and other losses, also those of the user, get unused colours.
    With more than eight losses, all losses of a family share the family's colour.
    """
    families = dict(zip(estimates.loss, estimates.family.fillna("").astype(str), strict=True))
    known = [group for group in _LOSSES.get() if families.keys() & group.keys()]
    styles: dict[str, LossStyle] = {}
    for group in (families, *known):
        by_family: dict[str, list[str]] = {}
        for loss in sorted(group, key=lambda loss: (loss not in REFERENCE.values(), loss)):
            by_family.setdefault(group[loss], []).append(loss)
        hues = {loss: COLORS.get(family, OTHER) for loss, family in group.items()}
        if len(group) <= len({*COLORS.values()}):
            hues = {its[0]: COLORS[family] for family, its in by_family.items() if family in COLORS}
            free = [color for color in dict.fromkeys(COLORS.values()) if color not in hues.values()]
            hues |= zip([loss for loss in sorted(group) if loss not in hues], free, strict=False)
        for losses in by_family.values():
            for i, loss in enumerate(sorted(losses)):
                dash, marker = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
                styles[loss] = LossStyle(hues[loss], dash, marker)
    order = sorted(families, key=lambda loss: (families[loss], loss))
    return {loss: styles[loss] for loss in order}


_LOSSES: ContextVar[Sequence[Mapping[str, str]]] = ContextVar("_LOSSES", default=())
"""Losses that figures may show, with their families: one mapping per task."""


@contextmanager
def style(salt: str = "lossbench", *, losses: Sequence[Mapping[str, str]] = ()) -> Iterator[None]:
    """Context with the settings of every figure; names are never read as formulas.

    Args:
        salt: Text that makes the ids within an SVG differ from ids of other figures on the page.
        losses: Family by name of the losses that the figures may show, one mapping per task.
    """
    settings: dict[Any, Any] = {
        **sns.axes_style("ticks"),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 7,
        "axes.labelsize": 7,
        "axes.titlesize": 7.5,
        "axes.titley": 1.0,  # without a number matplotlib measures all ticks to place titles
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
    token = _LOSSES.set(losses)
    try:
        with mpl.rc_context():
            mpl.rcdefaults()  # discard the user's own style
            mpl.rcParams.update(settings)
            yield
    finally:
        _LOSSES.reset(token)
