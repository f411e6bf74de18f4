"""Starts processes of this machine, and says which cores and memory they may use."""

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
"""On Linux a process is a copy of one that has imported everything once: 0.03 s instead of 3 s.
Elsewhere copies of a process that has imported torch are not safe."""

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals that ask a sweep to end, and to keep what it has."""

TRAINING = ("lossbench.sweep.worker", "lossbench.report.pictures")
"""Modules of the processes of a command that trains, and then draws."""

_ONE_AT_A_TIME = threading.RLock()
"""Held while processes begin, because that changes settings of the whole process."""

BYTES_A_WORKER = 2**30
"""Of memory that has to be free for a process that trains, its tensors included."""

BYTES_A_PROCESS = 410 * 2**20
"""Of memory that one which trains takes beside its tensors: Python, PyTorch, tables. Measured: the
peak of three sweeps of digits and two_moons less their tensors."""


def begin(
    target: Callable[..., None],
    *arguments: Any,
    modules: Sequence[str],
    ends_with_parent: bool = True,
) -> BaseProcess:
    """Begin a process, which the signals that ask for an end do not reach.

    Args:
        target: A function that can be imported.
        arguments: Arguments of the function; they are pickled.
        modules: Modules that the process needs; only the first call's are imported once for all.
        ends_with_parent: Whether the process ends at once when this one does, in whatever way.
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
    """Lets processes be started that signals do not reach, and in which no script runs again.

    Args:
        modules: Modules, see `begin`.
    """
    with _ONE_AT_A_TIME:
        main = sys.modules["__main__"]
        resource_tracker.ensure_running()  # it would let signals through
        before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)  # a child inherits that
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
    """Import modules for later processes on another core, while this process goes on.

    Args:
        modules: Modules, see `begin`.
    """
    with beginning(modules):
        pass


def inherited() -> tuple[dict[str, str], int]:
    """Environment and mask of new files of this process: the arguments of `inherit`."""
    return dict(os.environ), umask()


def inherit(environment: dict[str, str], mask: int) -> None:
    """Give this process the environment of its parent; a fork server keeps that of its start."""
    os.environ.clear()
    os.environ.update(environment)
    os.umask(mask)


def end_with_parent() -> None:
    """Have this process end at once when its parent ends, in any way."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def umask() -> int:
    """Mask of new files."""
    mask = os.umask(0o077)  # there is no way to read it
    os.umask(mask)
    return mask


def _child(
    parents: tuple[dict[str, str], int],
    ends_with_parent: bool,
    target: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    """Call a function in a new process, which first takes over its parent's settings."""
    inherit(*parents)
    if ends_with_parent:
        end_with_parent()
    target(*arguments)


def cores() -> int:
    """Cores that this process may use, by its affinity and by the quota of its container."""
    count = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return max(1, math.floor(min(count, _quota())))


def _quota() -> float:
    """Cores that a container may use at most: of cgroup version 2, or of version 1."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):
        old = Path("/sys/fs/cgroup/cpu")
        quota, period = ((old / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf


def free_memory() -> float:
    """Bytes that new processes may take; infinite where the system does not say."""
    with contextlib.suppress(OSError):
        line = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        return 1024.0 * int(line[1]) if line else math.inf
    return math.inf
