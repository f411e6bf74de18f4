"""Error for mistakes of the user, and helpers for messages with the wrong value and the cure."""

from __future__ import annotations

import difflib
import inspect
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path


class ConfigError(ValueError):
    """Mistake in a command or call; the message has the wrong value and the cure."""


def in_a_line(text: object) -> str:
    """Text of an object or error in one line: white space becomes single blanks."""
    return " ".join(str(text).split())


def nearest(name: str, known: Iterable[str], *, otherwise: str = "see 'lossbench --help'") -> str:
    """Hint with the most similar known name or, if no name is similar, a list of all known names.

    Args:
        name: The typed name.
        known: All valid names.
        otherwise: Hint if no name is similar and the names are too many to list.
    """
    names = sorted(known)
    if not names:
        return "there is none"
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    return f"use one of {', '.join(names)}" if len(names) <= 30 else otherwise


def refuse_unknown(name: str, known: Iterable[str], kind: str, hint: str = "") -> None:
    """Raise a `ConfigError` with the most similar known name if `name` is not known."""
    if name not in known:
        raise ConfigError(f"{kind} {name!r} is unknown: {nearest(name, known)}{hint}")


def describe_error(error: BaseException, function: Callable[..., object]) -> tuple[str, bool]:
    """Describe an error that a function of the user raised, with file and line.

    Args:
        error: The error, with its traceback.
        function: The function of the user.

    Returns:
        "FILE, line N, raises TYPE: MESSAGE", and whether FILE is the file of the function. If no
        line of that file is in the traceback, FILE is the file in which the error was raised.
    """
    code = inspect.getsourcefile(inspect.unwrap(function))
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == code), frames[-1])
    where = f"{Path(frame.filename).name}, line {frame.lineno}"
    message = f"{where}, raises {type(error).__name__}: {in_a_line(error)}"
    return message, frame.filename == code
