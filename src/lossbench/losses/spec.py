"""Table row that describes a loss, and the context that a loss may ask for."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from lossbench.losses.distributions import DISTRIBUTIONS, Predicted
from lossbench.losses.links import INVERSE_LINKS, PLACED

TASKS = ("regression", "classification")
DOMAINS = ("real", "nonnegative")

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

NO_PARAMS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True)
class Context:
    """Information that a loss may use beside output and target.

    A loss asks for a context with a keyword-only parameter `context: Context` without default.
    Every call then passes a context; a configuration cannot set the parameter.

    Attributes:
        class_counts: Number of training examples of each class, broadcastable to the target
            [..., C]. For regression, meaningless sums of the targets.
        rows: Row of each example in the training split, broadcastable to the examples [...]; -1
            for examples of other splits. In sequences, every position counts as an example.
    """

    class_counts: Tensor
    rows: Tensor

    @staticmethod
    def outside_training(class_counts: Tensor) -> Context:
        """Context of examples that are not in the training split."""
        return Context(class_counts, rows=torch.tensor(-1, device=class_counts.device))

    @staticmethod
    def long_tailed(classes: int, *, like: Tensor) -> Context:
        """Context with long-tailed class counts, for measurements and figures outside training.

        The counts fall from 1000 for the first class to 10 for the last class in equal ratios: the
        imbalance of 100 that the literature on long tails uses (Cui et al. 2019, CVPR).
        """
        counts = torch.logspace(3, 1, classes, dtype=like.dtype, device=like.device)
        return Context.outside_training(counts)


@dataclass(frozen=True)
class Loss:
    """Table row of a loss: the function, whose name is the loss's name, and facts about the loss.

    Args:
        fn: `(output [..., C], target [..., C], *, params) -> loss per example [...]`. Pure, no
            reduction over examples, valid for any leading dimensions. May ask for a `Context`.
        inverse_link: Key of `INVERSE_LINKS`: the function from the output to the prediction.
        family: Family in which the loss is drawn and grouped.
        task: "regression" or "classification".
        formula: Loss in terms of the error e, the prediction p or f, the output z, the target y.
        claims: Names of the claims in `claims.CLAIMS` that hold; every other claim must fail.
        source: Publication that defines the loss.
        weight: For a local loss behind a softmax, the factor w in `output gradient = w (p - y)` on
            hard labels, as a formula in p, the prediction for the true class; empty otherwise.
        outputs_per_target: Number n of outputs of the model for each target. All W = nC outputs are
            side by side: the first output of every target, then the second output of every target,
            and so on. The first C outputs start as for other losses, the rest at zero.
        domain: Targets that the loss is made for: "real" or "nonnegative".
        oracle: Packages that implement the loss or its parts, with which the tests compare the
            loss; empty if there is none.
        distribution: Key of `DISTRIBUTIONS`: the predicted distribution of the target; empty if the
            loss predicts only a number or probabilities.
        quantile: Name of the parameter that is the level of the elicited quantile; empty if the
            loss elicits something else.
        unsound: Defects of a loss that can still be trained, a clause each. Measured for functions
            and rows that a user passes, but not for rows of `extensions`.

    Raises:
        ValueError: One of the names or the number of outputs per target is not allowed.
    """

    fn: Callable[..., Tensor]
    inverse_link: str
    family: str
    task: str
    formula: str
    claims: frozenset[str]
    source: str
    weight: str = ""
    outputs_per_target: int = 1
    domain: str = "real"
    oracle: str = ""
    distribution: str = ""
    quantile: str = ""
    unsound: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"loss name {self.name!r}: use {NAME.pattern}, like 'huber_tight'")
        for what, value, known in (
            ("inverse link", self.inverse_link, INVERSE_LINKS),
            ("task", self.task, TASKS),
            ("domain", self.domain, DOMAINS),
            ("distribution", self.distribution, ("", *DISTRIBUTIONS)),
            ("quantile", self.quantile, ("", *self.defaults)),
        ):
            if value not in known:
                raise ValueError(f"{self.name}: {what} {value!r}: use one of {list(known)}")
        has_several = self.inverse_link in PLACED
        if self.outputs_per_target < 1 or (self.outputs_per_target > 1) != has_several:
            raise ValueError(
                f"{self.name}: {self.outputs_per_target} outputs per target behind the inverse "
                f"link {self.inverse_link!r}: use 2 or more with one of {[*PLACED]}, "
                "and 1 with every other"
            )

    @property
    def name(self) -> str:
        """Name of the loss in commands and records, which is the name of its function."""
        return self.fn.__name__

    @property
    def has_error(self) -> bool:
        """Whether each of the first C outputs belongs to a prediction and so has an error."""
        return self.inverse_link != "mean_of_bins"

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters that a configuration may set, with their default values."""
        return {name: value for name, value in _keywords(self.fn).items() if name != "context"}

    def is_default(self, params: Mapping[str, object]) -> bool:
        """Whether all given parameters are equal to the defaults."""
        return {**self.defaults, **params} == self.defaults

    @property
    def needs_context(self) -> bool:
        """Whether the function asks for a `Context` that is not yet set."""
        return _keywords(self.fn).get("context") is inspect.Parameter.empty

    def at(self, **params: object) -> Loss:
        """Variant of the row with other defaults, which can be measured like any loss."""
        if unknown := params.keys() - self.defaults.keys():
            raise ValueError(
                f"{self.name} has no parameter {unknown.pop()!r}: use one of {[*self.defaults]}"
            )
        return replace(self, fn=_preset(self.fn, **params))

    def inside(self, context: Context) -> Loss:
        """Copy of the row whose function always gets this context."""
        return replace(self, fn=_preset(self.fn, context=context)) if self.needs_context else self

    def values(
        self,
        output: Tensor,
        target: Tensor,
        params: Mapping[str, object] = NO_PARAMS,
        context: Context | None = None,
    ) -> Tensor:
        """Loss per example, [...].

        Args:
            output: Raw model output, [..., W], with W = nC for a loss with n outputs per target.
            target: Target of the prediction, [..., C].
            params: Parameters of the loss; parameters that are left out have their defaults.
            context: Context for a loss that asks for one; `Context.long_tailed` if None.
        """
        if not self.needs_context:
            return self.fn(output, target, **params)
        if context is None:
            context = Context.long_tailed(target.shape[-1], like=target)
        return self.fn(output, target, context=context, **params)

    def predict(self, output: Tensor, params: Mapping[str, object] = NO_PARAMS) -> Tensor:
        """Prediction [..., C] for an output [..., W], through the loss's inverse link."""
        return INVERSE_LINKS[self.inverse_link](output, **dict(self.link(params)[1:]))

    def placed(self, prediction: Tensor, params: Mapping[str, object] = NO_PARAMS) -> Tensor:
        """Outputs [..., W] for a prediction [..., C]; the prediction itself if W = C."""
        if self.inverse_link not in PLACED:
            return prediction
        place = PLACED[self.inverse_link]
        return place(prediction, **dict(self._shared(place, params)))

    def predicted(self, output: Tensor, params: Mapping[str, object] = NO_PARAMS) -> Predicted:
        """Distribution of each target for an output [..., W], at the loss's parameters.

        Raises:
            KeyError: The loss does not predict a distribution.
        """
        function = DISTRIBUTIONS[self.distribution]
        return function(output, **dict(self._shared(function, params)))

    def link(self, params: Mapping[str, object] = NO_PARAMS) -> tuple[Any, ...]:
        """Name of the inverse link, then (name, value) pairs of the parameters that the link takes.

        Losses whose links are equal can be evaluated on each other's models.
        """
        return (self.inverse_link, *self._shared(INVERSE_LINKS[self.inverse_link], params))

    def _shared(
        self, function: Callable[..., Any], params: Mapping[str, object]
    ) -> list[tuple[str, object]]:
        """Parameters of the loss that `function` takes, as (name, value) pairs."""
        given = {**self.defaults, **params, "outputs_per_target": self.outputs_per_target}
        return [(name, given[name]) for name in _keywords(function)]


def _preset(function: Callable[..., Tensor], **keywords: object) -> Callable[..., Tensor]:
    variant = functools.partial(function, **keywords)
    # Not __wrapped__, because the signature must show the new defaults.
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(variant, name, getattr(function, name))
    return variant


@functools.lru_cache(maxsize=1024)
def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    kinds = inspect.signature(function).parameters.values()
    return {kind.name: kind.default for kind in kinds if kind.kind is kind.KEYWORD_ONLY}
