import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from sweep_on_disk import CLASSIFICATION, REGRESSION

from lossbench import figures

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
        metric=metric, split="validation", confidence=0.95
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
    )


def shapes(losses, *, task="regression"):
    argument = np.linspace(-3, 3, 61) if task == "regression" else np.linspace(0.01, 0.99, 50)
    return pd.concat(
        pd.DataFrame({"argument": argument, "value": argument**2, "first": 2 * argument}).assign(
            second=2.0, weight=abs(argument), loss=loss, family=family, task=task
        )
        for loss, family in losses.items()
    )


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


def draw_signal(losses, width):
    figure, axes = figures.page(2, columns=2 if width > 4 else 1, width=width, shared="x")
    figures.error_signal(curves(losses), axes, cosines=curves(losses))
    return figure


def draw_forest(losses, width):
    figure, axes = figures.page(width=width, height=0.32 * len(losses) + 0.2)
    figures.forest(differences(losses), axes[0])
    return figure


DRAWINGS = [draw_shapes, draw_weight, draw_learning, draw_rates, draw_signal, draw_forest]
EMPIRICAL = DRAWINGS[2:]
WIDTHS = [figures.ONE_COLUMN, figures.TWO_COLUMNS]


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_visible()]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("drawing", DRAWINGS)
def test_every_text_lies_within_the_page(drawing, width):
    with figures.style():
        figure = drawing(REGRESSION, width)
        figure.draw_without_rendering()
        page, strips = figure.bbox.padded(1), [*figure.texts, *figure.legends]
        boxes = [ax.get_tightbbox() for ax in figure.axes if ax.axison]
        for box in [*boxes, *(strip.get_window_extent() for strip in strips)]:
            assert page.x0 <= box.x0 < box.x1 <= page.x1
            assert page.y0 <= box.y0 < box.y1 <= page.y1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("drawing", DRAWINGS)
def test_title_legend_and_note_do_not_touch_the_axes(drawing, width):
    with figures.style():
        figure = drawing(REGRESSION, width)
        figure.draw_without_rendering()
        boxes = [ax.get_tightbbox() for ax in figure.axes if ax.axison]
        for strip in [*figure.texts, *figure.legends]:
            assert not any(strip.get_window_extent().overlaps(box) for box in boxes)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_the_title_is_a_question_and_axes_are_labelled(drawing):
    with figures.style():
        figure = drawing(REGRESSION, 7.0)
    assert figure.get_label().endswith("?")
    assert " ".join(figure.texts[-1].get_text().split()) == figure.get_label()
    drawn = [ax for ax in figure.axes if ax.axison]
    last_row = [ax for ax in drawn if ax.get_subplotspec().is_last_row()]
    assert all(ax.get_xlabel() for ax in last_row)
    assert all(ax.get_ylabel() or ax.get_title("left") or drawing is draw_forest for ax in drawn)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_each_loss_is_labelled_once(drawing):
    losses = {f"loss_{letter}": "power" for letter in "abcd"}
    with figures.style():
        figure = drawing(losses, 7.0)
        figure.draw_without_rendering()
    for loss in losses:
        assert sum(text == loss for text in texts(figure)) == 1


@pytest.mark.parametrize("drawing", EMPIRICAL)
def test_n_and_the_kind_of_interval_are_stated(drawing):
    with figures.style():
        note = " ".join(drawing(REGRESSION, 7.0).texts[0].get_text().split())
    assert "n = 10" in note or "n = 5" in note
    assert "95% t interval" in note or "95% paired-t interval" in note


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
@pytest.mark.parametrize("drawing", DRAWINGS)
def test_hostile_names_are_drawn_and_stay_text(drawing, kind):
    with figures.style():
        figure = drawing(dict.fromkeys(HOSTILE, "power"), 7.0)
        figure.savefig(buffer := io.BytesIO(), format=kind)
    assert b"<script" not in buffer.getvalue()
    assert any(text.strip() == "_hidden" for text in texts(figure))


def test_one_loss_and_one_step_make_a_figure():
    with figures.style():
        for drawing in DRAWINGS:
            drawing({"mse": "power"}, 7.0).draw_without_rendering()


def test_a_look_tells_losses_of_a_family_apart_and_families_by_colour():
    found = figures.looks(curves({**REGRESSION, "log_cosh": "monotone"}))
    assert len({(look.color, look.dash) for look in found.values()}) == len(found)
    assert found["mse"].color == found["mae"].color != found["huber"].color
    assert found["mse"].marker != found["mae"].marker


def test_families_of_one_task_have_different_hues():
    for task in (
        "power monotone redescending asymmetric likelihood",
        "power proper matching robust margin weighted",
    ):
        assert len({figures.COLORS[family] for family in task.split()}) == len(task.split())
    assert figures.looks(curves({"own": "mine"}))["own"].color == figures.OTHER


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
