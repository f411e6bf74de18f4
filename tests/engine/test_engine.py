"""A pack changes nothing: packed equals single, and a member depends on nothing but itself."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scoringrules as sr
import torch
from configs import make_run
from selection import beyond, one_of_each_family
from sklearn import datasets
from torch import nn
from training import (
    CLASSIFICATION,
    CPU,
    REGRESSION,
    assert_same_records,
    grouped,
    records_of,
    single_run_loop,
    trained,
)

from lossbench import records
from lossbench.data import DATA, Data
from lossbench.data.splits import by_split, permuted, regression
from lossbench.engine import batch_indices, failed, refuse_unpaired, refuse_unwidened
from lossbench.engine.members import initial_model
from lossbench.engine.state import decoded
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss
from lossbench.models import MODELS, Model, initialised, widened
from lossbench.question import ConfigError, packs
from lossbench.sweep import preflight, splits_of


@pytest.mark.parametrize("schedule", beyond(["cosine"], ["constant"]))
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("precision", "tolerance"), beyond([("float64", 1e-9)], [("float32", 1e-5)])
)
@pytest.mark.parametrize(("data", "losses"), [("diabetes", REGRESSION), ("digits", CLASSIFICATION)])
def test_a_pack_equals_single_run_loops_over_50_steps(
    data, losses, precision, tolerance, optimizer, schedule
):
    shared = {"data": data, "optimizer": optimizer, "schedule": schedule, "steps": 51}
    shared |= {"engine__precision": precision, "log_every": 1, "eval_every": 50}
    if (optimizer, precision) == ("adam", "float32"):
        tolerance = 1e-3  # it divides what is next to nothing by itself: roundings grow to steps
    members = [(0, 0.01, 0.0), (1, 0.003, 0.01)]
    runs = [
        make_run(**shared, loss=loss, seed=seed, optimizer__lr=lr, optimizer__weight_decay=decay)
        for loss in losses
        for seed, lr, decay in members
    ]
    saved = []

    def flush(step, snapshot):
        if step == 50:
            saved.append(snapshot().checkpoint)

    (pack,) = packs.group(runs, pack_size=100)
    tables = trained(pack.runs, flush=flush)
    parameters = decoded(saved[0], device=CPU)["state"]["parameters"]
    near = max(tolerance, 1e-6)  # the table keeps float32: its own rounding is 6e-8 relative
    for place, run in enumerate(pack.runs):
        expected, model = single_run_loop(run, stop=50)
        for name, value in model.named_parameters():
            torch.testing.assert_close(
                parameters[name][place], value.detach(), rtol=tolerance, atol=tolerance
            )
        mine = records_of(tables, run)
        found = mine["steps"].loss_value[:50].to_list()
        assert found == pytest.approx(expected, rel=near, abs=1e-6)
        splits = splits_of(run)
        with torch.no_grad():
            output = model(splits.inputs["test"].to(getattr(torch, run.precision)))
        own = run.row.fn(output, splits.targets["test"].to(output)).mean()
        at_end = mine["evals"].query("step == 50 and split == 'test' and metric == 'loss:own'")
        assert at_end.value.item() == pytest.approx(own.item(), rel=near, abs=1e-6)


COUNTED = {"regression": "noisy_counts", "classification": "digits"}
"""Data that every loss of a task can train on."""


@pytest.mark.parametrize("loss", one_of_each_family(LOSSES.values()), ids=lambda loss: loss.name)
def test_every_loss_gives_the_same_bits_in_a_pack_of_any_size(loss):
    odd = {"widths": [5], "activation": "tanh"}
    shared = {"data": COUNTED[loss.task], "model__params": odd, "batch_size": 7, "steps": 3}
    runs = [make_run(loss=loss.name, seed=seed, **shared) for seed in range(9)]
    reference = records_of(trained(runs[:2]), runs[0])
    assert (reference["runs"].status == "done").all(), reference["runs"].reason[0]
    for members in ([runs[0]], runs[::-1]):
        assert_same_records(reference, records_of(trained(members), runs[0]))
    evals = reference["evals"].query("step == 3").set_index("split")
    crossed, own = (evals[evals.metric == f"loss:{what}"].value for what in (loss.name, "own"))
    assert set(own.index) == {"train", "validation", "test"}
    # At default parameters it is one of the others too; these are evaluated on test alone.
    assert {"test": own["test"]} == pytest.approx(crossed.to_dict(), rel=1e-6)


def test_a_diverging_pack_mate_changes_no_bit_of_the_others():
    run = make_run(loss="mse", seed=1)
    mates = [make_run(loss="quartic", seed=seed, optimizer__lr=1e6) for seed in range(3)]
    calm = trained([run, make_run(loss="mse", seed=2)])
    wild = trained([run, *mates])
    assert_same_records(records_of(calm, run), records_of(wild, run))
    statuses = wild["runs"].set_index("run_id").status
    assert all(statuses[mate.run_id] == "diverged" for mate in mates)


def test_a_diverged_run_keeps_its_rows_up_to_its_stop_and_none_after():
    run = make_run(loss="quartic", optimizer__lr=10.0, log_every=1, eval_every=1, steps=40)
    tables = trained([run])
    (row,) = tables["runs"].itertuples()
    assert row.status == "diverged"
    assert 0 < row.stop_step < 40
    assert tables["steps"].step.max() == row.stop_step - 1
    assert tables["steps"].loss_value.notna().all()
    assert tables["evals"].step.max() < row.stop_step
    assert row.best_step in {*tables["evals"].step}
    assert str(row.stop_step) in row.reason


def test_every_loss_of_a_seed_sees_the_same_init_batches_and_data():
    runs = [make_run(loss=loss, seed=seed) for loss in REGRESSION for seed in (0, 1)]
    frame = grouped(runs)["runs"]
    for fingerprint in ("init_sha", "batch_sha", "data_sha"):
        assert len(frame[["seed", fingerprint]].drop_duplicates()) == 2
        assert len(frame[fingerprint].unique()) == 2


def test_every_split_is_evaluated_and_other_losses_on_test_alone():
    evals = trained([make_run(steps=2)])["evals"]
    assert set(evals.split) == {"train", "validation", "test"}
    others = evals[evals.metric.str.startswith("loss:") & (evals.metric != "loss:own")]
    assert len(others)
    assert set(others.split) == {"test"}


# ---- what each test example contributes ----------------------------------------------------------


def two_targets(*, seed):
    """60 examples of three numbers, two targets of different scales."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 3, generator=draw, dtype=torch.float64)
    targets = inputs[:, :2] * torch.tensor([1.0, 9.0]) + torch.randn(60, 2, generator=draw)
    rows = permuted(60, seed)
    return regression(by_split(inputs, rows), by_split(targets, rows))


@pytest.fixture
def shared_test(monkeypatch, tiny):
    row = Data(two_targets, "regression", "test")
    monkeypatch.setitem(DATA, "two_targets", row)


@pytest.mark.usefixtures("shared_test")
@pytest.mark.parametrize(
    ("data", "losses", "count"),
    [
        ("digits", ["cross_entropy", "mse_logits"], 359),
        ("diabetes", ["mse", "mae", "gaussian_nll"], 88),
        ("two_targets", ["mse", "huber", "gaussian_nll"], 12),
        ("tiny_images", ["cross_entropy"], 12),
    ],
)
def test_the_mean_over_test_examples_is_the_metric_at_the_last_step(data, losses, count):
    settings = {"data": data, "steps": 20, "eval_every": 10, "batch_size": 12}
    runs = [make_run(**settings, loss=loss, seed=seed) for loss in losses for seed in (0, 1)]
    for group in {run.row.outputs_per_target: None for run in runs}:
        together = [run for run in runs if run.row.outputs_per_target == group]
        tables = grouped(together)
        found = tables["examples"]
        (metric,) = {*found.metric}
        assert metric == records.PRIMARY[runs[0].row.task]
        last = tables["evals"].query("step == 20 and split == 'test'")
        last = last[last.metric == metric].set_index("run_id").value
        means = found.groupby("run_id").value.mean()
        np.testing.assert_allclose(means, last[means.index], rtol=1e-6)
        for run in together:
            mine = found[found.run_id == run.run_id]
            assert mine.example.tolist() == [*range(count)]
            assert (mine.seed == run.seed).all()
        alone = trained([together[0]])
        assert_same_records(records_of(tables, together[0]), records_of(alone, together[0]))


def test_a_row_of_examples_is_that_row_of_the_test_split():
    run = make_run(data="digits", loss="cross_entropy", steps=30)
    found = grouped([run])["examples"]
    chosen = predictions_of(run, "test").argmax(-1)
    hits = chosen == splits_of(run).targets["test"].argmax(-1).numpy()
    assert 0 < hits.sum() < 359
    assert found.value.tolist() == hits.tolist()


def test_only_done_runs_and_data_with_one_small_test_part_have_examples(monkeypatch):
    wild = make_run(loss="quartic", optimizer__lr=1e6)
    tables = trained([make_run(loss="mse"), wild])
    assert {*tables["examples"].loss} == {"mse"}
    assert len(grouped([make_run(data="noisy_linear", loss="mse", steps=2)])["examples"]) == 0
    few = make_run(loss="mse", steps=2)
    for most, count in ((88, 88), (87, 0)):
        monkeypatch.setattr("lossbench.engine.evaluate.MOST_EXAMPLES", most)
        assert len(grouped([few])["examples"]) == count


def test_the_scale_of_the_target_is_recorded_for_each_seed():
    runs = [make_run(loss="mse", steps=2, seed=seed) for seed in (0, 1)]
    found = grouped(runs)["runs"].set_index("seed").target_scale
    _, progression = datasets.load_diabetes(return_X_y=True)
    for run in runs:
        rows = permuted(len(progression), run.seed)["train"].numpy()
        assert found[run.seed] == pytest.approx(progression[rows].std())
    digits = make_run(data="digits", loss="cross_entropy", steps=2)
    assert grouped([digits])["runs"].target_scale.tolist() == [1.0]


def drawn_anew(*, seed):
    """As `two_targets`, but what is test is another seed's training."""
    splits, draw = two_targets(seed=seed), torch.Generator().manual_seed(seed)
    turned = dict(
        zip(splits.inputs, torch.randperm(60, generator=draw).split([36, 12, 12]), strict=True)
    )
    parts = (torch.cat([*part.values()]) for part in (splits.inputs, splits.targets))
    inputs, targets = (by_split(part, turned) for part in parts)
    return replace(splits, inputs=inputs, targets=targets)


def test_a_set_whose_seeds_have_other_test_examples_must_say_so(monkeypatch):
    monkeypatch.setitem(DATA, "two_targets", Data(two_targets, "regression", "test"))
    preflight([make_run(data="two_targets", loss="mse", seed=seed) for seed in (0, 1)])
    monkeypatch.setitem(DATA, "two_targets", Data(drawn_anew, "regression", "test"))
    runs = [make_run(data="two_targets", loss="mse", seed=seed) for seed in (3, 4)]
    with pytest.raises(ConfigError, match=r"seeds 3 and 4 have other test.*splits\.permuted"):
        preflight(runs)
    preflight(runs[:1])
    row = Data(drawn_anew, "regression", "test", drawn="generated")
    monkeypatch.setitem(DATA, "two_targets", row)
    preflight(runs)


NOISES = {
    "symmetric": ("digits", "cross_entropy", {"rate": 0.4}),
    "outliers": ("diabetes", "mse", {"rate": 0.2}),
}
CLEAN_METRICS = {"accuracy_clean", "rmse_clean", "memorised", "recovered"}


def noisy_run(name, **overrides):
    data, loss, params = NOISES[name]
    noise = {"name": name, "params": params}
    return make_run(data=data, loss=loss, data__corruption=noise, **overrides)


def predictions_of(run, split):
    """What a model trained alone predicts of a split."""
    _, model = single_run_loop(run)
    with torch.no_grad():
        return run.row.predict(model(splits_of(run).inputs[split])).numpy()


def test_validation_is_also_judged_by_the_labels_before_the_noise():
    run = noisy_run("symmetric", steps=60)
    evals, splits = grouped([run])["evals"], splits_of(run)
    last = evals[evals.step == 60].set_index(["split", "metric"]).value
    chosen = predictions_of(run, "validation").argmax(-1)
    for metric, targets in {"accuracy_clean": splits.clean, "accuracy": splits.targets}.items():
        expected = (chosen == targets["validation"].argmax(-1).numpy()).mean()
        assert last["validation", metric] == pytest.approx(expected)
    assert last["validation", "accuracy_clean"] > last["validation", "accuracy"] + 0.1
    wrong, right = (part["train"].argmax(-1).numpy() for part in (splits.targets, splits.clean))
    chosen = predictions_of(run, "train").argmax(-1)[wrong != right]
    assert last["train", "memorised"] == pytest.approx((chosen == wrong[wrong != right]).mean())
    assert last["train", "recovered"] == pytest.approx((chosen == right[wrong != right]).mean())
    assert "test" not in {*evals[evals.metric.isin(CLEAN_METRICS)].split}


def test_validation_is_also_judged_by_the_targets_before_the_outliers():
    run = noisy_run("outliers", steps=30)
    evals, splits = grouped([run])["evals"], splits_of(run)
    last = evals[evals.step == 30].set_index(["split", "metric"]).value
    error = predictions_of(run, "validation") - splits.clean["validation"].numpy()
    assert last["validation", "rmse_clean"] == pytest.approx((error**2).mean() ** 0.5, rel=1e-5)
    assert CLEAN_METRICS & {*evals.metric} == {"rmse_clean"}


def test_without_corruption_no_evaluation_is_longer_than_it_was():
    for data, loss in (("digits", "cross_entropy"), ("diabetes", "mse")):
        evals = grouped([make_run(data=data, loss=loss, steps=1)])["evals"]
        assert not CLEAN_METRICS & {*evals.metric}


def test_what_corruption_did_is_recorded_for_each_seed():
    noisy = [noisy_run("symmetric", seed=seed) for seed in (0, 1)]
    rows = grouped(noisy)["runs"].set_index("seed")
    for run in noisy:
        splits, row = splits_of(run), rows.loc[run.seed]
        before, after = (part["train"].argmax(-1) for part in (splits.clean, splits.targets))
        assert row.corrupted_share == pytest.approx((before != after).double().mean().item())
        matrix = np.array(json.loads(row.transition))
        assert matrix[3, 7] == round(float((after[before == 3] == 7).double().mean()), 6)
    assert rows.corrupted_share.nunique() == 2
    moved = grouped([noisy_run("outliers")])["runs"].iloc[0]
    assert (moved.corrupted_share > 0.1, moved.transition) == (True, "")
    clean = grouped([make_run()])["runs"].iloc[0]
    assert (clean.corrupted_share, clean.transition) == (0.0, "")


def test_a_pack_that_broke_as_a_whole_tells_what_it_knows_of_its_corruption():
    runs = [noisy_run("symmetric"), make_run(data="digits", loss="cross_entropy")]
    rows = failed(packs.Pack("pack", tuple(runs)), "out of memory")["runs"].to_pandas()
    assert rows.transition.tolist() == ["", ""]
    assert rows.corrupted_share.isna().tolist() == [True, False]
    assert rows.corrupted_share[1] == 0.0


def broken_raises(output, target):
    raise RuntimeError("no such thing")


def broken_shape(output, target):
    return (output - target).square()


def broken_type(output, target):
    return (output - target).square().sum(-1).double()


def broken_value(output, target):
    return 1.0


def broken_late(output, target):
    if output.abs().max() > 1e3:
        raise ArithmeticError("too large")
    return 0.5 * (output - target).square().sum(-1)


@pytest.fixture
def with_losses(monkeypatch):
    def add(*functions):
        for fn in functions:
            row = Loss(fn, "identity", "power", "regression", "?", frozenset(), "test")
            monkeypatch.setitem(LOSSES, row.name, row)

    return add


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (broken_raises, "no such thing"),
        (broken_shape, "sum over the last dimension"),
        (broken_type, "keep the type"),
        (broken_value, "return a tensor"),
    ],
)
def test_a_broken_loss_fails_its_own_members_only(with_losses, fn, message):
    with_losses(fn)
    good = [make_run(loss="mse", seed=seed) for seed in (0, 1)]
    bad = [make_run(loss=fn.__name__, seed=seed) for seed in (0, 1)]
    tables = grouped([*good, *bad])
    rows = tables["runs"].set_index("run_id")
    assert all(rows.status[run.run_id] == "failed" for run in bad)
    assert all(message in rows.reason[run.run_id] for run in bad)
    alone = grouped(good)
    for run in good:
        assert_same_records(records_of(alone, run), records_of(tables, run))


def test_a_loss_that_raises_for_one_member_fails_that_member_only(with_losses):
    with_losses(broken_late)
    runs = [make_run(loss="broken_late", optimizer__lr=lr) for lr in (0.01, 1e4)]
    rows = grouped(runs)["runs"].set_index("run_id")
    assert rows.status[runs[0].run_id] == "done"
    assert rows.status[runs[1].run_id] == "failed"


class BranchesOnData(nn.Module):
    """Control flow on a value: cannot be vectorised."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, inputs):
        return self.layer(inputs) if inputs.sum() < 1e9 else self.layer(-inputs)


def branching(inputs: int, outputs: int) -> nn.Module:
    return BranchesOnData(inputs, outputs)


def test_a_module_that_cannot_be_vectorised_trains_one_by_one(monkeypatch, caplog):
    monkeypatch.setitem(MODELS, "branching", Model(branching, "test"))
    run = make_run(model="branching", seed=1, log_every=1)
    tables = trained([run, make_run(model="branching", loss="mae")])
    assert "one by one" in caplog.text
    expected, _ = single_run_loop(run)
    rows = tables["steps"][tables["steps"].run_id == run.run_id]
    assert rows.loss_value.to_list() == pytest.approx(expected, rel=1e-5)


def test_batches_are_permutations_cut_without_remainder():
    rows = batch_indices(seed=5, examples=10, steps=7, batch_size=3)
    assert rows.shape == (7, 3)
    for epoch in (rows[:3], rows[3:6]):
        assert len(set(epoch.flatten().tolist())) == 9
    assert not torch.equal(rows[:3], rows[3:6])


def test_a_batch_larger_than_the_training_split_is_refused():
    with pytest.raises(ValueError, match="use 10 or less"):
        batch_indices(seed=0, examples=10, steps=1, batch_size=11)


class RandomFeatures(nn.Module):
    """Random numbers that no state_dict knows."""

    def __init__(self):
        super().__init__()
        self.features = torch.randn(4, 4)

    def forward(self, inputs):
        return inputs @ self.features


def test_finite_outputs_whose_squares_overflow_count_as_diverged():
    run = make_run(loss="mae", model="linear", optimizer__lr=1e19, optimizer__momentum=0.0)
    (row,) = trained([run])["runs"].itertuples()
    assert row.status == "diverged"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: nn.RReLU(), "random numbers"),
        (lambda: nn.Dropout(0.5), ""),  # `initialised` puts ours in its place
        (lambda: nn.BatchNorm1d(4), ""),
        (lambda: RandomFeatures(), "state_dict"),
        (lambda: nn.Linear(4, 4).requires_grad_(False), "frozen"),
        (lambda: nn.ReLU(), ""),
    ],
)
def test_a_module_whose_members_cannot_be_paired_is_refused(layer, message):
    def module():
        return nn.Sequential(nn.Linear(4, 4), layer(), nn.Linear(4, 1))

    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    if not message:
        refuse_unpaired(module, inputs)
        return
    with pytest.raises(ValueError, match=message):
        refuse_unpaired(module, inputs)


# What a loss may know beside output and target, and outputs beyond the prediction's.


def test_class_counts_are_those_of_the_training_split_of_each_seed(monkeypatch):
    seen = []

    def counting(output, target, *, context):
        seen.append(context)
        return (output - target).square().sum(-1)

    row = Loss(counting, "identity", "power", "classification", "?", frozenset(), "test")
    monkeypatch.setitem(LOSSES, "counting", row)
    shared = {"data": "digits", "loss": "counting", "steps": 2, "batch_size": 5}
    runs = [make_run(**shared, seed=seed) for seed in (0, 1)]
    trained(runs)
    for place, run in enumerate(runs):
        training = splits_of(run).targets["train"]
        for step, context in zip(range(2), [c for c in seen if c.rows.dim() == 2], strict=True):
            counts = context.class_counts[place]
            assert counts.shape == (1, 10)
            assert torch.equal(counts[0], training.sum(0))
            batch = batch_indices(run.seed, len(training), 2, 5)[step]
            assert torch.equal(context.rows[place], batch)


def test_a_weighted_loss_trains_like_torch_with_the_weights_of_its_seed():
    run = make_run(
        data="digits", loss="class_balanced", steps=1, log_every=1, engine__precision="float64"
    )
    splits = splits_of(run)
    inputs, targets = (part["train"].double() for part in (splits.inputs, splits.targets))
    rows = batch_indices(run.seed, len(inputs), 1, run.batch_size)[0]
    build = partial(MODELS["mlp"].fn, inputs.shape[-1], 10, **run.model.params)
    model = initialised(build, seed=run.seed).double()
    weight = (1 - 0.9999) / (1 - 0.9999 ** targets.sum(0))
    expected = nn.functional.cross_entropy(
        model(inputs[rows]), targets[rows].argmax(-1), 10 * weight / weight.sum(), reduction="none"
    ).mean()
    recorded = trained([run])["steps"].loss_value[0]
    assert recorded == pytest.approx(expected.item(), rel=1e-6)


def test_a_second_output_per_target_starts_as_the_same_model_with_unit_variance():
    mse, nll = (
        make_run(loss=loss, seed=4, steps=1, log_every=1, engine__precision="float64")
        for loss in ("mse", "gaussian_nll")
    )
    first, second = (trained([run]) for run in (mse, nll))
    for fingerprint in ("init_sha", "batch_sha", "data_sha"):
        assert first["runs"][fingerprint][0] == second["runs"][fingerprint][0]
    one, other = first["steps"].iloc[0], second["steps"].iloc[0]
    assert one.loss_value == pytest.approx(other.loss_value, rel=1e-6)
    assert one.error_norm == pytest.approx(other.error_norm, rel=1e-6)
    assert other.cosine == pytest.approx(1.0, abs=1e-6)


def test_losses_with_other_numbers_of_outputs_train_in_packs_of_their_own():
    runs = [make_run(loss=loss) for loss in ("mse", "gaussian_nll", "mae")]
    found = [sorted(run.loss.name for run in pack.runs) for pack in packs.group(runs, pack_size=9)]
    assert sorted(found) == [["gaussian_nll"], ["mae", "mse"]]


def test_a_second_output_learns_the_variance_of_the_noise():
    linear = {"name": "linear", "fn": "linear", "params": {}}
    facts = {"data": "noisy_linear", "data__params": {"examples": 10_000}, "model": linear}
    times = {"steps": 1500, "log_every": 1500, "eval_every": 1500}
    facts |= {"loss": "gaussian_nll", "optimizer__lr": 0.01}
    runs = [make_run(**facts, **times, seed=seed) for seed in range(4)]
    evals = trained(runs)["evals"].query("split == 'validation' and metric == 'loss:own'")
    # Function and noise have variance 1 each, standardised together: the noise keeps half.
    first, last = (evals.value[evals.step == step].mean() for step in (0, 1500))
    assert first > 0.4
    assert last == pytest.approx((np.log(0.5) + 1) / 2, abs=0.04)


# What a loss predicts beyond a point; what is measured at the end.


def untrained(run):
    """Output and target of a run's model on test, before any update."""
    splits = splits_of(run)
    target, model = splits.targets["test"], initial_model(run, splits, seed=run.seed)
    wide = widened(model, outputs=target.shape[-1], times=run.row.outputs_per_target)
    with torch.no_grad():
        return wide(splits.inputs["test"]).numpy(), target.numpy()


SURE = {
    "gaussian_nll": ({}, lambda y, z: sr.crps_normal(y, z[:, :1], np.exp(0.5 * z[:, 1:]))),
    "student_t": ({"df": 3.0, "scale": 0.5}, lambda y, z: sr.crps_t(y, 3.0, z, 0.5)),
}
AT_START = "step == 0 and split == 'test'"


@pytest.mark.parametrize("name", SURE)
def test_distributions_are_judged_at_the_members_own_parameters(name):
    params, scores = SURE[name]
    run = make_run(loss=name, loss__params=params, steps=1)
    other = make_run(loss=name, seed=1, steps=1)
    found = grouped([other, run])["evals"]
    value = found[found.run_id == run.run_id].query(AT_START).set_index("metric").value
    output, target = untrained(run)
    assert value["crps"] == pytest.approx(scores(target, output).mean(), rel=1e-5)
    assert value["coverage_error"] == pytest.approx(abs(value["coverage_90"] - 0.9), abs=1e-6)
    assert "quantile_coverage" not in value


def test_quantiles_are_judged_at_the_members_own_level():
    runs = [make_run(loss="pinball", loss__params={"tau": tau}, steps=1) for tau in (0.3, 0.8)]
    found = grouped(runs)["evals"].query(AT_START).set_index(["run_id", "metric"]).value
    output, target = untrained(runs[0])
    for run, tau in zip(runs, (0.3, 0.8), strict=True):
        share = found[run.run_id, "quantile_coverage"]
        assert share == pytest.approx((target <= output).mean())
        assert found[run.run_id, "coverage_error"] == pytest.approx(abs(share - tau), abs=1e-6)


def judging_certainty(runs):
    """Evaluations of metrics that need a loss which says how sure it is."""
    evals = grouped(runs)["evals"]
    return evals[evals.metric.isin([n for n, m in records.METRICS.items() if m.needs])]


def test_losses_that_predict_a_point_have_no_coverage_among_others_that_say_how_sure_they_are():
    names = ("mse", "expectile", "pinball", "student_t")
    found = judging_certainty([make_run(loss=n, steps=1) for n in names])
    assert found.groupby("loss").metric.agg(set).to_dict() == {
        "pinball": {"quantile_coverage", "coverage_error"},
        "student_t": {"crps", "coverage_90", "coverage_error"},
    }
    assert {*found.split} == {"validation", "test"}


@pytest.mark.parametrize("name", ["quantiles", "hl_gauss"])
def test_a_loss_of_many_outputs_starts_with_one_and_learns_a_distribution(name):
    run = make_run(data="heteroscedastic", loss=name, steps=200, batch_size=64, lr=0.3)
    tables = trained([run])
    evals = tables["evals"].query("split == 'test'").set_index(["step", "metric"]).value
    target = DATA["heteroscedastic"].fn(seed=run.seed).targets["test"].numpy()
    # A forecast of the training targets' normal distribution knows nothing of the input.
    ignorant = sr.crps_normal(target, 0.0, 1.0).mean()
    assert evals[200, "crps"] < 0.9 * ignorant < evals[0, "crps"]
    assert 0.6 < evals[200, "coverage_90"] <= 1.0
    has_cosine = tables["steps"].cosine.notna()
    assert has_cosine.all() if name == "quantiles" else not has_cosine.any()


MANY = {"data": "many_labels", "steps": 100, "batch_size": 64, "lr": 0.1, "eval_every": 50}


def test_losses_of_one_against_all_learn_any_number_of_labels_and_are_judged_alike():
    names = ("bce_ova", "mse_sigmoid", "ova_hinge", "mse_logits")
    evals = grouped([make_run(loss=name, **MANY) for name in names])["evals"]
    found = evals.query("split == 'test'").set_index(["loss", "step", "metric"]).value
    for name in names:
        for metric in ("accuracy", "balanced_accuracy", "average_precision", "kl"):
            assert metric in found[name, 100].index
        # One probability a label, whatever the inputs, is what a start that is random knows.
        assert found[name, 100, "kl"] < 0.7 * found[name, 0, "kl"]
        assert found[name, 100, "nll"] > found[name, 100, "entropy_floor"]
        assert {"ece", "tv_posterior", "tv_bayes"}.isdisjoint(found[name, 100].index)
    assert "loss:cross_entropy" not in found["bce_ova", 100].index
    assert "loss:crammer_singer" not in found["mse_logits", 100].index
    assert "loss:rescaled_square" in found["mse_logits", 100].index


def test_a_run_on_many_labels_has_the_same_bits_alone_and_in_a_pack():
    runs = [
        make_run(loss=name, seed=seed, **MANY) for name in ("bce_ova", "tangent") for seed in (0, 1)
    ]
    together = grouped(runs)
    for run in (runs[0], runs[3]):
        assert_same_records(records_of(trained([run]), run), records_of(together, run))


def test_on_a_test_split_without_noise_nobody_is_judged_by_how_sure_he_is():
    run = make_run(data="noisy_linear", loss="gaussian_nll", steps=1)
    assert {*judging_certainty([run]).split} == {"validation"}


def test_no_point_is_aimed_at_where_labels_are_corrupted():
    noisy = {"name": "symmetric", "params": {"rate": 0.4}}
    facts = {"data": "gaussian_mixture", "loss": "brier", "steps": 1}
    plain, corrupted = (
        {*grouped([make_run(**facts, **more)])["evals"].metric}
        for more in ({}, {"data__corruption": noisy})
    )
    assert "tv_bayes" in plain
    assert "tv_bayes" not in corrupted


def test_a_metric_is_measured_on_the_splits_it_declares_and_what_sorts_at_the_last_step():
    run = make_run(data="digits", loss="mse_logits", steps=4, eval_every=2)
    evals = trained([run])["evals"]
    for metric, rows in evals[~evals.metric.str.startswith("loss:")].groupby("metric"):
        declared = records.metric_of(metric)
        places = {*itertools.product([4] if declared.is_final else [0, 2, 4], declared.splits)}
        assert {*zip(rows.step, rows.split, strict=True)} == places, metric


def test_recorded_brier_terms_and_class_accuracies_make_up_what_they_are_parts_of():
    run = make_run(data="digits", loss="mse_logits", steps=30)
    last = trained([run])["evals"].query("step == 30 and split == 'test'")
    value = last.set_index("metric").value.astype(float)
    terms = [value[f"brier_{name}"] for name in ("reliability", "resolution", "uncertainty")]
    assert terms[0] - terms[1] + terms[2] == pytest.approx(value["brier"], rel=1e-5)
    shares = value[[f"accuracy:{place}" for place in range(10)]]
    assert shares.mean() == pytest.approx(value["balanced_accuracy"], rel=1e-6)


# Other losses on a model.


def test_other_losses_are_evaluated_where_the_inverse_link_is_the_same():
    shared = {"data": "digits", "steps": 2}
    evals = grouped([make_run(loss=loss, **shared) for loss in ("brier", "mse_logits", "entmax")])
    found = evals["evals"].query("split == 'test' and step == 2")
    crossed = found[found.metric.str.startswith("loss:")].groupby("loss").metric.agg(set)
    assert {"loss:cross_entropy", "loss:gce", "loss:class_balanced"} <= crossed["brier"]
    assert "loss:ldam" not in crossed["brier"]
    assert {"loss:mse_logits", "loss:weston_watkins"} <= crossed["mse_logits"]
    assert crossed["entmax"] == {"loss:entmax", "loss:own"}


def test_a_link_with_other_parameters_is_another_link():
    run = make_run(data="digits", loss="bi_tempered", loss__params={"t2": 1.2}, steps=2)
    metrics = set(trained([run])["evals"].metric)
    assert {metric for metric in metrics if metric.startswith("loss:")} == {"loss:own"}


def test_other_losses_are_evaluated_at_the_last_step_and_the_own_one_at_every_step():
    evals = trained([make_run(steps=5, eval_every=2)])["evals"]
    steps = evals[evals.split == "test"].groupby("metric").step.agg(list)
    assert steps["loss:own"] == steps["rmse"] == [0, 2, 4, 5]
    others = steps[steps.index.str.startswith("loss:") & (steps.index != "loss:own")]
    assert len(others) > 5
    assert all(found == [5] for found in others)


def test_class_counts_weigh_the_evaluation_of_each_member_by_its_own_seed():
    runs = [
        make_run(data="digits", loss="class_balanced", seed=seed, steps=1, batch_size=7)
        for seed in (0, 1, 2)
    ]
    together = trained(runs)["evals"]
    for run in runs:
        alone = trained([run])["evals"]
        pick = together[together.run_id == run.run_id].reset_index(drop=True)
        assert alone.value.equals(pick.value)


# Dense training targets.

FED = {"data": "gaussian_mixture", "steps": 3, "batch_size": 20}


def test_a_loss_is_trained_on_the_posterior_itself():
    run = make_run(
        **FED,
        loss="quartic_probs",
        data__targets="distribution",
        log_every=1,
        engine__precision="float64",
    )
    expected, _ = single_run_loop(run)
    assert splits_of(run).targets["train"].sum(-1).allclose(torch.ones(1200))
    recorded = trained([run])["steps"].loss_value.to_numpy()
    np.testing.assert_allclose(recorded, expected, rtol=1e-6)
    labels = make_run(**FED, loss="quartic_probs", log_every=1)
    assert abs(trained([labels])["steps"].loss_value - recorded).min() > 1e-3


def test_dense_training_targets_have_losses_and_distances_but_no_metrics_of_labels():
    runs = {
        targets: trained([make_run(**FED, loss="brier", data__targets=targets)])["evals"]
        for targets in ("sampled", "distribution")
    }
    metrics = {
        key: evals[evals.step == 3].groupby("split").metric.agg(set) for key, evals in runs.items()
    }
    sampled, dense = metrics["sampled"], metrics["distribution"]
    for split in ("validation", "test"):
        assert dense[split] == sampled[split]
    assert sampled["train"] == {"accuracy", "loss:own"}
    assert dense["train"] == {"loss:own"}


def test_the_own_loss_is_measured_against_what_it_is_fed_on_every_split():
    run = make_run(**FED, loss="brier", data__targets="distribution")
    found = trained([run])["evals"].query("step == 0 and metric == 'loss:own'")
    splits = splits_of(run)
    model = initial_model(run, splits, seed=run.seed)
    for split, value in zip(found.split, found.value, strict=True):
        with torch.no_grad():
            p = model(splits.inputs[split]).softmax(-1)
        expected = (p - splits.posterior[split]).square().sum(-1).mean()
        assert value == pytest.approx(float(expected), rel=1e-5)


def test_validation_and_test_judge_both_kinds_of_targets_by_the_same_labels():
    labels, dense = (
        splits_of(make_run(**FED, loss="brier", data__targets=targets))
        for targets in ("sampled", "distribution")
    )
    for split in ("validation", "test"):
        assert torch.equal(labels.targets[split], dense.targets[split])
    assert not torch.equal(labels.targets["train"], dense.targets["train"])


def test_a_loss_that_raises_in_evaluation_leaves_its_neighbours_own_losses_alone(with_losses):
    with_losses(broken_late)
    runs = [make_run(loss="broken_late", optimizer__lr=lr, steps=4) for lr in (0.01, 1e4)]
    together, alone = trained(runs), trained(runs[:1])
    assert_same_records(records_of(alone, runs[0]), records_of(together, runs[0]))
    own = together["evals"].query("metric == 'loss:own' and step == 4")
    assert set(own.run_id) == {runs[0].run_id}


# Refused before training.


class AddsAfterwards(nn.Module):
    """Its last linear layer does not make its output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(inputs, outputs)

    def forward(self, inputs):
        return self.last(inputs) + 1.0


@pytest.mark.parametrize(
    ("build", "is_refused"),
    [
        (partial(nn.Linear, 8, 1), False),
        (partial(MODELS["mlp"].fn, 8, 1), False),
        (partial(AddsAfterwards, 8, 1), True),
        (lambda: nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 1), nn.Tanh()), False),
        (lambda: nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 1), nn.Sigmoid()), True),
    ],
    ids=["bare", "mlp", "shifted", "odd", "sigmoid"],
)
def test_a_model_whose_further_outputs_are_not_zero_is_refused_a_second_output(build, is_refused):
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    refuse_unwidened(build, inputs, times=1)
    if is_refused:
        with pytest.raises(ValueError, match="ends in a linear layer"):
            refuse_unwidened(build, inputs, times=2)
    else:
        refuse_unwidened(build, inputs, times=2)


def test_parameters_that_a_loss_refuses_are_refused_before_training():
    run = make_run(data="digits", loss="bi_tempered", loss__params={"t1": 1.2, "t2": 0.5})
    with pytest.raises(ConfigError, match=r"bi_tempered: t1 is 1\.2 and t2 is 0\.5"):
        preflight([make_run(data="digits", loss="brier"), run])


# A multiple of a loss.


def doubled(output, target):
    return (output - target).square().sum(-1)


def tripled(output, target):
    return 1.5 * (output - target).square().sum(-1)


def scores(tables):
    evals = tables["evals"]
    rows = evals[evals.metric.isin(["rmse", "mae"])]
    return rows.set_index(["step", "split", "metric"]).value.sort_index()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_multiple_of_a_loss_at_that_part_of_the_rate_is_the_same_training(with_losses, momentum):
    with_losses(doubled, tripled)
    settings = {"steps": 20, "optimizer__momentum": momentum}
    plain = scores(trained([make_run(**settings, optimizer__lr=0.06)]))
    for loss, factor in (("doubled", 2), ("tripled", 3)):
        run = make_run(**settings, loss=loss, optimizer__lr=0.06 / factor)
        found = scores(trained([run]))
        if factor == 2:
            assert found.equals(plain)  # a power of two changes no bit
        assert found.to_numpy() == pytest.approx(plain.to_numpy(), rel=1e-4)


def test_weight_decay_breaks_the_equality_of_a_multiple(with_losses):
    with_losses(doubled)
    decayed = {"steps": 20, "optimizer__weight_decay": 0.1}
    one = scores(trained([make_run(**decayed, optimizer__lr=0.06)]))
    other = scores(trained([make_run(**decayed, loss="doubled", optimizer__lr=0.03)]))
    assert abs(one - other).max() > 1e-3
