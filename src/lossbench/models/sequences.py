"""Models of sequences: outputs [B, T, C] of tokens [B, T], each from the tokens up to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lossbench.models.attention import Block, Positions
from lossbench.models.layers import check_probability
from lossbench.models.spec import Inputs, Model, check_positive, tokens_of


def bigram(inputs: Inputs, outputs: int) -> nn.Module:
    """A table: C outputs for each token, whatever stands before it.

    Under cross entropy its optimum is known: the softmax of a row gives how often each token came
    next in training.
    """
    tokens = tokens_of(inputs, model="bigram")
    return nn.Sequential(OneHot(tokens.vocabulary), nn.Linear(tokens.vocabulary, outputs, False))


def gpt(
    inputs: Inputs,
    outputs: int,
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    lookback: int = 1024,
    dropout: float = 0.0,
) -> nn.Module:
    """A decoder: attention to earlier tokens, normalised before each part and at the end.

    Positions are learned; hidden layers are four times as wide as a token. Tokens and positions
    start normal with a standard deviation of 0.02, as those of GPT-2; the map to the outputs has
    parameters of its own.

    Args:
        inputs: Positions and vocabulary.
        outputs: C.
        width: Numbers of a token; a multiple of `heads`.
        depth: Blocks of attention and hidden layer.
        heads: Heads of each attention.
        lookback: Tokens that each position looks at, itself and those before; as many as there are
            where there are fewer.
        dropout: Probability of a zero behind attention, hidden layer and its map back, while
            training.

    Source:
        Radford et al. 2019 (GPT-2), section 2.3.
    """
    tokens = tokens_of(inputs, model="gpt")
    check_positive([width, depth, heads, lookback], what="width, depth, heads, lookback")
    if depth > 1000:
        raise ValueError(f"depth {depth}: use at most 1000")
    if width % heads:
        raise ValueError(f"width {width} with {heads} heads: use a multiple of heads")
    check_probability(dropout)
    embedding = nn.Embedding(tokens.vocabulary, width)
    nn.init.normal_(embedding.weight, std=0.02)
    return nn.Sequential(
        embedding,
        Positions(tokens.positions, width),
        *(Block(width, heads, dropout, lookback=lookback) for _ in range(depth)),
        nn.LayerNorm(width),
        nn.Linear(width, outputs),
    )


class OneHot(nn.Module):
    """Tokens [B, T] as numbers [B, T, V]: 1 at the token's place, else 0."""

    rows: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        # A buffer, so that they have the type and device of the parameters.
        self.register_buffer("rows", torch.eye(vocabulary), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The numbers."""
        return self.rows[tokens]


ROWS = (
    Model(bigram, "a table of next tokens; torch's default initialisation"),
    Model(
        gpt,
        "Radford et al. 2019, pre-norm decoder; torch's default initialisation but for "
        "tokens and positions",
    ),
)
