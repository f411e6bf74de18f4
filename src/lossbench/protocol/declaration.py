"""What is fixed before anything is measured, and the refusal of what could not be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CONDITIONS = ("own_lr", "reference_lr", "scale_matched")
"""Learning rates at which a loss is confirmed: its own best one, the reference's best one, and the
reference's times the ratio of their initial output gradients."""

TUNE = {"lr": (), "seeds": (), "extend": 4, "others": {}}
CONFIRM = {"seeds": (), "conditions": CONDITIONS}
DECLARED = ("primary", "endpoint", "reference", "margin", "family", "confidence")
OPTIONAL = {"targets": {}, "select": {}}

SINS = {
    "split": "the learning rate is chosen on validation, and test is touched in confirm only",
    "metric": "what is tuned for is what is judged by: hydra.sweeper.declare.primary",
}
"""Keys that somebody may try, and why there is no such thing."""


def check_keys(stage: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse a key of `tune`, `confirm` or `declare` that does not exist.

    Raises:
        ConfigError: Names the key and the nearest one.
    """
    from lossbench.config import ConfigError, nearest

    for key, value in given.items():
        if key not in known:
            why = SINS.get(key, nearest(key, known))
            raise ConfigError(f"hydra.sweeper.{stage}.{key} is {value!r}: {why}")


def check_declaration(declared: Mapping[str, Any]) -> None:
    """Refuse a declaration that cannot be judged, before anything is trained.

    Args:
        declared: `hydra.sweeper.declare`.

    Raises:
        ConfigError: A part is missing, unknown or out of range; the message names the cure.
    """
    from lossbench.config import ConfigError, nearest
    from lossbench.losses import LOSSES
    from lossbench.losses.spec import TASKS
    from lossbench.records import METRICS, OWN_LOSS, Metric

    own = {OWN_LOSS: Metric("", "unit of the loss", "lower", "")}

    check_keys("declare", declared, {**dict.fromkeys(DECLARED), **OPTIONAL})
    if missing := [key for key in DECLARED if key not in declared]:
        raise ConfigError(
            f"hydra.sweeper.declare lacks {missing[0]}: declare {', '.join(DECLARED)}"
        )
    known = {"primary": METRICS, "reference": LOSSES, "select": {**METRICS, **own}}
    for key, rows in known.items():
        for place, name in declared.get(key, {}).items():
            # What is not a task is a data set, for which anything of the kind may be declared.
            fitting = [
                other
                for other, row in rows.items()
                if place not in TASKS or row.task in (place, "")
            ]
            if name not in fitting:
                raise ConfigError(f"{key} of {place} is {name!r}: {nearest(name, fitting)}")
    for key, allowed in {"endpoint": ("last", "best"), "family": ("task",)}.items():
        if declared[key] not in allowed:
            raise ConfigError(f"{key} is {declared[key]!r}: use {' or '.join(allowed)}")
    if not 0 < declared["confidence"] < 1:
        raise ConfigError(f"confidence is {declared['confidence']}: use 0.95, or between 0 and 1")
    for task, margin in declared["margin"].items():
        if not margin >= 0:
            raise ConfigError(f"margin of {task} is {margin}: use 0 or more")


def check_conditions(conditions: Sequence[str]) -> None:
    """Refuse a condition that does not exist, and a list without the loss's own rate.

    Raises:
        ConfigError: Names the conditions.
    """
    from lossbench.config import ConfigError, nearest

    for condition in conditions:
        if condition not in CONDITIONS:
            raise ConfigError(f"condition {condition!r}: {nearest(condition, CONDITIONS)}")
    if "own_lr" not in conditions:
        raise ConfigError("hydra.sweeper.confirm.conditions lacks own_lr: a loss has a fair trial")


def refuse_overlap(tune: Sequence[int], confirm: Sequence[int]) -> None:
    """Refuse seeds that would tune and confirm.

    Raises:
        ConfigError: Names them, and how to type others.
    """
    from lossbench.config import ConfigError

    if shared := sorted({*tune} & {*confirm}):
        raise ConfigError(
            f"seeds {', '.join(map(str, shared))} would tune and confirm: a seed that tuned cannot "
            "confirm. Type other seeds to confirm, like seed='range(20,30)'"
        )
