"""Variation of a run by typed keys, and the checks that every run has to pass."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
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
from lossbench.question.code import code_of
from lossbench.question.run import FACTORS, Init, Part, Pretrained, Run
from lossbench.question.settings import PRECISIONS
from lossbench.records import INSTRUMENTS, RECORDED_AS, REFERENCE, SIGNALS, recorded

REGISTRIES = {
    "data": DATA,
    "model": MODELS,
    "loss": LOSSES,
    "corruption": CORRUPTIONS,
    "augmentation": AUGMENTATIONS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
"""Rows or functions by name, for every part of a run."""

FREE = ("corruption", "augmentation")
"""Parts whose parameters are not listed in any yaml."""


def path_in_run(key: str) -> list[str]:
    """Names of attributes and parameters that lead from a run to the value of a typed key."""
    return ["init", "start"] if key == "init.from" else recorded(key).split(".")


def can_vary(key: str) -> bool:
    """Whether `vary` can set a key; for other keys Hydra has to compose a new configuration."""
    name, *rest = path_in_run(key)
    if key.partition(".")[0] in FREE:  # typed below data
        return False
    if name in REGISTRIES:
        is_chosen_by_name = name in FREE and rest == ["name"]
        return is_chosen_by_name or (len(rest) == 2 and rest[0] == "params")
    if name in ("init", "pretrained"):
        names = {field.name for field in fields(Init if name == "init" else Pretrained)}
        return len(rest) == 1 and rest[0] in names and key != "init.start"
    return name in FACTORS and not rest and key not in RECORDED_AS.values()


def vary(run: Run, values: Mapping[str, Any]) -> Run:
    """Unchecked copy of a run with other values.

    Args:
        run: Any run, checked or not.
        values: Values by key, as typed: `seed`, `optimizer.lr`, `loss.params.delta`, ...; the value
            of `loss` is a `Part`, and comes before the parameters of the loss.

    Raises:
        ConfigError: A key cannot be set on a run, or is a parameter that the chosen part lacks.
    """
    for key, value in values.items():
        if not (can_vary(key) or key == "loss"):
            raise ConfigError(
                f"{key} belongs to the whole sweep, not to a single run: give it once"
            )
        run = _with_value(run, path_in_run(key), value, key=key)
    return run


def _with_value(owner: Any, path: Sequence[str], value: Any, *, key: str) -> Any:
    """Copy of a run, or of a part of a run, with another value at the end of a path."""
    name, *rest = path
    if rest:
        value = _with_value(getattr(owner, name), rest, value, key=key)
    if isinstance(owner, Mapping):
        return {**owner, name: value}
    if not isinstance(owner, Part):
        return replace(owner, **{name: value})
    if name == "name":
        return replace(owner, name=value, fn=value)
    parameter, group = key.rpartition(".")[2], key.partition(".params")[0]
    if recorded(group) not in FREE:
        if not owner.params:
            raise ConfigError(
                f"{key}: a chosen {group} has no such parameter, sweep those that have it apart"
            )
        if parameter not in owner.params:
            cure = nearest(parameter, owner.params)
            raise ConfigError(f"unknown key {key!r}: below {f'{group}.params'!r} {cure}")
    return replace(owner, params=value)


def varied(run: Run, values: Mapping[str, Any]) -> Run:
    """Checked copy of a run with other values, given by typed key."""
    if run.source_sha and values.keys() <= _NUMBERS.keys():
        # In a checked run, nothing else depends on the seed and the learning rate.
        numbers = {
            field: kind(values[key]) for key, (field, kind) in _NUMBERS.items() if key in values
        }
        new = replace(run, **numbers)
        _refuse_out_of_range(new)
        return new
    return checked(vary(run, values))


_NUMBERS = {"seed": ("seed", int), "optimizer.lr": ("lr", float)}


def checked(run: Run) -> Run:
    """Checked copy of a run, with parameters in the types of their defaults and hashes of code.

    Raises:
        ConfigError: A name is unknown, a value is out of range, or two factors do not go together.
    """
    _refuse_out_of_range(run)
    parts = {}
    for group, registry in REGISTRIES.items():
        part, key = getattr(run, group), f"data.{group}" if group in FREE else group
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
        parts[group] = replace(part, params=params)
    numbers = {name: float(getattr(run, name)) for name in ("lr", "momentum", "weight_decay")}
    new = replace(
        run,
        **parts,
        **numbers,
        init=Init(run.init.start, float(run.init.output_scale)),
        pretrained=_checked_pretrained(run),
        # In the order of `INSTRUMENTS`, without repetitions.
        instruments=tuple(name for name in INSTRUMENTS if name in run.instruments),
    )
    _refuse_unfit(new)
    return replace(new, **code_of(new))


def fits(run: Run) -> bool:
    """Whether the loss of a run is made for the task and the targets of its data set."""
    refuse_unknown(run.loss.fn, LOSSES, "loss")
    refuse_unknown(run.data.fn, DATA, "data")
    loss, data = LOSSES[run.loss.fn], DATA[run.data.fn]
    has_task = loss.task == data.task and loss.domain in ("real", data.domain)
    return has_task and (not data.is_multilabel or is_separable(loss))


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
"""Largest allowed value by key; a larger value is taken for a typing error."""

MOST_ROWS = 10**9
"""Largest number of rows in all batches of a run: the numbers of all rows are in memory."""

LARGEST_PARAMETER = 10**7
"""Largest whole number that is allowed as a parameter of a part."""

MOST_LISTED = 1000
"""Largest length of a list or a text that is a parameter of a part."""


def check_positive(values: Mapping[str, float]) -> None:
    """Refuse numbers by key that are not positive and finite, or above the limit in `MOST`."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} is {value}: use a positive number")
        if value > MOST.get(name, math.inf):
            raise ConfigError(f"{name} is {value}: use at most {MOST[name]:,}")


@functools.cache
def parameters(function: Callable[..., object]) -> dict[str, Any]:
    """Parameters of a function that a configuration may set, with their defaults.

    A parameter annotated as float has a float as its default, even if the signature says `= 1`.
    """
    kinds = inspect.signature(function).parameters.values()
    return {
        p.name: float(p.default) if p.annotation in _FLOAT and type(p.default) is int else p.default
        for p in kinds
        if p.kind is p.KEYWORD_ONLY and p.name not in _OF_THE_CALLER
    }


_OF_THE_CALLER = ("seed", "files", "draw", "step", "hyper", "out", "matrices", "context")
_OF_THE_CALLER += ("confusions",)
"""Parameters that a configuration cannot set, because the caller of the function gives them."""

_FLOAT = (float, "float")


def in_type_of(default: object, value: Any, key: str) -> Any:
    """Value in the type of its default, so that 1 and 1.0 give the same run.

    Raises:
        ConfigError: The value has another type, is not finite, or is too large.
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


def _refuse_out_of_range(run: Run) -> None:
    names = ("steps", "batch_size", "log_every", "eval_every")
    check_positive({"optimizer.lr": run.lr, **{name: getattr(run, name) for name in names}})
    if (rows := run.steps * run.batch_size) > MOST_ROWS:
        raise ConfigError(
            f"steps {run.steps:,} of batch_size {run.batch_size:,} are {rows:,} rows: use at "
            f"most {MOST_ROWS:,}, which take 8 GB"
        )
    for key, value in {"seed": run.seed, "optimizer.weight_decay": run.weight_decay}.items():
        if not 0 <= value <= MOST[key]:
            raise ConfigError(f"{key} is {value}: use 0 or more, at most {MOST[key]:,}")
    if not 0 <= run.momentum < 1:
        raise ConfigError(f"optimizer.momentum is {run.momentum}: use 0 up to below 1")
    scale = run.init.output_scale
    if type(scale) not in (int, float) or not abs(scale) <= MOST["init.output_scale"]:
        raise ConfigError(f"init.output_scale is {scale!r}: use a number like 4.0")
    refuse_unknown(run.precision, PRECISIONS, "engine.precision")
    refuse_unknown(str(run.init.start), STARTS, "init.from")
    refuse_unknown(run.targets, TARGETS, "data.targets")
    refuse_unknown(run.signal, SIGNALS, "signal")
    for name in run.instruments:
        refuse_unknown(str(name), INSTRUMENTS, "instruments:")


def _checked_pretrained(run: Run) -> Pretrained:
    """Checked settings of the training before a run, in the types of their defaults."""
    given, default = run.pretrained, Pretrained()
    if not run.is_pretrained:
        for name, value in vars(given).items():
            if value != getattr(default, name):
                raise ConfigError(
                    f"pretrained.{name} is {value!r}, and nothing is trained before this run: use "
                    "init.from=pretrained or data.targets=teacher"
                )
        return default
    for name, value in vars(default).items():
        in_type_of(value, getattr(given, name), f"pretrained.{name}")
    if run.has_teacher and run.init.start == "pretrained":
        raise ConfigError(
            "init.from is 'pretrained' and data.targets 'teacher': a run would start as its own "
            "teacher, use one of them"
        )
    check_positive(
        {f"pretrained.{name}": getattr(given, name) for name in ("steps", "lr", "temperature")}
    )
    least = "0" if run.has_teacher else "above 0"
    if not (0 <= given.share < 1) or (given.share == 0 and not run.has_teacher):
        raise ConfigError(f"pretrained.share is {given.share}: use {least} up to below 1, like 0.5")
    for name in ("model", "temperature"):
        if not run.has_teacher and getattr(given, name) != getattr(default, name):
            raise ConfigError(
                f"pretrained.{name} is {getattr(given, name)!r}, which is for a teacher: use "
                "data.targets=teacher"
            )
    if given.model:
        refuse_unknown(given.model, MODELS, "pretrained.model")
    refuse_unknown(given.loss, LOSSES, "pretrained.loss")
    row, data = LOSSES[given.loss], DATA[run.data.fn]
    if row.task != data.task or row.domain not in ("real", data.domain):
        raise ConfigError(
            f"pretrained.loss is {given.loss!r}, which is for {row.domain} targets of {row.task}, "
            f"data {run.data.name!r} is {data.task}: use pretrained.loss=" + REFERENCE[data.task]
        )
    if row.outputs_per_target > 1 or (run.has_teacher and row.inverse_link != "softmax"):
        raise ConfigError(
            f"pretrained.loss is {given.loss!r}, whose outputs are not "
            + ("outputs of a softmax" if run.has_teacher else "single ones per target")
            + ": use another, like "
            + REFERENCE[data.task]
        )
    numbers = {name: float(getattr(given, name)) for name in ("lr", "share", "temperature")}
    return replace(given, **numbers)


def _refuse_unfit_for_many_labels(run: Run) -> None:
    """Refuse factors that need exactly one label for each example."""
    data = f"data {run.data.name!r} has any number of labels an example"
    if not fits(run):
        fitting = [
            name
            for name, row in LOSSES.items()
            if row.task == "classification" and is_separable(row)
        ]
        raise ConfigError(
            f"loss {run.loss.name!r} assumes that each example has exactly one label, but "
            f"{data}: use one of {', '.join(fitting)}"
        )
    for key, value, plain in (
        ("data.corruption.name", run.corruption.name, "none"),
        ("init.from", run.init.start, Run.init.start),
        ("signal", run.signal, Run.signal),
    ):
        if value != plain:
            raise ConfigError(f"{key} is {value!r}, {data}, not one: use {key}={plain}")


def _refuse_unfit(run: Run) -> None:
    """Refuse a run whose factors do not go together."""
    row, task = run.row, DATA[run.data.fn].task
    loss, data = f"loss {run.loss.name!r}", f"data {run.data.name!r}"
    if row.task != task:
        fitting = [name for name, other in LOSSES.items() if other.task == task]
        raise ConfigError(
            f"{loss} is for {row.task}, {data} is {task}: use one of {', '.join(fitting[:6])}, "
            f"or what 'lossbench losses' lists under {task}"
        )
    if DATA[run.data.fn].is_multilabel:
        _refuse_unfit_for_many_labels(run)
    if not fits(run):
        fitting = [name for name, other in DATA.items() if other.domain == row.domain]
        raise ConfigError(
            f"{loss} is for {row.domain} targets, {data} has others: use data={', '.join(fitting)}"
        )
    if run.targets != Run.targets and row.task == "regression":
        raise ConfigError(
            f"data.targets is {run.targets!r}, {data} is regression, whose targets are numbers: "
            "use data.targets=sampled"
        )
    if run.targets != Run.targets and run.corruption.fn != "none":
        raise ConfigError(
            f"data.targets is {run.targets!r} and data.corruption {run.corruption.name!r}: "
            "there is no label to corrupt, use data.corruption.name=none or data.targets=sampled"
        )
    if run.init.start == "permuted_labels" and row.task == "regression":
        raise ConfigError(
            f"init.from is {run.init.start!r}, {data} is regression, without labels to permute: "
            "use init.from=random or init.from=pretrained"
        )
    if run.signal != Run.signal and row.outputs_per_target > 1:
        raise ConfigError(
            f"signal is {run.signal!r}, {loss} has more outputs than the reference that it "
            "would be compared with: use signal=own"
        )
