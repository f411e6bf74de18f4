"""A small vision transformer."""

from __future__ import annotations

from torch import Tensor, nn

from lossbench.models.attention import Block, Positions
from lossbench.models.layers import check_probability
from lossbench.models.spec import Inputs, Model, check_positive, image_of


def vit(
    inputs: Inputs,
    outputs: int,
    *,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
) -> nn.Module:
    """A vision transformer: patches as tokens, layer normalisation before each part, mean pooling.

    There is no class token: the output is an affine map of the mean over tokens, after a layer
    normalisation. Positions are learned; hidden layers are four times as wide as a token.

    Args:
        inputs: Channels, height, width.
        outputs: Number C of outputs.
        patch: Side of a patch in pixels; divides height and width.
        width: Length of a token's vector; a multiple of `heads`.
        depth: Number of blocks of attention and hidden layer.
        heads: Number of heads of each attention.
        dropout: Probability of a zero after the attention, the hidden layer and the map back to
            the token's width, in training.

    Source:
        Dosovitskiy et al. 2021, ICLR; mean instead of class token: Beyer, Zhai, Kolesnikov 2022.
    """
    channels, *sides = image_of(inputs, model="vit")
    check_positive([patch, width, depth, heads], what="patch, width, depth, heads")
    if depth > 1000:
        raise ValueError(f"depth {depth}: use at most 1000")
    if any(side % patch for side in sides):
        raise ValueError(f"patch {patch} for images of {sides}: use a divisor of both sides")
    if width % heads:
        raise ValueError(f"width {width} with {heads} heads: use a multiple of heads")
    check_probability(dropout)
    tokens = sides[0] // patch * (sides[1] // patch)
    return nn.Sequential(
        Patches(patch),
        nn.Linear(channels * patch * patch, width),
        Positions(tokens, width),
        *(Block(width, heads, dropout) for _ in range(depth)),
        nn.LayerNorm(width),
        Mean(),
        nn.Linear(width, outputs),
    )


class Patches(nn.Module):
    """Layer from images [B, channels, height, width] to patches [B, patches, channels * side²]."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Patches of the images, row by row."""
        tiles = images.unflatten(-1, (-1, self.side)).unflatten(-3, (-1, self.side))
        # [B, channels, rows, side, columns, side]
        return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class Mean(nn.Module):
    """Layer that takes the mean over tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean [B, width] of tokens [B, tokens, width]."""
        return tokens.mean(1)


ROWS = (Model(vit, "Dosovitskiy et al. 2021, mean over tokens; torch's default initialisation"),)
