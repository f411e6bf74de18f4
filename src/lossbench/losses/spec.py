"""The row a loss declares about itself, and the inverse links: output -> prediction."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TASKS = ("regression", "classification")

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def _identity(output: Tensor) -> Tensor:
    return output


def _softmax(output: Tensor) -> Tensor:
    return torch.softmax(output, dim=-1)


INVERSE_LINKS: dict[str, Callable[[Tensor], Tensor]] = {"identity": _identity, "softmax": _softmax}
PROBABILITY_LINKS = frozenset({"softmax"})
"""Inverse links whose predictions lie on the simplex."""


@dataclass(frozen=True)
class Loss:
    """What a loss is and what is said of it. Its name is its function's name.

    Args:
        fn: `(output [..., C], target [..., C], *, params) -> loss per example [...]`. Pure, no
            reduction over examples, safe under any leading dimensions.
        inverse_link: Key of `INVERSE_LINKS`, turns the output into the prediction.
        family: The family it is drawn and grouped with.
        task: "regression" or "classification".
        formula: Loss per output in terms of the error e, the prediction p or the output z.
        claims: Names of the functions in `claims.py` that hold for it; every other one must not.
        source: Where it was defined.

    Raises:
        ValueError: Name, inverse link or task is not one of ours.
    """

    fn: Callable[..., Tensor]
    inverse_link: str
    family: str
    task: str
    formula: str
    claims: frozenset[str]
    source: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"loss name {self.name!r}: use {NAME.pattern}, like 'huber_tight'")
        if self.inverse_link not in INVERSE_LINKS:
            raise ValueError(
                f"{self.name}: inverse link {self.inverse_link!r}: use one of {list(INVERSE_LINKS)}"
            )
        if self.task not in TASKS:
            raise ValueError(f"{self.name}: task {self.task!r}: use one of {list(TASKS)}")

    @property
    def name(self) -> str:
        """The function's name: what the user types and what is recorded."""
        return self.fn.__name__

    def predict(self, output: Tensor) -> Tensor:
        """Prediction for an output, both [..., C]."""
        return INVERSE_LINKS[self.inverse_link](output)
