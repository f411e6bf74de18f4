"""A small vision transformer, its attention written out so that it packs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lossbench.models.layers import Dropout, check_probability
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
    """A vision transformer: patches as tokens, normalised before each part, their mean at the end.

    No class token: the output is an affine map of the mean over tokens, after a layer
    normalisation. Positions are learned; hidden layers are four times as wide as a token.

    Args:
        inputs: Channels, height, width.
        outputs: C.
        patch: Side of a patch in pixels; divides height and width.
        width: Numbers of a token; a multiple of `heads`.
        depth: Blocks of attention and hidden layer.
        heads: Of each attention.
        dropout: Probability of a zero behind attention, hidden layer and its map back, while
            training.

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
    """Images [B, channels, height, width] as tokens [B, patches, channels * side * side]."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Tokens, row by row."""
        tiles = images.unflatten(-1, (-1, self.side)).unflatten(-3, (-1, self.side))
        # [B, channels, rows, side, columns, side]
        return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class Positions(nn.Module):
    """Adds a learned vector to each token."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, tokens, width] with their positions."""
        return tokens + self.weight


class Mean(nn.Module):
    """The mean over tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, width] of [B, tokens, width]."""
        return tokens.mean(1)


class Attention(nn.Module):
    """Self-attention of several heads, softmax(q kᵀ / √d) v with d = width / heads.

    Source:
        Vaswani et al. 2017, NeurIPS, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, tokens, width] of tokens."""
        parts = self.into(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, tokens, d]
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a hidden layer for each token; both are added to what goes in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()

        def dropping() -> list[nn.Module]:
            return [Dropout(dropout)] if dropout else []

        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads), *dropping())
        self.hidden = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            *dropping(),
            nn.Linear(4 * width, width),
            *dropping(),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, tokens, width] of tokens."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.hidden(tokens)


ROWS = (Model(vit, "Dosovitskiy et al. 2021, mean over tokens; torch's default initialisation"),)
