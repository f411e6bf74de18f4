"""The measurable statements about a loss, each a function `Loss -> Verdict` listed in `CLAIMS`.

Every measurement works in float64 on draws of its own seeded generator, so a verdict depends on
the loss alone. A test holds them to the rows both ways: what a row does not claim must fail.

Shapes: C outputs, M cases measured at once, N points of a target's distribution, S starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from lossbench.losses.spec import Loss

OUTPUTS = {"regression": (1, 3), "classification": (2, 4, 10)}
"""Numbers of outputs C at which a loss of each task is measured."""


@dataclass(frozen=True)
class Verdict:
    """What a measurement says of one claim. True in a boolean context when the claim holds.

    Args:
        holds: Whether the worst case lies within the tolerance.
        witness: One sentence: the worst case, the number measured there and the tolerance.
        margin: Decades from the measured number up to the tolerance; negative when the claim
            fails, near zero when the verdict hangs on the tolerance.
    """

    holds: bool
    witness: str
    margin: float

    def __bool__(self) -> bool:
        return self.holds


def gradient_is_error(loss: Loss) -> Verdict:
    """The output gradient is exactly the error, prediction - target, with factor one.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest difference between the two, relative to the typical error.

    Source:
        McCullagh and Nelder 1989 (canonical links); Blondel, Martins and Niculae 2020.
    """
    return _worst(_gradient_against_error, loss)


def minimised_at_target(loss: Loss) -> Verdict:
    """Fed the target itself, dense, the loss is least where prediction == target, and only there.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest distance of a minimiser's prediction from its target.

    Source:
        Savage 1971, Journal of the American Statistical Association.
    """
    return _worst(_minimum_against_target, loss)


def linear_in_target(loss: Loss) -> Verdict:
    """The loss is affine in the target, up to a term of the target alone.

    The output gradient does not see that term, so it is the gradient that must be affine: then,
    and only then, sampled labels train like the distribution they are drawn from.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest difference between the gradient at a mixture of two targets and the
        mixture of their gradients, relative to the typical gradient.

    Source:
        Gneiting and Raftery 2007, Journal of the American Statistical Association.
    """
    return _worst(_gradient_against_mixture, loss)


def elicits_mean(loss: Loss) -> Verdict:
    """Over a random target, the expected loss is least at the target's mean, and only there.

    A regression target follows a skewed distribution (quantiles of an exponential), whose mean,
    median and centre differ; a classification target is a hard label, whose mean is its frequency.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest distance of a minimiser's prediction from the mean.

    Source:
        Savage 1971; Gneiting 2011, Journal of the American Statistical Association.
    """
    return _worst(_minimum_against_mean, loss)


def strictly_proper(loss: Loss) -> Verdict:
    """Fed hard labels drawn from a distribution, the loss is least at that distribution alone.

    The mean of a hard label is its distribution, so in classification this is `elicits_mean` by
    the name it has for scoring rules. It is false by definition for a regression loss: there the
    prediction is a number and no distribution.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the largest distance of a minimiser's prediction from the label frequencies.

    Source:
        Savage 1971; Gneiting and Raftery 2007.
    """
    if loss.task == "regression":
        return Verdict(False, "a regression loss scores a number, not a distribution", -math.inf)
    return elicits_mean(loss)


def convex(loss: Loss) -> Verdict:
    """The loss is convex in the output, for every target.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict on the most negative eigenvalue of the Hessian, relative to its largest entry, or
        on the largest rise above a chord, relative to the chord's ends; whichever is worse.

    Source:
        Reid and Williamson 2010, Journal of Machine Learning Research.
    """
    return min(
        _worst(_curvature_against_zero, loss), _worst(_value_against_chord, loss), key=_margin
    )


CLAIMS: dict[str, Callable[[Loss], Verdict]] = {
    claim.__name__: claim
    for claim in (
        gradient_is_error,
        minimised_at_target,
        linear_in_target,
        elicits_mean,
        strictly_proper,
        convex,
    )
}


def measure(loss: Loss) -> dict[str, Verdict]:
    """Measure every claim on one loss.

    Args:
        loss: Row to measure, at the default parameters of its function.

    Returns:
        Verdict by the claim's name, in the order of `CLAIMS`.
    """
    return {name: claim(loss) for name, claim in CLAIMS.items()}


def bayes_prediction(loss: Loss, *, targets: Tensor, weights: Tensor) -> Tensor:
    """What a loss learns from samples: the prediction with the least expected loss.

    Args:
        loss: Row to measure, at the default parameters of its function.
        targets: Points of the target's distribution, [N, C], float64.
        weights: Probabilities of the points, [M, N]: M distributions, minimised at once.

    Returns:
        Prediction, [M, C]. Where the least value is only approached, as for a bounded loss that
        wants a corner of the simplex, a prediction close to it.

    Source:
        Gneiting 2011 (the Bayes act).
    """
    value, prediction = _minima(loss, targets.expand(len(weights), -1, -1), weights)
    return prediction[value.argmin(0), torch.arange(len(weights))]


# Measurements: each compares two things at one number of outputs.


def _gradient_against_error(loss: Loss, outputs: int) -> Verdict:
    generator = _generator("gradient against error", outputs)
    output = 4.0 * _normal((4000, outputs), generator)
    target = _targets(loss, (4000, outputs), generator)
    gradient, error = _output_gradient(loss, output, target), loss.predict(output) - target
    names, scale = ("output gradient", "error"), error.abs().mean()
    return _compare(gradient, error, names=names, tolerance=1e-12, scale=scale)


def _minimum_against_target(loss: Loss, outputs: int) -> Verdict:
    target = _targets(loss, (16, outputs), _generator("minimum against target", outputs))
    certain = torch.ones((16, 1), dtype=torch.float64)
    return _minimum_against(("prediction", "target"), loss, target.unsqueeze(-2), certain)


def _minimum_against_mean(loss: Loss, outputs: int) -> Verdict:
    generator = _generator("minimum against mean", outputs)
    if loss.task == "regression":
        points = _skewed_points(outputs, generator)
        weights = torch.full((1, len(points)), 1.0 / len(points), dtype=torch.float64)
        return _minimum_against(("prediction", "mean"), loss, points.unsqueeze(0), weights)
    frequencies = _targets(loss, (16, outputs), generator)
    labels = torch.eye(outputs, dtype=torch.float64).expand(16, -1, -1)
    return _minimum_against(("prediction", "label frequency"), loss, labels, frequencies)


def _gradient_against_mixture(loss: Loss, outputs: int) -> Verdict:
    generator = _generator("gradient against mixture", outputs)
    output = 2.0 * _normal((4000, outputs), generator)
    one, other = (_targets(loss, (4000, outputs), generator) for _ in range(2))
    share = torch.rand((4000, 1), generator=generator, dtype=torch.float64)
    gradient = _output_gradient(loss, output, share * one + (1 - share) * other)
    mixture = share * _output_gradient(loss, output, one)
    mixture = mixture + (1 - share) * _output_gradient(loss, output, other)
    names, scale = ("gradient at a mixture", "mixture of gradients"), mixture.abs().mean()
    return _compare(gradient, mixture, names=names, tolerance=1e-9, scale=scale)


def _curvature_against_zero(loss: Loss, outputs: int) -> Verdict:
    output, target = _scattered_pairs(loss, _generator("curvature", outputs), outputs)
    # Reverse over reverse: torch.func.hessian goes forward and pulls in deprecated torch.jit.
    hessian = torch.vmap(torch.func.jacrev(torch.func.grad(loss.fn)))(output, target)
    is_finite = hessian.isfinite().all(-1).all(-1)
    # eigvalsh refuses what is not finite, so such a case goes round it and is bad afterwards.
    eigenvalues = torch.linalg.eigvalsh(hessian.where(is_finite[:, None, None], 0.0))
    negative = eigenvalues[:, :1].clamp(max=0.0).where(is_finite[:, None], math.nan)
    names, bound = ("smallest Hessian eigenvalue", "bound"), torch.zeros_like(negative)
    scale = hessian.abs().amax((-1, -2)).clamp(min=1.0)
    return _compare(negative, bound, names=names, tolerance=1e-9, scale=scale, outputs=outputs)


def _value_against_chord(loss: Loss, outputs: int) -> Verdict:
    generator = _generator("chord", outputs)
    output, target = _scattered_pairs(loss, generator, outputs)
    other, _ = _scattered_pairs(loss, generator, outputs)
    share = torch.rand((len(output), 1), generator=generator, dtype=torch.float64)
    start, end = loss.fn(output, target)[:, None], loss.fn(other, target)[:, None]
    chord = share * start + (1 - share) * end
    value = loss.fn(share * output + (1 - share) * other, target)[:, None].maximum(chord)
    names = ("loss between two outputs", "chord")
    scale = start.abs().maximum(end.abs())[:, 0].clamp(min=1.0)
    return _compare(value, chord, names=names, tolerance=1e-9, scale=scale, outputs=outputs)


def _minimum_against(
    names: tuple[str, str], loss: Loss, targets: Tensor, weights: Tensor
) -> Verdict:
    """Compare every global minimiser with the mean: a second minimum elsewhere is a failure."""
    value, prediction = _minima(loss, targets, weights)
    mean = (weights.unsqueeze(-1) * targets).sum(-2).expand_as(prediction)
    least = value.amin(0)
    is_global = value <= least + 1e-10 * (1 + least.abs())
    return _compare(prediction[is_global], mean[is_global], names=names, tolerance=1e-3)


# Verdicts.


def _worst(measurement: Callable[[Loss, int], Verdict], loss: Loss) -> Verdict:
    return min((measurement(loss, outputs) for outputs in OUTPUTS[loss.task]), key=_margin)


def _margin(verdict: Verdict) -> float:
    return verdict.margin


def _compare(
    got: Tensor,
    wanted: Tensor,
    *,
    names: tuple[str, str],
    tolerance: float,
    scale: Tensor | float = 1.0,
    outputs: int | None = None,
) -> Verdict:
    """Judge M cases, [M, C] each, by the worst; what is not a number is infinitely bad."""
    off = ((got - wanted).abs().amax(-1) / scale).nan_to_num(nan=math.inf, posinf=math.inf)
    case = int(off.argmax())
    at = int((got - wanted).abs()[case].argmax())
    measured = float(off[case])
    witness = (
        f"C={outputs or got.shape[-1]}: {names[0]} {float(got[case, at]):.4g},"
        f" {names[1]} {float(wanted[case, at]):.4g},"
        f" off by {measured:.2g} (tolerance {tolerance:g})"
    )
    margin = math.log10(tolerance) - math.log10(measured) if measured > 0 else math.inf
    return Verdict(measured <= tolerance, witness, margin)


# Draws. The generator's seed is its purpose, so no measurement shifts another's draws.


def _generator(purpose: str, outputs: int) -> torch.Generator:
    return torch.Generator().manual_seed(crc32(f"{purpose}, {outputs} outputs".encode()))


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _targets(loss: Loss, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw targets uniform on the simplex; for regression in (0, 4), to suit losses for counts."""
    if loss.task == "regression":
        return 4.0 * torch.rand(shape, generator=generator, dtype=torch.float64)
    draws = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    return draws / draws.sum(-1, keepdim=True)


def _scattered_pairs(loss: Loss, generator: torch.Generator, outputs: int) -> tuple[Tensor, Tensor]:
    """Draw 1000 outputs near and far; in classification every other target is a hard label."""
    target = _targets(loss, (1000, outputs), generator)
    scale = torch.tensor([2.0, 2.0, 6.0, 6.0], dtype=torch.float64).repeat(250)
    output = scale[:, None] * _normal((1000, outputs), generator)
    if loss.task == "regression":
        return output, target
    hard = torch.nn.functional.one_hot(target.argmax(-1), outputs).double()
    is_hard = torch.tensor([True, False]).repeat(500)
    return output, hard.where(is_hard[:, None], target)


def _skewed_points(outputs: int, generator: torch.Generator) -> Tensor:
    """Equally likely points, [N, C]: exponential quantiles, in another order for each output."""
    levels = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    quantiles = -torch.log1p(-levels)
    orders = [torch.randperm(255, generator=generator) for _ in range(outputs)]
    return torch.stack([(1 + i) * quantiles[order] for i, order in enumerate(orders)], -1)


# Derivatives and minima with respect to the output.


def _output_gradient(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    output = output.detach().requires_grad_()
    return torch.autograd.grad(loss.fn(output, target).sum(), output)[0]


def _minima(loss: Loss, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise M expected losses over targets [M, N, C] with weights [M, N] from S starts each.

    Returns values, [S, M], and predictions, [S, M, C].
    """

    def expected_loss(output: Tensor) -> Tensor:
        pairs = torch.broadcast_tensors(output.unsqueeze(-2), targets)
        return (weights * loss.fn(*pairs)).sum(-1)

    # Some starts lie near zero: a bounded loss is flat where it is confidently wrong.
    scale = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)[:, None, None]
    count, outputs = len(weights), targets.shape[-1]
    start = scale * _normal((len(scale), count, outputs), _generator("starts", outputs))
    output = _minimise(expected_loss, start)
    return expected_loss(output).nan_to_num(nan=math.inf), loss.predict(output)


def _minimise(objective: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 150) -> Tensor:
    """Rprop (Riedmiller and Braun 1993): every element of the batch has a step of its own.

    It obeys the gradient's sign and not its size, so that a kink, a flat optimum and a saturated
    softmax, which stop Newton's method or gradient descent, cost it nothing.
    """
    output, step, last = start, torch.full_like(start, 0.1), torch.zeros_like(start)
    for _ in range(steps):
        output = output.detach().requires_grad_()
        sign = torch.autograd.grad(objective(output).sum(), output)[0].sign()
        has_turned = sign * last < 0
        factor = torch.where(has_turned, 0.5, torch.where(sign == last, 1.2, 1.0))
        step = (factor * step).clamp(max=1.0)
        last = sign.where(~has_turned, 0.0)
        output = output - step * last
    return output.detach()
