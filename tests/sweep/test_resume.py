"""A pack that stopped goes on as if nothing had happened, bit for bit, or says why it cannot."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from configs import make_run
from interrupted import ENGINE, Spoiling, contents, sweep_by, sweep_in
from torch import nn

from lossbench import models, records, store
from lossbench.engine import Machine, members, train
from lossbench.engine.state import decoded, encoded
from lossbench.losses import LOSSES
from lossbench.models import MODELS, Model
from lossbench.question import ConfigError, Question, packs
from lossbench.question.schema import LauncherNode
from lossbench.sweep import backend, splits_of, training, worker
from lossbench.sweep.backend import InProcess, Processes, split_pack
from lossbench.sweep.inventory import Inventory, OpenPack, new_pack
from lossbench.sweep.stop import Interrupted, Stop, stopping
from lossbench.sweep.training import OutOfMemory, Trainer, Training
from lossbench.sweep.worker import Died, Worker

CPU = torch.device("cpu")


class Stopped(Exception):
    pass


def tables_of(runs, *, flush=lambda step, snapshot: None, saved=None):
    (pack,) = packs.group(runs, pack_size=64)
    splits = {run.seed: splits_of(run) for run in runs}
    return train(pack, splits, Machine(CPU), flush=flush, saved=saved)


def equal(one, other):
    """Whether two results are the same but for the clock."""
    for name, table in one.items():
        theirs = other[name]
        if name == "runs":
            table, theirs = (each.drop_columns(["train_seconds"]) for each in (table, theirs))
        if records.encode(table) != records.encode(theirs):  # NaN equals NaN there
            return False
    return True


def stopped_at(runs, *steps, saved=None):
    """What a pack that stopped at the last of these steps had saved at all of them."""
    parts, last = list(saved.parts if saved else ()), None

    def flush(step, snapshot):
        nonlocal last
        if step in steps:
            last = snapshot()
            parts.extend(last.parts)
        if step == steps[-1]:
            raise Stopped

    with pytest.raises(Stopped):
        tables_of(runs, flush=flush, saved=saved)
    return dataclasses.replace(last, parts=tuple(parts))


def unstable(output, target):
    """Squared error that raises for large targets, as a loss of a user may."""
    if bool((output - target).abs().max() > 3.0):
        raise RuntimeError("too far")
    return 0.5 * (output - target).square().sum(-1)


def counting(inputs, outputs):
    """A model with running statistics, and a count of its batches that its output depends on."""
    return nn.Sequential(
        nn.Linear(inputs, 8), nn.BatchNorm1d(8), models.Dropout(0.3), nn.Linear(8, outputs)
    )


@pytest.fixture
def make(monkeypatch):
    """Makes runs, also of a loss that breaks for some members and of a model with buffers."""
    row = dataclasses.replace(LOSSES["mse"], fn=unstable, claims=frozenset())
    monkeypatch.setitem(LOSSES, "unstable", row)
    monkeypatch.setitem(MODELS, "counting", Model(counting, "test"))

    def runs(name):
        return [make_run(**facts) for facts in PACKS[name]]

    return runs


MOVING = {"model": "counting", "optimizer__lr": 0.05, "optimizer__momentum": 0.0}
PACKS = {
    "momentum": [{"loss": loss, "seed": seed} for loss in ("mae", "mse") for seed in (0, 1)],
    "adam": [{"optimizer": "adam", "optimizer__lr": 0.01, "seed": seed} for seed in (0, 1, 2)],
    "one run": [{"loss": "huber"}],
    "diverging": [{"loss": "quartic", "optimizer__lr": lr} for lr in (1e-4, 50.0, 1e3)],
    "linear": [{"model": "linear", "seed": seed} for seed in (0, 1)],
    "failing": [
        {"loss": "quartic", "optimizer__lr": 1e3},
        *(
            {"loss": "unstable", "optimizer__lr": lr, "seed": s}
            for lr in (0.01, 5.0)
            for s in (0, 1)
        ),
    ],
    "buffers": [{**MOVING, "seed": seed} for seed in (0, 1, 2)],
    "buffers of one that diverges": [
        {**MOVING, "seed": 0},
        {"model": "counting", "loss": "quartic", "optimizer__lr": 1e6},
    ],
}
ENDS = {
    "diverging": {"done", "diverged"},
    "failing": {"done", "failed", "diverged"},
    "buffers of one that diverges": {"done", "diverged"},
}


@pytest.mark.parametrize("name", PACKS)
def test_a_pack_that_stopped_goes_on_bit_for_bit(name, make):
    runs = make(name)
    whole = tables_of(runs)
    assert {*whole["runs"]["status"].to_pylist()} == ENDS.get(name, {"done"})
    for step in (1, 10, 19):
        assert equal(tables_of(runs, saved=stopped_at(runs, step)), whole)
    several = stopped_at(runs, 9, 14, saved=stopped_at(runs, 3, 5, 6))
    assert len(several.parts) == 5
    assert equal(tables_of(runs, saved=several), whole)


def test_a_pack_of_many_parts_reads_its_record_once(tmp_path, monkeypatch):
    runs = [make_run(loss=loss, steps=20) for loss in ("mse", "mae")]
    doing, read, sealed = sweep_in(tmp_path, commit_every=0), [], store.read_sealed
    interrupt_at(monkeypatch, 15)
    with pytest.raises(Interrupted):
        doing.run(runs)
    (folder,) = (tmp_path / "packs").iterdir()
    assert len([*folder.glob("part-*")]) == 15
    (pack,) = packs.group(runs, pack_size=8)
    pack = OpenPack(folder, pack.runs)
    monkeypatch.setattr(store, "read_sealed", lambda path: (read.append(path), sealed(path))[1])
    training = Training(doing.backend.trainer, pack, pack.record, Stop(), "")
    assert len(training.saved.parts) == 15
    assert len(read) == 1


def forgetful(saved, older, *keys):
    """A checkpoint of which one thing is as it was in an older one."""
    content, before = (decoded(each.checkpoint, device=CPU) for each in (saved, older))
    state, old = content["state"], before["state"]
    for key in keys[:-1]:
        state, old = state[key], old[key]
    state[keys[-1]] = ~old[keys[-1]] if keys == ("alive",) else old[keys[-1]]
    return dataclasses.replace(saved, checkpoint=encoded(content))


@pytest.mark.parametrize("key", ["clock", "parameters", "optimizer", "stop_step", "alive"])
def test_nothing_in_a_checkpoint_could_be_left_out(key, make):
    runs = make("diverging")
    saved, older = stopped_at(runs, 12), stopped_at(runs, 11 if key == "clock" else 1)
    assert not equal(tables_of(runs, saved=forgetful(saved, older, key)), tables_of(runs))


@pytest.mark.parametrize("kind", ["running_mean", "running_var", "count"])
def test_no_buffer_that_moves_could_be_left_out_of_a_checkpoint(kind, make):
    runs = make("buffers")
    saved, older = stopped_at(runs, 12), stopped_at(runs, 1)
    buffers = decoded(saved.checkpoint, device=CPU)["state"]["buffers"]
    (name,) = (key for key in buffers if key.endswith(f".{kind}"))
    less = forgetful(saved, older, "buffers", name)
    assert not equal(tables_of(runs, saved=less), tables_of(runs))


# ---- a sweep on disk -----------------------------------------------------------------------------

RUNS = [make_run(loss=loss, seed=s, steps=30) for loss in ("mse", "mae", "huber") for s in (0, 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the runs are when nothing comes between."""
    sweep = sweep_in(tmp_path_factory.mktemp("whole"), pack_size=4)
    sweep.run(RUNS)
    return contents(sweep.folder)


def interrupt_at(monkeypatch, step):
    """A signal that comes just before a step of the first pack is committed: no timer could."""
    original = Training.__call__

    def call(self, done, snapshot):
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, done, snapshot)

    monkeypatch.setattr(Training, "__call__", call)


@pytest.mark.parametrize("step", [1, 29])
def test_a_signal_commits_what_is_training_and_the_same_command_goes_on(
    tmp_path, monkeypatch, whole, step
):
    sweep = sweep_in(tmp_path, pack_size=4, commit_every=1e9)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(Interrupted) as end:
            sweep.run(RUNS)
    assert end.value.signal == signal.SIGTERM
    states = [store.committed(path) for path in (tmp_path / "packs").iterdir()]
    assert sorted(state["step"] for state in states) == [0, step]
    assert all(state["starts"] == 0 for state in states)
    steps = []
    original = Training.__call__

    def noted(self, done, snapshot):
        steps.append(done)
        original(self, done, snapshot)

    monkeypatch.setattr(Training, "__call__", noted)  # files do not say what was done twice
    sweep.run(RUNS)
    assert steps.count(step) <= 1, "what was done before is not done again"
    assert contents(tmp_path) == whole


def test_a_finished_sweep_is_left_alone_and_has_one_file_a_table(tmp_path):
    sweep = sweep_in(tmp_path, pack_size=4, commit_every=0)
    sweep.run(RUNS)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}
    for pack in (tmp_path / "packs").iterdir():
        tables = {f"{name}.parquet" for name in records.TABLES}
        assert {path.name for path in pack.iterdir()} == tables | {"commit.json", "lock"}
    assert sweep_in(tmp_path, pack_size=2).run(RUNS) == sweep.run(RUNS)
    now = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}
    assert now == files


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A sweep whose first pack stopped at step 13."""
    sweep = sweep_in(tmp_path, pack_size=4, commit_every=0)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 13)
        with pytest.raises(Interrupted):
            sweep.run(RUNS)
    return sweep


def test_a_pack_of_other_versions_begins_again_and_says_so(half, monkeypatch, caplog, whole):
    with monkeypatch.context() as patch:
        patch.setattr(training, "ENGINE_SCHEMA", 99)  # the code's own version
        with caplog.at_level(logging.WARNING):
            half.run(RUNS)
    assert "begins again" in caplog.text
    assert contents(half.folder) == whole


@pytest.mark.parametrize(
    ("field", "changed"),
    [("data_sha", "train"), ("init_sha", "model"), ("batch_sha", "batches")],
)
def test_a_pack_whose_data_start_or_batches_changed_begins_again_and_says_so(
    half, field, changed, monkeypatch, caplog, tmp_path
):
    if changed == "train":
        whole_splits = training.splits_of

        def splits_of(run, files):
            splits = whole_splits(run, files)
            inputs = {**splits.inputs, "train": splits.inputs["train"] + 1}
            return dataclasses.replace(splits, inputs=inputs)

        monkeypatch.setattr(training, "splits_of", splits_of)
    elif changed == "model":
        initial = members.initial_model
        monkeypatch.setattr(
            members, "initial_model", lambda run, splits, seed: initial(run, splits, seed=seed + 9)
        )
    else:
        drawn = members.batch_indices
        monkeypatch.setattr(members, "batch_indices", lambda seed, *sizes: drawn(seed + 9, *sizes))
    half.run(RUNS)
    assert f"its checkpoint was written with another {field} of seed 0" in caplog.text
    clean = sweep_in(tmp_path / "clean", pack_size=4)
    clean.run(RUNS)
    runs = [records.load(one.folder).runs.set_index("run_id")[field] for one in (half, clean)]
    begun = runs[0].index[runs[0] == runs[1]]
    mine, theirs = contents(half.folder), contents(clean.folder)
    assert {run_id: mine[run_id] for run_id in begun} == {i: theirs[i] for i in begun}
    assert len(begun) >= 4  # those of the pack that was cut short, at least


@pytest.mark.parametrize("kind", ["checkpoint", "part"])
def test_a_damaged_checkpoint_is_never_trained_on(half, kind, caplog, whole):
    (path, *_) = half.folder.glob(f"packs/*/{kind}-*.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        half.run(RUNS)
    assert "begins again" in caplog.text
    assert "sha256" in caplog.text
    assert contents(half.folder) == whole


def test_an_unfinished_pack_keeps_its_members_when_more_is_asked_for(half, whole):
    unfinished = {path.name for path in (half.folder / "packs").iterdir()}
    more = [make_run(loss="log_cosh", seed=s, steps=30) for s in (0, 1)]
    half.run([*more, *RUNS])
    assert unfinished < {path.name for path in (half.folder / "packs").iterdir()}
    found = contents(half.folder)
    assert all(found[run.run_id] == whole[run.run_id] for run in RUNS)


def test_a_pack_of_which_less_is_asked_for_now_is_divided_anew(half, whole):
    half.run(RUNS[:1])
    found = contents(half.folder)
    assert found[RUNS[0].run_id] == whole[RUNS[0].run_id]
    half.run(RUNS)
    assert contents(half.folder) == whole


def test_runs_that_failed_are_retried_by_the_next_command_once(tmp_path, monkeypatch, caplog):
    tries = []

    def broken(output, target):
        tries.append(1)
        raise RuntimeError("broken")

    row = dataclasses.replace(LOSSES["mse"], fn=broken, claims=frozenset())
    monkeypatch.setitem(LOSSES, "broken", row)
    runs = [make_run(loss="broken"), make_run(loss="mae")]
    sweep, counts = sweep_in(tmp_path), []
    for _ in range(4):
        before = len(tries)
        statuses = sweep.run(runs)
        counts.append(len(tries) > before + 1)  # the check before all training calls it once
        assert statuses[runs[0].run_id]["status"] == "failed"
        assert statuses[runs[1].run_id]["status"] == "done"
    assert counts == [True, True, False, False]
    assert "failed 2 times" in caplog.text
    assert Inventory(tmp_path).failures[runs[0].run_id] == 2


def test_runs_that_diverged_are_never_retried(tmp_path):
    runs = [make_run(loss="quartic", optimizer__lr=1e3)]
    sweep = sweep_in(tmp_path)
    assert sweep.run(runs)[runs[0].run_id]["status"] == "diverged"
    packs_before = {*(tmp_path / "packs").iterdir()}
    sweep.run(runs)
    assert {*(tmp_path / "packs").iterdir()} == packs_before


@pytest.fixture
def memory(monkeypatch):
    """Lets training fail where a pack does not fit; returns the sizes of packs that were tried."""
    original = training.train

    def limited(does_fit, error):
        sizes = []

        def small(pack, *arguments, **words):
            sizes.append(len(pack.runs))
            if not does_fit({run.run_id for run in pack.runs}):
                raise error
            return original(pack, *arguments, **words)

        monkeypatch.setattr(training, "train", small)  # what no test may use up: the memory
        return sizes

    return limited


def test_a_pack_that_does_not_fit_is_halved_until_it_does(tmp_path, memory, whole, caplog):
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ...")
    sizes = memory(lambda ids: len(ids) <= 2, error)
    with caplog.at_level(logging.WARNING):
        statuses = sweep_in(tmp_path, pack_size=6).run(RUNS)
    assert {facts["status"] for facts in statuses.values()} == {"done"}
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
    assert "each half is tried on its own" in caplog.text
    assert contents(tmp_path) == whole


class SmallCard(Trainer):
    def train(self, pack, stop, title=""):
        raise OutOfMemory("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_pack_that_does_not_fit_on_a_card_is_said_with_the_cure(tmp_path):
    (pack,) = Inventory(tmp_path).open_packs(RUNS[:2], pack_size=2, allowed={})
    engine = dataclasses.replace(ENGINE, device="cuda", pack_size=64)
    with pytest.raises(ConfigError, match=r"use engine\.pack_size=32"):
        InProcess(SmallCard(engine)).train([pack], Stop())
    assert store.committed(pack.folder)["is_finished"] is False


def test_a_run_that_does_not_fit_alone_fails_alone(tmp_path, memory, whole):
    greedy = RUNS[3].run_id
    memory(lambda ids: greedy not in ids, MemoryError("no room"))
    statuses = sweep_in(tmp_path, pack_size=6).run(RUNS)
    assert [run_id for run_id, facts in statuses.items() if facts["status"] == "failed"] == [greedy]
    assert "OutOfMemory: no room" in statuses[greedy]["reason"]
    found = contents(tmp_path)
    assert all(found[i] == whole[i] for i in whole if i != greedy)


def test_a_second_signal_ends_at_once():
    with stopping() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
    Stop().check()
    assert ENGINE.commit_every == 30


# ---- what a reader of the code found -------------------------------------------------------------


def test_halves_that_failed_before_get_other_names_so_that_a_command_ends(tmp_path, memory):
    memory(lambda ids: False, MemoryError("no room"))
    sweep = sweep_in(tmp_path, pack_size=2)
    for attempt in (1, 2, 2):
        statuses = sweep.run(RUNS[:2])
        assert {facts["status"] for facts in statuses.values()} == {"failed"}
        assert {*Inventory(tmp_path).failures.values()} == {attempt}


def test_a_pack_that_another_process_has_or_has_finished_is_not_broken_by_this_one(tmp_path):
    sweep = sweep_in(tmp_path, pack_size=2)
    (pack,) = Inventory(tmp_path).open_packs(RUNS[:2], pack_size=2, allowed={})
    with store.try_lock(pack.folder / store.LOCK) as is_mine:
        assert is_mine
        assert split_pack(pack, OutOfMemory("late"), ENGINE) == (0, [])
    assert store.committed(pack.folder)["is_finished"] is False
    sweep.run(RUNS[:2])
    before = contents(tmp_path)
    assert split_pack(pack, OutOfMemory("late"), ENGINE) == (0, [])
    assert contents(tmp_path) == before


def test_a_signal_in_the_last_step_of_all_ends_the_command(tmp_path, monkeypatch):
    original = training.train

    def signalled(*arguments, **words):
        tables = original(*arguments, **words)
        os.kill(os.getpid(), signal.SIGTERM)
        return tables

    monkeypatch.setattr(training, "train", signalled)  # between training and commit: no timer could
    with pytest.raises(Interrupted):
        sweep_in(tmp_path).run(RUNS)
    assert {facts["status"] for facts in Inventory(tmp_path).statuses.values()} == {"done"}


class Ended:
    """A child process that has ended with some code."""

    def __init__(self, code):
        self.exitcode = code

    def join(self):
        pass


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (-signal.SIGKILL, "killed by SIGKILL"),
        (-signal.SIGTERM, "killed by SIGTERM"),
        (-63, "killed by signal 63"),
        (255, "exit code 255"),
        (0, "exit code 0"),
    ],
)
def test_how_a_child_died_is_said(tmp_path, monkeypatch, code, how):
    (pack,) = Inventory(tmp_path).open_packs(RUNS[:1], pack_size=2, allowed={})

    monkeypatch.setattr(worker, "begin", lambda *_, **__: Ended(code))  # no child ends so at will
    child = Worker(Trainer(ENGINE))
    child.train(pack)
    ended, outcome = child.listen()
    assert (ended, child.pack, child.is_dead) == (pack, None, True)
    assert isinstance(outcome, Died)
    assert str(outcome).endswith(how)


class Answering:
    """A child process that says of its first pack what it is told to, and trains the others."""

    def __init__(self, outcome, trainer, stop):
        self.pipe, self.theirs = Pipe()
        self.outcomes, self.trainer, self.stop_seen = [outcome], trainer, stop
        self.is_ready, self.is_dead, self.pack = True, False, None

    def train(self, pack):
        self.pack = pack
        self.theirs.send("ended")

    def listen(self):
        self.pipe.recv()
        pack, self.pack = self.pack, None
        if self.outcomes:
            return pack, self.outcomes.pop()
        return pack, len(self.trainer.train(pack, self.stop_seen))

    def stop(self, number):
        pass

    def release(self):
        pass

    def join(self):
        pass


@pytest.fixture
def suspect(tmp_path, monkeypatch):
    """Has a process answer of a pack of all runs, and train others; returns how many have ended."""

    def trained_apart(outcome):
        stop = Stop()
        # What a process says cannot be asked of a real one.
        monkeypatch.setattr(backend, "Worker", lambda trainer: Answering(outcome, trainer, stop))
        (pack,) = Inventory(tmp_path).open_packs(RUNS, pack_size=8, allowed={})
        with Processes(Trainer(ENGINE), 1) as child:
            return child.train([dataclasses.replace(pack, is_suspect=True)], stop).ended

    return trained_apart


@pytest.mark.parametrize("outcome", [OutOfMemory("no room"), Died("killed by SIGKILL")], ids=type)
def test_a_pack_that_breaks_in_a_process_goes_on_in_halves(tmp_path, suspect, outcome):
    assert suspect(outcome) == len(RUNS)
    assert len([*(tmp_path / "packs").iterdir()]) == 2
    assert {facts["status"] for facts in Inventory(tmp_path).statuses.values()} == {"done"}


@pytest.mark.parametrize("outcome", [store.StoreError("no file"), ConfigError("edited")], ids=type)
def test_what_no_other_pack_could_do_better_ends_the_command(tmp_path, suspect, outcome):
    with pytest.raises(type(outcome), match=str(outcome)):
        suspect(outcome)
    assert {facts["status"] for facts in Inventory(tmp_path).statuses.values()} == {"missing"}


def test_a_full_disk_is_not_recorded_as_a_failed_run(tmp_path):
    with pytest.raises(store.WriteError):
        sweep_by(InProcess(Spoiling(ENGINE)), tmp_path).run(RUNS[:2])
    assert {facts["status"] for facts in Inventory(tmp_path).statuses.values()} == {"missing"}


def test_a_lock_whose_file_was_deleted_is_no_lock(tmp_path):
    path = tmp_path / "lock"
    with store.try_lock(path) as is_mine:
        assert is_mine
        path.unlink()
        with store.try_lock(path) as is_mine_too:
            assert is_mine_too  # another file: whoever dissolves a pack holds its lock


def test_a_pack_in_a_queue_is_not_divided_by_a_command_that_asks_for_a_part(half):
    packed = [path.parent for path in half.folder.glob("packs/*/commit.json")]
    (folder,) = [one for one in packed if RUNS[0].run_id in store.committed(one)["members"]]
    before = store.committed(folder)
    mine = Inventory(half.folder).open_packs(
        RUNS[:1], pack_size=64, allowed={}, queued={folder.name}
    )
    assert [pack.folder for pack in mine] == [folder]
    assert mine[0].record is None  # it is another pack than was asked for: only waited for
    assert store.committed(folder) == before


def test_a_pack_whose_runs_are_done_in_others_is_forgotten(tmp_path):
    sweep_in(tmp_path, pack_size=2).run(RUNS[:2])
    (finished,) = (tmp_path / "packs").iterdir()
    old = new_pack(tmp_path / "packs" / "0123456789abcdef", RUNS[:2])
    assert Inventory(tmp_path).open_packs(RUNS[:2], pack_size=2, allowed={}) == []
    assert not old.folder.exists()
    assert finished.exists()


def test_a_folder_that_another_process_makes_into_a_pack_is_left_to_it(tmp_path):
    folder = tmp_path / "packs" / "0123456789abcdef"
    with store.try_lock(folder / store.LOCK) as is_mine:
        assert is_mine
        Inventory(tmp_path).open_packs([], pack_size=2, allowed={})
        assert folder.exists()
    Inventory(tmp_path).open_packs([], pack_size=2, allowed={})
    assert not folder.exists()


def test_a_folder_of_somebody_else_among_the_packs_stays(tmp_path):
    (tmp_path / "packs" / "notes").mkdir(parents=True)
    (tmp_path / "packs" / "notes" / "a.txt").write_text("mine")
    sweep_in(tmp_path).run([make_run(steps=4)])
    assert (tmp_path / "packs" / "notes" / "a.txt").read_text() == "mine"


def test_tables_without_a_record_are_not_deleted(tmp_path):
    sweep = sweep_in(tmp_path)
    sweep.run([make_run(steps=4)])
    (path,) = tmp_path.glob("packs/*/commit.json")
    path.unlink()
    with pytest.raises(store.StoreError, match="is missing, and evals"):
        sweep.run([make_run(steps=4)])
    assert len([*path.parent.glob("*.parquet")]) == len(records.TABLES)


def question_of(runs, looks=()):
    """A question whose sweep has no name and no folder."""
    return Question("", Path(), tuple(runs), ENGINE, LauncherNode(), looks=looks)


def test_a_sweep_is_settled_for_what_was_asked_until_a_record_changes(tmp_path):
    sweep = sweep_in(tmp_path / "sweep")
    sweep.run(RUNS[:2])
    asked = question_of(RUNS[:2], (6,))
    assert not sweep.is_settled(asked)
    sweep.settle(asked)
    assert sweep.is_settled(asked)
    assert not sweep.is_settled(question_of(RUNS[:2], (6, 12)))
    sweep.run(RUNS[:3])
    assert not sweep.is_settled(asked)
    sweep.settle(asked)
    (commit, *_) = sorted(sweep.folder.glob("packs/*/commit.json"))
    commit.write_bytes(commit.read_bytes() + b" ")
    assert not sweep.is_settled(asked)


def test_a_sweep_whose_shapes_of_losses_are_damaged_is_not_settled_and_mends_them(tmp_path):
    sweep = sweep_in(tmp_path / "sweep")
    sweep.run(RUNS[:2])
    asked = question_of(RUNS[:2])
    sweep.settle(asked)
    (path,) = sweep.folder.glob("curves-*.parquet")
    path.write_bytes(b"")
    assert not sweep.is_settled(asked)
    sweep.run(RUNS[:2])
    assert sweep.is_settled(asked)
    assert len(records.load(sweep.folder).curves)


def test_a_sweep_with_a_failed_run_is_not_settled(tmp_path, monkeypatch):
    sweep = sweep_in(tmp_path / "sweep")
    sweep.run(RUNS[:1])
    monkeypatch.setattr(type(sweep), "statuses", lambda self: {"a": {"status": "failed"}})
    sweep.settle(question_of(RUNS[:1]))
    assert not sweep.is_settled(question_of(RUNS[:1]))
