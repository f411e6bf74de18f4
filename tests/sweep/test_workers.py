"""Packs in several processes: the same bits, and what happens to them when something happens."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from configs import make_run
from interrupted import contents, sweep_in
from selection import beyond

from lossbench import cli, launch, records, store
from lossbench.losses import LOSSES
from lossbench.runs import ConfigError
from lossbench.runs.extensions import load_extensions
from lossbench.runs.packs import LEAST_MEMBERS, shared
from lossbench.sweep import workers
from lossbench.sweep.leases import Claims
from lossbench.sweep.training import Interrupted
from lossbench.sweep.workers import Workers

RUNS = [make_run(loss=loss, seed=s, steps=30) for loss in ("mse", "mae", "huber") for s in (0, 1)]
LONG = [make_run(loss=loss, steps=100_000, log_every=10_000) for loss in ("mse", "mae", "huber")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the runs are in one process."""
    sweep = sweep_in(tmp_path_factory.mktemp("whole"), pack_size=4)
    sweep.run(RUNS)
    return contents(sweep.folder)


@pytest.fixture(scope="module")
def crew():
    """Two processes for all tests that leave them alive."""
    two = Workers(2, at_once=True)
    yield two
    two.dismiss()


def shared_sweep(folder, crew, **words):
    sweep = sweep_in(folder, **{"pack_size": 2, **words})
    sweep.crew = crew
    return sweep


def holders(folder):
    return {store.holder(lock) for lock in folder.glob("packs/*/lock")} - {"unknown"}


# ---- the same, faster ----------------------------------------------------------------------------


def test_several_processes_give_the_bits_of_one_and_live_on(tmp_path, crew, whole):
    assert shared_sweep(tmp_path / "a", crew).run(RUNS).keys() == {run.run_id for run in RUNS}
    assert contents(tmp_path / "a") == whole
    ids = {str(worker.process.pid) for worker in crew.processes}
    assert len(ids) == 2
    assert holders(tmp_path / "a") == ids
    shared_sweep(tmp_path / "b", crew).run(RUNS)
    assert contents(tmp_path / "b") == whole
    assert holders(tmp_path / "b") == ids


def test_a_small_sweep_begins_no_process(tmp_path, whole):
    two = Workers(2, at_once=False)
    shared_sweep(tmp_path, two).run(RUNS)
    assert two.processes == []
    assert contents(tmp_path) == whole


def test_a_sweep_that_lasts_is_handed_over_in_the_middle_of_a_pack(tmp_path, monkeypatch, crew):
    runs, given = [make_run(loss=loss, steps=100) for loss in ("mse", "mae")], []
    give = workers._Worker.give

    def noted(self, claim, sweep):
        given.append(claim.record["step"])
        give(self, claim, sweep)

    monkeypatch.setattr(workers._Worker, "give", noted)
    looks = itertools.count()
    monkeypatch.setattr(workers._Relief, "is_ready", lambda self: next(looks) > 50)
    crew.is_due = False
    shared_sweep(tmp_path / "two", crew, pack_size=1).run(runs)
    assert crew.is_due
    assert sorted(step > 0 for step in given) == [False, True]
    alone = sweep_in(tmp_path / "one", pack_size=1)
    alone.run(runs)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert str(os.getpid()) not in holders(tmp_path / "two")


@pytest.mark.parametrize(
    ("runs", "size", "hands", "expected"),
    [
        (40, 128, 1, [40]),
        (40, 128, 2, [20, 20]),
        (40, 128, 8, [14, 14, 12]),
        (8, 4, 8, [4, 4]),
        (LEAST_MEMBERS, 128, 2, [LEAST_MEMBERS]),
        (300, 128, 2, [100, 100, 100]),
    ],
)
def test_packs_are_divided_until_every_process_has_one(runs, size, hands, expected):
    asked = [make_run(seed=seed) for seed in range(runs)]
    found = shared(asked, pack_size=size, hands=hands)
    assert [len(pack.runs) for pack in found] == expected


def test_there_are_no_more_processes_than_this_one_may_use_cores(monkeypatch):
    engine = sweep_in(Path()).engine
    monkeypatch.setattr(launch, "_free_memory", lambda: 2.0**50)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert launch._hands(0, engine) == 1
    finally:
        os.sched_setaffinity(0, before)
    monkeypatch.setattr(launch, "_quota", lambda: 1.5)
    assert launch._hands(0, engine) == 1
    monkeypatch.undo()
    monkeypatch.setattr(launch, "_free_memory", lambda: 1.5 * 2**30)
    assert launch._hands(0, engine) == 1
    assert launch._hands(3, engine) == 3
    with pytest.raises(ConfigError, match=r"workers=-1: use 0"):
        launch._hands(-1, engine)


# ---- signals -------------------------------------------------------------------------------------


def training(folder):
    """How many packs a process has begun."""
    states = [store.committed(path) for path in folder.glob("packs/*")]
    return sum(bool(state and state["starts"]) for state in states)


def signalled(folder, number, *, times):
    """Send this process a signal as soon as two packs train."""

    def send():
        while training(folder) < 2:
            time.sleep(0.05)
        for _ in range(times):
            time.sleep(0.3)
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("number", beyond([signal.SIGINT], [signal.SIGUSR2]))
def test_a_signal_reaches_every_process_and_commits_what_it_trains(tmp_path, number):
    two = Workers(2, at_once=True)
    sweep = shared_sweep(tmp_path, two, pack_size=1, commit_every=1e9)
    signalled(tmp_path, number, times=1)
    with pytest.raises(Interrupted) as end:
        sweep.run(LONG)
    assert end.value.signal == number
    states = [store.committed(path) for path in (tmp_path / "packs").iterdir()]
    assert sorted(state["step"] > 0 for state in states) == [False, True, True]
    assert all(state["starts"] == 0 for state in states)
    assert two.processes == []


def test_a_second_signal_ends_every_process_at_once(tmp_path, monkeypatch):
    two = Workers(2, at_once=True)
    monkeypatch.setattr(workers._Worker, "stop", lambda self, number: None)  # none would listen
    signalled(tmp_path, signal.SIGTERM, times=2)
    with pytest.raises(Interrupted):
        shared_sweep(tmp_path, two, pack_size=1, commit_every=1e9).run(LONG)
    assert two.processes == []
    assert not any(store.is_held(lock) for lock in tmp_path.glob("packs/*/lock"))


def test_processes_end_with_their_command_and_commit_first(tmp_path):
    line = [sys.executable, "-m", "lossbench.cli", "-m", "data=diabetes", "model=linear"]
    line += ["seed=range(2)", "engine.pack_size=1", "steps=1000000", "log_every=100000"]
    line += ["loss=mse", "hydra.launcher.workers=2", "engine.commit_every=1e9"]
    command = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "default"
    while training(folder) < 2:
        time.sleep(0.1)
    time.sleep(0.5)
    command.kill()
    command.wait()
    while any(map(store.is_held, folder.glob("packs/*/lock"))):
        time.sleep(0.1)
    states = [store.committed(path) for path in folder.glob("packs/*")]
    assert [state["step"] > 0 and state["starts"] == 0 for state in states] == [True, True]


# ---- what breaks ---------------------------------------------------------------------------------

HOSTILE = """
import os, signal, sys
from lossbench.losses.spec import Loss

def is_training(output):
    return os.environ.get("LOSSBENCH_SWEEP") and output.requires_grad and len(output.shape) == 3

def deadly(output, target):
    if is_training(output):
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.5 * (output - target).square().sum(-1)

def leaving(output, target):
    if is_training(output):
        os._exit(0)
    return 0.5 * (output - target).square().sum(-1)

def noisy(output, target):
    sys.stdout.write("x" * 100_000 + chr(10))
    return 0.5 * (output - target).square().sum(-1)

def exits(output, target):
    if is_training(output):
        sys.exit(3)
    return 0.5 * (output - target).square().sum(-1)

def row(fn):
    return Loss(fn=fn, inverse_link="identity", family="power", task="regression", formula="?",
                claims=frozenset(), source="test")

LOSSES = tuple(map(row, (deadly, leaving, noisy, exits)))
"""


@pytest.mark.exhaustive
def test_hostile_losses_harm_nobody_else_in_one_command(tmp_path):
    (tmp_path / "hostile_losses.py").write_text(HOSTILE)
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    for name in ("deadly", "leaving", "noisy", "exits"):
        (tmp_path / "conf" / "loss" / f"{name}.yaml").write_text(f"fn: {name}\n")
    line = [sys.executable, "-m", "lossbench.cli", "--config-dir", "conf", "-m", "data=diabetes"]
    line += ["model=linear", "steps=4", "loss=mse,deadly,noisy,leaving,exits,mae"]
    line += ["extensions=[hostile_losses]", "hydra.launcher.workers=2", "engine.pack_size=3"]
    environment = {**os.environ, "LOSSBENCH_SWEEP": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == cli.SOME_FAILED, done.stderr
    runs = records.load(tmp_path / "runs" / "default").runs.groupby("loss")
    failed = dict.fromkeys(("deadly", "leaving", "exits"), "failed")
    expected = failed | dict.fromkeys(("mse", "mae", "noisy"), "done")
    assert runs.status.unique().map(list).to_dict() == {k: [v] for k, v in expected.items()}
    reasons = runs.reason.first()
    assert "killed by SIGKILL" in reasons["deadly"]
    assert "exit code 0" in reasons["leaving"]
    assert "in halves now" in done.stderr
    assert "leaked" not in done.stderr


def test_what_a_process_logs_is_logged_by_the_command(tmp_path, monkeypatch, crew, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "raising_loss.py").write_text(
        "from lossbench.losses.spec import Loss\n"
        "def raising(output, target):\n"
        "    raise ZeroDivisionError('on purpose')\n"
        "LOSSES = (Loss(fn=raising, inverse_link='identity', family='power', task='regression',\n"
        "               formula='?', claims=frozenset(), source='test'),)\n"
    )
    crew.dismiss()  # others, that know this folder
    before = dict(LOSSES)
    load_extensions(["raising_loss"])
    try:
        runs = [make_run(loss="raising"), make_run(loss="mse")]
        sweep = shared_sweep(tmp_path / "sweep", crew, pack_size=1)
        sweep.extensions = ["raising_loss"]
        with caplog.at_level(logging.INFO):
            statuses = sweep.run(runs)
    finally:
        LOSSES.clear()
        LOSSES.update(before)
    assert [statuses[run.run_id]["status"] for run in runs] == ["failed", "done"]
    assert f"run {runs[0].run_id} failed: step 0: ZeroDivisionError: on purpose" in caplog.text


def test_a_full_disk_under_a_process_ends_the_command_and_says_so(tmp_path, crew, monkeypatch):
    sweep = shared_sweep(tmp_path, crew)
    original = workers._Worker.give

    def spoiled(self, claim, sweep):
        (claim.folder / "steps.parquet" / "x").mkdir(parents=True)  # no file can replace it
        original(self, claim, sweep)

    monkeypatch.setattr(workers._Worker, "give", spoiled)
    with pytest.raises(store.StoreError, match=r"steps\.parquet"):
        sweep.run(RUNS)
    assert crew.processes == []
    assert {facts["status"] for facts in Claims(tmp_path).members.values()} == {"missing"}
