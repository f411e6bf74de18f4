"""One training as a frozen value, and the run_id that is computed from the value."""

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
"""Version that rises when a change of engine, optimizers or schedules alters results."""


@dataclass(frozen=True)
class Part:
    """One choice of a config group.

    Attributes:
        name: Name of the yaml that was chosen.
        fn: Key of the function in its registry; a variant has another name than its function.
        params: Keyword arguments of that function.
        title: Name in words for a reader; does not affect the run.
    """

    name: str
    fn: str
    params: Mapping[str, Any]
    title: str = field(default="", compare=False, repr=False)

    @cached_property
    def text(self) -> str:
        """Canonical JSON for hashes and records, cached because the runs of a sweep share parts."""
        return _text(_plain(self))


def part(name: str, **params: object) -> Part:
    """Part that chooses a function by its own name, rather than a variant of the function."""
    return Part(name, name, params)


NO_CHANGE = Part("none", "none", {})


@dataclass(frozen=True)
class Init:
    """Initialisation of the parameters of a model.

    Attributes:
        start: Key of `models.start.STARTS`; typed and recorded as `init.from`.
        output_scale: Factor on the parameters of the last linear layer.
    """

    start: str = "random"
    output_scale: float = 1.0

    @property
    def facts(self) -> dict[str, str | float]:
        """Both attributes by the names used in commands and records."""
        return {"from": self.start, "output_scale": self.output_scale}


@dataclass(frozen=True)
class Pretrained:
    """Model trained before the sweep, once per seed, as the start or as the teacher of runs.

    Attributes:
        loss: Key of `LOSSES`; the loss has its default parameters.
        model: Key of `MODELS` for a teacher with default parameters; "" for the run's own model.
        steps: Number of optimizer updates.
        lr: Learning rate; the optimizer is Adam.
        share: Share of the training split that is set aside for this model; runs do not train on
            that share. At 0 a teacher and its students learn from the same examples.
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
        source_sha: Hash of all code that the run uses; empty until `vary.checked` computes it.
        shared_sha: Hash of that code without the loss.
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
        """Row of the loss in the catalog."""
        return LOSSES[self.loss.fn]

    @property
    def has_teacher(self) -> bool:
        """Whether the targets are the predictions of a model that is trained before the run."""
        return self.targets == "teacher"

    @property
    def is_pretrained(self) -> bool:
        """Whether a model is trained before the run, as the start or as the teacher of the run."""
        return self.has_teacher or self.init.start == "pretrained"

    @property
    def facts(self) -> dict[str, Any]:
        """Plain copies of all factors and of `source_sha`, in the form that is recorded."""
        return {name: _plain(getattr(self, name)) for name in self._named}

    @property
    def _named(self) -> list[str]:
        """Names of all facts; `pretrained` is a fact only if a model is trained before the run."""
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
        """Identity: 16 hex digits of sha256 over the facts that are not neutral and the schema."""
        texts = {name: text for name, text in self.texts.items() if _NEUTRAL.get(name) != text}
        return _hashed(joined({**texts, "engine": str(ENGINE_SCHEMA)}))


_text = json.JSONEncoder(sort_keys=True, allow_nan=False).encode


def joined(texts: Mapping[str, str]) -> str:
    """Canonical JSON of an object, from the canonical JSON of each value by key."""
    return "{" + ", ".join(f'"{name}": {texts[name]}' for name in sorted(texts)) + "}"


def is_named_after(run_id: str, config: str) -> bool:
    """Whether a run_id belongs to a recorded configuration, by the current or an older schema.

    Args:
        run_id: Column `run_id` of a row of the table `runs`.
        config: Column `config` of that row: the run's facts as JSON.
    """
    facts = without_neutral(json.loads(config))
    schemas = range(ENGINE_SCHEMA, 0, -1)
    return any(_hashed(_text({"engine": schema, **facts})) == run_id for schema in schemas)


def _hashed(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(value: object) -> Any:
    """Copy of a value in plain types; `copy.deepcopy` is too slow for the thousands of a sweep."""
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
"""Values with which a factor has no effect, by factor."""

_NEUTRAL = {name: _text(value) for name, value in NEUTRAL.items()}

FACTORS = tuple(factor.name for factor in fields(Run) if not factor.name.endswith("_sha"))


def without_neutral(facts: Mapping[str, object]) -> dict[str, object]:
    """Facts without those that have a neutral value; the run_id is a hash of the remaining facts.

    So the run_id of older runs stays valid when a new factor with a neutral value is added.
    """
    return {name: value for name, value in facts.items() if NEUTRAL.get(name) != value}
