"""Metrics of trained models, for K members at once.

Units and directions are declared in `records.METRICS`. Functions take tensors [K, N, C], and labels
(integer classes) [K, N], and return metrics [K], unless the docstring says otherwise. Reductions go
over the last, contiguous dimension, so that a member's value does not depend on K; counts are whole
numbers, so their sums are exact in any order.
"""

from __future__ import annotations

import itertools
import math

import scipy
import torch
from torch import Tensor
from torch.nn import functional

from lossbench.losses.distributions import Predicted, StudentT
from lossbench.losses.links import sparsemax
from lossbench.losses.softmax import largest

ECE_BINS = 15
COVERED = 0.9
"""Probability of the central interval of `coverage_90`."""
MOST_CLASSES = 20
"""Largest number of classes for which each class has a separate accuracy."""


def mean_over_examples(values: Tensor) -> Tensor:
    """Mean of values [K, N] over N, [K]."""
    return values.contiguous().mean(-1)


def regression(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Regression metrics by name, of values in standard deviations of the training target."""
    error = (prediction - target).flatten(-2)
    mse = error.square().mean(-1)
    flat = target.flatten(-2)
    spread = (flat - flat.mean(-1, keepdim=True)).square().mean(-1)
    return {
        "rmse": mse.sqrt(),
        "mae": error.abs().mean(-1),
        "median_ae": error.abs().median(-1).values,
        "r2": 1.0 - mse / spread,
    }


def classification(
    prediction: Tensor, target: Tensor, *, recalibrated: Tensor, is_probability: Tensor
) -> dict[str, Tensor]:
    """Classification metrics by name; NaN if a metric is not defined for a member.

    Args:
        prediction: [K, N, C], values of the inverse link.
        target: One-hot labels, [K, N, C].
        recalibrated: Log-probabilities after `recalibrate`, [K, N, C].
        is_probability: [K], whether the member's inverse link gives probabilities.

    Source:
        Brodersen, Ong, Stephan and Buhmann 2010, ICPR, for the balanced accuracy; absent classes
        are treated as in scikit-learn.
    """
    on_simplex, classes = projected(prediction, is_probability), target.shape[-1]
    label = largest(target)[1]
    right = on_simplex.gather(-1, label[..., None]).squeeze(-1)
    log_right = recalibrated.gather(-1, label[..., None]).squeeze(-1)
    undefined = torch.full_like(right[:, 0], torch.nan)
    hit = (largest(prediction)[1] == label).to(prediction.dtype)
    by_class = accuracies(hit, label, classes=classes)
    return {
        "accuracy": mean_over_examples(hit),
        "balanced_accuracy": by_class.nanmean(-1),  # over the classes that have examples
        "brier": mean_over_examples((on_simplex - target).square().sum(-1)),
        "nll": mean_over_examples(-log_right),
        "ece": ece(recalibrated.exp(), label),
        "nll_raw": torch.where(is_probability, mean_over_examples(-right.log()), undefined),
        "ece_raw": torch.where(is_probability, ece(on_simplex, label), undefined),
        "zero_share": mean_over_examples((right <= 0).to(prediction.dtype)),
    }


def ranked_classification(
    prediction: Tensor, target: Tensor, *, recalibrated: Tensor, is_probability: Tensor
) -> dict[str, Tensor]:
    """Classification metrics, by name, that sort or bin examples; computed at the last step only.

    Log-probabilities rank examples, because they distinguish probabilities that round to 1 or 0.

    Args: as for `classification`.
    """
    on_simplex, label = projected(prediction, is_probability), largest(target)[1]
    reliability, resolution, uncertainty = brier_terms(on_simplex, label)
    values = {
        "ece_adaptive": ece_adaptive(recalibrated.exp(), label),
        "auroc": auroc(recalibrated, label),
        "aurc": aurc(recalibrated, label),
        "brier_reliability": reliability,
        "brier_resolution": resolution,
        "brier_uncertainty": uncertainty,
    }
    if (classes := target.shape[-1]) <= MOST_CLASSES:
        hit = (largest(prediction)[1] == label).to(prediction.dtype)
        shares = accuracies(hit, label, classes=classes).unbind(-1)
        values |= {f"accuracy:{index}": share for index, share in enumerate(shares)}
    return values


def multilabel(prediction: Tensor, target: Tensor, *, recalibrated: Tensor) -> dict[str, Tensor]:
    """Metrics of targets with any number of labels, by name.

    Decisions and likelihood use the recalibrated probabilities, because a margin loss predicts no
    probabilities and has its own threshold.

    Args:
        prediction: [K, N, C], values of the inverse link, one for each label.
        target: 1 for each label that holds, else 0: [K, N, C].
        recalibrated: Log-probabilities, after `recalibrate`, that a label does not hold and that
            the label holds: [K, N, C, 2].
    """
    missing, holds = recalibrated.unbind(-1)
    hit = label_hits(recalibrated, target)
    nll = -(target * holds + (1.0 - target) * missing).sum(-1)
    by_kind = []
    for is_kind in (target > 0.5, target <= 0.5):
        count = is_kind.double().transpose(-1, -2).contiguous().sum(-1)
        hits = (is_kind * hit).double().transpose(-1, -2).contiguous().sum(-1)
        by_kind.append(hits / count)
    return {
        "accuracy": mean_over_examples(hit.mean(-1)),
        # Mean, for each label, over those of the two kinds that have examples, as in scikit-learn.
        "balanced_accuracy": torch.stack(by_kind, -1).nanmean(-1).mean(-1),
        "brier": mean_over_examples((prediction.clamp(0.0, 1.0) - target).square().sum(-1)),
        "nll": mean_over_examples(nll),
    }


def label_hits(recalibrated: Tensor, target: Tensor) -> Tensor:
    """Hits [K, N, C]: 1 if the prediction says rightly whether a label holds, else 0.

    Args: as for `multilabel`.
    """
    missing, holds = recalibrated.unbind(-1)
    return ((holds > missing) == (target > 0.5)).to(recalibrated.dtype)


def average_precision(score: Tensor, target: Tensor) -> Tensor:
    """Area under the stepwise precision-recall curve, mean over labels, [K]; ties are one step.

    Args:
        score: [K, N, C], larger for a likelier label.
        target: 1 for each label that holds, else 0: [K, N, C].

    Returns:
        [K], without labels that hold for no example; NaN if no label holds for any example.

    Source:
        Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, without
        interpolation, as in scikit-learn.
    """
    areas = []
    for of_label, holds in zip(score.unbind(-1), (target > 0.5).unbind(-1), strict=True):
        ordered, order = (-of_label.contiguous()).sort(-1)
        found = functional.pad(holds.gather(-1, order).long().cumsum(-1), (1, 0))
        behind = _tied(ordered, ordered)[1]  # number of examples with an equal or higher rank
        precision = found.gather(-1, behind).double() / behind
        share = holds.gather(-1, order).double() * precision
        areas.append(share.sum(-1) / holds.sum(-1))
    return torch.stack(areas, -1).nanmean(-1)


def label_outputs(output: Tensor) -> Tensor:
    """Convert outputs [K, N, C] to C two-class problems, [K C, N, 2]: output 0 for "absent"."""
    apart = output.transpose(1, 2).flatten(0, 1)
    return torch.stack([torch.zeros_like(apart), apart], -1)


def label_targets(target: Tensor) -> Tensor:
    """Convert targets [K, N, C] to C two-class problems, [K C, N, 2]: absent, then present."""
    apart = target.transpose(1, 2).flatten(0, 1)
    return torch.stack([1.0 - apart, apart], -1)


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of examples whose largest prediction is at the label, [K]."""
    return mean_over_examples(contributions(prediction, target, task="classification"))


def contributions(prediction: Tensor, target: Tensor, *, task: str) -> Tensor:
    """Contribution of each example to the task's metric; the metric is the mean contribution.

    The contribution to accuracy is the hit, 1 or 0. The contribution to rmse is (rmse + e²/rmse)/2,
    with e² the mean over targets. The mean contribution is rmse, and a contribution minus rmse is
    the influence of the example.

    Args:
        prediction: [K, N, C].
        target: Same shape.
        task: "regression" or "classification".

    Returns:
        [K, N].

    Source:
        Hampel 1974, JASA, on the influence of an example.
    """
    if task == "classification":
        hit = largest(prediction)[1] == largest(target)[1]
        return hit.to(prediction.dtype)
    rmse = regression(prediction, target)["rmse"][:, None]
    square = (prediction - target).square().mean(-1)
    # If rmse is 0, every example contributes 0.
    return 0.5 * (rmse + square / torch.where(rmse > 0, rmse, torch.ones_like(rmse)))


def projected(prediction: Tensor, is_probability: Tensor) -> Tensor:
    """Project predictions [K, N, C] onto the simplex, unless `is_probability` [K] is true."""
    if is_probability.all():
        return prediction
    if prediction.device.type != "cpu":  # with shapes that do not depend on other members
        return torch.where(is_probability[:, None, None], prediction, sparsemax(prediction))
    places = (~is_probability).nonzero()[:, 0]
    return prediction.index_copy(0, places, sparsemax(prediction[places]))


def accuracies(hit: Tensor, label: Tensor, *, classes: int) -> Tensor:
    """Share of each class's examples that are hit, [K, C]; NaN if a class has no example.

    `hit` [K, N] is 1 where the chosen class is the label [K, N], else 0.
    """
    # Sums of whole numbers are exact, so the order of the scatter does not matter.
    none = hit.new_zeros(len(hit), classes, dtype=torch.float64)
    hits = none.scatter_add(-1, label, hit.double())
    return hits / none.scatter_add(-1, label, torch.ones_like(hit, dtype=torch.float64))


def auroc(score: Tensor, label: Tensor) -> Tensor:
    """Area under the ROC curve, ties counted half: of class 1, or the mean of one against rest.

    Args:
        score: [K, N, C], larger for a likelier class. Of two classes only class 1 is used.
        label: Integer classes, [K, N].

    Returns:
        [K]: for C > 2 the mean over classes that have some but not all examples; NaN if there is
        no such class.

    Source:
        Mann and Whitney 1947; Hand and Till 2001 on several classes; Provost and Domingos 2000.
    """
    areas = []
    for place in [1] if score.shape[-1] == 2 else range(score.shape[-1]):
        of_class, is_positive = score[..., place].contiguous(), label == place
        first, behind = _tied(of_class.sort(-1).values, of_class)
        # Twice the midranks are whole numbers, so the sums are exact.
        twice = torch.where(is_positive, first + behind + 1, 0).sum(-1)
        positive = is_positive.sum(-1)
        pairs = positive * (label.shape[-1] - positive)
        # Share of pairs of a positive and a negative example that the score orders correctly.
        areas.append((twice - positive * (positive + 1)).double() / (2 * pairs))
    return torch.stack(areas, -1).nanmean(-1)


def aurc(log_probability: Tensor, label: Tensor) -> Tensor:
    """Area under the risk-coverage curve: error of the k most confident examples, mean over k.

    Examples with equal confidence count with the expected value over a random order.

    Args:
        log_probability: [K, N, C]; the largest entry is the chosen class and the confidence.
        label: Integer classes, [K, N].

    Returns:
        [K], between 0 and 1; 0 only without errors.

    Source:
        Geifman and El-Yaniv 2017, NeurIPS; Geifman, Uziel and El-Yaniv 2019, ICLR.
    """
    confidence, chosen = largest(log_probability)
    errors = _means_of_ties(-confidence, chosen != label)[1].cumsum(-1)
    covered = torch.arange(1, label.shape[-1] + 1, dtype=errors.dtype, device=label.device)
    return (errors / covered).mean(-1)


def ece_adaptive(probability: Tensor, label: Tensor) -> Tensor:
    """Expected calibration error of the largest probability, in `ECE_BINS` bins of equal mass.

    Examples with equal confidence, which may fall into two bins, each count with the mean accuracy
    of all of them.

    Source:
        Nguyen and O'Connor 2015, EMNLP; Nixon et al. 2019, CVPR workshops.
    """
    confidence, chosen = largest(probability)
    ordered, right = _means_of_ties(confidence, chosen == label)
    gap, examples = right - ordered.double(), label.shape[-1]
    edges = [examples * place // ECE_BINS for place in range(ECE_BINS + 1)]
    gaps = [gap[:, low:high].contiguous().sum(-1).abs() for low, high in itertools.pairwise(edges)]
    return torch.stack(gaps, -1).sum(-1) / examples


def _means_of_ties(value: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Sort values [K, N], and return for each the mean of `counted` [K, N] over tied values."""
    ordered, order = value.sort(-1)
    first, behind = _tied(ordered, ordered)
    so_far = functional.pad(counted.gather(-1, order).long().cumsum(-1), (1, 0))
    total = so_far.gather(-1, behind) - so_far.gather(-1, first)
    return ordered, total.double() / (behind - first)


def _tied(ordered: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """First index of each value [K, N] in `ordered`, and the index after its last occurrence."""
    return torch.searchsorted(ordered, value), torch.searchsorted(ordered, value, right=True)


def brier_terms(probability: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of brier = reliability - resolution + uncertainty.

    Terms are sums over classes, one against the rest, in `ECE_BINS` equal bins of the probability.
    Murphy's identity is exact only if all probabilities of a bin are equal; else a bin's variance
    and covariance remain. Stephenson's resolution includes the remainder, so that the identity is
    exact: it is Murphy's - mean (p - p of the bin)² + 2 mean (y - y of the bin)(p - p of the bin).

    Args:
        probability: [K, N, C].
        label: Integer classes, [K, N].

    Returns:
        Reliability, resolution and uncertainty, [K] each. Uncertainty depends on labels only.

    Source:
        Murphy 1973; Stephenson, Coelho and Jolliffe 2008, Weather and Forecasting.
    """
    bins, terms = torch.arange(ECE_BINS, device=label.device)[:, None], []
    for number, of_class in enumerate(probability.unbind(-1)):
        p, y = of_class.double().contiguous(), (label == number).double()
        inside = ((p * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1)[:, None] == bins
        columns = torch.ones_like(p), p, y
        sums = [torch.where(inside, values[:, None], 0.0).sum(-1) for values in columns]  # [K, M]
        count = sums[0].clamp_min(1.0)
        mean_p, mean_y = sums[1] / count, sums[2] / count
        rate = y.mean(-1, keepdim=True)
        place = inside.to(torch.uint8).argmax(1)
        away_p, away_y = p - mean_p.gather(-1, place), y - mean_y.gather(-1, place)
        between = (sums[0] * (mean_y - rate).square()).sum(-1)
        within = (2.0 * away_y * away_p - away_p.square()).sum(-1)
        reliability = (sums[0] * (mean_p - mean_y).square()).sum(-1)
        uncertainty = p.shape[-1] * (rate * (1.0 - rate)).squeeze(-1)
        terms.append(torch.stack([reliability, between + within, uncertainty]))
    reliability, resolution, uncertainty = torch.stack(terms, -1).sum(-1) / label.shape[-1]
    return reliability, resolution, uncertainty


def distribution(predicted: Predicted, target: Tensor) -> dict[str, Tensor]:
    """Metrics of predicted distributions of targets [K, N, C] by name."""
    target = target.double()
    if isinstance(predicted, StudentT):
        z = (target - predicted.location) / predicted.scale
        level, df = 0.5 + 0.5 * COVERED, predicted.df
        stdtrit, ndtri = scipy.special.stdtrit, scipy.special.ndtri
        edge = float(ndtri(level) if math.isinf(df) else stdtrit(df, level))
        scores, is_covered = predicted.scale * standard_crps(z, df), z.abs() <= edge
    else:
        points, levels = torch.broadcast_tensors(
            predicted.points.double(), predicted.levels.double()
        )
        scores, ends = piecewise_crps(points, levels, target), []
        for level in (0.5 - 0.5 * COVERED, 0.5 + 0.5 * COVERED):
            # The point at which the distribution function reaches the level.
            place = ((levels <= level).sum(-1, keepdim=True) - 1).clamp(0, points.shape[-1] - 2)
            start, end = (points.gather(-1, place + step) for step in (0, 1))
            below, above = (levels.gather(-1, place + step) for step in (0, 1))
            rise = torch.where(above > below, above - below, 1.0)
            share = ((level - below) / rise).clamp(0.0, 1.0)
            ends.append((start + share * (end - start)).squeeze(-1))
        is_covered = (ends[0] <= target) & (target <= ends[1])
    share = is_covered.double().flatten(-2).mean(-1)
    return {
        "crps": scores.flatten(-2).mean(-1),
        "coverage_90": share,
        "coverage_error": (share - COVERED).abs(),
    }


def piecewise_crps(points: Tensor, levels: Tensor, target: Tensor) -> Tensor:
    """Continuous ranked probability score of a `Piecewise`, exact: [K, N, C].

    The score is the integral of the squared difference between the distribution function and the
    step at the target; the integrand is a parabola on each piece.

    Args:
        points: [K, N, C, P].
        levels: Same shape.
        target: [K, N, C].
    """
    start, end, below, above = points[..., :-1], points[..., 1:], levels[..., :-1], levels[..., 1:]
    length, goal = end - start, target.unsqueeze(-1)
    left = (goal - start).clamp(min=0.0).minimum(length)  # the part of the piece below the target
    share = left / torch.where(length > 0, length, 1.0)
    at_goal = below + share * (above - below)
    rest, rest_below, rest_above = length - left, 1.0 - at_goal, 1.0 - above
    square = left * (below.square() + below * at_goal + at_goal.square())
    square = square + rest * (rest_below.square() + rest_below * rest_above + rest_above.square())
    outside = (points[..., 0] - target).clamp(min=0.0) + (target - points[..., -1]).clamp(min=0.0)
    return square.sum(-1) / 3.0 + outside


def quantile(prediction: Tensor, target: Tensor, *, level: float) -> dict[str, Tensor]:
    """Metrics, by name, of predictions that a share `level` of targets should not exceed."""
    share = (target <= prediction).double().flatten(-2).mean(-1)
    return {"quantile_coverage": share, "coverage_error": (share - level).abs()}


def standard_crps(z: Tensor, df: float) -> Tensor:
    """Continuous ranked probability score of Student's t for standardised targets, any shape.

    The score is the integral of the squared difference between the distribution function and the
    step at the target, in units of the scale.

    Args:
        z: (target - location) / scale.
        df: Degrees of freedom; infinity for the Gaussian; NaN is returned at 1 and below.

    Source:
        Gneiting and Raftery 2007; Jordan, Krueger and Lerch 2019, Journal of Statistical Software.
    """
    if math.isinf(df):
        density = (-0.5 * z.square()).exp() / math.sqrt(2.0 * math.pi)
        return z * torch.erf(z / math.sqrt(2.0)) + 2.0 * density - 1.0 / math.sqrt(math.pi)
    if df <= 1.0:
        return torch.full_like(z, torch.nan)
    below = torch.as_tensor(scipy.special.stdtr(df, z.cpu().numpy()), device=z.device)
    beta = scipy.special.beta(0.5, 0.5 * df)
    density = (1.0 + z.square() / df).pow(-0.5 * (df + 1.0)) / (math.sqrt(df) * beta)
    spread = 2.0 * math.sqrt(df) / (df - 1.0) * scipy.special.beta(0.5, df - 0.5) / beta**2
    return z * (2.0 * below - 1.0) + 2.0 * density * (df + z.square()) / (df - 1.0) - spread


def kl(posterior: Tensor, recalibrated: Tensor) -> Tensor:
    """Mean KL divergence from the true posterior [K, N, C] to log-probabilities, in nats."""
    terms = torch.special.xlogy(posterior, posterior) - posterior * recalibrated
    return mean_over_examples(terms.sum(-1))


def entropy(posterior: Tensor) -> Tensor:
    """Mean entropy of the true posterior [K, N, C] in nats, which is the smallest possible nll."""
    return mean_over_examples(-torch.special.xlogy(posterior, posterior).sum(-1))


def clean_validation(prediction: Tensor, clean: Tensor, *, task: str) -> dict[str, Tensor]:
    """Validation metrics against targets before corruption, by name."""
    if task == "regression":
        return {"rmse_clean": (prediction - clean).square().flatten(-2).mean(-1).sqrt()}
    return {"accuracy_clean": accuracy(prediction, clean)}


def of_wrong_labels(prediction: Tensor, given: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """Shares of mislabelled training examples that are memorised and recovered; NaN without any.

    `given` are the one-hot labels used in training, `clean` those before the noise.
    """
    chosen, wrong, right = (largest(rows)[1] for rows in (prediction, given, clean))
    is_wrong = wrong != right
    count = is_wrong.sum(-1).to(prediction.dtype)
    hits = {"memorised": chosen == wrong, "recovered": chosen == right}
    return {name: (is_wrong & hit).sum(-1) / count for name, hit in hits.items()}


def total_variation(prediction: Tensor, distribution: Tensor) -> Tensor:
    """Mean over examples of half the sum of absolute differences; 0 to 1 on the simplex.

    Examples whose distribution has a NaN are left out. NaN if all are left out.
    """
    distance = 0.5 * (prediction - distribution).abs().sum(-1)
    is_known = distribution.isfinite().all(-1)
    total = torch.where(is_known, distance, 0.0).contiguous().sum(-1)
    return total / is_known.sum(-1)


def ece(probability: Tensor, label: Tensor) -> Tensor:
    """Expected calibration error of the largest probability, in `ECE_BINS` equal bins.

    Source:
        Guo, Pleiss, Sun and Weinberger 2017, ICML.
    """
    confidence, chosen = largest(probability)
    gap = (chosen == label).to(probability.dtype) - confidence
    # The bins are (0, 1/15], ..., (14/15, 1].
    bins = torch.arange(1, ECE_BINS + 1, device=label.device)[:, None]
    place = (confidence * ECE_BINS).ceil().clamp(1, ECE_BINS)
    is_counted = (place[:, None] == bins) | gap.isnan()[:, None]  # NaN stays NaN
    gaps = torch.where(is_counted, gap[:, None], 0.0).sum(-1)
    return (gaps.abs() / confidence.shape[-1]).sum(-1)
