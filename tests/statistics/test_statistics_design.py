"""What is compared with what: contexts without what is tuned, and one loss in two of them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from frames import drawn, frame
from known_interval import interval
from sweep_on_disk import build, own, with_status

from lossbench import records, statistics
from lossbench.statistics import placed
from lossbench.statistics.design import contexts


def recorded(**leaves):
    """One run of huber as a sweep records it; leaves replace those of its configuration."""
    config = {
        "data": {"name": "toy", "fn": "toy", "params": {}},
        "loss": {"name": "huber", "fn": "huber", "params": {"delta": leaves.pop("delta", 1.0)}},
        "lr": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "steps": 100,
        **leaves,
    }
    names = {"data": "toy", "model": "linear", "optimizer": "sgd", "loss": "huber"}
    return names | {"config": json.dumps(config)}


@pytest.mark.parametrize("name", ["weight_decay", "momentum"])
def test_what_was_tuned_for_each_loss_splits_no_context(name):
    runs = pd.DataFrame([recorded(**{name: value}) for value in (0.0, 0.1)])
    assert contexts(runs).context.nunique() == 2
    found = placed(runs, tuned=[f"optimizer.{name}"])
    assert len({*found.context}) == 1
    assert {*found.label} == {"toy × linear"}
    assert found[f"optimizer.{name}"].tolist() == [0.0, 0.1]


def test_what_was_not_tuned_still_splits_contexts():
    runs = pd.DataFrame([recorded(steps=steps, weight_decay=steps / 100) for steps in (100, 200)])
    found = contexts(runs, tuned=["optimizer.weight_decay"])
    assert sorted(found.label) == ["toy × linear · steps=100", "toy × linear · steps=200"]


def test_a_tuned_parameter_of_a_loss_makes_no_variants():
    runs = pd.DataFrame([recorded(delta=delta) for delta in (0.1, 1.0)])
    found = placed(runs, tuned=["loss.params.delta", "loss.params.absent"])
    assert {*contexts(runs).variant} == {"huber(delta=0.1)", "huber(delta=1.0)"}
    assert {*found.loss} == {"huber"}
    assert found["loss.params.delta"].tolist() == [0.1, 1.0]
    assert found["loss.params.absent"].isna().all()


# ---- one loss in two contexts --------------------------------------------------------------------


def contrast(values, *, first="data", second="data", **columns):
    """Runs of two contexts; {loss: (values in the first, values in the second)}."""
    parts = [
        frame({loss: both[i] for loss, both in values.items()}, context=name, label=name)
        for i, name in enumerate(["sampled", "distribution"])
    ]
    return parts[0].assign(data_sha=first), parts[1].assign(data_sha=second, **columns)


def test_a_contrast_is_the_mean_of_second_minus_first_shared_among_the_losses():
    draw = np.random.default_rng(0)
    values = {name: draw.normal(size=(2, 10)) for name in ("a", "b", "c")}
    table = statistics.contrasted(
        *contrast(values, second="else"), statistics.Rule(metric="rmse", margin=0.1)
    )
    assert list(table.columns) == statistics.pairs.CONTRASTED
    for row in table.itertuples():
        first, second = values[row.loss]
        expected = interval(second - first, 1 - 0.05 / 3)
        assert (row.difference, row.low, row.high) == pytest.approx(expected, rel=1e-9)
    assert {*table["first"], *table.second} == {"sampled", "distribution"}


def test_a_contrast_is_better_where_the_second_context_is():
    values = {
        "a": (np.zeros(10), drawn(0.0)["mse"] + 5),
        "b": (drawn(9.0)["mse"] + 9, np.zeros(10)),
    }
    table = statistics.contrasted(*contrast(values), statistics.Rule(metric="rmse")).set_index(
        "loss"
    )
    assert table.verdict.to_dict() == {"a": "worse", "b": "better"}


@pytest.mark.parametrize("column", ["init_sha", "batch_sha", "env_sha"])
def test_a_contrast_of_runs_that_started_or_ran_differently_is_refused(column):
    first, second = contrast({"a": (np.zeros(10), np.ones(10))})
    second.loc[second.seed == 4, column] = "else"
    with pytest.raises(ValueError, match=rf"seed 4 of .*: {column} differs between a \(first: s"):
        statistics.contrasted(first, second, statistics.Rule(metric="rmse"))


def test_only_two_single_contexts_are_contrasted():
    first, second = contrast({"a": (np.zeros(10), np.ones(10))})
    with pytest.raises(ValueError, match="2 contexts in one frame"):
        statistics.contrasted(pd.concat([first, second]), second, statistics.Rule(metric="rmse"))


def test_losses_without_a_counterpart_are_not_contrasted():
    first, second = contrast({"a": (np.zeros(10), np.ones(10)), "b": (np.zeros(10), np.ones(10))})
    table = statistics.contrasted(first[first.loss == "b"], second, statistics.Rule(metric="rmse"))
    assert table[["loss", "comparisons"]].to_numpy().tolist() == [["b", 1]]
    assert statistics.contrasted(
        first[first.loss == "b"], second[second.loss == "a"], statistics.Rule(metric="rmse")
    ).empty


def test_a_missing_run_joins_the_context_that_the_plan_gave_it(tmp_path):
    # Two contexts of the same data, model and optimizer: only the plan tells them apart.
    runs = own({"mse": "power", "mae": "power"}, data="diabetes")
    runs = [replace(run, steps=steps) for run in runs for steps in (500, 900)]
    gone = with_status(runs, "missing", count=1, loss="mae", steps=900)
    loaded = records.load(build(tmp_path / "two", gone))
    placed = statistics.placed(loaded.runs)
    (missing,) = placed[placed.status == "missing"].itertuples()
    mates = placed[(placed.context == missing.context) & (placed.status == "done")]
    assert {json.loads(text)["steps"] for text in mates.config} == {900}


def test_a_missing_run_of_a_variant_is_counted_with_its_variant(tmp_path):
    runs = [
        replace(run, params=(("delta", delta),))
        for run in own({"huber": "monotone"}, data="diabetes")
        for delta in (0.5, 2.0)
    ]
    gone = with_status(runs, "missing", count=1, params=(("delta", 2.0),))
    placed = statistics.placed(records.load(build(tmp_path / "variants", gone)).runs)
    assert placed.loss[placed.status == "missing"].tolist() == ["huber(delta=2.0)"]
    assert {*placed.loss} == {"huber(delta=0.5)", "huber(delta=2.0)"}


def test_a_label_leaves_out_how_often_was_looked_where_the_rest_tells_contexts_apart():
    def labels(**other):
        rows = [recorded(), recorded(**other)]
        return [*contexts(pd.DataFrame(rows)).label]

    told = labels(batch_size=32, eval_every=7, targets="distribution")
    assert told[1].endswith("· targets distribution")
    assert not any("eval_every" in label or "batch_size" in label for label in told)
    assert labels(eval_every=7)[1].endswith("· eval_every=7")


def test_a_label_spells_out_what_differs_between_teachers_and_not_that_others_have_none():
    before = {"loss": "cross_entropy", "steps": 500}
    rows = [
        recorded(),
        recorded(targets="teacher", pretrained={**before, "temperature": 1.0}),
        recorded(targets="teacher", pretrained={**before, "temperature": 4.0}),
    ]
    told = [*contexts(pd.DataFrame(rows)).label]
    assert told[2].endswith("· pretrained.temperature=4.0 · targets teacher")
    assert not any("steps" in label or "cross_entropy" in label for label in told)
