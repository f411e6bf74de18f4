"""Examination of a user's loss in a trial process: missing declarations of its row are measured."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
from torch import Tensor

from lossbench import claims
from lossbench.claims import Measurement, kind
from lossbench.data.tables import SOURCE
from lossbench.errors import ConfigError, describe_error, in_a_line
from lossbench.losses import LOSSES
from lossbench.losses.links import INVERSE_LINKS
from lossbench.losses.spec import NAME, TASKS, Loss
from lossbench.user_code.modules import Own, renamed
from lossbench.user_code.trial import TrialProcess

log = logging.getLogger(__name__)

EXAMINATION_PATIENCE = 30.0
"""Time limit for the examination of a function, in seconds."""


@dataclass(frozen=True)
class Examination:
    """Measurements of a loss of the user.

    Attributes:
        row: Row of the loss, with its task, its inverse link and its defects.
        why: Reason for the task and the link; empty if both were given.
        verdicts: Measurement of every claim; the row of a bare function makes the claims that hold.
    """

    row: Loss
    why: str
    verdicts: dict[str, Measurement]


def examine(
    functions: Iterable[Callable[..., Any] | Loss],
    *,
    task: str = "",
    link: str = "",
    leave_out: bool = False,
) -> list[Examination]:
    """Examine functions `(output [..., C], target [..., C], *, params) -> [...]`.

    Args:
        functions: The functions, or rows of functions.
        task: Task of all functions; if empty, the task is measured.
        link: Inverse link of all functions; if empty, the link is measured.
        leave_out: Whether a function that cannot be trained is left out with a warning, provided
            that another function can be trained.

    Raises:
        ConfigError: Functions cannot be trained; the message has the line and the cure for each.
    """
    functions = [*functions]
    if task not in ("", *TASKS):
        raise ConfigError(f"task {task!r}: use {' or '.join(TASKS)}")
    if link not in ("", *INVERSE_LINKS):
        raise ConfigError(f"link {link!r}: use one of {', '.join(INVERSE_LINKS)}")
    examinations, problems = [], []
    with TrialProcess(Own(), patience=EXAMINATION_PATIENCE) as process:
        for function in functions:
            try:
                examinations.append(_examination(process, function, task, link))
            except ConfigError as error:
                problems.append(str(error))
    if problems and not (leave_out and examinations):
        raise ConfigError("; ".join(problems))
    for problem in problems:
        log.warning("left out: %s", problem)
    return examinations


def loss_rows(functions: Iterable[Callable[..., Any] | Loss], *, task: str = "") -> list[Loss]:
    """Examine functions with `examine`, warn of defects, and return the rows."""
    examinations = examine(functions, task=task)
    for one in examinations:
        for clause in one.row.unsound:
            log.warning("%s %s", one.row.name, clause)
    return [one.row for one in examinations]


def _examination(
    process: TrialProcess, function: Callable[..., Any] | Loss, task: str, link: str
) -> Examination:
    """Examine a function in the process; it is renamed `my_NAME` if the catalog has its name."""
    name = function.name if isinstance(function, Loss) else getattr(function, "__name__", "")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"a loss cannot have the name {name!r}: use up to 40 small letters, digits and '_'; in "
            "Python, losses={'mine': function} gives one"
        )
    if name in LOSSES and LOSSES[name].fn.__module__.startswith("lossbench."):
        if isinstance(function, Loss):
            raise ConfigError(f"loss {name!r} exists, {LOSSES[name].formula}: rename yours")
        log.warning("the catalog has a loss %s: yours is called my_%s", name, name)
        name = f"my_{name}"
        function = renamed(function, name)
    when, pickled = f"loss {name} is called", cloudpickle.dumps(function)
    origin = file_and_line(function)
    *kinds, why, unsound, verdicts = process.call(when, _measure, pickled, origin, task, link)
    if isinstance(function, Loss):
        return Examination(replace(function, unsound=unsound), why, verdicts)
    held = frozenset(name for name, verdict in verdicts.items() if verdict.holds)
    row = replace(bare_row(function, *kinds), claims=held, unsound=unsound)
    return Examination(row, why, verdicts)


def file_and_line(function: Callable[..., Any] | Loss) -> tuple[str, int]:
    """Name of the file and number of the line at which a function starts."""
    code = getattr(
        inspect.unwrap(function.fn if isinstance(function, Loss) else function), "__code__", None
    )
    return (Path(code.co_filename).name, code.co_firstlineno) if code else ("an object", 0)


def _measure(pickled: bytes, origin: tuple[str, int], task: str, link: str) -> tuple[object, ...]:
    """Measure task, link, the reason for both, defects and claims; runs in the trial process."""
    loss, why = cloudpickle.loads(pickled), ""
    function = loss.fn if isinstance(loss, Loss) else loss
    where = "{}, line {}".format(*origin)
    try:
        if isinstance(loss, Loss):
            row = loss
        else:
            first, second = [*inspect.signature(function).parameters, "", ""][:2]
            if IS_TARGET.fullmatch(first) and IS_OUTPUT.fullmatch(second):
                raise ConfigError(
                    f"its arguments are in the wrong order, ({first}, {second}): the output comes "
                    f"first, write ({second}, {first})"
                )
            if problem := kind.unlike_a_loss(bare_row(function)):
                raise ConfigError(f"{where}: {problem}")
            if link and not task:
                task = "regression" if link in OF_NUMBERS else "classification"
            if not (task and link):
                task, guess, why = _guessed(function, task)
                link = link or guess
            row = bare_row(function, task, link)
        if problem := kind.refused(row):
            raise ConfigError(f"{where}: {problem}")
        return row.task, row.inverse_link, why, (*kind.unsound(row),), claims.measure(row)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from error
    except Exception as error:
        message, _ = describe_error(error, function)
        if "<dynamic-code>" in message:
            message = message.replace("<dynamic-code>", origin[0])  # pickles lack the file's name
            raise ConfigError(message) from error
        reason = f"{type(error).__name__}: {in_a_line(error)}"
        if re.search(r"index tensor|LongTensor|expected .*(Long|Int)", reason):
            reason += "; targets are numbers [..., C], labels are target.argmax(-1)"
        message = f"called with an output and a target, both [..., C], it raises {reason}"
        raise ConfigError(f"{where}: {message}") from error


IS_OUTPUT = re.compile(r"out(put)?s?|logits?|(y_?)?pred\w*|y_?hat|inputs?")
IS_TARGET = re.compile(r"targets?|labels?|y|(y_?)?true|truth|gold")


OF_NUMBERS = ("identity", "exp", "softplus", "mean")
"""Inverse links that imply regression if no task is given; margin losses have the identity too."""


def _guessed(function: Callable[..., Any], task: str) -> tuple[str, str, str]:
    """Guess task, link and the reason by `kind.guessed`; refuse exchanged arguments clearly."""
    try:
        return kind.guessed(bare_row(function), task)
    except ConfigError as error:
        problems = {kind.refused(bare_row(function, one)) for one in TASKS}
        if problems == {kind.NOT_FINITE}:
            raise ConfigError(kind.NOT_FINITE) from error

        def exchanged(output: Tensor, target: Tensor) -> Tensor:
            return function(target, output)

        try:
            kind.guessed(bare_row(exchanged), task)
        except Exception:
            raise error from None
        raise ConfigError("its arguments are in the wrong order: write (output, target)") from error


def bare_row(
    function: Callable[..., Any], task: str = "regression", link: str = "identity"
) -> Loss:
    """Make the row of a function, without claims."""
    return Loss(
        function,
        inverse_link=link,
        family="own",
        task=task,
        formula=SOURCE,
        claims=frozenset(),
        source=SOURCE,
        domain="nonnegative" if link in ("exp", "softplus") else "real",
    )
