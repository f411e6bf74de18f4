"""The card of a loss: its numbers against theory, its page as a browser would see it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from pages import Page
from sweep_on_disk import HOSTILE

import lossbench
from lossbench import catalog, claims, figures, records
from lossbench.catalog import card
from lossbench.figures import card as drawings
from lossbench.losses import LOSSES

KNOWN = catalog.entries([lossbench.CONF])
KINDS = ("focal", "crammer_singer", "ldam", "huber", "huber_tight", "gaussian_nll", "cosh")
DRAWN = ("focal", "crammer_singer", "gaussian_nll", "cosh")
"""Losses of every kind that a card must tell of, and those whose figures differ."""


def as_said(entry, **changed):
    """As if measured, and just what the row says; what is `changed` was found to be otherwise."""
    verdicts = {
        name: {"holds": name in entry.loss.claims, "claimed": name in entry.loss.claims}
        | {"witness": f"witness of {name}", "margin": 1.0}
        for name in claims.CLAIMS
    }
    for name, holds in changed.items():
        verdicts[name]["holds"] = holds
    disagrees = [name for name, one in verdicts.items() if one["holds"] != one["claimed"]]
    return {"claims": verdicts, "disagrees": disagrees, "duplicates": {}, "efficiency": None}


@cache
def drawn_page(name):
    """The card of a loss with its pictures."""
    return card.page(KNOWN[name], as_said(KNOWN[name]))


@pytest.fixture
def undrawn(monkeypatch):
    """The page without its pictures, which take most of the time and have tests of their own."""
    monkeypatch.setattr(card, "pictures", lambda *_: [])


# ---- the page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
def test_a_page_needs_nothing_else_and_its_figures_are_questions_described_in_words(name):
    text = drawn_page(name)
    page = Page(text)
    assert page.policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert page.is_inert
    assert all(request.startswith("#") for request in page.requests)
    assert page.is_closed
    assert {*re.findall(r"url\(#([^)]+)\)", text)} <= {*page.ids}
    questions = re.findall(r"<h3>(.*?)</h3>", text)
    assert page.tags.count("figure") == page.tags.count("svg") == len(questions) == 6
    assert all(question.endswith("?") for question in questions)
    assert len(page.labels) == 6
    assert all(re.search(r"\d", label) for label in page.labels)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", KINDS)
def test_the_page_says_what_the_row_says(name):
    entry = KNOWN[name]
    told, page = catalog.facts(entry), Page(card.page(entry, as_said(entry)))
    for part in (told["formula"], told["source"], told["yaml"] or "", *told["relations"]):
        assert " ".join(part.split()) in page.text
    for claim in claims.CLAIMS:
        assert f"witness of {claim}" in page.text
    assert catalog.variant(told) in page.text
    assert page.text.index("What is true of it?") < page.text.index("What is not?")


@pytest.mark.usefixtures("undrawn")
def test_what_says_nothing_of_a_regression_loss_is_said_once():
    entry = KNOWN["mse"]
    found = as_said(entry)
    found["claims"]["calibrated"]["witness"] = claims.measurement.NOT_OF_LABELS.witness
    page = Page(card.page(entry, found))
    assert "no regression loss makes: calibrated" in page.text
    assert claims.measurement.NOT_OF_LABELS.witness not in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_row_that_is_wrong_is_told_so_and_a_variant_is_not():
    wrong = {"symmetric": True}
    for name, said in (("huber", "The row does not claim it."), ("huber_tight", "Unlike huber at")):
        entry = KNOWN[name]
        assert said in Page(card.page(entry, as_said(entry, **wrong))).text
        assert said not in Page(card.page(entry, as_said(entry))).text


@pytest.mark.usefixtures("undrawn")
def test_doubles_and_efficiency_are_told():
    entry = KNOWN["mae"]
    found = as_said(entry) | {"duplicates": {"pinball": 0.5, "lp": 1.0}, "efficiency": 0.6366}
    page = Page(card.page(entry, found))
    assert "the same as 0.5 times pinball" in page.text
    assert "the same as lp" in page.text
    assert "0.637 of the mean's" in page.text


def test_writing_twice_gives_the_same_bytes():
    assert card.page(KNOWN["focal"], as_said(KNOWN["focal"])) == drawn_page("focal")


def test_a_loss_whose_expected_value_is_infinite_is_said_to_learn_nothing():
    assert "learns nothing" in drawn_page("cosh")


def test_hostile_words_are_shown_and_never_obeyed(tmp_path, monkeypatch):
    name, family, formula, source, oracle = HOSTILE

    def stranger(output, target):
        return (output - target).square().sum(-1)

    stranger.__doc__ = f"{source}.\n\nArgs:\n    output: {source}.\n"
    loss = replace(
        LOSSES["mse"], fn=stranger, family=family, formula=formula, source=source, oracle=oracle
    )
    path = tmp_path / "stranger.yaml"
    path.write_text(formula)
    monkeypatch.setitem(LOSSES, "stranger", loss)
    entry = catalog.Entry(name, loss, {}, path)
    page = Page(card.page(entry, as_said(entry)))
    assert page.is_inert
    assert all(words in page.text for words in HOSTILE)


def test_what_stands_in_backticks_is_code_and_what_is_code_is_escaped():
    assert card._prose("beyond `delta` & <b>") == "beyond <code>delta</code> &amp; &lt;b&gt;"


# ---- what is drawn -------------------------------------------------------------------------------


def test_the_shapes_of_huber_are_the_textbooks_with_mse_behind_them():
    shapes = card.shapes(KNOWN["huber"])
    own, behind = shapes["first"]
    assert (own.loss, behind.loss) == ("huber", "mse")
    np.testing.assert_allclose(own.y, np.clip(own.x, -1, 1), atol=1e-12)
    np.testing.assert_allclose(behind.y, behind.x, atol=1e-12)
    np.testing.assert_allclose(shapes["value"][1].y, behind.x**2 / 2, atol=1e-12)
    (variant, _) = card.shapes(KNOWN["huber_tight"])["first"]
    np.testing.assert_allclose(variant.y, np.clip(variant.x, -0.1, 0.1), atol=1e-12)


def test_the_reference_has_nothing_behind_it():
    for name in records.REFERENCE.values():
        assert [line.loss for line in card.shapes(KNOWN[name])["value"]] == [name]
        assert [line.loss for line in card.ray(KNOWN[name])] == [name]


def test_the_weight_of_focal_is_as_theory_has_it_and_cross_entropys_is_one():
    own, behind = card.shapes(KNOWN["focal"])["weight"]
    p = own.x
    np.testing.assert_allclose(own.y, (1 - p) ** 2 - 2 * p * (1 - p) * np.log(p), atol=1e-9)
    np.testing.assert_allclose(behind.y, 1, atol=1e-12)


def test_along_the_ray_cross_entropy_stays_brier_fades_and_mse_grows():
    brier, cross_entropy = card.ray(KNOWN["brier"])
    assert cross_entropy.y[-1] == pytest.approx(math.sqrt(2))
    wrong = 1 / (1 + 3 * np.exp(-brier.x))
    miss = np.array([(1 - w) / 3 for w in wrong])
    p = np.stack([wrong, miss, miss, miss], -1)
    slope = 2 * (p - np.eye(4)[1])
    expected = np.linalg.norm(p * (slope - (p * slope).sum(-1, keepdims=True)), axis=-1)
    np.testing.assert_allclose(brier.y, expected, rtol=1e-6, atol=1e-12)
    assert brier.y[-1] < 1e-40
    tukey, mse = card.ray(KNOWN["tukey"])
    np.testing.assert_allclose(mse.y, mse.x, rtol=1e-12)
    assert (tukey.y[tukey.x > 4.685] == 0).all()
    of_two_outputs, mse = card.ray(KNOWN["gaussian_nll"])
    np.testing.assert_allclose(of_two_outputs.y, mse.y, rtol=1e-12)


def test_a_multiclass_hinge_ties_just_where_no_label_has_a_majority():
    taught = card.lesson(KNOWN["crammer_singer"])
    assert not taught.is_on_simplex
    majority = taught.frequencies.max(-1) > 0.5
    leads = [leader is not None for leader in taught.leaders]
    assert leads == list(majority)
    assert 0 < sum(leads) < len(leads)
    brier = card.lesson(KNOWN["brier"])  # no two frequencies are equal: a tie is the loss's own
    assert brier.is_on_simplex
    assert brier.leaders == list(brier.frequencies.argmax(-1))


# ---- the figures ---------------------------------------------------------------------------------


def drawn(draw, data):
    with figures.style():
        _, (ax,) = figures.page(width=3.4, height=1.4)
        assert draw(data, ax) is ax
    return ax


def a_line(y, loss="a"):
    return drawings.Line(loss, "red", np.linspace(0, 1, len(y)), np.array(y, dtype=float))


def test_a_curve_is_drawn_as_given_before_its_reference():
    own, behind = a_line([1, 2, 3]), a_line([3, 2, 1], "b")
    ax = drawn(drawings.shape, [own, behind])
    front, back = ax.lines[:2]
    np.testing.assert_array_equal(front.get_ydata(), own.y)
    np.testing.assert_array_equal(back.get_ydata(), behind.y)
    assert front.get_zorder() > back.get_zorder()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_an_end_that_shoots_off_is_cut_and_the_rest_is_seen():
    steep = np.append(np.linspace(0, 1, 100), 500.0)
    low, high = drawn(drawings.shape, [a_line(steep)]).get_ylim()
    assert low < 0
    assert 1 < high < 5
    low, high = drawn(drawings.shape, [a_line(np.linspace(-3, 7, 100))]).get_ylim()
    assert low < -3
    assert high > 7
    low, high = drawn(drawings.weight, [a_line([0.1, 0.2, 0.1])]).get_ylim()
    assert low < 0
    assert high > 1  # where the error itself is fed back


def test_the_triangle_leads_from_frequencies_to_predictions():
    start, end = np.array([[0.2, 0.3, 0.5]]), np.array([[1.0, 0.0, 0.0]])
    ax = drawn(drawings.simplex, drawings.Lesson("red", start, end))
    (way,) = [line for line in ax.lines if line.get_color() == "red" and len(line.get_xdata()) == 2]
    np.testing.assert_allclose(way.get_xydata(), [start[0] @ drawings.CORNERS, drawings.CORNERS[0]])


def test_outputs_that_are_no_distribution_are_drawn_by_who_leads():
    frequencies = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.4, 0.35, 0.25]])
    outputs = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0]])
    taught = drawings.Lesson("red", frequencies, outputs)
    assert taught.leaders == [0, 1, None]
    ax = drawn(drawings.simplex, taught)
    marks = [
        (line.get_marker(), line.get_color()) for line in ax.lines if line.get_marker() != "None"
    ]
    assert marks == [("o", drawings.HUES[0]), ("o", drawings.HUES[1]), ("x", figures.OTHER)]


def test_the_density_carries_median_mean_and_what_is_learnt():
    ax = drawn(drawings.elicited, drawings.Act("a", "red", 1.6))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["median 0.693", "mean 1.000", "a 1.600"]
    assert {1.6, 1.0, math.log(2)} <= {line.get_xdata()[0] for line in ax.lines}
    assert not [one for one in ax.collections if isinstance(one, PathCollection)]
    far = drawn(drawings.elicited, drawings.Act("a", "red", 9.0))
    assert far.get_xlim()[1] > 9
    nothing = drawn(drawings.elicited, drawings.Act("a", "red", math.nan))
    assert len(nothing.get_legend().get_texts()) == 2


@pytest.mark.parametrize(
    ("name", "where"),
    [("mae", "near 0."), ("eps_insensitive", "-0.1, 0.1")]
    + [(name, "") for name in ("mse", "huber", "chi2", "cross_entropy", "welsch", "exponential")],
)
def test_a_spike_of_the_second_derivative_is_where_the_first_one_jumps(name, where):
    words = card._kinks(card.shapes(KNOWN[name])["first"][0])
    assert where in words
    assert bool(where) == bool(words)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("focal", "the output of the wrong one is 0."),
        ("crammer_singer", "outputs p and 1 - p."),
        ("poisson_nll", "for a target of 1."),
        ("huber", ""),
    ],
)
def test_a_curve_says_along_which_outputs_it_goes(name, said):
    setting = card._setting(LOSSES[name], is_curve=True)
    assert setting.endswith(said)
    assert bool(setting) == bool(said)


def test_a_prediction_of_few_values_is_drawn_as_dots_and_not_as_a_line():
    # Of two outputs of which one is 0, logit_norm sees the sign of the other.
    own, behind = card.shapes(KNOWN["logit_norm"])["value"]
    assert not own.is_curve
    assert behind.is_curve
    front, back = drawn(drawings.shape, [own, behind]).lines[:2]
    assert (front.get_linestyle(), front.get_marker()) == ("None", "o")
    assert back.get_linestyle() != "None"
    assert "dots" in card._setting(LOSSES["logit_norm"], is_curve=False)
    assert card._kinks(card.shapes(KNOWN["logit_norm"])["first"][0]) == ""
