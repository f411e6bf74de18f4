"""From timings to tables, a figure, and docs/performance.md."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from speed import growth
from speed.clock import Timing
from speed.commands import Launched, Waited, has_workers, median
from speed.tasks import Task
from speed.ways import Way

BUSY = 1.05
"""Seconds on the wall over those of the processor, from which on a machine counts as busy."""

MEBI = 2**20


@dataclass(frozen=True)
class Measured:
    """What was found about one task on one device.

    Attributes:
        task: The task.
        ways: Rows of its table.
        device: "cpu" or "cuda".
        repetitions: By name of a way, its timings, one for each process, or why it was skipped.
        machine: Floating-point operations of square products, once for each repetition.
        flops: Floating-point operations of a member's step.
        parameters: P.
        profiled: K of the pack of `profile` and `courses`.
        memory: Peak memory in MiB of a process, by K.
        profile: Share of our loop's time by part.
        courses: Updates, and seconds on the wall and of the processor, of one pack.
    """

    task: Task
    ways: list[Way]
    device: str
    repetitions: list[dict[str, Any]]
    machine: list[Timing]
    flops: float
    parameters: int
    profiled: int
    memory: dict[int, float]
    profile: dict[str, float]
    courses: list[tuple[int, float, float]]

    @property
    def stretch(self) -> float:
        """Seconds on the wall over those of the processor, median over single-process rows."""
        alone = [way.name for way in self.ways if way.processes == way.threads == 1]
        timings = [one for name in alone for row in self.repetitions for one in _listed(row[name])]
        return statistics.median(one.wall / one.processor for one in timings)

    def rates(self, way: Way, clock: str) -> list[float]:
        """Member-steps per second, all processes together; empty where the way was skipped."""
        clock = "wall" if way.threads > 1 else clock
        found = [_listed(row[way.name]) for row in self.repetitions]
        return [sum(one.rate(clock) for one in timings) for timings in found if timings]

    def why(self, way: Way) -> str:
        """Why a way was skipped."""
        return str(self.repetitions[0][way.name])

    def named(self, name: str) -> Way | None:
        """The way of that name."""
        return next((way for way in self.ways if way.name == name), None)

    def ratio(self, way: Way, name: str, clock: str) -> float | None:
        """To the way of another name, median over repetitions; None where one is missing."""
        other = self.named(name)
        ours, theirs = self.rates(way, clock), self.rates(other, clock) if other else []
        if not ours or len(ours) != len(theirs):
            return None
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))

    @property
    def ours(self) -> Way:
        """The way that goals are judged by: the largest usual pack, on every core."""
        packs = [way for way in self.ways if way.kind == "pack"]
        full = [way for way in packs if way.processes > 1]
        named = [way for way in packs if way.members == self.task.card_members]
        return [*full, *named, *reversed(packs)][0]

    @property
    def goals(self) -> Mapping[str, float]:
        """Wanted ratios here, by what is compared with."""
        return self.task.card_goals if self.device == "cuda" else self.task.goals


@dataclass(frozen=True)
class Page:
    """docs/performance.md.

    Attributes:
        found: By task, on the CPU.
        on_card: The same on a CUDA device; empty where there is none.
        through: By task: the launcher, and a process per run.
        waited: Commands.
        others: What other scripts print, by command.
        is_quick: Whether the figures mean nothing.
    """

    found: list[Measured]
    on_card: list[Measured]
    through: Mapping[str, tuple[Launched, Waited | None]]
    waited: list[Waited]
    others: Mapping[str, str]
    is_quick: bool

    @property
    def clock(self) -> str:
        """Which clock single-process rows and rows per core are read from."""
        stretches = [one.stretch for one in self.found]
        return "processor" if statistics.median(stretches) > BUSY else "wall"

    def text(self) -> str:
        """The whole page, Markdown."""
        sections = [
            self._head(),
            self._commands(),
            LEGEND,
            self._goals(),
            STRATEGIES,
            *(_rates(one, self.clock) for one in self.found),
            self._profiles(),
            self._growth(),
            self._memory() if any(one.memory for one in self.found) else "",
            self._launcher(),
            self._card(),
        ]
        return "\n\n".join(section for section in sections if section) + "\n"

    def write(self, docs: Path) -> None:
        """The page and its figure."""
        draw(self.found, self.clock, docs / "performance" / "growth.png")
        (docs / "performance.md").write_text(self.text())

    def _head(self) -> str:
        return "\n\n".join(
            [
                "# How fast it is",
                "`python benchmarks/sweep_speed.py --write` makes this page: every number below, "
                "in one run, all rows of a table interleaved (A B C, A B C, ...), medians of "
                f"{len(self.found[0].repetitions)} repetitions with the least and the most.",
                "**--quick: sizes are tiny and figures mean nothing.**" if self.is_quick else "",
                f"Machine: {machine()}.",
                self._clock_told(),
            ]
        ).replace("\n\n\n\n", "\n\n")

    def _clock_told(self) -> str:
        stretch = statistics.median(one.stretch for one in self.found)
        if self.clock == "wall":
            return (
                f"Times are wall time; the machine was quiet (wall over processor {stretch:.2f})."
            )
        return (
            f"The machine was busy (wall over processor time {stretch:.2f}): rates are per second "
            "of processor time, and those per core the sum over processes that ran at the same "
            "time. Commands and the launcher are wall time: other programs are in their figures."
        )

    # ---- goals -----------------------------------------------------------------------------------

    def _goals(self) -> str:
        head, rows = ["task", "over", "wanted", "measured", ""], self._judged(self.found)
        named = ", ".join(f"`{one.ours.name}` for {one.task.name}" for one in self.found)
        lead = (
            f"## What was wanted\n\nOf {named}, nothing logged. B0 is the faster of its rows "
            "with one and with all threads, where both could be measured."
        )
        notes = [self._lost(one) for one in self.found]
        return "\n\n".join([lead, table(head, rows), *filter(None, notes)])

    def _judged(self, measured: Sequence[Measured]) -> list[list[str]]:
        rows = []
        for one in measured:
            for other, wanted in one.goals.items():
                got = self._reached(one, other)
                told = "not measured" if got is None else "met" if got >= wanted else "**miss**"
                ratio = "" if got is None else f"{got:.2f}x"
                rows.append([one.task.name, other, f"{wanted:,g}x", ratio, told])
        return rows

    def _reached(self, one: Measured, other: str) -> float | None:
        clock = "wall" if one.device == "cuda" else self.clock
        names = [other, f"{other}, all threads"] if clock == "wall" else [other]
        ratios = [one.ratio(one.ours, name, clock) for name in names]
        known = [ratio for ratio in ratios if ratio is not None]
        return min(known) if known else None

    def _lost(self, one: Measured) -> str:
        """Where the time of a task that misses a goal goes."""
        reached = {other: self._reached(one, other) for other in one.goals}
        if all(got is None or got >= one.goals[other] for other, got in reached.items()):
            return ""
        parts = [f"{part} {share:.0%}" for part, share in one.profile.items() if share >= 0.05]
        share = _share(one, one.ours, self.clock)
        return (
            f"{one.task.name} misses: its products run at {share:.0%} of this machine's matmul "
            f"rate; the loop's time goes to {', '.join(parts)} (default logging and evaluation)."
        )

    # ---- our loop --------------------------------------------------------------------------------

    def _profiles(self) -> str:
        parts = sorted(
            {part for one in self.found for part in one.profile},
            key=lambda part: -sum(one.profile.get(part, 0.0) for one in self.found),
        )
        rows = [
            [part, *(f"{one.profile.get(part, 0.0):.1%}" for one in self.found)] for part in parts
        ]
        counts = ", ".join(f"K = {one.profiled} for {one.task.name}" for one in self.found)
        return (
            "## Where our time goes\n\nShares of `engine.train` by cProfile, one process, "
            f"{counts}; every 10th update logged, every 100th evaluated, as by default, on the "
            "whole training split and 128 examples of validation and test. "
            "Evaluations before and after "
            "training count.\n\n" + table(["part", *(one.task.name for one in self.found)], rows)
        )

    def _growth(self) -> str:
        lines = []
        for one in self.found:
            counts, seconds = packed(one, self.clock)
            if len(counts) > 1:
                fit = growth.line(counts, seconds)
                lines.append(
                    f"- {one.task.name}: {_engineering(fit.constant)} per step and "
                    f"{_engineering(fit.each)} per member and step; time grows as "
                    f"K^{growth.exponent(counts[-2:], seconds[-2:]):.2f} from K = {counts[-2]} to "
                    f"{counts[-1]}, and as steps^{self._exponent_of_steps(one):.2f}."
                )
        return (
            "## How time grows\n\nA step costs something that is the same for every pack, and "
            "something for each member: least-squares lines of relative errors through all K, one "
            "process, nothing logged.\n\n"
            + "\n".join(lines)
            + "\n\n![Seconds per step over members, and seconds over steps](performance/growth.png)"
        )

    def _exponent_of_steps(self, one: Measured) -> float:
        at = 1 if self.clock == "wall" else 2
        return growth.exponent([row[0] for row in one.courses], [row[at] for row in one.courses])

    def _memory(self) -> str:
        rows = []
        for one in self.found:
            if len(one.memory) == 2:
                (few, less), (many, more) = sorted(one.memory.items())
                each = (more - less) / (many - few)
                floats = each * MEBI / 4 / one.parameters
                rows.append(
                    [
                        *(one.task.name, f"{one.parameters:,}", f"{less:,.0f} MiB"),
                        *(f"{more:,.0f} MiB (K = {many})", f"{each:.2f} MiB", f"{floats:.1f}"),
                    ]
                )
        head = ["task", "parameters", "K = 4", "large pack", "per member", "floats per parameter"]
        return (
            "## Memory\n\nPeak memory of a process that trains one pack and evaluates it once; a "
            "member costs the difference. Activations and evaluation count.\n\n" + table(head, rows)
        )

    # ---- commands --------------------------------------------------------------------------------

    def _launcher(self) -> str:
        rows = []
        for name, (launched, single) in self.through.items():
            base = median(single) if single else None
            per_run = launched.seconds[max(launched.seconds)] / launched.runs
            rows.append(
                [
                    *(name, f"{launched.runs:,}", f"{launched.workers}", _seconds(launched)),
                    *(f"{launched.rate:,.0f}", f"{launched.marginal:,.0f}"),
                    *((f"{base:.2f} s", f"{base / per_run:.0f}x") if base else ("", "")),
                ]
            )
        head = ["task", "runs", "workers", "seconds of the command by updates"]
        head += ["member-steps/s", "of further updates alone", "B3: a process per run", "ratio"]
        told = "" if has_workers() else " This version's launcher trains in one process."
        return (
            "## Through the whole launcher\n\nOne command, from its start to the last file on "
            "disk: import, composition, packs, training, default logging, "
            "evaluation on whole splits, "
            f"records. B3 is python, `import torch` and 360 updates of B1.{told}\n\n"
            + table(head, rows)
        )

    def _commands(self) -> str:
        rows = [
            [one.what, f"{median(one):.2f} s", _spread(one.seconds, ".2f")] for one in self.waited
        ]
        blocks = [f"`{line}`:\n\n{_block(told.strip())}" for line, told in self.others.items()]
        head = ["command", "median", "least to most"]
        return "\n\n".join(["## What a user waits for\n\nWall time.", table(head, rows), *blocks])

    def _card(self) -> str:
        if not self.on_card:
            return f"## On a GPU\n\n{NO_CARD}"
        lead = f"## On a GPU\n\n{torch.cuda.get_device_name()}, float32 without TF32, wall time."
        named = ", ".join(f"`{one.ours.name}` for {one.task.name}" for one in self.on_card)
        head = ["task", "over", "wanted", "measured", ""]
        judged = table(head, self._judged(self.on_card))
        told = f"Of {named}, nothing logged; wanted on an H100."
        return "\n\n".join([lead, told, judged, *(_rates(one, "wall") for one in self.on_card)])


STRATEGIES = """## How members are computed

What trained a pack stands in its records, column `environment`, as `strategy`:

- `stack`: perceptrons as batched products, with their backward pass written by hand;
- `vmap`: any other module, all members in one call;
- `loop`: one member after the other: convolutions on the CPU, and what vmap refuses.

On CUDA `engine.strategies=[graph]` records up to 50 updates once as a CUDA graph and replays them.
It is off by default, because no card has shown its worth."""

NO_CARD = """Not measured: no accelerator was to be had. What would run there is tested without one:
captured updates by a recording that is replayed on the CPU.
"""

LEGEND = """## What it is compared with

Float32, SGD with momentum 0.9, the same four losses in every row (`cross_entropy`,
`brier`, `mae_probs`, `quartic_probs`; `mse`, `mae`, `quartic`, `huber`), one thread per process
unless a row says otherwise. A member-step is one update of one run.

- **B0**: a loop with a DataLoader, torch.optim, and `.item()` at each step.
- **B1**: a loop over tensors in memory, batches by `index_select`. **Per core**: one such process
  for every core, all at the same time.
- **B2**: B1 through torch.compile. **B4**: Lightning with B0's DataLoader. **JAX**:
  `jit(vmap(scan))`, members and steps in one program that measures nothing on the way; one seed,
  where ours have four.
- **ours**: `engine.train` on packs of K members, between two evaluations; a pack of 1 is padded
  to 2.

All rows take turns in the same processes, which keep up to 1 GiB of the memory that they free from
our first row on (`lossbench.engine.runtime`): the loops have that from us too. A ratio is the
median of the ratios of each turn, not that of the medians."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine() -> str:
    """What the figures depend on; no names of hosts."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{memory:.0f} GiB; Python {platform.python_version()}, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}"
    )


def packed(one: Measured, clock: str) -> tuple[list[int], list[float]]:
    """K and median seconds per step of packs in one process, nothing logged."""
    alone = [way for way in one.ways if way.name == f"ours K={way.members}"]
    rates = {way.members: one.rates(way, clock) for way in alone}
    known = {members: statistics.median(some) for members, some in rates.items() if some}
    return [*known], [members / rate for members, rate in known.items()]


def draw(found: Sequence[Measured], clock: str, path: Path) -> None:
    """Seconds per step over K, and seconds over steps, of all tasks."""
    from matplotlib import pyplot, ticker

    from lossbench import figures

    path.parent.mkdir(parents=True, exist_ok=True)
    with figures.style():
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(6.75, 2.6), layout="constrained")
        for one, marker in zip(found, "os^D", strict=False):
            counts, seconds = packed(one, clock)
            (drawn,) = left.loglog(counts, seconds, marker, label=one.task.name)
            fit = growth.line(counts, seconds)
            fitted = [fit.constant + fit.each * count for count in counts]
            left.loglog(counts, fitted, color=drawn.get_color(), linewidth=0.8)
            steps = [row[0] for row in one.courses]
            taken = [row[1 if clock == "wall" else 2] for row in one.courses]
            right.loglog(steps, taken, f"{marker}-", linewidth=0.8, label=one.task.name)
        left.set(title="Does a member cost less in a larger pack?", xlabel="members K")
        left.set_ylabel(f"seconds per step ({clock} time)")
        title = "Does a step cost the same all along?"
        right.set(title=title, xlabel="steps", ylabel=f"seconds ({clock} time)")
        for axis in (left.xaxis, left.yaxis, right.xaxis, right.yaxis):
            axis.set_major_formatter("{x:g}")  # the house style reads no formulas
            axis.set_minor_formatter(ticker.NullFormatter())
        left.legend(frameon=False)
        figure.savefig(path, dpi=200, metadata={"Software": ""})
        pyplot.close(figure)


def _rates(one: Measured, clock: str) -> str:
    """The table of a task."""
    speed = statistics.median(timing.rate(clock) for timing in one.machine)
    names = ["B0", "B1", "B1 per core"]
    rows = []
    for way in one.ways:
        rates = one.rates(way, clock)
        if not rates:
            rows.append([way.name, one.why(way), *[""] * 5])
            continue
        ratios = [one.ratio(way, name, clock) for name in names]
        rows.append(
            [
                *(way.name, f"{statistics.median(rates):,.0f}", _spread(rates, ",.0f")),
                *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                f"{_share(one, way, clock):.0%}",
            ]
        )
    place = "the card" if one.device == "cuda" else "one core"
    head = ["", "member-steps/s", "least to most", "x B0", "x B1", "x B1 per core", "of matmul"]
    lead = (
        f"## {one.task.name}: {one.task.title}, batches of {one.task.batch_size}\n\n"
        f"{one.flops / 1e6:,.2f} MFLOP per member-step, computed from the shapes of its products. "
        f"Square float32 products run at {speed / 1e9:,.0f} GFLOP/s on {place}: the last column "
        "is the share of that."
    )
    return f"{lead}\n\n{table(head, rows)}"


def _share(one: Measured, way: Way, clock: str) -> float:
    """Of the rate at which as many cores multiply matrices."""
    speed = statistics.median(timing.rate(clock) for timing in one.machine)
    rate = statistics.median(one.rates(way, clock))
    return rate * one.flops / speed / max(way.processes, way.threads)


def _listed(found: Any) -> list[Timing]:
    return [] if isinstance(found, str) else found


def _block(told: str) -> str:
    """What a script printed: a table as it is, other lines as lines."""
    return told if told.startswith("|") else f"```\n{told}\n```"


def _spread(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}"


def _seconds(launched: Launched) -> str:
    return ", ".join(f"{steps}: {took:.1f}" for steps, took in launched.seconds.items())


def _engineering(seconds: float) -> str:
    """Seconds in milli- or microseconds."""
    return f"{1e3 * seconds:.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.0f} µs"
