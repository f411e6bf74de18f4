"""Packs in several processes: the same bits, and what happens to them when something happens."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from configs import make_run
from interrupted import Spoiling, contents, sweep_by, sweep_in, trainer
from selection import beyond

from lossbench import cli, records, store
from lossbench import processes as processes_of_machine
from lossbench.losses import LOSSES
from lossbench.question import ConfigError
from lossbench.question.packs import LEAST_MEMBERS, shared
from lossbench.sweep import launchers, worker
from lossbench.sweep.backend import Processes
from lossbench.sweep.inventory import Inventory
from lossbench.sweep.stop import Interrupted, Stop
from lossbench.user_code import load_extensions

RUNS = [make_run(loss=loss, seed=s, steps=30) for loss in ("mse", "mae", "huber") for s in (0, 1)]
LONG = [make_run(loss=loss, steps=40_000, log_every=10_000) for loss in ("mse", "mae", "huber")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the runs are in one process."""
    sweep = sweep_in(tmp_path_factory.mktemp("whole"), pack_size=4)
    sweep.run(RUNS)
    return contents(sweep.folder)


RAISING = """
from lossbench.losses.spec import Loss

def raising(output, target):
    raise ZeroDivisionError("on purpose")

LOSSES = (Loss(fn=raising, inverse_link="identity", family="power", task="regression",
               formula="?", claims=frozenset(), source="test"),)
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """Two processes, which take seconds to begin, for all tests that leave them alive."""
    place = tmp_path_factory.mktemp("extension")
    (place / "raising_loss.py").write_text(RAISING)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        with processes(2, pack_size=2, extensions=["raising_loss"]) as two:
            yield two


def processes(count, **words):
    return Processes(trainer(**words), count)


def holders(folder):
    return {store.holder(lock) for lock in folder.glob("packs/*/lock")} - {"unknown"}


# ---- the same, faster ----------------------------------------------------------------------------


def test_several_processes_give_the_bits_of_one_and_live_on(tmp_path, backend, whole):
    assert sweep_by(backend, tmp_path / "a").run(RUNS).keys() == {run.run_id for run in RUNS}
    assert contents(tmp_path / "a") == whole
    ids = {str(worker.process.pid) for worker in backend.processes}
    assert len(ids) == 2
    assert holders(tmp_path / "a") == ids
    sweep_by(backend, tmp_path / "b").run(RUNS)
    assert contents(tmp_path / "b") == whole
    assert holders(tmp_path / "b") == ids


def test_one_pack_begins_no_process(tmp_path, whole):
    two = processes(2)
    sweep_by(two, tmp_path).run(RUNS)
    assert two.processes == []
    assert contents(tmp_path) == whole


def test_what_a_process_logs_is_logged_by_the_command(tmp_path, backend, caplog):
    before = dict(LOSSES)
    load_extensions(["raising_loss"])
    try:
        runs = [make_run(loss="raising"), make_run(loss="mse", steps=9)]
        with caplog.at_level(logging.INFO):
            statuses = sweep_by(backend, tmp_path / "sweep").run(runs)
    finally:
        LOSSES.clear()
        LOSSES.update(before)
    assert [statuses[run.run_id]["status"] for run in runs] == ["failed", "done"]
    assert f"run {runs[0].run_id} failed: step 0: ZeroDivisionError: on purpose" in caplog.text


@pytest.mark.parametrize(
    ("runs", "size", "packs_at_once", "expected"),
    [
        (40, 128, 1, [40]),
        (40, 128, 2, [20, 20]),
        (40, 128, 8, [14, 14, 12]),
        (8, 4, 8, [4, 4]),
        (LEAST_MEMBERS, 128, 2, [LEAST_MEMBERS]),
        (300, 128, 2, [100, 100, 100]),
    ],
)
def test_packs_are_divided_until_every_process_has_one(runs, size, packs_at_once, expected):
    asked = [make_run(seed=seed) for seed in range(runs)]
    found = shared(asked, pack_size=size, packs_at_once=packs_at_once)
    assert [len(pack.runs) for pack in found] == expected


def test_there_are_no_more_processes_than_this_one_may_use_cores(monkeypatch):
    # What this machine has cannot be chosen; its cores can.
    engine = sweep_in(Path()).engine
    monkeypatch.setattr(launchers, "free_memory", lambda: 2.0**50)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert launchers.process_count(0, engine) == 1
    finally:
        os.sched_setaffinity(0, before)
    monkeypatch.setattr(processes_of_machine, "_quota", lambda: 1.5)
    assert launchers.process_count(0, engine) == 1
    monkeypatch.undo()
    monkeypatch.setattr(launchers, "free_memory", lambda: 1.5 * 2**30)
    assert launchers.process_count(0, engine) == 1
    assert launchers.process_count(3, engine) == 3
    with pytest.raises(ConfigError, match=r"workers=-1: use a positive number, or 0"):
        launchers.process_count(-1, engine)


# ---- signals -------------------------------------------------------------------------------------


def training(folder):
    """How many packs a process has begun."""
    states = [store.committed(path) for path in folder.glob("packs/*")]
    return sum(bool(state and state["starts"]) for state in states)


def signalled(folder, number, *, times, packs):
    """Send this process a signal as soon as so many packs train."""

    def send():
        while training(folder) < packs:
            time.sleep(0.05)
        time.sleep(1.0)  # until all have made a step
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("number", beyond([signal.SIGINT], [signal.SIGUSR2]))
def test_a_signal_reaches_every_process_and_commits_what_it_trains(tmp_path, number):
    two = processes(2, pack_size=1, commit_every=1e9)
    signalled(tmp_path, number, times=1, packs=2)
    with pytest.raises(Interrupted) as end:
        sweep_by(two, tmp_path).run(LONG)
    assert end.value.signal == number
    states = [store.committed(path) for path in (tmp_path / "packs").iterdir()]
    assert sorted(state["step"] > 0 for state in states) == [False, True, True]
    assert all(state["starts"] == 0 for state in states)
    assert two.processes == []


def test_a_second_signal_ends_every_process_at_once(tmp_path, monkeypatch):
    apart = processes(1, pack_size=1, commit_every=1e9)
    # A process that does not listen, as one that hangs.
    monkeypatch.setattr(worker.Worker, "stop", lambda self, number: None)
    signalled(tmp_path, signal.SIGTERM, times=2, packs=1)
    with pytest.raises(Interrupted):
        sweep_by(apart, tmp_path).run(LONG)
    assert apart.processes == []
    assert not any(store.is_held(lock) for lock in tmp_path.glob("packs/*/lock"))


def test_processes_end_with_their_command_and_commit_first(tmp_path):
    line = [sys.executable, "-m", "lossbench.cli", "-m", "data=diabetes", "model=linear"]
    line += ["seed=range(2)", "engine.pack_size=1", "steps=100000", "eval_every=10"]
    line += ["loss=mse", "hydra.launcher.workers=2", "engine.commit_every=1e9"]
    command = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "default"
    while training(folder) < 2:
        time.sleep(0.1)
    time.sleep(1.0)
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
    is_pack = output.requires_grad and output.dim() == 3 and output.shape[1] > 8
    return os.environ.get("LOSSBENCH_SWEEP") and is_pack

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
    assert "each half is tried on its own" in done.stderr
    assert "leaked" not in done.stderr


def test_a_full_disk_under_a_process_ends_the_command_and_says_so(tmp_path):
    spoiling = Processes(Spoiling(trainer(pack_size=3).engine), 1)
    with pytest.raises(store.StoreError, match=r"steps\.parquet"):
        sweep_by(spoiling, tmp_path).run(RUNS)
    assert spoiling.processes == []
    assert {facts["status"] for facts in Inventory(tmp_path).statuses.values()} == {"missing"}


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """Another package of our name comes first for a process that imports it from now on."""
    monkeypatch.setattr(processes_of_machine, "START_METHOD", "spawn")
    (tmp_path / "lossbench").mkdir()
    (tmp_path / "lossbench" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_a_process_that_cannot_import_the_package_ends_the_command(tmp_path, hidden):
    with (
        processes(1, pack_size=2) as backend,
        pytest.raises(ConfigError, match=r"before it was ready.*hydra\.launcher\.workers=1"),
    ):
        sweep_by(backend, tmp_path / "sweep").run(RUNS)
    assert backend.processes == []


def test_nor_does_a_large_pack_wait_for_a_process_that_cannot_begin(tmp_path, hidden):
    many = [make_run(loss="mse", seed=seed, steps=30) for seed in range(300)]
    (pack,) = Inventory(tmp_path / "sweep").open_packs(many, pack_size=300, allowed={})
    assert len(pickle.dumps(pack)) > 2**16  # more than a pipe holds
    with processes(1) as backend, pytest.raises(ConfigError, match="before it was ready"):
        backend.train([dataclasses.replace(pack, is_suspect=True)], Stop())


def _write_environment(path):
    Path(path).write_text(os.environ["MINE"])


WAITING = """
import os, time
from pathlib import Path

def wait(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)
"""


def test_a_process_has_the_environment_and_the_mask_of_who_begins_it(tmp_path, monkeypatch):
    for value, mask in (("one", 0o022), ("two", 0o027)):
        monkeypatch.setenv("MINE", value)
        before = os.umask(mask)
        try:
            child = processes_of_machine.begin(
                _write_environment, tmp_path / value, modules=["lossbench.processes"]
            )
            child.join()
        finally:
            os.umask(before)
        assert (tmp_path / value).read_text() == value
        assert (tmp_path / value).stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.exhaustive
def test_a_process_of_somebodys_code_ends_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    code = (
        "import time, waiting; from lossbench import processes\n"
        "processes.begin(waiting.wait, 'pid', modules=['lossbench.processes'])\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    until = time.monotonic() + 120
    while not (tmp_path / "pid").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    child = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
