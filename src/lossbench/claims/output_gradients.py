"""Claims about the output gradient at a point: its correctness and its relation to the error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lossbench.claims.draws import (
    dense_targets,
    hard_targets,
    padded,
    raw_outputs,
    scattered_pairs,
    seeded,
)
from lossbench.claims.measurement import Measurement, at_most, claim, claim_about_labels, compare
from lossbench.claims.minima import output_gradient
from lossbench.losses.links import direction
from lossbench.losses.spec import Loss

SMALLEST_ERROR = 1e-6
"""Smallest error with a direction; below this size, rounding changes the direction."""


@claim
def gradient_is_derivative(loss: Loss, outputs: int) -> Measurement:
    """Autograd returns the derivative of the loss, which is finite even at outputs of 40 and more.

    The claim fails if a factor was detached, as in a common implementation of focal loss. Judged by
    the largest difference from central differences, relative to the gradient if the gradient is
    larger than 1.

    Source:
        Griewank and Walther 2008, Evaluating Derivatives.
    """
    generator = seeded("gradient against differences", outputs)
    output, target = scattered_pairs(loss, generator, outputs, count=60)
    output = torch.cat([output, output + 40.0 * output.sign()])
    target = torch.cat([target, target])
    gradient = output_gradient(loss, output, target)
    # A kink within a step spoils the difference, so the better of two step sizes counts.
    rows, targets = output.unsqueeze(-2), target.unsqueeze(-2).expand(-1, output.shape[-1], -1)
    differences = []
    for step in (1e-5, 1e-6):
        shift = step * torch.eye(output.shape[-1], dtype=output.dtype)
        change = loss.values(rows + shift, targets) - loss.values(rows - shift, targets)
        differences.append(change / (2 * step))
    wide, narrow = differences
    is_narrow = (gradient - narrow).abs().amax(-1) < (gradient - wide).abs().amax(-1)
    difference = narrow.where(is_narrow[:, None], wide)
    names, scale = ("output gradient", "central difference"), gradient.abs().amax(-1).clamp(min=1.0)
    return compare(gradient, difference, names=names, tolerance=1e-5, scale=scale)


@claim
def gradient_is_error(loss: Loss, outputs: int) -> Measurement:
    """The output gradient is exactly the error, prediction - target, with factor one.

    Judged by the largest difference between the two, relative to the typical error. An output that
    is not a prediction should get a gradient of zero.

    Source:
        McCullagh and Nelder 1989 (canonical links); Blondel, Martins and Niculae 2020.
    """
    generator = seeded("gradient against error", outputs)
    shape = (500, outputs)
    output = 4.0 * raw_outputs(loss, shape, generator)
    target = dense_targets(loss, shape, generator)
    error = padded(loss.predict(output) - target, loss)
    gradient = output_gradient(loss, output, target)
    names, scale = ("output gradient", "error"), error.abs().mean()
    return compare(gradient, error, names=names, tolerance=1e-12, scale=scale)


@claim
def points_along_error(loss: Loss, outputs: int) -> Measurement:
    """The output gradient has the direction of the error, prediction - target, at any length.

    Measured on hard labels in classification, on any target in regression. Judged by the largest
    difference between the two unit vectors; the witness gives the mean and the least cosine.

    Source:
        This suite's axis; the factor it leaves open is that of `local_weight`.
    """
    generator = seeded("direction against error", outputs)
    shape = (500, outputs)
    output = 2.0 * raw_outputs(loss, shape, generator)
    target = hard_targets(loss, shape, generator)
    error = padded(loss.predict(output) - target, loss)
    is_wrong = error.norm(dim=-1) > SMALLEST_ERROR
    along = direction(error[is_wrong])
    pointing = direction(output_gradient(loss, output, target)[is_wrong])
    off, cosine = float((pointing - along).norm(dim=-1).amax()), (pointing * along).sum(-1)
    witness = (
        f"cosine of output gradient and error {float(cosine.mean()):.4g} in the mean,"
        f" {float(cosine.amin()):.4g} at least, unit vectors off by {off:.2g}"
    )
    return at_most(off, 1e-6, witness)


@claim_about_labels
def local_weight(loss: Loss, outputs: int) -> Measurement:
    """On a hard label c the output gradient is w (p - y), with w a function of p_c alone.

    Every loss that is a function of p_c behind a softmax has such a weight, cross entropy w = 1.
    Behind another inverse link p_c is the prediction for the label. The measurement compares two
    outputs of equal p_c with different labels; with more than two classes, the predictions for the
    other classes differ as well. Judged by the largest difference between the gradient at one
    output and the error at that output times the weight at the other, relative to the gradient.

    Source:
        Local scores in Bernardo 1979; the weight in Zhang and Sabuncu 2018, NeurIPS.
    """
    generator = seeded("weight against other", outputs)
    output, other = (2.0 * raw_outputs(loss, (150, outputs), generator) for _ in range(2))
    label = torch.randint(outputs, (150, 1), generator=generator)
    other_label = (label + torch.randint(1, outputs, (150, 1), generator=generator)) % outputs
    prediction = loss.predict(output).gather(-1, label)
    # By bisection, an output for the other label that gives it the same prediction.
    low, high = (torch.full_like(prediction, end) for end in (-60.0, 60.0))
    for _ in range(60):
        middle = 0.5 * (low + high)
        reached = loss.predict(other.scatter(-1, other_label, middle)).gather(-1, other_label)
        low, high = (
            middle.where(reached < prediction, low),
            high.where(reached < prediction, middle),
        )
    other = other.scatter(-1, other_label, 0.5 * (low + high))
    gradient, error = _gradient_and_error(loss, output, label)
    other_gradient, other_error = _gradient_and_error(loss, other, other_label)
    weight = (gradient * error).sum(-1, keepdim=True) / error.square().sum(-1, keepdim=True)
    is_wrong = torch.minimum(error.norm(dim=-1), other_error.norm(dim=-1)) > SMALLEST_ERROR
    measured = torch.cat([gradient[is_wrong], other_gradient[is_wrong]])
    weighted = torch.cat([(weight * error)[is_wrong], (weight * other_error)[is_wrong]])
    names = ("output gradient", "error times the weight at another output")
    scale = measured.abs().amax(-1).maximum(weighted.abs().amax(-1))
    return compare(measured, weighted, names=names, tolerance=1e-6, scale=scale)


def _gradient_and_error(loss: Loss, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    target = functional.one_hot(label[:, 0], output.shape[-1]).double()
    return output_gradient(loss, output, target), loss.predict(output) - target


@claim
def linear_in_target(loss: Loss, outputs: int) -> Measurement:
    """The loss is affine in the target, up to a term of the target alone.

    The output gradient does not depend on that term, so the gradient must be affine: then, and only
    then, sampled labels have the same mean gradient as their distribution. Judged by the
    largest difference between the gradient at a mixture of two targets and the mixture of their
    gradients, relative to the typical gradient.

    Source:
        Gneiting and Raftery 2007, Journal of the American Statistical Association.
    """
    generator = seeded("gradient against mixture", outputs)
    shape = (500, outputs)
    output = 2.0 * raw_outputs(loss, shape, generator)
    target, other = (dense_targets(loss, shape, generator) for _ in range(2))
    share = torch.rand((500, 1), generator=generator, dtype=torch.float64)
    gradient = output_gradient(loss, output, share * target + (1 - share) * other)
    mixture = share * output_gradient(loss, output, target)
    mixture = mixture + (1 - share) * output_gradient(loss, output, other)
    names, scale = ("gradient at a mixture", "mixture of gradients"), mixture.abs().mean()
    return compare(gradient, mixture, names=names, tolerance=1e-9, scale=scale)
