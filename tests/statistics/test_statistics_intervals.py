"""Intervals and tests against scipy, closed forms and the slow way."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from frames import drawn, frame
from scipy import stats

from lossbench import statistics
from lossbench.statistics import Rule, bootstrap_t, paired, resamples, share


def the_slow_way(values, *, confidence, draws):
    """Bootstrap-t with one resample at a time, from Efron's definition."""
    n, found = len(values), []
    for counts in resamples(n, draws=draws).astype(int):
        sample = np.repeat(values, counts)
        found.append((sample.mean() - values.mean()) / sample.std(ddof=1))
    tail = round((draws + 1) * (1 - confidence) / 2) - 1
    ordered = np.sort(found)
    return values.mean() - ordered[[-1 - tail, tail]] * values.std(ddof=1)


def test_bootstrap_t_of_a_stack_of_samples_is_the_slow_way_of_each():
    values = np.random.default_rng(0).exponential(size=(2, 3, 10))
    low, high = bootstrap_t(values, confidence=0.9, draws=999)
    assert low.shape == high.shape == (2, 3)
    slow = the_slow_way(values[1, 2], confidence=0.9, draws=999)
    assert np.allclose((low[1, 2], high[1, 2]), slow, rtol=1e-12)


def test_constant_values_are_their_own_interval_and_one_value_has_none():
    assert bootstrap_t(np.full(10, 0.1) * 3) == (0.1 * 3, 0.1 * 3)
    assert bootstrap_t(np.zeros((4, 5)))[0].tolist() == [0.0] * 4
    assert np.isnan(bootstrap_t(np.array([3.0]))).all()


def test_the_seed_of_the_resamples_is_used():
    values = np.random.default_rng(4).normal(size=10)
    assert bootstrap_t(values, seed=1) == bootstrap_t(values, seed=1)
    assert bootstrap_t(values, seed=1) != bootstrap_t(values, seed=2)
    assert (resamples(7, draws=50).sum(-1) == 7).all()


@pytest.mark.parametrize(("count", "trials"), [(0, 10), (3, 10), (10, 10)])
def test_a_share_has_clopper_and_pearsons_bounds(count, trials):
    found = share(count, trials, confidence=0.9)
    low = stats.beta.ppf(0.05, count, trials - count + 1) if count else 0.0
    high = stats.beta.ppf(0.95, count + 1, trials - count) if count < trials else 1.0
    assert (found.value, found.low, found.high) == pytest.approx((count / trials, low, high))
    assert np.isnan(share(0, 0).value)


# ---- the columns beside the verdict --------------------------------------------------------------


def versus(values, **keys):
    rule = Rule(metric="rmse", reference="mse", **keys)
    return paired(frame(values), rule, declared=list(values)).set_index("loss")


def test_the_robust_columns_stand_at_the_level_of_the_verdict():
    draw = np.random.default_rng(0)
    values = {name: draw.normal(size=10) for name in ("mse", "a", "b")}
    row = versus(values).loc["a"]
    difference = values["a"] - values["mse"]
    assert (row.boot_low, row.boot_high) == bootstrap_t(difference, confidence=1 - 0.05 / 2)


def test_identical_twins_differ_by_exactly_nothing():
    values = drawn(0.0)
    row = versus({"mse": values["mse"], "twin": values["mse"].copy()}, margin=0.02).loc["twin"]
    assert [row.difference, row.low, row.high, row.boot_low, row.boot_high] == [0.0] * 5
    assert (row.verdict, row.won) == ("equivalent", 0)


def hits(counts, examples):
    """Accuracy by seed; a third loss shows what one example is worth."""
    shares = np.asarray(counts) / examples
    return {"mse": np.full(10, 30 / examples), "other": shares, "third": np.full(10, 29 / examples)}


def judged_on(counts, examples):
    runs = frame(hits(counts, examples)).rename(columns={"rmse": "accuracy"})
    table = paired(runs, Rule(metric="accuracy", reference="mse", margin=0.01))
    return table.set_index("loss").loc["other"]


def test_seeds_that_agree_on_few_test_examples_are_not_equivalent_within_less_than_these_show():
    alike = np.full(10, 30)
    row = judged_on(alike, 36)
    # None of 360 predictions differed: at this level up to log(2 / 0.025) / 360 of them may.
    assert (row.low, row.high) == pytest.approx((-np.log(80) / 360, np.log(80) / 360))
    assert row.verdict == "undecided"
    assert judged_on(alike, 360).verdict == "equivalent"


def test_one_image_of_360_on_one_seed_of_ten_leaves_losses_equivalent_within_a_hundredth():
    row = judged_on([30] * 9 + [31], 360)
    assert 0 < row.high < 0.01
    assert row.verdict == "equivalent"


def test_no_robust_column_decides_a_verdict():
    long_tail = np.r_[np.linspace(0.2, 0.3, 9), 5.0]
    row = versus({"mse": np.zeros(10), "other": long_tail}).loc["other"]
    assert row.boot_low > 0 > row.low
    assert row.verdict == "undecided"


# ---- the benchmark -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_finds_the_known_rate_of_false_claims_of_t(benchmark):
    # Independent normal differences, one look: each of m misses at .05 / m.
    its = benchmark.judged("normal", 4, families=2000, looks=(10,), interval=statistics.t_interval)
    claims = benchmark.false_claims(its)
    count = round(claims.value * 2000)
    assert count == its.missed.sum()
    assert stats.binomtest(count, 2000, 1 - (1 - 0.05 / 4) ** 4).pvalue > 1e-3
    assert claims.high == pytest.approx(stats.beta.ppf(0.99, count + 1, 2000 - count))


@pytest.mark.parametrize("noise", ["exponential", "minus exponential", "one bad seed in ten"])
@pytest.mark.parametrize("losses", [4, 20])
def test_families_claim_what_is_not_there_in_at_most_one_of_twelve(benchmark, noise, losses):
    its = benchmark.judged(noise, losses, families=500)
    assert benchmark.false_claims(its).low <= 0.05
    of_t = benchmark.judged(noise, losses, families=500, interval=statistics.t_interval)
    assert benchmark.false_claims(of_t).value > 1.5 * benchmark.false_claims(its).value
