"""Dropout and batch statistics are part of the state: the same masks for all, alone or packed."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torchvision.ops import StochasticDepth

from lossbench.models import initialised, paired, stacked
from lossbench.models.layers import BatchNorm, Dropout, mixed, random_words


def keyed(p, *, seed=0, unit="element"):
    return paired(Dropout(p, unit=unit), seed=seed)


def masks(layer, shape, batches):
    """Which elements are kept, [batches, *shape]."""
    return torch.stack([layer(torch.ones(shape)) != 0 for _ in range(batches)])


def test_random_words_are_those_of_splitmix64():
    # Published with the algorithm: the first numbers of seed 1234567.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    found = random_words(torch.tensor(1234567), 5).tolist()
    assert [word % 2**64 for word in found] == expected


def test_mixing_changes_half_of_the_bits_when_one_is_changed():
    words = torch.randint(2**62, (500,), generator=torch.Generator().manual_seed(0))
    for bit in range(64):
        single = torch.tensor(-(2**63) if bit == 63 else 2**bit)
        changed = (mixed(words) ^ mixed(words ^ single)).tolist()
        share = sum((word % 2**64).bit_count() for word in changed) / (64 * len(changed))
        assert share == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_element_is_kept_with_its_probability(p):
    kept = masks(keyed(p), (50, 20), 200)
    test = stats.binomtest(int(kept.sum()), kept.numel(), 1 - p)
    assert test.pvalue > 1e-3
    # No place and no batch has another probability than the rest.
    for counts, size in ((kept.sum(0), 200), (kept.flatten(1).sum(1), 1000)):
        expected = stats.binom(size, 1 - p)
        z = (counts.flatten() - expected.mean()) / expected.std()
        assert stats.chi2.sf(float(z.square().sum()), z.numel()) > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 20])
def test_masks_of_batches_layers_seeds_and_elements_are_not_correlated(lag):
    kept = masks(keyed(0.5), (400, 20), 25).double() - 0.5
    model = paired(nn.Sequential(Dropout(0.5), Dropout(0.5)), seed=0)
    other = masks(model[1], (400, 20), 25).double() - 0.5
    later = masks(keyed(0.5, seed=1), (400, 20), 25).double() - 0.5
    flat = kept.flatten()
    pairs = {
        "batches": (kept[lag:], kept[:-lag]),
        "elements": (flat[lag:], flat[:-lag]),
        "layers": (kept, other),
        "seeds": (kept, later),
    }
    for what, (left, right) in pairs.items():
        z = float((left * right).sum()) * 4 / math.sqrt(left.numel())
        assert abs(z) < 3.5, what


def test_dropout_zeroes_what_is_not_finite_as_well_and_its_gradient():
    layer, inputs = keyed(0.5), torch.full((1000,), torch.inf, requires_grad=True)
    output = layer(inputs)
    assert set(output.tolist()) == {0.0, math.inf}
    (slope,) = torch.autograd.grad(output.sum(), inputs)
    assert torch.equal(slope, torch.where(output == 0, 0.0, 2.0))


def test_dropout_in_evaluation_is_the_identity_and_counts_nothing():
    layer, inputs = keyed(0.5).eval(), torch.randn(5)
    assert torch.equal(layer(inputs), inputs)
    assert layer.count == 0


def test_a_mask_is_a_function_of_key_and_count_alone():
    first, second = keyed(0.5), keyed(0.5)
    before = masks(first, (8, 8), 3)
    assert first.count == 3
    torch.manual_seed(3)
    assert torch.equal(masks(second, (8, 8), 3), before)
    assert not torch.equal(before[0], before[1])
    second.load_state_dict(first.state_dict())
    assert torch.equal(masks(first, (8, 8), 2), masks(second, (8, 8), 2))


@pytest.mark.parametrize(("unit", "own"), [("element", 4), ("channel", 2), ("example", 1)])
def test_a_unit_is_dropped_as_a_whole_and_apart_from_the_others(unit, own):
    kept = masks(keyed(0.5, unit=unit), (40, 6, 3, 3), 1)[0]
    whole = kept.flatten(own) if own < 4 else kept[..., None]
    assert torch.equal(whole.all(-1), whole.any(-1))
    apart = whole[..., 0].flatten(own - 1)
    assert not torch.equal(apart.all(-1), apart.any(-1))


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_an_impossible_probability_is_refused(p):
    with pytest.raises(ValueError, match="use 0 up to below 1"):
        Dropout(p)


@pytest.mark.parametrize(
    ("foreign", "unit"),
    [
        (nn.Dropout(0.2), "element"),
        (nn.Dropout2d(0.2), "channel"),
        (StochasticDepth(0.2, "row"), "example"),
    ],
)
def test_foreign_dropout_is_replaced_by_ours(foreign, unit):
    nested = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"inner": foreign}))
    own = paired(nested, seed=5)[1]["inner"]
    assert (type(own), own.p, own.unit) == (Dropout, 0.2, unit)
    assert own.key != 0


def test_foreign_dropout_that_drops_nothing_is_removed_and_that_of_whole_batches_refused():
    assert type(paired(nn.Sequential(nn.Dropout(0.0)), seed=0)[0]) is nn.Identity
    with pytest.raises(ValueError, match="use mode 'row'"):
        paired(nn.Sequential(StochasticDepth(0.2, "batch")), seed=5)


def test_dropout_changes_no_initial_parameter():
    plain, dropped = (
        initialised(build, seed=2) for build in (dense(), dense(lambda: Dropout(0.5)))
    )
    assert torch.equal(plain[0].weight, dropped[0].weight)
    assert torch.equal(plain[1].weight, dropped[2].weight)


def test_batch_norm_equals_torchs_own_in_training_and_evaluation():
    draw = torch.Generator().manual_seed(0)
    own, reference = BatchNorm(5).double(), nn.BatchNorm1d(5).double()
    with torch.no_grad():
        for layer in (own, reference):
            layer.weight.copy_(torch.arange(1.0, 6.0))
            layer.bias.copy_(torch.arange(5.0))
    for _ in range(4):
        inputs = 3 * torch.randn(7, 5, generator=draw).double() + 2
        weights = torch.randn(7, 5, generator=draw).double()
        found = []
        for layer in (own, reference):
            leaf = inputs.clone().requires_grad_()
            output = layer(leaf)
            slopes = torch.autograd.grad((output * weights).sum(), [leaf, *layer.parameters()])
            found.append([output, *slopes, layer.running_mean, layer.running_var])
        torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(own.eval()(inputs), reference.eval()(inputs))


def test_batch_norm_refuses_a_batch_of_one():
    with pytest.raises(ValueError, match="use a batch_size of 2 or more"):
        BatchNorm(3)(torch.ones(1, 3))


# What the engine relies on: stacked buffers under vmap.


def dense(*between):
    return lambda: nn.Sequential(nn.Linear(5, 4), *(layer() for layer in between), nn.Linear(4, 3))


def convolved(normalisation):
    return lambda: nn.Sequential(nn.Conv2d(2, 4, 3), normalisation(), nn.ReLU())


LAYERS = {
    "batch_norm": (dense(lambda: BatchNorm(4)), (6, 5)),
    "torch_batch_norm_1d": (dense(lambda: nn.BatchNorm1d(4)), (6, 5)),
    "torch_batch_norm_2d": (convolved(lambda: nn.BatchNorm2d(4)), (6, 2, 6, 6)),
    "group_norm": (convolved(lambda: nn.GroupNorm(2, 4)), (6, 2, 6, 6)),
    "dropout": (dense(lambda: Dropout(0.5)), (6, 5)),
}


def packed(models):
    """The forward pass of all models, their parameters as leaves and their buffers, stacked."""
    state = stacked(models, range(len(models)))
    trained = dict(models[0].named_parameters())
    leaves = {name: value.requires_grad_() for name, value in state.items() if name in trained}
    buffers = {name: value for name, value in state.items() if name not in trained}

    def one(parameters, buffers, inputs):
        return torch.func.functional_call(models[0], (parameters, buffers), (inputs,))

    return torch.func.vmap(one), leaves, buffers


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_stacked_buffers_move_in_place_as_those_of_single_models(name, members):
    build, shape = LAYERS[name]
    models = [initialised(build, seed=seed).double() for seed in range(members)]
    forward, leaves, buffers = packed(models)
    storage = {key: value.data_ptr() for key, value in buffers.items()}
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        inputs = torch.randn(members, *shape, generator=draw).double()
        output = forward(leaves, buffers, inputs)
        slopes = torch.autograd.grad(output.square().sum(), list(leaves.values()))
        for place, model in enumerate(models):
            alone = model(inputs[place])
            own = torch.autograd.grad(alone.square().sum(), list(model.parameters()))
            torch.testing.assert_close(output[place], alone, rtol=1e-12, atol=1e-12)
            for found, expected in zip(slopes, own, strict=True):
                torch.testing.assert_close(found[place], expected, rtol=1e-9, atol=1e-9)
            for key, value in model.named_buffers():
                torch.testing.assert_close(buffers[key][place], value, rtol=1e-12, atol=1e-12)
    assert {key: value.data_ptr() for key, value in buffers.items()} == storage
    assert bool(buffers) == (name != "group_norm")


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "torch_batch_norm_1d"])
def test_a_member_has_the_same_bits_in_a_pack_of_any_size_and_place(name):
    build, shape = LAYERS[name]
    models = [initialised(build, seed=seed) for seed in range(17)]
    inputs = torch.randn(17, *shape, generator=torch.Generator().manual_seed(0))
    found = []
    for places in ([0, 1, 2, 3], [*range(1, 5), 0], [*range(17)], [*range(1, 17), 0]):
        forward, leaves, buffers = packed([models[place] for place in places])
        output = forward(leaves, buffers, inputs[places])
        slopes = torch.autograd.grad(output.square().sum(), list(leaves.values()))
        at = places.index(0)
        found.append([value[at] for value in (output, *slopes, *buffers.values())])
    for other in found[1:]:
        assert all(torch.equal(left, right) for left, right in zip(found[0], other, strict=True))
