"""What does one measurement of each instrument cost, in updates of the same pack?

Question: the time of one measurement over the time of one update without any logging, and from it
the share of training that an instrument takes when it measures as often as it does by default in a
run of 2,000 updates with eval_every 100. On one thread, for packs of 20 members on digits: a 64-64
multilayer perceptron, and two 3x3 convolutions of 16 channels on the digits as 8 x 8 images.
Command: python benchmarks/instruments.py, a minute. `records.INSTRUMENTS` has the larger
of the two costs, rounded up.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from lossbench.engine import Machine, moments, train
from lossbench.measures.instruments import times
from lossbench.models import MODELS, Model
from lossbench.question import Run, checked, packs, part
from lossbench.records import INSTRUMENTS
from lossbench.sweep import splits_of

UPDATES = 200
STEPS, EVAL_EVERY = 2_000, 100
LOSSES = ("cross_entropy", "brier", "mse_logits", "mae_probs", "quartic_probs")


def images(inputs: int, outputs: int) -> nn.Module:
    """Two convolutions on the digits as images, an average over places, one linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, outputs)),
    )


MODELS["images"] = Model(images, "this benchmark")


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    for name, params in (("mlp", {"widths": [64, 64]}), ("images", {})):
        update = seconds_per_update(name, params)
        print(f"\n{name}: an update of 20 members takes {1e3 * update:.2f} ms")
        print(f"{'instrument':20} {'updates':>8} {'table':>6} {'times':>6} {'overhead':>9}")
        taken = measurements(name, params)
        for one, seconds in taken.items():
            cost, often = seconds / update, times(one, steps=STEPS, eval_every=EVAL_EVERY)
            share = cost * often / STEPS
            table = INSTRUMENTS[one].cost
            print(f"{one:20} {cost:8.2f} {table:6.4g} {often:6} {share:9.1%}")


def seconds_per_update(model: str, params: dict[str, Any]) -> float:
    """Least of three: a run of many updates minus one of a single update."""
    long, short = (runs_of(model, params, steps=count) for count in (UPDATES + 1, 1))
    pairs = [(timed(lambda: trained(long)), timed(lambda: trained(short))) for _ in range(3)]
    return min(more - less for more, less in pairs) / UPDATES


def measurements(model: str, params: dict[str, Any]) -> dict[str, float]:
    """Seconds of one measurement of each instrument, median of seven, after a warm-up."""
    kept: list[Any] = []
    original = moments.Instruments.measured

    def keeping(self: Any, names: Any, step: int, update: Any, state: Any) -> Any:
        kept[:] = [self, step, update, copy.deepcopy(state)]
        return original(self, names, step, update, state)

    moments.Instruments.measured = keeping
    try:
        trained(runs_of(model, params, steps=20, instruments=[*INSTRUMENTS]))
    finally:
        moments.Instruments.measured = original
    instruments, step, update, state = kept
    found = {}
    for name in INSTRUMENTS:
        once = lambda name=name: instruments.measured([name], step, update, state)  # noqa: E731
        once()
        found[name] = statistics.median(timed(once) for _ in range(7))
    return found


def runs_of(model: str, params: dict[str, Any], **more: Any) -> list[Run]:
    """Twenty runs of one pack."""
    return [run_of(model, params, loss, seed, **more) for loss in LOSSES for seed in range(4)]


def run_of(
    model: str,
    params: dict[str, Any],
    loss: str,
    seed: int,
    *,
    steps: int,
    instruments: list[str] | None = None,
) -> Run:
    """One run on digits."""
    return checked(
        Run(
            data=part("digits"),
            model=part(model, **params),
            loss=part(loss),
            lr=0.05,
            momentum=0.9,
            instruments=tuple(instruments or ()),
            seed=seed,
            steps=steps,
            log_every=10_000,
            eval_every=10_000,
        )
    )


def trained(runs: list[Run]) -> None:
    """Train them as one pack."""
    (pack,) = packs.group(runs, pack_size=len(runs))
    splits = {one.seed: splits_of(one) for one in runs}
    train(pack, splits, Machine(torch.device("cpu")))


def timed(what: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
