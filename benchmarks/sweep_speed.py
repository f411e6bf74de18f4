"""How fast is a sweep, against what a user would write instead, and where does its time go?

Question: member-steps per second of the engine and of the whole launcher, over a loop with a
DataLoader, a loop over tensors in one process for each core, torch.compile, a process per run, and
Lightning and JAX where they are installed; four tasks of small models, four losses each. All
rows are interleaved in one run, one thread per process, medians of their repetitions. Also what
commands take from start to end, memory per member, and how time grows with members and steps.
Command: python benchmarks/sweep_speed.py [--quick] [--write] [--only W1,W4]: 20 minutes; --quick
is for the tests, seconds, and its figures mean nothing; --write makes docs/performance.md anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # of every process that this one starts
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from speed import commands, growth, page, ways
from speed.tasks import PACK_SIZE, Task, flops, parameters, splits, tasks
from speed.ways import Crew, Setting, Skipped, Way

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the page."""
    typed = _typed(arguments)
    torch.set_num_threads(1)
    is_quick, device = typed.quick, "cuda" if torch.cuda.is_available() else "cpu"
    chosen = [task for name, task in tasks(is_quick=is_quick).items() if name in typed.only]
    crew = Crew(os.cpu_count() or 1)
    found = [measured(task, is_quick=is_quick, device="cpu", crew=crew) for task in chosen]
    on_card = []
    if device == "cuda":
        on_card = [measured(task, is_quick=is_quick, device=device, crew=crew) for task in chosen]
    crew.close()
    through = {
        task.name: (
            commands.launched(task, is_quick=is_quick),
            commands.process_per_run(task, is_quick=is_quick),
        )
        for task in chosen
        if task.name in (("W4",) if is_quick else ("W1", "W4"))
    }
    waited = [*commands.waits(is_quick=is_quick), *commands.answers(is_quick=is_quick)]
    others = commands.others(is_quick=is_quick)
    told = page.Page(found, on_card, through, waited, others, is_quick)
    print(told.text())
    if typed.write:
        told.write(DOCS)


def measured(task: Task, *, is_quick: bool, device: str, crew: Crew) -> page.Measured:
    """Everything about one task: repetitions of all ways, profile, memory, growth with steps."""
    data = splits(task.name, is_quick, 0)
    seconds, times = (0.02, 2) if is_quick else (0.5, 5)
    setting = Setting(task, is_quick, device, seconds, guess=40.0, is_busy=is_busy())
    setting = replace(setting, guess=_guess(setting))
    every = ways.ways(task, is_quick=is_quick, device=device)
    most = max(way.members for way in every if _is_short(way, setting))
    repetitions, machine = [], []
    for number in range(times):
        _say(f"{task.name} on {device}: repetition {number + 1} of {times}")
        machine.append(ways.machine_rate(setting))
        repetitions.append(ways.repetition(every, setting, crew))
    return page.Measured(
        task=task,
        ways=every,
        device=device,
        repetitions=repetitions,
        machine=machine,
        flops=flops(task, data),
        parameters=parameters(task, data),
        profiled=most,
        memory={} if is_quick else _memory(setting, most),
        profile=growth.profile(setting, members=most, steps=20 if is_quick else 200),
        courses=growth.over_steps(setting, members=most),
    )


def _guess(setting: Setting) -> float:
    """What B1 does in a second, roughly."""
    found = ways.timing(Way("", "tensors"), replace(setting, seconds=1.0))
    return found.rate("processor" if setting.device == "cpu" else "wall")


def _is_short(way: Way, setting: Setting) -> bool:
    """Whether 200 updates of a pack of the default size or less take half a minute at most."""
    return way.members <= PACK_SIZE and 200 * way.members / setting.guess <= 30


def is_busy() -> bool:
    """Whether others have kept half of the cores for the last minute."""
    return os.getloadavg()[0] > (os.cpu_count() or 1) / 2


def _memory(setting: Setting, most: int) -> dict[int, float]:
    """Peak memory in MiB of a process that trains a pack, by K."""
    found = {}
    for members in (4, most):
        try:
            found[members] = ways.peak(Way("", "pack", members), setting)
        except Skipped as skipped:
            _say(f"memory of K={members}: {skipped}")
    return found


def _typed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds; figures mean nothing")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    names = [*tasks(is_quick=True)]
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, help="tasks")
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
