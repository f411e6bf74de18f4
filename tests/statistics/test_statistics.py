import numpy as np
import pandas as pd
import pytest
from frames import diverge, drawn, frame
from scipy import stats
from sweep_on_disk import SMALL, build, plan_runs, with_status

from lossbench import records, statistics
from lossbench.statistics import FACTS, contexts, paired


def verdict(values, *, margin=0.02, declared=("mse", "other"), metric="rmse", reference="mse"):
    table = paired(
        frame(values, metric=metric),
        metric=metric,
        reference=reference,
        margin=margin,
        declared=declared,
    )
    return table.set_index("loss").verdict["other"]


def test_an_estimate_is_scipys_t_interval_of_the_finite_values():
    values = np.array([1.0, 2.0, 4.0, 8.0, np.nan, np.inf])
    estimate = statistics.estimate(values, confidence=0.9)
    expected = stats.ttest_1samp(values[:4], 0).confidence_interval(0.9)
    assert (estimate.value, estimate.n) == (3.75, 4)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), rel=1e-12)
    lonely = statistics.estimate([3.0])
    assert lonely.n == 1
    assert np.isnan([lonely.low, lonely.high]).all()


@pytest.mark.parametrize("challengers", [1, 4])
def test_comparisons_are_scipys_paired_t_tests_at_the_level_of_bonferroni(challengers):
    draw = np.random.default_rng(1)
    values = {name: draw.normal(size=10) for name in ["mse", *"abcd"[:challengers]]}
    runs = frame(values).sample(frac=1, random_state=0)  # the order of rows is nothing
    table = paired(runs, metric="rmse", reference="mse", declared=list(values))
    for row in table.itertuples():
        expected = stats.ttest_rel(values[row.loss], values["mse"])
        interval = expected.confidence_interval(1 - 0.05 / challengers)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
        assert row.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert (row.pairs, row.comparisons) == (10, challengers)


def test_holm_equals_a_case_computed_by_hand():
    p = pd.Series([0.01, 0.04, 0.03, np.nan, 0.005], index=list("abcde"))
    found = statistics.holm(p)
    assert found.dropna().to_dict() == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "e": 0.02})
    assert np.isnan(found["d"])


@pytest.mark.parametrize(
    ("diverging", "shift", "expected"),
    [
        ("other", -0.1, "diverges"),
        ("other", 0.1, "worse"),
        ("other", 0.0, "diverges"),
        ("mse", -0.1, "better"),
        ("mse", 0.1, "reference diverges"),
        ("mse", 0.0, "reference diverges"),
    ],
)
def test_who_diverges_is_never_better_or_equivalent_and_can_only_be_beaten(
    diverging, shift, expected
):
    assert verdict(diverge(drawn(shift, spread=0.002), diverging, 2)) == expected


def test_ties_hide_no_divergence():
    tied = np.full(10, 0.9)
    other = np.r_[tied[:4] + 0.03, tied[4:9], np.nan]
    values = {"mse": tied, "other": other}
    assert verdict(values, metric="accuracy", margin=0.01) == "diverges"


def test_no_survivors_is_still_a_verdict_and_every_diverged_run_is_a_lost_trial():
    values = diverge(drawn(0.0), "other", 10)
    row = paired(frame(values), metric="rmse", reference="mse", declared=list(values)).iloc[0]
    assert row.verdict == "diverges"
    assert (row.pairs, row.diverged, row.wins, row.trials) == (0, 10, 0, 10)
    both = diverge(values, "mse", 3)
    assert verdict(both) == "both diverge"


def test_the_binomial_interval_of_wins_is_scipys():
    row = paired(frame(drawn(-0.1)), metric="rmse", reference="mse").iloc[0]
    expected = stats.binomtest(10, 10).proportion_ci()
    assert (row.wins, row.win_low, row.win_high) == (10, expected.low, expected.high)


def test_a_loss_outside_the_declaration_is_exploratory_and_counts_everyone():
    draw = np.random.default_rng(3)
    values = {name: draw.normal(size=10) for name in ("mse", "a", "b", "late")}
    table = paired(frame(values), metric="rmse", reference="mse", declared=["mse", "a", "b"])
    found = table.set_index("loss")
    assert found.comparisons.to_dict() == {"a": 2, "b": 2, "late": 3}
    assert found.exploratory.to_dict() == {"a": False, "b": False, "late": True}
    without = paired(
        frame({name: values[name] for name in ("mse", "a", "b")}),
        metric="rmse",
        reference="mse",
        declared=["mse", "a", "b"],
    ).set_index("loss")
    for name in ("low", "high", "p_holm"):  # what was declared does not move when a loss is added
        assert found[name][["a", "b"]].tolist() == without[name].tolist()


@pytest.mark.parametrize(("shift", "margin"), [(0.08, 0.0), (0.02, 0.2)])
def test_the_pairs_needed_settle_it_in_four_cases_of_five_were_mean_and_spread_true(shift, margin):
    row = paired(
        frame(drawn(shift, spread=0.2)), metric="rmse", reference="mse", margin=margin
    ).iloc[0]
    assert row.verdict == "not distinguishable"
    mean, spread, n = abs(row.difference), np.std(row.differences, ddof=1), int(row.pairs_needed)
    samples = np.random.default_rng(0).normal(mean, spread, (4000, n))
    half = stats.t.ppf(0.975, n - 1) * samples.std(1, ddof=1) / np.sqrt(n)
    low, high = samples.mean(1) - half, samples.mean(1) + half
    is_found = low > 0
    fits = (low <= 0) & (-margin <= low) & (high <= margin)
    assert (is_found | fits).mean() > 0.77
    if margin == 0:
        assert is_found.mean() == pytest.approx(0.8, abs=0.03)
    settled = paired(frame(drawn(0.3)), metric="rmse", reference="mse").iloc[0]
    assert np.isnan(settled.pairs_needed)


def test_a_metric_without_a_value_in_some_runs_gives_no_verdict_and_no_wins():
    runs = frame(drawn(-0.1))
    runs.loc[(runs.loss == "other") & (runs.seed < 4), "rmse"] = np.nan
    row = paired(runs, metric="rmse", reference="mse").iloc[0]
    assert (row.verdict, row.undefined, row.pairs) == ("undefined", 4, 6)
    assert (row.wins, row.trials) == (6, 6)


def test_losses_that_were_declared_and_are_absent_still_count_in_the_family():
    values = drawn(0.05)
    table = paired(
        frame(values),
        metric="rmse",
        reference="mse",
        declared=["mse", "other"],
        declared_challengers=4,
    )
    expected = stats.ttest_rel(values["other"], values["mse"]).confidence_interval(1 - 0.05 / 4)
    assert (table.low[0], table.high[0]) == pytest.approx((expected.low, expected.high), rel=1e-12)


@pytest.mark.parametrize("column", list(statistics.CURES))
def test_runs_with_different_fingerprints_are_refused_with_seed_column_and_cure(column):
    runs = frame(drawn(0.0))
    runs.loc[(runs.loss == "other") & (runs.seed == 4), column] = "else"
    with pytest.raises(ValueError, match=rf"seed 4 of toy × linear: {column} differs") as caught:
        paired(runs, metric="rmse", reference="mse")
    assert "mse" in str(caught.value)
    assert statistics.CURES[column] in str(caught.value)


def test_two_learning_rates_of_one_loss_are_refused():
    runs = frame(drawn(0.0))
    twice = pd.concat([runs, runs[runs.loss == "other"].assign(lr=0.5)])
    with pytest.raises(ValueError, match="seed 0 of toy × linear: other has several runs"):
        paired(twice, metric="rmse", reference="mse")


def test_an_unknown_family_or_endpoint_is_refused():
    with pytest.raises(ValueError, match="'galaxy' is unknown: declare 'task'"):
        paired(frame(drawn(0.0)), metric="rmse", reference="mse", family="galaxy")
    with pytest.raises(ValueError, match="'first' is unknown: use 'last' or 'best'"):
        statistics.endpoint(
            pd.DataFrame(), pd.DataFrame(), split="test", metric="a", endpoint="first"
        )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    runs = with_status(plan_runs(), "missing", count=2, stage="confirm", loss="mae")
    runs = with_status(runs, "failed", count=1, stage="tune", loss="mse")
    return records.load(build(tmp_path_factory.mktemp("sweeps") / "small", runs))


def test_loss_rate_seed_and_stage_do_not_split_a_context(sweep):
    placed = contexts(sweep.runs)
    assert sorted(placed.label.unique()) == ["diabetes × mlp", "digits × mlp"]
    assert placed.context.nunique() == 2
    assert (placed.variant == sweep.runs.loss).all()


@pytest.mark.parametrize("endpoint", ["last", "best"])
def test_the_endpoint_is_the_value_at_the_declared_step(sweep, endpoint):
    confirm = sweep.runs[sweep.runs.stage == "confirm"]
    found = statistics.endpoint(
        confirm, sweep.evals, split="test", metric=["rmse", "accuracy"], endpoint=endpoint
    )
    run = found[(found.task == "regression") & (found.status == "done")].iloc[3]
    rows = sweep.evals[(sweep.evals.run_id == run.run_id) & (sweep.evals.metric == "rmse")]
    validation = rows[rows.split == "validation"].set_index("step")["value"]
    step = 500 if endpoint == "last" else validation.idxmin()
    assert run.best_step == validation.idxmin()
    assert run.rmse == rows[(rows.split == "test") & (rows.step == step)]["value"].iloc[0]
    assert np.isnan(run.accuracy)
    assert len(found) == len(confirm)


def test_summary_counts_what_its_mean_leaves_out(sweep):
    confirm = sweep.runs[sweep.runs.stage == "confirm"]
    found = statistics.endpoint(confirm, sweep.evals, split="test", metric="rmse")
    table = statistics.summary(found[found.task == "regression"], metrics=["rmse"])
    mae = table.set_index("loss").loc["mae"]
    assert (mae.planned, mae.missing, mae.n) == (8, 2, 6)
    values = found[(found.loss == "mae")].rmse.dropna()
    assert (mae.low, mae.high) == pytest.approx(
        tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95)), rel=1e-9
    )
    done = found[(found.loss == "mae") & (found.status == "done")]
    assert mae.improving == (done.best_step == done.stop_step).sum() > 0


def test_the_divergence_rate_leaves_out_what_did_not_end(sweep):
    table = statistics.divergence_rates(sweep.runs).set_index(["stage", "loss"])
    quartic, mse = table.loc[("tune", "quartic")], table.loc[("tune", "mse")]
    assert (quartic.diverged, quartic.n, mse.n) == (4, 9, 8)  # one of mse failed
    expected = stats.binomtest(4, 9).proportion_ci()
    assert (quartic.value, quartic.low, quartic.high) == pytest.approx((4 / 9, *expected))


def test_the_course_of_a_loaded_sweep_counts_every_run_that_ended(sweep):
    ended = sweep.runs.status.isin(["done", "diverged"]).sum()
    table = statistics.convergence(sweep.runs, statistics.signals(sweep), sweep.evals)
    assert statistics.converged(table).n.sum() == len(table) == ended
    regression = sweep.runs[sweep.runs.task == "regression"]
    times = statistics.time_to(
        regression, sweep.evals, metric="rmse", target=0.6, split="validation"
    )
    assert times.n.sum() == regression.status.isin(["done", "diverged"]).sum()
    assert 0 < times.reached.sum() < times.n.sum()


def test_curves_average_over_seeds_at_every_step(sweep):
    runs = sweep.runs[(sweep.runs.stage == "confirm") & (sweep.runs.loss == "mse")]
    rows = statistics.joined(sweep.steps, runs)
    found = statistics.curves(rows, value="gradient_norm", geometric=True).set_index("step")
    logs = np.log(rows[rows.step == 100].gradient_norm.astype(float))
    assert found.value[100] == pytest.approx(np.exp(logs.mean()))
    low = stats.ttest_1samp(logs, 0).confidence_interval(0.95).low
    assert found.low[100] == pytest.approx(np.exp(low))
    assert set(found.n) == {8}
    assert set(FACTS) <= set(found.columns)


@pytest.mark.parametrize("measure", ["gradient_norm", "signal_per_error", "cosine"])
def test_courses_asked_in_sql_are_the_curves_of_the_frames(sweep, measure):
    runs = statistics.placed(sweep.runs[sweep.runs.stage == "confirm"])
    steps = sweep.steps.assign(
        signal_per_error=sweep.steps.output_gradient_norm / sweep.steps.error_norm
    )
    rows = statistics.joined(steps, sweep.runs[sweep.runs.stage == "confirm"])
    keys = [*FACTS, "step"]
    expected = statistics.curves(rows, value=measure, geometric=measure != "cosine")
    got = statistics.courses(sweep, runs)
    got = got[got.measure == measure].sort_values(keys)[[*keys, "value", "low", "high", "n"]]
    expected = expected.sort_values(keys)[[*keys, "value", "low", "high", "n"]]
    pd.testing.assert_frame_equal(
        got.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False, rtol=1e-6
    )


def test_courses_leave_out_what_is_no_number_or_no_norm(sweep):
    runs = statistics.placed(sweep.runs[sweep.runs.stage == "confirm"])

    class Altered:
        def sql(self, query, **frames):
            query = query.replace("select * from steps", "select * from broken")
            steps = sweep.steps.assign(
                cosine=sweep.steps.cosine.mask(sweep.steps.seed == 0, np.nan),
                gradient_norm=sweep.steps.gradient_norm.mask(sweep.steps.seed == 1, 0.0),
                error_norm=sweep.steps.error_norm.mask(sweep.steps.seed == 2, np.inf),
            )
            return sweep.sql(query, broken=steps, **frames)

    got = statistics.courses(Altered(), runs)
    huber = got[(got.loss == "huber") & (got.step == 100)].set_index("measure")
    assert huber.n.to_dict() == {"cosine": 7, "gradient_norm": 7, "signal_per_error": 7}
    assert np.isfinite(huber.value).all()


def test_the_best_learning_rate_has_fewest_diverged_runs_then_the_best_mean(sweep):
    tune = sweep.runs[sweep.runs.stage == "tune"]
    found = statistics.endpoint(tune, sweep.evals, split="validation", metric="rmse")
    table = statistics.learning_rates(found[found.task == "regression"], metric="rmse")
    quartic = table[table.loss == "quartic"].set_index("lr")
    assert quartic.diverged.to_dict() == {0.01: 0, 0.1: 1, 1.0: 3}
    assert quartic.best.to_dict() == {0.01: True, 0.1: False, 1.0: False}
    assert (table.groupby("loss").best.sum() == 1).all()
    kept = statistics.at_best_rate(found[found.task == "regression"], metric="rmse")
    assert len(kept[["loss", "lr"]].drop_duplicates()) == len({*kept.loss})


def test_a_loss_that_always_diverges_keeps_one_learning_rate_and_has_no_best(sweep):
    runs = frame(diverge(drawn(0.0), "other", 10), run_id="x")
    runs = pd.concat([runs, runs.assign(lr=0.5)])
    assert not statistics.learning_rates(runs, metric="rmse").query("loss == 'other'").best.any()
    assert statistics.at_best_rate(runs, metric="rmse").groupby("loss").lr.nunique().to_dict() == {
        "mse": 1,
        "other": 1,
    }


def test_completeness_names_what_is_not_there(sweep):
    table = statistics.completeness(sweep.runs).set_index(["stage", "label"])
    confirm = table.loc[("confirm", "diabetes × mlp")]
    assert (confirm.planned, confirm.done, confirm.missing) == (32, 30, 2)
    assert confirm.unfinished == "mae lr=0.1 seed=0 missing; mae lr=0.1 seed=1 missing"
    assert "failed (MemoryError)" in " ".join(table.unfinished)
    assert table.planned.sum() == len(plan_runs(SMALL))


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_a_run_that_failed_or_is_missing_gives_no_verdict(status):
    runs = frame(drawn(0.5))
    runs.loc[(runs.loss == "other") & (runs.seed == 4), ["status", "rmse"]] = [status, np.nan]
    row = paired(runs, metric="rmse", reference="mse", margin=0.02).iloc[0]
    assert row.verdict == "incomplete"
