"""A process that calls the user's functions and may come to any end, which its parent reports."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing import Pipe, connection
from pathlib import Path
from typing import Any, Self

import torch

from lossbench.errors import ConfigError
from lossbench.processes import TRAINING, begin
from lossbench.user_code.modules import Own

log = logging.getLogger(__name__)

QUIET = 10.0
"""Seconds that a call may take before that is said."""

STARTING = 120.0
"""Seconds that Python and the modules may take before the first function is called."""


class TrialProcess:
    """A process that begins with the first call, and again after a call that was refused.

    Args:
        own: Functions of the user that the process has to know.
        patience: Seconds that a call may take.
    """

    cure = "mend it"
    """Cure in the message about a call that takes too long."""

    def __init__(self, own: Own, *, patience: float) -> None:
        self.own, self.patience = own, patience
        self._stack = contextlib.ExitStack()
        self._pipe: connection.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, when: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Result of a function in the process.

        Args:
            when: Clause for messages, as in "loss wing is called".
            function: A function that can be imported.
            arguments: Arguments of the function; they are pickled.

        Raises:
            ConfigError: The process ended, nothing came back in time, functions of torch were
                replaced, or the function itself refuses its arguments.
        """
        pipe = self._pipe or self._start()
        with contextlib.suppress(OSError):  # its end is seen next
            pipe.send((function, arguments))
        try:
            return self._answer(pipe, when, self.patience)
        except ConfigError:  # what was called may have changed or ended the process
            self._stack.close()
            self._pipe = None
            raise

    def _start(self) -> connection.Connection:
        pipe, childs_end = Pipe()
        self._errors = self._stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
        self._process = begin(_serve, childs_end, self.own, self._errors.name, modules=TRAINING)
        childs_end.close()
        self._stack.callback(self._process.join)
        self._stack.callback(self._process.kill)
        names = ", ".join(self.own.modules) or "of your own"
        self._pipe = pipe
        self._answer(pipe, f"extensions {names} are imported", STARTING)
        return pipe

    def _answer(self, pipe: connection.Connection, when: str, seconds: float) -> Any:
        """Next answer of the process; waits five times as long where others slow it down."""
        until = time.monotonic() + 5 * seconds
        if not pipe.poll(min(QUIET, seconds)):
            log.info("waiting for up to %g s: %s", seconds, when)
        while not pipe.poll(seconds):
            if time.monotonic() > until or not _is_starved(self._process.pid, seconds):
                late = f"nothing comes back within {seconds:g} s"
                raise ConfigError(f"when {when}, {late}: {self.cure}")
        try:
            problem, result = pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            if lines := self._errors.read().decode(errors="replace").strip().splitlines():
                how += f", after the words {lines[-1][:200]!r}"
            raise ConfigError(
                f"when {when}, its process ends ({how}): correct it, or leave it out"
            ) from None
        if problem:
            raise ConfigError(f"when {when}, {problem}")
        return result


def _is_starved(pid: int | None, seconds: float) -> bool:
    """Whether a process wants to run, and other processes have left it less than some seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # another system than Linux
        return False
    spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return fields[0] == "R" and spent < seconds


# ---- in the process ------------------------------------------------------------------------------


def _serve(pipe: connection.Connection, own: Own, errors: str) -> None:
    """Answer a first time when all is imported, then for each call."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)  # the user's code reads nothing
    os.dup2(null, 1)  # and prints nothing
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), 2)
    torch.set_num_threads(1)
    before = _functions()
    own.load()
    pipe.send((_changed(before), None))
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            problem, result = "", None
            try:
                result = function(*arguments)
            except ConfigError as error:
                problem = str(error)
            pipe.send((_changed(before) or problem, result))


def _functions() -> dict[str, object]:
    """Values of the public names of torch, its functions and its tensors."""
    owners = {"torch": torch, "functional": torch.nn.functional, "Tensor": torch.Tensor}
    return {
        f"{owner_name}.{name}": value
        for owner_name, owner in owners.items()
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("_")
    }


def _changed(before: dict[str, object]) -> str:
    """Refusal that names functions of torch which were replaced; empty where none was."""
    now, names = _functions(), []
    for name, function in before.items():
        value = now.get(name)
        is_of_torch = str(getattr(value, "__module__", "")).startswith("torch")
        has_the_name = getattr(value, "__name__", "") == name.partition(".")[2]
        if value is not function and not (is_of_torch and has_the_name):  # a wrapper of torch's own
            names.append(name)
    if names:
        listed = ", ".join(sorted(names)[:3])
        return f"it replaces {listed} for everything else too: call your own instead"
    return ""
