"""Parts of transformers, with attention written out so that it packs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lossbench.models.layers import Dropout


class Positions(nn.Module):
    """Adds a learned vector to each token."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, tokens, width] with their positions."""
        return tokens + self.weight


class Attention(nn.Module):
    """Self-attention of several heads, softmax(q kᵀ / √d) v with d = width / heads.

    Args:
        width: Numbers of a token.
        heads: Divides the width.
        lookback: Tokens that each looks at: itself and those before it. 0: all, behind it too.

    Source:
        Vaswani et al. 2017, NeurIPS, section 3.2.
    """

    def __init__(self, width: int, heads: int, *, lookback: int = 0) -> None:
        super().__init__()
        self.heads, self.lookback = heads, lookback
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, tokens, width] of tokens."""
        parts = self.into(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, tokens, d]
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if self.lookback:
            scores = scores + self._mask(scores)
        weights = scores.softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))

    def _mask(self, scores: Tensor) -> Tensor:
        """[tokens, tokens]: 0 where a token (row) looks at another, else minus infinity."""
        place = torch.arange(scores.shape[-1], device=scores.device)
        distance = place[:, None] - place
        is_seen = (distance >= 0) & (distance < self.lookback)
        return torch.where(is_seen, 0.0, -torch.inf).to(scores.dtype)


class Block(nn.Module):
    """Attention, then a hidden layer for each token; both are added to their input."""

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
        """Tokens [B, tokens, width] of tokens."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.hidden(tokens)
