"""Relations between losses: duplicates, special cases and limits, each of them tested.

Two losses count as equal if their output gradients are equal up to a factor. Up to that factor,
such losses differ at most by a term of the target alone; with learning rates in the inverse ratio,
such losses train alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Relation:
    """`loss` at `params` is `factor` times `other` at `other_params`.

    Args:
        loss: Name of the first loss.
        params: Parameters of `loss` that are not the defaults.
        other: Name of the second loss.
        other_params: Parameters of `other` that are not the defaults.
        factor: Output gradient of `loss` divided by that of `other`.
        on: "every target", or "labels" if the relation holds on hard labels only.
        limit: Limit of a parameter, like "q → 0"; `params` lie near the limit. Empty for an
            identity.
    """

    loss: str
    other: str
    params: Mapping[str, float] = field(default_factory=dict)
    other_params: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0
    on: str = "every target"
    limit: str = ""

    @property
    def is_duplicate(self) -> bool:
        """Whether the relation is an identity of the two losses at their default parameters."""
        return not (self.params or self.other_params or self.limit)

    @property
    def sentence(self) -> str:
        """Text like "mae_probs = 2 unhinged on labels" or "gce → cross_entropy as q → 0"."""
        where = "" if self.on == "every target" else f" on {self.on}"
        other = _named(self.other, self.other_params)
        if self.limit:
            return f"{self.loss} → {other} as {self.limit}{where}"
        factor = "" if self.factor == 1.0 else f"{self.factor:g} "
        return f"{_named(self.loss, self.params)} = {factor}{other}{where}"


def related(loss: str) -> list[Relation]:
    """Relations that contain the loss of that name."""
    return [relation for relation in RELATIONS if loss in (relation.loss, relation.other)]


def _named(loss: str, params: Mapping[str, float]) -> str:
    given = ", ".join(f"{name}={value:g}" for name, value in params.items())
    return f"{loss}({given})" if given else loss


RELATIONS = (
    # regression
    Relation("lp", "mae", {"p": 1.0}),
    Relation("lp", "mse", {"p": 2.0}),
    Relation("lp", "quartic", {"p": 4.0}),
    Relation("huber", "mse", {"delta": 1e9}, limit="delta → ∞"),
    Relation("smooth_l1", "huber"),
    Relation("smooth_l1", "huber", {"beta": 0.5}, {"delta": 0.5}, factor=2.0),
    Relation("smooth_l1", "mae", {"beta": 1e-9}, limit="beta → 0"),
    Relation("pseudo_huber", "mse", {"delta": 1e5}, limit="delta → ∞"),
    Relation("eps_insensitive", "mae", {"epsilon": 0.0}),
    Relation("barron", "mse", {"alpha": 2.0}),
    Relation("barron", "pseudo_huber"),
    Relation("barron", "cauchy", {"alpha": 0.0}, {"c": 2**0.5}),
    Relation("barron", "geman_mcclure", {"alpha": -2.0}),
    Relation("barron", "welsch", {"alpha": -1e9}, limit="alpha → -∞"),
    Relation("cauchy", "mse", {"c": 1e5}, limit="c → ∞"),
    Relation("tukey", "mse", {"c": 1e5}, limit="c → ∞"),
    Relation("student_t", "mse", {"df": 1e9}, limit="df → ∞"),
    Relation("student_t", "cauchy", {"df": 1.0}, factor=2.0),
    Relation("pinball", "mae", {"tau": 0.5}, factor=0.5),
    Relation("expectile", "mse", {"tau": 0.5}),
    Relation("beta_nll", "gaussian_nll", {"beta": 0.0}),
    # classification: equal to cross entropy
    Relation("bhattacharyya", "cross_entropy", factor=0.5, on="labels"),
    Relation("gce", "cross_entropy", {"q": 1e-8}, limit="q → 0"),
    Relation("tsallis", "cross_entropy", {"q": 1.0 + 1e-8}, limit="q → 1"),
    Relation("taylor_ce", "cross_entropy", {"t": 5000}, limit="t → ∞"),
    Relation("phuber_ce", "cross_entropy", {"tau": 1e9}, limit="tau → ∞"),
    Relation("focal", "cross_entropy", {"gamma": 0.0}),
    Relation("poly1", "cross_entropy", {"epsilon": 0.0}),
    Relation("bi_tempered", "cross_entropy", {"t1": 1.0, "t2": 1.0}),
    Relation("entmax", "cross_entropy", {"alpha": 1.0}),
    Relation("label_smoothing", "cross_entropy", {"epsilon": 0.0}),
    Relation("confidence_penalty", "cross_entropy", {"beta": 0.0}),
    Relation("logit_penalty", "cross_entropy", {"beta": 0.0}),
    Relation("class_balanced", "cross_entropy", {"beta": 0.0}),
    Relation("logit_adjusted", "cross_entropy", {"tau": 0.0}),
    Relation("ldam", "cross_entropy", {"max_m": 0.0, "s": 1.0}),
    Relation("forward_kl", "cross_entropy"),
    Relation("z_loss", "cross_entropy", {"c": 0.0}),
    Relation("softcap", "cross_entropy", {"cap": 1e5}, limit="cap → ∞"),
    Relation("distillation", "cross_entropy", {"temperature": 1.0}),
    Relation("unlikelihood", "cross_entropy", {"alpha": 0.0}),
    Relation("skew_kl", "cross_entropy", {"alpha": 1e-9}, limit="alpha → 0"),
    # classification: linear in p
    Relation("dft", "unhinged"),
    Relation("mae_probs", "unhinged", factor=2.0, on="labels"),
    Relation("rce", "unhinged", factor=4.0, on="labels"),
    Relation("gce", "unhinged", {"q": 1.0}),
    Relation("taylor_ce", "unhinged", {"t": 1}),
    # classification: the rest
    Relation("tsallis", "brier", {"q": 2.0}),
    Relation("entmax", "entmax15", {"alpha": 1.5}),
    Relation("entmax", "sparsemax", {"alpha": 2.0}),
    Relation("rescaled_square", "mse_logits", {"k": 1.0, "M": 1.0}, factor=2.0),
    Relation("exponential", "chi2", factor=2.0, on="labels"),
    Relation("jsd", "js", {"beta": 0.5}),
    Relation("hellinger", "gce", other_params={"q": 0.5}, factor=0.5, on="labels"),
    Relation("sce", "poly1", other_params={"epsilon": 40.0}, factor=0.1, on="labels"),
    Relation("nce_mae", "nce_rce", other_params={"beta": 0.5}, on="labels"),
    Relation("cosine_softmax", "logit_norm", other_params={"tau": 0.05}),
    Relation("asl", "focal", {"gamma_pos": 2.0, "eps": 0.0}),
    Relation("asl", "label_smoothing", {"gamma_neg": 0.0}),
)
