"""Ways to train: each row of the table is one, timed in this process or in one for every core."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lossbench.data import Splits
from lossbench.engine import Machine, train
from lossbench.engine.runtime import arithmetic
from lossbench.engine.strategies import OPTIONS
from lossbench.question import Run
from lossbench.question.packs import Pack
from speed import baselines
from speed.clock import WARM, Clock, Timing, lasting, matmul, timed, total
from speed.tasks import NEVER, PACK_SIZE, Task, packs, parameters, splits

MEMBERS = (1, 2, 4, 16, 64, 128, 1024)
COPIES = 10
"""Tensors of the size of all parameters that are alive at a step, rounded up."""

CARD_STEPS = 500
"""Updates of a pack in a window on a CUDA device, at least."""

LONGEST = 10.0
"""Seconds that the updates of one window may take before a way is skipped."""


class Skipped(Exception):
    """A way cannot be timed here; says why."""


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        name: Row of the table.
        kind: loader, tensors, compiled, lightning, jax or pack.
        members: K of a pack.
        log_every: Updates between logged steps of a pack.
        processes: How many do the same at the same time.
        threads: Of each process.
    """

    name: str
    kind: str
    members: int = 1
    log_every: int = NEVER
    processes: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Setting:
    """What a way is timed with.

    Attributes:
        task: What is trained.
        is_quick: Whether the data are the small ones.
        device: "cpu" or "cuda".
        seconds: Wanted length of a window.
        guess: Member-steps per second of B1, from which windows get their length.
        is_busy: Whether other programs kept the cores when the measurement began.
    """

    task: Task
    is_quick: bool
    device: str
    seconds: float
    guess: float
    is_busy: bool

    def splits(self, seed: int) -> Splits:
        """The task's data."""
        return splits(self.task.name, self.is_quick, seed)


def ways(task: Task, *, is_quick: bool, device: str) -> list[Way]:
    """Every row of a task's table, in its order."""
    cores = os.cpu_count() or 1
    counts = (1, 4) if is_quick else MEMBERS
    baseline = [Way("B0", "loader"), Way("B1", "tensors")]
    more = [Way("B2", "compiled"), Way("B4", "lightning"), Way("JAX", "jax", PACK_SIZE)]
    alone = [Way(f"ours K={members}", "pack", members) for members in counts]
    most = min(task.card_members if device == "cuda" else task.members, counts[-1])
    logging = [
        Way(f"ours K={most}, logged every {every}", "pack", most, every) for every in (10, 1)
    ]
    if device == "cuda":
        return [*baseline, *more, *alone, *logging]
    full = [
        Way("B0, all threads", "loader", threads=cores),
        Way("B1 per core", "tensors", processes=cores),
        Way(f"ours K={most} per core", "pack", most, processes=cores),
        Way(f"ours K={most} per core, logged every 10", "pack", most, 10, processes=cores),
    ]
    return [*baseline, *more, *full, *alone, *logging]


# ---- one process ---------------------------------------------------------------------------------


def timing(way: Way, setting: Setting) -> Timing:
    """One window of a way in this process.

    Raises:
        Skipped: It cannot be timed here.
    """
    refuse(way, setting)
    torch.set_num_threads(way.threads)
    with arithmetic(torch.device(setting.device), "float32"):
        return KINDS[way.kind](way, setting)


def refuse(way: Way, setting: Setting) -> None:
    """Skip what is not installed, what memory does not hold and what takes too long.

    Raises:
        Skipped: With the reason.
    """
    if way.kind in ("lightning", "jax") and not baselines.is_installed(way.kind):
        raise Skipped("not installed")
    if way.kind == "jax" and setting.task.model != "mlp":
        raise Skipped("written for multilayer perceptrons only")
    if way.kind == "jax" and setting.device == "cuda":
        import jax

        if jax.default_backend() != "gpu":
            raise Skipped("JAX is installed without its GPU part")
    if way.kind == "compiled" and (setting.is_quick or baselines.why_nothing_compiles()):
        raise Skipped("not in --quick" if setting.is_quick else baselines.why_nothing_compiles())
    if way.threads > 1 and setting.is_busy:
        raise Skipped("several threads on a busy machine say nothing")
    if way.kind == "pack":
        _refuse_large(way, setting)


def _refuse_large(way: Way, setting: Setting) -> None:
    each = 4 * COPIES * parameters(setting.task, setting.splits(0))
    if setting.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if each * way.members * way.processes > free / 2:
        need = each * way.members * way.processes / 2**30
        raise Skipped(f"memory: needs {need:.0f} GiB, {free / 2**30:.0f} GiB are free")
    is_long = setting.device == "cpu"  # elsewhere an update of a pack is not so much longer
    if is_long and (WARM + 2) * way.members / setting.guess > LONGEST:
        raise Skipped(f"time: an update of the pack takes {way.members / setting.guess:.0f} s")


def _plain(train_one: Callable[..., Any], way: Way, setting: Setting) -> Timing:
    """One run of each loss after the other."""
    task, device = setting.task, torch.device(setting.device)
    steps = _steps(setting, members=len(task.losses))

    def one(run: Run) -> Timing:
        def training(clock: Clock) -> None:
            train_one(run, setting.splits(run.seed), clock, device)

        return timed(training, steps=steps, members=1, device=device)

    return total(one(task.run(loss, steps=lasting(steps, device))) for loss in task.losses)


def _pack(way: Way, setting: Setting) -> Timing:
    """Packs of K members, one after the other where they hold fewer than all losses."""
    device = torch.device(setting.device)
    steps = _steps(setting, members=max(way.members, len(setting.task.losses)))
    steps = max(steps, CARD_STEPS) if setting.device == "cuda" else steps
    typed = {"steps": lasting(steps, device), "log_every": way.log_every}
    return total(
        timed(
            functools.partial(trained, pack, setting),
            steps=steps,
            members=way.members,
            device=device,
        )
        for pack in packs(setting.task, way.members, **typed)
    )


def trained(pack: Pack, setting: Setting, clock: Callable[..., None]) -> Any:
    """What the launcher does with a pack."""
    data = {run.seed: setting.splits(run.seed) for run in pack.runs}
    padding = 2 if setting.device == "cpu" else len(pack.runs)
    device = torch.device(setting.device)
    names = [*OPTIONS] if setting.device == "cuda" else []
    return train(pack, data, Machine(device, padding, tuple(names)), flush=clock)


def _jax(way: Way, setting: Setting) -> Timing:
    """The whole program once; it is compiled beforehand."""
    from speed.in_jax import Program

    steps = _steps(setting, members=way.members)
    (pack,) = packs(setting.task, way.members, steps=steps)
    program = Program([replace(run, seed=0) for run in pack.runs], setting.splits(0))
    program()
    wall, processor = time.perf_counter(), time.process_time()
    program()
    done = way.members * steps
    return Timing(done, time.perf_counter() - wall, time.process_time() - processor)


def _steps(setting: Setting, *, members: int) -> int:
    """Updates that fill a window, by what B1 does."""
    return max(2, round(setting.seconds * setting.guess / members))


KINDS: dict[str, Callable[[Way, Setting], Timing]] = {
    "loader": functools.partial(_plain, baselines.loader),
    "tensors": functools.partial(_plain, baselines.tensors),
    "compiled": functools.partial(_plain, baselines.compiled),
    "lightning": functools.partial(_plain, baselines.lightning),
    "jax": _jax,
    "pack": _pack,
}


# ---- many processes ------------------------------------------------------------------------------


class Crew:
    """A process for every core, each with a way's windows; they live as long as the crew."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(processes)]

    def timings(self, way: Way, setting: Setting) -> list[Timing]:
        """The same window in each of the first `way.processes` processes, at the same time.

        Raises:
            Skipped: It cannot be timed here.
        """
        pools = self.pools[: way.processes]
        asked = [pool.submit(timing, way, setting) for pool in pools]
        return [one.result() for one in asked]

    def close(self) -> None:
        """End the processes."""
        for pool in self.pools:
            pool.shutdown()


def repetition(every: Sequence[Way], setting: Setting, crew: Crew) -> dict[str, Any]:
    """Each way once: a list of timings, one for each process, or why it was skipped."""
    found: dict[str, Any] = {}
    for way in every:
        try:
            is_here = way.processes == way.threads == 1
            found[way.name] = [timing(way, setting)] if is_here else crew.timings(way, setting)
        except Skipped as skipped:
            found[way.name] = str(skipped)
    return found


def machine_rate(setting: Setting) -> Timing:
    """Of float32 products, on one thread of this process or on the device."""
    torch.set_num_threads(1)
    size = 8192 if setting.device == "cuda" else 1024
    size, times = (256, 2) if setting.is_quick else (size, 20)
    return matmul(torch.device(setting.device), size=size, times=times)


# ---- memory --------------------------------------------------------------------------------------


def peak(way: Way, setting: Setting) -> float:
    """Peak memory in MiB of a new process that does one short window of a way.

    Raises:
        Skipped: It cannot be timed here.
    """
    crew = Crew(1)
    try:
        return crew.pools[0].submit(_peak, way, replace(setting, seconds=0.0)).result()
    finally:
        crew.close()


def _peak(way: Way, setting: Setting) -> float:
    timing(way, setting)
    status = Path("/proc/self/status")
    if not status.exists():
        raise Skipped("no /proc here")
    # Not ru_maxrss: a new process inherits that of the one that started it.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
