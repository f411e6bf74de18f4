import inspect
import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from selection import beyond
from sweep_on_disk import CLASSIFICATION, HOSTILE, REGRESSION

from lossbench import figures
from lossbench.losses import LOSSES

HOSTILE = [*HOSTILE, "a\nb\tc"]
FACTS = {"context": "c", "label": "toy × linear", "task": "regression", "condition": "own_lr"}


def curves(losses, *, metric="rmse", steps=(0, 10, 100, 500)):
    rows = [
        {**FACTS, "loss": loss, "family": family, "step": step, "value": 1 / (1 + step / 50 + i)}
        for i, (loss, family) in enumerate(losses.items())
        for step in steps
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(low=frame.value * 0.9, high=frame.value * 1.1, n=10).assign(
        metric=metric, split="validation", confidence=0.95, lost_at=np.inf
    )


def rates(losses):
    frame = curves(losses, steps=(0.001, 0.01, 0.1, 1.0)).rename(columns={"step": "lr"})
    return frame.assign(planned=5, diverged=(frame.lr == 1.0) * 2, best=frame.lr == 0.1)


def differences(losses):
    draw = np.random.default_rng(0)
    rows = []
    for i, (loss, family) in enumerate(losses.items()):
        dots = draw.normal(0.02 * i, 0.01, 10)
        rows.append(
            {**FACTS, "loss": loss, "family": family, "differences": tuple(dots)}
            | {"difference": dots.mean(), "low": dots.mean() - 0.01, "high": dots.mean() + 0.01}
        )
    return pd.DataFrame(rows).assign(
        metric="rmse",
        reference="mse",
        margin=0.02,
        confidence=0.95,
        comparisons=len(losses),
        verdict="undecided",
        average="mean",
        pairs=10,
        diverged=0,
        reference_diverged=0,
        exploratory=False,
        split="test",
    )


def shapes(losses, *, task="regression"):
    argument = np.linspace(-3, 3, 61) if task == "regression" else np.linspace(0.01, 0.99, 50)
    return pd.concat(
        pd.DataFrame({"argument": argument, "value": argument**2, "first": 2 * argument}).assign(
            second=2.0, weight=abs(argument), loss=loss, family=family, task=task
        )
        for loss, family in losses.items()
    )


def several(frame, column, values):
    """The frame once for each value of a column."""
    return pd.concat([frame.assign(**{column: value}) for value in values], ignore_index=True)


def budgets(losses):
    frame = curves(losses, steps=(1, 2, 4, 8)).rename(columns={"step": "budget"})
    return frame.assign(cost=0.3 / frame.budget)


def targets(losses):
    rows = [
        {**FACTS, "loss": loss, "family": family, "steps": (10, 40), "survival": (0.5, 0.1)}
        for loss, family in losses.items()
    ]
    frame = pd.DataFrame(rows).assign(metric="rmse", target=0.5, budget=500, n=10, reached=9)
    label = "gaussian_mixture × linear · init permuted_labels"
    other = frame.assign(context="d", label=label, metric="accuracy", target=0.9)
    return pd.concat([frame, other], ignore_index=True)


def means(losses):
    frame = curves(losses, steps=(0,)).drop(columns="metric")
    return several(frame, "metric", ["nll", "nll_raw", "ece", "ece_raw"])


def matrix(losses):
    rows = [
        {"label": "toy", "loss": one, "other": other, "value": 1.0 + (one != other), "n": 10}
        for one, other in itertools.product(losses, losses)
    ]
    return pd.DataFrame(rows).assign(ratio=lambda frame: frame.value)


def noises(losses):
    frame = curves(losses, metric="accuracy", steps=(0.0, 0.2, 0.4)).rename(
        columns={"step": "rate"}
    )
    return frame.assign(curve=0, corruption="symmetric", diverged=(frame.rate == 0.4) * 2)


@dataclass(frozen=True)
class Case:
    """How the tests draw a figure.

    Args:
        frame: Its estimates, from {loss: family}.
        panels: Axes on the page; 0 is one for each loss.
        narrow: Axes side by side where the page is one column wide.
        height: Of a row of axes, and what each loss adds to it, inches.
        shared: As `figures.page` takes it.
        options: Further arguments, from {loss: family}.
    """

    frame: Callable
    panels: int = 1
    narrow: int = 1
    height: tuple[float, float] = (1.5, 0.0)
    shared: str = "both"
    options: Callable = lambda losses: {}


def first_is_reference(losses):
    return {"reference": next(iter(losses))}


def costs(losses):
    frame = rates(losses)
    return frame.assign(cost=0.1, ratio=frame.lr / 0.1)


def verdicts(losses):
    tasks = ["digits × mlp", "a much longer name of a task × mlp", "third × linear"]
    frame = several(differences(losses).drop(columns="context"), "context", tasks)
    return frame.assign(label=frame.context)


def parts(losses):
    frame = several(differences(losses), "part", ["total", "scale", "weighting", "rest"])
    return frame.rename(columns={"difference": "value"}).assign(n=10, left_out=0, lr=0.1)


def by(column, values, frame):
    return lambda losses: several(frame(losses), column, values)


MEASURES = by("measure", ["gradient_norm", "signal_per_error", "cosine"], curves)
LAYERS = by("layer", ["0.weight", "0.bias", "2.weight", "2.bias"], curves)
SETTINGS = by("setting", ["own rate", "reference's rate", "matched"], differences)
QUESTION = {"question": "Does it hold elsewhere?", "note": "Where it is."}

EXACT = {
    "loss_shapes": Case(shapes, 3, shared="none"),
    "error_weight": Case(partial(shapes, task="classification"), height=(2, 0)),
}
EMPIRICAL = {
    "learning_curves": Case(curves, 0, 2, options=first_is_reference),
    "error_signal": Case(MEASURES, 3, shared="x"),
    "layer_gradients": Case(LAYERS, 4, 2),
    "time_to_target": Case(targets, 2, 2, shared="y"),
    "learning_rate_sensitivity": Case(rates, 0, 2, options=first_is_reference),
    "learning_rate_cost": Case(
        costs,
        2,
        shared="none",
        options=lambda losses: {"budgets": budgets(losses), "margin": 0.02},
    ),
    "noise_curve": Case(noises, height=(2.2, 0)),
    "forest": Case(differences, height=(0.2, 0.32)),
    "side_by_side": Case(SETTINGS, height=(0.45, 0.4), options=lambda losses: QUESTION),
    "decomposition": Case(parts, height=(0.5, 0.55)),
    "verdict_map": Case(verdicts, height=(1.1, 0.24)),
    "calibration": Case(means, 2, height=(0.4, 0.25), shared="none"),
    "cross_loss": Case(matrix, height=(0.7, 0.24)),
}
CASES = EXACT | EMPIRICAL
WITHOUT_INTERVALS = ["learning_rate_cost", "cross_loss", "time_to_target"]
IN_ROWS = ["forest", "side_by_side", "decomposition", "verdict_map", "calibration"]
WIDTHS = [figures.ONE_COLUMN, figures.TWO_COLUMNS]


def fill(name, frame, axes, **options):
    function = getattr(figures, name)
    takes_all = "axes" in inspect.signature(function).parameters
    function(frame, axes if takes_all else axes[0], **options)


def draw(name, losses, width=figures.TWO_COLUMNS):
    case = CASES[name]
    figure, axes = figures.page(
        case.panels or len(losses),
        columns=5 if width > 4 else case.narrow,
        width=width,
        height=case.height[0] + case.height[1] * len(losses),
        shared=case.shared,
    )
    fill(name, case.frame(losses), axes, **case.options(losses))
    return figure


def axes_of(name, frame, panels=1, shared="both", **options):
    """The axes of a figure of the frame, all in place."""
    with figures.style():
        figure, axes = figures.page(panels, shared=shared)
        fill(name, frame, axes, **options)
        figure.draw_without_rendering()
    return axes


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_visible()]


LETTERS = {f"loss_{letter}": "power" for letter in "abcd"}


@pytest.fixture(scope="module")
def drawn_once():
    """Every figure of four losses, by name."""
    with figures.style():
        all_figures = {name: draw(name, LETTERS) for name in CASES}
        for figure in all_figures.values():
            figure.draw_without_rendering()
    return all_figures


@pytest.mark.parametrize("width", beyond([figures.ONE_COLUMN], WIDTHS))
@pytest.mark.parametrize("name", CASES)
def test_every_text_lies_within_the_page_and_none_of_the_strips_touches_the_axes(name, width):
    with figures.style():
        figure = draw(name, REGRESSION, width)
        figure.draw_without_rendering()
        page, strips = figure.bbox.padded(1), [*figure.texts, *figure.legends]
        boxes = [ax.get_tightbbox() for ax in figure.axes if ax.axison]
        for box in [*boxes, *(strip.get_window_extent() for strip in strips)]:
            assert page.x0 <= box.x0 < box.x1 <= page.x1
            assert page.y0 <= box.y0 < box.y1 <= page.y1
        for strip in strips:
            assert not any(strip.get_window_extent().overlaps(box) for box in boxes)


@pytest.mark.parametrize("name", CASES)
def test_the_title_is_a_question_axes_are_labelled_and_each_loss_is_named_once(name, drawn_once):
    figure = drawn_once[name]
    strips = figures.strips(figure)
    assert strips.title.endswith("?")
    written = [" ".join(text.get_text().split()) for text in figure.texts]
    assert written == [strips.note, strips.title]
    shown = [ax for ax in figure.axes if ax.axison]
    last_row = [ax for ax in shown if ax.get_subplotspec().is_last_row()]
    assert all(ax.get_xlabel() for ax in last_row) or name == "verdict_map"
    assert all(ax.get_ylabel() or ax.get_title("left") for ax in shown) or name in IN_ROWS
    times = {"cross_loss": 2}.get(name, 1)  # its rows and its columns
    assert sorted(text for text in texts(figure) if text in LETTERS) == sorted([*LETTERS] * times)


@pytest.mark.parametrize("name", EMPIRICAL)
def test_n_and_the_kind_of_interval_are_stated(name, drawn_once):
    note = " ".join(figures.strips(drawn_once[name]).note.split())
    assert "n = 10" in note or "n = 5" in note
    kinds = [
        f"95% {kind}"
        for kind in ("t interval", "paired-t", "paired interval", "intervals within", "bootstrap")
    ]
    assert any(kind in note for kind in kinds) or name in WITHOUT_INTERVALS


@pytest.mark.parametrize("name", beyond(["forest", "learning_curves"], CASES))
def test_hostile_names_are_drawn_and_stay_text(name):
    with figures.style():
        figure = draw(name, dict.fromkeys(HOSTILE, "power"))
        figure.savefig(buffer := io.BytesIO(), format="svg")
        figure.savefig(io.BytesIO(), format="pdf")
    assert b"<script" not in buffer.getvalue()
    assert any(text.strip() == "_x" for text in texts(figure))


def test_no_interval_of_a_noise_curve_is_cut_off_below():
    (ax,) = axes_of("noise_curve", noises(REGRESSION).assign(low=-0.4))
    assert ax.get_ylim()[0] < -0.4


def test_each_of_up_to_eight_losses_has_a_colour_the_reference_that_of_its_family():
    families = {**REGRESSION, "log_cosh": "monotone", "mine": "mine"}
    looks = figures.loss_styles(curves(families))
    assert len({look.color for look in looks.values()}) == len(looks) == len(families)
    assert looks["mse"].color == figures.COLORS["power"]
    assert looks["huber"].color == figures.COLORS["monotone"]
    assert looks["mse"].marker != looks["mae"].marker


def test_of_more_than_eight_losses_a_look_tells_a_family_by_colour_and_its_losses_by_dash():
    names = ("mse", "mae", "quartic", "power_a")
    families = dict.fromkeys(names, "power") | {f"m{i}": "monotone" for i in range(5)}
    looks = figures.loss_styles(curves(families))
    assert len({(look.color, look.dash) for look in looks.values()}) == len(looks)
    assert looks["mse"].color == looks["mae"].color != looks["m0"].color


TASKS = {
    "regression": ("power", "monotone", "redescending", "asymmetric", "likelihood"),
    "classification": (
        *("power", "proper", "matching", "robust", "margin", "weighted"),
        *("regularized", "divergence"),
    ),
}
SEEN_BY = {
    "all cones": np.eye(3),
    "protanopes": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopes": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopes": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""How linear RGB looks to each: Machado, Oliveira and Fernandes 2009, IEEE TVCG, severity 1."""


def lab(color, seen_by):
    """CIE 1976 L*a*b* of a colour as someone sees it, white D65."""
    rgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(SEEN_BY[seen_by] @ linear, 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = to_xyz @ linear / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_simulation_of_colour_blindness_knows_its_classics():
    def apart(one, other, seen_by):
        return np.linalg.norm(lab(one, seen_by) - lab(other, seen_by))

    assert lab("white", "all cones") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("red", "all cones") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    # ColorBrewer's red and green of one lightness, which traffic lights would be without places.
    assert (
        apart("#b35806", "#4d7a00", "deuteranopes") < apart("#b35806", "#4d7a00", "all cones") / 3
    )


@pytest.mark.parametrize("seen_by", SEEN_BY)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("at_night", "least"), [(False, 15), (True, 12)])
def test_families_of_one_task_stay_apart_for_every_eye(task, seen_by, at_night, least):
    colors = [figures.COLORS[family] for family in TASKS[task]]
    colors = [figures.NIGHT[color] if at_night else color for color in colors]
    for one, other in itertools.combinations(colors, 2):
        assert np.linalg.norm(lab(one, seen_by) - lab(other, seen_by)) >= least, (one, other)


def test_every_family_of_the_catalog_has_its_place_among_the_colours():
    for row in LOSSES.values():
        assert row.family in figures.COLORS
        assert row.family in TASKS[row.task] or row.task not in TASKS
    assert {family for families in TASKS.values() for family in families} == {*figures.COLORS}


def test_a_far_off_difference_is_written_out_instead_of_squashing_the_axis():
    rows = differences(REGRESSION)
    rows.loc[rows.loss == "huber", ["difference", "low", "high"]] = [5.0, 4.0, 6.0]
    rows["differences"] = [(4.5, 5.5) if loss == "huber" else (0.01,) for loss in rows.loss]
    (ax,) = axes_of("forest", rows)
    assert ax.get_xlim()[1] < 0.2
    assert "5 [4, 6]" in texts(ax.figure)


@pytest.mark.parametrize("average", ["mean", "median"])
def test_a_forest_says_what_its_diamonds_are(average):
    (ax,) = axes_of("forest", differences(REGRESSION).assign(average=average))
    written = " ".join(" ".join(text.get_text().split()) for text in ax.figure.texts)
    assert f"Diamond: {average}." in written


def test_diverged_pairs_are_written_beside_the_verdict():
    rows = differences(CLASSIFICATION).assign(diverged=3, verdict="diverges", difference=np.nan)
    (ax,) = axes_of("forest", rows.assign(low=np.nan, high=np.nan))
    assert "diverges · 3 diverged" in texts(ax.figure)
    assert "no pair survived" in texts(ax.figure)


def test_the_rug_counts_diverged_runs(drawn_once):
    assert texts(drawn_once["learning_rate_sensitivity"]).count("2") == len(LETTERS)


def test_style_leaves_no_trace_and_pyplot_has_no_figures():
    before = dict(mpl.rcParams)
    with figures.style():
        draw("forest", REGRESSION)
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


# ---- what is drawn is what was given -------------------------------------------------------------


def lines(ax):
    """Solid and dashed lines of an axes that have more than one point, as arrays."""
    return [np.array(line.get_xydata()) for line in ax.lines if len(line.get_xdata()) > 1]


def is_drawn(ax, x, y):
    points = np.column_stack([x, y])
    return any(len(line) == len(x) and np.allclose(line, points) for line in lines(ax))


def test_a_learning_curve_is_the_value_within_its_interval_and_the_others_behind():
    frame = curves({"mse": "power", "mae": "power"})
    for ax in axes_of("learning_curves", frame, 2, reference="mse"):
        for _, rows in frame.groupby("loss"):
            assert is_drawn(ax, rows.step, rows.value)
        mine = frame[frame.loss == ax.get_label()]
        (band,) = (area.get_datalim(ax.transData) for area in ax.collections)
        assert (band.y0, band.y1) == pytest.approx((mine.low.min(), mine.high.max()))


def test_a_cross_marks_where_the_first_run_is_lost():
    frame = curves({"mse": "power", "mae": "power"})
    frame.loc[frame.loss == "mae", "lost_at"] = 50.0
    crosses = {
        ax.get_label(): [tuple(line.get_xdata()) for line in ax.lines if line.get_marker() == "x"]
        for ax in axes_of("learning_curves", frame, 2, reference="mse")
    }
    assert crosses == {"mse": [()], "mae": [(100,)]}


def test_a_forest_shows_each_difference_its_interval_its_dots_and_the_margin():
    rows = differences({"mae": "power", "huber": "monotone"})
    (ax,) = axes_of("forest", rows)
    names = [label.get_text() for label in ax.get_yticklabels()]
    diamonds = {line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"}
    for row in rows.itertuples():
        y = names.index(row.loss)
        assert is_drawn(ax, [row.low, row.high], [y, y])
        assert is_drawn(ax, row.differences, [y - 0.22] * 10)
        assert row.difference in diamonds
    assert names == [*rows.sort_values("difference", ascending=False).loss]
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-0.02, 0.02))


def test_a_verdict_has_its_colour_its_sign_and_its_place():
    verdicts = {"better by more": "▲", "worse": "▽", "equivalent": "=", "undecided": "?"}
    rows = differences(dict.fromkeys(verdicts, "power")).assign(verdict=[*verdicts])
    rows.loc[rows.loss == "worse", "verdict"] = "reference diverges"
    (ax,) = axes_of("verdict_map", rows)
    cells = {patch.get_y() + 0.5: patch for patch in ax.patches}
    names = [label.get_text() for label in ax.get_yticklabels()]
    written = {text.get_position()[1]: text.get_text() for text in ax.texts}
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first loss on top
    assert written[names.index("worse")] == "▲ ref. div."
    for row in rows[rows.loss != "worse"].itertuples():
        sign, difference = written[names.index(row.loss)].split(" ")
        assert sign == verdicts[row.loss]
        assert float(difference.replace("−", "-")) == pytest.approx(row.difference, abs=1e-3)
    blue = mpl.colors.to_rgb(figures.BLUE)
    assert cells[names.index("better by more")].get_facecolor()[:3] == pytest.approx(blue)


def test_the_share_at_target_rises_from_nought_as_runs_reach_it():
    axes = axes_of("time_to_target", targets({"mse": "power"}), 2, shared="y")
    assert lines(axes[0])[0].tolist() == [[0, 0], [10, 0.5], [40, 0.9], [500, 0.9]]


def test_a_matrix_says_the_value_where_it_was_trained_and_judged():
    frame = matrix({"mse": "power", "mae": "power"})
    frame["value"] = [1.0, 2.0, 3.0, 4.0]
    (ax,) = axes_of("cross_loss", frame)
    values = {text.get_position(): float(text.get_text()) for text in ax.texts}
    assert values == {(0, 0): 1.0, (1, 0): 2.0, (0, 1): 3.0, (1, 1): 4.0}


def test_a_loss_looks_alike_whatever_stands_beside_it():
    every = [dict.fromkeys(["mse", "mae", "quartic"], "power")]
    alone, beside = (
        curves(dict.fromkeys(names, "power")) for names in (["quartic"], ["mse", "quartic"])
    )
    with figures.style(losses=every):
        assert figures.loss_styles(alone)["quartic"] == figures.loss_styles(beside)["quartic"]
    assert figures.loss_styles(alone)["quartic"] != figures.loss_styles(beside)["quartic"]


def test_a_page_without_panels_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="check that the frame has rows"):
        figures.page(0)


def test_a_decomposition_draws_each_part_where_it_lies():
    rows = differences({"mae": "power"}).rename(columns={"difference": "value"})
    parts = {"total": 0.4, "scale": 0.1, "weighting": 0.2, "rest": 0.1}
    rows = pd.concat([rows.assign(part=part, value=value) for part, value in parts.items()])
    rows = rows.assign(n=9, left_out=1, lr=0.1, low=rows.value - 0.05, high=rows.value + 0.05)
    (ax,) = axes_of("decomposition", rows)
    marks = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [float(line.get_xdata()[0]) for line in marks] == [*parts.values()]
    heights = [float(line.get_ydata()[0]) for line in marks]
    assert heights == sorted(heights, reverse=True)
    assert ax.get_legend().get_texts()[0].get_text() == "all of it"
    assert "Up to 1 seeds left out" in figures.strips(ax.figure).note


def test_a_metric_without_a_better_direction_is_drawn_without_one():
    (ax,) = axes_of("forest", differences({"mae": "power"}).assign(metric="curvature_top"))
    assert "is better" not in ax.get_xlabel()
