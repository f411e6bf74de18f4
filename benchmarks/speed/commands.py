"""What a user waits for: commands from their start to their end, in processes of their own."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lossbench.models.spec import features
from speed.tasks import Task, splits

LOSSBENCH = ("-m", "lossbench.cli")
HERE = Path(__file__).resolve().parent

FIRST_STEP = """
import sys, time
from lossbench import cli
from lossbench.sweep import training
call = training.Training.__call__
def stamped(self, step, snapshot):
    if step == 1:
        print(time.time(), flush=True)
    call(self, step, snapshot)
training.Training.__call__ = stamped
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command line, which says when its first update was done."""

OWN = """
def soft(output, target):
    return ((1 + (output - target).square()).sqrt() - 1).sum(-1)
"""
"""A loss of somebody's own."""

COMPARE = """
import numpy as np, lossbench
random = np.random.default_rng(0)
inputs = random.normal(size=(400, 3))
lossbench.compare([soft], (inputs, inputs @ [1.0, -2.0, 0.0] + random.normal(size=400)), "linear")
"""
"""A comparison in a script."""

ESSAY = "runs/essay"
"""The sweep of a bare `lossbench`."""

OTHERS = (("plan_accuracy.py", ""), ("scale.py", "1000"), ("report_speed.py", "report"))
"""Scripts beside this one whose answers belong on the same page."""

STEPS = (120, 360)
"""Updates of each run that goes through the launcher: the difference is training alone."""


@dataclass(frozen=True)
class Waited:
    """A command, and seconds of it on the wall.

    Attributes:
        what: For people.
        seconds: Of each repetition.
        note: What else is to be said.
    """

    what: str
    seconds: list[float]
    note: str = ""


def waits(*, is_quick: bool) -> list[Waited]:
    """Start of the command line, expansion of many runs, and the way to the first update."""
    times, counts = (1, (20,)) if is_quick else (5, (1, 1_000, 10_000))
    found = [
        Waited("`python -c pass`", [seconds(["-c", "pass"]) for _ in range(times)]),
        Waited("`import torch`", [seconds(["-c", "import torch"]) for _ in range(times)]),
        Waited("`lossbench --help`", [seconds([*LOSSBENCH, "--help"]) for _ in range(times)]),
    ]
    for count in counts:
        line = [*LOSSBENCH, "plan", "-m", "loss=mse", f"seed=range({count})", "data=diabetes"]
        repeated = times if count == 1 else min(times, 2)
        told = (
            f"`lossbench plan` of {count:,} run{'s' if count > 1 else ''}: compose, plan, predict"
        )
        found.append(Waited(told, [seconds(line) for _ in range(repeated)]))
    if is_quick:
        return found
    firsts = [first_step() for _ in range(times)]
    found.append(Waited("`lossbench loss=mse data=diabetes` to its first update", firsts))
    whole = [seconds([*LOSSBENCH, "loss=mse", "data=diabetes"]) for _ in range(times)]
    found.append(Waited("the same to its end, 500 updates", whole))
    return found


def answers(*, is_quick: bool) -> list[Waited]:
    """Seconds of commands that train, up to their answer; nothing in --quick."""
    if is_quick:
        return []
    found = []
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "own.py").write_text(OWN)
        for what, line, repeated in (
            ("`lossbench`, from nothing to its report", [*LOSSBENCH], 1),
            ("the same again, nothing to train", [*LOSSBENCH], 3),
            ("its figures as files, `--figures`", [*LOSSBENCH, "report", ESSAY, "--figures"], 1),
            (
                "`lossbench try own.py`, three tasks to their report",
                [*LOSSBENCH, "try", "own.py"],
                1,
            ),
            ("a script with one `lossbench.compare`", ["-c", OWN + COMPARE], 1),
        ):
            times = [seconds(line, place=place) for _ in range(repeated)]
            found.append(Waited(what, times))
    return found


def others(*, is_quick: bool) -> dict[str, str]:
    """What the scripts of `OTHERS` print, by command; nothing in --quick."""
    if is_quick:
        return {}
    folder = HERE.parent
    return {
        f"python benchmarks/{name} {words}".rstrip(): output([str(folder / name), *words.split()])
        for name, words in OTHERS
    }


# ---- the launcher, and a process per run ---------------------------------------------------------


@dataclass(frozen=True)
class Launched:
    """A sweep through the whole launcher.

    Attributes:
        runs: How many.
        workers: Processes that train; 1 where the launcher has no such key.
        seconds: Of the whole command, by updates of each run.
    """

    runs: int
    workers: int
    seconds: dict[int, float]

    @property
    def rate(self) -> float:
        """Member-steps per second of the longer command, all of it counted."""
        steps = max(self.seconds)
        return self.runs * steps / self.seconds[steps]

    @property
    def marginal(self) -> float:
        """Member-steps per second of what the longer command does beyond the shorter one."""
        (few, less), (many, more) = sorted(self.seconds.items())
        return self.runs * (many - few) / (more - less)


def has_workers() -> bool:
    """Whether the launcher of this tree can train in more than one process."""
    from lossbench.question.schema import LauncherNode

    fields = dataclasses.fields(LauncherNode)
    return "workers" in {field.name for field in fields}


def launched(task: Task, *, is_quick: bool) -> Launched:
    """Packs of the default size on all cores, default logging and evaluation, one command."""
    cores = os.cpu_count() or 1
    each = 2 if is_quick else 32 * cores
    line = [*LOSSBENCH, "-m", f"loss={','.join(task.losses)}", f"seed=range({each})"]
    line += [*task.overrides(), "name=launched"]
    line += [f"hydra.launcher.workers={cores}"] if has_workers() else []
    steps = (2, 12) if is_quick else STEPS
    took = {count: seconds([*line, f"steps={count}"]) for count in steps}
    return Launched(each * len(task.losses), cores if has_workers() else 1, took)


def process_per_run(task: Task, *, is_quick: bool) -> Waited | None:
    """B3: python, import torch, 360 updates of B1; no convolutions."""
    if task.model != "mlp":
        return None
    data = splits(task.name, is_quick, 0)
    inputs, outputs = data.sizes
    found = {
        "inputs": data.inputs["train"],
        "targets": data.targets["train"],
        "widths": [features(inputs, model=task.model), *task.widths, outputs],  # type: ignore[arg-type]
        "batch_size": task.batch_size,
    }
    with tempfile.TemporaryDirectory() as place:
        torch.save(found, Path(place) / "data.pt")
        line = [str(HERE / "one_run.py"), str(Path(place) / "data.pt"), "360"]
        times = [seconds(line) for _ in range(1 if is_quick else 3)]
    return Waited("B3", times)


# ---- measuring -----------------------------------------------------------------------------------


def seconds(arguments: Sequence[str], *, place: str = "") -> float:
    """Of a python process in a folder, an empty one if none is named."""
    start = time.perf_counter()
    output(arguments, place=place)
    return time.perf_counter() - start


def first_step() -> float:
    """From the start of the command to its first update."""
    start = time.time()
    told = output(["-c", FIRST_STEP, "loss=mse", "data=diabetes", "steps=2"])
    stamps = [line for line in told.splitlines() if line.replace(".", "").isdigit()]
    return float(stamps[0]) - start


def output(arguments: Sequence[str], *, place: str = "") -> str:
    """What a python process in a folder prints, an empty one if none is named.

    Raises:
        SystemExit: It failed.
    """
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=place or empty,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def median(waited: Waited) -> float:
    """Of its repetitions."""
    return statistics.median(waited.seconds)
