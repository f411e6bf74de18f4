"""Claims about the minimum of a loss: for one target, a random target and noisy labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossbench.claims.draws import DRAWN, seeded, skewed_points
from lossbench.claims.measurement import Measurement, claim, claim_about_labels, compare
from lossbench.claims.minima import best, is_global, minima, minima_on_labels, minima_on_targets
from lossbench.losses.spec import Loss

SMALLEST_LEAD = 1e-6
"""Least lead of the likeliest label's output, relative to the largest output."""


@claim
def minimised_at_target(loss: Loss, outputs: int) -> Measurement:
    """For a fixed dense target, the loss is least at prediction == target, and only there.

    Judged by the largest distance of a minimiser's prediction from its target.

    Source:
        Savage 1971, Journal of the American Statistical Association.
    """
    return _compare_minimisers(("prediction", "target"), loss, *minima_on_targets(loss, outputs))


@claim
def elicits_mean(loss: Loss, outputs: int) -> Measurement:
    """For a random target, the expected loss is least at the target's mean, and only there.

    A regression target follows a skewed distribution (quantiles of an exponential), whose mean,
    median and centre differ; a classification target is a hard label, whose mean is its frequency.
    Judged by the largest distance of a minimiser's prediction from the mean.

    Source:
        Savage 1971; Gneiting 2011, Journal of the American Statistical Association.
    """
    if loss.task == "classification":
        return _minimum_on_labels(loss, outputs)
    points = skewed_points(outputs, seeded("minimum against mean", outputs))
    weights = torch.full((1, len(points)), 1.0 / len(points), dtype=torch.float64)
    minimum = minima(loss, points.unsqueeze(0), weights)
    return _compare_minimisers(("prediction", "mean"), loss, *minimum, points.mean(0)[None])


@claim_about_labels
def strictly_proper(loss: Loss, outputs: int) -> Measurement:
    """On hard labels from a distribution, the loss is least at that distribution only.

    The mean of a hard label is its distribution, so in classification this claim is `elicits_mean`
    under the name used for scoring rules. A regression loss fails by definition, because the
    prediction is a number and not a distribution. Judged by the largest distance of a minimiser's
    prediction from the label frequencies.

    Source:
        Savage 1971; Gneiting and Raftery 2007.
    """
    return _minimum_on_labels(loss, outputs)


@claim_about_labels
def calibrated(loss: Loss, outputs: int) -> Measurement:
    """On hard labels, the loss is least only at outputs that are largest for the likeliest label.

    Such a loss learns the best decision, even if no label has a majority. A loss that asks for
    class counts is measured at `Context.long_tailed`, against plain accuracy. Judged by the
    smallest lead of the likeliest label's output over the next one, relative to the largest output.
    If the least loss is only approached, the last outputs of the search count. The tolerance is a
    millionth: square loss on raw outputs leads by 0.002 in the closest case, a multiclass hinge by
    0.

    Source:
        Zhang 2004, JMLR; Tewari and Bartlett 2007, JMLR.
    """
    (value, _), (output, _), frequencies = minima_on_labels(loss, outputs)
    likeliest = frequencies.argmax(-1).expand(value.shape).unsqueeze(-1)
    others = output.scatter(-1, likeliest, -math.inf).amax(-1)
    lead = (output.gather(-1, likeliest)[..., 0] - others) / output.abs().amax(-1)
    # Drawn distributions may come near a tie, which would say nothing about the loss.
    smallest = float(lead[:, DRAWN:][is_global(value)[:, DRAWN:]].amin())
    margin = math.log10(smallest / SMALLEST_LEAD) if smallest > 0 else -math.inf
    witness = (
        f"the likeliest label's output leads by {smallest:.2g} of the largest"
        f" (tolerance {SMALLEST_LEAD:g} or more)"
    )
    return Measurement(smallest >= SMALLEST_LEAD, witness, margin)


@claim_about_labels
def noise_tolerant(loss: Loss, outputs: int) -> Measurement:
    """The loss learns the same from labels of which 40 % are replaced as from clean labels.

    Every symmetric loss is tolerant: the noise changes its expectation by a factor and a constant.
    Judged by the largest difference that the noise makes to the prediction learnt.

    Source:
        Manwani and Sastry 2013; Ghosh, Kumar and Sastry 2017, AAAI.
    """
    values, learnt, _ = minima_on_labels(loss, outputs)
    clean, noisy = (loss.predict(best(*pair)) for pair in zip(values, learnt, strict=True))
    names = ("prediction learnt from noisy labels", "from clean ones")
    return compare(noisy, clean, names=names, tolerance=1e-3)


def _minimum_on_labels(loss: Loss, outputs: int) -> Measurement:
    (value, _), (output, _), frequencies = minima_on_labels(loss, outputs)
    # The last distribution is a certain label, which only an infinite output may predict.
    value, output, frequencies = value[:, :-1], output[:, :-1], frequencies[:-1]
    names = ("prediction", "label frequency")
    return _compare_minimisers(names, loss, value, output, frequencies)


def _compare_minimisers(
    names: tuple[str, str], loss: Loss, value: Tensor, output: Tensor, mean: Tensor
) -> Measurement:
    """Compare every global minimiser with the mean; a second minimum elsewhere is a failure."""
    is_least, prediction = is_global(value), loss.predict(output)
    expected = mean.expand_as(prediction)[is_least]
    return compare(prediction[is_least], expected, names=names, tolerance=3e-5)
