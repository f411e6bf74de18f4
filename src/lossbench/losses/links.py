"""The inverse links, output [..., C] -> prediction [..., C]; their parameters are their losses'."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.softmax import softmax

LARGEST_EXPONENT = 70.0
"""exp(70) = 2.5e30 leaves float32 and bfloat16 room for a factor of 1e4 and a sum."""

SEARCH_STEPS = 10
NEWTON_STEPS = 2
"""Each doubles the order up to which a root's derivatives are exact: two give three of them."""


def identity(output: Tensor) -> Tensor:
    """The output itself."""
    return output


def doubled_softmax(output: Tensor) -> Tensor:
    """Softmax of twice the output, which exponentials of output differences elicit."""
    return softmax(2.0 * output)


def scaled_softmax(output: Tensor, *, s: float) -> Tensor:
    """Softmax of s times the output."""
    return softmax(s * output)


def normalized_softmax(output: Tensor, *, tau: float) -> Tensor:
    """Softmax of the output's direction over the temperature tau."""
    return softmax(direction(output) / tau)


def cosine_softmax(output: Tensor, *, scale: float) -> Tensor:
    """Softmax of `scale` times the cosines between output and classes."""
    return softmax(scale * direction(output))


def softcapped_softmax(output: Tensor, *, cap: float) -> Tensor:
    """Softmax of outputs that a hyperbolic tangent keeps between -cap and cap."""
    return softmax(softcapped(output, cap=cap))


def stablemax(output: Tensor) -> Tensor:
    """Shares of 1 + z where an output z is positive, of 1/(1 - z) where it is negative.

    Source:
        Prieto, Barsbey, Mediano and Birdal 2025, ICLR.
    """
    return softmax(signed_log1p(output))


def sparsemax(output: Tensor) -> Tensor:
    """The nearest point of the simplex.

    Source:
        Martins and Astudillo 2016, ICML; Held, Wolfe and Crowder 1974.
    """
    # The largest goes first to zero: sums of large outputs would round the threshold away.
    output = output - output.amax(-1, keepdim=True)
    ordered = output.sort(-1, descending=True).values
    rank = torch.arange(1, output.shape[-1] + 1, device=output.device, dtype=output.dtype)
    excess = ordered.cumsum(-1) - 1.0
    support = (ordered * rank > excess).sum(-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, support - 1) / support
    return (output - threshold).clamp(min=0.0)


def entmax15(output: Tensor) -> Tensor:
    """The 1.5-entmax: squared positive parts of half the output minus a threshold, exact.

    Source:
        Peters, Niculae and Martins 2019, ACL.
    """
    # The largest goes first to zero: the threshold comes from a variance.
    half = 0.5 * (output - output.amax(-1, keepdim=True))
    ordered = half.sort(-1, descending=True).values
    rank = torch.arange(1, output.shape[-1] + 1, device=output.device, dtype=output.dtype)
    mean = ordered.cumsum(-1) / rank
    spread = rank * (ordered.square().cumsum(-1) / rank - mean.square())
    gap = (1.0 - spread) / rank
    # Where the gap is negative the candidate is no support; sqrt must not see it.
    threshold = mean - torch.where(gap > 0, gap, 1.0).sqrt()
    support = ((gap > 0) & (threshold <= ordered)).sum(-1, keepdim=True).clamp(min=1)
    return (half - threshold.gather(-1, support - 1)).clamp(min=0.0).square()


def entmax(output: Tensor, *, alpha: float) -> Tensor:
    """The alpha-entmax, between softmax (alpha = 1) and sparsemax (alpha = 2).

    Args:
        output: [..., C].
        alpha: Index of the Tsallis entropy, from 1 to 2.

    Source:
        Blondel, Martins and Niculae 2020, Journal of Machine Learning Research.
    """
    if alpha == 1.0:
        return softmax(output)
    scaled = (alpha - 1.0) * _wide(output - output.amax(-1, keepdim=True))
    power = 1.0 / (alpha - 1.0)

    def total(threshold: Tensor) -> Tensor:
        return positive_power(scaled - threshold, power).sum(-1, keepdim=True)

    def slope(threshold: Tensor) -> Tensor:
        return -power * positive_power(scaled - threshold, power - 1.0).sum(-1, keepdim=True)

    # At -1 the largest alone gives 1.
    start = torch.full_like(scaled[..., :1], -1.0)
    p = positive_power(scaled - _root(total, slope, power, start), power)
    return p.to(output.dtype)


def tempered_softmax(output: Tensor, *, t2: float) -> Tensor:
    """The softmax of the tempered exponential exp_t(x) = [1 + (1 - t) x]^(1 / (1 - t)).

    Args:
        output: [..., C].
        t2: Temperature; 1 is the softmax, above 1 the tail is heavy, below 1 it is cut off.

    Source:
        Amid, Warmuth, Anil and Koren 2019, NeurIPS.
    """
    if t2 == 1.0:
        return softmax(output)
    below = _wide(output - output.amax(-1, keepdim=True))
    power = 1.0 / (1.0 - t2)

    def base(shift: Tensor) -> Tensor:
        return 1.0 + (1.0 - t2) * (below - shift)

    def total(shift: Tensor) -> Tensor:
        return positive_power(base(shift), power).sum(-1, keepdim=True)

    def slope(shift: Tensor) -> Tensor:
        return -positive_power(base(shift), power - 1.0).sum(-1, keepdim=True)

    # At 0 the largest alone gives 1.
    start = torch.zeros_like(below[..., :1])
    return positive_power(base(_root(total, slope, power, start)), power).to(output.dtype)


def sigmoid(output: Tensor) -> Tensor:
    """One probability for each output, each against the rest."""
    return output.sigmoid()


def doubled_sigmoid(output: Tensor) -> Tensor:
    """Sigmoid of twice the output, which exponentials of margins elicit."""
    return (2.0 * output).sigmoid()


def half_margin(output: Tensor) -> Tensor:
    """(z + 1) / 2 within [0, 1], which squared hinges elicit."""
    return (0.5 * (output + 1.0)).clamp(0.0, 1.0)


def tangent(output: Tensor) -> Tensor:
    """The arc tangent, plus 1/2.

    Source:
        Masnadi-Shirazi, Mahadevan and Vasconcelos 2010, CVPR.
    """
    return output.atan() + 0.5


def exp(output: Tensor) -> Tensor:
    """The exponential, constant beyond `LARGEST_EXPONENT`."""
    return output.clamp(max=LARGEST_EXPONENT).exp()


def softplus(output: Tensor) -> Tensor:
    """log(1 + exp z), positive."""
    # torch's is the identity beyond its threshold: 20, its default, is too early for float64.
    return functional.softplus(output, threshold=50.0)


def mean(output: Tensor, *, outputs_per_target: int) -> Tensor:
    """The first of the outputs of each target; the others say how sure it is."""
    return output[..., : output.shape[-1] // outputs_per_target]


def median(output: Tensor, *, outputs_per_target: int) -> Tensor:
    """The first of the outputs of each target, which are quantiles."""
    return mean(output, outputs_per_target=outputs_per_target)


def mean_of_bins(output: Tensor, *, outputs_per_target: int, low: float, high: float) -> Tensor:
    """The mean of the centres of equal bins from low to high, weighed by a softmax over them."""
    p = softmax(of_each_target(output, outputs_per_target))
    edges = bin_edges(outputs_per_target, low=low, high=high, like=output)
    return (p * (0.5 * (edges[1:] + edges[:-1]))).sum(-1)


INVERSE_LINKS: dict[str, Callable[..., Tensor]] = {
    link.__name__: link
    for link in (
        *(identity, exp, softplus, mean, median, mean_of_bins),
        *(softmax, doubled_softmax, scaled_softmax, normalized_softmax, cosine_softmax),
        *(softcapped_softmax, stablemax, sparsemax, entmax15, entmax, tempered_softmax),
        *(sigmoid, doubled_sigmoid, half_margin, tangent),
    )
}

PROBABILITY_LINKS = frozenset(
    {"softmax", "doubled_softmax", "scaled_softmax", "normalized_softmax", "cosine_softmax"}
    | {"softcapped_softmax", "stablemax", "sparsemax", "entmax15", "entmax", "tempered_softmax"}
)
"""Inverse links whose predictions lie on the simplex."""


def of_each_target(output: Tensor, outputs_per_target: int) -> Tensor:
    """Outputs [..., W], the first of all C targets before the second ones, as [..., C, n]."""
    return output.unflatten(-1, (outputs_per_target, -1)).transpose(-1, -2)


def bin_edges(count: int, *, low: float, high: float, like: Tensor) -> Tensor:
    """The edges of so many equal bins, [count + 1]."""
    return torch.linspace(low, high, count + 1, dtype=like.dtype, device=like.device)


def without_spread(target: Tensor, *, outputs_per_target: int) -> Tensor:
    """Outputs [..., nC] whose `mean` is the target, and all others zero."""
    return functional.pad(target, (0, (outputs_per_target - 1) * target.shape[-1]))


def all_equal(target: Tensor, *, outputs_per_target: int) -> Tensor:
    """Outputs [..., nC] that all are the target, and so their `median`."""
    return torch.cat([target] * outputs_per_target, -1)


def bins_around(target: Tensor, *, outputs_per_target: int, low: float, high: float) -> Tensor:
    """Outputs [..., nC] whose `mean_of_bins` is the target, between the outermost bins."""
    edges = bin_edges(outputs_per_target, low=low, high=high, like=target)
    away = (target.unsqueeze(-1) - 0.5 * (edges[1:] + edges[:-1])) * (
        outputs_per_target / (high - low)
    )
    return -0.5 * away.square().transpose(-1, -2).flatten(-2)


PLACED: dict[str, Callable[..., Tensor]] = {
    "mean": without_spread,
    "median": all_equal,
    "mean_of_bins": bins_around,
}
"""Of each inverse link of several outputs per target, outputs for a prediction."""


def softcapped(output: Tensor, *, cap: float) -> Tensor:
    """Cap tanh(z / cap): the output near zero, and never beyond the cap."""
    return cap * (output / cap).tanh()


def signed_log1p(output: Tensor) -> Tensor:
    """log(1 + |z|) with the sign of z; its slope at zero is 1."""
    above, below = output.clamp(min=0.0).log1p(), -(-output).clamp(min=0.0).log1p()
    return torch.where(output < 0, below, above)


def direction(output: Tensor) -> Tensor:
    """The output over its Euclidean norm, [..., C]; zero at zero."""
    # Scaled by its largest entry first: squares of 1e-30 or 1e30 leave float32.
    largest = output.detach().abs().amax(-1, keepdim=True)
    scaled = output / torch.where(largest > 0, largest, 1.0)
    length = scaled.square().sum(-1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1.0).sqrt()


def capped_exp(exponent: Tensor) -> Tensor:
    """exp, continued along its tangent beyond `LARGEST_EXPONENT`: convex, smooth and finite."""
    inside = exponent.clamp(max=LARGEST_EXPONENT)
    return inside.exp() * (1.0 + (exponent - inside))


def capped_expm1(exponent: Tensor) -> Tensor:
    """`capped_exp` - 1, exact near zero."""
    inside = exponent.clamp(max=LARGEST_EXPONENT)
    return torch.expm1(inside) + inside.exp() * (exponent - inside)


def positive_power(base: Tensor, power: float) -> Tensor:
    """base^power where the base is positive, else 0, with derivatives that are never NaN."""
    is_positive = base > 0
    return torch.where(is_positive, torch.where(is_positive, base, 1.0).pow(power), 0.0)


def _wide(values: Tensor) -> Tensor:
    """At least float32: a root searched in bfloat16 is none."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _root(
    total: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    power: float,
    start: Tensor,
) -> Tensor:
    """Root at which a falling sum of positive parts to a power is 1, one number per example.

    Seen through its root of that power, a norm of a linear map, the sum is so nearly linear that
    Newton's method arrives from the left within few steps; they pass no gradient. Steps on the
    sum itself do: they make the derivatives those of the implicit function.

    Args:
        total: The sum, [..., 1] -> [..., 1].
        slope: Derivative of `total`.
        power: Exponent of the parts.
        start: Point left of the root, where the sum is 1 or more.
    """
    root = start.detach()
    with torch.no_grad():
        for _ in range(SEARCH_STEPS):
            value = total(root)
            root = root - power * (value - value.pow(1.0 - 1.0 / power)) / slope(root)
    for _ in range(NEWTON_STEPS):
        root = root + (1.0 - total(root)) / slope(root)
    return root
