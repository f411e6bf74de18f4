"""One training as a frozen value, and the identity that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from lossbench.losses import LOSSES
from lossbench.losses.spec import Loss

ENGINE_SCHEMA = 3
"""Rises when a change of the engine, the optimizers or the schedules alters results."""


@dataclass(frozen=True)
class Part:
    """One choice of a config group.

    Attributes:
        name: Of the yaml that was chosen.
        fn: Key of the function in its registry; a variant has another name than its function.
        params: Keyword arguments of that function.
        title: Name in words for a reader; changes nothing.
    """

    name: str
    fn: str
    params: Mapping[str, Any]
    title: str = field(default="", compare=False, repr=False)

    @cached_property
    def text(self) -> str:
        """Canonical JSON as it is hashed and recorded; the runs of a sweep share parts."""
        return _text(_plain(self))


def part(name: str, **params: Any) -> Part:
    """Choose a function itself, not a variant of it with a name of its own."""
    return Part(name, name, params)


NO_CHANGE = Part("none", "none", {})


@dataclass(frozen=True)
class Init:
    """The start of parameters.

    Attributes:
        start: Key of `models.start.STARTS`; typed and recorded as `init.from`.
        output_scale: Factor on the parameters of the last linear layer.
    """

    start: str = "random"
    output_scale: float = 1.0

    @property
    def facts(self) -> dict[str, Any]:
        """Both values by the names under which they are typed and recorded."""
        return {"from": self.start, "output_scale": self.output_scale}


@dataclass(frozen=True)
class Pretrained:
    """A model that is trained before the sweep, once per seed: the start of runs, or their teacher.

    Attributes:
        loss: Key of `LOSSES`; its own parameters are at their defaults.
        model: Of a teacher, key of `MODELS`, at its default parameters; "" for the run's own model.
        steps: Optimizer updates.
        lr: Learning rate; the optimizer is Adam.
        share: Part of the training split that is set aside for it: no run trains on that. At 0 a
            teacher and its students learn from the same examples.
        temperature: Divisor of a teacher's outputs.
    """

    loss: str = "cross_entropy"
    model: str = ""
    steps: int = 500
    lr: float = 0.003
    share: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class Run:
    """One training: a value for every factor, and hashes of the code that it uses.

    Attributes:
        source_sha: Of all code that it uses; empty until `vary.checked` has seen the run.
        shared_sha: Of all of it but the loss.
    """

    data: Part
    model: Part
    loss: Part
    lr: float
    optimizer: Part = Part("sgd", "sgd", {})
    schedule: Part = Part("constant", "constant", {})
    momentum: float = 0.0
    weight_decay: float = 0.0
    targets: str = "sampled"
    corruption: Part = NO_CHANGE
    augmentation: Part = NO_CHANGE
    init: Init = Init()
    pretrained: Pretrained = Pretrained()
    signal: str = "own"
    instruments: tuple[str, ...] = ()
    seed: int = 0
    steps: int = 500
    batch_size: int = 64
    log_every: int = 10
    eval_every: int = 100
    precision: str = "float32"
    source_sha: str = ""
    shared_sha: str = ""

    @property
    def row(self) -> Loss:
        """The catalog's row of the loss."""
        return LOSSES[self.loss.fn]

    @property
    def has_teacher(self) -> bool:
        """Whether the targets are the predictions of a model that was trained before."""
        return self.targets == "teacher"

    @property
    def is_pretrained(self) -> bool:
        """Whether a model is trained before the run: its start, or its teacher."""
        return self.has_teacher or self.init.start == "pretrained"

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values of every factor, in copies, and `source_sha`: the run as it is recorded."""
        return {name: _plain(getattr(self, name)) for name in self._named}

    @property
    def _named(self) -> list[str]:
        """Factors that count: `pretrained` only where a model is trained before."""
        names = [*FACTORS, "source_sha"]
        if not self.is_pretrained:
            names.remove("pretrained")
        return names

    @property
    def texts(self) -> dict[str, str]:
        """Canonical JSON of every fact by name: see `joined`."""
        texts = {}
        for name in self._named:
            value = getattr(self, name)
            if isinstance(value, Part):
                texts[name] = value.text
            else:
                is_plain = isinstance(value, int | float | str)
                texts[name] = _text(value if is_plain else _plain(value))
        return texts

    @cached_property
    def run_id(self) -> str:
        """16 hex digits of sha256 over the canonical facts and the engine's schema number."""
        texts = {name: text for name, text in self.texts.items() if _NEUTRAL.get(name) != text}
        return _hashed(joined({**texts, "engine": str(ENGINE_SCHEMA)}))


_text = json.JSONEncoder(sort_keys=True, allow_nan=False).encode


def joined(texts: Mapping[str, str]) -> str:
    """Canonical JSON of an object, from that of its values by key."""
    return "{" + ", ".join(f'"{name}": {texts[name]}' for name in sorted(texts)) + "}"


def is_named_after(run_id: str, config: str) -> bool:
    """Whether a run_id is that of a recorded configuration, by this engine's schema or an older.

    Args:
        run_id: Of a row of `runs`.
        config: Its column: the run's facts as JSON.
    """
    facts, schemas = json.loads(config), range(ENGINE_SCHEMA, 0, -1)
    return any(_identity(facts, schema=schema) == run_id for schema in schemas)


def _identity(facts: Mapping[str, Any], *, schema: int) -> str:
    return _hashed(_text({"engine": schema, **without_neutral(facts)}))


def _hashed(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A copy of plain values; a sweep makes thousands, which `copy.deepcopy` is too slow for."""
    if isinstance(value, Part):
        return {"name": value.name, "fn": value.fn, "params": _plain(value.params)}
    if isinstance(value, Init):
        return value.facts
    if isinstance(value, Pretrained):
        return {**vars(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


NEUTRAL = {
    name: _plain(getattr(Run, name))
    for name in ("corruption", "augmentation", "targets", "init", "signal", "instruments")
}
"""Values of factors that change nothing."""

_NEUTRAL = {name: _text(value) for name, value in NEUTRAL.items()}

FACTORS = tuple(factor.name for factor in fields(Run) if not factor.name.endswith("_sha"))


def without_neutral(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without those that change nothing, of which the identity of a run is made.

    A new factor with a neutral value so orphans no older sweep.
    """
    return {name: value for name, value in facts.items() if NEUTRAL.get(name) != value}
