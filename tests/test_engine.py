"""A pack changes nothing: packed equals single, and a member depends on nothing but itself."""

from __future__ import annotations

import importlib
import itertools

import pandas as pd
import pytest
import torch
from conftest import make_run
from torch import nn

from lossbench import packs
from lossbench.engine import refuse_unpaired, train
from lossbench.engine.members import batch_indices
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss
from lossbench.models import MODELS, Model, initialised
from lossbench.sweep import splits_of

CPU = torch.device("cpu")
REGRESSION = ["mse", "mae", "quartic", "huber", "log_cosh"]
CLASSIFICATION = ["cross_entropy", "brier", "mse_logits", "mae_probs", "quartic_probs"]
VOLATILE = ["pack_id", "pack_size", "train_seconds"]


def trained(runs, *, padding=2):
    pack = packs.Pack("pack", tuple(runs))
    splits = {run.seed: splits_of(run) for run in runs}
    tables = train(pack, splits, device=CPU, padding=padding, flush=lambda step: None)
    return {name: table.to_pandas() for name, table in tables.items()}


def grouped(runs, **kwargs):
    (pack,) = packs.group(runs, pack_size=10_000)
    return trained(pack.runs, **kwargs)


def records_of(tables, run):
    return {
        name: frame[frame.run_id == run.run_id]
        .drop(columns=VOLATILE, errors="ignore")
        .reset_index(drop=True)
        for name, frame in tables.items()
    }


def assert_same_records(left, right):
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


def single_run_loop(run):
    """What a user would write: one module, torch.optim, autograd through the mean of the loss."""
    splits = splits_of(run)
    dtype = getattr(torch, run.precision)
    inputs, targets = (part["train"].to(dtype) for part in (splits.inputs, splits.targets))
    sizes = (inputs.shape[-1], targets.shape[-1])
    model = initialised(
        lambda: MODELS[run.model.fn].fn(*sizes, **run.model.params),
        seed=run.seed,
        output_scale=run.init.output_scale,
    ).to(dtype)
    shared = {"lr": run.lr, "weight_decay": run.weight_decay}
    optimizer = (
        torch.optim.SGD(model.parameters(), momentum=run.momentum, **shared)
        if run.optimizer.fn == "sgd"
        else torch.optim.Adam(model.parameters(), **shared)
    )
    schedule = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=run.steps)
        if run.schedule.fn == "cosine"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    )
    values = []
    for rows in batch_indices(run.seed, len(inputs), run.steps, run.batch_size):
        optimizer.zero_grad()
        loss = run.row.fn(model(inputs[rows]), targets[rows], **run.loss.params).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        values.append(loss.item())
    return values, model


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize(("data", "losses"), [("diabetes", REGRESSION), ("digits", CLASSIFICATION)])
def test_a_pack_equals_single_run_loops_over_50_steps(
    data, losses, precision, tolerance, optimizer, schedule
):
    runs = [
        make_run(
            data=data,
            loss=loss,
            optimizer=optimizer,
            schedule=schedule,
            engine__precision=precision,
            seed=seed,
            optimizer__lr=lr,
            optimizer__weight_decay=decay,
            steps=50,
            log_every=1,
            eval_every=50,
        )
        for loss in losses
        for seed, lr, decay in [(0, 0.01, 0.0), (1, 0.003, 0.01)]
    ]
    tables = grouped(runs)
    for run in runs:
        expected, model = single_run_loop(run)
        rows = tables["steps"][tables["steps"].run_id == run.run_id]
        found = torch.tensor(rows.loss_value.to_numpy(), dtype=torch.float64)
        # The table keeps float32: its own rounding is 6e-8 relative.
        torch.testing.assert_close(
            found, torch.tensor(expected, dtype=torch.float64), rtol=max(tolerance, 1e-6), atol=1e-6
        )
        splits = splits_of(run)
        with torch.no_grad():
            output = model(splits.inputs["test"].to(getattr(torch, run.precision)))
        error = run.row.predict(output) - splits.targets["test"]
        metric, value = (
            ("rmse", error.square().mean().sqrt())
            if data == "diabetes"
            else (
                "loss:" + run.loss.fn,
                run.row.fn(output, splits.targets["test"].to(output)).mean(),
            )
        )
        evals = tables["evals"]
        found_end = evals[
            (evals.run_id == run.run_id)
            & (evals.step == 50)
            & (evals.split == "test")
            & (evals.metric == metric)
        ].value.item()
        assert found_end == pytest.approx(value.item(), rel=max(tolerance, 1e-6), abs=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_parameters_of_a_pack_equal_those_of_single_runs(
    monkeypatch, precision, tolerance, optimizer
):
    """Parameters are not recorded, so they are taken where evaluation receives them."""
    kept = {}
    module = importlib.import_module("lossbench.engine.train")
    evaluated = module.evaluated

    def keeping(members, forward, parameters, buffers):
        kept.update(parameters)
        return evaluated(members, forward, parameters, buffers)

    monkeypatch.setattr(module, "evaluated", keeping)
    runs = [
        make_run(
            loss=loss,
            optimizer=optimizer,
            engine__precision=precision,
            steps=50,
            optimizer__lr=0.01,
            optimizer__weight_decay=0.001,
            seed=seed,
        )
        for loss in REGRESSION
        for seed in (0, 1)
    ]
    grouped(runs)
    ordered = packs.group(runs, pack_size=100)[0].runs
    for place, run in enumerate(ordered):
        _, model = single_run_loop(run)
        for name, value in model.named_parameters():
            torch.testing.assert_close(
                kept[name][place], value.detach(), rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize(
    ("data", "loss"),
    [("diabetes", "log_cosh"), ("digits", "cross_entropy"), ("digits", "mse_logits")],
)
@pytest.mark.parametrize(
    "shape",
    [
        {"batch_size": 32, "model__params": {"widths": [16, 16], "activation": "relu"}},
        # Odd sizes: no vector ends where a member ends.
        {"batch_size": 7, "model__params": {"widths": [5], "activation": "tanh"}},
    ],
    ids=["even", "odd"],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_records_are_bit_identical_for_any_pack_size_and_place(data, loss, shape, optimizer):
    losses = REGRESSION if data == "diabetes" else CLASSIFICATION
    shared = {"data": data, "optimizer": optimizer, "optimizer__lr": 0.01, "steps": 10, **shape}
    run = make_run(loss=loss, seed=3, **shared)
    others = [
        make_run(loss=other, seed=seed, optimizer__momentum=0.5, **shared)
        for other, seed in itertools.product(losses, range(8))
    ]
    reference = records_of(trained([run, others[0]]), run)
    for count, is_last in ((1, True), (2, True), (3, False), (8, True), (33, False), (33, True)):
        mates = others[: count - 1]
        members = [*mates, run] if is_last else [run, *mates]
        assert_same_records(reference, records_of(trained(members), run))


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
    assert str(row.stop_step) in row.reason


def test_every_loss_of_a_seed_sees_the_same_init_batches_and_data():
    runs = [make_run(loss=loss, seed=seed) for loss in REGRESSION for seed in (0, 1)]
    frame = grouped(runs)["runs"]
    for fingerprint in ("init_sha", "batch_sha", "data_sha"):
        assert len(frame[["seed", fingerprint]].drop_duplicates()) == 2
        assert len(frame[fingerprint].unique()) == 2


def test_stage_tune_never_evaluates_test():
    tuned = trained([make_run(condition="grid")])["evals"]
    assert set(tuned.split) == {"train", "validation"}
    assert set(trained([make_run(condition="own_lr")])["evals"].split) == {
        "train",
        "validation",
        "test",
    }


def test_training_twice_gives_the_same_bits():
    runs = [make_run(loss=loss) for loss in REGRESSION]
    first, second = grouped(runs), grouped(runs)
    for run in runs:
        assert_same_records(records_of(first, run), records_of(second, run))


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
        (lambda: nn.Dropout(0.5), "random numbers"),
        (lambda: nn.BatchNorm1d(4), "buffers"),
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
