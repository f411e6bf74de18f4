"""Parts of transformers, with attention written out so that models can be stacked in a pack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lossbench.models.layers import Dropout


class Positions(nn.Module):
    """Layer that adds a learned vector for each position to the token there."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, tokens, width] plus the vectors of their positions."""
        return tokens + self.weight


class Attention(nn.Module):
    """Self-attention of several heads, softmax(q kᵀ / √d) v with d = width / heads.

    Args:
        width: Length of a token's vector.
        heads: Number of heads; divides the width.
        lookback: Number of tokens that a token attends to: itself and the tokens before it. If 0,
            every token attends to all tokens.

    Source:
        Vaswani et al. 2017, NeurIPS, section 3.2.
    """

    def __init__(self, width: int, heads: int, *, lookback: int = 0) -> None:
        super().__init__()
        self.heads, self.lookback = heads, lookback
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens after attention, [B, tokens, width], from tokens of the same shape."""
        parts = self.into(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, tokens, d]
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if self.lookback:
            scores = scores + self._mask(scores)
        weights = scores.softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))

    def _mask(self, scores: Tensor) -> Tensor:
        """Mask [tokens, tokens]: 0 if the row's token attends to the column's, else -infinity."""
        place = torch.arange(scores.shape[-1], device=scores.device)
        distance = place[:, None] - place
        is_seen = (distance >= 0) & (distance < self.lookback)
        return torch.where(is_seen, 0.0, -torch.inf).to(scores.dtype)


class Block(nn.Module):
    """Transformer block: attention, then a hidden layer, each with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float, *, lookback: int = 0) -> None:
        super().__init__()

        def dropping() -> list[nn.Module]:
            return [Dropout(dropout)] if dropout else []

        attention = Attention(width, heads, lookback=lookback)
        self.attention = nn.Sequential(nn.LayerNorm(width), attention, *dropping())
        self.hidden = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            *dropping(),
            nn.Linear(4 * width, width),
            *dropping(),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens after the block, [B, tokens, width], from tokens of the same shape."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.hidden(tokens)
