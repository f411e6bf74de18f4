import io
import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from selection import beyond
from sweep_on_disk import CLASSIFICATION, REGRESSION

from lossbench import figures
from lossbench.losses import LOSSES

HOSTILE = [
    "<script>alert(1)</script>",
    r"$\frac$",
    "_hidden",
    "x" * 300,
    "a\nb\tc",
    "=1+1",
    "𝔘 x"[2:],
]
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
        verdict="not distinguishable",
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


def profiles(losses):
    frame = curves(losses, steps=(0.0, 0.5, 1.0)).rename(columns={"step": "tau"})
    frame[["value", "low", "high"]] = frame[["value", "low", "high"]].clip(0, 1)
    return frame.assign(reference=next(iter(losses)), tasks=3, metric="rmse")


def noises(losses):
    frame = curves(losses, metric="accuracy", steps=(0.0, 0.2, 0.4)).rename(
        columns={"step": "rate"}
    )
    return frame.assign(curve=0, corruption="symmetric", diverged=(frame.rate == 0.4) * 2)


def draw_noise(losses, width):
    figure, axes = figures.page(width=width, height=2.2)
    figures.noise_curve(noises(losses), axes[0])
    return figure


def draw_shapes(losses, width):
    figure, axes = figures.page(3, columns=3 if width > 4 else 1, width=width, shared="none")
    figures.loss_shapes(shapes(losses), axes)
    return figure


def draw_weight(losses, width):
    figure, axes = figures.page(width=width, height=2)
    figures.error_weight(shapes(losses, task="classification"), axes[0])
    return figure


def draw_learning(losses, width):
    figure, axes = figures.page(len(losses), columns=5 if width > 4 else 2, width=width)
    figures.learning_curves(curves(losses), axes, reference=next(iter(losses)))
    return figure


def draw_rates(losses, width):
    figure, axes = figures.page(len(losses), columns=5 if width > 4 else 2, width=width)
    figures.learning_rate_sensitivity(rates(losses), axes, reference=next(iter(losses)))
    return figure


def draw_cost(losses, width):
    frame = rates(losses).assign(cost=0.1, ratio=rates(losses).lr / 0.1)
    figure, axes = figures.page(2, columns=2 if width > 4 else 1, width=width, shared="none")
    figures.learning_rate_cost(frame, axes, budgets=budgets(losses), margin=0.02)
    return figure


def draw_signal(losses, width):
    measures = ["gradient_norm", "signal_per_error", "cosine"]
    figure, axes = figures.page(3, columns=3 if width > 4 else 1, width=width, shared="x")
    figures.error_signal(several(curves(losses), "measure", measures), axes)
    return figure


def draw_layers(losses, width):
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    figure, axes = figures.page(4, columns=4 if width > 4 else 2, width=width)
    figures.layer_gradients(several(curves(losses), "layer", names), axes)
    return figure


def draw_targets(losses, width):
    figure, axes = figures.page(2, columns=2, width=width, shared="y")
    figures.time_to_target(targets(losses), axes)
    return figure


def draw_map(losses, width):
    columns = ["digits × mlp", "a much longer name of a task × mlp", "third × linear"]
    rows = several(differences(losses).drop(columns="context"), "context", columns)
    figure, axes = figures.page(width=width, height=0.24 * len(losses) + 1.1)
    figures.verdict_map(rows.assign(label=rows.context), axes[0])
    return figure


def draw_forest(losses, width):
    figure, axes = figures.page(width=width, height=0.32 * len(losses) + 0.2)
    figures.forest(differences(losses), axes[0])
    return figure


def draw_settings(losses, width):
    rows = several(differences(losses), "setting", ["own rate", "reference's rate", "matched"])
    figure, axes = figures.page(width=width, height=0.4 * len(losses) + 0.45)
    figures.side_by_side(rows, axes[0], question="Does it hold elsewhere?", note="Where it is.")
    return figure


def draw_parts(losses, width):
    rows = several(differences(losses), "part", ["total", "scale", "weighting", "rest"])
    rows = rows.rename(columns={"difference": "value"}).assign(n=10, left_out=0, lr=0.1)
    figure, axes = figures.page(width=width, height=0.55 * len(losses) + 0.5)
    figures.decomposition(rows, axes[0])
    return figure


def draw_profile(losses, width):
    figure, axes = figures.page(width=width, height=1.9)
    figures.performance_profile(profiles(losses), axes[0])
    return figure


def draw_calibration(losses, width):
    size = {"columns": 2 if width > 4 else 1, "width": width, "height": 0.25 * len(losses) + 0.4}
    figure, axes = figures.page(2, shared="none", **size)
    figures.calibration(means(losses), axes)
    return figure


def draw_cross(losses, width):
    figure, axes = figures.page(width=width, height=0.24 * len(losses) + 0.7)
    figures.cross_loss(matrix(losses), axes[0])
    return figure


EXACT = [draw_shapes, draw_weight]
COURSES = [draw_learning, draw_signal, draw_layers, draw_targets]
OUTCOMES = [draw_forest, draw_settings, draw_parts, draw_map, draw_profile]
OUTCOMES += [draw_calibration, draw_cross]
EMPIRICAL = [*COURSES, draw_rates, draw_cost, draw_noise, *OUTCOMES]
DRAWINGS = [*EXACT, *EMPIRICAL]
WITHOUT_INTERVALS = [draw_cost, draw_cross, draw_targets]
WIDTHS = [figures.ONE_COLUMN, figures.TWO_COLUMNS]


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_visible()]


@pytest.mark.parametrize("width", beyond([figures.ONE_COLUMN], WIDTHS))
@pytest.mark.parametrize("drawing", DRAWINGS)
def test_every_text_lies_within_the_page_and_none_of_the_strips_touches_the_axes(drawing, width):
    with figures.style():
        figure = drawing(REGRESSION, width)
        figure.draw_without_rendering()
        page, strips = figure.bbox.padded(1), [*figure.texts, *figure.legends]
        boxes = [ax.get_tightbbox() for ax in figure.axes if ax.axison]
        for box in [*boxes, *(strip.get_window_extent() for strip in strips)]:
            assert page.x0 <= box.x0 < box.x1 <= page.x1
            assert page.y0 <= box.y0 < box.y1 <= page.y1
        for strip in strips:
            assert not any(strip.get_window_extent().overlaps(box) for box in boxes)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_the_title_is_a_question_and_axes_are_labelled(drawing):
    with figures.style():
        figure = drawing(REGRESSION, 7.0)
    strips = figures.strips(figure)
    assert strips.title.endswith("?")
    assert [" ".join(text.get_text().split()) for text in figure.texts] == [
        strips.note,
        strips.title,
    ]
    drawn = [ax for ax in figure.axes if ax.axison]
    last_row = [ax for ax in drawn if ax.get_subplotspec().is_last_row()]
    assert all(ax.get_xlabel() for ax in last_row) or drawing is draw_map
    named = [ax for ax in drawn if ax.get_ylabel() or ax.get_title("left")]
    in_rows = (draw_forest, draw_settings, draw_parts, draw_map, draw_calibration)
    assert named == drawn or drawing in in_rows


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_each_loss_is_labelled_once(drawing):
    losses = {f"loss_{letter}": "power" for letter in "abcd"}
    with figures.style():
        figure = drawing(losses, 7.0)
        figure.draw_without_rendering()
    times = {draw_cross: 2}.get(drawing, 1)  # its rows and its columns
    seen = [text for text in texts(figure) if text in losses]
    assert sorted(seen) == sorted([*losses] * times)


@pytest.mark.parametrize("drawing", EMPIRICAL)
def test_n_and_the_kind_of_interval_are_stated(drawing):
    with figures.style():
        note = " ".join(drawing(REGRESSION, 7.0).texts[0].get_text().split())
    assert "n = 10" in note or "n = 5" in note
    kinds = ["95% t interval", "95% paired-t interval", "95% bootstrap"]
    assert any(kind in note for kind in kinds) or drawing in WITHOUT_INTERVALS


@pytest.mark.parametrize("drawing", beyond([draw_forest, draw_learning], DRAWINGS))
def test_hostile_names_are_drawn_and_stay_text(drawing):
    with figures.style():
        figure = drawing(dict.fromkeys(HOSTILE, "power"), 7.0)
        figure.savefig(buffer := io.BytesIO(), format="svg")
        figure.savefig(io.BytesIO(), format="pdf")
    assert b"<script" not in buffer.getvalue()
    assert any(text.strip() == "_hidden" for text in texts(figure))


def test_no_interval_of_a_noise_curve_is_cut_off_below():
    rows = noises(REGRESSION).assign(low=-0.4)
    with figures.style():
        _, axes = figures.page(height=2.2)
        figures.noise_curve(rows, axes[0])
    assert axes[0].get_ylim()[0] < -0.4


def test_one_loss_and_one_step_make_a_figure():
    with figures.style():
        for drawing in DRAWINGS:
            drawing({"mse": "power"}, 7.0).draw_without_rendering()


def test_a_look_tells_losses_of_a_family_apart_and_families_by_colour():
    found = figures.loss_styles(curves({**REGRESSION, "log_cosh": "monotone"}))
    assert len({(look.color, look.dash) for look in found.values()}) == len(found)
    assert found["mse"].color == found["mae"].color != found["huber"].color
    assert found["mse"].marker != found["mae"].marker


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
    assert {family for some in TASKS.values() for family in some} == {*figures.COLORS}
    assert figures.loss_styles(curves({"own": "mine"}))["own"].color == figures.OTHER


def test_a_far_off_difference_is_written_out_instead_of_squashing_the_axis():
    rows = differences(REGRESSION)
    rows.loc[rows.loss == "huber", ["difference", "low", "high"]] = [5.0, 4.0, 6.0]
    rows["differences"] = [(4.5, 5.5) if loss == "huber" else (0.01,) for loss in rows.loss]
    with figures.style():
        figure, axes = figures.page()
        figures.forest(rows, axes[0])
        figure.draw_without_rendering()
    assert axes[0].get_xlim()[1] < 0.2
    assert "5 [4, 6]" in texts(figure)


def test_diverged_pairs_are_written_beside_the_verdict():
    rows = differences(CLASSIFICATION).assign(diverged=3, verdict="diverges", difference=np.nan)
    with figures.style():
        figure, axes = figures.page()
        figures.forest(rows.assign(low=np.nan, high=np.nan), axes[0])
        figure.draw_without_rendering()
    assert "diverges · 3 diverged" in texts(figure)
    assert "no pair survived" in texts(figure)


def test_the_rug_counts_diverged_runs():
    with figures.style():
        figure = draw_rates(REGRESSION, 7.0)
    assert texts(figure).count("2") == len(REGRESSION)


def test_style_leaves_no_trace_and_pyplot_has_no_figures():
    before = dict(mpl.rcParams)
    with figures.style():
        draw_forest(REGRESSION, 7.0)
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


# ---- what is drawn is what was given -------------------------------------------------------------


def lines(ax):
    """Solid and dashed lines of an axes that have more than one point, as arrays."""
    return [np.array(line.get_xydata()) for line in ax.lines if len(line.get_xdata()) > 1]


def drawn(ax, x, y):
    return any(
        len(found) == len(x) and np.allclose(found, np.column_stack([x, y])) for found in lines(ax)
    )


def bands(ax):
    return [found.get_datalim(ax.transData) for found in ax.collections]


def test_a_learning_curve_is_the_value_within_its_interval_and_the_others_behind():
    frame = curves({"mse": "power", "mae": "power"})
    with figures.style():
        _, axes = figures.page(2)
        figures.learning_curves(frame, axes, reference="mse")
    for ax in axes:
        for _, rows in frame.groupby("loss"):
            assert drawn(ax, rows.step, rows.value)
        mine = frame[frame.loss == ax.get_label()]
        (band,) = bands(ax)
        assert (band.y0, band.y1) == pytest.approx((mine.low.min(), mine.high.max()))


def test_a_cross_marks_where_the_first_run_is_lost():
    frame = curves({"mse": "power", "mae": "power"})
    frame.loc[frame.loss == "mae", "lost_at"] = 50.0
    with figures.style():
        _, axes = figures.page(2)
        figures.learning_curves(frame, axes, reference="mse")
    crosses = {
        ax.get_label(): [tuple(line.get_xdata()) for line in ax.lines if line.get_marker() == "x"]
        for ax in axes
    }
    assert crosses == {"mse": [()], "mae": [(100,)]}


def test_a_forest_shows_each_difference_its_interval_its_dots_and_the_margin():
    rows = differences({"mae": "power", "huber": "monotone"})
    with figures.style():
        _, axes = figures.page()
        figures.forest(rows, axes[0])
    ax = axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    for row in rows.itertuples():
        y = names.index(row.loss)
        assert drawn(ax, [row.low, row.high], [y, y])
        assert drawn(ax, row.differences, [y - 0.22] * 10)
        assert any(
            line.get_marker() == "D" and line.get_xdata()[0] == row.difference for line in ax.lines
        )
    assert (
        names == ["huber", "mae"] if rows.difference[0] < rows.difference[1] else ["mae", "huber"]
    )
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-0.02, 0.02))


def test_a_verdict_has_its_colour_its_sign_and_its_place():
    verdicts = {"better": "▲", "worse": "▼", "equivalent": "=", "not distinguishable": "?"}
    rows = differences(dict.fromkeys(verdicts, "power")).assign(verdict=[*verdicts])
    rows.loc[rows.loss == "worse", "verdict"] = "reference diverges"
    with figures.style():
        _, axes = figures.page()
        figures.verdict_map(rows.assign(loss=[*verdicts]), axes[0])
    cells = {patch.get_y() + 0.5: patch for patch in axes[0].patches}
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    told = {text.get_position()[1]: text.get_text() for text in axes[0].texts}
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]  # the first loss on top
    for row in rows.itertuples():
        y = names.index(row.loss)
        if row.loss == "worse":
            assert told[y] == "– ref. div."
            continue
        assert told[y].startswith(f"{verdicts[row.loss]} ")
        assert float(told[y][2:].replace("−", "-")) == pytest.approx(row.difference, abs=1e-3)
    blue = mpl.colors.to_rgb(figures.BLUE)
    assert cells[names.index("better")].get_facecolor()[:3] == pytest.approx(blue)


def test_settings_side_by_side_show_each_interval_and_count_what_diverged():
    rows = several(differences({"mae": "power"}), "setting", ["one", "two"])
    rows.loc[1, ["difference", "low", "high", "diverged"]] = [0.015, 0.01, 0.02, 3]
    with figures.style():
        figure, axes = figures.page()
        figures.side_by_side(rows, axes[0], question="?", note="")
    ends = {tuple(np.round(found[:, 0], 6)) for found in lines(axes[0])}
    assert {(round(r.low, 6), round(r.high, 6)) for r in rows.itertuples()} <= ends
    assert "3 diverged" in texts(figure)


def test_the_share_at_target_rises_from_nought_as_runs_reach_it():
    with figures.style():
        _, axes = figures.page(2, shared="y")
        figures.time_to_target(targets({"mse": "power"}), axes)
    assert lines(axes[0])[0].tolist() == [[0, 0], [10, 0.5], [40, 0.9], [500, 0.9]]


def test_what_is_recalibrated_is_full_and_what_comes_raw_is_hollow():
    frame = means({"mse": "power"})
    frame.loc[frame.metric == "nll_raw", "value"] = 2.0
    with figures.style():
        _, axes = figures.page(2, shared="none")
        figures.calibration(frame, axes)
    dots = {line.get_xdata()[0]: line for line in axes[0].lines if line.get_marker() == "o"}
    assert mpl.colors.to_hex(dots[2.0].get_markerfacecolor()) == "#ffffff"
    full = mpl.colors.to_hex(dots[1.0].get_markerfacecolor())
    assert full == figures.COLORS["power"].lower()


def test_only_the_chosen_rate_is_ringed_and_a_loss_without_one_has_none():
    frame = rates({"mse": "power", "mae": "power"})
    frame.loc[frame.loss == "mae", "best"] = False
    with figures.style():
        figure, axes = figures.page(2)
        figures.learning_rate_sensitivity(frame, axes, reference="mse")
        figure.draw_without_rendering()
    rings = {
        ax.get_label(): [line.get_xdata()[0] for line in ax.lines if line.get_markersize() == 8]
        for ax in axes
    }
    assert rings == {"mse": [0.1], "mae": []}
    assert all(ax.get_position().width > 0.2 for ax in axes)


def test_a_profile_is_the_share_at_each_score():
    frame = profiles({"mse": "power"})
    with figures.style():
        _, axes = figures.page()
        figures.performance_profile(frame, axes[0])
    assert drawn(axes[0], frame.tau, frame.value)


def test_a_matrix_says_the_value_where_it_was_trained_and_judged():
    frame = matrix({"mse": "power", "mae": "power"})
    frame["value"] = [1.0, 2.0, 3.0, 4.0]
    with figures.style():
        _, axes = figures.page()
        figures.cross_loss(frame, axes[0])
    told = {text.get_position(): float(text.get_text()) for text in axes[0].texts}
    assert told == {(0, 0): 1.0, (1, 0): 2.0, (0, 1): 3.0, (1, 1): 4.0}


def test_shapes_are_drawn_below_their_own_names():
    frame = shapes({"mse": "power"})
    with figures.style():
        _, axes = figures.page(3, shared="none")
        figures.loss_shapes(frame, axes)
    for ax, column in zip(axes, ("value", "first", "second"), strict=True):
        assert drawn(ax, frame.argument, frame[column])
        assert ax.get_title("left") == {"value": "loss"}.get(column, f"{column} derivative")


def test_a_loss_looks_alike_whatever_stands_beside_it():
    every = {("mse", "power"), ("mae", "power"), ("quartic", "power")}
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
    with figures.style():
        figure, axes = figures.page()
        rows = rows.assign(n=9, left_out=1, lr=0.1, low=rows.value - 0.05, high=rows.value + 0.05)
        figures.decomposition(rows, axes[0])
    marks = [line for line in axes[0].lines if len(line.get_xdata()) == 1]
    assert [float(line.get_xdata()[0]) for line in marks] == [*parts.values()]
    heights = [float(line.get_ydata()[0]) for line in marks]
    assert heights == sorted(heights, reverse=True)
    told = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert told[0] == "all of it"
    assert "Up to 1 seeds left out" in figures.strips(figure).note


def test_a_metric_without_a_better_direction_is_drawn_without_one():
    rows = differences({"mae": "power"}).assign(metric="curvature_top")
    with figures.style():
        _, axes = figures.page()
        figures.forest(rows, axes[0])
    assert "is better" not in axes[0].get_xlabel()
