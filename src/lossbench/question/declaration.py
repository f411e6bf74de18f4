"""Checks of an experiment's declaration, made before anything is trained or measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

from lossbench import records, statistics
from lossbench.errors import ConfigError, nearest
from lossbench.losses import LOSSES
from lossbench.losses.spec import TASKS
from lossbench.question.schema import GROUPS, is_key, known_keys
from lossbench.records import Declaration

CANDIDATES = {"lr": (), "extend": 4, "others": {}}
"""Keys of `hydra.sweeper.candidates` with their defaults."""

BY_TASK = ("primary", "reference", "margin")
"""Keys that are declared for each task, or for a data set by name."""
DECLARED = (*BY_TASK, "endpoint", "family", "confidence")
OPTIONAL = ("select", "targets", "questions", "published", "size", "average", "interactions")
OPTIONAL += ("levels",)

SINS = {
    "split": "a candidate is chosen on validation, and judged on test",
    "claim": "a published finding stands under `finding`",
    "metric": "what chooses is declared as hydra.sweeper.declare.select or primary",
    "seeds": "seeds count up from hydra.sweeper.first_seed: declare hydra.sweeper.looks",
}
"""Keys that do not exist but may be tried, with the reason or the key to use instead."""


def check_keys(part: str, given: Mapping[str, object], known: Iterable[str]) -> None:
    """Refuse a key of `candidates` or `declare` that does not exist; names the nearest key."""
    for key, value in given.items():
        if key not in known:
            why = SINS.get(key, nearest(key, known))
            raise ConfigError(f"hydra.sweeper.{part}.{key} is {value!r}: {why}")


def check_declaration(
    declared: Declaration, data: Mapping[str, str], *, known: Iterable[str], losses: Iterable[str]
) -> None:
    """Refuse a declaration that cannot be judged, before anything is trained.

    The data sets of the sweep have their tasks by name; `known` are the names of all data sets, and
    `losses` those of all losses.

    Raises:
        ConfigError: A part is missing, unknown or out of range; the message names the cure.
    """
    check_keys("declare", declared, (*DECLARED, *OPTIONAL))
    if missing := [key for key in DECLARED if key not in declared]:
        raise ConfigError(
            f"hydra.sweeper.declare lacks {missing[0]}: declare {', '.join(DECLARED)}"
        )
    allowed = {"endpoint": ("last", "best"), "family": ("task",)}
    for key, names in allowed.items():
        if declared[key] not in names:
            raise ConfigError(f"{key} is {declared[key]!r}: use {' or '.join(names)}")
    if not 0 < declared["confidence"] < 1:
        raise ConfigError(f"confidence is {declared['confidence']}: use 0.95, or between 0 and 1")
    for name in declared.get("questions", ()):
        if name not in records.QUESTIONS:
            raise ConfigError(f"question {name!r}: use one of {', '.join(records.QUESTIONS)}")
    tasks = {task: task for task in TASKS}
    _check_places(declared, {**dict.fromkeys(known, ""), **data, **tasks})
    for key in ("interactions", "levels"):
        _check_where(declared.get(key, {}), key)
    for number, finding in enumerate(declared.get("published", ())):
        _check_published(finding, f"published[{number}]", declared, losses)
    for name, task in data.items():
        _check_data_set(declared, name, task)


def _check_data_set(declared: Declaration, name: str, task: str) -> None:
    """Refuse choices for one data set that are missing or do not fit together."""
    for key in BY_TASK:
        if records.declared(declared[key], data=name, task=task) is None:
            raise ConfigError(f"declare.{key} has nothing for {name}: add {task} or {name}")
    if name in declared["primary"] and name not in declared["margin"]:
        raise ConfigError(
            f"declare.primary has a metric for {name} alone: give a margin for "
            f"{name} in the unit of that metric too"
        )
    primary, margin, select = (
        records.declared(declared.get(key, {}), data=name, task=task)
        for key in ("primary", "margin", "select")
    )
    selecting = [select or primary, *([primary] if declared["endpoint"] == "best" else [])]
    for metric in selecting:
        if "validation" not in records.metric_of(metric).splits:
            raise ConfigError(
                f"{metric} is not measured on the validation part, so it cannot select for {name}: "
                f"declare select: {{ {name}: METRIC }} and endpoint last"
            )
    if not isinstance(margin, str):
        return
    facts, why = records.metric_of(primary), ""
    if statistics.in_words(margin)[1] == "target":
        if facts.unit != records.STANDARD:
            why = "is not measured in the target's unit"
    elif "validation" not in facts.splits:
        why = "is not measured on validation"
    elif math.isnan(facts.perfect):
        why = "has no perfect value to count an error from"
    if why:
        raise ConfigError(
            f"margin of {name} is {margin!r}, and {primary} {why}: declare "
            f"margin: {{ {name}: NUMBER }} in the unit of {primary}"
        )


def _metrics(split: str) -> dict[str, str]:
    """Task by name of each metric that a split has and that has a better direction."""
    return {
        name: row.task
        for name, row in records.METRICS.items()
        if row.direction and split in row.splits
    }


def _check_places(declared: Declaration, places: Mapping[str, str]) -> None:
    """Refuse choices that are not under a task or a data set, or do not fit the task."""
    selecting = {
        name: task
        for name, task in _metrics("validation").items()
        if name not in records.CLEAN.values()  # clean labels are rarely known
    }
    names = {
        "primary": _metrics("test"),
        "select": {**selecting, records.OWN_LOSS: ""},
        "average": {"mean": "", "median": ""},
        "reference": {name: row.task for name, row in LOSSES.items()},
    }
    for key in (*BY_TASK, "select", "targets", "average"):
        if not isinstance(choices := declared.get(key, {}), Mapping):
            raise ConfigError(
                f"declare.{key} is {choices!r}: give one for each task, like "
                "{ regression: ..., classification: ... }"
            )
        for place, value in choices.items():
            if place not in places:
                raise ConfigError(f"{key} of {place!r}: {nearest(place, places)}")
            if key == "margin":
                try:
                    least = statistics.in_words(value)[0] if isinstance(value, str) else value
                except ValueError:
                    least = -1.0
                if not _is_number(least) or least < 0:
                    raise ConfigError(
                        f"margin of {place} is {value!r}: use a number, 0 or more, in the unit of "
                        "the metric, or one like '10% of error' or '500 of target'"
                    )
            if key == "targets" and not _is_number(value):
                raise ConfigError(f"target of {place} is {value!r}: use a number")
            task = places[place]
            rows = names.get(key, {})
            fitting = [name for name, its in rows.items() if not task or its in (task, "")]
            if key in names and value not in fitting:
                raise ConfigError(f"{key} of {place} is {value!r}: {nearest(str(value), fitting)}")


PUBLISHED = ("finding", "source", "loss", "says")
PUBLISHED_TOO = ("where", "reference", "metric", "margin")
"""Required keys of a published finding, and optional keys, which default to the declaration."""


def _check_published(
    finding: Declaration, where: str, declared: Declaration, losses: Iterable[str]
) -> None:
    """Refuse a published finding that this sweep could not test."""
    check_keys(where, finding, (*PUBLISHED, *PUBLISHED_TOO))
    if missing := [key for key in PUBLISHED if key not in finding]:
        raise ConfigError(f"{where} lacks {missing[0]}: a finding has {', '.join(PUBLISHED)}")
    if "metric" in finding and "margin" not in finding:
        raise ConfigError(f"{where} has a metric: give a margin in the unit of that metric too")
    names = {
        key: str(finding[key]).partition("(")[0] for key in ("loss", "reference") if key in finding
    }
    tasks = [LOSSES[name].task for name in names.values() if name in LOSSES]
    metrics = _metrics("test")
    choices = {
        **{key: {*LOSSES, *losses} for key in names},
        "says": {*records.SAYINGS, records.NOT_WORSE},
        "metric": {
            name
            for name, task in metrics.items()
            if {*tasks} <= {task}
            and (declared["endpoint"] == "last" or not records.METRICS[name].is_final)
        },
    }
    for key, fitting in choices.items():
        if key in finding and (name := names.get(key, finding[key])) not in fitting:
            raise ConfigError(f"{where}.{key} is {finding[key]!r}: {nearest(str(name), fitting)}")
    margin = finding.get("margin", 0.0)
    if not _is_number(margin) or margin < 0:
        raise ConfigError(f"{where}.margin is {margin!r}: use a number, 0 or more")
    every = [name for name in declared["reference"].values() if LOSSES[name].task in tasks]
    references = [finding["reference"]] if "reference" in finding else every
    if {*references} == {finding["loss"]} or len({*tasks}) > 1:
        names = ", ".join(map(str, references))
        raise ConfigError(
            f"{where} compares {finding['loss']} with {names}: use another of its task"
        )
    _check_where(finding.get("where", {}), f"{where}.where")


def _check_where(factors: Iterable[str], where: str) -> None:
    """Refuse keys that are not factors of a run, or whose values cannot restrict a finding."""
    for key in factors:
        is_factor = key.partition(".")[0] in WHERE and (key in records.FACTORS or is_key(key))
        if not is_factor or key in NO_WHERE:
            known = {name for name in known_keys() if name.partition(".")[0] in WHERE}
            raise ConfigError(f"{where} has {key!r}: {nearest(key, known - {*NO_WHERE})}")


WHERE = (*records.FACTORS, "init", "pretrained", "signal", "steps", "batch_size")
"""First parts of the dotted keys that may restrict a published finding."""

NO_WHERE = ("init", "pretrained", "optimizer.lr", "data.root", "data.download")


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def check_others(others: Iterable[str], declared: Declaration) -> None:
    """Refuse keys that cannot be tuned in addition to the learning rate.

    These are config groups, the learning rate, and parameters whose value the loss itself would
    choose.
    """
    for key in others:
        if key in GROUPS or key == "optimizer.lr":
            raise ConfigError(
                f"candidates.others has {key!r}: use single values, like optimizer.weight_decay"
            )
        by_own_loss = records.OWN_LOSS in [*declared.get("select", {}).values()]
        if by_own_loss and key.startswith("loss.params."):
            raise ConfigError(
                f"candidates.others has {key!r} and select is {records.OWN_LOSS}: another "
                "parameter is another scale of the loss, so its own values have no order"
            )


MOST_SEEDS = 10_000
"""Largest number of seeds of a look."""


def check_extend(count: object) -> None:
    """Refuse a value of `candidates.extend` that is not a whole number, 0 or more."""
    if type(count) is not int or count < 0:
        raise ConfigError(f"candidates.extend is {count!r}: use a whole number, 0 or more")


def check_looks(looks: Sequence[int]) -> None:
    """Refuse looks that are not numbers of seeds in ascending order."""
    is_count = [type(look) is int and 1 <= look <= MOST_SEEDS for look in looks]
    if not looks or not all(is_count) or [*looks] != sorted({*looks}):
        raise ConfigError(
            f"hydra.sweeper.looks is {[*looks]}: use numbers of seeds in ascending order, like "
            f"[10,20,40], at most {MOST_SEEDS:,}"
        )
