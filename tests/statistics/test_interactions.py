"""Does a difference change with a factor: by scipy's t of differences of differences."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from frames import frame
from known_interval import interval

from lossbench.report.words import change_sentence
from lossbench.statistics import Rule, families, interactions

DECLARED = {"interactions": {"optimizer": "sgd"}, "confidence": 0.95, "tuned": ["optimizer.lr"]}


def config(**leaves):
    parts = {"optimizer": {"name": leaves.pop("optimizer", "sgd"), "fn": "x", "params": {}}}
    return json.dumps(parts | {"steps": 100, "lr": 0.1, **leaves})


def comparison(values, *, level, looks=(), margin=0.05):
    """As much of a comparison as an interaction reads."""
    runs = frame(values, config=config(optimizer=level), data="toy", model="linear", context=level)
    run_ids = [f"{level} {row.loss} {row.seed}" for row in runs.itertuples()]
    return SimpleNamespace(
        context=level,
        every_run=runs.assign(run_id=run_ids, candidate=0, selected_by=0.0),
        runs=runs,
        rule=Rule(metric="rmse", reference="mse", margin=margin, looks=looks),
        paired=runs[runs.loss != "mse"].drop_duplicates("loss"),
        declared=SimpleNamespace(expected=frozenset({*runs.loss}), asked_runs=frozenset()),
        confirming=tuple({*runs.loss}),
    )


def test_a_change_is_the_mean_of_differences_of_differences_shared_by_losses_and_levels():
    draw = np.random.default_rng(0)
    values = {
        level: {loss: draw.normal(size=10) for loss in ("mse", "mae", "huber")}
        for level in ("sgd", "adam", "adamw")
    }
    table = interactions([comparison(its, level=level) for level, its in values.items()], DECLARED)
    assert {*table.level} == {"adam", "adamw"}
    assert {*table.comparisons} == {4}
    for row in table.itertuples():
        at, base = values[row.level], values["sgd"]
        change = (at[row.loss] - at["mse"]) - (base[row.loss] - base["mse"])
        known = interval(change, 1 - 0.05 / 4)
        assert (row.change, row.low, row.high) == pytest.approx(known)
        assert row.at_base == pytest.approx((base[row.loss] - base["mse"]).mean())
        assert row.at_level == pytest.approx((at[row.loss] - at["mse"]).mean())


def test_a_loss_that_gains_on_the_reference_at_a_level_is_better_there_and_said_so():
    draw = np.random.default_rng(1)
    base = draw.normal(size=10)
    levels = {
        "sgd": {"mse": base, "mae": base + 1, "huber": base + 0.5},
        "adam": {"mse": base, "mae": base + 0.01 * draw.normal(size=10), "huber": base + 0.5},
    }
    ones = [comparison(values, level=level) for level, values in levels.items()]
    table = interactions(ones, DECLARED).set_index("loss", drop=False)
    assert table.verdict.to_dict() == {"huber": "equivalent", "mae": "better by more"}
    text = change_sentence(table.loc["mae"])
    assert "optimizer adam after sgd: mae gains more than 0.05 on mse (" in text


def test_a_declared_loss_that_did_not_run_still_counts_among_the_comparisons():
    values = {"mse": np.zeros(10), "mae": np.arange(10.0)}
    ones = [comparison(values, level=level) for level in ("sgd", "adam")]
    for one in ones:
        one.declared.expected |= {"huber"}
    assert {*interactions(ones, DECLARED).comparisons} == {2}


def test_a_failed_run_leaves_no_answer_and_a_loss_added_later_explores():
    values = {"mse": np.zeros(10), "mae": np.arange(10.0)}
    ones = [comparison(values, level=level) for level in ("sgd", "adam")]
    ones[0].confirming = ("mse",)
    ones[1].every_run.loc[3, "status"] = "failed"
    (row,) = interactions(ones, DECLARED).to_dict("records")
    assert (row["verdict"], row["exploratory"]) == ("incomplete", True)


def test_a_loss_that_diverges_at_a_level_is_not_said_to_gain_there_by_its_survivors():
    base = np.random.default_rng(3).normal(size=20)
    for lost, word in ((13, "diverges"), (1, "better by more")):  # one of twenty vetoes nothing
        gained = np.where(np.arange(20) < lost, np.nan, base - 1)
        ones = [
            comparison({"mse": base, "mae": mae}, level=level)
            for level, mae in (("sgd", base), ("adam", gained))
        ]
        (row,) = interactions(ones, DECLARED).to_dict("records")
        assert row["verdict"] == word


def test_a_change_of_too_few_pairs_is_told_without_numbers():
    values = {"mse": np.zeros(10), "mae": np.arange(10.0)}
    ones = [comparison(values, level=level) for level in ("sgd", "adam")]
    ones[1].every_run["status"] = "failed"
    (row,) = interactions(ones, DECLARED).to_dict("records")
    assert "nan" not in change_sentence(row)


def test_runs_of_which_another_sweep_asked_other_questions_explore():
    values = {"mse": np.zeros(10), "mae": np.arange(10.0)}
    ones = [comparison(values, level=level) for level in ("sgd", "adam")]
    ones[1].declared.asked_runs = frozenset(ones[1].every_run.run_id[:1])
    (row,) = interactions(ones, DECLARED).to_dict("records")
    assert row["exploratory"]


def test_without_its_base_a_factor_has_no_interactions():
    values = {"mse": np.zeros(10), "mae": np.ones(10)}
    ones = [comparison(values, level=level) for level in ("adam", "adamw")]
    assert interactions(ones, DECLARED).empty


def test_levels_are_told_by_the_name_alone_where_that_tells_them_apart():
    sets = {
        "a": config(model={"name": "linear", "fn": "linear", "params": {}}),
        "b": config(model={"name": "mlp", "fn": "mlp", "params": {"widths": [16]}}),
        "c": config(model={"name": "mlp", "fn": "mlp", "params": {"widths": [64, 64]}}),
    }
    (family,) = families(sets, "model", tuned=[])
    assert family == {"linear": "a", "mlp [16]": "b", "mlp [64, 64]": "c"}
    (family,) = families({"a": sets["a"], "b": sets["b"]}, "model", tuned=[])
    assert family == {"linear": "a", "mlp": "b"}


def test_a_family_holds_all_other_factors_equal():
    sets = {
        f"{steps}-{size}": config(steps=steps, batch_size=size)
        for steps in (250, 1000)
        for size in (32, 128)
    }
    assert families(sets, "steps", tuned=[]) == [
        {"250": "250-32", "1000": "1000-32"},
        {"250": "250-128", "1000": "1000-128"},
    ]


def test_what_only_a_taught_run_has_belongs_to_its_targets():
    before = {"loss": "cross_entropy", "steps": 100}
    sets = {
        "a": config(targets="sampled"),
        "b": config(targets="teacher", pretrained={**before, "temperature": 1.0}),
        "c": config(targets="teacher", pretrained={**before, "temperature": 4.0}),
    }
    assert families({"a": sets["a"], "b": sets["b"]}, "data.targets", tuned=[]) == [
        {"sampled": "a", "teacher": "b"}
    ]
    assert families(sets, "data.targets", tuned=[]) == [
        {"sampled": "a", "1.0 teacher": "b", "4.0 teacher": "c"}
    ]


LEVELS = {**DECLARED, "interactions": {}, "levels": {"optimizer": "sgd"}}


def test_the_change_of_a_loss_by_itself_is_the_mean_of_its_paired_differences():
    draw = np.random.default_rng(3)
    values = {
        level: {loss: 5 + draw.normal(size=10) for loss in ("mse", "mae")}
        for level in ("sgd", "adam", "adamw")
    }
    table = interactions([comparison(its, level=level) for level, its in values.items()], LEVELS)
    assert {*table.loss} == {"mse", "mae"}
    assert {*table.reference} == {""}
    assert {*table.comparisons} == {4}
    for row in table.itertuples():
        known = interval(values[row.level][row.loss] - values["sgd"][row.loss], 1 - 0.05 / 4)
        assert (row.change, row.low, row.high) == pytest.approx(known)
        assert row.at_base == pytest.approx(values["sgd"][row.loss].mean())
        assert row.at_level == pytest.approx(values[row.level][row.loss].mean())


def test_a_loss_that_is_better_at_a_level_is_said_to_be_so_by_itself():
    draw = np.random.default_rng(4)
    base = {"mse": 3 + 0.01 * draw.normal(size=10)}
    better = {"mse": base["mse"] - 1 + 0.01 * draw.normal(size=10)}  # of rmse
    ones = [comparison(base, level="sgd"), comparison(better, level="adam")]
    (row,) = interactions(ones, LEVELS).to_dict("records")
    assert row["verdict"] == "better by more"
    assert change_sentence(row).startswith(
        "toy × linear, optimizer adam after sgd: mse is better there by more than 0.05 (rmse goes "
        "from 3 to 2, by -0.999 ["
    )


def test_a_loss_that_diverges_at_one_level_only_is_said_to_by_itself():
    base = {"mse": np.linspace(1, 2, 10)}
    ones = [
        comparison(base, level="sgd"),
        comparison({"mse": np.full(10, np.nan)}, level="adam"),
    ]
    ones[1].every_run["status"] = "diverged"
    (row,) = interactions(ones, LEVELS).to_dict("records")
    assert row["verdict"] == "diverges"
    assert "it diverged more often at one of both" in change_sentence(row)


def test_momentum_and_weight_decay_belong_to_the_optimizer():
    sets = {
        "a": config(optimizer="sgd", momentum=0.9, weight_decay=0.0),
        "b": config(optimizer="adamw", momentum=0.0, weight_decay=0.01),
        "c": config(optimizer="muon", momentum=0.95, weight_decay=0.1),
    }
    (family,) = families(sets, "optimizer", tuned=[])
    assert family == {"sgd": "a", "adamw": "b", "muon": "c"}
