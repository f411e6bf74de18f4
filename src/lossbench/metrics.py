"""What a trained model is judged by, for K members at once.

Units and directions stand in `records.METRICS`. Every function takes [K, N, C] and gives [K].
Reductions go over the last, contiguous dimension, so that a member's value does not depend on K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lossbench.losses.links import sparsemax

ECE_BINS = 15
RECALIBRATION_RIDGE = 1e-3
RECALIBRATION_STEPS = 50
RECALIBRATION_TOLERANCE = 1e-7


def mean_over_examples(values: Tensor) -> Tensor:
    """Mean of [K, N] over N."""
    return values.contiguous().mean(-1)


def regression(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Regression metrics by name.

    Args:
        prediction: [K, N, C], in standard deviations of the training target.
        target: Same shape.
    """
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
    """Classification metrics by name; NaN where a metric is not defined for a member.

    Args:
        prediction: [K, N, C], what the inverse link gives.
        target: One-hot labels, [K, N, C].
        recalibrated: Log-probabilities after `recalibrate`, [K, N, C].
        is_probability: [K], whether the member's inverse link gives probabilities.
    """
    on_simplex = torch.where(is_probability[:, None, None], prediction, sparsemax(prediction))
    label = target.argmax(-1, keepdim=True)
    right = on_simplex.gather(-1, label).squeeze(-1)
    undefined = torch.full_like(right[:, 0], torch.nan)
    raw_nll = mean_over_examples(-right.log())
    return {
        "accuracy": mean_over_examples(
            (prediction.argmax(-1) == label.squeeze(-1)).to(prediction.dtype)
        ),
        "brier": mean_over_examples((on_simplex - target).square().sum(-1)),
        "nll": mean_over_examples(-recalibrated.gather(-1, label).squeeze(-1)),
        "ece": ece(recalibrated.exp(), label.squeeze(-1)),
        "nll_raw": torch.where(is_probability, raw_nll, undefined),
        "ece_raw": torch.where(is_probability, ece(on_simplex, label.squeeze(-1)), undefined),
        "zero_share": mean_over_examples((right <= 0).to(prediction.dtype)),
    }


def kl(posterior: Tensor, recalibrated: Tensor) -> Tensor:
    """Mean KL divergence from the true posterior [K, N, C] to log-probabilities, in nats."""
    terms = torch.special.xlogy(posterior, posterior) - posterior * recalibrated
    return mean_over_examples(terms.sum(-1))


def clean_validation(prediction: Tensor, clean: Tensor, *, task: str) -> dict[str, Tensor]:
    """What validation would say without its corruption, by name.

    Args:
        prediction: [K, N, C].
        clean: Targets before they were corrupted, [K, N, C].
        task: "regression" or "classification".
    """
    if task == "regression":
        return {"rmse_clean": (prediction - clean).square().flatten(-2).mean(-1).sqrt()}
    hit = prediction.argmax(-1) == clean.argmax(-1)
    return {"accuracy_clean": mean_over_examples(hit.to(prediction.dtype))}


def of_wrong_labels(prediction: Tensor, given: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """What became of training examples with a wrong label, by name; NaN where there are none.

    Args:
        prediction: [K, N, C].
        given: One-hot labels that were trained on, [K, N, C].
        clean: One-hot labels before the noise, [K, N, C].
    """
    chosen, wrong, right = (rows.argmax(-1) for rows in (prediction, given, clean))
    is_wrong = wrong != right
    count = is_wrong.sum(-1).to(prediction.dtype)
    hits = {"memorised": chosen == wrong, "recovered": chosen == right}
    return {name: (is_wrong & hit).sum(-1) / count for name, hit in hits.items()}


def total_variation(prediction: Tensor, distribution: Tensor) -> Tensor:
    """Mean over examples of half the sum of absolute differences; 0 to 1 on the simplex.

    Args:
        prediction: [K, N, C].
        distribution: Same shape; examples where it is NaN are left out, NaN if all are.
    """
    distance = 0.5 * (prediction - distribution).abs().sum(-1)
    is_known = distribution.isfinite().all(-1)
    total = torch.where(is_known, distance, 0.0).contiguous().sum(-1)
    return total / is_known.sum(-1)


def ece(probability: Tensor, label: Tensor) -> Tensor:
    """Expected calibration error of the largest probability, in `ECE_BINS` equal bins.

    Args:
        probability: [K, N, C].
        label: Integer classes, [K, N].

    Source:
        Guo, Pleiss, Sun and Weinberger 2017, ICML.
    """
    confidence, chosen = probability.max(-1)
    hit = (chosen == label).to(probability.dtype)
    # The bins are (0, 1/15], ..., (14/15, 1].
    place = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    inside = torch.nn.functional.one_hot(place, ECE_BINS).to(probability.dtype)
    gaps = ((hit - confidence)[..., None] * inside).transpose(-1, -2).contiguous().sum(-1)
    return (gaps.abs() / confidence.shape[-1]).sum(-1)


def recalibrate(output: Tensor, target: Tensor) -> Tensor:
    """Scale a and biases b that make softmax(a output + b) likeliest, one pair per member.

    A convex problem, solved by damped Newton steps in float64. A small ridge towards a = 1/s and
    b = 0 (s the output's own spread) keeps it bounded when the classes are separated.

    Args:
        output: Validation outputs, [K, N, C].
        target: One-hot validation labels, [K, N, C].

    Returns:
        [K, 1 + C]: a, then b.
    """
    features, labels = output.double(), target.double()
    # What all outputs of an example share, the softmax ignores; the ridge must not see it.
    features = features - features.mean(-1, keepdim=True)
    spread = features.flatten(1).std(-1).clamp_min(1e-12)[:, None, None]
    features = features / spread
    parameters = features.new_zeros(len(features), 1 + features.shape[-1])
    parameters[:, 0] = 1.0
    start = parameters.clone()
    value, gradient, hessian = _likelihood(parameters, start, features, labels)
    damping = torch.full_like(value, 1e-6)
    eye = torch.eye(parameters.shape[-1], dtype=torch.float64, device=output.device)
    for _ in range(RECALIBRATION_STEPS):
        moving = gradient.abs().amax(-1) > RECALIBRATION_TOLERANCE
        if not moving.any():
            break
        move = torch.linalg.solve(hessian + damping[:, None, None] * eye, gradient)
        trial = _likelihood(parameters - move, start, features, labels)
        # A member that has arrived stays, however long its pack-mates still travel.
        better = moving & (trial[0] <= value)
        damping = torch.where(better, damping * 0.1, damping * 10.0).clamp(1e-10, 1e6)
        parameters = torch.where(better[:, None], parameters - move, parameters)
        value = torch.where(better, trial[0], value)
        gradient = torch.where(better[:, None], trial[1], gradient)
        hessian = torch.where(better[:, None, None], trial[2], hessian)
    parameters[:, 0] /= spread[:, 0, 0]
    return parameters


def recalibrated(output: Tensor, parameters: Tensor) -> Tensor:
    """Log-probabilities [K, N, C] of softmax(a output + b), in the output's type."""
    scaled = parameters[:, :1, None] * output.double() + parameters[:, None, 1:]
    return scaled.log_softmax(-1).to(output.dtype)


def _likelihood(
    parameters: Tensor, start: Tensor, features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scores = parameters[:, :1, None] * features + parameters[:, None, 1:]
    log_p = scores.log_softmax(-1)
    p, count = log_p.exp(), features.shape[1]
    away = parameters - start
    value = -(labels * log_p).sum((-1, -2)) / count + 0.5 * RECALIBRATION_RIDGE * away.square().sum(
        -1
    )
    error = p - labels
    by_bias = error.mean(1)
    by_scale = (error * features).sum(-1).mean(-1, keepdim=True)
    gradient = torch.cat([by_scale, by_bias], -1) + RECALIBRATION_RIDGE * away
    mean = (p * features).sum(-1, keepdim=True)
    scale_scale = (p * (features - mean).square()).sum((-1, -2)) / count
    scale_bias = (p * (features - mean)).mean(1)
    bias_bias = torch.diag_embed(p.mean(1)) - p.transpose(1, 2) @ p / count
    top = torch.cat([scale_scale[:, None], scale_bias], -1)[:, None]
    bottom = torch.cat([scale_bias[:, :, None], bias_bias], -1)
    ridge = RECALIBRATION_RIDGE * torch.eye(parameters.shape[-1], dtype=p.dtype, device=p.device)
    return value, gradient, torch.cat([top, bottom], 1) + ridge
