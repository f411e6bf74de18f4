"""Recognition of the user's functions, and protection of the process that calls the functions."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lossbench
from lossbench.processes import END_SIGNALS, umask

log = logging.getLogger(__name__)

CALL_PATIENCE: ContextVar[float] = ContextVar("CALL_PATIENCE", default=0.0)
"""Time limit of a call of the user's function while packs train, in seconds; 0 for no limit."""

WARNED: set[tuple[str, str]] = set()
"""Owners of code that changed settings of the process, and the settings: warned of once each."""

OURS = Path(lossbench.__file__).parent
"""Folder of lossbench's own code."""


@functools.cache  # because it is called at every update
def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is the user's, and not part of lossbench."""
    if str(getattr(function, "__module__", "")).partition(".")[0] != "lossbench":
        return True
    code = getattr(function, "__code__", None)  # because `functools.wraps` copies `__module__`
    return code is not None and not Path(code.co_filename).is_relative_to(OURS)


@contextlib.contextmanager
def restoring_process_state(
    owner: str, function: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Restore state of the process that the user's code changes, and warn of the change.

    Random generators are restored without a warning, because any global draw changes a generator.
    SystemExit and KeyboardInterrupt, which would end the command, become a RuntimeError; but
    without a handler for SIGINT a KeyboardInterrupt may come from the keyboard and is raised again.
    `owner` names the code in the warning, for example "loss wing". If the function that is called
    is given and belongs to lossbench, nothing is restored.
    """
    if function is not None and not is_own(function):
        yield
        return
    before, modules = _settings(), len(sys.modules)
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with _limited():
            yield
    except Exception as error:
        if _text_of(error) is None:
            raise RuntimeError(f"{type(error).__name__}, whose message cannot be read") from None
        raise
    except BaseException as error:
        is_caught = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        is_ours = type(error).__module__.partition(".")[0] == "lossbench"
        if is_ours or (type(error) is KeyboardInterrupt and not is_caught):
            raise
        raise RuntimeError(f"{type(error).__name__}: {_text_of(error) or ''}") from error
    finally:
        torch.set_rng_state(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        random.setstate(generators[2])
        after = _settings()
        for name, value in before.items():
            if after[name] != value:
                with contextlib.suppress(OSError, ValueError):  # the folder may be deleted
                    SETTINGS[name][1](value)
                is_import = name == FILTERS and len(sys.modules) != modules  # imports add filters
                if not is_import and (owner, name) not in WARNED:
                    WARNED.add((owner, name))
                    log.warning("%s changes %s of the whole process: restored", owner, name)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise TimeoutError after `CALL_PATIENCE` seconds; only the main thread can be interrupted."""
    seconds = CALL_PATIENCE.get()
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise TimeoutError(f"it returned nothing within {seconds:g} s (engine.patience)")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _text_of(error: BaseException) -> str | None:
    """Text of an error; None if the conversion to text raises another error."""
    try:
        return str(error)
    except Exception:
        return None


def _folder() -> str:
    """Current folder; empty if the folder was deleted."""
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()  # noqa: PTH109  called at each update
    return ""


def _restore_filters(filters: list[object]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    with warnings.catch_warnings():  # the exit invalidates decisions cached by the old filters
        pass


FILTERS = "the filters of warnings"

SETTINGS: dict[str, tuple[Callable[[], object], Callable[[Any], object]]] = {
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (
        lambda: str(torch.get_default_device()),
        lambda name: torch.set_default_device(None if name == "cpu" else name),
    ),
    "autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda is_on: torch.set_autocast_enabled("cpu", is_on),
    ),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the working folder": (_folder, os.chdir),
    FILTERS: (lambda: [*warnings.filters], _restore_filters),
    "autograd's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the mask of new files": (umask, os.umask),
    "the handlers of signals": (
        lambda: [signal.getsignal(number) for number in END_SIGNALS],
        lambda handlers: [signal.signal(*pair) for pair in zip(END_SIGNALS, handlers, strict=True)],
    ),
}
"""Settings of the process by name, each with a function to read and a function to restore it."""


def _settings() -> dict[str, object]:
    return {name: read() for name, (read, _) in SETTINGS.items()}


def draw_from_global_generators() -> None:
    """Draw once from each global generator, to reveal functions that depend on the generators."""
    _ = torch.rand(1), np.random.random(), random.random()  # noqa: NPY002
