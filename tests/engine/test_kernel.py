"""The kernel trains each member as torch.optim trains a module, and bears no other member's trace.

Here Triton interprets it on the CPU: conftest.py says so before anything imports it.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from configs import make_run
from selection import beyond, one_in
from torch import nn
from training import members_of, strategy_of

from lossbench.engine.rows import Rows
from lossbench.engine.strategies import kernel
from lossbench.engine.strategy import Unserved
from lossbench.engine.update import Updates
from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss
from lossbench.models.layers import ACTIVATIONS
from lossbench.optimizers import SCHEDULES


@triton.jit
def call(output, target, slope, value, LOSS: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr):
    rows = tl.arange(0, 16)[:, None]
    is_row = rows < 11
    found = LOSS(output + rows * WIDTH, target + rows * C, slope + rows * WIDTH, is_row)
    tl.store(value + rows, found, mask=is_row)


def updates_of(members):
    return Updates(members, strategy_of(members), lambda place, reason: None)


def factor(run, step):
    return SCHEDULES[run.schedule.fn](step, run.steps, **run.schedule.params)


def advanced(members, *counts, state=None):
    """What stretches of so many updates, one after the other, make of a state."""
    run = members.runs[0]
    factors = torch.tensor([factor(run, step) for step in range(run.steps)])
    trains, state = kernel.Kernel(members, factors), state or updates_of(members).start()
    for count in counts:
        trains.advance(state, count)
    return state


def single(members, place, steps):
    """A member's parameters after training it on its own: a module and torch.optim.SGD."""
    run, seed = members.runs[place], members.seed_index[place]
    model = copy.deepcopy(members.model)
    model.load_state_dict({name: value[place] for name, value in members.parameters.items()})
    optimizer = torch.optim.SGD(
        model.parameters(), run.lr, momentum=run.momentum, weight_decay=run.weight_decay
    )
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = run.lr * factor(run, step)
        rows = members.batches.rows[seed, step]
        inputs, target = (
            part[seed, rows] for part in (members.batches.inputs, members.batches.targets)
        )
        optimizer.zero_grad()
        run.row.values(model(inputs), target, run.loss.params).mean().backward()
        optimizer.step()
    return {name: value.detach() for name, value in model.named_parameters()}


def assert_as_single(members, state, steps, *, atol):
    for place in range(members.recorded_count):
        own = {name: value[place] for name, value in state.parameters.items()}
        torch.testing.assert_close(own, single(members, place, steps), rtol=0, atol=atol)
    assert state.alive.all()
    assert (state.stop_step[: members.recorded_count] == steps).all()


def moved(members, state):
    """How far the parameters of recorded members are from where they began, at most."""
    before = Rows(members.parameters).row
    return (state.parameters.row - before)[: members.recorded_count].abs().max()


def mlp(*widths, activation="relu"):
    return {"model__params": {"widths": [*widths], "activation": activation}}


PACKS = {
    "wide and narrow": {**mlp(20, 5), "losses": ("mse", "huber")},
    "masks beyond a block": {**mlp(70, 33), "batch_size": 67, "steps": 3},
    "three hidden layers": {**mlp(9, 17, 6), "losses": ("mae", "log_cosh")},
    "one layer": {"model": "linear", "losses": ("mse", "mae")},
    "labels": {**mlp(12), "data": "digits", "losses": ("brier", "bhattacharyya")},
    "two outputs a target": {**mlp(12), "losses": ("gaussian_nll",)},
    "a loss that amplifies rounding": {**mlp(12), "losses": ("quartic",), "atol": 1e-5},
    **{name: mlp(12, 7, activation=name) for name in ACTIVATIONS},
}


@pytest.mark.parametrize("name", beyond(["wide and narrow", "labels"], PACKS))
def test_parameters_are_those_of_single_modules(name):
    given = {"steps": 4, "batch_size": 21, "losses": ("mse",), "schedule": "cosine"} | PACKS[name]
    losses, atol = given.pop("losses"), given.pop("atol", 1e-6)
    runs = [
        make_run(**given, loss=loss, seed=seed, optimizer__lr=lr, optimizer__weight_decay=decay)
        for loss in losses
        for seed, lr, decay in ((0, 0.05, 0.0), (1, 0.02, 0.3))
    ]
    members = members_of(runs)
    state = advanced(members, 1, given["steps"] - 1)
    assert moved(members, state) > 1e-3
    assert_as_single(members, state, given["steps"], atol=atol)


def test_examples_of_each_seed_may_be_its_own():
    members = members_of([make_run(**mlp(8), seed=seed, steps=2) for seed in (3, 5)])
    inputs = members.batches.inputs[0]
    batches = replace(members.batches, inputs=torch.stack([inputs, inputs.flip(0)]))
    members = replace(members, batches=batches)
    assert_as_single(members, advanced(members, 2), 2, atol=1e-6)


REFUSED = {
    **dict.fromkeys(("sparsemax", "entmax15"), "aten.sort"),
    **dict.fromkeys(("crammer_singer", "crammer_singer_squared"), "aten.topk"),
    **dict.fromkeys(("weston_watkins", "weston_watkins_squared"), "aten.arange"),
    "unlikelihood": "aten.arange",
    **dict.fromkeys(("nce", "nce_mae", "nce_rce"), "aten.argmin"),
    "eaft": "aten.topk",
    **dict.fromkeys(("quantiles", "hl_gauss"), "aten.arange"),
    "rps": "aten.cumsum",
}
"""Losses that sort or count classes, or have a list of levels or bins."""

FREE = {name: row for name, row in LOSSES.items() if not row.needs_context}


def source_of(row, targets, **params):
    return kernel.loss_source(row, params, targets=targets, examples=11)


def examples_of(row, targets):
    """Outputs and targets [4, 11, ...]: usual ones, large ones, hits, and soft or large targets."""
    draw = torch.Generator().manual_seed(0)
    output = 2 * torch.randn(4, 11, targets * row.outputs_per_target, generator=draw)
    target = torch.randn(4, 11, targets, generator=draw)
    output[1] *= 60
    if row.task == "classification":
        soft = target[2:].softmax(-1)
        target = nn.functional.one_hot(target.argmax(-1), targets).float()
        target[2:] = soft
    if row.domain == "nonnegative":
        target = target.abs().round()
    output[3, :, :targets] = target[3]
    output[0, 0, 0] = torch.nan
    return output, target


def called(loss, output, target):
    """Values [11] and slopes [11, W] of the sum, by the function that was printed."""
    slope, value = torch.full_like(output, torch.nan), torch.full(output.shape[:1], torch.nan)
    with np.errstate(all="ignore"):
        call[(1,)](output, target, slope, value, loss, output.shape[-1], target.shape[-1])
    return value, slope * len(output)


def assert_printed(row, loss, output, target, **params):
    """That values and slopes of the printed function are those of the formula by autograd."""
    value, slope = called(loss, output, target)
    leaf = output.clone().requires_grad_()
    expected = row.values(leaf, target, params)
    (rise,) = torch.autograd.grad(expected.sum(), leaf)
    finite = expected.isfinite()
    assert value.isfinite().equal(finite)
    close = partial(torch.testing.assert_close, rtol=2e-5, atol=2e-6, equal_nan=True)
    close(value[finite], expected[finite].detach())
    close(slope[finite], rise[finite])


@pytest.mark.parametrize("targets", beyond([3], [1]))
@pytest.mark.parametrize("name", one_in(8, [name for name in FREE if name not in REFUSED]))
def test_a_printed_loss_has_the_values_and_slopes_of_its_formula(name, targets):
    row = LOSSES[name]
    if row.task == "classification" and targets == 1:
        targets = 10
    loss = kernel.compiled(source_of(row, targets))["loss"]
    for output, target in zip(*examples_of(row, targets), strict=True):
        assert_printed(row, loss, output, target)


def row_of(value):
    return Loss(value, "identity", "power", "regression", "", frozenset(), "")


def over_the_batch(output, target):
    return (output - target).square().sum(-1) / target.square().sum()


def by_what_it_sees(output, target):
    return (output - target).square().sum(-1) if output.sum() > 0 else output.sum(-1)


def with_numbers_of_its_own(output, target):
    return (output * torch.tensor([1.0, 2.0, 3.0])).sum(-1)


def over_examples(output, target):
    return (output - target).square().sum(0).expand(output.shape).sum(-1)


def mean_of_all(output, target):
    return (output - target).square().mean()


def with_bounds(output, target):
    """An operation of a form that the kernel's table does not have."""
    return torch.clamp(output, min=target).sum(-1)


FUNCTIONS = (over_the_batch, by_what_it_sees, with_numbers_of_its_own, over_examples, mean_of_all)
UNPRINTED = {
    **{name: (LOSSES[name], why) for name, why in REFUSED.items()},
    **{function.__name__: (row_of(function), None) for function in FUNCTIONS},
    "with_bounds": (row_of(with_bounds), "cannot be printed"),
}


@pytest.mark.parametrize(("row", "why"), UNPRINTED.values(), ids=UNPRINTED)
def test_a_loss_that_sorts_or_is_not_each_examples_own_is_refused(row, why):
    with pytest.raises(kernel.Unknown, match=why):
        source_of(row, 3)


def of_a_user(output, target, *, power: float = 1.3):
    """Operations that the catalog hardly uses."""
    error = output[..., 1:2] - target
    is_small = ~(error.abs() > 1.0) | (error.sign() == 1)
    parts = torch.stack([error.abs() ** power, error.sin() * is_small], -1)
    return parts.sum(-1).mean(-1) + (output[..., 0] * target.tanh()[..., 2]).relu()


def of_the_first(output, target):
    """Rows of one number, summed as such and in the mean."""
    error = (output[..., :1] - target[..., :1]).square()
    return error.sum(-1) + error.sum(-1, keepdim=True).mean(-1)


@pytest.mark.parametrize(("function", "params"), [(of_the_first, {}), (of_a_user, {"power": 2.6})])
def test_a_users_loss_is_printed_with_its_parameters(function, params):
    row = row_of(function)
    loss = kernel.compiled(source_of(row, 3, **params))["loss"]
    output, target = (part[0, 1:].repeat(2, 1)[:11] for part in examples_of(row, 3))
    assert_printed(row, loss, output, target, **params)


def plainly(members, steps):
    """The state after the updates that the engine makes elsewhere."""
    updates = updates_of(members)
    state = updates.start()
    updates.advance(state, steps)
    return state


SMALL = {**mlp(6), "batch_size": 19, "steps": 8}


@pytest.mark.parametrize("loss", ["quartic", "huber"])
def test_a_member_that_diverges_freezes_as_elsewhere_with_the_parameters_it_had(loss):
    run = partial(make_run, loss=loss, **SMALL)
    members = members_of([run(), run(seed=1, optimizer__lr=1e6), run(seed=2)])
    state = advanced(members, 3, 5)
    expected = plainly(members, 8)
    own = slice(members.recorded_count)
    assert state.alive[own].equal(expected.alive[own])
    assert state.stop_step[own].equal(expected.stop_step[own])
    if loss != "huber":
        assert state.alive[own].tolist() == [True, False, True]
    torch.testing.assert_close(
        state.parameters.row[own], expected.parameters.row[own], rtol=1e-3, atol=1e-5
    )


def test_a_dead_member_is_not_touched():
    members = members_of([make_run(seed=seed, **SMALL) for seed in (0, 1)])
    state = updates_of(members).start()
    state.alive[0], state.stop_step[0] = False, 3
    before = state.parameters.row.clone()
    advanced(members, 2, state=state)
    assert state.parameters.row[0].equal(before[0])
    assert (state.alive[0], state.stop_step[0]) == (False, 3)
    assert not state.parameters.row[1].equal(before[1])


@pytest.mark.parametrize("example", [0, 66])
def test_one_example_whose_loss_is_not_finite_freezes_a_member(example):
    members = members_of([make_run(**mlp(6), seed=seed, batch_size=67) for seed in (0, 1)])
    targets = members.batches.targets.clone()
    targets[0, members.batches.rows[0, 1, example]] = torch.inf
    members = replace(members, batches=replace(members.batches, targets=targets))
    state = advanced(members, 4)
    assert state.alive[:2].tolist() == [False, True]
    assert state.stop_step[:2].tolist() == [1, 4]
    torch.testing.assert_close(
        {name: value[0] for name, value in state.parameters.items()},
        single(members, 0, 1),
        rtol=0,
        atol=1e-6,
    )


def test_a_member_has_the_same_bits_wherever_it_is_and_beside_a_member_that_diverges():
    run = partial(make_run, **SMALL)
    last = run(seed=2, loss="mae")
    alone = members_of([run(seed=0), last])
    beside = members_of([run(seed=1, optimizer__lr=1e6), run(seed=0), run(loss="mae"), last])
    first, second = (advanced(members, 8).parameters.row for members in (alone, beside))
    assert first[0].equal(second[1])
    assert first[1].equal(second[3])
    assert not first[0].equal(first[1])


def test_lengths_of_stretches_change_no_bit():
    members = members_of([make_run(seed=seed, schedule="cosine", **SMALL) for seed in (0, 1)])
    whole, parts = advanced(members, 6), advanced(members, 1, 0, 3, 2)
    assert whole.parameters.row.equal(parts.parameters.row)
    assert whole.optimizer["momentum"]["row"].equal(parts.optimizer["momentum"]["row"])


def refused(members):
    kernel.Kernel(members, torch.ones(1))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"optimizer": "adam"}, "optimizer adam"),
        ({"optimizer": "nesterov"}, "optimizer nesterov"),
        ({"engine__precision": "float64"}, "float64"),
        ({"signal": "norm_matched"}, "signal norm_matched"),
        ({"data": "digits", "loss": "ldam"}, "loss ldam needs a context"),
        ({"data": "digits", "loss": "sparsemax"}, "loss sparsemax needs aten.sort, which the k"),
    ],
)
def test_what_it_cannot_train_it_refuses_with_a_reason(given, why):
    with pytest.raises(Unserved, match=why):
        refused(members_of([make_run(**given)]))


def test_augmented_images_and_models_other_than_affine_layers_are_refused():
    members = members_of([make_run()])
    batches = replace(members.batches, words=torch.zeros(1))
    convolution = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 1))
    behind = nn.Sequential(nn.Linear(10, 1), nn.Tanh())
    for change, why in (
        ({"batches": batches}, "augmentation"),
        ({"model": convolution}, "no stack"),
        ({"model": behind}, "no stack"),
    ):
        with pytest.raises(Unserved, match=why):
            refused(replace(members, **change))


def test_without_the_interpreter_nothing_is_served_on_the_cpu(monkeypatch):
    monkeypatch.setattr(kernel, "IS_INTERPRETED", False)  # read when Triton is imported
    with pytest.raises(Unserved, match="TRITON_INTERPRET"):
        refused(members_of([make_run()]))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from configs import make_run
from lossbench.engine.strategies import kernel
from lossbench.engine.strategies.kernel.program import train
from lossbench.engine.strategies.layers import layers_of
from training import members_of

widths = {"widths": [128, 128], "activation": "tanh"}
run = make_run(data="digits", loss="js", model__params=widths, batch_size=128)
members = members_of([run])
layers = layers_of(members.model)
activated = kernel.compiled(kernel.activation_source(layers))["activated"]
fixed = kernel.constants(layers, members, run, activated)
names = train.arg_names
types = {name: "i32" for name in names} | {name: "constexpr" for name in fixed}
types |= {name: "*fp32" for name in names[: names.index("first")]}
types |= {name: "*i64" for name in ("stop_step", "batches", "seed_index", "step")}
types |= {"alive": "*i1"}
constants = {(names.index(name),): value for name, value in fixed.items()}
source = ASTSource(train, types, constexprs=constants)
made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernel.COMPILED)
ptx = made.asm["ptx"]
assert "cubin" in made.asm
assert "wgmma" in ptx and "tf32" in ptx, "products are not those of tensor cores"
assert "ld.global.nc" not in ptx, "reads that do not see what others wrote"
assert made.metadata.shared < 227 * 1024
"""


@pytest.mark.exhaustive
def test_it_compiles_for_a_gpu_that_is_not_here(tmp_path):
    apart = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "0"}
    apart["TRITON_INTERPRET"] = "0"
    apart["PYTHONPATH"] = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])
    subprocess.run([sys.executable, "-c", COMPILE], env=os.environ | apart, check=True)
