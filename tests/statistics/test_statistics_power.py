"""The planner: against simulation and its own inverse."""

import numpy as np
import pandas as pd
import pytest
from frames import frame
from scipy import stats

from lossbench.statistics import Rule, mean_interval, minimum_detectable_effect, pairs_for, spreads
from lossbench.statistics.choice import candidates

CASES = [(6, 1), (10, 1), (10, 19), (20, 4), (40, 7)]


@pytest.mark.parametrize(("pairs", "comparisons"), CASES)
def test_the_power_is_met_by_simulated_verdicts(pairs, comparisons):
    found = minimum_detectable_effect(1.0, pairs=pairs, comparisons=comparisons)
    values = np.random.default_rng(0).normal(size=(40_000, pairs))
    low, high = mean_interval(values, confidence=1 - 0.05 / comparisons)
    told = (low + found.difference > 0) | (high + found.difference < 0)
    equal = (low >= -found.margin) & (high <= found.margin) & (low <= 0) & (high >= 0)
    # The length of an interval is taken at its mean, which matters where pairs are few.
    assert told.mean() == pytest.approx(0.8, abs=0.01)
    assert equal.mean() == pytest.approx(0.8, abs=0.02 if pairs > 10 else 0.05)


def test_fewer_than_six_pairs_resolve_nothing():
    assert minimum_detectable_effect(0.1, pairs=5, comparisons=1) == (np.inf, np.inf)


def test_no_margin_reaches_a_power_above_the_level():
    assert (
        minimum_detectable_effect(1.0, pairs=10, comparisons=1, confidence=0.9, power=0.92).margin
        == np.inf
    )


@pytest.mark.parametrize("size", [0.05, 0.3, 1.0])
def test_the_pairs_for_a_size_are_the_fewest_that_resolve_it(size):
    needed = pairs_for(0.4, size=size, comparisons=4)
    for kind in ("difference", "margin"):
        n = int(getattr(needed, kind))
        assert getattr(minimum_detectable_effect(0.4, pairs=n, comparisons=4), kind) <= size
        assert getattr(minimum_detectable_effect(0.4, pairs=n - 1, comparisons=4), kind) > size


def test_a_size_far_below_the_spread_needs_infinitely_many_pairs_and_no_spread_the_fewest():
    assert pairs_for(1.0, size=1e-4, comparisons=1) == (np.inf, np.inf)
    assert pairs_for(0.0, size=0.01, comparisons=1) == (6, 6)


# ---- spreads from runs ---------------------------------------------------------------------------


def tuned(values):
    """Runs from {loss: {lr: values by seed on validation}}."""
    parts = [
        frame({loss: numbers}).assign(lr=lr)
        for loss, rates in values.items()
        for lr, numbers in rates.items()
    ]
    runs = pd.concat(parts, ignore_index=True)
    return runs.assign(selected_by=runs.rmse, candidate=candidates(runs, tuned=[]))


def test_the_spread_is_that_of_differences_at_each_losss_own_best_rate():
    draw = np.random.default_rng(0)
    mse, other = draw.normal(size=(2, 5))
    runs = tuned({"mse": {0.1: mse, 1.0: mse + 9}, "other": {0.1: mse + 9, 1.0: other}})
    row = spreads(runs, Rule(metric="rmse", reference="mse")).iloc[0]
    assert (row.loss, row.pairs) == ("other", 5)
    assert row.spread == pytest.approx(np.std(other - mse, ddof=1))
    # It exceeds the true spread in four of five samples: 4 s²/σ² is chi-squared of 4 degrees.
    assert stats.chi2.cdf(4 * (row.spread / row.spread_upper) ** 2, 4) == pytest.approx(0.2)


def test_a_diverged_pair_gives_no_spread_and_a_missing_reference_no_row():
    runs = tuned({"mse": {0.1: [1.0, 2.0, np.nan]}, "other": {0.1: [np.nan, 3.0, 5.0]}})
    row = spreads(runs, Rule(metric="rmse", reference="mse")).iloc[0]
    assert row.pairs == 1
    assert np.isnan([row.spread, row.spread_upper]).all()
    assert spreads(runs, Rule(metric="rmse", reference="absent")).empty


def test_the_spread_is_of_the_metric_whatever_chooses_and_however_seeds_are_summarised():
    base = np.arange(5.0)
    steady, risky = base + np.array([1, 1, 2, 1, 1]), base + np.array([0, 0, 30, 0, 0])
    runs = tuned({"mse": {0.1: base}, "other": {0.1: steady, 1.0: risky}})
    for average, values in (("mean", steady), ("median", risky)):
        row = spreads(runs, Rule(metric="rmse", reference="mse", average=average)).iloc[0]
        assert row.spread == pytest.approx(np.std(values - base, ddof=1))
    other = runs.assign(accuracy=-runs.rmse, selected_by=runs.rmse)  # accuracy: higher is better
    row = spreads(
        other.assign(accuracy=5.0), Rule(metric="accuracy", reference="mse", select="rmse")
    )
    assert row.spread.tolist() == [0.0]
    row = spreads(other, Rule(metric="accuracy", reference="mse", select="rmse")).iloc[0]
    assert row.spread == pytest.approx(np.std(steady - base, ddof=1))  # not that of the worst rate
