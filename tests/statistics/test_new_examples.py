"""Seeds x test examples: the interval for new examples, by hand and by simulation."""

import numpy as np
import pandas as pd
import pytest
from frames import frame
from scipy import stats

from lossbench.statistics import Rule, paired
from lossbench.statistics.new_examples import contributions, variance_of_examples

SPREADS = [
    (1, 1, 1),
    *(pytest.param(one, marks=pytest.mark.exhaustive) for one in [(0.1, 1, 3), (0, 2, 1)]),
]


def crossed(draw, seeds=10, examples=40, *, spread=(1.0, 1.0, 1.0), mean=0.0):
    """Differences that add effects of the seed and the example, and noise of both."""
    of_seed, of_example, of_both = spread
    return (
        mean
        + of_seed * draw.normal(size=(seeds, 1))
        + of_example * draw.normal(size=(1, examples))
        + of_both * draw.normal(size=(seeds, examples))
    )


def test_it_is_the_component_of_a_two_way_analysis_of_variance():
    values = crossed(np.random.default_rng(0), 6, 9)
    n, m = values.shape
    total = ((values - values.mean()) ** 2).sum()
    rows = m * ((values.mean(1) - values.mean()) ** 2).sum()
    columns = n * ((values.mean(0) - values.mean()) ** 2).sum()
    left = (total - rows - columns) / ((n - 1) * (m - 1))
    known = (columns / (m - 1) - left) / n / m
    assert variance_of_examples(values) == pytest.approx(max(known, 0))


def test_examples_that_do_not_differ_add_nothing():
    seeds = np.random.default_rng(1).normal(size=8)
    assert variance_of_examples(np.repeat(seeds[:, None], 30, axis=1)) == 0


@pytest.mark.parametrize("spread", SPREADS)
def test_on_average_it_is_the_variance_of_the_examples_over_their_number(spread):
    draw = np.random.default_rng(2)
    drawn = [variance_of_examples(crossed(draw, spread=spread)) for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(spread[1] ** 2 / 40, rel=0.1)


def recorded(values):
    """Table `examples` of runs with some values, [n, m], named by seed."""
    rows = [
        {"run_id": f"{loss}{seed}", "example": example, "value": value}
        for loss, its in values.items()
        for seed, row in enumerate(its)
        for example, value in enumerate(row)
    ]
    return pd.DataFrame(rows)


def pair(values, *, declared=(), **rule):
    """The one comparison of two losses whose results are means over test examples."""
    means = {loss: its.mean(1) for loss, its in values.items()}
    runs = frame(means)
    runs = runs.assign(run_id=runs.loss + runs.seed.astype(str))
    rule = Rule(metric="rmse", reference="mse", **rule)
    return paired(runs, rule, declared=declared, examples=recorded(values)).iloc[0]


@pytest.mark.parametrize("spread", SPREADS)
def test_the_interval_for_new_examples_holds_the_mean_of_all_seeds_and_examples(spread):
    draw, covered, by_seeds = np.random.default_rng(3), 0, 0
    for _ in range(60):
        other = crossed(draw, spread=spread)
        row = pair({"mse": np.zeros_like(other), "other": other})
        covered += row.examples_low <= 0 <= row.examples_high
        by_seeds += row.low <= 0 <= row.high
        assert row.examples_low <= row.low < row.high <= row.examples_high
    assert covered / 60 >= 0.93
    assert by_seeds <= covered


def test_what_the_examples_add_stands_beside_each_side_of_the_interval():
    other = crossed(np.random.default_rng(4), mean=0.3)
    row = pair({"mse": np.zeros_like(other), "other": other}, margin=0.1)
    half = stats.t.ppf(0.5 + row.level / 2, 39) * np.sqrt(variance_of_examples(other))
    assert row.examples_high - row.difference == pytest.approx(
        np.hypot(row.high - row.difference, half)
    )
    assert row.test_examples == 40


def test_many_seeds_are_limited_by_few_examples_and_few_seeds_by_themselves():
    draw = np.random.default_rng(5)
    few_examples = crossed(draw, 40, 10, spread=(0.1, 1, 0.1))
    few_seeds = crossed(draw, 6, 400, spread=(1, 0.1, 0.1))
    for other, limit in ((few_examples, "test examples"), (few_seeds, "seeds")):
        row = pair({"mse": np.zeros_like(other), "other": other})
        assert row.limited_by == limit


def test_contributions_come_in_the_order_of_the_runs_and_are_none_where_one_lacks():
    rows = [
        {"run_id": run, "example": example, "value": 10 * place + example}
        for place, run in enumerate("ab")
        for example in (1, 0, 2)
    ]
    examples = pd.DataFrame(rows)
    np.testing.assert_array_equal(contributions(examples, ["b", "a"]), [[10, 11, 12], [0, 1, 2]])
    assert contributions(examples, ["a", "c"]) is None
    assert contributions(examples.iloc[1:], ["a", "b"]) is None
