"""Figures on the card of a loss: its shape, and the effect of labels and of far outputs on it.

The title of a figure is a question in the text of the page, not in the picture, so that the title
wraps on a telephone. The first line is the loss, the second its reference, dashed behind the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lossbench.figures.axes import power_of_ten
from lossbench.figures.layout import label
from lossbench.figures.styles import BAND, BLUE, GREEN, INK, OTHER, VERMILION

FEWEST_POINTS = 20

FLAT = 1e-30
"""Gradients below this bound, and gradients above its inverse, are not drawn."""

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
HUES = (BLUE, VERMILION, GREEN)


@dataclass(frozen=True)
class Line:
    """One curve of a figure.

    Args:
        loss: Name in the legend.
        color: Colour of the loss's family; grey for the reference.
        x: Argument.
        y: Value; NaN if there is no value.
    """

    loss: str
    color: str
    x: np.ndarray
    y: np.ndarray

    @property
    def is_curve(self) -> bool:
        """Whether the argument takes enough values for a line to be drawn through them."""
        return len(np.unique(self.x.round(9))) >= FEWEST_POINTS


@dataclass(frozen=True)
class Lesson:
    """Predictions that a loss learns from labels of three classes.

    Args:
        color: Colour of the loss's family.
        frequencies: Frequencies of the labels, [M, 3].
        predictions: Predictions that the loss learns from these frequencies, [M, 3].
    """

    color: str
    frequencies: np.ndarray
    predictions: np.ndarray

    @property
    def is_on_simplex(self) -> bool:
        """Whether every prediction is a distribution."""
        off = np.abs(self.predictions.sum(-1) - 1.0).max()
        return bool(off < 0.01 and self.predictions.min() > -0.01)

    @property
    def leaders(self) -> list[int | None]:
        """Class with the largest prediction, for each distribution of labels; None for a tie."""
        ordered = np.sort(self.predictions, -1)
        is_tie = ordered[:, -1] - ordered[:, -2] < 1e-3
        return [
            None if tie else int(row.argmax())
            for tie, row in zip(is_tie, self.predictions, strict=True)
        ]


@dataclass(frozen=True)
class Act:
    """Prediction that a regression loss learns from an exponential target with mean 1.

    Args:
        loss: Name of the loss.
        color: Colour of the loss's family.
        value: Prediction with the least expected loss; NaN if every expected loss is infinite.
    """

    loss: str
    color: str
    value: float


def shape(lines: Sequence[Line], ax: Axes) -> Axes:
    """The loss, or a derivative of the loss, over its argument."""
    _draw(lines, ax)
    ax.axhline(0, color=INK, lw=0.4, zorder=1)
    ax.set_ylim(*_window(lines[0].y))
    return ax


def weight(lines: Sequence[Line], ax: Axes) -> Axes:
    """Weight |output gradient| / |prediction - target| of a loss; the reference's weight is 1."""
    _draw(lines, ax)
    ax.set_ylim(*_window(np.append(lines[0].y, [0.0, 1.0])))
    return ax


def confidently_wrong(lines: Sequence[Line], ax: Axes) -> Axes:
    """Norm of the output gradient over the size of a wrong output, both logarithmic."""
    visible = [
        replace(line, y=np.where((line.y > FLAT) & (line.y < 1 / FLAT), line.y, math.nan))
        for line in lines
    ]
    _draw(visible, ax)
    ax.set_xlim(lines[0].x.min(), lines[0].x.max())
    ax.set_xscale("log")
    ax.set_yscale("log")
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in visible])
    low = max(values.min(), 1e-9) if len(values) else 0.1
    high = min(values.max(), 1e9) if len(values) else 1.0
    middle, half = math.sqrt(low * high), max(math.sqrt(high / low) * 2, 10.0)
    ax.set_ylim(middle / half, middle * half)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(power_of_ten)
        axis.set_minor_formatter(lambda *_: "")
    return ax


def simplex(lesson: Lesson, ax: Axes) -> Axes:
    """Frequencies of three labels, and the predictions that the loss learns, on the triangle.

    If the predictions are distributions, a line leads from each frequency (hollow dot) to its
    prediction (filled dot). Otherwise each frequency has the colour of the class with the largest
    prediction, and a cross is a tie.
    """
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set(xlim=(-0.1, 1.1), ylim=(-0.03, 0.94))
    ax.plot(*CORNERS[[0, 1, 2, 0]].T, color=INK, lw=0.7)
    shifts = ((-9, -2), (9, -2), (0, 6))
    for corner, name, hue, shift in zip(CORNERS, "ABC", HUES, shifts, strict=True):
        ax.annotate(
            name, corner, shift, textcoords="offset points", ha="center", va="center",
            fontsize=7.5, fontweight="bold", color=INK if lesson.is_on_simplex else hue,
        )  # fmt: skip
    start = lesson.frequencies @ CORNERS
    if lesson.is_on_simplex:
        end = lesson.predictions @ CORNERS
        for ends in zip(start, end, strict=True):
            ax.plot(*np.stack(ends).T, color=lesson.color, lw=0.8, alpha=0.75, zorder=2)
        ax.plot(*start.T, "o", ms=4.4, mfc="white", mec=OTHER, mew=0.7, zorder=3)
        ax.plot(*end.T, "o", ms=2.8, color=lesson.color, mew=0, zorder=4)
        return ax
    for place, leader in zip(start, lesson.leaders, strict=True):
        if leader is None:
            ax.plot(*place, "x", ms=4, color=OTHER, mew=0.9)
        else:
            ax.plot(*place, "o", ms=4.6, color=HUES[leader], mew=0)
    return ax


def elicited(act: Act, ax: Axes) -> Axes:
    """Exponential density with its median, its mean and the prediction that the loss learns."""
    is_finite = math.isfinite(act.value)
    top = max(3.5, 1.25 * act.value) if is_finite else 3.5
    y = np.linspace(0, top, 200)
    ax.fill_between(y, np.exp(-y), color=BAND, lw=0)
    ax.plot(y, np.exp(-y), color=OTHER, lw=0.8)
    for name, at, dash in (("median", math.log(2), (0, (1, 1))), ("mean", 1.0, (0, (4, 2)))):
        ax.axvline(at, color=INK, ls=dash, lw=0.9, label=f"{name} {at:.3f}")
    if is_finite:
        name = f"{label(act.loss)} {act.value:.3f}"
        ax.axvline(act.value, color=act.color, lw=2.2, label=name)
    ax.set(xlabel="target", ylabel="density", xlim=(0, top), ylim=(0, 1.05))
    ax.legend(loc="upper right", fontsize=6.5, handlelength=2.4)
    return ax


def _draw(lines: Sequence[Line], ax: Axes) -> None:
    """Draw the loss in its colour, the reference thin and dashed behind the loss, and a legend."""
    for rank, line in enumerate(lines):
        look: dict[str, Any] = {"zorder": 3} if rank == 0 else {"ls": (0, (4, 2)), "lw": 0.9}
        look |= {} if line.is_curve else {"ls": "", "marker": "o"}
        ax.plot(line.x, line.y, color=line.color, label=label(line.loss), **look)
    low, high = np.nanmin(lines[0].x), np.nanmax(lines[0].x)
    ax.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    is_long = sum(len(line.loss) for line in lines) > 40
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=1 if is_long else 2, fontsize=6.5,
        handlelength=2.4, borderaxespad=0.2,
    )  # fmt: skip


def _window(values: np.ndarray) -> tuple[float, float]:
    """Limits that show a curve; an end with far larger values is cut off."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return -1.0, 1.0
    low, high = min(finite.min(), 0.0), max(finite.max(), 0.0)
    inner_low, inner_high = np.quantile(finite, [0.03, 0.97])
    if high > 3 * max(inner_high, 1e-12) > 0:
        high = 1.5 * inner_high
    if low < 3 * min(inner_low, -1e-12) < 0:
        low = 1.5 * inner_low
    pad = 0.08 * (high - low) or 1.25
    return low - pad, high + pad
