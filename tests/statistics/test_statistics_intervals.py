"""Intervals and tests against scipy, closed forms and the slow way."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from frames import drawn, frame
from scipy import stats

from lossbench import statistics
from lossbench.statistics import bootstrap_t, paired, resamples, share, two_level, wilcoxon


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


def crossed(seeds, examples, *, draw, spread=(1.0, 1.0)):
    """Differences that add an effect of the seed and one of the example."""
    a, b = draw.normal(0, spread[0], seeds), draw.normal(0, spread[1], examples)
    rows = itertools.product(range(seeds), range(examples))
    return pd.DataFrame([{"seed": s, "example": e, "difference": a[s] + b[e]} for s, e in rows]), (
        a,
        b,
    )


def test_two_levels_add_the_variances_of_seeds_and_examples():
    rows, (a, b) = crossed(8, 40, draw=np.random.default_rng(0))
    found = two_level(rows, draws=20_000)
    error = np.sqrt(a.var(ddof=1) / 8 + b.var() / 40 * 8 / 7)
    assert found.value == pytest.approx(a.mean() + b.mean())
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 7) * error, rel=0.03)
    assert found.n == 8


def test_a_fixed_test_set_of_few_examples_stays_uncertain_however_many_seeds():
    draw = np.random.default_rng(1)
    widths = []
    for seeds in (10, 160):
        found = two_level(crossed(seeds, 10, draw=draw, spread=(0.1, 1.0))[0], draws=500)
        widths.append(found.high - found.low)
    assert widths[1] > 0.3 * widths[0]  # the seeds' own part falls to a quarter


def test_the_order_of_rows_is_nothing_to_two_levels():
    rows, _ = crossed(6, 12, draw=np.random.default_rng(2))
    assert two_level(rows) == two_level(rows.sample(frac=1, random_state=0))


@pytest.mark.parametrize("spoil", ["drop", "twice", "swap", "nan"])
def test_two_levels_need_every_example_of_every_seed_once(spoil):
    rows, _ = crossed(4, 5, draw=np.random.default_rng(3))
    rows = {
        "drop": rows.iloc[1:],
        "twice": pd.concat([rows, rows.iloc[:1]]),
        "swap": pd.concat([rows.iloc[1:], rows.iloc[1:2]]),
        "nan": rows.assign(difference=rows.difference.where(rows.index != 3)),
    }[spoil]
    with pytest.raises(ValueError, match="4 seeds x 5 examples have"):
        two_level(rows)


@pytest.mark.parametrize(("count", "trials"), [(0, 10), (3, 10), (10, 10)])
def test_a_share_has_clopper_and_pearsons_bounds(count, trials):
    found = share(count, trials, confidence=0.9)
    low = stats.beta.ppf(0.05, count, trials - count + 1) if count else 0.0
    high = stats.beta.ppf(0.95, count + 1, trials - count) if count < trials else 1.0
    assert (found.value, found.low, found.high) == pytest.approx((count / trials, low, high))
    assert np.isnan(share(0, 0).value)


@pytest.mark.parametrize("n", [1, 6, 12, 30])
def test_the_signed_rank_p_is_scipys_without_ties(n):
    values = np.random.default_rng(n).normal(0.4, 1, n)
    assert wilcoxon(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


def test_the_signed_rank_p_counts_every_sign_pattern_with_ties():
    values = np.array([1, 1, -1, 2, 2, 3, -4, 0, 0])
    ranks = stats.rankdata(abs(values[values != 0]))
    seen = ranks[values[values != 0] > 0].sum()
    sums = np.array([ranks @ signs for signs in itertools.product([0, 1], repeat=len(ranks))])
    expected = 2 * min((sums <= seen).mean(), (sums >= seen).mean())
    assert wilcoxon(values) == pytest.approx(expected)
    assert wilcoxon(np.zeros(5)) == 1.0
    assert np.isnan(wilcoxon([np.nan]))


# ---- the columns beside the verdict --------------------------------------------------------------


def versus(values, **keys):
    return paired(
        frame(values), metric="rmse", reference="mse", declared=list(values), **keys
    ).set_index("loss")


def test_the_robust_columns_stand_at_the_level_of_the_verdict():
    draw = np.random.default_rng(0)
    values = {name: draw.normal(size=10) for name in ("mse", "a", "b")}
    row = versus(values).loc["a"]
    difference = values["a"] - values["mse"]
    assert (row.boot_low, row.boot_high) == bootstrap_t(difference, confidence=1 - 0.05 / 2)
    assert row.p_wilcoxon == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert row.smallest_p == 2**-9


def test_rank_tests_are_adjusted_by_holm():
    draw = np.random.default_rng(1)
    values = {name: draw.normal(size=10) for name in ("mse", "a", "b", "c")}
    table = versus(values)
    assert table.p_wilcoxon_holm.to_dict() == statistics.holm(table.p_wilcoxon).to_dict()
    assert (table.p_wilcoxon_holm > table.p_wilcoxon).any()


@pytest.mark.parametrize(("n", "losses", "is_there"), [(6, 1, True), (6, 2, False), (10, 19, True)])
def test_a_rank_test_that_cannot_reach_the_level_is_refused(n, losses, is_there):
    draw = np.random.default_rng(2)
    names = ["mse", *(f"loss{i}" for i in range(losses))]
    table = versus({name: draw.normal(size=n) for name in names})
    assert (2.0 ** (1 - n) <= 0.05 / losses) == is_there
    assert table.p_wilcoxon.notna().all() == is_there
    assert table.p_wilcoxon_holm.notna().all() == is_there
    assert {*table.smallest_p} == {2.0 ** (1 - n)}  # printed also where it is refused


def test_a_refused_rank_test_still_counts_among_the_others():
    values = drawn(-1.0)
    table = versus({**values, "twin": values["mse"].copy()})
    assert table.p_wilcoxon["other"] == 2**-9
    assert table.p_wilcoxon_holm["other"] == 2 * 2**-9
    assert np.isnan(table.p_wilcoxon_holm["twin"])


def test_identical_twins_differ_by_exactly_nothing():
    values = drawn(0.0)
    row = versus({"mse": values["mse"], "twin": values["mse"].copy()}, margin=0.02).loc["twin"]
    assert [row.difference, row.low, row.high, row.boot_low, row.boot_high] == [0.0] * 5
    assert (row.verdict, row.trials, row.smallest_p, row.p) == ("equivalent", 0, 1.0, 1.0)


def test_no_robust_column_decides_a_verdict():
    long_tail = np.r_[np.linspace(0.2, 0.3, 9), 5.0]
    row = versus({"mse": np.zeros(10), "other": long_tail}).loc["other"]
    assert row.boot_low > 0 > row.low
    assert row.p_wilcoxon < 0.05 < row.p
    assert row.verdict == "not distinguishable"


# ---- which scatters more -------------------------------------------------------------------------


def ratio(mine, theirs, **keys):
    table = statistics.spread_ratio(
        frame({"mse": theirs, "other": mine}), metric="rmse", reference="mse", **keys
    )
    return table.iloc[0]


def test_the_limits_of_a_spread_ratio_are_where_the_pitman_morgan_test_turns():
    draw = np.random.default_rng(0)
    theirs = draw.normal(size=12)
    mine = 2 * draw.normal(size=12) + theirs
    row = ratio(mine, theirs, confidence=0.9)
    assert row.value == pytest.approx(mine.var() / theirs.var())
    for limit in (row.low, row.high):  # there the variances would be just equal at this level
        stretched = theirs * np.sqrt(limit)
        assert stats.pearsonr(mine + stretched, mine - stretched).pvalue == pytest.approx(0.1)


def test_twins_scatter_alike_and_a_constant_reference_gives_no_ratio():
    values = drawn(0.0)["mse"]
    row = ratio(values, values)
    assert (row.value, row.low, row.high) == pytest.approx((1, 1, 1), abs=1e-6)
    assert np.isnan(ratio(values, np.ones(10)).value)
    assert ratio(np.ones(10), values).value == 0


def test_a_pair_with_a_diverged_run_is_left_out_of_the_spread():
    values = drawn(0.3, spread=0.4)
    broken = np.where(np.arange(10) == 3, np.nan, values["other"])
    kept = np.arange(10) != 3
    row = ratio(broken, values["mse"])
    assert row.n == 9
    assert row.value == pytest.approx(values["other"][kept].var() / values["mse"][kept].var())


# ---- the benchmark -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_shape_of_the_benchmark_has_mean_zero(benchmark):
    draw = np.random.default_rng(0)
    for name, sample in benchmark.SHAPES.items():
        values = sample(draw, (400_000,))
        assert abs(values.mean()) < 5 * values.std() / np.sqrt(len(values)), name


def test_the_benchmark_finds_the_exact_coverage_and_rate_of_false_claims(benchmark):
    coverage = benchmark.coverage("normal", "paired t", pairs=10, replicates=2000)
    assert stats.binomtest(round(coverage.value * 2000), 2000, 0.95).pvalue > 1e-3
    one, many = (benchmark.false_claims(m, pairs=10, replicates=2000) for m in (1, 7))
    assert stats.binomtest(round(one.value * 2000), 2000, 0.05).pvalue > 1e-3
    assert many.low <= 0.05  # Bonferroni bounds it from above
    count = round(many.value * 2000)
    assert many.high == pytest.approx(stats.beta.ppf(0.99, count + 1, 2000 - count))


def test_the_benchmark_prints_a_row_for_every_shape_and_family(benchmark):
    text = benchmark.table(50)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == len(benchmark.SHAPES) + len(benchmark.LOSSES) + 2
