"""Models of sequences: tokens [B, T] to outputs [B, T, C] that do not depend on later tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lossbench.models.attention import Block, Positions
from lossbench.models.layers import check_probability
from lossbench.models.spec import Inputs, Model, check_positive, tokens_of


def bigram(inputs: Inputs, outputs: int) -> nn.Module:
    """Bigram model: a table of C outputs for each token, whatever the tokens before it.

    The optimum under cross entropy is known: the softmax of a row of the table gives the
    frequencies of the next token in training.
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
    """A GPT decoder: causal attention, with layer normalisation before each part and at the end.

    Positions are learned; hidden layers are four times as wide as a token. The vectors of tokens
    and positions start normal with a standard deviation of 0.02, as in GPT-2. The output layer
    does not share parameters with the tokens.

    Args:
        inputs: Number of positions and size of the vocabulary.
        outputs: Number C of outputs.
        width: Length of a token's vector; a multiple of `heads`.
        depth: Number of blocks of attention and hidden layer.
        heads: Number of heads of each attention.
        lookback: Number of tokens that each position attends to: its own and the tokens before;
            all of these if there are fewer.
        dropout: Probability of a zero after the attention, the hidden layer and the map back to
            the token's width, in training.

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
    """Layer from tokens [B, T] to one-hot vectors [B, T, V]."""

    rows: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        # A buffer, so that the rows have the type and device of the parameters.
        self.register_buffer("rows", torch.eye(vocabulary), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """One-hot vectors [B, T, V] of tokens [B, T]."""
        return self.rows[tokens]


ROWS = (
    Model(bigram, "a table of next tokens; torch's default initialisation"),
    Model(
        gpt,
        "Radford et al. 2019, pre-norm decoder; torch's default initialisation but for "
        "tokens and positions",
    ),
)
