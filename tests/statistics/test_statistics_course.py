"""Convergence and times to a target, against curves with known answers."""

import duckdb
import numpy as np
import pandas as pd
import pytest
from frames import frame
from scipy import stats

from lossbench import records, statistics
from lossbench.statistics import converged, time_to


class Logged:
    """Logged steps that can be asked in SQL, as those of a sweep."""

    def __init__(self, steps):
        self.steps = steps

    def sql(self, query):
        with duckdb.connect() as connection:
            connection.register("steps", self.steps)
            return connection.execute(query).df()


def convergence(runs, steps, evals):
    return statistics.convergence(runs, statistics.signals(Logged(steps)), evals)


def ran(values, *, stop=100, metric="loss:own", split="train"):
    """Runs and evals from {loss: [curve by step, of each seed]}; a curve ends where it stops."""
    runs = frame({loss: np.zeros(len(curves)) for loss, curves in values.items()})
    runs = runs.assign(run_id=runs.loss + runs.seed.astype(str), stop_step=stop)
    rows = [
        {"run_id": f"{loss}{seed}", "step": step, "split": split, "metric": metric, "value": value}
        for loss, curves in values.items()
        for seed, curve in enumerate(curves)
        for step, value in zip(np.linspace(0, stop, len(curve)).astype(int), curve, strict=True)
    ]
    return runs, pd.DataFrame(rows)


def logged(runs, **columns):
    """Logged steps 0, 10, ..., 100 of every run."""
    names = ["gradient_norm", "output_gradient_norm", "error_norm", "cosine"]
    given = (
        dict.fromkeys(names, np.arange(11.0))
        | {"error_norm": np.r_[0.5, np.arange(1.0, 11)]}
        | columns
    )
    return pd.concat(
        [
            pd.DataFrame({"run_id": name, "step": np.arange(0, 101, 10), **given})
            for name in runs.run_id
        ]
    )


EXPONENTIAL = 2 + 3 * np.exp(-np.arange(101) / 10)


@pytest.mark.parametrize(
    ("curve", "step"),
    [
        # After three time constants; the remainder at 100 is nothing.
        (EXPONENTIAL, np.ceil(10 * np.log(1 / 0.05))),
        (np.linspace(5, 1, 101), 95),  # a straight fall has not settled
        ([9, 1, 1, 1, 1, 1], 20),
        ([9, 1, 2, 1, 1, 1], 60),  # it left again
        ([9, 1.4, 1.4, 1.4, 1.4, 1], 20),  # exactly 5 % of the decrease is near
        ([9, 1.41, 1.41, 1.41, 1.41, 1], 100),
        ([3, 3, 3, 3, 3, 3], 0),
        ([3, 8, 8, 8, 8, 8.1], 100),  # no decrease: near is only the end itself
    ],
)
def test_a_run_has_settled_from_where_it_stays_near_its_end(curve, step):
    runs, evals = ran({"mse": [curve]})
    row = convergence(runs, logged(runs), evals).iloc[0]
    assert row.steps_to_final == step
    assert row.converged == (step <= 80)


def test_a_diverged_run_has_not_converged_and_failed_runs_are_left_out():
    runs, evals = ran({"mse": [[9, 1, 1, 1]] * 3})
    runs.loc[1, "status"], runs.loc[2, "status"] = "diverged", "failed"
    table = convergence(runs, logged(runs), evals)
    assert table.seed.tolist() == [0, 1]
    assert table.converged.tolist() == [True, False]


def test_a_run_without_own_loss_or_with_broken_values_has_not_settled():
    runs, evals = ran({"mse": [[9, 1, np.nan, 1], [9, 1, 1, 1]]})
    table = convergence(runs, logged(runs), evals[evals.run_id == "mse0"])
    assert table.steps_to_final.isna().all()
    assert not table.converged.any()
    assert converged(table).steps_to_final[0] == np.inf


def test_other_splits_and_metrics_do_not_count():
    runs, evals = ran({"mse": [[9, 1, 1, 1]]})
    other = [evals.assign(split="test", value=7.0), evals.assign(metric="loss:mse", value=7.0)]
    both = convergence(runs, logged(runs), pd.concat([*other, evals]))
    assert both.steps_to_final[0] == 33


def test_final_values_are_means_of_the_last_five_logged_steps():
    runs, evals = ran({"mse": [[9, 1, 1, 1]]})
    steps = logged(runs, cosine=np.r_[np.nan, np.arange(1.0, 11)]).sample(frac=1, random_state=0)
    row = convergence(runs, steps, evals).iloc[0]
    assert (row.initial_gradient_norm, row.final_gradient_norm, row.final_error_norm) == (0, 8, 8)
    assert (row.mean_cosine, row.final_cosine) == (5.5, 8)


def test_the_signal_per_error_is_the_ratio_of_their_norms():
    runs, evals = ran({"mse": [[9, 1, 1, 1]]})
    error = np.r_[2.0, np.full(10, 4.0)]
    steps = logged(runs, error_norm=error, output_gradient_norm=error**3)
    row = convergence(runs, steps, evals).iloc[0]
    assert (row.initial_signal_per_error, row.final_signal_per_error) == (4, 16)


def test_the_median_run_and_the_share_that_converged():
    runs, evals = ran(
        {"mse": [[9, 1, 1, 1, 1, 1]] * 2 + [[9, 9, 1, 1, 1, 1]] * 2 + [[9, 8, 7, 6, 5, 4]]}
    )
    runs.loc[1, "status"] = "diverged"
    row = converged(convergence(runs, logged(runs), evals)).iloc[0]
    assert (row.n, row.converged, row.diverged, row.value) == (5, 3, 1, 0.6)
    expected = stats.binomtest(3, 5).proportion_ci()
    assert (row.low, row.high) == pytest.approx(tuple(expected))
    assert row.steps_to_final == 40
    assert row.final_gradient_norm == 8
    runs, evals = ran({"mse": [[9, 1, 1, 1, 1, 1], [9, 9, 1, 1, 1, 1]]})
    later_of_two = converged(convergence(runs, logged(runs), evals)).steps_to_final[0]
    assert later_of_two == 40


# ---- time to a target ----------------------------------------------------------------------------


def timed(curves, *, metric="rmse", target=1.0, lost=()):
    runs, evals = ran({"mse": curves}, metric=metric, split="validation")
    runs.loc[list(lost), "status"] = "diverged"
    evals = evals[~evals.run_id.isin(runs.run_id[list(lost)])]
    return time_to(runs, evals, metric=metric, target=target, split="validation").iloc[0]


def test_misses_are_censored_and_the_median_is_of_all_runs():
    row = timed([[3, 1, 2, 0, 0], [3, 2, 1, 1, 1], [3, 2, 2, 2, 2]])
    assert (row.n, row.reached, row["median"], row.budget) == (3, 2, 50, 100)  # steps 25, 50, never
    assert row.steps == (25, 50, 100)
    assert row.survival == pytest.approx((2 / 3, 1 / 3, 1 / 3))


HIT, MISS = [3, 1, 1, 1, 1], [3, 3, 3, 3, 3]
HIGHER = {"metric": "accuracy", "target": 0.9}


@pytest.mark.parametrize(
    ("curves", "options", "median"),
    [
        ([HIT, HIT, MISS, MISS], {}, 25),
        ([HIT, HIT, MISS, MISS, MISS], {}, np.inf),
        ([[0.1, 0.5, 0.9, 0.8, 0.95]], HIGHER, 50),
        ([[3, np.nan, np.nan, 0, 0]], {}, 75),
        ([[1, 2, 2, 2, 2]], {}, 0),
    ],
    ids=["half reach it", "fewer do", "from below", "no number reaches nothing", "at the start"],
)
def test_the_median_run_is_where_half_of_all_have_reached_the_target(curves, options, median):
    assert timed(curves, **options)["median"] == median


def test_nobody_reaches_an_impossible_target():
    row = timed([HIT] * 2, target=-1.0)
    assert (row.reached, row["median"], row.survival) == (0, np.inf, (1.0,))


def test_a_diverged_run_is_a_miss_without_a_record_and_with_one_that_reached_the_target():
    row = timed([HIT] * 3, lost=[1, 2])
    assert (row.n, row.reached, row["median"]) == (3, 1, np.inf)
    runs, evals = ran({"mse": [HIT]}, metric="rmse", split="validation")
    runs["status"] = "diverged"
    row = time_to(runs, evals, metric="rmse", target=1.0, split="validation").iloc[0]
    assert row.reached == 0


def test_a_comparison_has_every_evaluation_of_its_own_context_and_no_other(essay_sweep):
    sweep = records.load(essay_sweep)
    contexts = statistics.placed(sweep.runs).set_index("run_id").context
    comparisons = statistics.Verdicts(sweep).comparisons
    assert len({comparison.label for comparison in comparisons}) > 1
    for comparison in comparisons:
        is_mine = sweep.evals.run_id.map(contexts) == comparison.runs.context.iloc[0]
        expected = sweep.evals.loc[is_mine, ["run_id", "step", "split", "metric", "value"]]
        found = comparison.evals.astype(dict.fromkeys(("run_id", "split", "metric"), str))
        pd.testing.assert_frame_equal(found, expected)
