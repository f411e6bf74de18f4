"""What is fixed before anything is measured, and the refusal of what could not be judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lossbench import records
from lossbench.config import GROUPS, is_key, known_keys
from lossbench.losses import LOSSES
from lossbench.losses.spec import TASKS
from lossbench.runs import ConfigError, nearest

CONDITIONS = tuple(name for name, row in records.CONDITIONS.items() if row.stage == "confirm")
TUNE = {"lr": (), "seeds": (), "extend": 4, "others": {}}
CONFIRM = {"seeds": (), "conditions": CONDITIONS}
STAGES = {"tune": TUNE, "confirm": CONFIRM}
"""What an experiment says of either stage, with what holds where it does not."""
BY_TASK = ("primary", "reference", "margin")
"""What is declared for each task, or for a data set by its name."""
DECLARED = (*BY_TASK, "endpoint", "family", "confidence")
OPTIONAL = ("select", "targets", "questions", "published")

SINS = {
    "split": "the learning rate is chosen on validation, and test is touched in confirm only",
    "claim": "a published finding stands under `finding`",
    "metric": "what is tuned for is what is judged by: hydra.sweeper.declare.primary",
}
"""Keys that somebody may try, and why there is no such thing."""


def check_keys(stage: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse a key of `tune`, `confirm` or `declare` that does not exist.

    Raises:
        ConfigError: Names the key and the nearest one.
    """
    for key, value in given.items():
        if key not in known:
            why = SINS.get(key, nearest(key, known))
            raise ConfigError(f"hydra.sweeper.{stage}.{key} is {value!r}: {why}")


def check_declaration(
    declared: Mapping[str, Any],
    data: Mapping[str, str],
    *,
    known: Iterable[str],
    losses: Iterable[str],
) -> None:
    """Refuse a declaration that cannot be judged, before anything is trained.

    Args:
        declared: `hydra.sweeper.declare`.
        data: Task by name of each data set of the sweep.
        known: Names of all data sets.
        losses: Names of all losses.

    Raises:
        ConfigError: A part is missing, unknown or out of range; the message names the cure.
    """
    check_keys("declare", declared, dict.fromkeys((*DECLARED, *OPTIONAL)))
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
    for number, finding in enumerate(declared.get("published", ())):
        _check_published(finding, f"published[{number}]", declared, losses)
    for name, task in data.items():
        for key in BY_TASK:
            if records.declared(declared[key], data=name, task=task) is None:
                raise ConfigError(f"declare.{key} has nothing for {name}: add {task} or {name}")
        if name in declared["primary"] and name not in declared["margin"]:
            raise ConfigError(
                f"declare.primary has a metric for {name} alone: a margin for {name}, in the unit "
                "of that metric, belongs to it"
            )
        _check_selects(declared, name, task)


def _check_selects(declared: Mapping[str, Any], name: str, task: str) -> None:
    """Validation has what chooses the learning rate and, where the best step is judged, that."""
    primary = records.declared(declared["primary"], data=name, task=task)
    chosen = records.declared(declared.get("select", {}), data=name, task=task)
    selecting = [chosen or primary, *([primary] if declared["endpoint"] == "best" else [])]
    for metric in selecting:
        if "validation" not in records.metric_of(metric).splits:
            raise ConfigError(
                f"{metric} is not measured on validation, so it selects nothing for {name}: "
                f"declare select: {{ {name}: METRIC }} and endpoint last"
            )


def _metrics(split: str) -> dict[str, str]:
    """Task by metric that has a better direction, of those that a split has."""
    return {
        name: row.task
        for name, row in records.METRICS.items()
        if row.direction and split in row.splits
    }


def _check_places(declared: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Every choice stands under a task or a data set, and fits its task, where that is known."""
    selecting = {
        name: task
        for name, task in _metrics("validation").items()
        if name not in records.CLEAN.values()  # nobody has these labels
    }
    names = {
        "primary": _metrics("test"),
        "select": {**selecting, records.OWN_LOSS: ""},
        "reference": {name: row.task for name, row in LOSSES.items()},
    }
    for key in (*BY_TASK, "select", "targets"):
        if not isinstance(choices := declared.get(key, {}), Mapping):
            raise ConfigError(
                f"declare.{key} is {choices!r}: give one for each task, like "
                "{ regression: ..., classification: ... }"
            )
        for place, value in choices.items():
            if place not in places:
                raise ConfigError(f"{key} of {place!r}: {nearest(place, places)}")
            is_number = _is_number(value)
            if key == "margin" and not (is_number and value >= 0):
                raise ConfigError(f"margin of {place} is {value!r}: use a number, 0 or more")
            if key == "targets" and not is_number:
                raise ConfigError(f"target of {place} is {value!r}: use a number")
            task = places[place]
            rows = names.get(key, {})
            fitting = [name for name, its in rows.items() if not task or its in (task, "")]
            if key in names and value not in fitting:
                raise ConfigError(f"{key} of {place} is {value!r}: {nearest(str(value), fitting)}")


PUBLISHED = ("finding", "source", "loss", "says")
PUBLISHED_TOO = ("where", "reference", "metric", "margin")
"""What a published finding has to say; what it may: else all tasks, the declared reference, ..."""


def _check_published(
    finding: Mapping[str, Any], where: str, declared: Mapping[str, Any], losses: Iterable[str]
) -> None:
    """Refuse a published finding that could not be judged."""
    check_keys(where, finding, dict.fromkeys((*PUBLISHED, *PUBLISHED_TOO)))
    if missing := [key for key in PUBLISHED if key not in finding]:
        raise ConfigError(f"{where} lacks {missing[0]}: a finding has {', '.join(PUBLISHED)}")
    if "metric" in finding and "margin" not in finding:
        raise ConfigError(f"{where} has a metric: a margin, in the unit of it, belongs to it")
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


def _check_where(factors: Mapping[str, Any], where: str) -> None:
    """What a finding is restricted to is a factor of a task: no loss, and nothing that is tuned."""
    for key in factors:
        is_factor = key.partition(".")[0] in WHERE and (key in records.FACTORS or is_key(key))
        if not is_factor or key in NO_WHERE:
            known = {name for name in known_keys() if name.partition(".")[0] in WHERE}
            raise ConfigError(f"{where} has {key!r}: {nearest(key, known - {*NO_WHERE})}")


WHERE = (*records.FACTORS, "init", "signal", "steps", "batch_size")
"""How the keys begin that a published finding may be restricted by."""

NO_WHERE = ("init", "optimizer.lr", "data.root", "data.download")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_others(others: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Refuse what cannot be tuned beside the learning rate.

    Raises:
        ConfigError: A config group, or a loss's parameter that would be chosen by its own value.
    """
    for key in others:
        if key in GROUPS or key == "optimizer.lr":
            raise ConfigError(
                f"tune.others has {key!r}: tune single values, like optimizer.weight_decay"
            )
        by_own_loss = records.OWN_LOSS in [*declared.get("select", {}).values()]
        if by_own_loss and key.startswith("loss.params."):
            raise ConfigError(
                f"tune.others has {key!r} and select is {records.OWN_LOSS}: another parameter is "
                "another scale of the loss, so its own values have no order"
            )


def check_conditions(conditions: Sequence[str]) -> None:
    """Refuse a condition that does not exist, and a list without the loss's own rate.

    Raises:
        ConfigError: Names the conditions.
    """
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
    if shared := sorted({*tune} & {*confirm}):
        raise ConfigError(
            f"seeds {', '.join(map(str, shared))} would tune and confirm: a seed that tuned cannot "
            "confirm. Type other seeds to confirm, like seed='range(20,30)'"
        )
