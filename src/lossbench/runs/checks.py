"""Whether a run can be trained, and its variation: the same checks however a run came to be."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lossbench.data import DATA
from lossbench.data.augmentation import AUGMENTATIONS
from lossbench.data.corruption import CORRUPTIONS
from lossbench.data.targets import TARGETS
from lossbench.losses import LOSSES
from lossbench.losses.spec import NAME
from lossbench.models import MODELS
from lossbench.models.start import STARTS
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.records import CONDITIONS, INSTRUMENTS, SIGNALS
from lossbench.runs.errors import ConfigError, nearest, refuse_unknown
from lossbench.runs.identity import NEUTRAL, code_of, run_id
from lossbench.runs.run import Init, Part, Run
from lossbench.runs.settings import PRECISIONS

FIELDS = {
    "condition": "condition",
    "data.targets": "targets",
    "optimizer.lr": "lr",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight_decay",
    "signal": "signal",
    "instruments": "instruments",
    "seed": "seed",
    "steps": "steps",
    "batch_size": "batch_size",
    "log_every": "log_every",
    "eval_every": "eval_every",
    "engine.precision": "precision",
}
"""Field of a run by what is typed."""

PARTS = {
    "data": "data",
    "model": "model",
    "loss": "loss",
    "data.corruption": "corruption",
    "data.augmentation": "augmentation",
    "optimizer": "optimizer",
    "schedule": "schedule",
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
_FREE = ("corruption", "augmentation")
"""Parts whose parameters no yaml lists."""


def can_vary(key: str) -> bool:
    """Whether `varied` can set a key; what else is typed, Hydra composes."""
    return key in {**FIELDS, **_CHOSEN_BY_NAME, **_INIT} or bool(_PART_KEY.fullmatch(key))


def with_values(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with other values, neither checked nor with an identity: `checked` gives both.

    Args:
        run: Any.
        values: By key, as typed: `seed`, `optimizer.lr`, `loss.params.delta`, ...

    Raises:
        ConfigError: A key is no such key, or a parameter that the chosen part lacks.
    """
    new: dict[str, Any] = {}
    for key, value in values.items():
        if key in FIELDS:
            new[FIELDS[key]] = value
        elif key in _CHOSEN_BY_NAME:
            name = _CHOSEN_BY_NAME[key]
            new[name] = replace(new.get(name, getattr(run, name)), name=value, fn=value)
        elif key in _INIT:
            new["init"] = replace(new.get("init", run.init), **{_INIT[key]: value})
        elif match := _PART_KEY.fullmatch(key):
            name = PARTS[match[1]]
            part = new.get(name, getattr(run, name))
            if name not in _FREE and match[2] not in part.params:
                if not part.params:
                    why = (
                        f"a chosen {match[1]} has no such parameter, sweep those that have it apart"
                    )
                    raise ConfigError(f"{key}: {why}")
                below = f"{match[1]}.params"
                raise ConfigError(
                    f"unknown key {key!r}: below {below!r} {nearest(match[2], part.params)}"
                )
            new[name] = replace(part, params={**part.params, match[2]: value})
        else:
            raise ConfigError(f"{key} varies no single run: give it for the whole sweep")
    return replace(run, **new)


def varied(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with other values, checked and with its identity, as if each had been typed."""
    return checked(with_values(run, values))


def checked(run: Run) -> Run:
    """The run with its parameters in the types of their defaults, its stage and its identity.

    Raises:
        ConfigError: A name is unknown, a value is out of range, or two do not go together.
    """
    _check_numbers(run)
    refuse_unknown(run.condition, CONDITIONS, "condition")
    refuse_unknown(run.precision, PRECISIONS, "engine.precision")
    parts = {
        field: _checked_part(getattr(run, field), key, REGISTRIES[field])
        for key, field in PARTS.items()
    }
    run = replace(
        run,
        **parts,
        stage=CONDITIONS[run.condition].stage,
        lr=float(run.lr),
        momentum=float(run.momentum),
        weight_decay=float(run.weight_decay),
        init=_checked_init(run.init),
        instruments=_checked_instruments(run.instruments),
    )
    if not fits(run):
        raise ConfigError(_why_unfit(run.loss, run.data))
    _check_targets(run)
    _check_start(run)
    _check_signal(run)
    run = replace(run, **code_of(run))
    return replace(run, run_id=run_id(run.facts))


def fits(run: Run) -> bool:
    """Whether the loss is made for the task of the data and for such targets."""
    refuse_unknown(run.loss.fn, LOSSES, "loss")
    refuse_unknown(run.data.fn, DATA, "data")
    loss, data = LOSSES[run.loss.fn], DATA[run.data.fn]
    return loss.task == data.task and loss.domain in ("real", data.domain)


def check_positive(values: Mapping[str, float]) -> None:
    """Refuse what is no positive finite number, by key."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} is {value}: use a positive number")


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


_OF_THE_CALLER = ("seed", "files", "draw", "step", "hyper", "out", "context", "confusions")
"""Parameters that no configuration sets: whoever calls gives them."""

_FLOAT = (float, "float")


def in_type_of(default: Any, value: Any, key: str) -> Any:
    """The value in the type of its default, so that 1 and 1.0 are the same run.

    Raises:
        ConfigError: It is of another kind, or not finite.
    """
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        return [in_type_of(default[0], one, key) for one in value] if default else list(value)
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
    return Part(part.name, part.fn, params)


def _check_numbers(run: Run) -> None:
    names = ("steps", "batch_size", "log_every", "eval_every")
    check_positive({"optimizer.lr": run.lr, **{name: getattr(run, name) for name in names}})
    for key, value in {"seed": run.seed, "optimizer.weight_decay": run.weight_decay}.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigError(f"{key} is {value}: use 0 or more")
    if not 0 <= run.momentum < 1:
        raise ConfigError(f"optimizer.momentum is {run.momentum}: use 0 up to below 1")


def _checked_init(init: Init) -> Init:
    refuse_unknown(str(init.start), STARTS, "init.from")
    scale = init.output_scale
    if type(scale) not in (int, float) or not math.isfinite(scale):
        raise ConfigError(f"init.output_scale is {scale!r}: use a number")
    return Init(init.start, float(scale))


def _checked_instruments(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of instruments in the order of their table, each once."""
    for name in names:
        refuse_unknown(str(name), INSTRUMENTS, "instruments:")
    return tuple(name for name in INSTRUMENTS if name in names)


def _check_targets(run: Run) -> None:
    refuse_unknown(run.targets, TARGETS, "data.targets")
    if run.targets == NEUTRAL["targets"]:
        return
    if run.row.task == "regression":
        raise ConfigError(
            f"data.targets is {run.targets!r}, data {run.data.name!r} is regression, whose targets "
            "are numbers: use data.targets=sampled"
        )
    if run.corruption.fn != "none":
        raise ConfigError(
            f"data.targets is {run.targets!r} and data.corruption {run.corruption.name!r}: there "
            "is no label to corrupt, use data.corruption.name=none or data.targets=sampled"
        )


def _check_start(run: Run) -> None:
    if run.init.start != NEUTRAL["init"]["from"] and run.row.task == "regression":
        raise ConfigError(
            f"init.from is {run.init.start!r}, data {run.data.name!r} is regression, which has no "
            "labels to permute: use init.from=random"
        )


def _check_signal(run: Run) -> None:
    refuse_unknown(run.signal, SIGNALS, "signal")
    if run.signal != NEUTRAL["signal"] and run.row.outputs_per_target > 1:
        raise ConfigError(
            f"signal is {run.signal!r}, loss {run.loss.name!r} has more outputs than the reference "
            "that it would be compared with: use signal=own"
        )


def _why_unfit(loss: Part, data: Part) -> str:
    row, drawn = LOSSES[loss.fn], DATA[data.fn]
    if row.task == drawn.task:
        fitting = ", ".join(name for name, other in DATA.items() if other.domain == row.domain)
        return (
            f"loss {loss.name!r} is for {row.domain} targets, data {data.name!r} has others: "
            f"use data={fitting}"
        )
    fitting = [name for name, other in LOSSES.items() if other.task == drawn.task]
    return (
        f"loss {loss.name!r} is for {row.task}, data {data.name!r} is {drawn.task}: "
        f"use one of {', '.join(fitting[:6])}, or what 'lossbench losses' lists under {drawn.task}"
    )
