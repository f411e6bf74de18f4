"""The card of one loss: an HTML page that opens offline, with what is said and measured of it.

First the measurements behind the figures, then the figures, `(data, ax) -> Axes`, which compute
nothing, then the page. A figure's title is a question; it stands in the page, not in the picture,
so that it wraps on a telephone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup, escape
from matplotlib.axes import Axes

import lossbench
from lossbench import catalog, figures, records
from lossbench.claims import bayes_prediction
from lossbench.claims.minima import output_gradient
from lossbench.claims.verdict import NOT_OF_LABELS
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve
from lossbench.losses.spec import Loss
from lossbench.report.pictures import Picture, inline, palette, svg_of

FEWEST_POINTS = 20
HEIGHT = 1.4
"""Of the axes, inches; `figures.page` adds one for labels and legend."""

RAY_CLASSES = 4
SIMPLEX_STEPS, OFF_TIES = 9, 0.12
"""Steps along an edge of the triangle, and their share that keeps any two frequencies apart."""

WEIGHT_NOTE = "w = |output gradient| / |prediction - target|; 1 feeds back the error itself."

FLAT = 1e-30
"""A gradient below this is drawn as nothing, and one above its inverse not at all."""

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
HUES = (figures.BLUE, figures.VERMILION, figures.GREEN)


# ---- what is drawn -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One curve of a figure.

    Args:
        loss: Name in the legend.
        color: Of its family; the reference's is grey.
        x: Argument.
        y: Value; NaN where there is none.
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
    """What labels teach a loss of three classes.

    Args:
        color: Of the loss's family.
        frequencies: Of the labels, [M, 3].
        predictions: What the loss learns from them, [M, 3].
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
        """The class whose prediction leads, for each distribution; None where it is a tie."""
        ordered = np.sort(self.predictions, -1)
        is_tie = ordered[:, -1] - ordered[:, -2] < 1e-3
        return [
            None if tie else int(row.argmax())
            for tie, row in zip(is_tie, self.predictions, strict=True)
        ]


@dataclass(frozen=True)
class Act:
    """What a target that is exponential with mean 1 teaches a regression loss.

    Args:
        loss: Its name.
        color: Of its family.
        value: The prediction with the least expected loss; NaN where that is infinite.
    """

    loss: str
    color: str
    value: float


def shapes(entry: catalog.Entry) -> dict[str, list[Line]]:
    """The loss and its reference along `curves.curve`, by column: value, first, second, weight."""
    columns = ("value", "first", "second", "weight")
    named = [(entry.name, entry.loss, _color(entry.loss)), *_reference(entry)]
    curves = {name: curve(loss) for name, loss, _ in named}
    return {
        column: [
            Line(name, color, *(np.array(curves[name][key]) for key in ("argument", column)))
            for name, _, color in named
        ]
        for column in columns
    }


def ray(entry: catalog.Entry) -> list[Line]:
    """Norm of the output gradient along outputs that are ever more confident, and ever more wrong.

    In classification the output of one wrong class of four grows; in regression that of a target
    of 0.
    """
    sizes = torch.logspace(-1, 2, 181, dtype=torch.float64)
    lines = []
    for name, loss, color in [(entry.name, entry.loss, _color(entry.loss)), *_reference(entry)]:
        is_regression = loss.task == "regression"
        targets = 1 if is_regression else RAY_CLASSES
        output = torch.zeros(len(sizes), targets * loss.outputs_per_target, dtype=torch.float64)
        output[:, 0] = sizes
        target = torch.zeros(len(sizes), targets, dtype=torch.float64)
        if not is_regression:
            target[:, 1] = 1.0
        norm = output_gradient(loss, output, target)[:, :targets].norm(dim=-1)
        lines.append(Line(name, color, sizes.numpy(), norm.numpy()))
    return lines


def lesson(entry: catalog.Entry) -> Lesson:
    """What labels of three classes teach the loss, at frequencies all over the triangle."""
    n = SIMPLEX_STEPS
    inner = [(i, j, n - i - j) for i in range(1, n - 1) for j in range(1, n - i)]
    weights = torch.tensor(inner, dtype=torch.float64)
    weights = (weights + torch.tensor([OFF_TIES, 0.0, -OFF_TIES])) / n
    labels = torch.eye(3, dtype=torch.float64)
    learnt = bayes_prediction(entry.loss, targets=labels, weights=weights)
    return Lesson(_color(entry.loss), weights.numpy(), learnt.numpy())


def act(entry: catalog.Entry) -> Act:
    """What an exponential target teaches the loss."""
    return Act(entry.name, _color(entry.loss), catalog.exponential_act(entry.loss))


def _reference(entry: catalog.Entry) -> list[tuple[str, Loss, str]]:
    """The loss drawn faintly behind the curves of another one."""
    name = records.REFERENCE[entry.loss.task]
    return [(name, LOSSES[name], figures.OTHER)] if name != entry.name else []


def _color(loss: Loss) -> str:
    return figures.COLORS.get(loss.family, figures.OTHER)


# ---- the figures ---------------------------------------------------------------------------------


def shape(lines: Sequence[Line], ax: Axes) -> Axes:
    """The loss, or a derivative of it, over its argument; the reference dashed behind it.

    Args:
        lines: The loss, then its reference.
        ax: One axes.
    """
    _draw(lines, ax)
    ax.axhline(0, color=figures.INK, lw=0.4, zorder=1)
    low, high = _window(lines[0].y)
    ax.set_ylim(low, high)
    return ax


def weight(lines: Sequence[Line], ax: Axes) -> Axes:
    """How many times prediction - target the loss feeds back.

    Args:
        lines: The loss, then its reference, whose weight is 1.
        ax: One axes.
    """
    _draw(lines, ax)
    low, high = _window(np.append(lines[0].y, [0.0, 1.0]))
    ax.set_ylim(low, high)
    return ax


def confidently_wrong(lines: Sequence[Line], ax: Axes) -> Axes:
    """Norm of the output gradient over the size of a wrong output, both logarithmic.

    Args:
        lines: The loss, then its reference.
        ax: One axes.
    """
    seen = [Line(line.loss, line.color, line.x, _within(line.y, FLAT, 1 / FLAT)) for line in lines]
    _draw(seen, ax)
    ax.set_xlim(lines[0].x.min(), lines[0].x.max())
    ax.set_xscale("log")
    ax.set_yscale("log")
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in seen])
    low = max(values.min(), 1e-9) if len(values) else 0.1
    high = min(values.max(), 1e9) if len(values) else 1.0
    middle, half = math.sqrt(low * high), max(math.sqrt(high / low) * 2, 10.0)
    ax.set_ylim(middle / half, middle * half)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(figures.power_of_ten)
        axis.set_minor_formatter(lambda *_: "")
    return ax


def simplex(taught: Lesson, ax: Axes) -> Axes:
    """From the frequencies of three labels to what the loss learns from them, on the triangle.

    Where the predictions are distributions, a line leads from each hollow dot to a filled one;
    else each dot has the colour of the class that leads, and a cross is a tie.

    Args:
        taught: Frequencies and predictions.
        ax: One axes.
    """
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set(xlim=(-0.1, 1.1), ylim=(-0.03, 0.94))
    ax.plot(*CORNERS[[0, 1, 2, 0]].T, color=figures.INK, lw=0.7)
    for corner, name, hue, shift in zip(
        CORNERS, "ABC", HUES, ((-9, -2), (9, -2), (0, 6)), strict=True
    ):
        ax.annotate(
            name,
            corner,
            shift,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold",
            color=figures.INK if taught.is_on_simplex else hue,
        )
    start = taught.frequencies @ CORNERS
    if taught.is_on_simplex:
        end = taught.predictions @ CORNERS
        for one, other in zip(start, end, strict=True):
            ax.plot(*np.stack([one, other]).T, color=taught.color, lw=0.8, alpha=0.75, zorder=2)
        ax.plot(*start.T, "o", ms=4.4, mfc="white", mec=figures.OTHER, mew=0.7, zorder=3)
        ax.plot(*end.T, "o", ms=2.8, color=taught.color, mew=0, zorder=4)
        return ax
    for place, leader in zip(start, taught.leaders, strict=True):
        if leader is None:
            ax.plot(*place, "x", ms=4, color=figures.OTHER, mew=0.9)
        else:
            ax.plot(*place, "o", ms=4.6, color=HUES[leader], mew=0)
    return ax


def elicited(found: Act, ax: Axes) -> Axes:
    """An exponential density with its median, its mean and what the loss learns from it.

    Args:
        found: What the loss learns.
        ax: One axes.
    """
    top = max(3.5, 1.25 * found.value) if math.isfinite(found.value) else 3.5
    y = np.linspace(0, top, 200)
    ax.fill_between(y, np.exp(-y), color="#EDEDED", lw=0)
    ax.plot(y, np.exp(-y), color=figures.OTHER, lw=0.8)
    marked = (
        ("median", math.log(2), figures.INK, (0, (1, 1))),
        ("mean", 1.0, figures.INK, (0, (4, 2))),
    )
    for name, at, color, dash in marked:
        ax.axvline(at, color=color, ls=dash, lw=0.9, label=f"{name} {at:.3f}")
    if math.isfinite(found.value):
        ax.axvline(
            found.value,
            color=found.color,
            lw=2.2,
            label=f"{figures.label(found.loss)} {found.value:.3f}",
        )
    ax.set(xlabel="target", ylabel="density", xlim=(0, top), ylim=(0, 1.05))
    ax.legend(loc="upper right", fontsize=6.5, handlelength=2.4)
    return ax


def _draw(lines: Sequence[Line], ax: Axes) -> None:
    """The loss in its colour, and behind it the reference, thin and dashed."""
    for rank, line in enumerate(lines):
        look: dict[str, Any] = {"zorder": 3} if rank == 0 else {"ls": (0, (4, 2)), "lw": 0.9}
        look |= {} if line.is_curve else {"ls": "", "marker": "o"}
        ax.plot(line.x, line.y, color=line.color, label=figures.label(line.loss), **look)
    low, high = np.nanmin(lines[0].x), np.nanmax(lines[0].x)
    ax.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    _legend(ax, [line.loss for line in lines])


def _legend(ax: Axes, losses: Sequence[str]) -> None:
    """Above the axes, where no curve can run into it."""
    is_long = sum(map(len, losses)) > 40
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=1 if is_long else 2,
        fontsize=6.5,
        handlelength=2.4,
        borderaxespad=0.2,
    )


def _window(values: np.ndarray) -> tuple[float, float]:
    """Limits that show a curve; an end that shoots off is cut."""
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


def _within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.where((values > low) & (values < high), values, math.nan)


# ---- the page ------------------------------------------------------------------------------------


def page(entry: catalog.Entry, found: Mapping[str, Any]) -> str:
    """The card as HTML.

    Args:
        entry: Name, row and parameters of the loss.
        found: What `catalog.measured` says of it.
    """
    told, curves = catalog.facts(entry), shapes(entry)
    held = [name for name, one in found["claims"].items() if one["holds"]]
    of_labels = [
        name
        for name, one in found["claims"].items()
        if one["witness"] == NOT_OF_LABELS.witness and not one["claimed"]
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lossbench", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment.get_template("card.html.j2").render(
        told=told,
        found=found,
        variant=catalog.variant(told),
        wants=catalog.wants(told),
        no_oracle=catalog.NO_ORACLE,
        meaning={name: catalog.meaning(name) for name in found["claims"]},
        held=held,
        failed=[name for name in found["claims"] if name not in (*held, *of_labels)],
        of_labels=of_labels,
        setting=_setting(entry.loss, is_curve=curves["value"][0].is_curve),
        reference=records.REFERENCE[entry.loss.task],
        day=palette(is_night=False),
        night=palette(is_night=True),
        pictures=pictures(entry, curves),
        version=lossbench.__version__,
        torch=torch.__version__,
    )


def _setting(loss: Loss, *, is_curve: bool) -> str:
    """At which outputs and targets `curves.curve` follows the loss."""
    if loss.task == "regression":
        is_error = loss.inverse_link in ("identity", "mean")
        return "" if is_error else "Curves: outputs from -3 to 3 for a target of 1."
    if loss.inverse_link == "identity":
        return "Curves: two classes with outputs p and 1 - p."
    dots = "" if is_curve else " Its prediction takes few values there, hence the dots."
    return f"Curves: two classes, the output of the wrong one is 0.{dots}"


def pictures(entry: catalog.Entry, curves: Mapping[str, list[Line]]) -> list[Picture]:
    """All figures of a card, drawn.

    Args:
        entry: The loss.
        curves: Its `shapes`.
    """
    is_regression = entry.loss.task == "regression"
    last = _elicited(entry) if is_regression else _taught(entry)
    return [*_shapes(entry, curves), _ray(entry), last]


def _shapes(entry: catalog.Entry, found: Mapping[str, list[Line]]) -> list[Picture]:
    """Cost, push, change of the push, and weight."""
    is_regression = entry.loss.task == "regression"
    argument = "error" if is_regression else "prediction p of the true one of two classes"
    cost = f"What does {'an error' if is_regression else 'a prediction'} cost?"
    parts = (
        ("value", cost, "loss", "", shape),
        ("first", "How hard does it push, and where to?", "first derivative", "", shape),
        ("second", "How does the push change?", "second derivative", _kinks(found), shape),
        ("weight", "How much of the error does it feed back?", "weight w", WEIGHT_NOTE, weight),
    )
    return [
        _picture(
            column,
            question,
            f"{label} of {entry.name} over the {argument}: {_in_words(found[column][0])}",
            note,
            draw,
            found[column],
            xlabel=argument,
            ylabel=label,
        )
        for column, question, label, note, draw in parts
    ]


def _ray(entry: catalog.Entry) -> Picture:
    lines = ray(entry)
    if entry.loss.task == "regression":
        where, far, classes = "far off", "output, for a target of 0", ""
    else:
        where, far = "confidently wrong", "output of a wrong class, the others 0"
        classes = f", {RAY_CLASSES} classes"
    return _picture(
        "ray",
        f"What if it is {where}?",
        f"norm of the output gradient of {entry.name} over the {far}: {_in_words(lines[0])}",
        f"Norm of the output gradient{classes}; both scales are logarithmic, so 0 is not drawn.",
        confidently_wrong,
        lines,
        xlabel=far,
        ylabel="gradient norm",
    )


def _elicited(entry: catalog.Entry) -> Picture:
    found = act(entry)
    learnt = f"{found.loss} learns {found.value:.3f}"
    if not math.isfinite(found.value):
        learnt = f"{found.loss} learns nothing, its expected loss is infinite"
    about = f"{learnt}; the median is {math.log(2):.3f}, the mean 1"
    question = "What does a skewed target teach it?"
    note = f"The target is exponential with mean 1: {about}."
    return _picture("elicited", question, f"exponential density: {about}", note, elicited, found)


def _taught(entry: catalog.Entry) -> Picture:
    taught, question = lesson(entry), "What do sampled labels teach it?"
    counts = " Training counts of A, B, C: 1000, 100, 10." * entry.loss.needs_context
    if taught.is_on_simplex:
        off = np.abs(taught.predictions - taught.frequencies).max()
        about = f"Hollow: how often A, B, C are drawn. Filled: what it learns, up to {off:.3f} off."
        alt = f"triangle of label frequencies; what {entry.name} learns is up to {off:.3f} off"
    else:
        ties = f"{taught.leaders.count(None)} of {len(taught.leaders)}"
        about = f"Dots: how often A, B, C are drawn; colour: whose output leads; ×: a tie ({ties})."
        alt = (
            f"triangle of label frequencies by the class that {entry.name} puts first; ties: {ties}"
        )
    return _picture("taught", question, alt, about + counts, simplex, taught)


def _picture(
    name: str,
    question: str,
    alt: str,
    note: str,
    draw: Callable[[Any, Axes], Axes],
    data: Any,
    **labels: str,
) -> Picture:
    with figures.style(name):
        figure, (ax,) = figures.page(width=figures.ONE_COLUMN, height=HEIGHT)
        draw(data, ax).set(**labels)
        return Picture(name, "", question, note, (inline(svg_of(figure), alt),))


def _prose(text: str) -> Markup:
    """Text of a docstring, what stands in backticks as code."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text))))


def _in_words(line: Line) -> str:
    """Where a curve begins, ends and is least and most."""
    is_known = np.isfinite(line.y)
    if not is_known.any():
        return "not defined"
    x, y = line.x[is_known], line.y[is_known]
    least, most = int(y.argmin()), int(y.argmax())
    return (
        f"{y[0]:.3g} at {x[0]:.3g}, {y[-1]:.3g} at {x[-1]:.3g}, "
        f"least {y[least]:.3g} at {x[least]:.3g}, most {y[most]:.3g} at {x[most]:.3g}"
    )


def _kinks(found: Mapping[str, Sequence[Line]]) -> str:
    """Says where the first derivative jumps: there the second one has a spike that is not drawn."""
    slope = found["first"][0]
    if not slope.is_curve:
        return ""
    steps = np.abs(np.diff(slope.y))
    inner, around = steps[2:-2], np.maximum(steps[:-4], steps[4:])
    jumps = np.flatnonzero(inner > 10 * around + 0.01 * np.ptp(slope.y)) + 2
    places = sorted({round(float(slope.x[at : at + 2].mean()), 1) + 0.0 for at in jumps})
    near = ", ".join(f"{at:g}" for at in places)
    return f"A spike that is not drawn, where the first derivative jumps: near {near}." * bool(near)
