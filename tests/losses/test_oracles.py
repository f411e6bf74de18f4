"""Every loss that somebody else implements against that implementation: values and gradients."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import Params, context_of, examples, variants
from scipy import optimize, special, stats
from scipy.spatial import distance
from sklearn import metrics
from sklearn._loss import loss as sklearn_loss
from sklearn.linear_model import _sgd_fast as sgd
from torch import Tensor
from torch.distributions import Categorical, Normal, StudentT
from torch.nn import functional

from lossbench.losses import LOSSES
from lossbench.losses.spec import Context, Loss

FOREIGN = (
    *("statsmodels.robust.norms", "entmax", "timm.loss", "kornia.losses"),
    *("pytorch_optimizer.loss", "scoringrules", "keras"),
)
"""What the extra `oracles` installs: with none of it tests are skipped, with some they fail."""

if not any(find_spec(name.partition(".")[0]) for name in FOREIGN):
    pytest.skip("no oracles: pip install -e '.[oracles]'", allow_module_level=True)


def imported(name: str) -> ModuleType:
    """Another's module; what it warns of while it loads is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_HOME"] = os.devnull  # or it reads and writes a file in the user's home
norms, entmax, timm, kornia, theirs, scoringrules, keras = map(imported, FOREIGN)
torchvision = imported("torchvision.ops")
keras.config.set_floatx("float64")

DIFFERENTIABLE = {
    *("torch", "torchvision", "entmax", "timm", "kornia", "pytorch-optimizer", "keras")
}
"""Packages that compute in torch, whose gradients are compared too. The others are given numpy."""

CLASSES = 5
COUNTS = ([1000.0, 400.0, 90.0, 25.0, 10.0], [3.0, 700.0, 50.0, 1.0, 12.0])


# Short words for the table: p is the softmax, c the label, [B].


def p(z: Tensor) -> Tensor:
    return z.softmax(-1)


def c(y: Any) -> Any:
    return y.argmax(-1)


def signs(y: Any) -> Any:
    return 2 * y - 1


def summed(fn: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A torch loss of every element, summed over outputs."""
    return fn(*args, reduction="none", **kwargs).sum(-1)


def one_by_one(fn: Callable[..., Any], *columns: Any) -> Any:
    """For an implementation that only gives the mean over examples."""
    results = [fn(*(column[i : i + 1] for column in columns)) for i in range(len(columns[0]))]
    return torch.stack(results) if isinstance(results[0], Tensor) else np.array(results)


def elementwise(fn: Callable[..., Any], one: Any, other: Any) -> Any:
    """An implementation for vectors on every pair of elements, summed over outputs."""
    flat = fn(np.ascontiguousarray(one.ravel()), np.ascontiguousarray(other.ravel()))
    return np.asarray(flat).reshape(one.shape).sum(-1)


def cross_entropy(z: Tensor, y: Tensor, **kwargs: Any) -> Tensor:
    return functional.cross_entropy(z, y, reduction="none", **kwargs)


def cut(y: Any, log_zero: float) -> Any:
    return y.clip(np.exp(log_zero))


def reverse_kl(z: Tensor, y: Tensor, log_zero: float) -> Tensor:
    return summed(functional.kl_div, cut(y, log_zero).log(), p(z))


def rce(z: Tensor, y: Tensor, log_zero: float) -> Tensor:
    return reverse_kl(z, y, log_zero) + Categorical(logits=z).entropy()


def nce(z: Tensor, y: Tensor) -> Tensor:
    each = [cross_entropy(z, torch.full_like(c(y), k)) for k in range(z.shape[-1])]
    return cross_entropy(z, y) / sum(each)


def gaussian(z: Any) -> tuple[Any, Any]:
    """Mean and variance."""
    half = z.shape[-1] // 2
    return z[:, :half], (torch.exp if isinstance(z, Tensor) else np.exp)(z[:, half:])


def gaussian_nll(z: Tensor, y: Tensor, eps: float) -> Tensor:
    mean, variance = gaussian(z)
    return summed(functional.gaussian_nll_loss, mean, y, var=variance, eps=eps)


def by_level(z: Any) -> list[tuple[float, Any]]:
    """Levels and the quantiles there, from the outputs: the median first."""
    levels = sorted((place / 20 for place in range(1, 20)), key=lambda level: level != 0.5)
    return [*zip(levels, np.split(z, 19, -1), strict=True)]


def hl_gauss(z: Tensor, y: Tensor, low: float, high: float, sigma: float) -> Tensor:
    """As in Farebrother et al. 2024, with the normal distribution and cross entropy of torch."""
    support = torch.linspace(low, high, 52, dtype=z.dtype)
    law = Normal(y.clamp(low, high).unsqueeze(-1), sigma * (high - low) / 51)
    cdf = law.cdf(support)
    share = cdf.diff() / (cdf[..., -1:] - cdf[..., :1])
    logits = z.unflatten(-1, (51, -1))  # [B, n, C]
    return functional.cross_entropy(logits, share.mT, reduction="none").sum(-1)


def student_t(z: Tensor, y: Tensor, df: float, scale: float) -> Tensor:
    noise = StudentT(df, z, scale)
    return (noise.log_prob(z) - noise.log_prob(y)).sum(-1)


def mixed(p: Any, y: Any, alpha: float) -> Any:
    return alpha * y + (1 - alpha) * p


def class_weights(counts: Any, beta: float) -> Any:
    weight = (1 - beta) / (1 - beta**counts)
    return len(weight) * weight / weight.sum()


def cauchy(z: Any, y: Any, c: float) -> Any:
    def cost(error: Any) -> float:
        fit = optimize.least_squares(
            lambda x: error + 0 * x, x0=[0.0], loss="cauchy", f_scale=c, max_nfev=1
        )
        return fit.cost

    return np.array([cost(error) for error in z - y])


BARRON_AT = {
    1.0: kornia.charbonnier_loss,
    0.0: kornia.cauchy_loss,
    -2.0: kornia.geman_mcclure_loss,
}


def multiclass_hinge(z: Any, y: Any) -> Any:
    labels = range(z.shape[-1])
    return one_by_one(lambda c, z: metrics.hinge_loss(c, z, labels=labels), c(y), z)


def pairwise_exponential(z: Any, y: Any) -> Any:
    leads = z[np.arange(len(z)), c(y)][:, None] - z
    others = elementwise(sklearn_loss.ExponentialLoss().loss, np.ones_like(z), leads)
    return others - 1  # less the label against itself


def stochastic(fn: Any, z: Any, y: Any) -> Any:
    """A loss of scikit-learn's stochastic gradient descent, which takes two numbers."""
    return np.vectorize(fn.py_loss)(z, y).sum(-1)


def map_of_one_row(column: Tensor) -> Tensor:
    """A distribution as the heat map that an image library wants: [B, 1, 1, C]."""
    return column[:, None, None, :]


NOT_AT = {
    "barron-scipy": [{"alpha": 2.0}, {"alpha": 1e-9}, {"alpha": 2.0, "c": 0.3}],  # 0 / 0
    "barron-kornia": [  # it has three members of the family
        *({"alpha": alpha} for alpha in (2.0, 1.5, 1e-9)),
        {"alpha": 2.0, "c": 0.3},
    ],
    # They leave a variance below its floor, or the gradient there, as it is.
    "gaussian_nll-torch": [{"eps": 0.5}],
    "gaussian_nll-scoringrules": [{"eps": 0.5}],
    "beta_nll-torch": [{"eps": 0.5}],
    "gaussian_crps-scoringrules": [{"eps": 0.5}],
}
"""Parameters at which a package has not the same loss."""

ONLY_LABELS = {
    *("rescaled_square", "tsallis", "sparsemax", "entmax15", "entmax", "unhinged", "gce", "asl"),
    *("class_balanced", "ldam", "crammer_singer", "crammer_singer_squared", "weston_watkins"),
    *("weston_watkins_squared", "exponential", "ova_hinge", "ova_squared_hinge", "savage"),
    *("tangent", "brier", "spherical", "cross_entropy-scikit-learn", "mse_sigmoid-scoringrules"),
    *("label_smoothing-timm", "focal-torchvision", "focal-kornia", "dft"),
}
"""Losses, or what one package has of them, that the other implementations take labels for only."""

TWO_CLASSES = {"focal-torchvision"}

TOLERANCES = {
    "log_cosh-keras": (1e-6, "it takes its mean in float32"),
    "msle-keras": (1e-6, "it takes its mean in float32"),
    "ova_hinge-keras": (1e-6, "it takes its mean in float32"),
    "ova_squared_hinge-keras": (1e-6, "it takes its mean in float32"),
    "tsallis-pytorch-optimizer": (1e-8, "it adds 1e-10 to the target"),
    "bi_tempered-pytorch-optimizer": (1e-8, "it adds 1e-10 to the target"),
    "hellinger-torch": (1e-8, "it adds 1e-12 to the squared norms"),
    "poly1-timm": (1e-5, "it computes in float32"),
    "ldam-pytorch-optimizer": (1e-5, "its margins are float32"),
}
"""Relative, and absolute for values of order one, where it is wider than 1e-10, and why."""

# Each is (output [B, C], target [B, C], **params) -> loss per example [B], with all parameters of
# the loss and, where it asks for a context, `counts`: in torch for packages in DIFFERENTIABLE.
ORACLES: dict[str, Callable[..., Any]] = {
    # power
    "mse-torch": lambda z, y: summed(functional.mse_loss, z, y) / 2,
    "mse-scikit-learn": lambda z, y: elementwise(sklearn_loss.HalfSquaredError().loss, y, z),
    "mae-torch": lambda z, y: summed(functional.l1_loss, z, y),
    "mae-scikit-learn": lambda z, y: elementwise(sklearn_loss.AbsoluteError().loss, y, z),
    "quartic-torch": lambda z, y: torch.linalg.vector_norm(z - y, 4, -1) ** 4 / 4,
    "lp-torch": lambda z, y, p: torch.linalg.vector_norm(z - y, p, -1) ** p / p,
    # Its binary exponential loss of a coin's toss is the hyperbolic cosine.
    "cosh-scikit-learn": lambda z, y: (
        elementwise(sklearn_loss.ExponentialLoss().loss, 0 * z + 0.5, z - y) - z.shape[-1]
    ),
    "quartic_probs-torch": lambda z, y: torch.linalg.vector_norm(p(z) - y, 4, -1) ** 4 / 4,
    "rescaled_square-torch": lambda z, y, k, M: summed(
        functional.mse_loss, z, M * y, weight=1 + (k - 1) * y
    ),
    # monotone
    "huber-torch": lambda z, y, delta: summed(functional.huber_loss, z, y, delta=delta),
    "huber-scipy": lambda z, y, delta: special.huber(delta, z - y).sum(-1),
    "huber-statsmodels": lambda z, y, delta: norms.HuberT(delta).rho(z - y).sum(-1),
    "smooth_l1-torch": lambda z, y, beta: summed(functional.smooth_l1_loss, z, y, beta=beta),
    "pseudo_huber-scipy": lambda z, y, delta: special.pseudo_huber(delta, z - y).sum(-1),
    "pseudo_huber-kornia": lambda z, y, delta: (
        delta**2 * kornia.charbonnier_loss(z / delta, y / delta).sum(-1)
    ),
    "log_cosh-keras": lambda z, y: keras.losses.log_cosh(y, z) * z.shape[-1],
    "eps_insensitive-torch": lambda z, y, epsilon: (
        functional.softshrink(z - y, epsilon).abs().sum(-1)
    ),
    "eps_insensitive-scikit-learn": lambda z, y, epsilon: stochastic(
        sgd.EpsilonInsensitive(epsilon), z, y
    ),
    "barron-scipy": lambda z, y, alpha, c: (
        (1 - alpha / 2) * special.boxcox1p(((z - y) / c) ** 2 / (2 - alpha), alpha / 2).sum(-1)
    ),
    "barron-kornia": lambda z, y, alpha, c: BARRON_AT[alpha](z / c, y / c).sum(-1),
    # redescending
    "cauchy-scipy": cauchy,
    "cauchy-kornia": lambda z, y, c: (
        c**2 / 2 * kornia.cauchy_loss(2**0.5 * z / c, 2**0.5 * y / c).sum(-1)
    ),
    "geman_mcclure-kornia": lambda z, y, c: kornia.geman_mcclure_loss(z / c, y / c).sum(-1),
    "welsch-kornia": lambda z, y, c: kornia.welsch_loss(z / c, y / c).sum(-1),
    "tukey-statsmodels": lambda z, y, c: norms.TukeyBiweight(c).rho(z - y).sum(-1),
    # asymmetric
    "pinball-scikit-learn": lambda z, y, tau: elementwise(
        sklearn_loss.PinballLoss(quantile=tau).loss, y, z
    ),
    "pinball-scoringrules": lambda z, y, tau: scoringrules.quantile_score(y, z, tau).sum(-1),
    "quantiles-scikit-learn": lambda z, y: (
        sum(
            elementwise(sklearn_loss.PinballLoss(quantile=level).loss, y, quantile)
            for level, quantile in by_level(z)
        )
        * (2 / 19)
    ),
    "quantiles-scoringrules": lambda z, y: (
        2
        / 19
        * sum(scoringrules.quantile_score(y, one, level).sum(-1) for level, one in by_level(z))
    ),
    "expectile-statsmodels": lambda z, y, tau: elementwise(
        lambda missing, _: 2 * norms.MQuantileNorm(tau, norms.LeastSquares()).rho(missing), y - z, y
    ),
    # Poisson's deviance from a count of 1, of the log rate a e.
    "linex-torch": lambda z, y, a: (
        summed(functional.poisson_nll_loss, a * (z - y), torch.ones_like(z)) - z.shape[-1]
    ),
    "linex-scikit-learn": lambda z, y, a: (
        elementwise(sklearn_loss.HalfPoissonLoss().loss, 0 * z + 1, a * (z - y)) - z.shape[-1]
    ),
    # likelihood
    "poisson_nll-torch": lambda z, y: summed(functional.poisson_nll_loss, z, y),
    "poisson_nll-scikit-learn": lambda z, y: elementwise(sklearn_loss.HalfPoissonLoss().loss, y, z),
    "gaussian_nll-torch": gaussian_nll,
    "gaussian_nll-scoringrules": lambda z, y, eps: (
        scoringrules.logs_normal(y, gaussian(z)[0], gaussian(z)[1] ** 0.5) - np.log(2 * np.pi) / 2
    ).sum(-1),
    "beta_nll-torch": lambda z, y, beta, eps: (
        gaussian(z)[1].detach().clamp(min=eps) ** beta
        * functional.gaussian_nll_loss(
            gaussian(z)[0], y, var=gaussian(z)[1], eps=eps, reduction="none"
        )
    ).sum(-1),
    "gaussian_crps-scoringrules": lambda z, y, eps: scoringrules.crps_normal(
        y, gaussian(z)[0], gaussian(z)[1] ** 0.5
    ).sum(-1),
    "hl_gauss-torch": hl_gauss,
    "student_t-torch": student_t,
    "student_t-scipy": lambda z, y, df, scale: (
        stats.t.logpdf(0, df, scale=scale) - stats.t.logpdf(y, df, z, scale)
    ).sum(-1),
    "student_t-statsmodels": lambda z, y, df, scale: (
        (df + 1) / (df * scale**2) * norms.StudentT(scale, df).rho(z - y).sum(-1)
    ),
    "student_t-scoringrules": lambda z, y, df, scale: (
        scoringrules.logs_t(y, df, z, scale) - scoringrules.logs_t(z, df, z, scale)
    ).sum(-1),
    "msle-scikit-learn": lambda z, y: (
        z.shape[-1] * one_by_one(metrics.mean_squared_log_error, y, np.logaddexp(0, z))
    ),
    "msle-keras": lambda z, y: (
        keras.losses.mean_squared_logarithmic_error(y, functional.softplus(z, threshold=50.0))
        * z.shape[-1]
    ),
    # proper
    "cross_entropy-torch": cross_entropy,
    "cross_entropy-scikit-learn": lambda z, y: sklearn_loss.HalfMultinomialLoss(
        n_classes=z.shape[-1]
    ).loss(c(y).astype(float), z),
    "cross_entropy-timm": lambda z, y: one_by_one(timm.SoftTargetCrossEntropy(), z, y),
    "brier-scikit-learn": lambda z, y: one_by_one(
        lambda c, p: metrics.brier_score_loss(c, p, scale_by_half=False, labels=range(p.shape[-1])),
        c(y),
        special.softmax(z, -1),
    ),
    "brier-scoringrules": lambda z, y: scoringrules.brier_score(y, special.softmax(z, -1)).sum(-1),
    "rps-scoringrules": lambda z, y: scoringrules.rps_score(y, special.softmax(z, -1), onehot=True),
    "mse_sigmoid-torch": lambda z, y: summed(functional.mse_loss, z.sigmoid(), y) / 2,
    "mse_sigmoid-scoringrules": lambda z, y: (
        scoringrules.brier_score(y, special.expit(z)).sum(-1) / 2
    ),
    "spherical-torch": lambda z, y: 1 - functional.cosine_similarity(p(z), y),
    # The tempered logarithm of index 2 - q, behind a softmax that is not tempered.
    "tsallis-pytorch-optimizer": lambda z, y, q: (
        q * theirs.bi_tempered_logistic_loss(z, y, 2 - q, 1.0, reduction="none")
    ),
    # matching
    "mse_logits-torch": lambda z, y: summed(functional.mse_loss, z, y) / 2,
    "bce_ova-torch": lambda z, y: summed(functional.binary_cross_entropy_with_logits, z, y),
    "bce_ova-timm": lambda z, y: one_by_one(
        timm.BinaryCrossEntropy(smoothing=0.0, sum_classes=True), z, y
    ),
    "sparsemax-entmax": lambda z, y: entmax.sparsemax_loss(z, c(y)),
    "entmax15-entmax": lambda z, y: entmax.entmax15_loss(z, c(y)),
    "entmax-entmax": lambda z, y, alpha: entmax.entmax_bisect_loss(z, c(y), alpha, 60),
    # regularized
    "label_smoothing-torch": lambda z, y, epsilon: cross_entropy(z, y, label_smoothing=epsilon),
    "label_smoothing-timm": lambda z, y, epsilon: one_by_one(
        timm.LabelSmoothingCrossEntropy(epsilon), z, c(y)
    ),
    "confidence_penalty-torch": lambda z, y, beta: (
        cross_entropy(z, y) - beta * Categorical(logits=z).entropy()
    ),
    "logit_penalty-torch": lambda z, y, beta: (
        cross_entropy(z, y) + beta / 2 * torch.linalg.vector_norm(z, dim=-1) ** 2
    ),
    "logit_norm-torch": lambda z, y, tau: cross_entropy(functional.normalize(z) / tau, y),
    "cosine_softmax-torch": lambda z, y, scale: cross_entropy(
        scale * functional.cosine_similarity(z[:, None, :], torch.eye(z.shape[-1]), -1), y
    ),
    "z_loss-torch": lambda z, y, c: (
        cross_entropy(z, y) + c * (z - functional.log_softmax(z, -1)).mean(-1) ** 2
    ),
    "softcap-torch": lambda z, y, cap: cross_entropy(cap * (2 * (2 * z / cap).sigmoid() - 1), y),
    "stablemax-torch": lambda z, y: cross_entropy(torch.where(z < 0, 1 / (1 - z), 1 + z).log(), y),
    "distillation-torch": lambda z, y, temperature: (
        temperature**2
        * summed(
            functional.kl_div,
            functional.log_softmax(z / temperature, -1),
            (y.log() / temperature).softmax(-1),
        )
    ),
    # robust
    "mae_probs-torch": lambda z, y: summed(functional.l1_loss, p(z), y),
    "unhinged-torch": lambda z, y: 1 + functional.nll_loss(p(z), c(y), reduction="none"),
    "gce-keras": lambda z, y, q: keras.losses.categorical_generalized_cross_entropy(c(y), p(z), q),
    "rce-torch": rce,
    "sce-torch": lambda z, y, alpha, beta, log_zero: (
        alpha * cross_entropy(z, y) + beta * rce(z, y, log_zero)
    ),
    "nce-torch": nce,
    "nce_mae-torch": lambda z, y, alpha, beta: (
        alpha * nce(z, y) + beta * summed(functional.l1_loss, p(z), y)
    ),
    "nce_rce-torch": lambda z, y, alpha, beta, log_zero: (
        alpha * nce(z, y) + beta * rce(z, y, log_zero)
    ),
    # The distribution function of the logarithmic series, whose terms are those of -log p.
    "taylor_ce-scipy": lambda z, y, t: (
        y * -special.log_softmax(z, -1) * stats.logser.cdf(t, 1 - special.softmax(z, -1))
    ).sum(-1),
    "bi_tempered-pytorch-optimizer": lambda z, y, t1, t2: theirs.bi_tempered_logistic_loss(
        z, y, t1, t2, num_iters=100, reduction="none"
    ),
    # divergence
    "js-scipy": lambda z, y: distance.jensenshannon(special.softmax(z, -1), y, axis=-1) ** 2,
    "js-kornia": lambda z, y: kornia.js_div_loss_2d(
        map_of_one_row(p(z)), map_of_one_row(y), reduction="none"
    ).squeeze(-1),
    "jsd-scipy": lambda z, y, beta: (
        beta * special.rel_entr(y, mixed(special.softmax(z, -1), y, beta)).sum(-1)
        + (1 - beta)
        * special.rel_entr(special.softmax(z, -1), mixed(special.softmax(z, -1), y, beta)).sum(-1)
    ),
    "forward_kl-torch": lambda z, y: summed(functional.kl_div, functional.log_softmax(z, -1), y),
    "forward_kl-scipy": lambda z, y: special.rel_entr(y, special.softmax(z, -1)).sum(-1),
    "skew_kl-torch": lambda z, y, alpha: summed(functional.kl_div, mixed(p(z), y, alpha).log(), y),
    "skew_kl-scipy": lambda z, y, alpha: special.rel_entr(
        y, mixed(special.softmax(z, -1), y, alpha)
    ).sum(-1),
    "skew_reverse_kl-torch": lambda z, y, alpha: summed(
        functional.kl_div, mixed(p(z), y, 1 - alpha).log(), p(z)
    ),
    "skew_reverse_kl-scipy": lambda z, y, alpha: special.rel_entr(
        special.softmax(z, -1), mixed(special.softmax(z, -1), y, 1 - alpha)
    ).sum(-1),
    "hellinger-torch": lambda z, y: functional.cosine_embedding_loss(
        p(z).sqrt(), y.sqrt(), torch.ones(len(z)), reduction="none"
    ),
    "hellinger-scipy": lambda z, y: (
        np.diag(distance.cdist(np.sqrt(special.softmax(z, -1)), np.sqrt(y), "sqeuclidean")) / 2
    ),
    "bhattacharyya-torch": lambda z, y: -functional.cosine_similarity(p(z).sqrt(), y.sqrt()).log(),
    "reverse_kl-torch": reverse_kl,
    "reverse_kl-scipy": lambda z, y, log_zero: special.rel_entr(
        special.softmax(z, -1), cut(y, log_zero)
    ).sum(-1),
    "chi2-scipy": lambda z, y: stats.chisquare(y, special.softmax(z, -1), axis=-1)[0] / 2,
    # weighted
    "focal-torchvision": lambda z, y, gamma: torchvision.sigmoid_focal_loss(
        z[:, 0] - z[:, 1], y[:, 0], alpha=-1, gamma=gamma
    ),
    "focal-keras": lambda z, y, gamma: keras.losses.categorical_focal_crossentropy(
        y, p(z), alpha=1.0, gamma=gamma
    ),
    "focal-kornia": lambda z, y, gamma: kornia.focal_loss(z, c(y), alpha=None, gamma=gamma).sum(-1),
    "poly1-timm": lambda z, y, epsilon: timm.PolyCrossEntropy(epsilon, reduction="none")(z, y),
    "asl-timm": lambda z, y, gamma_pos, gamma_neg, eps: timm.AsymmetricLossSingleLabel(
        gamma_pos, gamma_neg, eps, reduction="none"
    )(z, c(y)),
    "dft-torch": lambda z, y: cross_entropy(z, y) * (-cross_entropy(z, y).detach()).exp(),
    "eaft-torch": lambda z, y, k: (
        cross_entropy(z, y)
        * Categorical(logits=z.topk(min(k, CLASSES)).values).entropy().detach()
        / np.log(min(k, CLASSES))
    ),
    "unlikelihood-torch": lambda z, y, alpha: (
        cross_entropy(z, y)
        + alpha * summed(functional.binary_cross_entropy, p(z), torch.zeros_like(z), weight=1 - y)
    ),
    "class_balanced-torch": lambda z, y, beta, counts: cross_entropy(
        z, c(y), weight=class_weights(counts, beta)
    ),
    "ldam-pytorch-optimizer": lambda z, y, max_m, s, counts: one_by_one(
        theirs.LDAMLoss(counts.tolist(), max_m, s=s), z, c(y)
    ),
    "logit_adjusted-torch": lambda z, y, tau, counts: cross_entropy(
        z + tau * Categorical(counts).logits, y
    ),
    # margin
    "crammer_singer-scikit-learn": multiclass_hinge,
    "crammer_singer_squared-scikit-learn": lambda z, y: multiclass_hinge(z, y) ** 2,
    "weston_watkins-torch": lambda z, y: (
        z.shape[-1] * functional.multi_margin_loss(z, c(y), reduction="none")
    ),
    "weston_watkins_squared-torch": lambda z, y: (
        z.shape[-1] * functional.multi_margin_loss(z, c(y), p=2, reduction="none")
    ),
    "exponential-scikit-learn": pairwise_exponential,
    "ova_hinge-torch": lambda z, y: summed(
        functional.hinge_embedding_loss, signs(y) * z, torch.full_like(z, -1)
    ),
    "ova_hinge-scikit-learn": lambda z, y: stochastic(sgd.Hinge(1.0), z, signs(y)),
    "ova_hinge-keras": lambda z, y: z.shape[-1] * keras.losses.hinge(signs(y), z),
    "ova_squared_hinge-scikit-learn": lambda z, y: stochastic(sgd.SquaredHinge(1.0), z, signs(y)),
    "ova_squared_hinge-keras": lambda z, y: z.shape[-1] * keras.losses.squared_hinge(signs(y), z),
    "ova_exponential-scikit-learn": lambda z, y: elementwise(
        sklearn_loss.ExponentialLoss().loss, y, z
    ),
    # Brier's score of the link's prediction, class by class.
    "savage-torch": lambda z, y: summed(functional.mse_loss, (2 * z).sigmoid(), y),
    "savage-scoringrules": lambda z, y: scoringrules.brier_score(y, special.expit(2 * z)).sum(-1),
    "tangent-torch": lambda z, y: summed(functional.mse_loss, 2 * z.atan(), signs(y)),
}


def settings_of(oracle: str) -> list[Params]:
    """Parameters at which an oracle is compared: the loss's defaults, and others."""
    left_out = NOT_AT.get(oracle, [])
    return [
        params for params in variants(LOSSES[oracle.partition("-")[0]]) if params not in left_out
    ]


def contexts(loss: Loss, target: Tensor) -> list[Context | None]:
    """Two contexts for a loss that asks for one, else none."""
    return [context_of(counts, like=target) for counts in COUNTS] if loss.needs_context else [None]


@pytest.mark.parametrize("oracle", ORACLES)
def test_value_and_gradient_are_those_of_the_other_implementation(oracle):
    name, _, package = oracle.partition("-")
    loss, classes = LOSSES[name], 2 if oracle in TWO_CLASSES else CLASSES
    near = dict.fromkeys(("rtol", "atol"), TOLERANCES.get(oracle, (1e-10, ""))[0])
    has_dense = loss.task == "classification" and not {name, oracle} & ONLY_LABELS
    for is_hard in (True, False) if has_dense else (True,):
        output, target = examples(loss, 20, classes, scale=1.0, is_hard=is_hard)
        for setting, context in product(settings_of(oracle), contexts(loss, target)):
            params = loss.defaults | setting
            params |= {"counts": context.class_counts} if context else {}
            z, other_z = (output.clone().requires_grad_() for _ in range(2))
            value = loss.values(z, target, setting, context)
            if package not in DIFFERENTIABLE:
                other = ORACLES[oracle](output.numpy(), target.numpy(), **params)
                np.testing.assert_allclose(value.detach().numpy(), other, **near)
                continue
            other = ORACLES[oracle](other_z, target, **params)
            torch.testing.assert_close(value, other.to(value.dtype), **near)
            gradients = (
                torch.autograd.grad(v.sum(), z)[0] for v, z in ((value, z), (other, other_z))
            )
            torch.testing.assert_close(*gradients, **near)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_a_row_names_the_packages_it_is_compared_with_and_no_others(loss):
    named = {f"{loss.name}-{package}" for package in filter(None, loss.oracle.split(", "))}
    assert named == {oracle for oracle in ORACLES if oracle.partition("-")[0] == loss.name}


def test_every_exception_in_the_tables_is_of_an_oracle():
    compared = {oracle.partition("-")[0] for oracle in ORACLES}
    assert NOT_AT.keys() | TOLERANCES.keys() | TWO_CLASSES <= ORACLES.keys()
    assert ORACLES.keys() | compared >= ONLY_LABELS
