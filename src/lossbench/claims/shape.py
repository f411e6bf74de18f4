"""Claims about the shape of the loss over the output: convexity, jumps, bounds and limits."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from lossbench.claims.draws import hard_targets, normal, raw_outputs, scattered_pairs, seeded
from lossbench.claims.measurement import Measurement, at_most, claim, compare, least_favourable
from lossbench.claims.minima import best, minima_on_labels, minima_on_targets, output_gradient
from lossbench.losses.spec import Loss

HALVINGS = 28
"""Halvings that leave 4e-9 of an interval: a jump stays, the change of a root falls to 6e-5."""

RADII = (1e-3, 0.1, 1.0, 3.0, 10.0, 30.0)
EXTREME_RADII = (1e-6, 1e5)
"""Radii along a ray, in its largest entry: below links.LARGEST_EXPONENT, and extreme ones."""

WRONG_OUTPUT = 1e4
WRONG_ERROR = 1e6
"""Size of confidently wrong outputs in classification, and of wrong errors in regression."""


@claim
def convex(loss: Loss, outputs: int) -> Measurement:
    """The loss is convex in the output, for every target.

    Judged by the most negative eigenvalue of the Hessian, relative to its largest entry, or by the
    largest rise above a chord, relative to the chord's ends; whichever is worse.

    Source:
        Reid and Williamson 2010, Journal of Machine Learning Research.
    """
    output, target = scattered_pairs(loss, seeded("curvature", outputs), outputs)
    # All examples at once, which are independent of each other. Not by torch.func, whose transforms
    # import torch's compiler: 2.5 s.
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(loss.values(output, target).sum(), output, create_graph=True)
    gradient = gradient + 0.0 * output  # makes a constant gradient depend on the output
    rows = [
        torch.autograd.grad(entry.sum(), output, retain_graph=True)[0]
        for entry in gradient.unbind(-1)
    ]
    hessian = torch.stack(rows, -2)
    is_finite = hessian.isfinite().all(-1).all(-1)
    # eigvalsh refuses numbers that are not finite: such a case is 0 here and NaN afterwards.
    eigenvalues = torch.linalg.eigvalsh(hessian.where(is_finite[:, None, None], 0.0))
    negative = eigenvalues[:, :1].clamp(max=0.0).where(is_finite[:, None], math.nan)
    names, scale = ("smallest Hessian eigenvalue", "bound"), hessian.abs().amax((-1, -2))
    zero, scale = torch.zeros_like(negative), scale.clamp(min=1.0)
    curvature = compare(negative, zero, names=names, tolerance=1e-9, scale=scale)

    generator = seeded("chord", outputs)
    output, target = scattered_pairs(loss, generator, outputs)
    other, _ = scattered_pairs(loss, generator, outputs)
    share = torch.rand((len(output), 1), generator=generator, dtype=torch.float64)
    start, end = loss.values(output, target)[:, None], loss.values(other, target)[:, None]
    chord = share * start + (1 - share) * end
    value = loss.values(share * output + (1 - share) * other, target)[:, None].maximum(chord)
    names = ("loss between two outputs", "chord")
    scale = start.abs().maximum(end.abs())[:, 0].clamp(min=1.0)
    rise = compare(value, chord, names=names, tolerance=1e-9, scale=scale)
    return least_favourable(curvature, rise)


@claim
def smooth(loss: Loss, outputs: int) -> Measurement:
    """The output gradient has no jump, for every target.

    Along lines, some through the origin, some through a minimiser, every interval between grid
    points is halved repeatedly, and the half with the larger change of the gradient is kept. At a
    kink the jump remains; the change of a continuous gradient goes to zero. Judged by the largest
    change that remains, relative to the gradient in the first interval.

    Source:
        Huber 1964, Annals of Mathematical Statistics, on why corners matter.
    """
    generator = seeded("jump of gradient", outputs)
    # Four lines each go through the target (regression) or a minimiser (classification), through
    # the origin, through a random point, and through a random point with a hard label.
    value, output, target = minima_on_targets(loss, outputs)
    middle = loss.placed(target) if loss.task == "regression" else best(value, output)
    anywhere = 2.0 * raw_outputs(loss, (8, outputs), generator)
    centre = torch.cat([middle[:4], torch.zeros_like(middle[:4]), anywhere])
    target = torch.cat([target, hard_targets(loss, (4, outputs), generator)])
    direction, targets = normal(tuple(centre.shape), generator), target.unsqueeze(-2)

    def gradient(place: Tensor) -> Tensor:
        output = centre.unsqueeze(-2) + place.unsqueeze(-1) * direction.unsqueeze(-2)
        return output_gradient(loss, output, targets.expand(*place.shape, -1))

    # Shifted, so that no halving hits the centre exactly.
    grid = torch.linspace(-2.5, 2.5, 32, dtype=torch.float64) ** 3 + 1e-3 * 2**0.5
    left, right = grid[:-1].expand(len(centre), -1), grid[1:].expand(len(centre), -1)
    at_left, at_right = gradient(left), gradient(right)
    scale = at_left.norm(dim=-1).maximum(at_right.norm(dim=-1))
    scale = scale.clamp(min=0.1 * float(scale.median())).clamp(min=sys.float_info.min).flatten()
    for _ in range(HALVINGS):
        middle = 0.5 * (left + right)
        at_middle = gradient(middle)
        is_left = (at_middle - at_left).norm(dim=-1) > (at_right - at_middle).norm(dim=-1)
        left, right = left.where(is_left, middle), middle.where(is_left, right)
        at_left = at_left.where(is_left[..., None], at_middle)
        at_right = at_middle.where(is_left[..., None], at_right)
    names = ("gradient on one side", "on the other")
    one_side, other_side = at_left.flatten(0, 1), at_right.flatten(0, 1)
    return compare(one_side, other_side, names=names, tolerance=1e-2, scale=scale)


@claim
def bounded_gradient(loss: Loss, outputs: int) -> Measurement:
    """The output gradient stays below one bound at all outputs.

    Judged by the growth of the largest gradient along fixed rays beyond radius 30 or next to the
    origin of the rays: at most a third. The origin is the target in regression, else zero.

    Source:
        Huber 1964 (bounded influence).
    """
    generator = seeded("growth of gradient", outputs)
    width = loss.outputs_per_target * outputs
    axes = torch.eye(width, dtype=torch.float64)
    ray = torch.cat([axes, -axes, normal((32, width), generator).sign()])
    target = hard_targets(loss, (len(ray), outputs), generator)
    centre = loss.placed(target) if loss.task == "regression" else torch.zeros_like(ray)

    def largest(radii: tuple[float, ...]) -> float:
        gradients = [output_gradient(loss, centre + r * ray, target) for r in radii]
        return float(torch.stack(gradients).norm(dim=-1).amax())

    usual, extreme = largest(RADII), largest(EXTREME_RADII)
    growth = extreme / max(usual, sys.float_info.min) - 1.0
    witness = f"largest gradient {usual:.4g}, at extreme radii {extreme:.4g}"
    return at_most(max(growth, 0.0), 1 / 3, witness)


@claim
def vanishing_when_wrong(loss: Loss, outputs: int) -> Measurement:
    """At confidently wrong outputs, the gradient is almost zero.

    In classification, the output of a wrong class is 10 000 and all others are -10 000. In
    regression, the error is plus or minus a million; a loss with this property is called
    redescending. Judged by the largest norm of the gradient there, relative to a typical norm: at
    outputs of unit size in classification, the largest at errors of up to 1 in regression.

    Source:
        Golik, Doetsch and Ney 2013, Interspeech; Beaton and Tukey 1974 for regression.
    """
    generator = seeded("gradient when wrong", outputs)
    target = hard_targets(loss, (64, outputs), generator)
    if loss.task == "regression":
        sign = normal((64, outputs), generator).sign()
        wrong = loss.placed(target + WRONG_ERROR * sign)
        near = [loss.placed(target + error * sign) for error in (0.01, 0.1, 1.0)]
    else:
        wrong = WRONG_OUTPUT * (2.0 * target.roll(1, -1) - 1.0)
        near = [raw_outputs(loss, (64, outputs), generator)]
    far = float(output_gradient(loss, wrong, target).norm(dim=-1).amax())
    typical = max(float(output_gradient(loss, z, target).norm(dim=-1).median()) for z in near)
    witness = f"gradient {far:.2g} when confidently wrong, {typical:.2g} typically"
    return at_most(far / typical if typical else math.nan, 1e-2, witness)


@claim
def nonnegative(loss: Loss, outputs: int) -> Measurement:
    """The loss is never below zero, up to rounding.

    Judged by the most negative value, at drawn outputs and at minimisers.

    Source:
        A convention of losses; a likelihood of numbers need not keep it.
    """
    values = [
        loss.values(*scattered_pairs(loss, seeded("value", outputs), outputs)),
        minima_on_targets(loss, outputs)[0].flatten(),
    ]
    if loss.task == "classification":
        # The last distribution is a certain label: its expected loss is the loss itself.
        values.append(minima_on_labels(loss, outputs)[0][0, :, -1])
    least = float(torch.cat(values).amin())
    witness = f"the least value seen is {least:.2g}"
    return at_most(max(-least, 0.0) if math.isfinite(least) else math.nan, 1e-9, witness)
