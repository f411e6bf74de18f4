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
from typing import IO, Any, Self

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
    """The process, which begins with the first call, and anew after a call that was refused.

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
            how = _end(self._process.exitcode or 0, self._errors)
            raise ConfigError(
                f"when {when}, its process ends ({how}): mend it, or leave it out"
            ) from None
        if problem:
            raise ConfigError(f"when {when}, {problem}")
        return result


def _is_starved(pid: int | None, seconds: float) -> bool:
    """Whether a process wants to run and has had less of a processor: others keep it from it."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # another system than Linux
        return False
    spent = (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")
    return facts[0] == "R" and spent < seconds


def _end(code: int, errors: IO[bytes]) -> str:
    """End of a process in words, with its last line of output."""
    lines = errors.read().decode(errors="replace").strip().splitlines()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}, after the words {lines[-1][:200]!r}" if lines else how


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


def _functions() -> dict[str, Any]:
    """Values of the public names of torch, its functions and its tensors."""
    places = {"torch": torch, "functional": torch.nn.functional, "Tensor": torch.Tensor}
    return {
        f"{place}.{name}": value
        for place, owner in places.items()
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("_")
    }


def _changed(before: dict[str, Any]) -> str:
    """Refusal that names functions of torch which were replaced; empty where none was."""
    now = _functions()
    names = [name for name in before if not _is_torchs(name, before[name], now.get(name))]
    if names:
        listed = ", ".join(sorted(names)[:3])
        return f"it replaces {listed} for everything else too: call your own instead"
    return ""


def _is_torchs(name: str, before: Any, now: Any) -> bool:
    """Whether the value of a name is the one of before, or torch's own wrapper of it."""
    if now is before:
        return True
    module = str(getattr(now, "__module__", ""))
    return module.startswith("torch") and getattr(now, "__name__", "") == name.partition(".")[2]
