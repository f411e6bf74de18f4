"""Every fault there is, injected: nothing lost, nothing doubled, nothing silently wrong.

`pytest -m faults` prints what survived; `LOSSBENCH_FAULTS=long pytest -m faults` takes many times
as long and tries far more. Expected everywhere: what was committed before is still there, and the
same command afterwards ends with the very bits of a sweep that nothing disturbed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from importlib.metadata import version
from pathlib import Path

import pytest
from configs import make_run
from interrupted import contents, mounted, sweep_in
from selection import beyond, one_in
from tqdm import tqdm

import lossbench
from lossbench import cli, records, store
from lossbench.losses import LOSSES
from lossbench.sweep import backend, training
from lossbench.sweep.stop import Interrupted

pytestmark = [
    pytest.mark.faults,
    # What a child of a process with threads may not do is take their locks, see `forked`.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

OURS = str(Path(lossbench.__file__).parent)
IS_LONG = os.environ.get("LOSSBENCH_FAULTS") == "long"
RUNS = [make_run(loss=loss, seed=s, steps=60) for loss in ("mse", "mae", "huber") for s in (0, 1)]
LONGER = [
    make_run(loss=loss, steps=240, log_every=30, eval_every=120) for loss in ("mse", "mae", "huber")
]
TINY = [make_run(loss=loss, steps=4, log_every=2, eval_every=2) for loss in ("mse", "mae")]


@pytest.fixture
def figure(record_property):
    """Notes what a test is to print: the promise, and how often it held."""
    return lambda promise, told: record_property("figure", (promise, told))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the runs are when nothing disturbs them."""
    undisturbed = sweep_in(tmp_path_factory.mktemp("whole"), pack_size=4)
    undisturbed.run([*RUNS, *LONGER, *TINY])
    return contents(undisturbed.folder)


@pytest.fixture
def inline(monkeypatch):
    """Suspect packs train in this process: these tests kill it from outside, time and again."""
    monkeypatch.setattr(backend, "Processes", Inline)  # no setting asks for it


def forked(act):
    """The number of a child process that does `act` and ends; torch is already loaded there."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        tqdm.set_lock(threading.RLock())  # the parent's is shared, and lost with who holds it
        act()
        code = 0
    except Interrupted as end:
        code = 128 + end.signal
    except KeyboardInterrupt:  # before the sweep listens
        code = 128 + signal.SIGINT
    except store.StoreError:
        code = 1
    finally:
        os._exit(code)


def ended(child):
    """Exit code of a child; minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Inline(backend.InProcess):
    """Trains suspect packs in this process, because these tests kill it from outside."""

    def __init__(self, trainer, count):
        super().__init__(trainer)

    def train(self, packs, stop):
        return super().train([dataclasses.replace(one, is_suspect=False) for one in packs], stop)


def finished(folder, runs, *, pack_size=4):
    """How the same command ends, and what is there then."""
    disturbed = sweep_in(folder, pack_size=pack_size)
    statuses = disturbed.run(runs)
    assert {facts["status"] for facts in statuses.values()} == {"done"}
    return contents(folder)


def only(whole, runs):
    return {run.run_id: whole[run.run_id] for run in runs}


def no_garbage(folder):
    """Every file of a finished sweep is named by its pack's record."""
    for pack in (folder / "packs").iterdir():
        named = store.committed(pack)["files"].keys() | {"commit.json", "lock"}
        assert {path.name for path in pack.iterdir()} <= named
    return not [*folder.rglob("*.tmp")]


# ---- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("least", beyond([5], [200 if IS_LONG else 25]))
def test_kills_at_any_time_lose_nothing(tmp_path, inline, whole, figure, least):
    draw, kills, sweeps = random.Random(0), 0, 0
    while kills < least:
        folder, code, patience = tmp_path / str(sweeps), -signal.SIGKILL, 0.5
        while code == -signal.SIGKILL:
            doing = sweep_in(folder, pack_size=2, commit_every=0.01)
            child = forked(lambda doing=doing: doing.run(LONGER))
            time.sleep(draw.uniform(0.0, patience))
            patience *= 1.05  # so that it ends on any machine
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            code = ended(child)
            kills += code == -signal.SIGKILL
        assert code == 0
        assert contents(folder) == only(whole, LONGER)
        assert no_garbage(folder)
        sweeps += 1
    told = f"{kills} kills in {sweeps} sweeps: all end bit-identical, lost 0"
    figure("SIGKILL at any time", told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_signals_once_and_twice_lose_nothing(tmp_path, inline, whole, figure, number):
    draw, sweeps = random.Random(number), 10 if IS_LONG else 1
    for count in range(sweeps):
        folder, code = tmp_path / str(count), -1
        for times in (1, 2, 1):
            child = forked(lambda to=folder: sweep_in(to, pack_size=4).run(RUNS))
            time.sleep(draw.uniform(0.05, 0.3))
            for _ in range(times):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)
            code = ended(child)
            assert code in (0, 128 + number, -number)
            if code == 0:
                break
        assert finished(folder, RUNS) == only(whole, RUNS)
    told = f"{sweeps} sweeps, each cut up to 3 times: all end bit-identical; exit code 128 + signal"
    figure(f"{number.name}, once and twice", told)


DEADLY = """
import os, signal
from lossbench.losses.spec import Loss

def deadly(output, target):
    is_training = output.requires_grad and output.dim() == 3 and output.shape[1] > 8
    if os.environ.get("LOSSBENCH_SWEEP") and is_training:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 0.5 * (output - target).square().sum(-1)

LOSSES = (
    Loss(fn=deadly, inverse_link="identity", family="power", task="regression", formula="?",
         claims=frozenset(), source="test"),
)
"""


@pytest.mark.exhaustive
def test_a_pack_that_kills_its_process_fails_alone(tmp_path, monkeypatch, figure):
    (tmp_path / "deadly_losses.py").write_text(DEADLY)
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "deadly.yaml").write_text("fn: deadly\n")
    line = [sys.executable, "-m", "lossbench.cli", "--config-dir", "conf", "-m", "data=diabetes"]
    line += ["model=linear", "steps=4", "loss=mse,deadly,mae", "extensions=[deadly_losses]"]
    environment = {**os.environ, "LOSSBENCH_SWEEP": "1", "PYTHONPATH": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
    codes = [
        subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True).returncode
        for _ in range(2)
    ]
    assert codes == [-signal.SIGSEGV, cli.SOME_FAILED]
    runs = records.load(tmp_path / "runs" / "default").runs.set_index("loss")
    assert runs.status.to_dict() == {"mse": "done", "deadly": "failed", "mae": "done"}
    assert "killed by SIGSEGV" in runs.reason["deadly"]
    told = "the next command trains its pack apart, in halves: 1 of 3 runs failed, 2 done"
    figure("a run that kills its process", told)


def test_launches_of_one_sweep_in_the_same_second_share_it(tmp_path, monkeypatch, whole, figure):
    started = tmp_path / "started"
    original = training.train

    def noted(pack, *arguments, **words):
        with started.open("a") as file:
            file.writelines(f"{run.run_id}\n" for run in pack.runs)
        return original(pack, *arguments, **words)

    monkeypatch.setattr(training, "train", noted)  # files do not say how often a run was trained
    folder, count = tmp_path / "shared", 4
    children = [forked(lambda: sweep_in(folder, pack_size=1).run(RUNS)) for _ in range(count)]
    assert [ended(child) for child in children] == [0] * count
    trained = started.read_text().split()
    assert sorted(trained) == sorted(run.run_id for run in RUNS)
    assert contents(folder) == only(whole, RUNS)
    told = f"{len(RUNS)} runs trained {len(trained)} times, all {count} commands end with all"
    figure(f"{count} launches in the same second", told)


def test_the_clock_may_jump(tmp_path, monkeypatch, whole, figure):
    jumps = iter([0, 1e10, -1e10, 0, 1e9] * 10_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))  # the machine's own is not ours
    assert finished(tmp_path, RUNS) == only(whole, RUNS)
    figure("a clock that jumps by centuries", "bit-identical")


# ---- storage -------------------------------------------------------------------------------------


class Counted:
    """`os` as the store sees it, which does something else at the n-th operation."""

    OPERATIONS = ("makedirs", "open", "write", "fsync", "replace", "unlink", "rmdir", "ftruncate")

    def __init__(self, at, act):
        self.at, self.act, self.kinds = at, act, []

    def __getattr__(self, name):
        value = getattr(os, name)
        if name not in self.OPERATIONS:
            return value

        def counted(*arguments, **words):
            codes = [frame.f_code for frame, _ in traceback.walk_stack(sys._getframe(1))]
            ours = [code.co_name for code in codes if code.co_filename.startswith(OURS)]
            self.kinds.append((name, *ours))
            if len(self.kinds) == self.at:
                self.act()
            return value(*arguments, **words)

        return counted


def crash():
    os._exit(9)


def full():
    raise OSError(errno.ENOSPC, "No space left on device")


def operations(folder, monkeypatch):
    """What each operation of the store in a sweep is, and the functions of ours that ask for it."""
    counted = Counted(0, full)
    with monkeypatch.context() as patch:
        patch.setattr(store, "os", counted)  # no file system fails at a chosen operation
        sweep_in(folder, pack_size=1, commit_every=0).run(TINY)
    return counted.kinds


@pytest.mark.parametrize("each", beyond([15], [3]))
@pytest.mark.parametrize(
    ("act", "code", "first"), [(crash, 9, 0), (full, 1, 1)], ids=["crash", "disk full"]
)
def test_no_operation_on_files_is_a_bad_one_to_fail_at(
    tmp_path, inline, monkeypatch, whole, figure, act, code, first, each
):
    kinds = operations(tmp_path / "counted" / "mine", monkeypatch)
    every = range(1, len(kinds) + 1)
    last = dict(zip(kinds, every, strict=True))
    tried = sorted({*last.values(), *(kinds.index(kind) + 1 for kind in last)})
    tried = every if IS_LONG else tried[first::each]
    assert len(last) > 60

    def disturbed(to, at):
        store.os = Counted(at, act)
        sweep_in(to, pack_size=1, commit_every=0).run(TINY)

    codes = []
    for at in tried:
        folder = tmp_path / str(at) / "mine"  # alone: a sibling that cannot be read is passed over
        codes.append(ended(forked(lambda to=folder, at=at: disturbed(to, at))))
        assert finished(folder, TINY, pack_size=1) == only(whole, TINY), at
        assert no_garbage(folder)
    # A file that cannot be deleted, or a temporary one, may be left; all else must be said.
    assert {*codes} <= {code, 0}
    assert codes.count(code) > 0.7 * len(tried)
    what = "a crash" if act is crash else "a full disk"
    told = f"at {len(tried)} of {len(kinds)} operations, firsts and lasts of {len(last)} kinds"
    figure(f"{what} at an operation on files", f"{told}: all end bit-identical")


def test_a_full_disk_is_said_and_survived(tmp_path, whole, figure):
    with mounted(tmp_path / "disk", "size=300k") as disk:
        with pytest.raises(store.WriteError, match=r"No space left.*same command again"):
            sweep_in(disk, pack_size=1, commit_every=0).run(RUNS)
        before = {path: path.read_bytes() for path in disk.rglob("commit.json")}
        assert all(store.committed(path.parent) for path in before)
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        assert finished(disk, RUNS, pack_size=1) == only(whole, RUNS)
    figure("a disk that is full (tmpfs)", "said by name, kept, and bit-identical with more room")


def test_a_folder_that_cannot_be_written_is_said_before_any_training(tmp_path, monkeypatch, figure):
    # Before, not after: the error is the same.
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it trains"))
    with (
        mounted(tmp_path / "place", "ro") as place,
        pytest.raises(store.WriteError, match="Read-only file system"),
    ):
        sweep_in(place / "sweep").run(RUNS)
    figure("a read-only folder", "refused before any training")


def test_no_damage_of_any_file_is_silent(tmp_path, monkeypatch, figure):
    """Bits flipped and ends cut off in every kind of file of a finished and an unfinished sweep."""
    finished_ = sweep_in(tmp_path / "finished", pack_size=4)
    finished_.run(RUNS)
    half = sweep_in(tmp_path / "half", pack_size=4, commit_every=0)
    original = training.Training.__call__

    def stopped(self, step, snapshot):
        original(self, step, snapshot)
        if step == 20:
            raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "__call__", stopped)  # a signal cannot choose its step
        with pytest.raises(Interrupted):
            half.run(RUNS)
    draw, tried, silent = random.Random(2), {}, []
    files = [path for path in (tmp_path / "finished").rglob("*") if path.is_file()]
    files += [*(tmp_path / "half").rglob("*.pt")]
    kinds = {}
    for path in files:
        if path.name != "lock":
            kinds.setdefault(path.name.split("-")[0], path)
    known = {"sweep.json", "plan", "commit.json", "runs.parquet", "checkpoint", "part"}
    assert known <= kinds.keys()
    for kind, path in kinds.items():
        content = path.read_bytes()
        for trial in range(200 if IS_LONG else 20):
            damaged = bytearray(content)
            if trial % 4 == 0:
                damaged = damaged[: draw.randrange(len(content))]
            else:
                damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            tried[kind] = tried.get(kind, 0) + 1
            if not _noticed(path, content):
                silent.append((kind, trial))
        path.write_bytes(content)
    assert silent == []
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(tried.items()))
    figure("flipped bits and truncation", f"all detected or without effect: {told}")


def _noticed(path, before):
    """Whether reading says that a file is damaged, or the damage left what is read as it was."""
    folder = path.parent
    try:
        if path.name == "sweep.json":
            return records.read_plan(folder).facts == _record(before)
        if path.name.startswith("plan-"):
            return records.read_plan(folder) is None  # what it has is what its sha256 is of
        if path.name == "commit.json":
            return store.committed(folder) == _record(before)
        if path.name.startswith("curves-"):
            records.load(folder).curves  # noqa: B018
        else:
            store.read(folder, path.name)
    except store.StoreError:
        return True
    return False


def _record(content):
    record = json.loads(content)
    record.pop(store.SEAL)
    return record


# ---- losses of users -----------------------------------------------------------------------------


def raises(output, target):
    raise ZeroDivisionError("on purpose")


def nan(output, target):
    return (output - target).square().sum(-1) * float("nan")


def mutates_target(output, target):
    target.zero_()
    return 0.5 * (output - target).square().sum(-1)


def mutates_output(output, target):
    output.mul_(0)
    return 0.5 * (output - target).square().sum(-1)


def prints(output, target):
    sys.stdout.write("x" * 100_000)
    return 0.5 * (output - target).square().sum(-1)


def no_gradient(output, target):
    return (output - target).detach().square().sum(-1)


def exits(output, target):
    sys.exit(3)


BAD = {
    raises: "failed",
    no_gradient: "failed",
    mutates_output: "failed",
    exits: "failed",
    nan: "diverged",
    mutates_target: "done",
    prints: "done",
}
"""Others that are refused at their first value are in engine/test_engine.py."""


@pytest.mark.parametrize(
    ("loss", "status"),
    beyond([(raises, "failed"), (nan, "diverged"), (exits, "failed")], BAD.items()),
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_bad_loss_harms_nobody_else(tmp_path, monkeypatch, whole, loss, status, capfd):
    row = dataclasses.replace(LOSSES["mse"], fn=loss, claims=frozenset())
    monkeypatch.setitem(LOSSES, loss.__name__, row)
    run = make_run(loss=loss.__name__, steps=60)
    statuses = sweep_in(tmp_path).run([*RUNS, run])
    assert statuses[run.run_id]["status"] == status
    found = contents(tmp_path, but=f"loss:{loss.__name__}")
    assert all(found[one.run_id] == whole[one.run_id] for one in RUNS)
    if status == "failed":
        assert statuses[run.run_id]["reason"]


# ---- names and values ----------------------------------------------------------------------------

HOSTILE = [
    *("loss=../../etc/passwd", "loss=/etc/passwd", "data=../data/digits", "name=../outside"),
    *("name=/tmp/outside", "name='a/../../b'", "name=''", "name='a\nb'", "name='-rf'"),
    *("name=" + "x" * 300, "experiment=../../x", "extensions=[../evil]", "steps=-1", "steps=1e99"),
    *("seed=-1", "optimizer.lr=nan", "optimizer.lr=-1", "batch_size=0", "model.params.widths=[0]"),
    *("model.params.widths=[-3]", "+_target_=os.system", "+loss.params._target_=os.system"),
    "loss.params={x:1}",
]


@pytest.mark.parametrize("word", one_in(4, HOSTILE), ids=lambda word: word[:40].replace("\n", "?"))
def test_a_hostile_word_is_refused_and_writes_nothing(tmp_path, monkeypatch, capsys, word):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    before = {*tmp_path.rglob("*")}
    assert cli.main([word, "steps=2"] if "steps" not in word else [word]) == cli.MISTAKE
    assert {*tmp_path.rglob("*")} == before
    err = capsys.readouterr().err
    assert err.startswith("lossbench: ")
    assert "Traceback" not in err


def test_a_sweep_writes_nowhere_but_below_its_folder(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    assert cli.main(["data=diabetes", "loss=mse", "steps=2", "name=mine"]) == cli.DONE
    assert cli.main(["report", "runs/mine"]) == cli.DONE
    assert {path.name for path in tmp_path.iterdir()} == {"place"}
    assert {path.name for path in place.iterdir()} == {"runs"}
    assert {path.name for path in (place / "runs").iterdir()} == {"mine"}


@pytest.mark.exhaustive
def test_a_secret_of_the_environment_appears_nowhere(tmp_path, monkeypatch, figure):
    secret = "CANARY-5f1b"
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    remote = f"https://user:{secret}@example.org/x.git"
    subprocess.run(["git", "-C", str(place), "remote", "add", "origin", remote], check=True)
    line = [sys.executable, "-m", "lossbench.cli", "-m", "data=diabetes", "loss=mse,mae", "steps=2"]
    environment = {**os.environ, "API_TOKEN": secret, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(tmp_path / secret)
    for command in (line, [*line[:3], "report", "runs/default", "--figures"]):
        subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    files = [path for path in (place / "runs").rglob("*") if path.is_file()]
    assert len(files) > 50
    found = [path for path in files if secret.encode() in path.read_bytes()]
    assert found == []
    tables = records.load(place / "runs" / "default")
    assert not any(
        tables.runs[column].astype(str).str.contains(secret).any() for column in tables.runs
    )
    figure("a secret in environment, path and git remote", f"in 0 of {len(files)} files")


FLOORS = {
    "torch": "2.11",
    "hydra-core": "1.3.8",
    "pyarrow": "17",
    "jinja2": "3.1.6",
    "tqdm": "4.66.3",
}
"""Below these something is known that reading or configuring could be made to run."""


def test_floors_keep_out_what_is_known_to_be_unsafe():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, floor in FLOORS.items():
        assert f'"{name}>={floor}' in text
        installed = [int(part) for part in version(name).split("+")[0].split(".")[:2]]
        assert installed >= [int(part) for part in floor.split(".")[:2]]
