"""A trial process that calls the user's functions; the parent reports a crash or a hang."""

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
"""Time after which the log says that a call is slow, in seconds."""

STARTING = 120.0
"""Time limit for the start of Python and the import of modules, in seconds."""


class TrialProcess:
    """A process that starts at the first call, and again at the next call after a ConfigError.

    The process loads `own`; `patience` is the time limit of a call, in seconds.
    """

    cure = "mend it"
    """Cure in the message for a call that takes too long."""

    def __init__(self, own: Own, *, patience: float) -> None:
        self.own, self.patience = own, patience
        self._stack = contextlib.ExitStack()
        self._pipe: connection.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, when: str, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function, which can be imported, in the process and return the result.

        `when` is a clause for messages, for example "loss wing is called".

        Raises:
            ConfigError: The process ended, the call took too long, functions of torch were
                replaced, or the function raised a ConfigError.
        """
        pipe = self._pipe or self._start()
        with contextlib.suppress(OSError):  # if the process has ended, `_answer` reports the end
            pipe.send((function, arguments))
        try:
            return self._answer(pipe, when, self.patience)
        except ConfigError:  # the function may have changed or ended the process
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
        """Receive the next answer; waits up to five times longer if other processes use the CPU."""
        until = time.monotonic() + 5 * seconds
        if not pipe.poll(min(QUIET, seconds)):
            log.info("waiting for up to %g s: %s", seconds, when)
        while not pipe.poll(seconds):
            is_starved = False  # whether the process is runnable, but had little time on the CPU
            with contextlib.suppress(OSError):  # not Linux
                stat = Path(f"/proc/{self._process.pid}/stat").read_text()
                fields = stat.rpartition(")")[2].split()
                spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                is_starved = fields[0] == "R" and spent < seconds
            if time.monotonic() > until or not is_starved:
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


# ---- in the process ------------------------------------------------------------------------------


def _serve(pipe: connection.Connection, own: Own, errors: str) -> None:
    """Serve calls: answer once after the imports, and then after each call."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)  # so that the user's code cannot read from the terminal
    os.dup2(null, 1)  # or print to the terminal
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
    """Callables with public names in torch, torch.nn.functional and torch.Tensor, by name."""
    owners = {"torch": torch, "functional": torch.nn.functional, "Tensor": torch.Tensor}
    return {
        f"{owner_name}.{name}": value
        for owner_name, owner in owners.items()
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("_")
    }


def _changed(before: dict[str, object]) -> str:
    """Refusal that names the functions of torch that were replaced; empty if none was."""
    now, names = _functions(), []
    for name, function in before.items():
        value = now.get(name)
        is_of_torch = str(getattr(value, "__module__", "")).startswith("torch")
        has_the_name = getattr(value, "__name__", "") == name.partition(".")[2]
        if value is not function and not (is_of_torch and has_the_name):  # torch's own wrappers
            names.append(name)
    if names:
        listed = ", ".join(sorted(names)[:3])
        return f"it replaces {listed} for everything else too: call your own instead"
    return ""
