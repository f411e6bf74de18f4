"""Every loss that somebody else implements against that implementation: values and gradients."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from scipy.spatial import distance
from sklearn import metrics
from sklearn._loss import loss as sklearn_loss
from sklearn.linear_model import _sgd_fast as sgd
from torch import Tensor
from torch.distributions import Categorical, StudentT
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


@dataclass(frozen=True)
class Oracle:
    """Another's implementation of a loss.

    `fn` is `(output [B, C], target [B, C], **params) -> loss per example [B]`, with all parameters
    of the loss and, where it asks for a context, `counts`.

    Args:
        fn: In torch for the packages in `DIFFERENTIABLE`, else in numpy.
        settings: What to set; what is left out is at the loss's default.
        labels: Whether it takes labels only.
        classes: Number of outputs at which it has a counterpart here.
        near: Relative tolerance, and absolute one for values of order one.
        reason: Why the tolerance is wider than 1e-10.
    """

    fn: Callable[..., Any]
    settings: tuple[Mapping[str, Any], ...] = ({},)
    labels: bool = False
    classes: int = CLASSES
    near: float = 1e-10
    reason: str = ""


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


def student_t(z: Tensor, y: Tensor, df: float, scale: float) -> Tensor:
    noise = StudentT(df, z, scale)
    return (noise.log_prob(z) - noise.log_prob(y)).sum(-1)


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


def barron(z: Tensor, y: Tensor, alpha: float, c: float) -> Tensor:
    special_cases = {
        1.0: kornia.charbonnier_loss,
        0.0: kornia.cauchy_loss,
        -2.0: kornia.geman_mcclure_loss,
    }
    return special_cases[alpha](z / c, y / c).sum(-1)


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


ORACLES: dict[str, dict[str, Oracle]] = {
    # power
    "mse": {
        "torch": Oracle(lambda z, y: summed(functional.mse_loss, z, y) / 2),
        "scikit-learn": Oracle(
            lambda z, y: elementwise(sklearn_loss.HalfSquaredError().loss, y, z)
        ),
    },
    "mae": {
        "torch": Oracle(lambda z, y: summed(functional.l1_loss, z, y)),
        "scikit-learn": Oracle(lambda z, y: elementwise(sklearn_loss.AbsoluteError().loss, y, z)),
    },
    "quartic": {"torch": Oracle(lambda z, y: torch.linalg.vector_norm(z - y, 4, -1) ** 4 / 4)},
    "lp": {
        "torch": Oracle(
            lambda z, y, p: torch.linalg.vector_norm(z - y, p, -1) ** p / p,
            settings=({}, {"p": 1.2}, {"p": 3.0}),
        )
    },
    "cosh": {
        # Its binary exponential loss of a coin's toss is the hyperbolic cosine.
        "scikit-learn": Oracle(
            lambda z, y: (
                elementwise(sklearn_loss.ExponentialLoss().loss, np.full_like(z, 0.5), z - y)
                - z.shape[-1]
            )
        ),
    },
    "quartic_probs": {
        "torch": Oracle(lambda z, y: torch.linalg.vector_norm(p(z) - y, 4, -1) ** 4 / 4)
    },
    "rescaled_square": {
        "torch": Oracle(
            lambda z, y, k, M: summed(functional.mse_loss, z, M * y, weight=1 + (k - 1) * y),
            settings=({}, {"k": 1.0, "M": 1.0}, {"k": 5.0}),
            labels=True,
        )
    },
    # monotone
    "huber": {
        "torch": Oracle(
            lambda z, y, delta: summed(functional.huber_loss, z, y, delta=delta),
            settings=({}, {"delta": 0.1}, {"delta": 3.7}),
        ),
        "scipy": Oracle(
            lambda z, y, delta: special.huber(delta, z - y).sum(-1),
            settings=({}, {"delta": 0.1}, {"delta": 3.7}),
        ),
        "statsmodels": Oracle(
            lambda z, y, delta: norms.HuberT(delta).rho(z - y).sum(-1),
            settings=({}, {"delta": 0.1}, {"delta": 3.7}),
        ),
    },
    "smooth_l1": {
        "torch": Oracle(
            lambda z, y, beta: summed(functional.smooth_l1_loss, z, y, beta=beta),
            settings=({}, {"beta": 0.1}, {"beta": 3.7}),
        )
    },
    "pseudo_huber": {
        "scipy": Oracle(
            lambda z, y, delta: special.pseudo_huber(delta, z - y).sum(-1),
            settings=({}, {"delta": 0.1}, {"delta": 3.7}),
        ),
        "kornia": Oracle(
            lambda z, y, delta: delta**2 * kornia.charbonnier_loss(z / delta, y / delta).sum(-1),
            settings=({}, {"delta": 0.1}, {"delta": 3.7}),
        ),
    },
    "log_cosh": {
        "keras": Oracle(
            lambda z, y: keras.losses.log_cosh(y, z) * z.shape[-1],
            near=1e-6,
            reason="it takes its mean in float32",
        )
    },
    "eps_insensitive": {
        "torch": Oracle(
            lambda z, y, epsilon: functional.softshrink(z - y, epsilon).abs().sum(-1),
            settings=({}, {"epsilon": 0.0}, {"epsilon": 0.8}),
        ),
        "scikit-learn": Oracle(
            lambda z, y, epsilon: stochastic(sgd.EpsilonInsensitive(epsilon), z, y),
            settings=({}, {"epsilon": 0.8}),
        ),
    },
    "barron": {
        "scipy": Oracle(
            lambda z, y, alpha, c: (
                (2 - alpha)
                / 2
                * special.boxcox1p(((z - y) / c) ** 2 / (2 - alpha), alpha / 2).sum(-1)
            ),
            settings=({}, {"alpha": 1.5}, {"alpha": 0.0}, {"alpha": -7.0, "c": 0.3}),
        ),
        "kornia": Oracle(
            barron, settings=({}, {"alpha": 0.0}, {"alpha": -2.0}, {"alpha": -2.0, "c": 0.3})
        ),
    },
    # redescending
    "cauchy": {
        "scipy": Oracle(cauchy, settings=({}, {"c": 0.3}, {"c": 3.0})),
        "kornia": Oracle(
            lambda z, y, c: c**2 / 2 * kornia.cauchy_loss(2**0.5 * z / c, 2**0.5 * y / c).sum(-1),
            settings=({}, {"c": 0.3}, {"c": 3.0}),
        ),
    },
    "geman_mcclure": {
        "kornia": Oracle(
            lambda z, y, c: kornia.geman_mcclure_loss(z / c, y / c).sum(-1),
            settings=({}, {"c": 0.3}, {"c": 3.0}),
        )
    },
    "welsch": {
        "kornia": Oracle(
            lambda z, y, c: kornia.welsch_loss(z / c, y / c).sum(-1),
            settings=({}, {"c": 0.3}, {"c": 3.0}),
        )
    },
    "tukey": {
        "statsmodels": Oracle(
            lambda z, y, c: norms.TukeyBiweight(c).rho(z - y).sum(-1),
            settings=({}, {"c": 0.7}, {"c": 2.0}),
        )
    },
    # asymmetric
    "pinball": {
        "scikit-learn": Oracle(
            lambda z, y, tau: elementwise(sklearn_loss.PinballLoss(quantile=tau).loss, y, z),
            settings=({}, {"tau": 0.1}, {"tau": 0.5}),
        ),
        "scoringrules": Oracle(
            lambda z, y, tau: scoringrules.quantile_score(y, z, tau).sum(-1),
            settings=({}, {"tau": 0.1}, {"tau": 0.5}),
        ),
    },
    "expectile": {
        "statsmodels": Oracle(
            lambda z, y, tau: (
                2
                * elementwise(
                    lambda too_little, _: norms.MQuantileNorm(tau, norms.LeastSquares()).rho(
                        too_little
                    ),
                    y - z,
                    y,
                )
            ),
            settings=({}, {"tau": 0.1}, {"tau": 0.5}),
        )
    },
    "linex": {
        # Poisson's deviance from a count of 1, of the log rate a e.
        "torch": Oracle(
            lambda z, y, a: (
                summed(functional.poisson_nll_loss, a * (z - y), torch.ones_like(z)) - z.shape[-1]
            ),
            settings=({}, {"a": -1.5}, {"a": 0.2}),
        ),
        "scikit-learn": Oracle(
            lambda z, y, a: (
                elementwise(sklearn_loss.HalfPoissonLoss().loss, np.ones_like(z), a * (z - y))
                - z.shape[-1]
            ),
            settings=({}, {"a": -1.5}, {"a": 0.2}),
        ),
    },
    # likelihood
    "poisson_nll": {
        "torch": Oracle(lambda z, y: summed(functional.poisson_nll_loss, z, y)),
        "scikit-learn": Oracle(lambda z, y: elementwise(sklearn_loss.HalfPoissonLoss().loss, y, z)),
    },
    "gaussian_nll": {
        "torch": Oracle(gaussian_nll, settings=({}, {"eps": 1e-3})),
        "scoringrules": Oracle(
            lambda z, y, eps: (
                scoringrules.logs_normal(y, gaussian(z)[0], gaussian(z)[1] ** 0.5)
                - np.log(2 * np.pi) / 2
            ).sum(-1),
            settings=({}, {"eps": 1e-3}),
        ),
    },
    "student_t": {
        "torch": Oracle(student_t, settings=({}, {"df": 1.0}, {"df": 30.0, "scale": 0.3})),
        "scipy": Oracle(
            lambda z, y, df, scale: (
                stats.t.logpdf(0, df, scale=scale) - stats.t.logpdf(y, df, z, scale)
            ).sum(-1),
            settings=({}, {"df": 1.0}, {"df": 30.0, "scale": 0.3}),
        ),
        "statsmodels": Oracle(
            lambda z, y, df, scale: (
                (df + 1) / (df * scale**2) * norms.StudentT(scale, df).rho(z - y).sum(-1)
            ),
            settings=({}, {"df": 1.0}, {"df": 30.0, "scale": 0.3}),
        ),
        "scoringrules": Oracle(
            lambda z, y, df, scale: (
                scoringrules.logs_t(y, df, z, scale) - scoringrules.logs_t(z, df, z, scale)
            ).sum(-1),
            settings=({}, {"df": 1.0}, {"df": 30.0, "scale": 0.3}),
        ),
    },
    "msle": {
        "scikit-learn": Oracle(
            lambda z, y: (
                z.shape[-1] * one_by_one(metrics.mean_squared_log_error, y, np.logaddexp(0, z))
            )
        ),
        "keras": Oracle(
            lambda z, y: (
                z.shape[-1]
                * keras.losses.mean_squared_logarithmic_error(
                    y, functional.softplus(z, threshold=50.0)
                )
            ),
            near=1e-6,
            reason="it takes its mean in float32",
        ),
    },
    # proper
    "cross_entropy": {
        "torch": Oracle(cross_entropy),
        "scikit-learn": Oracle(
            lambda z, y: sklearn_loss.HalfMultinomialLoss(n_classes=z.shape[-1]).loss(
                c(y).astype(float), z
            ),
            labels=True,
        ),
        "timm": Oracle(lambda z, y: one_by_one(timm.SoftTargetCrossEntropy(), z, y)),
    },
    "brier": {
        "scikit-learn": Oracle(
            lambda z, y: one_by_one(
                lambda c, p: metrics.brier_score_loss(
                    c, p, scale_by_half=False, labels=range(p.shape[-1])
                ),
                c(y),
                special.softmax(z, -1),
            ),
            labels=True,
        ),
        "scoringrules": Oracle(
            lambda z, y: scoringrules.brier_score(y, special.softmax(z, -1)).sum(-1), labels=True
        ),
    },
    "mse_sigmoid": {
        "torch": Oracle(lambda z, y: summed(functional.mse_loss, z.sigmoid(), y) / 2),
        "scoringrules": Oracle(
            lambda z, y: scoringrules.brier_score(y, special.expit(z)).sum(-1) / 2, labels=True
        ),
    },
    "spherical": {
        "torch": Oracle(lambda z, y: 1 - functional.cosine_similarity(p(z), y), labels=True),
    },
    "tsallis": {
        # The tempered logarithm of index 2 - q, behind a softmax that is not tempered.
        "pytorch-optimizer": Oracle(
            lambda z, y, q: (
                q * theirs.bi_tempered_logistic_loss(z, y, 2 - q, 1.0, reduction="none")
            ),
            settings=({}, {"q": 1.1}, {"q": 2.0}),
            labels=True,
            near=1e-8,
            reason="it adds 1e-10 to the target",
        )
    },
    # matching
    "mse_logits": {"torch": Oracle(lambda z, y: summed(functional.mse_loss, z, y) / 2)},
    "bce_ova": {
        "torch": Oracle(lambda z, y: summed(functional.binary_cross_entropy_with_logits, z, y)),
        "timm": Oracle(
            lambda z, y: one_by_one(timm.BinaryCrossEntropy(smoothing=0.0, sum_classes=True), z, y)
        ),
    },
    "sparsemax": {"entmax": Oracle(lambda z, y: entmax.sparsemax_loss(z, c(y)), labels=True)},
    "entmax15": {"entmax": Oracle(lambda z, y: entmax.entmax15_loss(z, c(y)), labels=True)},
    "entmax": {
        "entmax": Oracle(
            lambda z, y, alpha: entmax.entmax_bisect_loss(z, c(y), alpha, 60),
            settings=({}, {"alpha": 1.05}, {"alpha": 1.5}, {"alpha": 1.9}),
            labels=True,
        )
    },
    # regularized
    "label_smoothing": {
        "torch": Oracle(
            lambda z, y, epsilon: cross_entropy(z, y, label_smoothing=epsilon),
            settings=({}, {"epsilon": 0.0}, {"epsilon": 0.4}),
        ),
        "timm": Oracle(
            lambda z, y, epsilon: one_by_one(timm.LabelSmoothingCrossEntropy(epsilon), z, c(y)),
            settings=({}, {"epsilon": 0.0}, {"epsilon": 0.4}),
            labels=True,
        ),
    },
    "confidence_penalty": {
        "torch": Oracle(
            lambda z, y, beta: cross_entropy(z, y) - beta * Categorical(logits=z).entropy(),
            settings=({}, {"beta": 0.7}),
        )
    },
    "logit_penalty": {
        "torch": Oracle(
            lambda z, y, beta: (
                cross_entropy(z, y) + beta / 2 * torch.linalg.vector_norm(z, dim=-1) ** 2
            ),
            settings=({}, {"beta": 0.5}),
        )
    },
    "logit_norm": {
        "torch": Oracle(
            lambda z, y, tau: cross_entropy(functional.normalize(z) / tau, y),
            settings=({}, {"tau": 1.0}),
        )
    },
    "cosine_softmax": {
        "torch": Oracle(
            lambda z, y, scale: cross_entropy(
                scale * functional.cosine_similarity(z[:, None, :], torch.eye(z.shape[-1]), -1), y
            ),
            settings=({}, {"scale": 5.0}),
        )
    },
    # robust
    "mae_probs": {"torch": Oracle(lambda z, y: summed(functional.l1_loss, p(z), y))},
    "unhinged": {
        "torch": Oracle(
            lambda z, y: 1 + functional.nll_loss(p(z), c(y), reduction="none"), labels=True
        )
    },
    "gce": {
        "keras": Oracle(
            lambda z, y, q: keras.losses.categorical_generalized_cross_entropy(c(y), p(z), q),
            settings=({}, {"q": 0.1}, {"q": 0.95}),
            labels=True,
        )
    },
    "rce": {"torch": Oracle(rce, settings=({}, {"log_zero": -9.21}))},
    "sce": {
        "torch": Oracle(
            lambda z, y, alpha, beta, log_zero: (
                alpha * cross_entropy(z, y) + beta * rce(z, y, log_zero)
            ),
            settings=({}, {"alpha": 6.0, "beta": 0.1}, {"log_zero": -9.21}),
        )
    },
    "nce": {"torch": Oracle(nce)},
    "nce_mae": {
        "torch": Oracle(
            lambda z, y, alpha, beta: (
                alpha * nce(z, y) + beta * summed(functional.l1_loss, p(z), y)
            ),
            settings=({}, {"alpha": 10.0, "beta": 0.1}),
        )
    },
    "nce_rce": {
        "torch": Oracle(
            lambda z, y, alpha, beta, log_zero: alpha * nce(z, y) + beta * rce(z, y, log_zero),
            settings=({}, {"alpha": 10.0, "beta": 0.1}, {"log_zero": -9.21}),
        )
    },
    "taylor_ce": {
        # The distribution function of the logarithmic series, whose terms are those of -log p.
        "scipy": Oracle(
            lambda z, y, t: (
                y * -special.log_softmax(z, -1) * stats.logser.cdf(t, 1 - special.softmax(z, -1))
            ).sum(-1),
            settings=({}, {"t": 1}, {"t": 6}),
        )
    },
    "bi_tempered": {
        "pytorch-optimizer": Oracle(
            lambda z, y, t1, t2: theirs.bi_tempered_logistic_loss(
                z, y, t1, t2, num_iters=100, reduction="none"
            ),
            settings=({}, {"t1": 0.2}, {"t2": 2.0}, {"t1": 0.5, "t2": 0.5}),
            near=1e-8,
            reason="it adds 1e-10 to the target",
        )
    },
    # divergence
    "js": {
        "scipy": Oracle(
            lambda z, y: distance.jensenshannon(special.softmax(z, -1), y, axis=-1) ** 2
        ),
        "kornia": Oracle(
            lambda z, y: kornia.js_div_loss_2d(
                map_of_one_row(p(z)), map_of_one_row(y), reduction="none"
            ).squeeze(-1)
        ),
    },
    "hellinger": {
        "torch": Oracle(
            lambda z, y: functional.cosine_embedding_loss(
                p(z).sqrt(), y.sqrt(), torch.ones(len(z)), reduction="none"
            ),
            near=1e-8,
            reason="it adds 1e-12 to the squared norms",
        ),
        "scipy": Oracle(
            lambda z, y: np.array(
                [
                    distance.sqeuclidean(one, other) / 2
                    for one, other in zip(np.sqrt(special.softmax(z, -1)), np.sqrt(y), strict=True)
                ]
            )
        ),
    },
    "bhattacharyya": {
        "torch": Oracle(
            lambda z, y: -functional.cosine_similarity(p(z).sqrt(), y.sqrt()).log(),
        )
    },
    "reverse_kl": {
        "torch": Oracle(reverse_kl, settings=({}, {"log_zero": -9.21})),
        "scipy": Oracle(
            lambda z, y, log_zero: special.rel_entr(special.softmax(z, -1), cut(y, log_zero)).sum(
                -1
            ),
            settings=({}, {"log_zero": -9.21}),
        ),
    },
    "chi2": {
        "scipy": Oracle(lambda z, y: stats.chisquare(y, special.softmax(z, -1), axis=-1)[0] / 2)
    },
    # weighted
    "focal": {
        "torchvision": Oracle(
            lambda z, y, gamma: torchvision.sigmoid_focal_loss(
                z[:, 0] - z[:, 1], y[:, 0], alpha=-1, gamma=gamma
            ),
            settings=({}, {"gamma": 0.5}, {"gamma": 5.0}),
            labels=True,
            classes=2,
        ),
        "keras": Oracle(
            lambda z, y, gamma: keras.losses.categorical_focal_crossentropy(
                y, p(z), alpha=1.0, gamma=gamma
            ),
            settings=({}, {"gamma": 0.5}, {"gamma": 5.0}),
        ),
        "kornia": Oracle(
            lambda z, y, gamma: kornia.focal_loss(z, c(y), alpha=None, gamma=gamma).sum(-1),
            settings=({}, {"gamma": 0.5}, {"gamma": 5.0}),
            labels=True,
        ),
    },
    "poly1": {
        "timm": Oracle(
            lambda z, y, epsilon: timm.PolyCrossEntropy(epsilon, reduction="none")(z, y),
            settings=({}, {"epsilon": -1.0}, {"epsilon": 5.0}),
            near=1e-5,
            reason="it computes in float32",
        )
    },
    "asl": {
        "timm": Oracle(
            lambda z, y, gamma_pos, gamma_neg, eps: timm.AsymmetricLossSingleLabel(
                gamma_pos, gamma_neg, eps, reduction="none"
            )(z, c(y)),
            settings=({}, {"gamma_pos": 2.5}, {"gamma_neg": 2.0}, {"eps": 0.3}, {"eps": 0.0}),
            labels=True,
        )
    },
    "class_balanced": {
        "torch": Oracle(
            lambda z, y, beta, counts: cross_entropy(z, c(y), weight=class_weights(counts, beta)),
            settings=({}, {"beta": 0.99}),
            labels=True,
        )
    },
    "ldam": {
        "pytorch-optimizer": Oracle(
            lambda z, y, max_m, s, counts: one_by_one(
                theirs.LDAMLoss(counts.tolist(), max_m, s=s), z, c(y)
            ),
            settings=({}, {"max_m": 2.0}, {"s": 5.0}),
            labels=True,
            near=1e-5,
            reason="its margins are float32",
        )
    },
    "logit_adjusted": {
        "torch": Oracle(
            lambda z, y, tau, counts: cross_entropy(z + tau * Categorical(counts).logits, y),
            settings=({}, {"tau": 2.0}),
        )
    },
    # margin
    "crammer_singer": {
        "scikit-learn": Oracle(
            lambda z, y: one_by_one(
                lambda c, z: metrics.hinge_loss(c, z, labels=range(z.shape[-1])), c(y), z
            ),
            labels=True,
        )
    },
    "crammer_singer_squared": {
        "scikit-learn": Oracle(
            lambda z, y: one_by_one(
                lambda c, z: metrics.hinge_loss(c, z, labels=range(z.shape[-1])) ** 2, c(y), z
            ),
            labels=True,
        )
    },
    "weston_watkins": {
        "torch": Oracle(
            lambda z, y: z.shape[-1] * functional.multi_margin_loss(z, c(y), reduction="none"),
            labels=True,
        )
    },
    "weston_watkins_squared": {
        "torch": Oracle(
            lambda z, y: z.shape[-1] * functional.multi_margin_loss(z, c(y), p=2, reduction="none"),
            labels=True,
        )
    },
    "exponential": {"scikit-learn": Oracle(pairwise_exponential, labels=True)},
    "ova_hinge": {
        "torch": Oracle(
            lambda z, y: summed(
                functional.hinge_embedding_loss, signs(y) * z, torch.full_like(z, -1)
            ),
            labels=True,
        ),
        "scikit-learn": Oracle(lambda z, y: stochastic(sgd.Hinge(1.0), z, signs(y)), labels=True),
        "keras": Oracle(
            lambda z, y: z.shape[-1] * keras.losses.hinge(signs(y), z),
            labels=True,
            near=1e-6,
            reason="it takes its mean in float32",
        ),
    },
    "ova_squared_hinge": {
        "scikit-learn": Oracle(
            lambda z, y: stochastic(sgd.SquaredHinge(1.0), z, signs(y)), labels=True
        ),
        "keras": Oracle(
            lambda z, y: z.shape[-1] * keras.losses.squared_hinge(signs(y), z),
            labels=True,
            near=1e-6,
            reason="it takes its mean in float32",
        ),
    },
    "ova_exponential": {
        "scikit-learn": Oracle(lambda z, y: elementwise(sklearn_loss.ExponentialLoss().loss, y, z))
    },
    "savage": {
        # Brier's score of the link's prediction, class by class.
        "torch": Oracle(
            lambda z, y: summed(functional.mse_loss, (2 * z).sigmoid(), y), labels=True
        ),
        "scoringrules": Oracle(
            lambda z, y: scoringrules.brier_score(y, special.expit(2 * z)).sum(-1), labels=True
        ),
    },
    "tangent": {
        "torch": Oracle(
            lambda z, y: summed(functional.mse_loss, 2 * z.atan(), signs(y)), labels=True
        )
    },
}

each_oracle = pytest.mark.parametrize(
    ("loss", "package", "oracle"),
    [
        pytest.param(LOSSES[name], package, oracle, id=f"{name}-{package}")
        for name, oracles in ORACLES.items()
        for package, oracle in oracles.items()
    ],
)


def examples(loss: Loss, classes: int, *, is_hard: bool) -> tuple[Tensor, Tensor]:
    """Twenty outputs and targets."""
    generator = torch.Generator().manual_seed(0)
    shape = (20, classes * loss.outputs_per_target)
    output = torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randn((20, classes), generator=generator, dtype=torch.float64)
    if loss.task == "regression":
        return output, target.abs() if loss.domain == "nonnegative" else target
    hard = functional.one_hot(target.argmax(-1), classes).double()
    return output, hard if is_hard else target.softmax(-1)


def contexts(loss: Loss, target: Tensor) -> list[dict[str, Any]]:
    """Keyword arguments: the loss's context, or none for one that asks for none."""
    if not loss.needs_context:
        return [{}]
    counts = (torch.tensor(counts, dtype=target.dtype) for counts in COUNTS)
    return [{"context": Context(class_counts=n, rows=torch.tensor(-1))} for n in counts]


def given(loss: Loss, setting: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """All of the loss's parameters, and the counts of its context if it has one."""
    counts = {"counts": context["context"].class_counts} if context else {}
    return {**loss.defaults, **setting, **counts}


def gradient(value: Tensor, output: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), output)[0]


@each_oracle
def test_value_and_gradient_are_those_of_the_other_implementation(loss, package, oracle):
    for is_hard in (True,) if oracle.labels or loss.task == "regression" else (True, False):
        output, target = examples(loss, oracle.classes, is_hard=is_hard)
        for setting in oracle.settings:
            for context in contexts(loss, target):
                params = given(loss, setting, context)
                z, other_z = (output.clone().requires_grad_() for _ in range(2))
                value = loss.values(z, target, setting, **context)
                near = {"rtol": oracle.near, "atol": oracle.near}
                if package not in DIFFERENTIABLE:
                    other = oracle.fn(output.numpy(), target.numpy(), **params)
                    np.testing.assert_allclose(value.detach().numpy(), other, **near)
                    continue
                other = oracle.fn(other_z, target, **params)
                torch.testing.assert_close(value, other.to(value.dtype), **near)
                torch.testing.assert_close(gradient(value, z), gradient(other, other_z), **near)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_a_row_names_the_packages_it_is_compared_with_and_no_others(loss):
    named = set(filter(None, loss.oracle.split(", ")))
    assert named == set(ORACLES.get(loss.name, {}))


def test_what_is_compared_is_in_the_catalog():
    assert set(ORACLES) <= set(LOSSES)


@each_oracle
def test_a_loss_with_parameters_is_compared_at_its_defaults_and_elsewhere(loss, package, oracle):
    assert oracle.settings[0] == {}
    assert len(oracle.settings) > 1 or not loss.defaults
    for setting in oracle.settings:
        assert setting.keys() <= loss.defaults.keys()


@each_oracle
def test_a_tolerance_beyond_ten_decimals_has_a_reason(loss, package, oracle):
    assert (oracle.near > 1e-10) == bool(oracle.reason)
