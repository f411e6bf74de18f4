"""Many tasks at once: against scipy, hand-made cases and what Agarwal et al. define."""

import numpy as np
import pandas as pd
import pytest
from frames import frame
from scipy import stats

from lossbench.statistics import iqm, mean_ranks, normalised, performance_profile


def scored(**losses):
    """Scores from {loss: {task: [score of each seed]}}."""
    return pd.DataFrame(
        {"loss": loss, "context": task, "seed": seed, "score": score}
        for loss, tasks in losses.items()
        for task, numbers in tasks.items()
        for seed, score in enumerate(numbers)
    )


def tasked(metric="rmse", **tasks):
    """Runs from {task: {loss: values by seed}}; NaN means diverged."""
    parts = [frame(values, metric=metric, context=name) for name, values in tasks.items()]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("seeds", [4, 5, 10])
def test_the_interquartile_mean_is_scipys_trimmed_mean_over_all_runs(seeds):
    draw = np.random.default_rng(seeds)
    tasks = {name: draw.normal(size=seeds) for name in ("a", "b", "c")}
    row = iqm(scored(mse=tasks), draws=100).iloc[0]
    assert row.value == pytest.approx(stats.trim_mean(np.concatenate([*tasks.values()]), 0.25))
    assert (row.n, row.tasks) == (3 * seeds, 3)
    assert row.low < row.value < row.high


def test_runs_are_resampled_within_their_task_only():
    row = iqm(scored(mse={"a": [1.0] * 5, "b": [3.0] * 5}), draws=50).iloc[0]
    assert row.low == row.value == row.high == 2.0  # across tasks the mean would move


def test_up_to_a_quarter_of_lost_runs_is_trimmed_and_more_is_the_worst_there_is():
    row = iqm(scored(mse={"a": [np.nan, 1, 1, 1]}), draws=50).iloc[0]
    assert row.value == 1
    assert row.low == -np.inf
    assert iqm(scored(mse={"a": [np.nan, np.nan, 1, 1]}), draws=50).value[0] == -np.inf


def test_the_seed_decides_the_resamples():
    scores = scored(mse={"a": np.random.default_rng(0).normal(size=8)})
    bounds = [tuple(iqm(scores, draws=50, seed=seed).low) for seed in (0, 0, 1)]
    assert bounds[0] == bounds[1] != bounds[2]


def test_a_profile_is_the_share_at_or_above_each_threshold_with_tasks_of_equal_weight():
    scores = scored(mse={"a": [0.0, 1.0], "b": [1.0, 1.0, 1.0, 2.0]}, other={"a": [np.nan, 3.0]})
    table = performance_profile(scores, taus=[0.0, 1.0, 1.5], draws=200).set_index(["loss", "tau"])
    assert table.value["mse"].tolist() == [1.0, (0.5 + 1) / 2, (0 + 0.25) / 2]
    assert table.value["other"].tolist() == [0.5, 0.5, 0.5]
    assert (table.low <= table.value).all()
    assert (table.value <= table.high).all()
    assert table.tasks["mse", 0.0] == 2


# ---- normalised scores ---------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "start"), [("rmse", 1.0), ("accuracy", 0.1)])
def test_no_training_scores_0_and_the_references_mean_scores_1(metric, start):
    runs = tasked(metric, a={"mse": [0.4, 0.6], "other": [start, 0.5]})
    found = normalised(runs, metric=metric, reference="mse", start={"a": start}).set_index("loss")
    assert found.score["mse"].mean() == pytest.approx(1)
    assert found.score["other"].tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize(("survivor", "worst"), [(0.5, 0.0), (3.0, -4.0)])
def test_a_diverged_run_has_the_worst_score_and_at_best_0(survivor, worst):
    runs = tasked(a={"mse": [0.5, 0.5], "other": [survivor, np.nan]})
    found = normalised(runs, metric="rmse", reference="mse", start={"a": 1.0})
    assert found[found.status == "diverged"].score.tolist() == pytest.approx([worst])


def test_runs_that_failed_have_no_score():
    runs = tasked(a={"mse": [0.4, 0.6], "other": [0.5, 0.5]})
    runs.loc[3, "status"] = "failed"
    assert len(normalised(runs, metric="rmse", reference="mse", start={"a": 1.0})) == 3


# ---- ranks ---------------------------------------------------------------------------------------


def test_mean_ranks_are_scipys_within_seeds_averaged_over_seeds_then_tasks():
    draw = np.random.default_rng(0)
    tasks = {
        name: {loss: draw.integers(0, 3, seeds).astype(float) for loss in ("mse", "x", "y")}
        for name, seeds in (("a", 4), ("b", 10), ("c", 7))
    }
    table = mean_ranks(tasked(**tasks), metric="rmse").set_index("loss")
    within = [stats.rankdata(list(values.values()), axis=0).mean(1) for values in tasks.values()]
    assert table.value[["mse", "x", "y"]].to_numpy() == pytest.approx(np.mean(within, 0))
    expected = stats.ttest_1samp([one[0] for one in within], 0).confidence_interval(0.95)
    assert (table.low["mse"], table.high["mse"]) == pytest.approx(tuple(expected))
    assert {*table.n} == {3}  # tasks, not seeds
    assert {*table.losses} == {3}


def test_a_diverged_run_is_last_and_two_share_the_last_ranks():
    runs = tasked("accuracy", a={"mse": [0.9], "x": [np.nan], "y": [np.nan], "z": [0.1]})
    table = mean_ranks(runs, metric="accuracy").set_index("loss")
    assert table.value.to_dict() == {"mse": 1.0, "x": 3.5, "y": 3.5, "z": 2.0}


def test_a_seed_in_which_a_run_failed_ranks_nobody():
    runs = tasked(a={"mse": [1.0, 1.0], "x": [2.0, 0.0]})
    runs.loc[(runs.loss == "x") & (runs.seed == 1), "status"] = "failed"
    assert mean_ranks(runs, metric="rmse").set_index("loss").value.to_dict() == {"mse": 1, "x": 2}


def test_ranks_over_tasks_need_every_loss_in_every_task():
    runs = tasked(a={"mse": [1.0], "x": [2.0]}, b={"mse": [1.0]})
    with pytest.raises(ValueError, match="x has no rank in context b"):
        mean_ranks(runs, metric="rmse")


def test_conditions_are_ranked_apart():
    one = tasked(a={"mse": [1.0], "x": [2.0]})
    other = tasked(a={"mse": [2.0], "x": [1.0]}).assign(condition="reference_lr")
    table = mean_ranks(pd.concat([one, other]), metric="rmse").set_index(["condition", "loss"])
    assert table.value["own_lr", "x"] == 2
    assert table.value["reference_lr", "x"] == 1


def test_runs_of_unequal_start_are_not_ranked():
    runs = tasked(a={"mse": [1.0], "x": [2.0]})
    runs.loc[1, "init_sha"] = "else"
    with pytest.raises(ValueError, match="init_sha differs"):
        mean_ranks(runs, metric="rmse")
