"""What tuning finds and costs, against hand-made cases and the slow way."""

import itertools

import numpy as np
import pandas as pd
import pytest
from frames import frame
from sweep_on_disk import build, plan_runs, with_status

from lossbench import records, statistics
from lossbench.statistics import Rule, budget_curve, sensitivity
from lossbench.statistics.choice import at_choice, candidates
from lossbench.statistics.tuning import sensitivity_differences


def grid(values, *, metric="rmse", **columns):
    """Tuning runs from {loss: {lr: values by seed}}; NaN means diverged."""
    by_trial = {(loss, lr): found for loss, rates in values.items() for lr, found in rates.items()}
    runs = frame(by_trial, metric=metric)
    loss, lr = zip(*runs.loss, strict=True)
    return runs.assign(loss=loss, lr=lr, condition="grid", **columns)


def test_within_a_rate_each_loss_chooses_what_else_is_tuned():
    flat = {0.1: [1.0, 1.0], 0.2: [1.0, 1.0]}
    runs = [
        grid({"mse": flat, "other": flat}, wd=wd, params=text)
        for wd, text in ((0.0, None), (0.1, "a"))
    ]
    runs = pd.concat(runs, ignore_index=True)
    better = (runs.wd == 0.1) & (runs.loss == "other") & (runs.lr == 0.2)
    runs.loc[better, "rmse"] = 0.5
    runs = runs.assign(selected_by=runs.rmse, candidate=candidates(runs, tuned=["wd", "params"]))
    kept = at_choice(runs, Rule(metric="rmse"), by=["context", "loss", "lr"])
    found = kept.groupby(["loss", "lr"]).wd.agg(lambda wd: [*wd])
    assert found["other", 0.2] == [0.1, 0.1]
    assert [found[key] for key in (("mse", 0.1), ("mse", 0.2), ("other", 0.1))] == [[0.0, 0.0]] * 3


# ---- sensitivity and budget ----------------------------------------------------------------------

HAND = {
    "mse": {0.1: [1.0, 3.0], 1.0: [4.0, 4.0], 10.0: [9.0, 9.0]},  # means 2, 4, 9
    "other": {0.1: [1.0, 1.0], 1.0: [2.0, 2.0], 10.0: [np.nan, 5.0]},  # 1, 2, diverged: 9
}


def test_sensitivity_is_the_mean_excess_over_the_own_best_by_hand():
    table = sensitivity(grid(HAND), metric="rmse").set_index("loss")
    assert table.sensitivity.to_dict() == pytest.approx({"mse": (0 + 2 + 7) / 3, "other": 9 / 3})
    assert table.diverged_share.to_dict() == pytest.approx({"mse": 0, "other": 1 / 3})
    assert set(table.rates) == {3}


def test_sensitivity_of_a_higher_metric_is_counted_downwards():
    values = {"mse": {0.1: [0.9, 0.9], 1.0: [0.5, 0.7]}}
    row = sensitivity(grid(values, metric="accuracy"), metric="accuracy").iloc[0]
    assert row.sensitivity == pytest.approx(0.15)


def test_a_loss_that_diverges_at_every_rate_has_no_sensitivity_and_no_curve():
    values = {**HAND, "lost": {lr: [np.nan, 1.0] for lr in (0.1, 1.0, 10.0)}}
    row = sensitivity(grid(values), metric="rmse").set_index("loss").loc["lost"]
    assert np.isnan(row.sensitivity)
    assert row.diverged_share == 1
    curve = budget_curve(grid(values), metric="rmse")
    assert curve[curve.loss == "lost"].value.isna().all()


def test_a_rate_that_failed_says_nothing():
    runs = grid(HAND)
    failed = (runs.loss == "mse") & (runs.lr == 10.0)
    runs.loc[failed, ["status", "rmse"]] = ["failed", np.nan]
    table = sensitivity(runs, metric="rmse").set_index("loss")
    assert table.rates.to_dict() == {"mse": 2, "other": 3}
    assert table.sensitivity["mse"] == 1.0
    assert table.sensitivity["other"] == pytest.approx((0 + 1 + 4) / 3)  # the survivors' 5 is worst


def test_other_contexts_do_not_set_the_price_of_divergence():
    far = grid({"mse": {0.1: [99.0, 99.0]}}).assign(context="d")
    both = sensitivity(pd.concat([grid(HAND), far]), metric="rmse").set_index(["context", "loss"])
    assert both.sensitivity["c", "other"] == pytest.approx(3.0)


def judged(values, validation, *, seeds=None, **how):
    """`sensitivity_differences` of {loss: {lr: values by seed}} on test and on validation."""
    chosen_by = grid(validation).rmse
    runs = grid(values).assign(selected_by=chosen_by)
    runs = runs.assign(candidate=runs.groupby("loss").lr.rank("dense").astype(int))
    seeds = [*range(len(next(iter(values["mse"].values()))))] if seeds is None else seeds
    found = sensitivity_differences(runs, Rule(metric="rmse", reference="mse", **how), seeds=seeds)
    return found.set_index("loss")


def noisy(draw, heights, *, scale, seeds):
    """Values by rate on test and on validation, each with its own noise."""
    return [
        {10.0**i: height + draw.normal(scale=scale, size=seeds) for i, height in enumerate(heights)}
        for _ in range(2)
    ]


def test_what_a_blind_rate_costs_more_than_with_the_reference_by_hand():
    test = {
        "mse": {0.1: [1.0] * 6, 1.0: [2.0] * 6, 10.0: [6.0] * 6},  # chosen 1, mean 3: excess 2
        "mae": {0.1: [2.0] * 6, 1.0: [1.0] * 6, 10.0: [np.nan] * 6},  # chosen 1, mean 3 with 6
        "huber": {0.1: [1.5] * 6, 1.0: [1.0] * 6, 10.0: [2.0] * 6},  # chosen 1, mean 1.5
    }
    found = judged(test, test)
    assert found.more.to_dict() == pytest.approx({"mae": 0.0, "huber": -1.5})
    assert found.verdict.to_dict() == {"mae": "equivalent", "huber": "better"}


@pytest.mark.parametrize(
    "heights", [[0.0] * 4, [1.0, 0.3, 0.05, 0.0, 0.05, 0.3, 1.0]], ids=["flat", "valley"]
)
@pytest.mark.exhaustive
def test_a_noisier_loss_is_not_called_more_sensitive_than_it_is(heights):
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        mse, mae = (noisy(draw, heights, scale=scale, seeds=10) for scale in (0.1, 0.3))
        row = judged({"mse": mse[0], "mae": mae[0]}, {"mse": mse[1], "mae": mae[1]}).loc["mae"]
        wrong += not row.more_low <= 0 <= row.more_high
    assert wrong <= 18  # of 200, at 5 %: more than that by chance in one of 60 tries


def test_a_loss_that_forgives_its_rate_is_found_and_many_losses_share_what_may_err():
    draw = np.random.default_rng(1)
    steep, level = (noisy(draw, it, scale=0.1, seeds=12) for it in ([0.0, 1.0, 2.0], [0.0] * 3))
    test, validation = ({"mse": one, "mae": two} for one, two in zip(steep, level, strict=True))
    row = judged(test, validation, margin=0.2).loc["mae"]
    assert row.more_low <= -1 <= row.more_high < -0.8  # 0 and not 1
    assert row.verdict == "better by more"
    more = judged({**test, "huber": steep[0]}, {**validation, "huber": steep[1]})
    assert more.verdict["huber"] == "equivalent"
    wide = more.loc["mae"]
    assert wide.more_high - wide.more_low > row.more_high - row.more_low


def test_of_other_rates_few_seeds_or_no_reference_nothing_is_said():
    draw = np.random.default_rng(2)
    mse, mae = (noisy(draw, [0.0, 1.0], scale=0.1, seeds=8) for _ in range(2))
    assert len(judged({"mse": mse[0], "mae": mae[0]}, {"mse": mse[1], "mae": mae[1]})) == 1
    assert judged({"mse": mse[0]}, {"mse": mse[1]}).empty
    more = {**mae[0], 1000.0: mae[0][1.0]}
    assert judged({"mse": mse[0], "mae": more}, {"mse": mse[1], "mae": more}).empty
    short = {
        loss: {lr: v[:3] for lr, v in its.items()}
        for loss, its in (("mse", mse[0]), ("mae", mae[0]))
    }
    assert judged(short, short).empty


def test_the_budget_curve_is_the_mean_best_over_all_subsets():
    draw = np.random.default_rng(0)
    rates = {10.0**-i: draw.normal(size=2) for i in range(6)}
    curve = budget_curve(grid({"mse": rates}, metric="accuracy"), metric="accuracy")
    means = [numbers.mean() for numbers in rates.values()]
    for row in curve.itertuples():
        subsets = itertools.combinations(means, row.budget)
        assert row.value == pytest.approx(np.mean([max(subset) for subset in subsets]))
    assert curve.budget.tolist() == [1, 2, 3, 4, 5, 6]
    assert {*curve.trials} == {6}


def test_a_diverged_trial_of_the_budget_costs_the_worst_mean():
    curve = budget_curve(grid(HAND), metric="rmse")
    values = curve[curve.loss == "other"].value.tolist()
    assert values == pytest.approx([(1 + 2 + 9) / 3, (1 + 1 + 2) / 3, 1.0])


def test_settings_of_several_columns_are_trials_of_the_budget():
    runs = pd.concat([grid(HAND, wd=wd) for wd in (0.0, 0.1)])
    curve = budget_curve(runs, metric="rmse", by=["lr", "wd"])
    assert curve.groupby("loss").budget.max().to_dict() == {"mse": 6, "other": 6}


def test_budgets_add_up_what_the_runs_cost(tmp_path):
    found = records.load(build(tmp_path / "s", plan_runs()))
    table = statistics.budgets(found.runs)
    assert table.updates.sum() == found.runs.stop_step.sum()
    assert table.runs.sum() == len(found.runs)
    row = table[table.loss == "quartic"].iloc[0]
    assert (row.label, row.rates, row.candidates, row.runs) == ("diabetes × mlp", 3, 3, 24)
    assert row.seeds == 8
    assert row.train_seconds == pytest.approx(24 * 0.25)
    assert row.updates == 18 * 500 + 6 * 60  # six of its runs diverge after 60 updates


def test_planned_runs_that_are_missing_cost_nothing(tmp_path):
    runs = with_status(plan_runs(), "missing", count=5, loss="mse")
    found = records.load(build(tmp_path / "s", runs))
    row = statistics.budgets(found.runs).set_index("loss").loc["mse"]
    assert (row.runs, row.updates) == (24, 19 * 500)


def test_candidates_count_combinations_of_what_was_tuned(tmp_path):
    found = records.load(build(tmp_path / "s", plan_runs()))
    runs = found.runs.assign(
        config=[
            text.replace('"weight_decay": 0.0', f'"weight_decay": {seed / 1e4}')
            for text, seed in zip(found.runs.config, found.runs.seed, strict=True)
        ]
    )
    table = statistics.budgets(runs, tuned=["optimizer.weight_decay"])
    assert {*table.rates} == {3}
    assert {*table.candidates} == {24}


# ---- how settled the choice is -------------------------------------------------------------------


def settled(rates):
    runs = grid({"mse": rates})
    runs = runs.assign(selected_by=runs.rmse, candidate=candidates(runs, tuned=[]))
    return statistics.tuning.stability(runs, statistics.Rule(metric="rmse")).iloc[0]


def test_a_rate_that_is_best_at_every_seed_is_settled():
    row = settled({0.1: [1.0, 2.0, 3.0], 0.2: [2.0, 3.0, 4.0]})
    assert (row.best_lr, row.stability, row.plausible, row.seeds) == (0.1, 1.0, 1, 3)


def test_the_stability_of_two_seeds_that_disagree_is_known():
    # Resampled pairs of seeds: both first, both second, or mixed; mixed chooses the mean's best.
    row = settled({0.1: [0.0, 3.0], 0.2: [1.0, 1.0]})
    assert (row.best_lr, row.plausible) == (0.2, 2)
    assert row.stability == pytest.approx(3 / 4, abs=0.08)


def test_a_rate_that_loses_a_run_is_chosen_only_where_that_seed_is_not_drawn():
    row = settled({0.1: [0.0, np.nan], 0.2: [1.0, 1.0]})
    assert row.best_lr == 0.2
    assert row.stability == pytest.approx(3 / 4, abs=0.08)
