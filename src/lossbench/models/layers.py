"""Layers that keep their random numbers and statistics in the model's state.

The layers work under `torch.func.vmap` with stacked parameters and buffers [K, ...], and change
the buffers in place. A member gets the same bits in a pack of any size.
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
"""Units of dropout, and the number of leading dimensions that index a unit; 0 means all."""

# Odd constants of splitmix64 as signed numbers: torch multiplies int64 modulo 2**64.
_GAMMA, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def activated(name: str) -> nn.Module:
    """Activation layer of that name; ValueError if `ACTIVATIONS` does not have the name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r}: use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def check_probability(p: float) -> None:
    """Raise ValueError unless the dropout probability is at least 0 and below 1."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout {p}: use 0 up to below 1")


def mixed(words: Tensor) -> Tensor:
    """Hash of each int64 word, a bijection: the finaliser of splitmix64. Any shape.

    Source:
        Steele, Lea, Flood 2014, OOPSLA, doi 10.1145/2660193.2660195; constants of S. Vigna,
        https://prng.di.unimi.it/splitmix64.c.
    """
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def random_words(start: Tensor, count: int) -> Tensor:
    """The first `count` numbers of splitmix64 seeded with `start` (int64, no dimension).

    The numbers are uniform over all of int64.
    """
    places = torch.arange(1, count + 1, device=start.device)
    return mixed(places * _GAMMA + start)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Words shifted right and filled with zeros; torch's own shift fills with the sign bit."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


class Dropout(nn.Module):
    """Layer that zeroes a share of its inputs in training and scales the rest, as torch.nn.Dropout.

    The mask depends only on `key`, `count` and the element's place, and not on a generator. So all
    losses of a seed see the same masks, alone or in a pack, on any device. `key` and `count` are
    buffers, hence saved, stacked and resumed with the model. `paired` draws the key of each layer;
    before that, every layer has the key 0.

    Args:
        p: Probability of a zero, at least 0 and below 1.
        unit: Unit that is zeroed as a whole, one of `UNITS`.

    Attributes:
        key: int64, drawn from the seed's dropout stream for each layer.
        count: int64, number of training batches so far.

    Raises:
        ValueError: The probability or the unit is not allowed.

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
        """Inputs [B, ...], masked and scaled in training, unchanged in evaluation."""
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
        """Probability and unit, for the printed form of the layer."""
        return f"p={self.p}, unit={self.unit}"


class BatchNorm(nn.Module):
    """Batch normalisation of vectors, as torch.nn.BatchNorm1d, with the same bits in any pack.

    torch's BatchNorm1d computes the gradient of the last features of a pack by other code than the
    rest, so a member's bits would depend on its place in the pack. (torch's BatchNorm2d treats all
    channels alike if an image has more than one pixel; models of images use BatchNorm2d.)

    Args:
        features: Number F of features.

    Attributes:
        weight, bias: Scale and shift, [F].
        running_mean, running_var: Statistics for evaluation, [F]; a training batch has weight 0.1.

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
        """Inputs [B, F], normalised by the batch in training, else by the running statistics.

        Raises:
            ValueError: The training batch has one example and therefore no variance.
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
