"""Benchmarks run through, and what they compare trains the same thing. No test looks at a time."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from needs import skip_without
from selection import beyond

from lossbench.data import DATA
from lossbench.engine import Machine, train
from lossbench.question.packs import Pack
from lossbench.sweep import splits_of

FOLDER = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")
STEPS = 25


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from speed.tasks import RANDOM_IMAGES

    DATA["random_images"] = RANDOM_IMAGES  # the first import did, and a test takes it out again
    yield
    del DATA["random_images"]


def small(name, **typed):
    """Four runs of a task that differ in the loss only, with their data."""
    from speed.tasks import tasks

    task = tasks(is_quick=True)[name]
    typed = {"steps": STEPS, "log_every": 1, "eval_every": STEPS, **typed}
    runs = [task.run(loss, **typed) for loss in task.losses]
    return runs, splits_of(runs[0])


def ours(runs, splits):
    """Loss of each step by loss, of one pack."""
    pack = Pack("pack", tuple(runs))
    data = {runs[0].seed: splits}
    tables = train(pack, data, Machine(CPU))
    steps = tables["steps"].to_pandas()
    return {loss: part.loss_value.tolist() for loss, part in steps.groupby("loss", observed=True)}


@pytest.mark.parametrize(
    ("name", "kind"),
    beyond([("W1", "tensors")], product(["W1", "W3s", "W4"], ["loader", "tensors"])),
)
def test_a_baseline_trains_what_the_engine_trains(name, kind):
    from speed import baselines

    runs, splits = small(name, precision="float64")
    packed = ours(runs, splits)
    for run in runs:
        alone = getattr(baselines, kind)(run, splits, lambda step: None, CPU)
        assert packed[run.loss.name] == pytest.approx(alone, rel=1e-5, abs=1e-5)
        assert len(set(alone)) == STEPS  # it did train


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["W1", "W4"])
def test_the_program_in_jax_trains_what_the_engine_trains(name):
    if importlib.util.find_spec("jax") is None:
        skip_without("jax", "pip install 'lossbench[speed]'")
    from speed.in_jax import Program

    runs, splits = small(name)
    packed, alone = ours(runs, splits), Program(runs, splits)()
    for loss, values in packed.items():
        assert values == pytest.approx(alone[loss][0].tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("name", "wanted"), [("W1", 17.76e6), ("W2", 155.06e6), ("W4", 1.729e6)])
def test_operations_are_counted_as_on_paper(name, wanted):
    from speed.tasks import flops, splits, tasks

    task = tasks(is_quick=False)[name]
    data = splits_of(tasks(is_quick=True)["W2"].run("brier")) if name == "W2" else None
    assert flops(task, data or splits(name, False, 0)) == pytest.approx(wanted, rel=1e-3)


def test_packs_hold_every_loss_equally_often():
    from speed.tasks import packs, tasks

    task = tasks(is_quick=True)["W1"]
    for members in (1, 2, 4, 16, 64):
        found = packs(task, members)
        losses = [run.loss.name for pack in found for run in pack.runs]
        assert {len(pack.runs) for pack in found} == {members}
        assert {losses.count(loss) for loss in task.losses} == {len(losses) // 4}


def test_a_clock_ends_a_training_after_its_window():
    from speed.clock import WARM, timed

    done = []

    def training(clock):
        for step in range(1, 1_000):
            done.append(step)
            clock(step)

    timing = timed(training, steps=7, members=3, device=CPU)
    assert timing.done == 21
    assert done[-1] == WARM + 7


@pytest.mark.parametrize("stretch", [1, 7, 1_000])
def test_a_window_holds_its_updates_however_long_the_stretches_they_come_in(monkeypatch, stretch):
    from speed.clock import Clock, Enough, lasting

    cuda, steps = torch.device("cuda"), 500
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)  # where there is no CUDA
    clock = Clock(steps, cuda, marks=[100])
    with contextlib.suppress(Enough):
        for done in range(stretch, lasting(steps, cuda) + 1, stretch):
            clock(done)
    assert steps <= clock.timing(members=1).done < steps + stretch


@pytest.mark.exhaustive
def test_sweep_speed_runs_through_and_gives_whole_tables(tmp_path):
    path = os.pathsep.join([*filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(FOLDER / "sweep_speed.py"), "--quick", "--only", "W4"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for title in ("## What was wanted", "## W4", "## Where our time goes", "## On a GPU"):
        assert title in done.stdout
    tables = [block.splitlines() for block in done.stdout.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 5
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1, lines
    rows = {line.split("|")[1].strip() for lines in tables for line in lines}
    assert {"`lossbench --help`", "B0", "B1", "B1 per core", "ours K=4 per core"} <= rows
    for row, module in (("JAX", "jax"), ("B4", "lightning")):
        if f"| {row} | not installed" in done.stdout:
            skip_without(module, "pip install 'lossbench[speed]'")
