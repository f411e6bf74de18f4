"""Start of processes on this machine, and the cores and memory that processes may use."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""On Linux a process is forked from a server that has imported all modules: 0.03 s instead of 3 s.
On other systems it is not safe to fork a process that has imported torch."""

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals that ask a sweep to commit its work and to end."""

TRAINING = ("lossbench.sweep.worker", "lossbench.report.pictures")
"""Modules that the processes of a training command need: to train, and to draw the figures."""

_ONE_AT_A_TIME = threading.RLock()
"""Lock that is held while a process starts, because a start changes settings of this process."""

BYTES_A_WORKER = 2**30
"""Bytes of memory that must be free for one training process, including its tensors."""

BYTES_A_PROCESS = 410 * 2**20
"""Bytes that a training process takes without its tensors: Python, PyTorch, tables. Measured as the
peak memory of three sweeps of digits and two_moons minus their tensors."""


def begin(
    target: Callable[..., None],
    *arguments: object,
    modules: Sequence[str],
    ends_with_parent: bool = True,
) -> BaseProcess:
    """Start a process in which `END_SIGNALS` are blocked.

    Args:
        target: A function that can be imported.
        arguments: Arguments of the function; they are pickled.
        modules: Modules that the process needs; a fork server imports those of the first call only.
        ends_with_parent: Whether the process ends at once when this process ends, in any way.
    """
    context: Any = get_context(START_METHOD)
    process = context.Process(
        target=_child, args=(inherited(), ends_with_parent, target, arguments)
    )
    with beginning(modules):
        process.start()
    return process


@contextlib.contextmanager
def beginning(modules: Sequence[str]) -> Iterator[None]:
    """Context in which a new process blocks `END_SIGNALS` and does not import the main script."""
    with _ONE_AT_A_TIME:
        main = sys.modules["__main__"]
        resource_tracker.ensure_running()  # a later start of the tracker would unblock signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)  # inherited by a child
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            if START_METHOD == "forkserver":
                forkserver.set_forkserver_preload([*modules])
                forkserver.ensure_running()
            yield
        finally:
            sys.modules["__main__"] = main
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare(modules: Sequence[str]) -> None:
    """Start the fork server, which imports modules for later processes in the background."""
    with beginning(modules):
        pass


def inherited() -> tuple[dict[str, str], int]:
    """Environment variables and umask of this process, as arguments of `inherit`."""
    return dict(os.environ), umask()


def inherit(environment: dict[str, str], mask: int) -> None:
    """Set the parent's environment variables and umask, which a fork server does not pass on."""
    os.environ.clear()
    os.environ.update(environment)
    os.umask(mask)


def end_with_parent() -> None:
    """Make this process end at once when its parent ends, in any way."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def umask() -> int:
    """Umask of this process: the permission bits that new files do not get."""
    mask = os.umask(0o077)  # only a change returns the mask
    os.umask(mask)
    return mask


def _child(
    parents: tuple[dict[str, str], int],
    ends_with_parent: bool,
    target: Callable[..., None],
    arguments: Sequence[object],
) -> None:
    """Take over the parent's settings in a new process, then call the function."""
    inherit(*parents)
    if ends_with_parent:
        end_with_parent()
    target(*arguments)


def cores() -> int:
    """Number of cores that this process may use, by its affinity and its container's quota."""
    count = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return max(1, math.floor(min(count, _quota())))


def _quota() -> float:
    """Number of cores that the cgroup (version 2 or 1) allows; infinite without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):
        old = Path("/sys/fs/cgroup/cpu")
        quota, period = ((old / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf


def free_memory() -> float:
    """Bytes of memory that new processes may take; infinite if the system does not report them."""
    with contextlib.suppress(OSError):
        line = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        return 1024.0 * int(line[1]) if line else math.inf
    return math.inf
