"""One training as a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss


@dataclass(frozen=True)
class Part:
    """One choice of a config group.

    Attributes:
        name: Of the yaml that was chosen.
        fn: Key of the function in its registry; a variant has another name than its function.
        params: Keyword arguments of that function.
    """

    name: str
    fn: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Init:
    """How parameters start.

    Attributes:
        start: Key of `models.start.STARTS`; typed and recorded as `init.from`.
        output_scale: Factor on the parameters of the last linear layer.
    """

    start: str
    output_scale: float

    @property
    def facts(self) -> dict[str, Any]:
        """The two as they are typed and recorded."""
        return {"from": self.start, "output_scale": self.output_scale}


@dataclass(frozen=True)
class Run:
    """One training, everything that defines it, and the identity that follows from it."""

    run_id: str
    stage: str
    condition: str
    data: Part
    targets: str
    corruption: Part
    augmentation: Part
    model: Part
    loss: Part
    optimizer: Part
    schedule: Part
    lr: float
    momentum: float
    weight_decay: float
    init: Init
    signal: str
    instruments: tuple[str, ...]
    seed: int
    steps: int
    batch_size: int
    log_every: int
    eval_every: int
    precision: str
    source_sha: str
    shared_sha: str

    @property
    def row(self) -> Loss:
        """The row of the catalog that the run's loss uses."""
        return LOSSES[self.loss.fn]

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values of every factor, in copies: what is hashed and recorded."""
        excluded = ("run_id", "stage", "shared_sha")  # the last one is part of source_sha
        return {name: _plain(value) for name, value in vars(self).items() if name not in excluded}


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return {"name": value.name, "fn": value.fn, "params": _copied(value.params)}
    if isinstance(value, Init):
        return value.facts
    return [*value] if isinstance(value, tuple) else value


def _copied(value: Any) -> Any:
    """A copy of plain values; a sweep makes thousands, which `copy.deepcopy` is too slow for."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [*map(_copied, value)] if isinstance(value, list) else value
