"""Mistakes of a command or call, each with the value and the cure."""

from __future__ import annotations

import difflib
import inspect
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path


class ConfigError(ValueError):
    """A mistake of a command or call; the message has the value and the cure."""


def in_a_line(text: object) -> str:
    """A text, or that of an error, in a line."""
    return " ".join(str(text).split())


def nearest(name: str, known: Iterable[str], *, otherwise: str = "see 'lossbench --help'") -> str:
    """A hint that names the most similar known name, or lists all of them where they are few.

    Args:
        name: The typed name.
        known: Names that there are.
        otherwise: The hint where nothing is similar and they are too many to list.
    """
    names = sorted(known)
    if not names:
        return "there is none"
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    return f"use one of {', '.join(names)}" if len(names) <= 30 else otherwise


def refuse_unknown(name: str, known: Iterable[str], kind: str, hint: str = "") -> None:
    """Raise a `ConfigError` with the nearest name where `name` is not among the known ones."""
    if name not in known:
        raise ConfigError(f"{kind} {name!r} is unknown: {nearest(name, known)}{hint}")


def describe_error(error: BaseException, function: Callable[..., object]) -> tuple[str, bool]:
    """The error that somebody's function raised, and its place.

    Args:
        error: The error, with its traceback.
        function: Theirs.

    Returns:
        "FILE, line N, raises TYPE: MESSAGE", and whether it is a line of the function's own file,
        not of a function that it called or that got its result.
    """
    code = inspect.getsourcefile(inspect.unwrap(function))
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == code), frames[-1])
    where = f"{Path(frame.filename).name}, line {frame.lineno}"
    message = f"{where}, raises {type(error).__name__}: {in_a_line(error)}"
    return message, frame.filename == code
