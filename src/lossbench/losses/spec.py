"""The row a loss declares about itself, and the context it may ask for."""

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

NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Context:
    """Knowledge of a loss beside output and target.

    A loss asks for it with a keyword-only parameter `context: Context` without default; it is
    given one wherever it is called, and no configuration can set it.

    Attributes:
        class_counts: Training examples of each class, broadcastable to the target [..., C]. For
            regression the sums of the targets, which mean nothing.
        rows: Row of each example in the training split, broadcastable to the examples [...]; -1
            for examples of other splits. Of sequences a position counts as an example does.
    """

    class_counts: Tensor
    rows: Tensor

    @staticmethod
    def outside_training(class_counts: Tensor) -> Context:
        """The context of examples that are of no batch."""
        return Context(class_counts, rows=torch.tensor(-1, device=class_counts.device))

    @staticmethod
    def long_tailed(classes: int, *, like: Tensor) -> Context:
        """The context in which losses are measured and drawn outside training.

        From 1000 examples of the first class down to 10 of the last one in equal ratios: the
        imbalance of 100 that the literature on long tails uses (Cui et al. 2019, CVPR).
        """
        counts = torch.logspace(3, 1, classes, dtype=like.dtype, device=like.device)
        return Context.outside_training(counts)


@dataclass(frozen=True)
class Loss:
    """A loss's function and the statements about it. Its name is its function's name.

    Args:
        fn: `(output [..., C], target [..., C], *, params) -> loss per example [...]`. Pure, no
            reduction over examples, safe under any leading dimensions. May ask for a `Context`.
        inverse_link: Key of `INVERSE_LINKS`, turns the output into the prediction.
        family: The family it is drawn and grouped with.
        task: "regression" or "classification".
        formula: Loss in terms of the error e, the prediction p or f, the output z, the target y.
        claims: Names of the functions in `claims.py` that hold for it; every other one must not.
        source: Publication that defines the loss.
        weight: Of a local loss behind a softmax, the factor w in `output gradient = w (p - y)` on
            hard labels, as a formula in p, the prediction for the true class; empty otherwise.
        outputs_per_target: Outputs n the model has for each target, all W = nC side by side: first
            that of every target, then their second ones, and so on. The first C start as those of
            other losses do, the others at zero.
        domain: Targets it is made for: "real" or "nonnegative".
        oracle: Packages whose own implementation, or functions of theirs that make it up, the tests
            compare it with; empty if there is none.
        distribution: Key of `DISTRIBUTIONS`, the target's distribution given the outputs; empty if
            they say no more than a prediction.
        quantile: Parameter that is the level of the elicited quantile; empty if the loss elicits
            something else.
        unsound: Defects of a loss that can be trained all the same, a clause each. Measured of
            functions and rows that somebody brings, but for those of `extensions`.

    Raises:
        ValueError: Name, inverse link, task, domain, distribution or quantile is not one of ours.
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
        """The function's name, as typed and as recorded."""
        return self.fn.__name__

    @property
    def has_error(self) -> bool:
        """Whether the first C outputs have an error each: they are, or make, the prediction."""
        return self.inverse_link != "mean_of_bins"

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters a configuration may set, with the values they have when it does not."""
        return {name: value for name, value in _keywords(self.fn).items() if name != "context"}

    def is_default(self, params: Mapping[str, Any]) -> bool:
        """Whether parameters leave every default as it is."""
        return {**self.defaults, **params} == self.defaults

    @property
    def needs_context(self) -> bool:
        """Whether the function asks for a `Context` that it has not got yet."""
        return _keywords(self.fn).get("context") is inspect.Parameter.empty

    def at(self, **params: Any) -> Loss:
        """A variant of the row with other defaults, to be measured like any loss."""
        if unknown := params.keys() - self.defaults.keys():
            raise ValueError(
                f"{self.name} has no parameter {unknown.pop()!r}: use one of {[*self.defaults]}"
            )
        return replace(self, fn=_preset(self.fn, **params))

    def inside(self, context: Context) -> Loss:
        """A copy of the row whose function always has this context."""
        return replace(self, fn=_preset(self.fn, context=context)) if self.needs_context else self

    def values(
        self,
        output: Tensor,
        target: Tensor,
        params: Mapping[str, Any] = NO_PARAMS,
        context: Context | None = None,
    ) -> Tensor:
        """Loss per example, [...].

        Args:
            output: Raw model output, [..., W]: [..., nC] of a loss with n outputs per target.
            target: Goal of the prediction, [..., C].
            params: The loss's own parameters; those left out have their defaults.
            context: For a loss that asks for it; `Context.long_tailed` if None.
        """
        if not self.needs_context:
            return self.fn(output, target, **params)
        if context is None:
            context = Context.long_tailed(target.shape[-1], like=target)
        return self.fn(output, target, context=context, **params)

    def predict(self, output: Tensor, params: Mapping[str, Any] = NO_PARAMS) -> Tensor:
        """Prediction [..., C] for an output [..., W], through the loss's inverse link."""
        return INVERSE_LINKS[self.inverse_link](output, **dict(self.link(params)[1:]))

    def placed(self, prediction: Tensor, params: Mapping[str, Any] = NO_PARAMS) -> Tensor:
        """Outputs [..., W] of the link for a prediction [..., C]; one output per target is it."""
        if self.inverse_link not in PLACED:
            return prediction
        place = PLACED[self.inverse_link]
        return place(prediction, **dict(self._shared(place, params)))

    def predicted(self, output: Tensor, params: Mapping[str, Any] = NO_PARAMS) -> Predicted:
        """Distribution of each target given an output [..., W], at the loss's parameters.

        Raises:
            KeyError: The loss predicts no distribution.
        """
        function = DISTRIBUTIONS[self.distribution]
        return function(output, **dict(self._shared(function, params)))

    def link(self, params: Mapping[str, Any] = NO_PARAMS) -> tuple[Any, ...]:
        """The inverse link's name, then the (name, value) pairs of the parameters it shares.

        Losses whose links are equal can be evaluated on each other's models.
        """
        return (self.inverse_link, *self._shared(INVERSE_LINKS[self.inverse_link], params))

    def _shared(
        self, function: Callable[..., Any], params: Mapping[str, Any]
    ) -> list[tuple[str, Any]]:
        """Parameters of the loss that a link or a distribution takes: (name, value) of each."""
        given = {**self.defaults, **params, "outputs_per_target": self.outputs_per_target}
        return [(name, given[name]) for name in _keywords(function)]


def _preset(function: Callable[..., Tensor], **keywords: Any) -> Callable[..., Tensor]:
    variant = functools.partial(function, **keywords)
    # Not __wrapped__: the signature is to show the new defaults.
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(variant, name, getattr(function, name))
    return variant


@functools.lru_cache(maxsize=1024)
def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    kinds = inspect.signature(function).parameters.values()
    return {kind.name: kind.default for kind in kinds if kind.kind is kind.KEYWORD_ONLY}
