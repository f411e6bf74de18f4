"""Card of one loss: an HTML page that opens offline, with facts and measurements of the loss.

First the numbers for the figures of `figures.card`, then the figures with their questions, then the
page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial

import jinja2
import numpy as np
import torch
from markupsafe import Markup, escape
from matplotlib.axes import Axes

import lossbench
from lossbench import catalog, figures, records
from lossbench.catalog.values import Facts
from lossbench.claims import bayes_prediction
from lossbench.claims.measurement import NOT_OF_LABELS
from lossbench.claims.minima import output_gradient
from lossbench.figures import card as drawings
from lossbench.figures.card import Act, Lesson, Line
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve, is_of_error
from lossbench.losses.spec import Loss
from lossbench.report.pictures import Picture, inline, palette, svg_of

HEIGHT = 1.4
"""Height of the axes in inches; `figures.page` adds one inch for labels and legend."""

RAY_CLASSES = 4
SIMPLEX_STEPS, OFF_TIES = 9, 0.12
"""Steps along an edge of the triangle, and the shift in steps that avoids equal frequencies."""

WEIGHT_NOTE = "w = |output gradient| / |prediction - target|; 1 feeds back the error itself."

# ---- numbers -------------------------------------------------------------------------------------


def shapes(entry: catalog.Entry) -> dict[str, list[Line]]:
    """The loss and its reference along `curves.curve`, by column: value, first, second, weight."""
    curves = [(name, color, curve(loss)) for name, loss, color in _losses(entry)]
    return {
        column: [
            Line(name, color, np.array(along["argument"]), np.array(along[column]))
            for name, color, along in curves
        ]
        for column in ("value", "first", "second", "weight")
    }


def ray(entry: catalog.Entry) -> list[Line]:
    """Norm of the output gradient along wrong outputs of growing size, for loss and reference.

    In classification the output of one wrong class of four grows; in regression the output for a
    target of 0 grows.
    """
    sizes = torch.logspace(-1, 2, 181, dtype=torch.float64)
    lines = []
    for name, loss, color in _losses(entry):
        is_regression = loss.task == "regression"
        targets = 1 if is_regression else RAY_CLASSES
        output = torch.zeros(len(sizes), targets, dtype=torch.float64)
        output[:, 0] = sizes
        target = torch.zeros(len(sizes), targets, dtype=torch.float64)
        if not is_regression:
            target[:, 1] = 1.0
        gradient = output_gradient(loss, loss.placed(output), target)
        norm = (gradient[:, :targets] if loss.has_error else gradient).norm(dim=-1)
        lines.append(Line(name, color, sizes.numpy(), norm.numpy()))
    return lines


def _losses(entry: catalog.Entry) -> list[tuple[str, Loss, str]]:
    """Name, row and colour of the loss, and of its reference, which is drawn in grey."""
    reference = records.REFERENCE[entry.loss.task]
    losses = [(entry.name, entry.loss, _color(entry.loss))]
    if reference != entry.name:
        losses.append((reference, LOSSES[reference], figures.OTHER))
    return losses


def _color(loss: Loss) -> str:
    return figures.COLORS.get(loss.family, figures.OTHER)


def lesson(entry: catalog.Entry) -> Lesson:
    """Predictions learned from labels of three classes, for frequencies all over the triangle."""
    n = SIMPLEX_STEPS
    inner = [(i, j, n - i - j) for i in range(1, n - 1) for j in range(1, n - i)]
    weights = torch.tensor(inner, dtype=torch.float64)
    weights = (weights + torch.tensor([OFF_TIES, 0.0, -OFF_TIES])) / n
    labels = torch.eye(3, dtype=torch.float64)
    learnt = bayes_prediction(entry.loss, targets=labels, weights=weights)
    return Lesson(_color(entry.loss), weights.numpy(), learnt.numpy())


def exponential_act(loss: Loss, points: int = 4000) -> float:
    """Prediction with the least expected loss for an exponential target with mean 1.

    Exact to 0.001. NaN if every prediction has an infinite expected loss.
    """
    level = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    expected = []
    for scale in (6.0, 3.0):  # points of a wider exponential reach farther into the tail
        target = -scale * torch.log1p(-level)
        weight = scale * torch.exp(-(1.0 - 1.0 / scale) * target) / points
        output = torch.zeros(points, loss.outputs_per_target, dtype=torch.float64)
        expected.append((weight * loss.values(output, target[:, None])).sum())
    far, near = expected
    if abs(near - far) > 1e-3 * abs(far):
        return math.nan
    return float(bayes_prediction(loss, targets=target[:, None], weights=weight[None])[0, 0])


# ---- the figures ---------------------------------------------------------------------------------


def pictures(entry: catalog.Entry, curves: Mapping[str, list[Line]]) -> list[Picture]:
    """Draw all figures of a card.

    Args:
        entry: The loss.
        curves: Curves of the loss, from `shapes`.
    """
    is_regression = entry.loss.task == "regression"
    argument = "error" if is_regression else "prediction p of the true one of two classes"
    cost = f"What does {'an error' if is_regression else 'a prediction'} cost?"
    feedback = "How much of the error does it feed back?"
    shape, kinks = drawings.shape, _kinks(curves["first"][0])
    parts = (
        ("value", cost, "loss", "", shape),
        ("first", "How hard does it push, and where to?", "first derivative", "", shape),
        ("second", "How does the push change?", "second derivative", kinks, shape),
        ("weight", feedback, "weight w", WEIGHT_NOTE, drawings.weight),
    )
    drawn = []
    for column, question, label, note, draw in parts:
        lines = curves[column]
        alt = f"{label} of {entry.name} over the {argument}: {_in_words(lines[0])}"
        drawn.append(
            _picture(
                column, question, alt, note, partial(draw, lines), xlabel=argument, ylabel=label
            )
        )
    if is_regression:
        return [*drawn, _ray(entry, "far off", "output, for a target of 0", ""), _elicited(entry)]
    far = "output of a wrong class, the others 0"
    classes = f", {RAY_CLASSES} classes"
    return [*drawn, _ray(entry, "confidently wrong", far, classes), _taught(entry)]


def _ray(entry: catalog.Entry, where: str, far: str, classes: str) -> Picture:
    lines = ray(entry)
    return _picture(
        "ray",
        f"What if it is {where}?",
        f"norm of the output gradient of {entry.name} over the {far}: {_in_words(lines[0])}",
        f"Norm of the output gradient{classes}; both scales are logarithmic, so 0 is not drawn.",
        partial(drawings.confidently_wrong, lines),
        xlabel=far,
        ylabel="gradient norm",
    )


def _elicited(entry: catalog.Entry) -> Picture:
    learnt = Act(entry.name, _color(entry.loss), exponential_act(entry.loss))
    words = f"{learnt.loss} learns {learnt.value:.3f}"
    if not math.isfinite(learnt.value):
        words = f"{learnt.loss} learns nothing, its expected loss is infinite"
    words += f"; the median is {math.log(2):.3f}, the mean 1"
    return _picture(
        "elicited",
        "What does a skewed target teach it?",
        f"exponential density: {words}",
        f"The target is exponential with mean 1: {words}.",
        partial(drawings.elicited, learnt),
    )


def _taught(entry: catalog.Entry) -> Picture:
    learnt = lesson(entry)
    if learnt.is_on_simplex:
        off = np.abs(learnt.predictions - learnt.frequencies).max()
        note = f"Hollow: how often A, B, C are drawn. Filled: what it learns, up to {off:.3f} off."
        alt = f"triangle of label frequencies; what {entry.name} learns is up to {off:.3f} off"
    else:
        ties = f"{learnt.leaders.count(None)} of {len(learnt.leaders)}"
        note = f"Dots: how often A, B, C are drawn; colour: whose output leads; ×: a tie ({ties})."
        alt = (
            f"triangle of label frequencies by the class that {entry.name} puts first; ties: {ties}"
        )
    if entry.loss.needs_context:
        note += " Training counts of A, B, C: 1000, 100, 10."
    question = "What do sampled labels teach it?"
    return _picture("taught", question, alt, note, partial(drawings.simplex, learnt))


def _picture(
    name: str, question: str, alt: str, note: str, draw: Callable[[Axes], Axes], **labels: str
) -> Picture:
    with figures.style(name):
        figure, (ax,) = figures.page(width=figures.ONE_COLUMN, height=HEIGHT)
        draw(ax).set(**labels)
        return Picture(name, "", question, note, inline(svg_of(figure), alt))


def _in_words(line: Line) -> str:
    """First, last, least and largest value of a curve, as text."""
    is_known = np.isfinite(line.y)
    if not is_known.any():
        return "not defined"
    x, y = line.x[is_known], line.y[is_known]
    least, most = int(y.argmin()), int(y.argmax())
    return (
        f"{y[0]:.3g} at {x[0]:.3g}, {y[-1]:.3g} at {x[-1]:.3g}, "
        f"least {y[least]:.3g} at {x[least]:.3g}, most {y[most]:.3g} at {x[most]:.3g}"
    )


def _kinks(first: Line) -> str:
    """Note on jumps of the first derivative, at which spikes of the second one are not drawn."""
    if not first.is_curve:
        return ""
    steps = np.abs(np.diff(first.y))
    inner, around = steps[2:-2], np.maximum(steps[:-4], steps[4:])
    jumps = np.flatnonzero(inner > 10 * around + 0.01 * np.ptp(first.y)) + 2
    places = sorted({round(float(first.x[at : at + 2].mean()), 1) + 0.0 for at in jumps})
    if not places:
        return ""
    near = ", ".join(f"{at:g}" for at in places)
    return f"A spike that is not drawn, where the first derivative jumps: near {near}."


# ---- the page ------------------------------------------------------------------------------------


def page(entry: catalog.Entry, measurement: Facts) -> str:
    """Card of a loss as HTML.

    Args:
        entry: Name, row and parameters of the loss.
        measurement: Result of `catalog.measured` for the loss.
    """
    facts, claims, curves = catalog.facts(entry), measurement["claims"], shapes(entry)
    held = [name for name, verdict in claims.items() if verdict["holds"]]
    of_labels = [
        name
        for name, verdict in claims.items()
        if verdict["witness"] == NOT_OF_LABELS.witness and not verdict["claimed"]
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lossbench.catalog", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment.get_template("card.html.j2").render(
        facts=facts,
        measurement=measurement,
        variant=catalog.variant(facts),
        requirements=catalog.requirements(facts),
        no_oracle=catalog.NO_ORACLE,
        meaning={name: catalog.meaning(name) for name in claims},
        held=held,
        failed=[name for name in claims if name not in (*held, *of_labels)],
        of_labels=of_labels,
        setting=_setting(entry.loss, is_curve=curves["value"][0].is_curve),
        reference=records.REFERENCE[entry.loss.task],
        day=palette(is_night=False),
        night=palette(is_night=True),
        pictures=pictures(entry, curves),
        version=lossbench.__version__,
        torch=torch.__version__,
    )


def _prose(text: str) -> Markup:
    """Text of a docstring as HTML, with text in backticks as code."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text))))


def _setting(loss: Loss, *, is_curve: bool) -> str:
    """Sentence on the outputs and targets of `curves.curve`; empty if the curve is of the error."""
    if loss.task == "regression":
        return "" if is_of_error(loss) else "Curves: outputs from -3 to 3 for a target of 1."
    if loss.inverse_link == "identity":
        return "Curves: two classes with outputs p and 1 - p."
    dots = "" if is_curve else " Its prediction takes few values there, hence the dots."
    return f"Curves: two classes, the output of the wrong one is 0.{dots}"
