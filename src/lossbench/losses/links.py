"""Inverse links, output [..., W] -> prediction [..., C]; keywords are parameters of the loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.softmax import softmax

LARGEST_EXPONENT = 70.0
"""Largest exponent: exp(70) = 2.5e30 leaves room for a factor of 1e4 and a sum in float32."""

SEARCH_STEPS = 10
NEWTON_STEPS = 2
"""Each Newton step doubles the order of a root's exact derivatives; two steps give three."""


def identity(output: Tensor) -> Tensor:
    """The output itself."""
    return output


def doubled_softmax(output: Tensor) -> Tensor:
    """Softmax of twice the output, for losses that are exponentials of output differences."""
    return softmax(2.0 * output)


def scaled_softmax(output: Tensor, *, s: float) -> Tensor:
    """Softmax of s times the output."""
    return softmax(s * output)


def normalized_softmax(output: Tensor, *, tau: float) -> Tensor:
    """Softmax of the output's direction divided by the temperature `tau`."""
    return softmax(direction(output) / tau)


def cosine_softmax(output: Tensor, *, scale: float) -> Tensor:
    """Softmax of `scale` times the cosine between the output and each class's axis."""
    return softmax(scale * direction(output))


def softcapped_softmax(output: Tensor, *, cap: float) -> Tensor:
    """Softmax of outputs that a hyperbolic tangent keeps between -cap and cap."""
    return softmax(softcapped(output, cap=cap))


def stablemax(output: Tensor) -> Tensor:
    """Shares s(z) / Σ s of outputs z, with s(z) = 1 + z if z is positive, else 1/(1 - z).

    Source:
        Prieto, Barsbey, Mediano and Birdal 2025, ICLR.
    """
    return softmax(signed_log1p(output))


def sparsemax(output: Tensor) -> Tensor:
    """Point of the probability simplex that is nearest to the output.

    Source:
        Martins and Astudillo 2016, ICML; Held, Wolfe and Crowder 1974.
    """
    # The largest output is moved to zero, since sums of large outputs would round the threshold.
    output = output - output.amax(-1, keepdim=True)
    ordered = output.sort(-1, descending=True).values
    rank = torch.arange(1, output.shape[-1] + 1, device=output.device, dtype=output.dtype)
    excess = ordered.cumsum(-1) - 1.0
    support = (ordered * rank > excess).sum(-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, support - 1) / support
    return (output - threshold).clamp(min=0.0)


def entmax15(output: Tensor) -> Tensor:
    """The 1.5-entmax, computed exactly: squared positive parts of half the output less a threshold.

    Source:
        Peters, Niculae and Martins 2019, ACL.
    """
    # The largest output is moved to zero, because the threshold comes from a variance.
    half = 0.5 * (output - output.amax(-1, keepdim=True))
    ordered = half.sort(-1, descending=True).values
    rank = torch.arange(1, output.shape[-1] + 1, device=output.device, dtype=output.dtype)
    mean = ordered.cumsum(-1) / rank
    spread = rank * (ordered.square().cumsum(-1) / rank - mean.square())
    gap = (1.0 - spread) / rank
    # A candidate with a negative gap is not a support; sqrt must not see a negative gap.
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

    # At a threshold of -1 the largest output alone gives 1.
    start = torch.full_like(scaled[..., :1], -1.0)
    p = positive_power(scaled - _root(total, slope, power, start), power)
    return p.to(output.dtype)


def tempered_softmax(output: Tensor, *, t2: float) -> Tensor:
    """The softmax of the tempered exponential exp_t(x) = [1 + (1 - t) x]^(1 / (1 - t)).

    Args:
        output: [..., C].
        t2: Temperature; 1 is the softmax, above 1 the tail is heavy, below 1 the tail is cut off.

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

    # At a shift of 0 the largest output alone gives 1.
    start = torch.zeros_like(below[..., :1])
    return positive_power(base(_root(total, slope, power, start)), power).to(output.dtype)


def sigmoid(output: Tensor) -> Tensor:
    """Sigmoid of each output: the probability of each class against the rest."""
    return output.sigmoid()


def doubled_sigmoid(output: Tensor) -> Tensor:
    """Sigmoid of twice the output, for losses like exponentials of a margin."""
    return (2.0 * output).sigmoid()


def half_margin(output: Tensor) -> Tensor:
    """Probability (z + 1) / 2 of an output z, clamped to [0, 1], for squared hinges."""
    return (0.5 * (output + 1.0)).clamp(0.0, 1.0)


def tangent(output: Tensor) -> Tensor:
    """Arc tangent of the output, plus 1/2.

    Source:
        Masnadi-Shirazi, Mahadevan and Vasconcelos 2010, CVPR.
    """
    return output.atan() + 0.5


def exp(output: Tensor) -> Tensor:
    """Exponential of the output, constant beyond `LARGEST_EXPONENT`."""
    return output.clamp(max=LARGEST_EXPONENT).exp()


def softplus(output: Tensor) -> Tensor:
    """Softplus log(1 + exp z) of an output z, which is positive."""
    # torch's softplus is the identity beyond a threshold; the default, 20, is too low for float64.
    return functional.softplus(output, threshold=50.0)


def mean(output: Tensor, *, outputs_per_target: int) -> Tensor:
    """First output of each target, which is the mean; the other outputs give the spread."""
    return output[..., : output.shape[-1] // outputs_per_target]


def median(output: Tensor, *, outputs_per_target: int) -> Tensor:
    """First output of each target, which is the median; the other outputs are quantiles."""
    return mean(output, outputs_per_target=outputs_per_target)


def mean_of_bins(output: Tensor, *, outputs_per_target: int, low: float, high: float) -> Tensor:
    """Mean of the centres of equal bins from `low` to `high`, weighted by a softmax over bins."""
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
"""Inverse links whose predictions lie on the probability simplex."""


def of_each_target(output: Tensor, outputs_per_target: int) -> Tensor:
    """Outputs of each target, [..., C, n], from [..., nC]: all first outputs, all second, ..."""
    return output.unflatten(-1, (outputs_per_target, -1)).transpose(-1, -2)


def bin_edges(count: int, *, low: float, high: float, like: Tensor) -> Tensor:
    """Edges of `count` equal bins from `low` to `high`, [count + 1]."""
    return torch.linspace(low, high, count + 1, dtype=like.dtype, device=like.device)


def without_spread(target: Tensor, *, outputs_per_target: int) -> Tensor:
    """Outputs [..., nC] whose `mean` is the target; all other outputs are zero."""
    return functional.pad(target, (0, (outputs_per_target - 1) * target.shape[-1]))


def all_equal(target: Tensor, *, outputs_per_target: int) -> Tensor:
    """Outputs [..., nC] that all equal the target, so that the `median` is the target."""
    return torch.cat([target] * outputs_per_target, -1)


def bins_around(target: Tensor, *, outputs_per_target: int, low: float, high: float) -> Tensor:
    """Outputs [..., nC] whose `mean_of_bins` is near a target between the outermost bins."""
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
"""Functions from a prediction to outputs, for each inverse link of several outputs per target."""


def softcapped(output: Tensor, *, cap: float) -> Tensor:
    """Soft-capped output cap tanh(z / cap): about z near zero, and within -cap and cap."""
    return cap * (output / cap).tanh()


def signed_log1p(output: Tensor) -> Tensor:
    """Logarithm log(1 + |z|) with the sign of the output z; the slope at zero is 1."""
    above, below = output.clamp(min=0.0).log1p(), -(-output).clamp(min=0.0).log1p()
    return torch.where(output < 0, below, above)


def direction(output: Tensor) -> Tensor:
    """Output divided by its Euclidean norm, [..., C]; zero if the output is zero."""
    # First divided by the largest entry, because float32 cannot hold the squares of 1e-30 or 1e30.
    largest = output.detach().abs().amax(-1, keepdim=True)
    scaled = output / torch.where(largest > 0, largest, 1.0)
    length = scaled.square().sum(-1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1.0).sqrt()


def capped_exp(exponent: Tensor) -> Tensor:
    """Exponential that continues along its tangent beyond `LARGEST_EXPONENT`, so it is finite."""
    inside = exponent.clamp(max=LARGEST_EXPONENT)
    return inside.exp() * (1.0 + (exponent - inside))


def capped_expm1(exponent: Tensor) -> Tensor:
    """Function `capped_exp` less 1, accurate near zero."""
    inside = exponent.clamp(max=LARGEST_EXPONENT)
    return torch.expm1(inside) + inside.exp() * (exponent - inside)


def positive_power(base: Tensor, power: float) -> Tensor:
    """Power of the base if the base is positive, else 0; the derivatives are never NaN."""
    is_positive = base > 0
    return torch.where(is_positive, torch.where(is_positive, base, 1.0).pow(power), 0.0)


def _wide(values: Tensor) -> Tensor:
    """Values in float32 or wider, because bfloat16 is too coarse for a root search."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _root(
    total: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    power: float,
    start: Tensor,
) -> Tensor:
    """Point at which a falling sum of positive parts to a power is 1, one number per example.

    The search takes Newton steps on total^(1/power), a norm of a linear map, which is so nearly
    linear that few steps from the left suffice; these steps pass no gradient. The last Newton steps
    are on `total` itself and pass the gradient, so the derivatives are those of the implicit
    function.

    Args:
        total: Sum as a function of the point, [..., 1] -> [..., 1].
        slope: Derivative of `total`.
        power: Exponent of the parts.
        start: Point left of the solution, where the sum is 1 or more.
    """
    root = start.detach()
    with torch.no_grad():
        for _ in range(SEARCH_STEPS):
            value = total(root)
            root = root - power * (value - value.pow(1.0 - 1.0 / power)) / slope(root)
    for _ in range(NEWTON_STEPS):
        root = root + (1.0 - total(root)) / slope(root)
    return root
