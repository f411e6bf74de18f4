"""Verdicts as they are read: the published table and its sentences."""

import numpy as np
import pandas as pd
import pytest
from frames import diverge, drawn, frame

from lossbench import statistics
from lossbench.statistics import paired, sentence, verdicts


def judged(values, *, metric="rmse", reference="mse", steps=500, declared=True, **columns):
    runs = frame(values, metric=metric, **columns)
    table = paired(
        runs,
        metric=metric,
        reference=reference,
        margin=0.02,
        declared=list(values) if declared else (),
    )
    return verdicts(table, statistics.summary(runs, metrics=[metric]), steps=steps)


def row_of(runs, *, metrics=("rmse",)):
    """The one verdict on runs of two losses."""
    table = paired(runs, metric="rmse", reference="mse", margin=0.02)
    return verdicts(table, statistics.summary(runs, metrics=metrics), steps=500).iloc[0]


@pytest.mark.parametrize(
    ("values", "words", "clause"),
    [
        (drawn(-0.1), "better", "other is better than mse"),
        (drawn(0.1), "worse", "other is worse than mse"),
        (
            drawn(0.0, spread=0.002),
            "equivalent within 0.02",
            "other is equivalent to mse within 0.02",
        ),
        (
            drawn(0.01, spread=0.002),
            "different but below 0.02",
            "other is different from mse but below 0.02",
        ),
        (
            drawn(0.0, spread=0.2),
            "not distinguishable with 10 seeds, about 35 needed",
            "other is not distinguishable from mse with 10 seeds, about 35 needed",
        ),
        (
            drawn(-0.1, n=5),
            "too few pairs: 5, a verdict needs 6",
            "other has no verdict against mse (too few pairs: 5, a verdict needs 6)",
        ),
        (
            diverge(drawn(0.0), "other", 2),
            "diverges in 2 of 10 runs",
            "other diverges in 2 of 10 runs",
        ),
        (
            diverge(drawn(0.0), "mse", 3),
            "the reference diverges in 3 of 10 runs",
            "mse diverges in 3 of 10 runs",
        ),
        (
            diverge(diverge(drawn(0.0), "mse", 3), "other", 2),
            "both diverge, in 2 of 10 and 3 of 10 runs",
            "other and mse both diverge, in 2 of 10 and 3 of 10 runs",
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
    assert row.verdict == "not distinguishable with 10 seeds, more than 100,000 needed"


def test_the_table_begins_with_the_published_columns():
    values = drawn(-0.1)
    row = judged(values).iloc[0]
    estimate = pytest.approx((values["other"] - values["mse"]).mean())
    assert row[:8].to_dict() == {
        "task": "toy × linear",
        "loss": "other",
        "reference": "mse",
        "condition": "own_lr",
        "metric": "rmse",
        "unit": "standard deviations of the training target",
        "direction": "lower",
        "estimate": estimate,
    }
    names = ["low", "high", "n", "diverged", "margin", "p_holm", "verdict"]
    assert [*row.index[8:15]] == names
    assert (row.n, row.margin, row.confidence, row.steps) == (10, 0.02, 0.95, 500)
    assert [*judged({"mse": np.ones(10)}).columns] == [*row.index]  # no comparison, no row


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_an_incomplete_comparison_says_how_many_runs_it_lacks(status):
    runs = frame(drawn(0.0))
    runs.loc[runs.index[:3], ["status", "rmse"]] = [status, np.nan]
    assert row_of(runs).verdict == "incomplete: 3 of 20 runs failed or are missing"


def test_a_sentence_names_what_a_reader_must_know():
    text = sentence(judged(drawn(-0.1), best_step=5).iloc[0])
    assert text == (
        "After 500 updates on toy × linear, each loss at its own best learning rate, other is "
        "better than mse: rmse differs by -0.105 [-0.111, -0.098] standard deviations of the "
        "training target (95 % simultaneous interval, n = 10 seeds, lower is better)."
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
    assert (higher.unit, higher.direction, higher.verdict) == ("1", "higher", "better")
    assert "] (95 %" in sentence(higher)
    assert judged(drawn(0.1), metric="loss:mae").unit[0] == "unit of the loss"


def test_each_context_has_its_own_update_budget():
    parts = [frame(drawn(0.1), context=name, label=name) for name in ("c", "d")]
    runs = pd.concat(parts, ignore_index=True)
    table = paired(runs, metric="rmse", reference="mse")
    rows = verdicts(table, statistics.summary(runs, metrics=["rmse"]), steps={"c": 100, "d": 900})
    assert rows.set_index("task").steps.to_dict() == {"c": 100, "d": 900}


def test_a_borrowed_reference_is_counted_where_it_was_trained():
    own = frame(diverge(drawn(0.0), "mse", 2))
    matched = frame({"other": drawn(0.0)["other"]}, condition="scale_matched")
    runs = pd.concat([own, matched], ignore_index=True)
    table = paired(runs, metric="rmse", reference="mse")
    found = verdicts(table, statistics.summary(runs, metrics=["rmse"]), steps=500)
    row = found[found.condition == "scale_matched"].iloc[0]
    assert row.verdict == "the reference diverges in 2 of 10 runs"
    assert "every loss at the rate of mse, initial output gradients scaled alike" in sentence(row)
