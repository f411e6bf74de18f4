import numpy as np
import pandas as pd
import pytest
from frames import diverge, drawn, frame
from known_interval import interval
from scipy import stats
from sweep_on_disk import SMALL, build, plan_runs, with_status

from lossbench import records, statistics
from lossbench.statistics import FACTS, Rule, paired
from lossbench.statistics.design import contexts


def verdict(values, *, margin=0.02, declared=("mse", "other"), metric="rmse", reference="mse"):
    table = paired(
        frame(values, metric=metric),
        Rule(metric=metric, reference=reference, margin=margin),
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
def test_comparisons_have_the_interval_of_a_mean_at_the_level_of_bonferroni(challengers):
    draw = np.random.default_rng(1)
    values = {name: draw.normal(size=10) for name in ["mse", *"abcd"[:challengers]]}
    runs = frame(values).sample(frac=1, random_state=0)  # the order of rows is nothing
    table = paired(runs, Rule(metric="rmse", reference="mse"), declared=list(values))
    for row in table.itertuples():
        expected = interval(values[row.loss] - values["mse"], 1 - 0.05 / challengers)
        assert (row.difference, row.low, row.high) == pytest.approx(expected, rel=1e-12)
        assert (row.fixed_low, row.fixed_high) == (row.low, row.high)  # nothing was chosen
        assert (row.pairs, row.comparisons) == (10, challengers)


@pytest.mark.parametrize(
    ("diverging", "count", "shift", "expected"),
    [
        ("other", 1, -0.1, "better by more"),
        ("other", 1, 0.1, "worse by more"),
        ("mse", 1, -0.1, "better by more"),
        ("other", 4, 0.0, "equivalent"),
        ("other", 5, 0.0, "too few pairs"),  # p = .06
        ("other", 10, 0.0, "diverges"),
        ("mse", 7, 0.0, "reference diverges"),  # p = .016, and half of .05 may err
    ],
)
def test_a_divergence_vetoes_nothing_and_confirms_nothing(diverging, count, shift, expected):
    assert verdict(diverge(drawn(shift, spread=0.002), diverging, count)) == expected


def test_many_divergences_are_judged_by_the_exact_paired_test():
    values = diverge(drawn(-0.1, n=20), "other", 7)
    row = paired(frame(values), Rule(metric="rmse", reference="mse"), declared=list(values)).iloc[0]
    assert (row.verdict, row.diverged, row.reference_diverged) == ("diverges", 7, 0)
    assert row.p_diverged == stats.binomtest(7, 7).pvalue < 0.05
    both = paired(frame(diverge(values, "mse", 7)), Rule(metric="rmse", reference="mse")).iloc[0]
    assert (both.verdict, both.p_diverged, both.pairs) == ("better", 1.0, 13)


def test_a_loss_outside_the_declaration_is_exploratory_and_counts_everyone():
    draw = np.random.default_rng(3)
    values = {name: draw.normal(size=10) for name in ("mse", "a", "b", "late")}
    table = paired(frame(values), Rule(metric="rmse", reference="mse"), declared=["mse", "a", "b"])
    found = table.set_index("loss")
    assert found.comparisons.to_dict() == {"a": 2, "b": 2, "late": 3}
    assert found.exploratory.to_dict() == {"a": False, "b": False, "late": True}
    without = paired(
        frame({name: values[name] for name in ("mse", "a", "b")}),
        Rule(metric="rmse", reference="mse"),
        declared=["mse", "a", "b"],
    ).set_index("loss")
    for name in ("low", "high"):  # what was declared does not move when a loss is added
        assert found[name][["a", "b"]].tolist() == without[name].tolist()


def test_a_metric_without_a_value_in_some_runs_gives_no_verdict():
    runs = frame(drawn(-0.1))
    runs.loc[(runs.loss == "other") & (runs.seed < 4), "rmse"] = np.nan
    row = paired(runs, Rule(metric="rmse", reference="mse")).iloc[0]
    assert (row.verdict, row.undefined, row.pairs) == ("undefined", 4, 6)


def test_losses_that_were_declared_and_are_absent_still_count_in_the_family():
    values = drawn(0.05)
    table = paired(
        frame(values),
        Rule(metric="rmse", reference="mse"),
        declared=["mse", "other"],
        declared_challengers=4,
    )
    _, *expected = interval(values["other"] - values["mse"], 1 - 0.05 / 4)
    assert [table.low[0], table.high[0]] == pytest.approx(expected, rel=1e-12)


def test_where_every_run_has_the_same_accuracy_nothing_is_settled():
    runs = frame({loss: np.ones(10) for loss in ("mse", "other")}, metric="accuracy")
    rule = Rule(metric="accuracy", reference="mse", margin=0.01)
    assert paired(runs, rule).verdict.item() == "undecided"
    runs.loc[runs.loss.eq("other") & runs.seed.eq(0), "accuracy"] = 0.9999  # 10,000 examples
    assert paired(runs, rule).verdict.item() == "equivalent"


@pytest.mark.parametrize("column", list(statistics.design.CURES))
def test_runs_with_different_fingerprints_are_refused_with_seed_column_and_cure(column):
    runs = frame(drawn(0.0))
    runs.loc[(runs.loss == "other") & (runs.seed == 4), column] = "else"
    with pytest.raises(ValueError, match=rf"seed 4 of toy × linear: {column} differs") as caught:
        paired(runs, Rule(metric="rmse", reference="mse"))
    assert "mse" in str(caught.value)
    assert statistics.design.CURES[column] in str(caught.value)


def test_two_learning_rates_of_one_loss_are_refused():
    runs = frame(drawn(0.0))
    twice = pd.concat([runs, runs[runs.loss == "other"].assign(lr=0.5)])
    with pytest.raises(ValueError, match="seed 0 of toy × linear: other has several runs"):
        paired(twice, Rule(metric="rmse", reference="mse"))


def test_an_unknown_endpoint_is_refused():
    with pytest.raises(ValueError, match="'first' is unknown: use 'last' or 'best'"):
        statistics.endpoint(
            pd.DataFrame(), pd.DataFrame(), split="test", metric="a", endpoint="first"
        )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    runs = with_status(plan_runs(), "missing", count=2, lr=0.1, loss="mae")
    runs = with_status(runs, "failed", count=1, lr=1.0, loss="mse")
    return records.load(build(tmp_path_factory.mktemp("sweeps") / "small", runs))


def test_loss_rate_and_seed_do_not_split_a_context(sweep):
    placed = contexts(sweep.runs)
    assert sorted(placed.label.unique()) == ["diabetes × mlp", "digits × mlp"]
    assert placed.context.nunique() == 2
    assert (placed.variant == sweep.runs.loss).all()


@pytest.mark.parametrize("endpoint", ["last", "best"])
def test_the_endpoint_is_the_value_at_the_declared_step(sweep, endpoint):
    confirm = sweep.runs[sweep.runs.lr == 0.1]
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
    confirm = sweep.runs[sweep.runs.lr == 0.1]
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
    table = statistics.divergence_rates(sweep.runs).set_index("loss")
    quartic, mse = table.loc["quartic"], table.loc["mse"]
    assert (quartic.diverged, quartic.n, mse.n) == (6, 24, 23)  # one of mse failed
    expected = stats.binomtest(6, 24).proportion_ci()
    assert (quartic.value, quartic.low, quartic.high) == pytest.approx((6 / 24, *expected))


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
    runs = sweep.runs[(sweep.runs.lr == 0.1) & (sweep.runs.loss == "mse")]
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
    runs = statistics.placed(sweep.runs[sweep.runs.lr == 0.1])
    steps = sweep.steps.assign(
        signal_per_error=sweep.steps.output_gradient_norm / sweep.steps.error_norm
    )
    rows = statistics.joined(steps, sweep.runs[sweep.runs.lr == 0.1])
    keys = [*FACTS, "step"]
    expected = statistics.curves(rows, value=measure, geometric=measure != "cosine")
    got = statistics.trajectories(sweep, runs)
    got = got[got.measure == measure].sort_values(keys)[[*keys, "value", "low", "high", "n"]]
    expected = expected.sort_values(keys)[[*keys, "value", "low", "high", "n"]]
    pd.testing.assert_frame_equal(
        got.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False, rtol=1e-6
    )


def test_courses_leave_out_what_is_no_number_or_no_norm(sweep):
    runs = statistics.placed(sweep.runs[sweep.runs.lr == 0.1])

    class Altered:
        def sql(self, query, **frames):
            query = query.replace("select * from steps", "select * from broken")
            steps = sweep.steps.assign(
                cosine=sweep.steps.cosine.mask(sweep.steps.seed == 0, np.nan),
                gradient_norm=sweep.steps.gradient_norm.mask(sweep.steps.seed == 1, 0.0),
                error_norm=sweep.steps.error_norm.mask(sweep.steps.seed == 2, np.inf),
            )
            return sweep.sql(query, broken=steps, **frames)

    got = statistics.trajectories(Altered(), runs)
    huber = got[(got.loss == "huber") & (got.step == 100)].set_index("measure")
    assert huber.n.to_dict() == {"cosine": 7, "gradient_norm": 7, "signal_per_error": 7}
    assert np.isfinite(huber.value).all()


def test_diverged_runs_are_counted_at_their_learning_rate(sweep):
    found = statistics.endpoint(sweep.runs, sweep.evals, split="validation", metric="rmse")
    table = statistics.learning_rates(found[found.task == "regression"], metric="rmse")
    quartic = table[table.loss == "quartic"].set_index("lr")
    assert quartic.diverged.to_dict() == {0.01: 0, 0.1: 1, 1.0: 5}
    assert quartic.n.to_dict() == {0.01: 8, 0.1: 7, 1.0: 3}


def test_completeness_names_what_is_not_there(sweep):
    table = statistics.completeness(sweep.runs).set_index("label")
    diabetes = table.loc["diabetes × mlp"]
    assert (diabetes.planned, diabetes.done, diabetes.missing) == (96, 87, 2)
    assert "mae lr=0.1 seed=0 missing; mae lr=0.1 seed=1 missing" in diabetes.unfinished
    assert "failed (MemoryError)" in diabetes.unfinished
    assert table.planned.sum() == len(plan_runs(SMALL))


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_a_run_that_failed_or_is_missing_gives_no_verdict(status):
    runs = frame(drawn(0.5))
    runs.loc[(runs.loss == "other") & (runs.seed == 4), ["status", "rmse"]] = [status, np.nan]
    row = paired(runs, Rule(metric="rmse", reference="mse", margin=0.02)).iloc[0]
    assert row.verdict == "incomplete"
