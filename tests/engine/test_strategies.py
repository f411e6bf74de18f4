"""Each way of computing a pack gives what single modules give, whatever the model and the loss."""

from __future__ import annotations

import itertools
import json
import logging
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from configs import make_run
from selection import beyond, one_of_each_family
from torch import nn
from training import (
    CPU,
    assert_same_records,
    grouped,
    members_of,
    records_of,
    single_run_loop,
    strategy_of,
    trained,
)

from lossbench.engine import strategies
from lossbench.engine.batches import Batch
from lossbench.engine.memory_layout import Rows
from lossbench.engine.runtime import arithmetic
from lossbench.engine.strategies.autograd import Looped, Vectorised
from lossbench.engine.strategies.perceptron import DERIVED, layers_of
from lossbench.engine.strategies.stack import Stack
from lossbench.losses import LOSSES
from lossbench.measures.recalibration import recalibrate
from lossbench.models import MODELS as NAMED_MODELS
from lossbench.models import Model
from lossbench.models.layers import ACTIVATIONS as NAMED
from lossbench.optimizers import OPTIMIZERS

WIDE_AND_NARROW = [20, 5]


def first_batch(members):
    return members.batches.at(torch.zeros(1, dtype=torch.int64))[0]


def memory_of(strategy, members):
    """Memory for the one part of a pack."""
    return strategy.memory(strategy.arranged(members.parameters), members.batches.size)


def all_three(members):
    """The strategies that serve a perceptron, by name."""
    layers = layers_of(members.model)
    assert layers is not None
    found = [Stack(layers), Vectorised(members), Looped(members)]
    return {strategy.name: strategy for strategy in found}


def of_modules(members, slope):
    """Outputs and gradients of the mean, each member a module of its own."""
    inputs, outputs, gradients = first_batch(members).all, [], []
    for place in range(len(members.runs)):
        own = {name: value[place] for name, value in members.parameters.items()}
        members.model.load_state_dict(own)
        output = members.model(inputs[place])
        parameters = [*members.model.parameters()]
        mean = slope[place] / inputs.shape[1]
        outputs.append(output.detach())
        gradients.append(torch.autograd.grad(output, parameters, mean))
    names = [name for name, _ in members.model.named_parameters()]
    stacked = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
    return torch.stack(outputs), dict(zip(names, stacked, strict=True))


MODELS = {
    "linear": ("diabetes", "linear", {}),
    **{
        name: ("diabetes", "mlp", {"widths": WIDE_AND_NARROW, "activation": name}) for name in NAMED
    },
}


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("name", MODELS)
def test_every_strategy_has_the_outputs_and_gradients_of_single_modules(name, precision, tolerance):
    data, model, params = MODELS[name]
    shared = {"data": data, "model": model, "model__params": params, "engine__precision": precision}
    members = members_of([make_run(seed=seed, **shared) for seed in range(5)])
    batch = first_batch(members)
    inputs = batch.all
    draw = torch.Generator().manual_seed(0)
    slope = torch.randn(len(inputs), inputs.shape[1], 1, generator=draw, dtype=inputs.dtype)
    output, gradient = of_modules(members, slope)
    close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    for kind, strategy in all_three(members).items():
        parameters, memory = strategy.arranged(members.parameters), memory_of(strategy, members)
        own = slice(0, members.recorded_count if kind == "loop" else None)
        for _ in range(2):  # what an earlier call left behind changes nothing
            outputs, gradient_of = strategy.trained(parameters, {}, batch, memory)
            close(outputs[own], output[own])
            found = gradient_of(slope)
            for part, value in gradient.items():
                close(found[part][own], value[own])
        close(strategy.forward(parameters, {}, inputs)[own], output[own])
        with torch.no_grad():
            close(strategy.forward(parameters, {}, inputs)[own], output[own])


def test_every_activation_of_the_models_has_its_derivative_here():
    assert {*NAMED.values()} == {*DERIVED}


ALIKE = [row for row in LOSSES.values() if not row.needs_context and row.outputs_per_target == 1]
"""What the single loop trains: it gives no context and widens no model."""


@pytest.mark.parametrize(
    ("precision", "tolerance"), beyond([("float64", 1e-9)], [("float32", 1e-4)])
)
@pytest.mark.parametrize("loss", one_of_each_family(ALIKE), ids=lambda loss: loss.name)
def test_every_loss_trains_in_a_stack_as_a_single_run(loss, precision, tolerance):
    data = {"regression": "noisy_counts", "classification": "digits"}[loss.task]
    shared = {"data": data, "engine__precision": precision, "optimizer__lr": 1e-3, "steps": 6}
    runs = [make_run(loss=loss.name, seed=seed, log_every=1, **shared) for seed in (0, 1)]
    tables = grouped(runs)
    for run in runs:
        expected, _ = single_run_loop(run)
        found = records_of(tables, run)["steps"].loss_value.to_list()
        assert found == pytest.approx(expected, rel=max(tolerance, 1e-6), abs=1e-6)


def strategy_names(tables):
    return {json.loads(text)["strategy"] for text in tables["runs"].environment}


@pytest.mark.parametrize("activation", beyond(["tanh"], NAMED))
@pytest.mark.parametrize(("widths", "batch"), [([32, 64], 32), ([5, 9], 7)], ids=["even", "odd"])
def test_a_member_of_a_stack_has_the_same_bits_whoever_is_computed_with_it(
    activation, widths, batch
):
    shared = {"model__params": {"widths": widths, "activation": activation}, "batch_size": batch}
    shared |= {"steps": 5, "log_every": 1, "eval_every": 5}
    run = make_run(seed=0, **shared)
    mates = [
        make_run(seed=seed, loss=loss, optimizer__weight_decay=decay, **shared)
        for loss in ("mse", "mae")
        for seed, decay in ((1, 0.0), (2, 0.1))
        for _ in range(9)
    ]
    reference = records_of(trained([run, mates[0]]), run)
    for count in (0, 1, 15, 16, 17, 33):
        for members in ([run, *mates[:count]], [*mates[:count], run]):
            assert_same_records(reference, records_of(trained(members), run))


@pytest.mark.parametrize("order", [[0], [1, 1, 1, 1], [0, 1, 2], [2, 0, 1, 2, 2, 2], [0, 0, 1, 2]])
def test_the_batch_of_some_members_is_that_of_their_seeds(order):
    inputs, places = torch.rand(3, 4, 2, 5), torch.tensor(order)
    batch = Batch(inputs, places, order)
    assert batch.all.equal(inputs[places])
    for start, stop in itertools.combinations(range(len(order) + 1), 2):
        assert batch.of(slice(start, stop)).equal(inputs[places][start:stop])


def test_members_of_one_seed_or_of_seeds_in_a_row_read_one_batch():
    batch = Batch(torch.rand(3, 4, 2), torch.tensor([1, 1, 0, 1, 2, 0]), [1, 1, 0, 1, 2, 0])
    shared = [batch.of(own) for own in (slice(0, 2), slice(2, 5))]
    copied = batch.of(slice(3, 6))
    where = batch.inputs.untyped_storage().data_ptr()
    assert [one.untyped_storage().data_ptr() == where for one in (*shared, copied)] == [1, 1, 0]


def test_a_stack_reads_the_batch_of_a_seed_without_a_copy_for_each_member(monkeypatch):
    members = members_of([make_run(optimizer__lr=lr) for lr in (0.1, 0.2, 0.3)])
    strategy, strides, read = Stack(layers_of(members.model)), [], Batch.of

    def reading(batch, places):
        inputs = read(batch, places)
        strides.append(inputs.stride(0))
        return inputs

    # A copy has the same values.
    monkeypatch.setattr(Batch, "of", reading)
    parameters, memory = strategy.arranged(members.parameters), memory_of(strategy, members)
    strategy.trained(parameters, {}, first_batch(members), memory)
    assert strides == [0]


def test_members_are_updated_in_place_only_while_all_computed_at_once_live(monkeypatch):
    """Whether an optimizer was given room to write in, by update and members computed at once."""
    monkeypatch.setattr(strategies.stack, "CACHE_BYTES", 0)  # two at once
    found, original = [], OPTIMIZERS["sgd"]

    def noted(*args, out, **words):
        found.append(out is not None)
        return original(*args, out=out, **words)

    shared = {"loss": "quartic", "steps": 12, "log_every": 100}
    # Made before: runs remember the code they were made with.
    runs = [make_run(optimizer__lr=lr, **shared) for lr in (1e-3, 2e-3, 3e-3, 1e3)]
    monkeypatch.setitem(OPTIMIZERS, "sgd", noted)
    ended = grouped(runs)["runs"].set_index("status")
    stop = ended.stop_step["diverged"]
    assert 0 < stop < 12
    first, *others = zip(*np.reshape(found, (12, -1)).tolist(), strict=True)
    assert {*first} == {True}
    assert others
    for other in others:
        assert [*other] == [True] * stop + [False] * (12 - stop)


@pytest.mark.parametrize("bytes_", [0, 2**12, 2**30])
def test_how_many_are_computed_at_once_changes_no_bit(monkeypatch, bytes_):
    runs = [
        make_run(seed=place % 10, optimizer__lr=0.001 * (1 + place), steps=6, log_every=1)
        for place in range(131)
    ]
    reference = grouped(runs)
    # As on processors with other caches.
    monkeypatch.setattr(strategies.stack, "CACHE_BYTES", bytes_)
    found = grouped(runs)
    assert_same_records(records_of(reference, *runs), records_of(found, *runs))


@pytest.mark.parametrize("count", [2, 3, 16, 17, 18, 33, 130])
def test_members_computed_at_once_are_two_or_more_and_all_are_computed(count):
    members = members_of([make_run(), make_run(seed=1)])
    slices = Stack(layers_of(members.model)).spans(count, 32, torch.empty(1))
    assert all(own.stop - own.start >= 2 for own in slices)
    assert [place for own in slices for place in range(own.start, own.stop)] == [*range(count)]


class Doubled(nn.Linear):
    """A layer of one's own that computes something else."""

    def forward(self, inputs):
        return 2.0 * super().forward(inputs)


def hooked():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, given, output: output + 1.0)
    return model


OTHERS = {
    "a subclass of a layer": nn.Sequential(Doubled(3, 2)),
    "a layer with a hook": hooked(),
    "normalisation": nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 1)),
    "an unknown activation": nn.Sequential(nn.Linear(3, 2), nn.Softplus(), nn.Linear(2, 1)),
    "an activation in front": nn.Sequential(nn.ReLU(), nn.Linear(3, 2)),
    "flattened behind a layer": nn.Sequential(nn.Linear(3, 2), nn.Flatten()),
    "flattened in part": nn.Sequential(nn.Flatten(1, 2), nn.Linear(3, 2)),
    "convolution": nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 2)),
    "nothing": nn.Sequential(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_module_that_is_no_plain_perceptron_is_not_taken_for_one(name):
    assert layers_of(OTHERS[name]) is None


def test_layers_are_read_through_nested_sequences_without_biases_and_used_once_only():
    shared = nn.ReLU()
    inner = nn.Sequential(nn.Linear(3, 4, bias=False), shared)
    layers = layers_of(nn.Sequential(nn.Flatten(), inner, nn.Linear(4, 4), shared, nn.Linear(4, 1)))
    assert [layer.weight for layer in layers] == ["1.0.weight", "2.weight", "4.weight"]
    assert [layer.bias for layer in layers] == ["", "2.bias", "4.bias"]
    assert [layer.activation for layer in layers] == [shared, shared, None]


def test_the_strategy_is_recorded_and_said(caplog):
    caplog.set_level(logging.DEBUG, "lossbench.engine.strategies")
    assert strategy_names(grouped([make_run()])) == {"stack"}
    assert "mlp: strategy stack" in caplog.text
    normed = make_run(model__params={"widths": [4], "normalisation": "layer"})
    assert strategy_names(grouped([normed])) == {"vmap"}


def convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, outputs)
    )


def test_convolutions_run_one_by_one_on_the_cpu_without_repetitions(monkeypatch):
    monkeypatch.setitem(NAMED_MODELS, "convolution", Model(convolution, "test"))
    members = members_of([make_run(data="digits", loss="brier", model="convolution")], padding=8)
    assert (len(members.runs), members.is_apart) == (1, True)
    strategy = strategy_of(members)
    assert strategy.name == "loop"
    parameters = strategy.arranged(members.parameters)
    output, gradient_of = strategy.trained(parameters, {}, first_batch(members), None)
    expected, slopes = of_modules(members, torch.ones_like(output))
    torch.testing.assert_close(output, expected)
    for name, value in gradient_of(torch.ones_like(output)).items():
        torch.testing.assert_close(value, slopes[name])


def test_members_alone_keep_no_more_than_one_of_them_does(monkeypatch):
    """Numbers that autograd keeps for a gradient, at any one time of an update."""
    monkeypatch.setitem(NAMED_MODELS, "convolution", Model(convolution, "test"))
    most = []
    for count in (1, 4):
        alive, peak = weakref.WeakSet(), [0]

        def pack(value, alive=alive, peak=peak):
            alive.add(kept := Kept(value.numel()))
            peak[0] = max(peak[0], sum(one.size for one in alive))
            kept.value = value
            return kept

        runs = [
            make_run(data="digits", loss="brier", model="convolution", seed=s, steps=3)
            for s in range(count)
        ]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.value):
            trained(runs)
        most.append(peak[0])
    assert most[1] == most[0]


class Kept:
    """Stands in for a tensor that autograd keeps."""

    def __init__(self, size):
        self.size, self.value = size, None


def test_rows_are_a_copy_with_the_same_values_and_their_parts_the_same_memory():
    draw = torch.Generator().manual_seed(0)
    like = {"wide": torch.randn(4, 5, 3, generator=draw), "bias": torch.randn(4, 5, generator=draw)}
    rows = Rows(like)
    assert all(torch.equal(rows[name], value) for name, value in like.items())
    rows.of(slice(1, 3))["bias"].fill_(7.0)
    assert (rows["bias"][1:3] == 7.0).all()
    assert torch.equal(rows["bias"][0], like["bias"][0])
    assert not (like["bias"] == 7.0).any()
    assert rows.row.sum() == pytest.approx(float(rows["wide"].sum() + rows["bias"].sum()), rel=1e-4)


@pytest.mark.parametrize("examples", [16, 37])
def test_a_member_is_recalibrated_to_the_same_bits_with_any_others(examples):
    draw = torch.Generator().manual_seed(0)
    output = torch.randn(21, examples, 5, generator=draw)
    noisy = output + torch.randn(output.shape, generator=draw)
    target = torch.eye(5)[noisy.argmax(-1)]
    whole = recalibrate(output, target)
    for first, last in ((0, 7), (0, 11), (0, 17), (5, 20), (3, 21)):
        own = recalibrate(output[first : last + 2], target[first : last + 2])
        # The last one is a guard, as in every pack on the CPU.
        assert torch.equal(own[: last - first], whole[first:last])


def multiplied():
    backends = torch.backends
    told = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    return *told, backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("precision", "products"), [("float32", "ieee"), ("float64", "ieee"), ("tf32", "tf32")]
)
def test_a_cuda_device_multiplies_as_asked_and_as_before_afterwards(precision, products):
    before = multiplied()
    with arithmetic(torch.device("cuda"), precision):
        assert multiplied() == (products, products, True, True)
    assert multiplied() == before
    with arithmetic(CPU, precision):
        assert multiplied() == before
