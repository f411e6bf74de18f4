"""Every loss against its closed form in numpy, and the contract that any new row must keep."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import mutations
import numpy as np
import pytest
import torch
from loss_cases import OTHER_VALUES, Params, context_of, examples, variants
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from lossbench.losses import LOSSES
from lossbench.losses.links import PLACED
from lossbench.losses.spec import NAME, NO_PARAMS, Context, Loss
from lossbench.measures import probes

Array = NDArray[np.float64]

CLASSES = 5


COUNTS = {
    "even": [100.0, 100.0, 100.0, 100.0, 100.0],
    "long_tailed": [4000.0, 900.0, 120.0, 35.0, 2.0],
    "empty_class": [0.0, 7.0, 50.0, 1.0, 10000.0],
}


def each_loss_where(holds: Callable[[Loss], bool]) -> pytest.MarkDecorator:
    losses = [*filter(holds, LOSSES.values())]
    return pytest.mark.parametrize("loss", losses, ids=lambda loss: loss.name)


each_loss = each_loss_where(lambda loss: True)
each_classification_loss = each_loss_where(lambda loss: loss.task == "classification")
each_regression_loss = each_loss_where(lambda loss: loss.task == "regression")
each_loss_with_context = each_loss_where(lambda loss: loss.needs_context)


# Closed forms. e is the error, z the output, p the softmax, y the target, C the last dimension.


@dataclass(frozen=True)
class ClosedForm:
    """A loss and its output gradient: (z, y, **params) -> [...] and [..., C], in numpy.

    The parameters are all those of the loss, by name, and `counts` where it asks for a context.
    """

    value: Callable[..., Array]
    gradient: Callable[..., Array]


def summed(per_output: Array) -> Array:
    return per_output.sum(-1)


def of_error(rho: Callable[..., Array], psi: Callable[..., Array]) -> ClosedForm:
    """A sum over outputs of rho(e), with rho' = psi."""
    return ClosedForm(
        value=lambda z, y, **params: summed(rho(z - y, **params)),
        gradient=lambda z, y, **params: psi(z - y, **params),
    )


def of_output(rho: Callable[..., Array], psi: Callable[..., Array]) -> ClosedForm:
    """A sum over outputs of rho(z, y), with the derivative psi with respect to z."""
    return ClosedForm(value=lambda z, y, **params: summed(rho(z, y, **params)), gradient=psi)


def behind_softmax(value: Callable[..., Array], slope: Callable[..., Array]) -> ClosedForm:
    """A function of (p, y) and its derivative with respect to log p, taken as if p were free."""

    def gradient(z: Array, y: Array, **params: Any) -> Array:
        p = special.softmax(z, -1)
        return through_softmax(p, slope(p, y, **params))

    return ClosedForm(
        value=lambda z, y, **params: value(special.softmax(z, -1), y, **params), gradient=gradient
    )


def through_softmax(p: Array, of_log_p: Array) -> Array:
    """The derivative with respect to z of what has that one with respect to log p.

    Pair by pair, as a difference of sums would round where p is almost 1.
    """
    of_p = np.where(p > 0, of_log_p / p, 0.0)
    return p * (p[..., None, :] * (of_p[..., :, None] - of_p[..., None, :])).sum(-1)


def of_margin(phi: Callable[[Array], Array], slope: Callable[[Array], Array]) -> ClosedForm:
    """One versus all: phi of the margin z where the class is the label, of -z where it is not."""
    return ClosedForm(
        value=lambda z, y: summed(y * phi(z) + (1 - y) * phi(-z)),
        gradient=lambda z, y: y * slope(z) - (1 - y) * slope(-z),
    )


def rivals(z: Array, label: int, *, only_best: bool) -> Array:
    """Which classes the label must lead: all others, or the best of them."""
    others = np.arange(z.shape[-1]) != label
    if not only_best:
        return np.broadcast_to(others, z.shape)
    best = np.where(others, z, -np.inf).argmax(-1)
    return np.arange(z.shape[-1]) == best[..., None]


def of_leads(
    hinge: Callable[[Array], Array], slope: Callable[[Array], Array], *, only_best: bool = False
) -> ClosedForm:
    """The expectation over labels k of a sum over rivals j of hinge(1 + z_j - z_k)."""

    def value(z: Array, y: Array) -> Array:
        total = np.zeros(z.shape[:-1])
        for k in range(z.shape[-1]):
            missing = hinge(1 + z - z[..., [k]])
            total += y[..., k] * summed(missing * rivals(z, k, only_best=only_best))
        return total

    def gradient(z: Array, y: Array) -> Array:
        total = np.zeros(z.shape)
        for k in range(z.shape[-1]):
            push = slope(1 + z - z[..., [k]]) * rivals(z, k, only_best=only_best)
            total += y[..., [k]] * push
            total[..., k] -= y[..., k] * summed(push)
        return total

    return ClosedForm(value=value, gradient=gradient)


def matched(predict: Callable[..., Array], index: Callable[..., float]) -> ClosedForm:
    """The Fenchel-Young loss of a Tsallis entropy; its gradient is prediction - target."""

    def value(z: Array, y: Array, **params: Any) -> Array:
        p, alpha = predict(z, **params), index(**params)
        curved = summed(y**alpha - p**alpha) / (alpha * (alpha - 1))
        return curved + summed(z * (p - y))

    return ClosedForm(value=value, gradient=lambda z, y, **params: predict(z, **params) - y)


def bisected(total: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where a total that falls with its argument is 1."""
    for _ in range(200):
        middle = (low + high) / 2
        is_left = total(middle) >= 1
        low, high = np.where(is_left, middle, low), np.where(is_left, high, middle)
    return low


def entmax(z: Array, *, alpha: float) -> Array:
    scaled = (alpha - 1) * (z - z.max(-1, keepdims=True))

    def at(threshold: Array) -> Array:
        return np.maximum(scaled - threshold, 0) ** (1 / (alpha - 1))

    low = np.full_like(z[..., :1], -1)
    return at(bisected(lambda t: at(t).sum(-1, keepdims=True), low, low * 0))


def tempered_softmax(z: Array, *, t2: float) -> Array:
    if t2 == 1:
        return special.softmax(z, -1)
    below = z - z.max(-1, keepdims=True)

    def at(shift: Array) -> Array:
        return np.maximum(1 + (1 - t2) * (below - shift), 0) ** (1 / (1 - t2))

    low = np.zeros_like(z[..., :1])
    high = low - tempered_log(1 / z.shape[-1], t2)
    return at(bisected(lambda s: at(s).sum(-1, keepdims=True), low, high))


def tempered_log(x: Array | float, t: float) -> Array | float:
    return np.log(x) if t == 1 else (x ** (1 - t) - 1) / (1 - t)


def bi_tempered(z: Array, y: Array, *, t1: float, t2: float) -> Array:
    p = tempered_softmax(z, t2=t2)
    at_zero = np.where(y > 0, y, 1.0)
    reached = y * (tempered_log(at_zero, t1) - tempered_log(np.where(y > 0, p, 1.0), t1))
    return summed(reached - (y ** (2 - t1) - p ** (2 - t1)) / (2 - t1))


def bi_tempered_gradient(z: Array, y: Array, *, t1: float, t2: float) -> Array:
    p = tempered_softmax(z, t2=t2)
    escort = p**t2 / (p**t2).sum(-1, keepdims=True)
    free = np.where(p > 0, (p - y) * np.where(p > 0, p, 1.0) ** (t2 - t1), 0.0)
    return free - escort * free.sum(-1, keepdims=True)


def exp(x: Array) -> Array:
    """exp, along its tangent beyond 70."""
    return np.where(x < 70, np.exp(np.minimum(x, 70)), np.exp(70) * (x - 69))


def exp_slope(x: Array) -> Array:
    return np.exp(np.minimum(x, 70))


def soft_positive(z: Array) -> Array:
    return np.logaddexp(0, z)


def gaussian_nll(z: Array, y: Array, *, eps: float) -> Array:
    mean, log_v = np.split(z, 2, -1)
    v = np.maximum(np.exp(log_v), eps)
    return summed(np.log(v) + (mean - y) ** 2 / v) / 2


def gaussian_nll_gradient(z: Array, y: Array, *, eps: float) -> Array:
    mean, log_v = np.split(z, 2, -1)
    v = np.maximum(np.exp(log_v), eps)
    of_variance = np.where(np.exp(log_v) > eps, 1 - (mean - y) ** 2 / v, 0) / 2
    return np.concatenate([(mean - y) / v, of_variance], -1)


def cut_log(y: Array, log_zero: float) -> Array:
    return np.where(y > np.exp(log_zero), np.log(np.maximum(y, np.exp(log_zero))), log_zero)


def log_softmax(z: Array) -> Array:
    """Exact also where a probability rounds to 1."""
    below = z - z.max(-1, keepdims=True)
    is_largest = np.arange(z.shape[-1]) == z.argmax(-1)[..., None]
    others = np.where(is_largest, 0.0, np.exp(below)).sum(-1, keepdims=True)
    return below - np.log1p(others)


def nce(z: Array, y: Array) -> Array:
    log_p = log_softmax(z)
    return summed(y * log_p) / summed(log_p)


def nce_gradient(z: Array, y: Array) -> Array:
    log_p = log_softmax(z)
    # A constant less in y is a constant less in the loss: this one keeps digits of two classes.
    y = y - np.take_along_axis(y, log_p.argmin(-1, keepdims=True), -1)
    whole, shared = (part.sum(-1, keepdims=True) for part in (log_p, y * log_p))
    return through_softmax(np.exp(log_p), y / whole - shared / whole**2)


def nce_and(value: Callable[..., Array], slope: Callable[..., Array]) -> ClosedForm:
    """An active passive loss: nce, and a function of (p, y) behind the softmax."""
    passive = behind_softmax(value, slope)
    return ClosedForm(
        lambda z, y, alpha, beta, **params: (
            alpha * nce(z, y) + beta * passive.value(z, y, **params)
        ),
        lambda z, y, alpha, beta, **params: (
            alpha * nce_gradient(z, y) + beta * passive.gradient(z, y, **params)
        ),
    )


def focal_slope(p: Array, gamma: float) -> Array:
    """The derivative of -(1 - p)^gamma log p with respect to log p."""
    bend = 0 if gamma == 0 else gamma * p * (1 - p) ** (gamma - 1) * np.log(p)
    return bend - (1 - p) ** gamma


def asl(p: Array, y: Array, *, gamma_pos: float, gamma_neg: float, eps: float) -> Array:
    total = np.zeros(p.shape[:-1])
    for k in range(p.shape[-1]):
        smoothed = (1 - eps) * np.eye(p.shape[-1])[k] + eps / p.shape[-1]
        weight = p**gamma_neg
        weight[..., k] = (1 - p[..., k]) ** gamma_pos
        total -= y[..., k] * summed(smoothed * weight * np.log(p))
    return total


def asl_slope(p: Array, y: Array, *, gamma_pos: float, gamma_neg: float, eps: float) -> Array:
    share = eps / p.shape[-1]
    of_label = (1 - eps + share) * focal_slope(p, gamma_pos)
    of_other = -share * p**gamma_neg * (gamma_neg * np.log(p) + 1)
    return y * of_label + (1 - y) * of_other


def effective_weights(counts: Array, beta: float) -> Array:
    inverse = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    return len(inverse) * inverse / inverse.sum()


def ldam_margins(counts: Array, max_m: float) -> Array:
    counts = np.maximum(counts, 1)
    return max_m * (counts.min() / counts) ** 0.25


def ldam(z: Array, y: Array, *, max_m: float, s: float, counts: Array) -> Array:
    margins = np.diag(ldam_margins(counts, max_m))
    return sum(
        -y[..., k] * special.log_softmax(s * (z - margins[k]), -1)[..., k]
        for k in range(z.shape[-1])
    )


def ldam_gradient(z: Array, y: Array, *, max_m: float, s: float, counts: Array) -> Array:
    margins = np.diag(ldam_margins(counts, max_m))
    return sum(
        y[..., [k]] * s * (special.softmax(s * (z - margins[k]), -1) - np.eye(z.shape[-1])[k])
        for k in range(z.shape[-1])
    )


def log_prior(counts: Array) -> Array:
    return np.log(np.maximum(counts, 1) / np.maximum(counts, 1).sum())


def of_direction(inverse_temperature: Callable[..., float]) -> ClosedForm:
    """Cross entropy of the output's direction times an inverse temperature."""

    def value(z: Array, y: Array, **params: float) -> Array:
        unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
        return -summed(y * special.log_softmax(unit * inverse_temperature(**params), -1))

    def gradient(z: Array, y: Array, **params: float) -> Array:
        length = np.linalg.norm(z, axis=-1, keepdims=True)
        unit, factor = z / length, inverse_temperature(**params)
        error = special.softmax(unit * factor, -1) - y
        return factor / length * (error - unit * (unit * error).sum(-1, keepdims=True))

    return ClosedForm(value=value, gradient=gradient)


def of_entropy(z: Array, k: int) -> Array:
    """The entropy of the softmax of the k largest outputs over its largest."""
    log_p = log_softmax(np.sort(z, -1)[..., -k:])
    return -(np.exp(log_p) * log_p).sum(-1, keepdims=True) / np.log(log_p.shape[-1])


def stable_shares(z: Array) -> Array:
    share = np.where(z >= 0, 1 + z, 1 / (1 + np.abs(z)))
    return share / share.sum(-1, keepdims=True)


def softened(y: Array, temperature: float) -> Array:
    return y ** (1 / temperature) / (y ** (1 / temperature)).sum(-1, keepdims=True)


def unlikelihood_gradient(z: Array, y: Array, *, alpha: float) -> Array:
    log_p = log_softmax(z)
    p = np.exp(log_p)
    return through_softmax(p, alpha * (1 - y) * p / -np.expm1(log_p) - y)


def mixed(p: Array, y: Array, alpha: float) -> Array:
    return alpha * y + (1 - alpha) * p


def skew_slope(p: Array, y: Array, alpha: float) -> Array:
    return -y * (1 - alpha) * p / mixed(p, y, alpha)


def skew_reverse_slope(p: Array, y: Array, alpha: float) -> Array:
    share = alpha * p / mixed(p, y, 1 - alpha)
    return p * (np.log(share) - np.log(alpha) + 1 - share)


def rps_slope(p: Array, y: Array) -> Array:
    error = np.cumsum(p - y, -1)
    error[..., -1] = 0
    return 2 * p * np.cumsum(error[..., ::-1], -1)[..., ::-1]


def beta_nll(z: Array, y: Array, *, beta: float, eps: float) -> Array:
    mean, log_v = np.split(z, 2, -1)
    v = np.maximum(np.exp(log_v), eps)
    return summed(v**beta * (np.log(v) + (mean - y) ** 2 / v)) / 2


def beta_nll_gradient(z: Array, y: Array, *, beta: float, eps: float) -> Array:
    v = np.maximum(np.exp(np.split(z, 2, -1)[1]), eps)
    return np.tile(v**beta, 2) * gaussian_nll_gradient(z, y, eps=eps)


def gaussian_crps(z: Array, y: Array, *, eps: float) -> Array:
    mean, log_v = np.split(z, 2, -1)
    deviation = np.sqrt(np.maximum(np.exp(log_v), eps))
    w = (mean - y) / deviation
    score = w * (2 * special.ndtr(w) - 1) + 2 * stats.norm.pdf(w) - np.pi**-0.5
    return summed(deviation * score)


def gaussian_crps_gradient(z: Array, y: Array, *, eps: float) -> Array:
    mean, log_v = np.split(z, 2, -1)
    deviation = np.sqrt(np.maximum(np.exp(log_v), eps))
    w = (mean - y) / deviation
    of_variance = np.where(
        np.exp(log_v) > eps, deviation * (stats.norm.pdf(w) - np.pi**-0.5 / 2), 0
    )
    return np.concatenate([special.erf(w / 2**0.5), of_variance], -1)


def quantile_errors(z: Array, y: Array) -> Iterator[tuple[float, Array]]:
    """Each level with the error of its outputs, in the order in which they stand."""
    levels = [0.5] + [place / 20 for place in range(1, 20) if place != 10]
    return zip(levels, (one - y for one in np.split(z, 19, -1)), strict=True)


def bin_shares(y: Array, *, low: float, high: float, sigma: float) -> Array:
    """The Gaussian's shares of 51 bins, [..., 51 C]."""
    edges = np.linspace(low, high, 52)[:, None]
    law = stats.norm(np.clip(y, low, high)[..., None, :], sigma * (high - low) / 51)
    shares = np.diff(law.cdf(edges), axis=-2)
    return (shares / shares.sum(-2, keepdims=True)).reshape(*y.shape[:-1], -1)


def log_of_bins(z: Array) -> Array:
    return special.log_softmax(z.reshape(*z.shape[:-1], 51, -1), -2).reshape(z.shape)


CLOSED_FORMS: dict[str, ClosedForm] = {
    # power
    "mse": of_error(lambda e: e**2 / 2, lambda e: e),
    "mae": of_error(np.abs, np.sign),
    "quartic": of_error(lambda e: np.power(e, 4) / 4, lambda e: e**3),
    "lp": of_error(lambda e, p: np.abs(e) ** p / p, lambda e, p: np.sign(e) * np.abs(e) ** (p - 1)),
    "cosh": of_error(
        lambda e: (exp(np.abs(e)) + np.exp(-np.abs(e))) / 2 - 1,
        lambda e: np.sinh(np.clip(e, -70, 70)),
    ),
    "quartic_probs": behind_softmax(
        lambda p, y: summed((p - y) ** 4) / 4, lambda p, y: p * (p - y) ** 3
    ),
    "rescaled_square": of_output(
        lambda z, y, k, M: y * k * (z - M) ** 2 + (1 - y) * z**2,
        lambda z, y, k, M: 2 * y * k * (z - M) + 2 * (1 - y) * z,
    ),
    # monotone
    "huber": of_error(
        lambda e, delta: special.huber(delta, e), lambda e, delta: np.clip(e, -delta, delta)
    ),
    "smooth_l1": of_error(
        lambda e, beta: np.where(np.abs(e) < beta, e**2 / (2 * beta), np.abs(e) - beta / 2),
        lambda e, beta: np.clip(e / beta, -1, 1),
    ),
    "pseudo_huber": of_error(
        lambda e, delta: special.pseudo_huber(delta, e),
        lambda e, delta: e * delta / np.hypot(delta, e),
    ),
    "log_cosh": of_error(lambda e: np.logaddexp(e, -e) - np.log(2), np.tanh),
    "eps_insensitive": of_error(
        lambda e, epsilon: np.abs(e - np.clip(e, -epsilon, epsilon)),
        lambda e, epsilon: np.sign(e) * (np.abs(e) > epsilon),
    ),
    "barron": of_error(
        lambda e, alpha, c: (
            (e / c) ** 2 / 2
            if alpha == 2
            else (2 - alpha) / 2 * special.boxcox1p((e / c) ** 2 / (2 - alpha), alpha / 2)
        ),
        lambda e, alpha, c: (
            e / c**2 * (1 if alpha == 2 else (1 + (e / c) ** 2 / (2 - alpha)) ** (alpha / 2 - 1))
        ),
    ),
    # redescending
    "cauchy": of_error(
        lambda e, c: c**2 * np.log(np.hypot(1, e / c)), lambda e, c: e * c**2 / (c**2 + e**2)
    ),
    "geman_mcclure": of_error(
        lambda e, c: 2 * e**2 / (e**2 + 4 * c**2),
        lambda e, c: 16 * c**2 * e / (e**2 + 4 * c**2) ** 2,
    ),
    "welsch": of_error(
        lambda e, c: 1 - np.exp(-(e**2) / (2 * c**2)),
        lambda e, c: e / c**2 * np.exp(-(e**2) / (2 * c**2)),
    ),
    "tukey": of_error(
        lambda e, c: c**2 / 6 * np.where(np.abs(e) <= c, 1 - (1 - (e / c) ** 2) ** 3, 1),
        lambda e, c: np.where(np.abs(e) <= c, e * (1 - (e / c) ** 2) ** 2, 0),
    ),
    # asymmetric
    "pinball": of_error(
        lambda e, tau: np.abs(tau - (e >= 0)) * np.abs(e),
        lambda e, tau: np.where(e > 0, 1 - tau, -tau),
    ),
    "quantiles": ClosedForm(
        lambda z, y: (
            sum(summed(np.abs(t - (e > 0)) * np.abs(e)) for t, e in quantile_errors(z, y)) * 2 / 19
        ),
        lambda z, y: np.concatenate([(e > 0) - t for t, e in quantile_errors(z, y)], -1) * 2 / 19,
    ),
    "expectile": of_error(
        lambda e, tau: np.abs(tau - (e >= 0)) * e**2,
        lambda e, tau: 2 * np.abs(tau - (e >= 0)) * e,
    ),
    "linex": of_error(lambda e, a: exp(a * e) - a * e - 1, lambda e, a: a * (exp_slope(a * e) - 1)),
    # likelihood
    "poisson_nll": of_output(lambda z, y: exp(z) - y * z, lambda z, y: exp_slope(z) - y),
    "gaussian_nll": ClosedForm(gaussian_nll, gaussian_nll_gradient),
    "hl_gauss": ClosedForm(
        lambda z, y, **params: -summed(bin_shares(y, **params) * log_of_bins(z)),
        lambda z, y, **params: np.exp(log_of_bins(z)) - bin_shares(y, **params),
    ),
    "student_t": of_error(
        lambda e, df, scale: (df + 1) * np.log(np.hypot(1, e / scale / np.sqrt(df))),
        lambda e, df, scale: (df + 1) * e / (df * scale**2 + e**2),
    ),
    "msle": of_output(
        lambda z, y: np.log((1 + soft_positive(z)) / (1 + y)) ** 2,
        lambda z, y: (
            2 * np.log((1 + soft_positive(z)) / (1 + y)) * special.expit(z) / (1 + soft_positive(z))
        ),
    ),
    "beta_nll": ClosedForm(beta_nll, beta_nll_gradient),
    "gaussian_crps": ClosedForm(gaussian_crps, gaussian_crps_gradient),
    # proper
    "rps": behind_softmax(lambda p, y: summed(np.cumsum(p - y, -1)[..., :-1] ** 2), rps_slope),
    "cross_entropy": behind_softmax(lambda p, y: -summed(y * np.log(p)), lambda p, y: -y),
    "brier": behind_softmax(lambda p, y: summed((p - y) ** 2), lambda p, y: 2 * p * (p - y)),
    "mse_sigmoid": of_output(
        lambda z, y: (special.expit(z) - y) ** 2 / 2,
        lambda z, y: special.expit(z) * special.expit(-z) * (special.expit(z) - y),
    ),
    "spherical": behind_softmax(
        lambda p, y: summed(y * (1 - p / np.linalg.norm(p, axis=-1, keepdims=True))),
        lambda p, y: (
            p
            * (p * (y * p).sum(-1, keepdims=True) - y * (p**2).sum(-1, keepdims=True))
            / (p**2).sum(-1, keepdims=True) ** 1.5
        ),
    ),
    "tsallis": behind_softmax(
        lambda p, y, q: summed(p**q) - 1 - q / (q - 1) * summed(y * (p ** (q - 1) - 1)),
        lambda p, y, q: q * (p**q - y * p ** (q - 1)),
    ),
    # matching
    "mse_logits": of_error(lambda e: e**2 / 2, lambda e: e),
    "bce_ova": of_output(lambda z, y: soft_positive(z) - y * z, lambda z, y: special.expit(z) - y),
    "sparsemax": matched(lambda z: entmax(z, alpha=2.0), lambda: 2.0),
    "entmax15": matched(lambda z: entmax(z, alpha=1.5), lambda: 1.5),
    "entmax": matched(entmax, lambda alpha: alpha),
    # regularized
    "label_smoothing": behind_softmax(
        lambda p, y, epsilon: (1 - epsilon) * -summed(y * np.log(p)) - epsilon * np.log(p).mean(-1),
        lambda p, y, epsilon: (epsilon - 1) * y - epsilon / p.shape[-1],
    ),
    "confidence_penalty": behind_softmax(
        lambda p, y, beta: -summed(y * np.log(p)) - beta * summed(special.entr(p)),
        lambda p, y, beta: -y + beta * p * (np.log(p) + 1),
    ),
    "logit_penalty": ClosedForm(
        lambda z, y, beta: summed(beta / 2 * z**2 - y * special.log_softmax(z, -1)),
        lambda z, y, beta: special.softmax(z, -1) - y + beta * z,
    ),
    "logit_norm": of_direction(lambda tau: 1 / tau),
    "cosine_softmax": of_direction(lambda scale: scale),
    "z_loss": ClosedForm(
        lambda z, y, c: c * special.logsumexp(z, -1) ** 2 - summed(y * special.log_softmax(z, -1)),
        lambda z, y, c: (
            (1 + 2 * c * special.logsumexp(z, -1, keepdims=True)) * special.softmax(z, -1) - y
        ),
    ),
    "softcap": ClosedForm(
        lambda z, y, cap: -summed(y * special.log_softmax(cap * np.tanh(z / cap), -1)),
        lambda z, y, cap: (special.softmax(cap * np.tanh(z / cap), -1) - y) / np.cosh(z / cap) ** 2,
    ),
    "stablemax": ClosedForm(
        lambda z, y: -summed(y * np.log(stable_shares(z))),
        lambda z, y: (stable_shares(z) - y) / (1 + np.abs(z)),
    ),
    "distillation": ClosedForm(
        lambda z, y, temperature: (
            temperature**2
            * summed(
                special.xlogy(softened(y, temperature), softened(y, temperature))
                - softened(y, temperature) * special.log_softmax(z / temperature, -1)
            )
        ),
        lambda z, y, temperature: (
            temperature * (special.softmax(z / temperature, -1) - softened(y, temperature))
        ),
    ),
    # robust
    "mae_probs": behind_softmax(
        lambda p, y: summed(np.abs(p - y)), lambda p, y: p * np.sign(p - y)
    ),
    "unhinged": behind_softmax(lambda p, y: summed(y * (1 - p)), lambda p, y: -y * p),
    "gce": behind_softmax(lambda p, y, q: summed(y * (1 - p**q)) / q, lambda p, y, q: -y * p**q),
    "rce": behind_softmax(
        lambda p, y, log_zero: -summed(p * cut_log(y, log_zero)),
        lambda p, y, log_zero: -p * cut_log(y, log_zero),
    ),
    "sce": behind_softmax(
        lambda p, y, alpha, beta, log_zero: (
            -summed(alpha * y * np.log(p) + beta * p * cut_log(y, log_zero))
        ),
        lambda p, y, alpha, beta, log_zero: -alpha * y - beta * p * cut_log(y, log_zero),
    ),
    "nce": ClosedForm(nce, nce_gradient),
    "nce_mae": nce_and(lambda p, y: summed(np.abs(p - y)), lambda p, y: p * np.sign(p - y)),
    "nce_rce": nce_and(
        lambda p, y, log_zero: -summed(p * cut_log(y, log_zero)),
        lambda p, y, log_zero: -p * cut_log(y, log_zero),
    ),
    "taylor_ce": behind_softmax(
        lambda p, y, t: summed(y * sum((1 - p) ** i / i for i in range(1, t + 1))),
        lambda p, y, t: y * np.expm1(t * np.log1p(-p)),
    ),
    "phuber_ce": behind_softmax(
        lambda p, y, tau: summed(
            y * np.where(tau * p > 1, -np.log(p), np.log(tau) - (tau * p - 1))
        ),
        lambda p, y, tau: -y * np.minimum(1, tau * p),
    ),
    "bi_tempered": ClosedForm(bi_tempered, bi_tempered_gradient),
    # divergence
    "js": behind_softmax(
        lambda p, y: (
            summed(special.rel_entr(p, (p + y) / 2) + special.rel_entr(y, (p + y) / 2)) / 2
        ),
        lambda p, y: p * np.log(2 * p / (p + y)) / 2,
    ),
    "jsd": behind_softmax(
        lambda p, y, beta: summed(
            beta * special.rel_entr(y, mixed(p, y, beta))
            + (1 - beta) * special.rel_entr(p, mixed(p, y, beta))
        ),
        lambda p, y, beta: (
            beta * skew_slope(p, y, beta) + (1 - beta) * skew_reverse_slope(p, y, 1 - beta)
        ),
    ),
    "forward_kl": behind_softmax(lambda p, y: summed(special.rel_entr(y, p)), lambda p, y: -y),
    "skew_kl": behind_softmax(
        lambda p, y, alpha: summed(special.rel_entr(y, mixed(p, y, alpha))), skew_slope
    ),
    "skew_reverse_kl": behind_softmax(
        lambda p, y, alpha: summed(special.rel_entr(p, mixed(p, y, 1 - alpha))), skew_reverse_slope
    ),
    "hellinger": behind_softmax(
        lambda p, y: summed((np.sqrt(p) - np.sqrt(y)) ** 2) / 2, lambda p, y: -np.sqrt(p * y) / 2
    ),
    "bhattacharyya": behind_softmax(
        lambda p, y: -np.log(summed(np.sqrt(p * y))),
        lambda p, y: -np.sqrt(p * y) / np.sqrt(p * y).sum(-1, keepdims=True) / 2,
    ),
    "reverse_kl": behind_softmax(
        lambda p, y, log_zero: summed(p * (np.log(p) - cut_log(y, log_zero))),
        lambda p, y, log_zero: p * (np.log(p) + 1 - cut_log(y, log_zero)),
    ),
    "chi2": behind_softmax(
        lambda p, y: (summed(y**2 * exp(-np.log(p))) - 1) / 2,
        lambda p, y: -(y**2) * exp_slope(-np.log(p)) / 2,
    ),
    "dice": behind_softmax(
        lambda p, y: summed((p - y) ** 2) / summed(p**2 + y**2),
        lambda p, y: (
            2
            * p
            * (2 * p * (p * y).sum(-1, keepdims=True) - y * (p**2 + y**2).sum(-1, keepdims=True))
            / (p**2 + y**2).sum(-1, keepdims=True) ** 2
        ),
    ),
    # weighted
    "focal": behind_softmax(
        lambda p, y, gamma: -summed(y * (1 - p) ** gamma * np.log(p)),
        lambda p, y, gamma: y * focal_slope(p, gamma),
    ),
    "poly1": behind_softmax(
        lambda p, y, epsilon: summed(y * (epsilon * (1 - p) - np.log(p))),
        lambda p, y, epsilon: -y * (1 + epsilon * p),
    ),
    "asl": behind_softmax(asl, asl_slope),
    "dft": behind_softmax(lambda p, y: -summed(y * p * np.log(p)), lambda p, y: -y * p),
    "eaft": ClosedForm(
        lambda z, y, k: -summed(of_entropy(z, k) * y * special.log_softmax(z, -1)),
        lambda z, y, k: of_entropy(z, k) * (special.softmax(z, -1) - y),
    ),
    "unlikelihood": ClosedForm(
        lambda z, y, alpha: (
            -summed(y * log_softmax(z) + alpha * (1 - y) * np.log(-np.expm1(log_softmax(z))))
        ),
        unlikelihood_gradient,
    ),
    "class_balanced": behind_softmax(
        lambda p, y, beta, counts: -summed(effective_weights(counts, beta) * y * np.log(p)),
        lambda p, y, beta, counts: -effective_weights(counts, beta) * y,
    ),
    "ldam": ClosedForm(ldam, ldam_gradient),
    "logit_adjusted": ClosedForm(
        lambda z, y, tau, counts: -summed(y * special.log_softmax(z + tau * log_prior(counts), -1)),
        lambda z, y, tau, counts: special.softmax(z + tau * log_prior(counts), -1) - y,
    ),
    # margin
    "crammer_singer": of_leads(lambda x: np.maximum(x, 0), lambda x: x > 0, only_best=True),
    "crammer_singer_squared": of_leads(
        lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0), only_best=True
    ),
    "weston_watkins": of_leads(lambda x: np.maximum(x, 0), lambda x: x > 0),
    "weston_watkins_squared": of_leads(
        lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0)
    ),
    "exponential": behind_softmax(
        lambda p, y: summed(y * exp(-np.log(p))) - 1, lambda p, y: -y * exp_slope(-np.log(p))
    ),
    "ova_hinge": of_margin(lambda v: np.maximum(1 - v, 0), lambda v: -1.0 * (v < 1)),
    "ova_squared_hinge": of_margin(
        lambda v: np.maximum(1 - v, 0) ** 2, lambda v: -2 * np.maximum(1 - v, 0)
    ),
    "ova_exponential": of_margin(lambda v: exp(-v), lambda v: -exp_slope(-v)),
    "savage": of_margin(
        lambda v: 1 / (1 + np.exp(2 * v)) ** 2,
        lambda v: -4 * special.expit(-2 * v) ** 2 * special.expit(2 * v),
    ),
    "tangent": of_margin(
        lambda v: (2 * np.arctan(v) - 1) ** 2,
        lambda v: 4 * (2 * np.arctan(v) - 1) / (1 + v**2),
    ),
}


# What the tests run over and start from.


def spelled(params: Params) -> str:
    return ",".join(f"{name}={value:g}" for name, value in params.items()) or "defaults"


LOSS_AND_TARGET = [
    pytest.param(loss, kind == "hard", id=f"{loss.name}-{kind}")
    for loss in LOSSES.values()
    for kind in (("dense", "hard") if loss.task == "classification" else ("dense",))
]
each_loss_and_target = pytest.mark.parametrize(("loss", "is_hard"), LOSS_AND_TARGET)


def value_and_gradient(
    loss: Loss,
    output: Tensor,
    target: Tensor,
    params: Params = NO_PARAMS,
    context: Context | None = None,
) -> tuple[Tensor, Tensor]:
    output = output.detach().clone().requires_grad_()
    value = loss.values(output, target, params, context)
    return value.detach(), torch.autograd.grad(value.sum(), output)[0]


def assert_equals_the_closed_form(
    loss: Loss,
    output: Tensor,
    target: Tensor,
    params: Params = NO_PARAMS,
    context: Context | None = None,
) -> None:
    assert loss.name in CLOSED_FORMS, f"add the formula of {loss.name} to CLOSED_FORMS"
    form, z, y = CLOSED_FORMS[loss.name], output.numpy(), target.numpy()
    given = dict(loss.defaults) | dict(params)
    if loss.needs_context:
        counts = np.logspace(3, 1, y.shape[-1]) if context is None else context.class_counts.numpy()
        given["counts"] = counts
    # What cancels in either arithmetic is a square of the output at most.
    near = 1e-14 * max(10.0, float(output.square().max()))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value, gradient = form.value(z, y, **given), form.gradient(z, y, **given)
    ours = value_and_gradient(loss, output, target, params, context)
    np.testing.assert_allclose(ours[0].numpy(), value, rtol=1e-12, atol=near, err_msg="value")
    np.testing.assert_allclose(ours[1].numpy(), gradient, rtol=1e-12, atol=near, err_msg="gradient")


# The truth from elsewhere: closed forms and finite differences.


def test_every_parameter_is_compared_at_two_values_that_are_not_its_default():
    defaults = {loss.name: set(loss.defaults) for loss in LOSSES.values() if loss.defaults}
    assert {name: set(others) for name, others in OTHER_VALUES.items()} == defaults
    for name, others in OTHER_VALUES.items():
        for parameter, values in others.items():
            assert len({*values} - {LOSSES[name].defaults[parameter]}) >= 2, (name, parameter)


@pytest.mark.parametrize(
    ("loss", "is_hard", "params"),
    [
        pytest.param(*case.values, params, id=f"{case.id}-{spelled(params)}")
        for case in LOSS_AND_TARGET
        for params in variants(case.values[0])
    ],
)
def test_value_and_output_gradient_equal_the_closed_form(loss, is_hard, params):
    for scale in (2.0,) if params else (0.3, 1.0, 30.0):
        output, target = examples(loss, 60, CLASSES, scale=scale, is_hard=is_hard)
        assert_equals_the_closed_form(loss, output, target, params)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("is_hard", [False, True], ids=["dense", "hard"])
@each_loss_with_context
def test_value_and_output_gradient_equal_the_closed_form_at_other_class_counts(
    loss, is_hard, counts
):
    output, target = examples(loss, 60, CLASSES, is_hard=is_hard)
    context = context_of(counts, like=target)
    for params in variants(loss):
        assert_equals_the_closed_form(loss, output, target, params, context)


CURVATURE_AT_TARGET = {
    "cosh": 1.0,
    "pseudo_huber": 1.0,
    "barron": 1.0,
    "cauchy": 1.0,
    "geman_mcclure": 1.0,
    "welsch": 1.0,
    "tukey": 1.0,
    "linex": 1.0,
    "student_t": 1.25,
}


@pytest.mark.parametrize("name", CURVATURE_AT_TARGET)
def test_a_tiny_error_costs_half_its_square_times_the_curvature_without_cancellation(name):
    # Both signs, so that a third power of the error cancels.
    error = 1e-7 * torch.tensor([[1, 2, 3, -1, -2, -3]], dtype=torch.float64)
    value = float(LOSSES[name].values(error, torch.zeros_like(error)))
    assert value == pytest.approx(CURVATURE_AT_TARGET[name] / 2 * 28e-14, rel=1e-6, abs=0)


@each_regression_loss
def test_a_regression_loss_is_a_sum_over_outputs_so_doubling_them_doubles_it(loss):
    output, target = examples(loss, 20, 3)
    # All outputs, then how sure they are: a plain concatenation would mix the two.
    twice = output.unflatten(-1, (loss.outputs_per_target, 3)).repeat(1, 1, 2).flatten(-2)
    doubled = loss.values(twice, torch.cat([target, target], -1))
    torch.testing.assert_close(doubled, 2 * loss.values(output, target), rtol=1e-14, atol=0)


# The contract of every row: finite, of the right shape and type, pure, batched.


def on_sphere(z: Tensor, radius: float) -> Tensor:
    """The output moved along (1, ..., 1) until it has this norm, or as near as it comes."""
    centred = z - z.mean(-1, keepdim=True)
    missing = radius**2 - centred.square().sum(-1, keepdim=True)
    return centred + (missing.clamp(min=0.0) / z.shape[-1]).sqrt()


def inverted(loss: Loss, target: Tensor) -> Tensor:
    """An output whose prediction is the target; for a zero behind an exponential, almost."""
    given = loss.defaults
    inverses: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": lambda y: y,
        "exp": torch.log,
        "softplus": lambda y: y.expm1().log(),
        **dict.fromkeys(PLACED, loss.placed),
        "softmax": torch.log,
        "doubled_softmax": lambda y: y.log() / 2,
        "scaled_softmax": lambda y: y.log() / given["s"],
        "normalized_softmax": lambda y: on_sphere(y.log().clamp(min=-1e4), 1 / given["tau"]),
        "cosine_softmax": lambda y: on_sphere(y.log().clamp(min=-1e4), given["scale"]),
        "softcapped_softmax": lambda y: (
            given["cap"] * (y.log().clamp(min=-0.98 * given["cap"]) / given["cap"]).atanh()
        ),
        "stablemax": lambda y: torch.where(y > 1e-3, 1e3 * y - 1, 1 - 1e-3 / y),
        "sparsemax": lambda y: y,
        "entmax15": lambda y: 2 * y.sqrt(),
        "entmax": lambda y: y ** (given["alpha"] - 1) / (given["alpha"] - 1),
        "tempered_softmax": lambda y: y ** (1 - given["t2"]) / (1 - given["t2"]),
        "sigmoid": torch.logit,
        "doubled_sigmoid": lambda y: y.logit() / 2,
        "half_margin": lambda y: 2 * y - 1,
        "tangent": lambda y: (y - 0.5).tan(),
    }
    return inverses[loss.inverse_link](target).clamp(-1e4, 1e4)


def assert_is_finite(
    loss: Loss, output: Tensor, target: Tensor, params: Params = NO_PARAMS
) -> None:
    """Of the value and the gradient, in every floating-point type."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        value, gradient = value_and_gradient(loss, output.to(dtype), target.to(dtype), params)
        assert value.isfinite().all(), (dtype, params)
        assert gradient.isfinite().all(), (dtype, params)


@each_loss_and_target
def test_value_and_gradient_are_finite_up_to_outputs_of_ten_thousand(loss, is_hard):
    output, target = examples(loss, 40, CLASSES, is_hard=is_hard)
    up_to_one = torch.cat([output / output.abs().amax(), output.sign()])
    sized = torch.cat([size * up_to_one for size in (0.0, 1e-30, 1.0, 50.0, 1e4)])
    for params in variants(loss):
        assert_is_finite(loss, sized, target.repeat(10, 1), params)


@each_loss_and_target
def test_single_precision_agrees_with_double_precision(loss, is_hard):
    output, target = (t.float() for t in examples(loss, 60, CLASSES, scale=3.0, is_hard=is_hard))
    double = value_and_gradient(loss, output.double(), target.double())
    for ours, truth in zip(value_and_gradient(loss, output, target), double, strict=True):
        near = 1e-6 * float(truth.abs().max())
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=near)


def confidently_wrong(loss: Loss, classes: int) -> Iterator[tuple[Array, Array]]:
    """Outputs and targets at growing distance, in numbers that float32 has.

    In classification the output of a wrong class leads all others by so much; then it and the
    negatives of all others are about so large. The target is a label, one that is smoothed, and any
    distribution. In regression the output is too large by so much.
    """
    distance = np.linspace(0.03, 60.0, 123)[:, None]
    output, target = (tensor.numpy() for tensor in examples(loss, len(distance), classes))
    target = target.astype(np.float32)
    if loss.task == "regression":
        # From the target itself, and never at it, where some have a corner.
        output[:, :classes] = target + distance
        yield output.astype(np.float32).astype(float), target.astype(float)
        return
    label = np.broadcast_to(np.eye(classes)[1], target.shape)
    leads = np.concatenate([output[:, 1:].max(-1, keepdims=True) + distance, output[:, 1:]], -1)
    apart = np.concatenate([distance, -distance - np.abs(output[:, 1:])], -1)
    smoothed = (0.9 * label + 0.1 / classes).astype(np.float32)
    for placed, aim in product((leads, apart), (label, smoothed, target)):
        yield placed.astype(np.float32).astype(float), aim.astype(float)


@each_loss
def test_the_gradient_is_right_where_the_output_is_confidently_wrong(loss):
    # In float64 as well: there a probability rounds to 1 from a lead of 37 on.
    for classes in (2, 5, 10):
        for output, target in confidently_wrong(loss, classes):
            given = dict(loss.defaults)
            if loss.needs_context:
                given["counts"] = np.logspace(3, 1, classes)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
                truth = CLOSED_FORMS[loss.name].gradient(output, target, **given)
                error = loss.predict(torch.tensor(output)) - torch.tensor(target)
            for dtype in (torch.float32, torch.float64):
                z, y = torch.tensor(output, dtype=dtype), torch.tensor(target, dtype=dtype)
                gradient = value_and_gradient(loss, z, y)[1]
                off = np.abs(gradient.double().numpy() - truth).max(-1)
                # Below 1e-36 float32 itself has few digits.
                assert (off <= 1e-3 * np.abs(truth).max(-1) + 1e-36).all(), (dtype, classes)
                if not loss.has_error:
                    continue
                # So the cosine that is recorded is that of the true gradient and the true error.
                signal = torch.tensor(truth[:, : target.shape[-1]])
                recorded = probes.cosine(gradient[:, : target.shape[-1]], loss.predict(z) - y)
                is_known = signal.abs().amax(-1) > 1e-30
                torch.testing.assert_close(
                    recorded[is_known].double(),
                    probes.cosine(signal, error)[is_known],
                    rtol=0,
                    atol=1e-3,
                )


@each_loss_and_target
def test_value_and_gradient_are_finite_where_prediction_equals_target(loss, is_hard):
    target = examples(loss, 40, CLASSES, is_hard=is_hard)[1]
    output = inverted(loss, target)
    torch.testing.assert_close(loss.predict(output), target, rtol=1e-9, atol=1e-4)
    assert_is_finite(loss, output, target)


@each_classification_loss
def test_value_and_gradient_are_finite_where_a_label_is_certainly_right_or_wrong(loss):
    for classes in (2, 5, 100):
        label = torch.eye(classes)[[0, 1]]
        dense = torch.full_like(label, 1 / classes)
        certain = torch.cat([label, -label, 2 * label - 1, 1 - 2 * label])
        targets = torch.cat([label, label.flip(0), dense])
        assert_is_finite(loss, 1e4 * certain.repeat(3, 1), targets.repeat_interleave(4, 0))


@each_loss
def test_value_is_one_per_example_and_keeps_the_dtype(loss):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        output, target = (tensor.to(dtype) for tensor in examples(loss, 3, 7, CLASSES))
        value, prediction = loss.values(output, target), loss.predict(output)
        assert value.shape == (3, 7)
        assert prediction.shape == target.shape
        assert value.dtype == prediction.dtype == dtype


@each_loss
def test_leading_dimensions_change_nothing(loss):
    output, target = examples(loss, 3, 4, CLASSES)
    looped = [loss.values(output[k, b], target[k, b]) for k in range(3) for b in range(4)]
    whole = loss.values(output, target).flatten()
    torch.testing.assert_close(whole, torch.stack(looped), rtol=1e-13, atol=1e-15)


@each_loss
def test_vmapped_gradient_equals_the_looped_one(loss):
    output, target = examples(loss, 6, CLASSES)
    vmapped = torch.vmap(torch.func.grad(loss.values))(output, target)
    looped = [value_and_gradient(loss, *pair)[1] for pair in zip(output, target, strict=True)]
    torch.testing.assert_close(vmapped, torch.stack(looped), rtol=1e-12, atol=1e-14)


@each_loss_with_context
def test_packed_members_with_class_counts_of_their_own_equal_looped_ones(loss):
    output, target = examples(loss, 3, 7, CLASSES, is_hard=True)
    counts = torch.tensor([*COUNTS.values()], dtype=torch.float64)
    packed = Context(class_counts=counts[:, None, :], rows=torch.arange(7))
    looped = [
        value_and_gradient(loss, z, y, context=context)
        for z, y, n in zip(output, target, counts, strict=True)
        for context in [Context(class_counts=n, rows=torch.arange(7))]
    ]
    values, gradients = (torch.stack(column) for column in zip(*looped, strict=True))
    together = value_and_gradient(loss, output, target, context=packed)
    torch.testing.assert_close(together, (values, gradients), rtol=1e-12, atol=1e-14)


@each_loss
def test_inputs_are_left_as_they_were(loss):
    output, target = examples(loss, 6, CLASSES)
    before = output.clone(), target.clone(), output._version, target._version
    loss.values(output, target)
    loss.predict(output)
    assert output.equal(before[0])
    assert target.equal(before[1])
    assert (output._version, target._version) == before[2:]


# The row: names, words, parameters, links, context.


@each_loss
def test_a_row_says_what_it_is_and_where_it_comes_from(loss):
    assert LOSSES[loss.name] is loss
    assert NAME.fullmatch(loss.name)
    assert loss.formula.strip()
    assert loss.source.strip()
    assert loss.family.strip()
    assert "Source:" not in (loss.fn.__doc__ or "")  # it stands once, in the row
    assert "context" not in loss.defaults
    for parameter in loss.defaults:
        assert f"        {parameter}: " in loss.fn.__doc__
    assert pickle.loads(pickle.dumps(loss)) == loss


@each_loss
def test_a_variant_has_its_parameters_as_defaults_and_survives_pickling(loss):
    output, target = examples(loss, 6, CLASSES)
    for params in variants(loss):
        variant = loss.at(**params)
        assert variant.defaults == loss.defaults | params
        assert (variant.name, variant.needs_context) == (loss.name, loss.needs_context)
        assert variant.link() == loss.link(params)
        assert variant.fn.__doc__ == loss.fn.__doc__
        copy = pickle.loads(pickle.dumps(variant))
        assert copy.defaults == variant.defaults
        for either in (variant, copy):
            assert either.values(output, target).equal(loss.values(output, target, params))
            assert either.predict(output).equal(loss.predict(output, params))


def test_a_variant_of_a_parameter_the_loss_does_not_have_is_refused_by_name():
    assert LOSSES["sce"].at(alpha=3.0).at(beta=0.5).defaults["alpha"] == 3.0
    with pytest.raises(ValueError, match="sce has no parameter 'detla': use one of"):
        LOSSES["sce"].at(detla=1.0)
    with pytest.raises(ValueError, match="has no parameter 'context'"):
        LOSSES["ldam"].at(context=None)


@pytest.mark.parametrize(
    ("name", "params", "link"),
    [
        ("mse", {}, ("identity",)),
        ("gce", {"q": 0.3}, ("softmax",)),
        ("entmax", {"alpha": 1.7}, ("entmax", ("alpha", 1.7))),
        ("bi_tempered", {}, ("tempered_softmax", ("t2", 1.4))),
        ("bi_tempered", {"t1": 0.5, "t2": 2.0}, ("tempered_softmax", ("t2", 2.0))),
        ("logit_norm", {"tau": 1.0}, ("normalized_softmax", ("tau", 1.0))),
        ("cosine_softmax", {}, ("cosine_softmax", ("scale", 20.0))),
        ("ldam", {"max_m": 0.1, "s": 10.0}, ("scaled_softmax", ("s", 10.0))),
    ],
)
def test_a_link_names_the_parameters_it_shares_with_its_loss_and_no_others(name, params, link):
    assert LOSSES[name].link(params) == link


def test_a_loss_that_asks_for_no_context_does_not_see_the_one_it_is_given():
    output, target = examples(LOSSES["focal"], 6, CLASSES)
    context = context_of([1.0] * CLASSES, like=target)
    given = LOSSES["focal"].values(output, target, context=context)
    assert given.equal(LOSSES["focal"].values(output, target))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inverse_link", "logit"),
        ("task", "ranking"),
        ("domain", "complex"),
        ("fn", "Huber-Tight"),
    ],
)
def test_a_row_with_a_word_that_is_not_ours_is_refused_by_value(field, value):
    def renamed(output: Tensor, target: Tensor) -> Tensor:
        return output - target

    renamed.__name__ = value
    wrong = {field: renamed if field == "fn" else value}
    with pytest.raises(ValueError, match=f"'{value}': use"):
        replace(LOSSES["mse"], **wrong)


# The developer's tool beside these tests.


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_replaces_text_that_occurs_exactly_once(mutation):
    assert (mutations.SOURCES / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert mutation.loss in LOSSES
