"""What is compared with what: contexts without tuned factors, and the borrowed reference."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from frames import SEEDS, drawn, frame
from scipy import stats
from sweep_on_disk import build, own, with_status

from lossbench import records, statistics
from lossbench.statistics import contexts, paired, placed, with_reference


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


def conditions(**values):
    """Runs by condition from {condition: {loss: values by seed}}."""
    parts = [frame(losses, condition=name) for name, losses in values.items()]
    return pd.concat(parts, ignore_index=True)


def test_a_condition_without_the_reference_is_compared_with_its_own_lr_runs():
    own, other = drawn(0.0), drawn(0.1, seed=4)["other"]
    runs = conditions(own_lr=own, reference_lr={"other": other, "third": other + 1})
    table = paired(runs, metric="rmse", reference="mse", declared=["mse", "other", "third"])
    row = table[(table.condition == "reference_lr") & (table.loss == "other")].iloc[0]
    expected = stats.ttest_rel(other, own["mse"]).confidence_interval(1 - 0.05 / 2)
    assert (row.low, row.high) == pytest.approx(tuple(expected), rel=1e-9)
    counts = table.groupby("condition").comparisons.first()
    assert counts.to_dict() == {"own_lr": 1, "reference_lr": 2}  # each condition is a family


def test_the_reference_is_borrowed_within_its_context_only():
    runs = conditions(own_lr=drawn(0.0), scale_matched={"other": drawn(0.0)["other"]})
    elsewhere = runs[runs.condition == "scale_matched"].assign(context="d")
    full = with_reference(pd.concat([runs, elsewhere], ignore_index=True), "mse")
    found = full.groupby(["context", "condition"]).loss.agg(lambda losses: sorted({*losses}))
    assert found.to_dict() == {
        ("c", "own_lr"): ["mse", "other"],
        ("c", "scale_matched"): ["mse", "other"],
        ("d", "scale_matched"): ["other"],
    }
    assert len(full) == len(runs) + 2 * len(SEEDS)


def test_of_several_conditions_with_the_reference_its_own_rate_is_borrowed():
    base = drawn(0.0)
    far = {"mse": base["mse"] + 9, "other": base["other"]}
    runs = conditions(as_given=far, own_lr=base, scale_matched={"other": base["other"]})
    table = paired(runs, metric="rmse", reference="mse").set_index("condition")
    assert table.difference["scale_matched"] == table.difference["own_lr"]


def test_a_reference_that_was_planned_but_is_missing_is_not_borrowed():
    runs = conditions(own_lr=drawn(0.0), reference_lr=drawn(0.0))
    lost = (runs.condition == "reference_lr") & (runs.loss == "mse")
    runs.loc[lost, ["status", "rmse"]] = ["missing", np.nan]
    pd.testing.assert_frame_equal(with_reference(runs, "mse"), runs)
    table = paired(runs, metric="rmse", reference="mse").set_index("condition")
    assert table.verdict["reference_lr"] == "incomplete"


def test_a_borrowed_reference_with_other_fingerprints_is_refused():
    runs = conditions(own_lr=drawn(0.0), reference_lr={"other": drawn(0.0)["other"]})
    runs.loc[(runs.condition == "reference_lr") & (runs.seed == 3), "data_sha"] = "else"
    with pytest.raises(ValueError, match="seed 3 of toy × linear: data_sha differs"):
        paired(runs, metric="rmse", reference="mse")


# ---- one loss in two contexts --------------------------------------------------------------------


def contrast(values, *, first="data", second="data", **columns):
    """Runs of two contexts; {loss: (values in the first, values in the second)}."""
    parts = [
        frame({loss: both[i] for loss, both in values.items()}, context=name, label=name)
        for i, name in enumerate(["sampled", "distribution"])
    ]
    return parts[0].assign(data_sha=first), parts[1].assign(data_sha=second, **columns)


def test_a_contrast_is_the_paired_t_of_second_minus_first_shared_among_the_losses():
    draw = np.random.default_rng(0)
    values = {name: draw.normal(size=(2, 10)) for name in ("a", "b", "c")}
    table = statistics.contrasted(*contrast(values, second="else"), metric="rmse", margin=0.1)
    assert list(table.columns) == statistics.CONTRASTED
    for row in table.itertuples():
        first, second = values[row.loss]
        expected = stats.ttest_rel(second, first).confidence_interval(1 - 0.05 / 3)
        assert (row.low, row.high) == pytest.approx(tuple(expected), rel=1e-9)
        assert row.difference == pytest.approx((second - first).mean())
    assert {*table["first"], *table.second} == {"sampled", "distribution"}


def test_a_contrast_is_better_where_the_second_context_is():
    values = {
        "a": (np.zeros(10), drawn(0.0)["mse"] + 5),
        "b": (drawn(9.0)["mse"] + 9, np.zeros(10)),
    }
    table = statistics.contrasted(*contrast(values), metric="rmse").set_index("loss")
    assert table.verdict.to_dict() == {"a": "worse", "b": "better"}


@pytest.mark.parametrize("column", ["init_sha", "batch_sha", "env_sha"])
def test_a_contrast_of_runs_that_started_or_ran_differently_is_refused(column):
    first, second = contrast({"a": (np.zeros(10), np.ones(10))})
    second.loc[second.seed == 4, column] = "else"
    with pytest.raises(ValueError, match=rf"seed 4 of .*: {column} differs between a \(first: s"):
        statistics.contrasted(first, second, metric="rmse")


def test_only_two_single_contexts_are_contrasted():
    first, second = contrast({"a": (np.zeros(10), np.ones(10))})
    with pytest.raises(ValueError, match="2 contexts in one frame"):
        statistics.contrasted(pd.concat([first, second]), second, metric="rmse")


def test_losses_without_a_counterpart_are_not_contrasted():
    first, second = contrast({"a": (np.zeros(10), np.ones(10)), "b": (np.zeros(10), np.ones(10))})
    table = statistics.contrasted(first[first.loss == "b"], second, metric="rmse")
    assert table[["loss", "comparisons"]].to_numpy().tolist() == [["b", 1]]
    assert statistics.contrasted(
        first[first.loss == "b"], second[second.loss == "a"], metric="rmse"
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
