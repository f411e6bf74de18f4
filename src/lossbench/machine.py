"""How much of this machine may be used: cores and memory, within a container's limits too."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.errors import ConfigError

if TYPE_CHECKING:
    from lossbench.runs import Engine

WAY = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes begin: as copies of one that has imported all, where such a copy is safe."""

BYTES_A_WORKER = 2**30
"""Of memory for a process that trains, PyTorch itself included."""


def processes(workers: int, engine: Engine) -> int:
    """How many processes train: what was asked for, or what this machine has room for.

    Args:
        workers: As typed; 0 for one on each core.
        engine: How they train.
    """
    if workers < 0:
        raise ConfigError(f"hydra.launcher.workers={workers}: use 0 for one on each core, or more")
    if engine.device != "cpu":
        return 1
    return workers or min(cores() // engine.threads, int(free_memory() // BYTES_A_WORKER))


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
