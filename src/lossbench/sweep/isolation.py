"""Trains a pack in a process of its own, so that what kills the process kills nothing else."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import get_context

import torch

from lossbench import store
from lossbench.data import files
from lossbench.runs import ConfigError, Engine, Run, refuse_other_code
from lossbench.runs.extensions import load_extensions
from lossbench.sweep.training import SIGNALS, Interrupted, Job, OutOfMemory, Stop, stopping

log = logging.getLogger(__name__)

OUT_OF_MEMORY, COULD_NOT = 66, 67
"""Exit codes of a child whose pack does not fit, and of one that could not read or write."""

LOOK = 0.1
"""Seconds between two looks at a child."""


class Died(Exception):
    """The process of a pack ended before the pack did; the message says how."""


def run_apart(job: Job, extensions: Sequence[str], stop: Stop) -> None:
    """Train a pack in a child process; its outcome is in its folder.

    Args:
        job: The pack.
        extensions: Modules whose losses, data and models the child has to know.
        stop: What asks for an end here is passed on.

    Raises:
        Died: The child was killed, or left without finishing.
        OutOfMemory: The pack does not fit.
        Interrupted: An end was asked for; the checkpoint is committed.
    """
    stop.check()
    arguments = (job, [*extensions], os.getpid())
    child = get_context("spawn").Process(target=_child, args=arguments)
    child.start()
    told = 0
    try:
        while child.is_alive():
            child.join(LOOK)
            if stop.signal and not told and child.pid:
                told = stop.signal
                os.kill(child.pid, told)
    except Interrupted:
        child.kill()
        child.join()
        raise
    code = child.exitcode or 0
    if code == OUT_OF_MEMORY:
        raise OutOfMemory(f"pack {job.claim.pack.pack_id} does not fit")
    if code and stop.signal:
        raise Interrupted(stop.signal)
    if code == COULD_NOT:
        raise store.StoreError("the process of a pack could not go on, see above")
    if code - 128 in SIGNALS:
        raise Interrupted(code - 128)
    if code:
        raise death(code)


def death(code: int) -> Died:
    """What to say of a process that ended with an exit code before its pack did."""
    how = f"killed by {_name_of(-code)}" if code < 0 else f"exit code {code}"
    return Died(f"the process of its pack ended before it was finished: {how}")


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _child(job: Job, extensions: list[str], parent: int) -> None:
    os.setsid()  # signals of the terminal reach it through its parent, once
    _die_with(parent)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        prepare(job.claim.pack.runs, job.engine, extensions)
        with stopping() as stop:
            job.run(stop)
    except (store.StoreError, ConfigError) as error:
        log.error("%s", error)
        sys.exit(COULD_NOT)
    except Interrupted as end:
        sys.exit(128 + end.signal)
    except OutOfMemory:
        sys.exit(OUT_OF_MEMORY)


def prepare(runs: Sequence[Run], engine: Engine, extensions: Sequence[str]) -> None:
    """Make a process that was just begun ready to train some runs.

    Raises:
        ConfigError: An extension cannot be loaded, or other code than the pack was made from.
    """
    logging.getLogger("lossbench").setLevel(logging.INFO)
    load_extensions([*extensions])
    refuse_other_code(runs)
    torch.set_num_threads(engine.threads)
    files.use(engine.data_root, download=engine.download)


def _die_with(parent: int) -> None:
    """Ask the kernel for an end of this process when its parent ends (Linux; no-op elsewhere)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
