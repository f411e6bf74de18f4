"""Every model: its shape, its seeded start, its size against the papers, and a pack of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from selection import beyond
from torch import nn
from torch.nn import functional
from torchvision import models as torchvision

from lossbench.data.splits import Tokens
from lossbench.models import MODELS, hidden_matrices, initialised, rescaled, widened
from lossbench.models.attention import Block
from lossbench.models.resnet import ResNet
from lossbench.models.vit import Patches

IMAGES = ("lenet", "strided_cnn", "resnet8", "resnet18", "vit", "torchvision")
COLOUR, GREY = (3, 16, 12), (1, 28, 28)
TOKENS = Tokens(positions=6, vocabulary=9)

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
    "bigram": ("bigram", TOKENS, {}),
    "gpt": ("gpt", TOKENS, {}),
    "gpt dropout": ("gpt", TOKENS, {"width": 8, "depth": 1, "lookback": 2, "dropout": 0.2}),
    "torchvision": ("torchvision", (3, 32, 32), {}),
    "torchvision mobilenet": ("torchvision", (3, 32, 32), {"name": "mobilenet_v3_small"}),
}
"""Name in MODELS, inputs, parameters; batch normalisation, dropout and plain ones of each."""

LARGE = [case for case, (name, *_) in CASES.items() if name in ("resnet18", "torchvision")]
CASE = pytest.mark.parametrize("case", beyond([case for case in CASES if case not in LARGE], CASES))


def build_of(name, inputs, outputs=10, /, **params):
    return partial(MODELS[name].fn, inputs, outputs, **params)


def build_case(case):
    name, inputs, params = CASES[case]
    return build_of(name, inputs, 5, **params)


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def examples_of(case, *leading):
    _, inputs, _ = CASES[case]
    if isinstance(inputs, Tokens):
        return tokens(*leading)
    return normal(*leading, *((inputs,) if isinstance(inputs, int) else inputs))


def tokens(*leading):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(TOKENS.vocabulary, (*leading, TOKENS.positions), generator=draw)


def count_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


@CASE
def test_initial_parameters_are_those_of_the_seed(case):
    torch.manual_seed(11)
    first = initialised(build_case(case), seed=1).state_dict()
    torch.manual_seed(12)
    again, other = (initialised(build_case(case), seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@CASE
def test_the_last_linear_layer_makes_the_output(case):
    model = initialised(build_case(case), seed=0).eval()
    examples = examples_of(case, 4)
    with torch.no_grad():
        plain = model(examples)
        scaled = rescaled(model, output_scale=3.0)(examples)
        wide = widened(model, outputs=5, times=2)(examples)
    torch.testing.assert_close(scaled, 3 * plain)
    torch.testing.assert_close(wide, torch.cat([3 * plain, torch.zeros_like(plain)], -1))


@pytest.mark.parametrize("name", IMAGES)
def test_a_model_of_images_refuses_vectors_with_the_cure(name):
    with pytest.raises(ValueError, match=f"model {name} needs images, .* use data of images"):
        MODELS[name].fn(64, 10)


@pytest.mark.parametrize("name", [*IMAGES, "linear", "mlp"])
def test_a_model_of_numbers_refuses_tokens_with_the_cure(name):
    with pytest.raises(ValueError, match=f"model {name} .* sequences of 6 tokens: use model=gpt"):
        MODELS[name].fn(TOKENS, 9)


@pytest.mark.parametrize(("inputs", "what"), [(7, "vectors of 7 numbers"), (GREY, "images")])
@pytest.mark.parametrize("name", ["bigram", "gpt"])
def test_a_model_of_sequences_refuses_numbers_with_the_cure(name, inputs, what):
    message = f"model {name} needs sequences of tokens, the inputs are {what}: use data=markov_text"
    with pytest.raises(ValueError, match=message):
        MODELS[name].fn(inputs, 9)


def test_a_flattened_image_is_a_vector():
    vectors, images = (initialised(build_of("mlp", at, 3), seed=0) for at in (24, (2, 3, 4)))
    examples = normal(5, 2, 3, 4)
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
        ("gpt", TOKENS, {"heads": 3}, "width 32 with 3 heads: use a multiple of heads"),
        ("gpt", TOKENS, {"lookback": 0}, "use positive"),
        ("gpt", TOKENS, {"depth": 1001}, "depth 1001: use at most 1000"),
        ("gpt", TOKENS, {"dropout": 1.0}, r"dropout 1\.0: use 0"),
        ("torchvision", GREY, {}, "needs 3 channels, the images have 1: use data with colours"),
        ("torchvision", (3, 32, 32), {"name": "resnet_18"}, "use resnet18"),
        ("torchvision", (3, 32, 32), {"name": "alexnet"}, "use larger ones, or model=resnet18"),
    ],
)
def test_impossible_parameters_are_refused_with_the_cure(name, inputs, params, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name].fn(inputs, 10, **params)


# Against the papers and torchvision.


def parts_of_strided_cnn():
    convolutions = (3 * 9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128
    return convolutions + (128 * 4 * 4 + 1) * 10


def parts_of_resnet8():
    stages = sum((a + b) * b * 9 + 4 * b for a, b in ((16, 16), (16, 32), (32, 64)))
    return 3 * 16 * 9 + 32 + stages + 64 * 10 + 10


def parts_of_vit(width=64, tokens=8 * 8, hidden=256):
    block = 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width + 4 * width
    return (48 + 1) * width + tokens * width + 4 * block + 2 * width + (width + 1) * 10


def parts_of_gpt(tokens=TOKENS, width=32, depth=2):
    block = 12 * width**2 + 13 * width
    ends = 2 * tokens.vocabulary * width + tokens.vocabulary
    return ends + tokens.positions * width + depth * block + 2 * width


SIZES = {
    "gpt": (TOKENS, parts_of_gpt()),
    "bigram": (TOKENS, 9 * 10),
    "lenet": ((1, 28, 28), 61_706),  # its classic form
    "lenet of 32 pixels": ((1, 32, 32), 61_706),
    "strided_cnn": ((3, 28, 28), parts_of_strided_cnn()),
    "resnet8": ((3, 32, 32), parts_of_resnet8()),
    "resnet18": ((3, 32, 32), 11_173_962),  # torchvision's behind another stem
    "vit": ((3, 32, 32), parts_of_vit()),
}


@pytest.mark.parametrize("case", SIZES)
def test_a_model_has_the_parameters_of_its_paper_or_its_parts(case):
    inputs, count = SIZES[case]
    outputs = 9 if case == "gpt" else 10
    assert count_of(build_of(case.split()[0], inputs, outputs)()) == count
    assert (parts_of_resnet8(), parts_of_vit()) == (75_290, 207_946)


def test_strided_cnn_pools_nothing():
    model = build_of("strided_cnn", (3, 28, 28))()
    assert not any("Pool" in type(layer).__name__ for layer in model.modules())


def test_lenet_pads_small_images_with_zeros_to_32_pixels():
    small = normal(2, 1, 28, 27)
    model, large = (
        initialised(build_of("lenet", inputs), seed=0) for inputs in ((1, 28, 27), (1, 32, 32))
    )
    torch.testing.assert_close(model(small), large(functional.pad(small, (2, 3, 2, 2))))


def test_the_same_network_with_three_blocks_is_the_papers_resnet20_of_0_27_million():
    model = ResNet(3, 10, (16, 32, 64), 3, "batch", is_projected=False)
    assert count_of(model) == 269_722


def test_a_shortcut_without_parameters_takes_every_other_pixel_and_adds_empty_channels():
    block = initialised(build_of("resnet8", COLOUR), seed=0).layer2[0].eval()
    images = normal(2, 16, 6, 4).abs()
    with torch.no_grad():
        block.bn2.weight.zero_()
        found = block(images)
    assert torch.equal(found[:, :16], images[:, :, ::2, ::2])
    assert not found[:, 16:].any()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_resnet18_is_torchvisions_behind_another_stem(mode):
    reference = torchvision.resnet18(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    own = build_of("resnet18", (3, 32, 32))()
    for name in ("layer1.0.conv1", "layer4.1.conv2"):  # their initial weights spread alike
        spread = [model.get_submodule(name).weight.std().item() for model in (own, reference)]
        assert spread[0] == pytest.approx(spread[1], rel=0.02)
    own.load_state_dict(reference.state_dict())
    images = normal(2, 3, 16, 16)
    for model in (own, reference):
        model.train(mode == "train")
    torch.testing.assert_close(own(images), reference(images), rtol=1e-5, atol=1e-6)


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
    tokens = normal(2, 5, width).double()
    torch.testing.assert_close(own(tokens), reference(tokens), rtol=1e-10, atol=1e-12)


def test_patches_are_those_of_a_sliding_window():
    images = normal(2, 3, 8, 12)
    expected = functional.unfold(images, 4, stride=4).transpose(1, 2)
    assert torch.equal(Patches(4)(images), expected)


def test_vit_without_positions_does_not_know_the_order_of_patches():
    model = initialised(build_of("vit", (1, 8, 8), 3), seed=0)
    images = normal(2, 1, 8, 8)
    turned = images.roll(4, -1)
    assert not torch.allclose(model(images), model(turned), atol=1e-5)
    with torch.no_grad():
        model[2].weight.zero_()
    torch.testing.assert_close(model(images), model(turned))


@pytest.mark.parametrize("lookback", [1, 2, 3, 1024])
def test_a_position_of_gpt_sees_itself_and_what_is_at_most_its_lookback_before_it(lookback):
    model = initialised(build_of("gpt", TOKENS, 9, depth=1, lookback=lookback), seed=0).double()
    plain = tokens(1)
    for changed in range(TOKENS.positions):
        other = plain.clone()
        other[0, changed] = (other[0, changed] + 1) % TOKENS.vocabulary
        differs = (model(plain) - model(other)).abs().amax(-1)[0] > 1e-12
        seen = [0 <= place - changed < lookback for place in range(TOKENS.positions)]
        assert differs.tolist() == seen


def test_a_block_that_looks_back_only_is_torchs_with_a_causal_mask():
    width, heads, count = 12, 3, 5
    own = Block(width, heads, 0.0, lookback=count).double()
    whole = Block(width, heads, 0.0).double()
    whole.load_state_dict(own.state_dict())
    inputs = normal(2, count, width).double()
    reference = nn.MultiheadAttention(width, heads, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(own.attention[1].into.weight)
        reference.in_proj_bias.copy_(own.attention[1].into.bias)
        reference.out_proj.load_state_dict(own.attention[1].out.state_dict())
    mask = nn.Transformer.generate_square_subsequent_mask(count, dtype=torch.float64)
    normed = own.attention[0](inputs)
    expected, _ = reference(normed, normed, normed, attn_mask=mask, is_causal=True)
    torch.testing.assert_close(own.attention(inputs), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(own(inputs), whole(inputs))


def test_a_row_of_bigram_is_what_follows_its_token():
    model = build_of("bigram", TOKENS, 4)()
    inputs = tokens(3)
    torch.testing.assert_close(model(inputs), model[1].weight.T[inputs])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_model_of_torchvision_starts_as_torchvision_starts_it(name):
    """To look whether an image fits draws nothing and leaves statistics alone."""

    def followed(build):
        return initialised(lambda: nn.ModuleList([build(), nn.Linear(2, 2)]), seed=3).state_dict()

    own = followed(build_of("torchvision", (3, 32, 32), 7, name=name))
    expected = followed(partial(getattr(torchvision, name), num_classes=7))
    assert all(torch.equal(value, expected[key]) for key, value in own.items())


HIDDEN = {
    "linear": [],
    "mlp": ["0.weight", "2.weight"],
    "bigram": [],
    "gpt": [
        f"{block}.{part}.weight"
        for block in (2, 3)
        for part in ("attention.1.into", "attention.1.out", "hidden.1", "hidden.3")
    ],
}


@pytest.mark.parametrize("case", HIDDEN)
def test_hidden_matrices_are_neither_embeddings_nor_the_layer_that_makes_outputs(case):
    assert sorted(hidden_matrices(build_case(case)())) == sorted(HIDDEN[case])
