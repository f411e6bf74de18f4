"""What corruption costs: the choice on noisy validation, and curves over rates."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from configs import TINY, write_experiment
from scipy import stats

from lossbench import cli, records, statistics
from lossbench.statistics import oracle

CLEAN = {  # by loss and learning rate: validation accuracy of each seed on clean labels
    ("a", 0.1): [0.90, 0.92, 0.95],
    ("a", 1.0): [0.88, 0.88, 0.90],
    ("b", 0.1): [0.7, 0.8, 0.9],
    ("b", 1.0): [0.6, 0.6, 0.6],
}
NOISY = {  # the same on the labels that selection sees
    ("a", 0.1): [0.50, 0.50, 0.50],
    ("a", 1.0): [0.60, 0.55, 0.50],
    ("b", 0.1): [0.5, 0.5, 0.5],
    ("b", 1.0): [0.4, 0.4, 0.4],
}
FIXED = {"condition": "own_lr", "data": "digits", "model": "mlp", "family": "power"}


def config(rate=0.2, **others):
    name = "none" if rate is None else "symmetric"
    params = {} if rate is None else {"rate": rate}
    noise = {"name": name, "fn": name, "params": params}
    return json.dumps({"data": {"name": "digits"}, "corruption": noise, **others})


def tuned(clean=CLEAN, noisy=NOISY, *, names=("accuracy", "accuracy_clean"), status=None):
    """Runs and evals of a tuning stage; `status` by (loss, lr, seed) where it is not done."""
    runs, evals = [], []
    task = "classification" if names[0] == "accuracy" else "regression"
    for loss, lr in clean:
        for seed in range(3):
            run_id = f"{loss}{lr}{seed}"
            one = {"run_id": run_id, "loss": loss, "lr": lr, "seed": seed, "task": task}
            ended = (status or {}).get((loss, lr, seed), "done")
            runs.append({**FIXED, **one, "optimizer": "sgd", "status": ended, "config": config()})
            values = noisy[loss, lr][seed], clean[loss, lr][seed]
            for metric, value in zip(names, values, strict=True):
                for step, told in ((0, 0.1), (10, value)):
                    row = {"run_id": run_id, "step": step, "split": "validation"}
                    evals.append({**row, "metric": metric, "value": told})
    return pd.DataFrame(runs), pd.DataFrame(evals)


def test_the_cost_of_noisy_selection_is_the_paired_difference_to_the_clean_choice():
    table = oracle.selection_cost(*tuned(), statistics.Rule(metric="accuracy")).set_index("loss")
    row, difference = table.loc["a"], np.array([0.02, 0.04, 0.05])
    low, high = stats.t.interval(0.95, 2, difference.mean(), stats.sem(difference))
    assert (row.noisy_lr, row.clean_lr, row.is_same, row.n) == (1.0, 0.1, False, 3)
    assert row.noisy_value == pytest.approx(np.mean([0.88, 0.88, 0.90]))
    assert row.clean_value == pytest.approx(np.mean([0.90, 0.92, 0.95]))
    assert [row.cost, row.low, row.high] == pytest.approx([difference.mean(), low, high])
    assert (row.metric, row.selected_by) == ("accuracy_clean", "accuracy")


def test_where_both_choose_the_same_selection_cost_nothing():
    row = (
        oracle.selection_cost(*tuned(), statistics.Rule(metric="accuracy"))
        .set_index("loss")
        .loc["b"]
    )
    assert (row.noisy_lr, row.clean_lr, row.is_same) == (0.1, 0.1, True)
    assert (row.cost, row.low, row.high) == (0.0, 0.0, 0.0)


def test_of_an_error_the_smaller_is_chosen_and_the_cost_is_positive_too():
    names = ("rmse", "rmse_clean")
    flipped = [
        {key: [1 - value for value in values] for key, values in table.items()}
        for table in (CLEAN, NOISY)
    ]
    row = oracle.selection_cost(*tuned(*flipped, names=names), statistics.Rule(metric="rmse")).iloc[
        0
    ]
    assert (row.noisy_lr, row.clean_lr) == (1.0, 0.1)
    assert row.cost == pytest.approx(np.mean([0.02, 0.04, 0.05]))


def test_a_candidate_with_a_diverged_run_is_chosen_by_neither():
    runs, evals = tuned(status={("a", 1.0, 2): "diverged"})
    row = (
        oracle.selection_cost(runs, evals, statistics.Rule(metric="accuracy"))
        .set_index("loss")
        .loc["a"]
    )
    assert (row.noisy_lr, row.is_same, row.cost, row.lost) == (0.1, True, 0.0, 0)
    everywhere = {("a", lr, 2): "diverged" for lr in (0.1, 1.0)}
    row = oracle.selection_cost(*tuned(status=everywhere), statistics.Rule(metric="accuracy")).iloc[
        0
    ]
    assert (row.noisy_lr, row.clean_lr, row.n, row.lost) == (1.0, 0.1, 2, 1)
    assert row.cost == pytest.approx(0.03)


def test_only_where_a_seed_diverged_can_the_cost_be_negative():
    clean = {("a", 0.1): [0.9, 0.5, 0.9], ("a", 1.0): [0.6, 0.6, 0.6], ("a", 9.0): [1.0, 0.0, 0.0]}
    noisy = {("a", 0.1): [0.1] * 3, ("a", 1.0): [0.2] * 3, ("a", 9.0): [0.1] * 3}
    cost = oracle.selection_cost(
        *tuned(clean, noisy), statistics.Rule(metric="accuracy")
    ).cost.item()
    assert cost == pytest.approx((0.3 - 0.1 + 0.3) / 3)
    # Two rates lost another seed: seed 1 alone is a pair, and the oracle's choice is worse there.
    status = {("a", 0.1, 0): "diverged", ("a", 1.0, 2): "diverged"}
    status |= {("a", 9.0, seed): "diverged" for seed in (1, 2)}
    row = oracle.selection_cost(
        *tuned(clean, noisy, status=status), statistics.Rule(metric="accuracy")
    ).iloc[0]
    assert (row.noisy_lr, row.clean_lr, row.n, row.lost) == (1.0, 0.1, 1, 2)
    assert row.cost == pytest.approx(-0.1)


def test_candidates_of_one_learning_rate_are_told_apart_by_what_else_was_tuned():
    runs, evals = tuned()
    decays = (runs.lr / 10).to_list()
    runs["config"] = [config(weight_decay=decay) for decay in decays]
    runs["lr"] = 0.3
    key = "optimizer.weight_decay"
    row = oracle.selection_cost(runs, evals, statistics.Rule(metric="accuracy"), tuned=[key]).iloc[
        0
    ]
    assert (row.noisy_lr, row.clean_lr, row.is_same) == (0.3, 0.3, False)
    assert row.cost > 0


def test_without_corruption_there_is_nothing_that_selection_could_have_cost():
    runs, evals = tuned()
    evals = evals[evals.metric == "accuracy"]
    assert list(oracle.selection_cost(runs, evals, statistics.Rule(metric="accuracy")).columns) == (
        oracle.SELECTED
    )
    assert oracle.selection_cost(runs, evals, statistics.Rule(metric="accuracy")).empty


# ---- over rates ----------------------------------------------------------------------------------


def at_rates(rates, **others):
    """Runs of one loss whose accuracy is 0.9 minus half the rate, two seeds around it."""
    rows = [
        {**FIXED, "run_id": f"{rate}{seed}{others}", "loss": "a", "lr": 0.1, "seed": seed}
        | {"task": "classification", "optimizer": "sgd", "status": "done"}
        | {"config": config(rate, **others), "accuracy": 0.9 - (rate or 0) / 2 + 0.01 * seed}
        for rate in rates
        for seed in (-1, 1)
    ]
    return pd.DataFrame(rows)


def curves(*frames):
    return statistics.noise_curves(
        statistics.placed(pd.concat(frames, ignore_index=True)), metric="accuracy"
    )


def test_a_curve_has_the_mean_at_each_rate_in_order():
    table = curves(at_rates([0.4, 0.0, 0.2]))
    assert table.rate.tolist() == [0.0, 0.2, 0.4]
    assert table.value.tolist() == pytest.approx([0.9, 0.8, 0.7])
    half = stats.t.ppf(0.975, 1) * 0.01
    assert table.high.tolist() == pytest.approx([0.9 + half, 0.8 + half, 0.7 + half])
    assert {*table.n} == {2}
    assert {*table.label} == {"digits × mlp"}
    assert {*table.corruption} == {"symmetric"}


def test_tasks_that_differ_in_more_than_the_rate_lie_on_curves_of_their_own():
    table = curves(at_rates([0.0, 0.2]), at_rates([0.0, 0.4], steps=100))
    assert table.groupby("curve").rate.apply(list).to_list() == [[0.0, 0.2], [0.0, 0.4]]


def test_a_task_without_corruption_is_rate_zero_of_those_that_are_else_the_same():
    table = curves(at_rates([None, 0.2]), at_rates([0.4], steps=100))
    assert table.rate.tolist() == [0.0, 0.2]
    assert table.value.tolist() == pytest.approx([0.9, 0.8])
    own = curves(at_rates([None, 0.0, 0.2]))
    assert own.rate.tolist() == [0.0, 0.2]
    assert curves(at_rates([None])).empty
    assert curves(at_rates([0.2])).empty


# ---- a real sweep --------------------------------------------------------------------------------

NOISY_TINY = (
    TINY.replace("tiny", "noisy")
    .replace("data: [diabetes]", "data: [gaussian_mixture]")
    .replace("loss: [mse, mae]", "loss: [cross_entropy, mae_probs]")
    .replace("        model:", "        data.corruption.name: [symmetric]\n        model:")
    .replace("        model:", "        data.corruption.params.rate: [0.0, 0.4]\n        model:")
)


@pytest.mark.exhaustive
def test_a_block_sweeps_rates_and_the_sweep_tells_what_selection_on_them_cost(
    tmp_path, monkeypatch
):
    write_experiment(tmp_path, "noisy", NOISY_TINY)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--config-dir", "conf", "experiment=noisy", "report=none"]) == cli.DONE
    found = records.load("runs/noisy")
    rates = [json.loads(text)["corruption"]["params"]["rate"] for text in found.runs.config]
    assert {*rates} == {0.0, 0.4}
    is_clean = np.array(rates) == 0.0
    assert (found.runs.corrupted_share[is_clean] == 0.0).all()
    assert found.runs.corrupted_share[~is_clean].between(0.3, 0.5).all()
    table = oracle.selection_cost(found.runs, found.evals, statistics.Rule(metric="accuracy"))
    noisy = table[table.label.str.contains("0.4")]
    assert {*noisy.loss} == {"cross_entropy", "mae_probs"}
    assert (table.cost >= 0).all()
    assert (table[~table.label.str.contains("0.4")].cost == 0.0).all()
