"""A margin: in the unit of the metric, as a share of the reference's error, and in words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lossbench import records, statistics
from lossbench.report.objections import wide_margin
from lossbench.report.words import margin_text
from lossbench.statistics import in_words
from lossbench.statistics.margins import Margin, resolved_margin


def of_reference(values, *, metric="accuracy", **columns):
    return pd.DataFrame({metric: values, "seed": range(len(values))}).assign(**columns)


def margin(declared, values, *, metric="accuracy", reference="cross_entropy", unit="", **columns):
    runs = of_reference(values, metric=metric, **columns)
    return resolved_margin(declared, runs, metric=metric, reference=reference, unit=unit)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("10% of error", 0.1),
        ("10 % of error", 0.1),
        ("2.5% of error", 0.025),
        (".5% of error", 5e-3),
    ],
)
def test_a_text_names_a_share(text, share):
    assert in_words(text) == (pytest.approx(share), "error")


@pytest.mark.parametrize(
    "text",
    ["10%", "0% of error", "-5% of error", "10% of the error", "of error", "0.1 of error", ""],
)
def test_any_other_text_is_refused_with_the_cure(text):
    with pytest.raises(ValueError, match="like '10% of error'"):
        in_words(text)


def test_the_error_is_the_distance_from_a_perfect_prediction():
    assert margin("10% of error", [0.96, 0.98]).value == pytest.approx(0.003)
    assert margin("10% of error", [0.4, 0.6], metric="rmse").value == pytest.approx(0.05)
    assert margin("10% of error", [0.8, 0.9], metric="r2").value == pytest.approx(0.015)
    assert margin(0.01, [0.96, 0.98]).share == pytest.approx(1 / 3)


def test_the_error_is_that_of_a_usual_seed():
    assert margin("10% of error", [0.2, 0.3, 9.0], metric="rmse").value == pytest.approx(0.03)


def test_a_margin_in_the_unit_of_the_target_is_one_in_its_standard_deviations():
    assert in_words("1.5 of target") == (1.5, "target")
    words = {"metric": "rmse", "reference": "mse"}
    assert margin("38.5 of target", [0.5, 0.7], target_scale=[76.0, 78.0], **words).value == 0.5
    told = margin("38.5 of target", [0.5], target_scale=77.0, unit="dollars", **words)
    assert (told.value, told.in_target) == (0.5, pytest.approx(38.5))


def test_diverged_seeds_have_no_error_and_without_any_every_difference_matters():
    assert margin("10% of error", [0.9, np.nan]).value == pytest.approx(0.01)
    nothing = margin("10% of error", [np.nan, np.nan])
    assert (nothing.value, np.isnan(nothing.share)) == (0.0, True)
    assert margin_text([nothing]) == (
        "0 (10% of error is declared, and no run of cross_entropy has one)"
    )


def test_a_margin_is_told_both_ways_and_in_the_unit_of_the_target():
    assert (
        margin_text([margin(0.01, [0.965, 0.966])])
        == "0.01 (29 % of the error of cross_entropy on validation)"
    )
    words = {"metric": "rmse", "reference": "mse", "target_scale": 77.0}
    points = margin(0.02, [0.5, 0.52], unit="points of the progression score", **words)
    assert margin_text([points]) == (
        "0.02 = 1.54 points of the progression score (3.9 % of the error of mse on validation)"
    )
    assert (
        margin_text([margin(0.02, [0.5], **words)])
        == "0.02 (4 % of the error of mse on validation)"
    )


def test_only_what_is_measured_in_the_scale_of_the_target_has_its_unit():
    words = {"reference": "mse", "target_scale": 77.0, "unit": "points"}
    assert np.isnan(margin(0.02, [0.5], metric="r2", **words).in_target)
    assert margin(0.02, [0.5], metric="crps", **words).in_target == pytest.approx(1.54)


def test_margins_of_several_tasks_are_told_together():
    several = [margin(0.01, [accuracy]) for accuracy in (0.8, 0.9)]
    assert margin_text(several) == "0.01 (5 to 10 % of the error of cross_entropy on validation)"


def test_a_margin_of_many_errors_is_not_told_as_a_share():
    many = Margin(0.02, 2700.0, "mse", np.nan, "", 0.02)
    assert margin_text([many]) == "0.02 (more than 10 times the error of mse)"


def test_a_scale_that_differs_from_seed_to_seed_tells_nothing_in_the_targets_unit():
    words = {"metric": "rmse", "reference": "mse", "unit": "dollars"}
    assert margin(0.1, [0.5, 0.5], target_scale=[100.0, 110.0], **words).in_target == 10.5
    assert np.isnan(margin(0.1, [0.5, 0.5], target_scale=[100.0, 400.0], **words).in_target)


def test_a_margin_of_more_than_half_the_error_on_test_is_objected_to(essay_sweep):
    one = next(
        one for one in statistics.Verdicts(records.load(essay_sweep)).mains if one.metric == "rmse"
    )
    rows = one.summary[one.summary.metric == "rmse"].set_index("loss").value
    said = {
        share: wide_margin(replace(one, margin=replace(one.margin, value=share * rows["mse"])))
        for share in (0.4, 0.6)
    }
    assert said[0.4] == ""
    assert "is 60% of the error of mse on test" in said[0.6]
