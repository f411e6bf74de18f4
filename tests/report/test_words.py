"""Verdicts as they are read: the published table and its sentences."""

import numpy as np
import pandas as pd
import pytest
from frames import diverge, drawn, frame

from lossbench import statistics
from lossbench.report.words import fragility, on_new_examples, sentence, verdicts
from lossbench.statistics import Rule, paired


def judged(values, *, metric="rmse", reference="mse", steps=500, declared=True, **columns):
    runs = frame(values, metric=metric, **columns)
    table = paired(
        runs,
        Rule(metric=metric, reference=reference, margin=0.02),
        declared=list(values) if declared else (),
    )
    return verdicts(table, statistics.summary(runs, metrics=[metric]), steps=steps)


def row_of(runs, *, metrics=("rmse",)):
    """The one verdict on runs of two losses."""
    table = paired(runs, Rule(metric="rmse", reference="mse", margin=0.02))
    return verdicts(table, statistics.summary(runs, metrics=metrics), steps=500).iloc[0]


@pytest.mark.parametrize(
    ("values", "words", "clause"),
    [
        (drawn(-0.1), "better by more than 0.02", "other is better than mse by more than 0.02"),
        (drawn(0.1), "worse by more than 0.02", "other is worse than mse by more than 0.02"),
        (drawn(-0.022, spread=0.015), "better", "other is better than mse"),
        (
            drawn(0.0, spread=0.002),
            "equivalent within 0.02",
            "other is equivalent to mse within 0.02",
        ),
        (
            drawn(0.01, spread=0.002),
            "different, by less than 0.02",
            "other differs from mse by less than 0.02",
        ),
        (
            drawn(-0.1, n=5),
            "too few pairs: 5, a verdict needs 6",
            "other has no verdict against mse (too few pairs: 5, a verdict needs 6)",
        ),
        (
            diverge(drawn(-0.1, n=6), "other", 4),
            "too few pairs: 2, a verdict needs 6; diverges in 4 of 6 runs, the reference in 0",
            "other has no verdict against mse (too few pairs: 2, a verdict needs 6; "
            "diverges in 4 of 6 runs, the reference in 0)",
        ),
        (
            diverge(drawn(0.0), "other", 8),
            "diverges in 8 of 10 runs",
            "other diverges in 8 of 10 runs",
        ),
        (
            diverge(drawn(0.0), "mse", 9),
            "the reference diverges in 9 of 10 runs",
            "mse diverges in 9 of 10 runs",
        ),
    ],
)
def test_every_verdict_is_told_in_words_and_as_a_clause(values, words, clause):
    row = judged(values).iloc[0]
    assert row.verdict == words
    assert clause in sentence(row)
    assert "diverged" not in sentence(row)  # it is said once


def test_a_comparison_that_no_number_of_seeds_settles_says_so():
    draw = np.random.default_rng(0)
    base = draw.normal(size=10)
    noise = draw.normal(size=10)
    values = {"mse": base, "other": base + 20 * (noise - noise.mean())}
    row = judged(values).iloc[0]
    assert row.verdict == "undecided with 10 seeds, over 100,000 would decide it"


def test_an_undecided_verdict_says_how_many_seeds_would_decide_it():
    row = judged(drawn(0.0, spread=0.2)).iloc[0]
    assert row.verdict == f"undecided with 10 seeds, about {row.seeds_needed:.0f} would decide it"
    assert f"between other and mse it is {row.verdict}" in sentence(row)


def test_a_median_that_has_no_interval_yet_promises_no_decision():
    runs = frame(drawn(0.1, n=8))  # all seeds on one side: what they say with 10 nobody knows
    rule = Rule(metric="rmse", reference="mse", average="median", confidence=0.998)
    table = paired(runs, rule)
    (row,) = verdicts(table, statistics.summary(runs, metrics=["rmse"]), steps=5).to_dict("records")
    assert row["verdict"] == "undecided with 8 seeds, at least 10 give an interval"
    assert 2 * 0.5**10 < 0.002 < 2 * 0.5**9  # two-sided sign tests of 10 and of 9 seeds
    ten = paired(frame(drawn(0.1, n=10)), rule).iloc[0]
    assert ten.verdict == "worse"


def test_a_verdict_that_one_seed_makes_says_so_with_the_median_and_the_seeds_won():
    values = {"mse": np.zeros(10), "other": np.r_[np.linspace(-0.11, -0.09, 9), -3.0]}
    row = paired(frame(values), Rule(metric="rmse", reference="mse")).iloc[0]
    assert row.largest_share > 0.89
    assert fragility(row) == (
        f"one seed makes {row.largest_share:.0%} of the variance: median -0.101, 10 of 10 seeds won"
    )
    assert fragility(row) in sentence(judged(values).iloc[0])
    sound = paired(frame(drawn(-0.1)), Rule(metric="rmse", reference="mse")).iloc[0]
    assert fragility(sound) == ""


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("equivalent", "equivalent within 0.01"),
        ("better by more", "better by more than 0.01"),
        ("below the margin", "different, by less than 0.01"),
        ("undecided", "undecided"),
    ],
)
def test_what_carries_over_to_new_examples_is_told_with_its_margin(verdict, words):
    row = {"examples_verdict": verdict, "examples_low": -0.004, "examples_high": 0.005}
    row |= {"margin": 0.01, "test_examples": 360.0, "limited_by": "examples"}
    assert on_new_examples(row) == (
        f"on new test examples {words} [-0.004, +0.005], limited by 360 test examples"
    )


def test_the_table_begins_with_the_published_columns():
    values = drawn(-0.1)
    row = judged(values).iloc[0]
    estimate = pytest.approx((values["other"] - values["mse"]).mean())
    assert row[:8].to_dict() == {
        "context": "toy × linear",
        "loss": "other",
        "reference": "mse",
        "condition": "own_lr",
        "metric": "rmse",
        "unit": "standard deviations of the training target",
        "direction": "lower",
        "estimate": estimate,
    }
    names = ["low", "high", "fixed_low", "fixed_high", "n", "look", "diverged", "margin"]
    assert [*row.index[8:18]] == [*names, "margin_share", "verdict"]
    assert (row.n, row.margin, row.confidence, row.steps) == (10, 0.02, 0.95, 500)
    assert [*judged({"mse": np.ones(10)}).columns] == [*row.index]  # no comparison, no row


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_an_incomplete_comparison_says_how_many_runs_it_lacks(status):
    runs = frame(drawn(0.0))
    runs.loc[runs.index[:3], ["status", "rmse"]] = [status, np.nan]
    assert row_of(runs).verdict == "incomplete: 3 runs failed or are missing"


def test_a_sentence_names_what_a_reader_must_know():
    text = sentence(judged(drawn(-0.1), best_step=5).iloc[0])
    assert text == (
        "After 500 updates on toy × linear, each loss at its own best learning rate, other is "
        "better than mse by more than 0.02: rmse differs by -0.105 [-0.113, -0.0967] standard "
        "deviations of the training target (95 % simultaneous interval, n = 10 seeds, lower is "
        "better)."
    )
    borrowed = {**judged(drawn(-0.1)).iloc[0], "condition": "reference_lr"}
    assert "every loss at the learning rate of mse" in sentence(borrowed)


@pytest.mark.parametrize("improving", [6, 5], ids=["most", "half"])
@pytest.mark.parametrize("loss", ["other", "mse"])
def test_a_loss_of_which_most_runs_still_improve_is_flagged(loss, improving):
    runs = frame(drawn(-0.1), best_step=5, mae=np.nan)  # another metric says nothing
    runs.loc[(runs.loss == loss) & (runs.seed < improving), "best_step"] = 9
    row = row_of(runs, metrics=["mae", "rmse"])
    assert row.still_improving == (improving == 6)
    assert ("still improving" in sentence(row)) == row.still_improving


def test_an_exploratory_verdict_says_so():
    assert "exploratory" in sentence(judged(drawn(0.1), declared=False).iloc[0])
    assert "exploratory" not in sentence(judged(drawn(0.1)).iloc[0])


def test_a_verdict_over_survivors_counts_who_diverged():
    text = sentence(judged(diverge(drawn(0.1), "other", 2)).iloc[0])
    assert "other is worse than mse" in text
    assert "n = 8 seeds that survived" in text
    assert "other diverged in 2" in text
    none_left = sentence(judged(diverge(drawn(0.0), "other", 10)).iloc[0])
    assert "nan" not in none_left
    assert "no pair of seeds is there to compare" in none_left


def test_a_metric_without_unit_and_the_value_of_a_loss_are_told_apart():
    higher = judged(drawn(0.1), metric="accuracy").iloc[0]
    assert (higher.unit, higher.direction) == ("1", "higher")
    assert higher.verdict == "better by more than 0.02"
    assert "] (95 %" in sentence(higher)
    assert judged(drawn(0.1), metric="loss:mae").unit[0] == "unit of the loss"


def test_each_context_has_its_own_update_budget():
    parts = [frame(drawn(0.1), context=name, label=name) for name in ("c", "d")]
    runs = pd.concat(parts, ignore_index=True)
    table = paired(runs, Rule(metric="rmse", reference="mse"))
    rows = verdicts(table, statistics.summary(runs, metrics=["rmse"]), steps={"c": 100, "d": 900})
    assert rows.set_index("context").steps.to_dict() == {"c": 100, "d": 900}
