"""The backend over an executor: what a worker refuses, when it ends, and what comes again.

The executor is Python's own, of threads; a real Dask and a real Ray are in tests/executors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from configs import make_run
from interrupted import Spoiling, contents, sweep_by, sweep_in, trainer

import lossbench
from lossbench import store
from lossbench.question import ConfigError
from lossbench.sweep import launchers
from lossbench.sweep.executors import Answer, ExecutorBackend, train_there, versions
from lossbench.sweep.inventory import Inventory, record_of
from lossbench.sweep.stop import Interrupted, Stop

RUNS = [make_run(loss=loss, seed=s, steps=30) for loss in ("mse", "mae") for s in (0, 1)]
LONG = make_run(loss="mse", steps=100_000, log_every=10_000, eval_every=100_000)


@contextlib.contextmanager
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool, 2


class Raising(Executor):
    """Workers that are lost with each pack, after they began it."""

    def submit(self, fn, trainer, pack, *arguments):
        store.commit(pack.folder, {}, {**pack.record, "files": {}, "starts": 1})
        future = Future()
        future.set_exception(RuntimeError("the node is gone"))
        return future


@contextlib.contextmanager
def raising():
    yield Raising(), 1


def one_pack(folder, runs):
    (pack,) = Inventory(folder).open_packs(runs, pack_size=128, allowed={})
    return dataclasses.replace(pack, folder=pack.folder.absolute())


def test_workers_give_the_bits_of_one_process_and_leave_no_lock(tmp_path):
    sweep_in(tmp_path / "here").run(RUNS)
    with ExecutorBackend(trainer(pack_size=1), threads) as backend:
        sweep_by(backend, tmp_path / "there").run(RUNS)
        assert backend.packs_at_once == 2
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert not [*(tmp_path / "there" / "commands").iterdir()]


def test_a_worker_ends_in_order_when_the_command_lets_go(tmp_path):
    pack, lock, answers = one_pack(tmp_path, [LONG]), tmp_path / "command", []
    command = contextlib.ExitStack()
    command.enter_context(store.lock(lock))
    work = threading.Thread(
        target=lambda: answers.append(
            train_there(trainer(commit_every=1e9), pack, lock, versions())
        )
    )
    work.start()
    while not pack.record["starts"]:
        time.sleep(0.05)
    time.sleep(1)
    command.close()
    work.join()
    assert answers[0].ended == 0
    assert not answers[0].refusal
    assert pack.record["step"] > 0
    assert pack.record["starts"] == 0


def test_a_worker_says_why_it_does_not_train(tmp_path):
    pack, lock = one_pack(tmp_path, RUNS), tmp_path / "command"
    lock.touch()
    answer = train_there(trainer(), pack, lock, versions())
    assert "does not see that the command holds" in answer.refusal
    with store.lock(lock):
        answer = train_there(trainer(), pack, lock, {**versions(), "torch": "1.0"})
        assert "and not 1.0: give it the versions of the command" in answer.refusal
        elsewhere = dataclasses.replace(pack, folder=Path("/nowhere/packs/0123456789abcdef"))
        assert "it does not see /nowhere" in train_there(trainer(), elsewhere, lock, {}).refusal
        lost = dataclasses.replace(trainer(), place=Path("/nowhere"))
        assert "/nowhere, where the command was given" in train_there(lost, pack, lock, {}).refusal
    assert pack.record == record_of(pack.record["members"]) | {"files": {}}


def test_an_interrupt_does_not_wait_for_packs_that_train_for_another_command(tmp_path):
    pack, stop, ended = one_pack(tmp_path, [LONG]), Stop(), threading.Event()

    class Elsewhere(Executor):
        """A queue before which another command's worker takes the pack."""

        def submit(self, *arguments):
            leases.enter_context(pack.lease())
            return Future()

    def train():
        with pytest.raises(Interrupted):
            backend.train([pack], stop)
        ended.set()

    with (
        contextlib.ExitStack() as leases,
        ExecutorBackend(trainer(), lambda: contextlib.nullcontext((Elsewhere(), 1))) as backend,
    ):
        backend.check()
        threading.Thread(target=train, daemon=True).start()
        while not pack.is_leased:
            time.sleep(0.05)
        stop.signal = signal.SIGINT
        assert ended.wait(30)
        assert pack.is_leased


def test_packs_that_no_worker_can_train_are_left_with_the_reason(tmp_path, caplog):
    with ExecutorBackend(Spoiling(trainer(pack_size=2).engine), threads) as backend:
        statuses = sweep_by(backend, tmp_path).run(RUNS)
    assert {facts["status"] for facts in statuses.values()} == {"missing"}
    assert all("steps.parquet" in facts["reason"] for facts in statuses.values())
    assert "2 packs are left for the next command" in caplog.text
    for folder in tmp_path.glob("packs/*/steps.parquet"):
        shutil.rmtree(folder)
    sweep_in(tmp_path).run(RUNS)
    assert {facts["status"] for facts in Inventory(tmp_path).statuses.values()} == {"done"}


def test_a_cluster_that_goes_away_ends_the_command_with_the_reason(tmp_path, caplog):
    with ExecutorBackend(trainer(pack_size=2), threads) as backend:
        backend.check()
        backend.executor.shutdown()
        statuses = sweep_by(backend, tmp_path).run(RUNS)
    assert {facts["status"] for facts in statuses.values()} == {"missing"}
    assert "the cluster is gone: RuntimeError: cannot schedule new futures" in caplog.text


def test_a_pack_whose_workers_are_lost_at_one_step_goes_on_in_halves(tmp_path, caplog):
    pack = one_pack(tmp_path, RUNS)
    with ExecutorBackend(trainer(), raising) as backend:
        backend.check()
        for count in (1, 2):
            backend.train([pack], Stop())
            assert len([*(tmp_path / "packs").iterdir()]) == count
    assert "the node is gone" in caplog.text


@pytest.mark.parametrize("name", launchers.CLUSTERS)
def test_the_yaml_of_a_cluster_has_the_keys_that_are_for_it(name):
    path = lossbench.CONF / "hydra" / "launcher" / f"packed_{name}.yaml"
    expected = {"defaults": ["packed"], "executor": name, "address": None, "workers": 0}
    assert yaml.safe_load(path.read_text()) == expected


def test_processors_of_several_kinds_are_named(caplog):
    backend = ExecutorBackend(trainer(), threads)
    for machine, kind in (("node1", "AVX2"), ("node2", "AVX2"), ("node3", "AVX512")):
        assert "several kinds" not in caplog.text
        backend._log(Answer(machine, kind))
    assert "several kinds (AVX2 on node1, AVX512 on node3)" in caplog.text


def test_less_than_no_worker_is_refused():
    with pytest.raises(ConfigError, match=r"workers=-1: use a positive number, or 0"):
        ExecutorBackend(trainer(), threads, workers=-1)
