"""Whether a run can be trained, and its variation: the same checks however a run came to be."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from lossbench.claims.kind import is_separable
from lossbench.data import DATA
from lossbench.data.augmentation import AUGMENTATIONS
from lossbench.data.corruption import CORRUPTIONS
from lossbench.data.targets import TARGETS
from lossbench.errors import ConfigError, nearest, refuse_unknown
from lossbench.losses import LOSSES
from lossbench.losses.spec import NAME
from lossbench.models import MODELS
from lossbench.models.start import STARTS
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.question.identity import code_of
from lossbench.question.run import FACTORS, Draft, Init, Part, Pretrained, Run
from lossbench.question.settings import PRECISIONS
from lossbench.records import INSTRUMENTS, SIGNALS

FIELDS = {
    "data.targets": "targets",
    "engine.precision": "precision",
    **{f"optimizer.{name}": name for name in ("lr", "momentum", "weight_decay")},
    **{name: name for name in ("signal", "instruments", "seed", "steps")},
    **{name: name for name in ("batch_size", "log_every", "eval_every")},
}
"""Field of a run by what is typed."""

PARTS = {
    **{name: name for name in ("data", "model", "loss", "optimizer", "schedule")},
    **{f"data.{name}": name for name in ("corruption", "augmentation")},
}
"""Field of a run by how the keys begin that set the parameters of that part."""

REGISTRIES = {
    "data": DATA,
    "model": MODELS,
    "loss": LOSSES,
    "corruption": CORRUPTIONS,
    "augmentation": AUGMENTATIONS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
"""By field of a run: rows with a function, or functions, by name."""

_PART_KEY = re.compile(rf"({'|'.join(map(re.escape, PARTS))})\.params\.(\w+)")
_CHOSEN_BY_NAME = {"data.corruption.name": "corruption", "data.augmentation.name": "augmentation"}
_INIT = {"init.from": "start", "init.output_scale": "output_scale"}
_PRETRAINED = {f"pretrained.{part.name}": part.name for part in fields(Pretrained)}
_FREE = ("corruption", "augmentation")
"""Parts whose parameters no yaml lists."""


def can_vary(key: str) -> bool:
    """Whether `varied` can set a key; what else is typed, Hydra composes."""
    known = {**FIELDS, **_CHOSEN_BY_NAME, **_INIT, **_PRETRAINED}
    return key in known or bool(_PART_KEY.fullmatch(key))


def with_values(draft: Draft, values: Mapping[str, Any]) -> Draft:
    """The draft of a run with other values, not checked.

    Args:
        draft: Any, or a run.
        values: By key, as typed: `seed`, `optimizer.lr`, `loss.params.delta`, ...; `loss`, before
            its parameters, is a part.

    Raises:
        ConfigError: A key is no such key, or a parameter that the chosen part lacks.
    """
    new = {factor: getattr(draft, factor) for factor in FACTORS}
    for key, value in values.items():
        if key == "loss":
            new["loss"] = value
        elif key in FIELDS:
            new[FIELDS[key]] = value
        elif key in _CHOSEN_BY_NAME:
            field = _CHOSEN_BY_NAME[key]
            new[field] = replace(new[field], name=value, fn=value)
        elif key in _INIT:
            new["init"] = replace(new["init"], **{_INIT[key]: value})
        elif key in _PRETRAINED:
            new["pretrained"] = replace(new["pretrained"], **{_PRETRAINED[key]: value})
        elif match := _PART_KEY.fullmatch(key):
            group, name = match.groups()
            part: Part = new[PARTS[group]]
            is_listed = PARTS[group] not in _FREE
            if is_listed and not part.params:
                raise ConfigError(
                    f"{key}: a chosen {group} has no such parameter, sweep those that have it apart"
                )
            if is_listed and name not in part.params:
                below = f"{group}.params"
                raise ConfigError(
                    f"unknown key {key!r}: below {below!r} {nearest(name, part.params)}"
                )
            new[PARTS[group]] = replace(part, params={**part.params, name: value})
        else:
            raise ConfigError(f"{key} varies no single run: give it for the whole sweep")
    return Draft(**new)


def varied(run: Draft, values: Mapping[str, Any]) -> Run:
    """The run with other values, checked as if each had been typed."""
    if isinstance(run, Run) and values.keys() <= _NUMBERS.keys():
        # Nothing else of a checked run depends on these.
        numbers = {
            field: kind(values[key]) for key, (field, kind) in _NUMBERS.items() if key in values
        }
        new = replace(run, **numbers)
        _refuse_out_of_range(new)
        return new
    return checked(with_values(run, values))


_NUMBERS = {"seed": ("seed", int), "optimizer.lr": ("lr", float)}


def checked(draft: Draft) -> Run:
    """The run of a draft, its parameters in the types of their defaults.

    Raises:
        ConfigError: A name is unknown, a value is out of range, or two do not go together.
    """
    _refuse_out_of_range(draft)
    factors: dict[str, Any] = {factor: getattr(draft, factor) for factor in FACTORS}
    for key, field in PARTS.items():
        factors[field] = _checked_part(getattr(draft, field), key, REGISTRIES[field])
    for field in ("lr", "momentum", "weight_decay"):
        factors[field] = float(factors[field])
    factors["init"] = Init(draft.init.start, float(draft.init.output_scale))
    factors["pretrained"] = _checked_pretrained(draft)
    # In the order of their table, each once.
    factors["instruments"] = tuple(name for name in INSTRUMENTS if name in draft.instruments)
    _refuse_unfit(draft)
    return Run(**{**factors, **code_of(draft)})


def fits(draft: Draft) -> bool:
    """Whether the loss is made for the task of the data and for such targets."""
    refuse_unknown(draft.loss.fn, LOSSES, "loss")
    refuse_unknown(draft.data.fn, DATA, "data")
    loss, data = LOSSES[draft.loss.fn], DATA[draft.data.fn]
    if data.is_multilabel and loss.task == data.task and not is_separable(loss):
        return False
    return loss.task == data.task and loss.domain in ("real", data.domain)


MOST = {
    "steps": 10**8,
    "batch_size": 10**7,
    "log_every": 10**10,
    "eval_every": 10**10,
    "seed": 2**63 - 1,
    "optimizer.lr": 1e30,
    "optimizer.weight_decay": 1e30,
    "init.output_scale": 1e10,
    "pretrained.steps": 10**8,
    "pretrained.lr": 1e30,
    "pretrained.temperature": 1e10,
    "engine.threads": 1024,
    "engine.pack_size": 10**5,
    "engine.commit_every": 1e10,
    "engine.patience": 1e10,
}
"""Largest values: beyond them lies a slip of the finger."""

MOST_ROWS = 10**9
"""Rows of all batches of a run, whose numbers lie in memory."""

LARGEST_PARAMETER = 10**7
"""Largest whole number that a parameter of a part may be."""

MOST_LISTED = 1000
"""Most entries of a list of parameters."""


def check_positive(values: Mapping[str, float]) -> None:
    """Refuse what is no positive finite number, or larger than `MOST`, by key."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} is {value}: use a positive number")
        if value > MOST.get(name, math.inf):
            raise ConfigError(f"{name} is {value}: use at most {MOST[name]:,}")


@functools.cache
def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameters that a configuration may set, with their defaults.

    One annotated as float has a float as its default, also where the signature says `= 1`.
    """
    kinds = inspect.signature(function).parameters.values()
    return {
        p.name: float(p.default) if p.annotation in _FLOAT and type(p.default) is int else p.default
        for p in kinds
        if p.kind is p.KEYWORD_ONLY and p.name not in _OF_THE_CALLER
    }


_OF_THE_CALLER = ("seed", "files", "draw", "step", "hyper", "out", "matrices", "context")
_OF_THE_CALLER += ("confusions",)
"""Parameters that no configuration sets: whoever calls gives them."""

_FLOAT = (float, "float")


def in_type_of(default: Any, value: Any, key: str) -> Any:
    """The value in the type of its default, so that 1 and 1.0 are the same run.

    Raises:
        ConfigError: It is of another kind, or not finite.
    """
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is int and abs(value) > LARGEST_PARAMETER:
        raise ConfigError(f"{key} is {value}: use at most {LARGEST_PARAMETER:,}")
    if isinstance(value, list | tuple | str) and len(value) > MOST_LISTED:
        raise ConfigError(f"{key} has {len(value):,} entries: use at most {MOST_LISTED:,}")
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        return [in_type_of(default[0], item, key) for item in value] if default else list(value)
    is_infinite = type(value) is float and not math.isfinite(value)
    has_kind = type(default) in (bool, int, float, str, list, tuple)
    if is_infinite or (has_kind and type(value) is not type(default)):
        raise ConfigError(f"{key} is {value!r}: use a value like its default, {default!r}")
    return value


def _checked_part(part: Part, key: str, registry: Mapping[str, Any]) -> Part:
    if not NAME.fullmatch(part.name):
        raise ConfigError(f"{key} name {part.name!r}: use {NAME.pattern}")
    what = f"{key}.fn" if part.fn != part.name else key
    hint = " One of your own needs the module that it is in: extensions=[MODULE]"
    refuse_unknown(part.fn, registry, what, hint)
    row = registry[part.fn]
    defaults, params = parameters(getattr(row, "fn", row)), {}
    for name, value in part.params.items():
        refuse_unknown(name, defaults, f"{key}.params of {part.fn}:")
        params[name] = in_type_of(defaults[name], value, f"{key}.params.{name}")
    return replace(part, params=params)


def _refuse_out_of_range(draft: Draft) -> None:
    names = ("steps", "batch_size", "log_every", "eval_every")
    check_positive({"optimizer.lr": draft.lr, **{name: getattr(draft, name) for name in names}})
    if (rows := draft.steps * draft.batch_size) > MOST_ROWS:
        raise ConfigError(
            f"steps {draft.steps:,} of batch_size {draft.batch_size:,} are {rows:,} rows: use at "
            f"most {MOST_ROWS:,}, which take 8 GB"
        )
    for key, value in {"seed": draft.seed, "optimizer.weight_decay": draft.weight_decay}.items():
        if not 0 <= value <= MOST[key]:
            raise ConfigError(f"{key} is {value}: use 0 or more, at most {MOST[key]:,}")
    if not 0 <= draft.momentum < 1:
        raise ConfigError(f"optimizer.momentum is {draft.momentum}: use 0 up to below 1")
    scale = draft.init.output_scale
    if type(scale) not in (int, float) or not abs(scale) <= MOST["init.output_scale"]:
        raise ConfigError(f"init.output_scale is {scale!r}: use a number like 4.0")
    refuse_unknown(draft.precision, PRECISIONS, "engine.precision")
    refuse_unknown(str(draft.init.start), STARTS, "init.from")
    refuse_unknown(draft.targets, TARGETS, "data.targets")
    refuse_unknown(draft.signal, SIGNALS, "signal")
    for name in draft.instruments:
        refuse_unknown(str(name), INSTRUMENTS, "instruments:")


def _checked_pretrained(draft: Draft) -> Pretrained:
    """What is trained before a run, its numbers in the types of their defaults."""
    given, default = draft.pretrained, Pretrained()
    if not draft.is_pretrained:
        for name, value in vars(given).items():
            if value != getattr(default, name):
                raise ConfigError(
                    f"pretrained.{name} is {value!r}, and nothing is trained before this run: use "
                    "init.from=pretrained or data.targets=teacher"
                )
        return default
    for name, value in vars(default).items():
        in_type_of(value, getattr(given, name), f"pretrained.{name}")
    if draft.has_teacher and draft.init.start == "pretrained":
        raise ConfigError(
            "init.from is 'pretrained' and data.targets 'teacher': a run would start as its own "
            "teacher, use one of them"
        )
    check_positive(
        {f"pretrained.{name}": getattr(given, name) for name in ("steps", "lr", "temperature")}
    )
    least = "0" if draft.has_teacher else "above 0"
    if not (0 <= given.share < 1) or (given.share == 0 and not draft.has_teacher):
        raise ConfigError(f"pretrained.share is {given.share}: use {least} up to below 1, like 0.5")
    for name in ("model", "temperature"):
        if not draft.has_teacher and getattr(given, name) != getattr(default, name):
            raise ConfigError(
                f"pretrained.{name} is {getattr(given, name)!r}, which is for a teacher: use "
                "data.targets=teacher"
            )
    if given.model:
        refuse_unknown(given.model, MODELS, "pretrained.model")
    refuse_unknown(given.loss, LOSSES, "pretrained.loss")
    row, data = LOSSES[given.loss], DATA[draft.data.fn]
    if row.task != data.task or row.domain not in ("real", data.domain):
        raise ConfigError(
            f"pretrained.loss is {given.loss!r}, which is for {row.domain} targets of {row.task}, "
            f"data {draft.data.name!r} is {data.task}: use pretrained.loss="
            + {"regression": "mse", "classification": "cross_entropy"}[data.task]
        )
    if row.outputs_per_target > 1 or (draft.has_teacher and row.inverse_link != "softmax"):
        raise ConfigError(
            f"pretrained.loss is {given.loss!r}, whose outputs are no "
            + ("outputs of a softmax" if draft.has_teacher else "single ones per target")
            + ": use another, like "
            + {"regression": "mse", "classification": "cross_entropy"}[data.task]
        )
    numbers = {name: float(getattr(given, name)) for name in ("lr", "share", "temperature")}
    return replace(given, **numbers)


def _refuse_unfit_for_many_labels(draft: Draft) -> None:
    """Refuse what takes an example to have one label."""
    data = f"data {draft.data.name!r} has any number of labels an example"
    if not fits(draft):
        fitting = [
            name
            for name, row in LOSSES.items()
            if row.task == "classification" and is_separable(row)
        ]
        raise ConfigError(
            f"loss {draft.loss.name!r} takes classes to compete for one label, {data}: use one of "
            f"{', '.join(fitting)}"
        )
    for key, value, plain in (
        ("data.corruption.name", draft.corruption.name, "none"),
        ("init.from", draft.init.start, Draft.init.start),
        ("signal", draft.signal, Draft.signal),
    ):
        if value != plain:
            raise ConfigError(f"{key} is {value!r}, {data}, not one: use {key}={plain}")


def _refuse_unfit(draft: Draft) -> None:
    """Refuse factors that do not go together."""
    row, task = draft.row, DATA[draft.data.fn].task
    loss, data = f"loss {draft.loss.name!r}", f"data {draft.data.name!r}"
    if row.task != task:
        fitting = [name for name, other in LOSSES.items() if other.task == task]
        raise ConfigError(
            f"{loss} is for {row.task}, {data} is {task}: use one of {', '.join(fitting[:6])}, "
            f"or what 'lossbench losses' lists under {task}"
        )
    if DATA[draft.data.fn].is_multilabel:
        _refuse_unfit_for_many_labels(draft)
    if not fits(draft):
        fitting = [name for name, other in DATA.items() if other.domain == row.domain]
        raise ConfigError(
            f"{loss} is for {row.domain} targets, {data} has others: use data={', '.join(fitting)}"
        )
    if draft.targets != Draft.targets and row.task == "regression":
        raise ConfigError(
            f"data.targets is {draft.targets!r}, {data} is regression, whose targets are numbers: "
            "use data.targets=sampled"
        )
    if draft.targets != Draft.targets and draft.corruption.fn != "none":
        raise ConfigError(
            f"data.targets is {draft.targets!r} and data.corruption {draft.corruption.name!r}: "
            "there is no label to corrupt, use data.corruption.name=none or data.targets=sampled"
        )
    if draft.init.start == "permuted_labels" and row.task == "regression":
        raise ConfigError(
            f"init.from is {draft.init.start!r}, {data} is regression, without labels to permute: "
            "use init.from=random or init.from=pretrained"
        )
    if draft.signal != Draft.signal and row.outputs_per_target > 1:
        raise ConfigError(
            f"signal is {draft.signal!r}, {loss} has more outputs than the reference that it "
            "would be compared with: use signal=own"
        )
