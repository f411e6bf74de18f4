"""Does a pack of decoders train as fast as a plain loop over one, and how does its time grow?

Question: member-updates a second of `gpt` on `markov_text`, on one thread: packed, one member after
the other, and in the loop that a user would write with torch.optim, the three in turn; then the
time of an update by windows of a batch, positions of a window and members.
Command: python benchmarks/sequences.py, five minutes.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.nn import functional

from lossbench.engine.batches import batch_indices
from lossbench.engine.machine import Machine
from lossbench.engine.members import Members, assemble
from lossbench.engine.runtime import keep_freed_memory
from lossbench.engine.strategies.autograd import Looped, Vectorised
from lossbench.engine.strategy import Strategy
from lossbench.engine.update import Updates
from lossbench.models import MODELS, initialised
from lossbench.question import Run, checked, packs, part
from lossbench.sweep import splits_of

Advance = Callable[[int], None]
"""Makes so many updates."""

MEMBERS, WINDOWS, POSITIONS, WIDTH, UPDATES, TURNS = 16, 16, 32, 32, 6, 5


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `train` does; the plain loop has it too
    print(
        f"{MEMBERS} members, batches of {WINDOWS} windows of {POSITIONS}: member-updates a second"
    )
    print(f"{'width':>6} {'packed':>8} {'in turn':>8} {'plain':>8} {'packed / plain':>15}")
    for width in (32, 64, 128):
        runs = members_of(width=width)
        ways = {"packed": packed(runs), "in turn": in_turn(runs), "plain": plain(runs[0])}
        seconds = timed(ways)
        rates = {"plain": 1 / seconds["plain"]}
        rates |= {way: MEMBERS / seconds[way] for way in ("packed", "in turn")}
        cells = " ".join(f"{rates[way]:8.0f}" for way in ways)
        print(f"{width:6} {cells} {rates['packed'] / rates['plain']:15.2f}")
    print("\nmilliseconds of an update of a pack, and over those of the first line")
    print(f"{'members':>8} {'windows':>8} {'positions':>10} {'ms':>8} {'times':>6}")
    sizes = [(8, 16, 32), (16, 16, 32), (32, 16, 32), (8, 32, 32), (8, 64, 32), (8, 16, 64)]
    ways = {
        size: packed(members_of(count=size[0], windows=size[1], positions=size[2]))
        for size in sizes
    }
    seconds = timed(ways)
    for size in sizes:
        count, windows, positions = size
        ratio = seconds[size] / seconds[sizes[0]]
        print(f"{count:8} {windows:8} {positions:10} {1e3 * seconds[size]:8.1f} {ratio:6.1f}")


def timed(ways: dict) -> dict:
    """Seconds of an update by way: the median over turns, in which all take part."""
    for advance in ways.values():
        advance(2)
    spent: dict = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, advance in ways.items():
            start = time.process_time()
            advance(UPDATES)
            spent[way].append((time.process_time() - start) / UPDATES)
    return {way: statistics.median(each) for way, each in spent.items()}


def members_of(
    *, count: int = MEMBERS, windows: int = WINDOWS, positions: int = POSITIONS, width: int = WIDTH
) -> list[Run]:
    """Runs of one pack, at learning rates of their own."""
    unchecked = Run(
        data=part("markov_text", window=positions, held_out=64),
        model=part("gpt", width=width),
        loss=part("cross_entropy"),
        optimizer=part("adamw"),
        lr=0.001,
        steps=1000,
        batch_size=windows,
    )
    return [checked(replace(unchecked, lr=0.001 * (1 + 0.01 * place))) for place in range(count)]


def packed(runs: list[Run]) -> Advance:
    """All members in one call."""
    members = replace(assembled(runs), is_apart=False)
    return advance_of(members, Vectorised(members))


def in_turn(runs: list[Run]) -> Advance:
    """One member after the other."""
    members = assembled(runs)
    alone = members.subset(range(members.recorded_count))  # no guards
    members = replace(alone, is_apart=True)
    return advance_of(members, Looped(members))


def assembled(runs: list[Run]) -> Members:
    """The members of a pack."""
    splits = {run.seed: splits_of(run) for run in runs}
    pack = packs.Pack("pack", tuple(runs))
    return assemble(pack, splits, Machine(torch.device("cpu")))


def advance_of(members: Members, strategy: Strategy) -> Advance:
    """The engine's updates."""
    updates = Updates(members, strategy, lambda place, reason: print(place, reason))
    return partial(updates.advance, updates.start())


def plain(run: Run) -> Advance:
    """What a user would write for one run."""
    splits = splits_of(run)
    build = partial(MODELS["gpt"].fn, *splits.sizes, **run.model.params)
    model = initialised(build, seed=run.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.lr)
    inputs, labels = splits.inputs["train"], splits.targets["train"]
    batches = iter(batch_indices(run.seed, len(inputs), run.steps, run.batch_size))

    def advance(count: int) -> None:
        for _ in range(count):
            rows = next(batches)
            optimizer.zero_grad()
            output = model(inputs[rows]).flatten(0, 1)
            functional.cross_entropy(output, labels[rows].flatten()).backward()
            optimizer.step()

    return advance


if __name__ == "__main__":
    main()
