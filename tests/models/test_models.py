"""Every model: its shape, its seeded start, its size against the papers, and a pack of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from selection import beyond
from torch import nn
from torch.nn import functional

from lossbench.models import MODELS, initialised, rescaled, stacked, widened
from lossbench.models.resnet import ResNet
from lossbench.models.vit import Block, Patches

IMAGES = ("lenet", "strided_cnn", "resnet8", "resnet18", "vit", "torchvision")
COLOUR, GREY = (3, 16, 12), (1, 28, 28)

CASES = {
    "linear": ("linear", 7, {}),
    "linear of images": ("linear", COLOUR, {}),
    "mlp": ("mlp", 7, {}),
    "mlp of images": ("mlp", COLOUR, {}),
    "mlp batch": ("mlp", 7, {"normalisation": "batch", "activation": "tanh"}),
    "mlp layer dropout": ("mlp", 7, {"normalisation": "layer", "dropout": 0.3}),
    "lenet": ("lenet", COLOUR, {}),
    "lenet 1998": ("lenet", GREY, {"activation": "tanh", "pooling": "average"}),
    "strided_cnn": ("strided_cnn", COLOUR, {}),
    "strided_cnn thin": ("strided_cnn", GREY, {"widths": [4, 5], "activation": "gelu"}),
    "resnet8": ("resnet8", COLOUR, {}),
    "resnet8 group": ("resnet8", GREY, {"normalisation": "group"}),
    "resnet18": ("resnet18", COLOUR, {}),
    "resnet18 group": ("resnet18", COLOUR, {"normalisation": "group"}),
    "vit": ("vit", COLOUR, {}),
    "vit dropout": ("vit", GREY, {"patch": 7, "depth": 2, "heads": 2, "dropout": 0.2}),
    "torchvision": ("torchvision", (3, 32, 32), {}),
    "torchvision mobilenet": ("torchvision", (3, 32, 32), {"name": "mobilenet_v3_small"}),
}
"""Name in MODELS, inputs, parameters; batch normalisation, dropout and plain ones of each."""

LARGE = [case for case, (name, *_) in CASES.items() if name in ("resnet18", "torchvision")]
CASE = pytest.mark.parametrize("case", beyond([case for case in CASES if case not in LARGE], CASES))


def build_of(case, outputs=5):
    name, inputs, params = CASES[case]
    return partial(MODELS[name].fn, inputs, outputs, **params)


def examples_of(case, *leading):
    _, inputs, _ = CASES[case]
    shape = (inputs,) if isinstance(inputs, int) else inputs
    return torch.randn(*leading, *shape, generator=torch.Generator().manual_seed(0))


def count_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_model_is_tested():
    assert {name for name, _, _ in CASES.values()} == MODELS.keys()


@CASE
def test_a_model_gives_one_row_of_outputs_for_each_example(case):
    assert initialised(build_of(case), seed=0)(examples_of(case, 4)).shape == (4, 5)


@CASE
def test_initial_parameters_are_those_of_the_seed(case):
    torch.manual_seed(11)
    first = initialised(build_of(case), seed=1).state_dict()
    torch.manual_seed(12)
    again, other = (initialised(build_of(case), seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("mode", ["train", "eval"])
@CASE
def test_a_pack_gives_the_outputs_gradients_and_buffers_of_single_models(case, mode):
    members = 3 if CASES[case][0] not in ("resnet18", "torchvision") else 2
    models = [initialised(build_of(case), seed=seed).double() for seed in range(members)]
    for model in models:
        model.train(mode == "train")
    state = stacked(models, range(members))
    trained = dict(models[0].named_parameters())
    leaves = {name: value.requires_grad_() for name, value in state.items() if name in trained}
    buffers = {name: value for name, value in state.items() if name not in trained}

    def one(parameters, buffers, inputs):
        return torch.func.functional_call(models[0], (parameters, buffers), (inputs,))

    inputs = examples_of(case, members, 4).double()
    for batch in (inputs, 0.5 * inputs):
        output = torch.func.vmap(one)(leaves, buffers, batch)
        slopes = torch.autograd.grad(output.square().sum(), list(leaves.values()))
    for place, model in enumerate(models):
        model(inputs[place])
        expected = model(0.5 * inputs[place])
        own = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
        torch.testing.assert_close(output[place], expected, rtol=1e-9, atol=1e-9)
        for name, found, alone in zip(leaves, slopes, own, strict=True):
            size = max(1.0, float(alone.abs().max()))
            assert float((found[place] - alone).abs().max()) < 1e-9 * size, name
        for name, value in model.named_buffers():
            torch.testing.assert_close(buffers[name][place], value, rtol=1e-9, atol=1e-9)


@CASE
def test_the_last_linear_layer_makes_the_output(case):
    model = initialised(build_of(case), seed=0).eval()
    examples = examples_of(case, 4)
    with torch.no_grad():
        plain = model(examples)
        scaled = rescaled(model, output_scale=3.0)(examples)
        wide = widened(model, outputs=5, times=2)(examples)
    torch.testing.assert_close(scaled, 3 * plain)
    torch.testing.assert_close(wide, torch.cat([3 * plain, torch.zeros(4, 5)], -1))


@pytest.mark.parametrize("name", IMAGES)
def test_a_model_of_images_refuses_vectors_with_the_cure(name):
    with pytest.raises(ValueError, match=f"model {name} needs images, .* use data of images"):
        MODELS[name].fn(64, 10)


def test_a_flattened_image_is_a_vector():
    vectors, images = (
        initialised(partial(MODELS["mlp"].fn, inputs, 3), seed=0) for inputs in (24, (2, 3, 4))
    )
    examples = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images(examples), vectors(examples.flatten(1)))


@pytest.mark.parametrize(
    ("name", "inputs", "params", "message"),
    [
        ("mlp", 4, {"activation": "step"}, "activation 'step': use one of relu"),
        ("mlp", 4, {"normalisation": "group"}, "use one of none, batch, layer"),
        ("mlp", 4, {"widths": [3, 0]}, r"widths \[3, 0\]: use positive"),
        ("mlp", 4, {"widths": [], "activation": "step"}, "activation 'step'"),
        ("mlp", 4, {"dropout": 1.0}, r"dropout 1\.0: use 0"),
        ("lenet", GREY, {"pooling": "sum"}, "use one of max, average"),
        ("strided_cnn", GREY, {"widths": [0]}, "use positive"),
        ("resnet8", GREY, {"normalisation": "layer"}, "use one of batch, group"),
        ("vit", GREY, {"patch": 5}, r"patch 5 for images of \[28, 28\]: use a divisor"),
        ("vit", GREY, {"heads": 3}, "use a multiple of heads"),
        ("vit", GREY, {"depth": 0}, "use positive"),
        ("vit", GREY, {"dropout": -1.0}, r"dropout -1\.0: use 0"),
        ("torchvision", GREY, {}, "needs 3 channels, the images have 1: use data with colours"),
        ("torchvision", (3, 32, 32), {"name": "resnet_18"}, "use resnet18"),
        ("torchvision", (3, 32, 32), {"name": "alexnet"}, "use larger ones, or model=resnet18"),
    ],
)
def test_impossible_parameters_are_refused_with_the_cure(name, inputs, params, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name].fn(inputs, 10, **params)


# Against the papers and torchvision.


@pytest.mark.parametrize("inputs", [(1, 28, 28), (1, 32, 32)])
def test_lenet_has_the_61706_parameters_of_its_classic_form(inputs):
    assert count_of(MODELS["lenet"].fn(inputs, 10)) == 61_706


def test_lenet_pads_small_images_with_zeros_to_32_pixels():
    small = torch.randn(2, 1, 28, 27, generator=torch.Generator().manual_seed(0))
    model, large = (
        initialised(partial(MODELS["lenet"].fn, inputs, 10), seed=0)
        for inputs in ((1, 28, 27), (1, 32, 32))
    )
    expected = large(functional.pad(small, (2, 3, 2, 2)))
    torch.testing.assert_close(model(small), expected)


def test_strided_cnn_has_its_parameters_and_halves_the_image_thrice():
    model = MODELS["strided_cnn"].fn((3, 28, 28), 10)
    convolutions = (3 * 9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128
    assert count_of(model) == convolutions + (128 * 4 * 4 + 1) * 10
    assert not any("Pool" in type(layer).__name__ for layer in model.modules())


def test_resnet8_has_the_parameters_of_the_paper_without_any_in_shortcuts():
    stem, fc = 3 * 16 * 9 + 32, 64 * 10 + 10
    stages = sum((a + b) * b * 9 + 4 * b for a, b in ((16, 16), (16, 32), (32, 64)))
    assert count_of(MODELS["resnet8"].fn((3, 32, 32), 10)) == stem + stages + fc == 75_290


def test_the_same_network_with_three_blocks_is_the_papers_resnet20_of_0_27_million():
    model = ResNet(3, 10, (16, 32, 64), 3, "batch", is_projected=False)
    assert count_of(model) == 269_722


def test_a_shortcut_without_parameters_takes_every_other_pixel_and_adds_empty_channels():
    block = initialised(partial(MODELS["resnet8"].fn, COLOUR, 10), seed=0).layer2[0].eval()
    images = torch.randn(2, 16, 6, 4, generator=torch.Generator().manual_seed(0)).abs()
    with torch.no_grad():
        block.bn2.weight.zero_()
        found = block(images)
    assert torch.equal(found[:, :16], images[:, :, ::2, ::2])
    assert not found[:, 16:].any()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_resnet18_is_torchvisions_behind_another_stem(mode):
    from torchvision import models

    reference = models.resnet18(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    own = MODELS["resnet18"].fn((3, 32, 32), 10)
    assert count_of(own) == count_of(reference) == 11_173_962
    own.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for model in (own, reference):
        model.train(mode == "train")
    torch.testing.assert_close(own(images), reference(images), rtol=1e-5, atol=1e-6)


def test_initial_convolutions_of_resnet18_spread_like_torchvisions():
    from torchvision import models

    own, reference = MODELS["resnet18"].fn((3, 32, 32), 10), models.resnet18(num_classes=10)
    for name in ("layer1.0.conv1", "layer4.1.conv2"):
        spread = [model.get_submodule(name).weight.std().item() for model in (own, reference)]
        assert spread[0] == pytest.approx(spread[1], rel=0.02)


def test_a_block_of_vit_is_torchs_transformer_layer_with_normalisation_first():
    width, heads = 12, 3
    own = Block(width, heads, 0.0).double()
    reference = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    ).double()
    for mine, theirs in (
        (own.attention[0], reference.norm1),
        (own.attention[1].out, reference.self_attn.out_proj),
        (own.hidden[0], reference.norm2),
        (own.hidden[1], reference.linear1),
        (own.hidden[3], reference.linear2),
    ):
        theirs.load_state_dict(mine.state_dict())
    with torch.no_grad():
        reference.self_attn.in_proj_weight.copy_(own.attention[1].into.weight)
        reference.self_attn.in_proj_bias.copy_(own.attention[1].into.bias)
    tokens = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(own(tokens), reference(tokens), rtol=1e-10, atol=1e-12)


def test_patches_are_those_of_a_sliding_window():
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = functional.unfold(images, 4, stride=4).transpose(1, 2)
    assert torch.equal(Patches(4)(images), expected)


def test_vit_has_the_parameters_of_its_parts():
    width, tokens, hidden = 64, 8 * 8, 256
    block = 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width + 4 * width
    expected = (48 + 1) * width + tokens * width + 4 * block + 2 * width + (width + 1) * 10
    assert count_of(MODELS["vit"].fn((3, 32, 32), 10)) == expected == 207_946


def test_vit_without_positions_does_not_know_the_order_of_patches():
    model = initialised(partial(MODELS["vit"].fn, (1, 8, 8), 3), seed=0)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = images.roll(4, -1)
    assert not torch.allclose(model(images), model(turned), atol=1e-5)
    with torch.no_grad():
        model[2].weight.zero_()
    torch.testing.assert_close(model(images), model(turned))


def test_a_model_of_torchvision_starts_as_torchvision_starts_it():
    from torchvision import models

    own = initialised(partial(MODELS["torchvision"].fn, (3, 32, 32), 7), seed=3)
    reference = initialised(partial(models.resnet18, num_classes=7), seed=3)
    expected = reference.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in own.state_dict().items())


def test_looking_whether_an_image_fits_draws_nothing_and_leaves_statistics_alone():
    def build():
        model = MODELS["torchvision"].fn((3, 32, 32), 7, name="mobilenet_v3_small")
        return nn.ModuleList([model, nn.Linear(2, 2)])

    def plain():
        from torchvision import models

        return nn.ModuleList([models.mobilenet_v3_small(num_classes=7), nn.Linear(2, 2)])

    own, expected = (initialised(made, seed=3).state_dict() for made in (build, plain))
    assert all(torch.equal(value, expected[name]) for name, value in own.items())
