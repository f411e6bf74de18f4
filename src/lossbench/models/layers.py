"""Layers whose random numbers and statistics are part of the model's state, so that they pack.

Everything here works under `torch.func.vmap` with stacked parameters and buffers [K, ...], which
are changed in place, and gives a member the same bits in a pack of any size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
}

UNITS = {"element": 0, "channel": 2, "example": 1}
"""Units of dropout, and the number of leading dimensions that number them; 0 stands for all."""

# Odd constants of splitmix64 as signed numbers: torch multiplies int64 modulo 2**64.
_GAMMA, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def activated(name: str) -> nn.Module:
    """A layer of `ACTIVATIONS`; ValueError where it has no such name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r}: use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def check_probability(p: float) -> None:
    """Refuse a dropout below 0, or of 1 and above, with a ValueError."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout {p}: use 0 up to below 1")


def mixed(words: Tensor) -> Tensor:
    """Random-looking words of int64 words of any shape, one to one: the finaliser of splitmix64.

    Source:
        Steele, Lea, Flood 2014, OOPSLA, doi 10.1145/2660193.2660195; constants of S. Vigna,
        https://prng.di.unimi.it/splitmix64.c.
    """
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def random_words(start: Tensor, count: int) -> Tensor:
    """The first `count` numbers of splitmix64 seeded with `start` (int64, no dimension).

    They are uniform over all of int64.
    """
    places = torch.arange(1, count + 1, device=start.device)
    return mixed(places * _GAMMA + start)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Right shift that fills with zeros; torch's own fills with the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


class Dropout(nn.Module):
    """Zeroes a share of its inputs while training and scales the rest, as torch.nn.Dropout.

    The mask is a function of `key`, `count` and the element's place, and of nothing else: no
    generator is asked, so all losses of a seed see the same masks, alone or packed, on any device.
    Both are buffers, hence saved, stacked and resumed with the model. `paired` draws the key; two
    layers that it has not seen share the key 0.

    Args:
        p: Probability of a zero, 0 up to below 1.
        unit: One of `UNITS`, zeroed as a whole.

    Attributes:
        key: int64, drawn from the seed's dropout stream for each layer.
        count: int64, training batches seen.

    Raises:
        ValueError: No such probability or unit.

    Source:
        Srivastava et al. 2014, JMLR 15.
    """

    key: Tensor
    count: Tensor

    def __init__(self, p: float, *, unit: str = "element") -> None:
        super().__init__()
        check_probability(p)
        if unit not in UNITS:
            raise ValueError(f"dropout unit {unit!r}: use one of {', '.join(UNITS)}")
        self.p, self.unit = p, unit
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, ...], masked while training."""
        if not self.training:
            return inputs
        units = inputs.shape[: UNITS[self.unit] or inputs.dim()]
        words = random_words(mixed(self.key + self.count * _GAMMA), units.numel())
        self.count.add_(1)
        # A word is uniform over [-2**63, 2**63).
        is_kept = words >= int(self.p * 2.0**64) - 2**63
        is_kept = is_kept.view(*units, *[1] * (inputs.dim() - len(units)))
        return torch.where(is_kept, inputs / (1 - self.p), 0.0)

    def extra_repr(self) -> str:
        """Probability and unit."""
        return f"p={self.p}, unit={self.unit}"


class BatchNorm(nn.Module):
    """Batch normalisation of vectors, as torch.nn.BatchNorm1d, with the same bits in any pack.

    torch's own computes the gradient of the last features of all members by other code than the
    rest, so a member's bits would depend on its place. (Its BatchNorm2d treats every channel
    alike wherever an image has more than one pixel; models of images use that one.)

    Args:
        features: F.

    Attributes:
        weight, bias: Scale and shift, [F].
        running_mean, running_var: Used in evaluation, [F]; moved by a tenth per training batch.

    Source:
        Ioffe, Szegedy 2015, ICML.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum, eps = 0.1, 1e-5

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, F], normalised by the batch while training, else by the running statistics.

        Raises:
            ValueError: A training batch of one example, which has no variance.
        """
        if not self.training:
            return self._scaled(inputs - self.running_mean, self.running_var)
        examples = len(inputs)
        if examples < 2:
            raise ValueError("batch normalisation of a batch of 1: use a batch_size of 2 or more")
        mean = inputs.mean(0)
        centred = inputs - mean
        variance = centred.square().mean(0)
        unbiased = variance.detach() * examples / (examples - 1)
        self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean.detach())
        self.running_var.mul_(1 - self.momentum).add_(self.momentum * unbiased)
        return self._scaled(centred, variance)

    def _scaled(self, centred: Tensor, variance: Tensor) -> Tensor:
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
