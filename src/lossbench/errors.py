"""Mistakes in what was asked for, each with the value and the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """What was asked for does not exist or cannot be; the message has the value and the cure."""


def in_a_line(text: object) -> str:
    """A text, or that of an error, in a line."""
    return " ".join(str(text).split())


def nearest(name: str, known: Iterable[str], *, otherwise: str = "see 'lossbench --help'") -> str:
    """A hint that names the most similar known name, or lists all of them where they are few.

    Args:
        name: What was typed.
        known: Names that there are.
        otherwise: The hint where nothing is similar and they are too many to list.
    """
    names = sorted(known)
    if not names:
        return "there is none"
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    return f"use one of {', '.join(names)}" if len(names) <= 30 else otherwise


def refuse_unknown(name: str, known: Iterable[str], what: str, hint: str = "") -> None:
    """Raise a `ConfigError` with the nearest name where `name` is not among the known ones."""
    if name not in known:
        raise ConfigError(f"{what} {name!r} is unknown: {nearest(name, known)}{hint}")
