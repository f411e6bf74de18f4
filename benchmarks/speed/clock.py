"""Clocks: what a training takes between two of its updates, and which of two clocks to believe."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch

WARM, WARM_CARD = 3, 200
"""Updates before a window of time begins, on the CPU and on a CUDA device."""

LONGEST_STRETCH = 1_000
"""Updates that a CUDA device makes in one go, at most."""


class Enough(Exception):
    """The window is over; what comes after it need not be computed."""


@dataclass(frozen=True)
class Timing:
    """What was done within a window, and how long it took.

    Attributes:
        done: Updates of members; floating-point operations for the machine's own rate.
        wall: Seconds on the wall.
        processor: Seconds of this process on any core, all threads together.
    """

    done: float
    wall: float
    processor: float

    def rate(self, clock: str) -> float:
        """Done per second of `wall` or `processor`."""
        return self.done / getattr(self, clock)

    def __add__(self, other: Timing) -> Timing:
        return Timing(
            self.done + other.done, self.wall + other.wall, self.processor + other.processor
        )


class Clock:
    """Called after updates with the number of updates done: what the engine calls `flush`.

    On a CUDA device, where updates come in stretches, only marks are waited for.

    Args:
        steps: Updates of the window.
        device: Where they are made.
        marks: Of these, numbers between its ends at which the time is wanted.
    """

    def __init__(self, steps: int, device: torch.device, marks: Collection[int] = ()) -> None:
        self.first = warm(device)
        self.last, self.device = self.first + steps, device
        self.waits = sorted({self.first, self.last, *(self.first + mark for mark in marks)})
        self.seen: list[tuple[int, float, float]] = []

    def __call__(self, step: int, snapshot: object = None) -> None:
        """Note the time; at the end of the window, end the training.

        Raises:
            Enough: It is the end.
        """
        if step < self.first:
            return
        if not self.seen:  # the window begins here, and updates may have come in a stretch
            self.waits = [step + wait - self.first for wait in self.waits]
            self.last += step - self.first
        if self.device.type == "cuda":
            if step < self.waits[0]:
                return
            torch.cuda.synchronize()
            self.waits = [wait for wait in self.waits if wait > step]
        self.seen.append((step, time.perf_counter(), time.process_time()))
        if step >= self.last:
            raise Enough

    def timing(self, members: int) -> Timing:
        """Between the first and the last update of the window."""
        (first, *begun), (last, *ended) = self.seen[0], self.seen[-1]
        wall, processor = (end - begin for begin, end in zip(begun, ended, strict=True))
        return Timing(members * (last - first), wall, processor)


def warm(device: torch.device) -> int:
    """Updates before a window begins: on a CUDA device stretches of them are captured by then."""
    return WARM_CARD if device.type == "cuda" else WARM


def lasting(steps: int, device: torch.device) -> int:
    """Updates of a training that a window of so many lies in: it ends after the window."""
    return warm(device) + steps + (3 * LONGEST_STRETCH if device.type == "cuda" else 1)


def timed(
    train: Callable[[Clock], object], *, steps: int, members: int, device: torch.device
) -> Timing:
    """A window of some updates of a training.

    Args:
        train: Trains for `lasting(steps, device)` updates; calls the clock after each.
        steps: Updates within the window.
        members: K.
        device: Where it trains.
    """
    clock = Clock(steps, device)
    with contextlib.suppress(Enough):
        train(clock)
    return clock.timing(members)


def matmul(device: torch.device, *, size: int, times: int) -> Timing:
    """Floating-point operations of square float32 products: the machine's own rate."""
    left = torch.rand(size, size, device=device)
    right = torch.rand(size, size, device=device)

    def products(clock: Clock) -> None:
        for step in range(1, lasting(times, device)):
            torch.mm(left, right)
            clock(step)

    window = timed(products, steps=times, members=1, device=device)
    return Timing(2.0 * size**3 * window.done, window.wall, window.processor)


def total(timings: Iterable[Timing]) -> Timing:
    """One after the other."""
    first, *others = timings
    for timing in others:
        first = first + timing
    return first
