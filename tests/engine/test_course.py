"""Updates that are captured once and replayed are those that are made one by one."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import weakref
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from configs import make_run
from selection import beyond
from tape import recorded
from training import MODEL_CASES, assert_same_records, records_of, trained

from lossbench import optimizers
from lossbench.data import DATA
from lossbench.engine import Machine, Saved, members, strategies, train, update
from lossbench.engine.machine import Captures
from lossbench.engine.strategies import graph
from lossbench.engine.strategies.graph import Replayed
from lossbench.losses import LOSSES
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.question import ConfigError
from lossbench.question.packs import Pack
from lossbench.records import SIGNALS
from lossbench.sweep import splits_of

RHYTHM = {"steps": 19, "log_every": 4, "eval_every": 10, "batch_size": 16}


@pytest.fixture(autouse=True)
def as_elsewhere(monkeypatch):
    """The CPU looks whether any decay is there and all are alive; no recording may."""

    def always(gradient, value, decay):
        return torch.addcmul(gradient, decay.view(-1, *[1] * (value.dim() - 1)), value)

    assert optimizers.decayed.__code__.co_argcount == always.__code__.co_argcount
    monkeypatch.setattr(optimizers, "decayed", always)
    monkeypatch.setattr(update, "alive_on_cpu", lambda alive: None)


class Tapes(list):
    """Recordings that were made."""

    def record(self, function):
        """One recording."""
        self.append(function)
        return recorded(function)


@pytest.fixture
def tapes(monkeypatch):
    """Recordings on the CPU, which makes none of its own."""
    made = Tapes()
    monkeypatch.setitem(strategies.OPTIONS, "graph", ("cpu",))
    monkeypatch.setattr(graph, "RECORDING", lambda: made.record)
    return made


def both(runs):
    """Records of the same runs, replayed and made one by one."""
    replayed, plain = trained(runs, strategies=["graph"]), trained(runs)
    for tables in (replayed, plain):
        strategies = [json.loads(told)["strategy"] for told in tables["runs"].pop("environment")]
        tables["strategies"] = {*strategies}
    return replayed, plain


def assert_the_same(runs):
    replayed, plain = both(runs)
    (name,) = plain.pop("strategies")
    assert replayed.pop("strategies") == {f"{name} graph"}
    assert_same_records(records_of(replayed, *runs), records_of(plain, *runs))


def mixed(**facts):
    """Losses, seeds, rates and decays side by side; one member of three diverges on the way."""
    rates = [(0, 0.05, 0.0), (1, 0.01, 0.01), (1, 1e30, 0.0)]
    return [
        make_run(
            **{"data": "digits", **RHYTHM, **facts},
            loss=loss,
            seed=seed,
            optimizer__lr=rate,
            optimizer__weight_decay=decay,
        )
        for loss in ("cross_entropy", "brier")
        for seed, rate, decay in rates
    ]


@pytest.mark.parametrize("schedule", beyond(["cosine"], SCHEDULES))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replayed_updates_have_the_bits_of_those_made_one_by_one(tapes, optimizer, schedule):
    assert_the_same(mixed(optimizer=optimizer, schedule=schedule))
    assert tapes


@pytest.mark.parametrize(
    ("signal", "precision"), [*((one, "float32") for one in SIGNALS), ("own", "float64")]
)
def test_signals_and_precisions_are_replayed(tapes, signal, precision):
    assert_the_same(mixed(signal=signal, engine__precision=precision))
    assert tapes


@pytest.mark.parametrize("data", beyond(["noisy_counts"], ["diabetes", "digits"]))
def test_every_loss_can_be_captured(tapes, caplog, data):
    task, is_count = DATA[data].task, data == "noisy_counts"
    rows = [row for row in LOSSES.values() if row.task == task]
    fitting = [row for row in rows if (row.domain == "nonnegative") == is_count]
    by_outputs = defaultdict(list)
    for row in fitting:
        by_outputs[row.outputs_per_target].append(make_run(loss=row.name, data=data, **RHYTHM))
    for runs in by_outputs.values():
        assert_the_same(runs)
    assert "captured" not in caplog.text


@pytest.mark.parametrize(
    "case", beyond(["mlp batch dropout"], ["mlp", "mlp layer", "lenet", "resnet8", "vit dropout"])
)
def test_every_kind_of_model_can_be_captured(tapes, monkeypatch, case, tiny):
    monkeypatch.setattr(members, "runs_apart", lambda *_: False)  # as on other devices
    data, model, params = MODEL_CASES[case]
    facts = {"steps": 9, "log_every": 3, "eval_every": 9, "batch_size": 4}
    assert_the_same(mixed(data=data, model=model, model__params=params, **facts))
    assert len(tapes) > 1


def test_augmented_batches_are_replayed_with_new_words(tapes, tiny):
    augmentation = {"name": "crop_flip", "params": {}}
    runs = mixed(data="tiny_images", model="linear", data__augmentation=augmentation)
    assert_the_same(runs)


def asks(output, target):
    """What no graph can hold: Python waits for a value."""
    return 0.5 * (output - target).square().sum(-1) * (2.0 if output.sum() > 0 else 1.0)


def test_what_cannot_be_captured_is_made_one_by_one_and_said_and_recorded(
    tapes, monkeypatch, caplog
):
    row = LOSSES["mse"]
    monkeypatch.setitem(LOSSES, "asks", replace(row, fn=asks, claims=frozenset()))
    runs = [make_run(loss="asks", **RHYTHM), make_run(loss="huber", **RHYTHM)]
    replayed, plain = both(runs)
    told = "so the kernels of each are launched one by one: aten._local_scalar_dense"
    assert caplog.text.count(told) == 1
    assert replayed.pop("strategies") == plain.pop("strategies") == {"stack"}
    assert {*replayed["runs"].status} == {"done"}
    assert_same_records(records_of(replayed, *runs), records_of(plain, *runs))


def test_a_captured_function_is_replayed_without_python_where_it_lies(tapes):
    calls, value = [], torch.zeros(2)

    def work():
        calls.append(value.sum())
        value.add_(1)
        return value * 10

    replayed = Replayed(work, tapes.record, Captures())
    results = [replayed().clone() for _ in range(5)]
    assert [result[0].item() for result in results] == [10, 20, 30, 40, 50]
    assert len(calls) == 2  # once as it is, once to record it
    assert replayed.is_replayed


def trained_on(runs, names, *, flush=lambda *_: None, saved=None):
    """Tables of a pack that begins anew or goes on from what was saved."""
    pack, splits = Pack("pack", tuple(runs)), {run.seed: splits_of(run) for run in runs}
    machine = Machine(torch.device("cpu"), strategies=tuple(names))
    return train(pack, splits, machine, flush=flush, saved=saved)


def test_a_run_that_ends_or_is_resumed_within_a_stretch_has_the_records_of_a_whole_one(tapes):
    runs, kept = mixed(log_every=7, eval_every=11), {}
    whole = trained(runs, strategies=["graph"])
    trained_on(runs, ["graph"], flush=lambda step, snapshot: kept.update({step: snapshot()}))
    assert [*kept] == [1, 7, 8, 11, 14, 15]
    parts = [kept[step].parts[0] for step in kept if step <= 11]
    tables = trained_on(runs, ["graph"], saved=Saved(11, kept[11].checkpoint, tuple(parts)))
    resumed = {name: table.to_pandas() for name, table in tables.items()}
    mine, other = records_of(resumed, *runs), records_of(whole, *runs)
    told = mine["runs"].pop("environment"), other["runs"].pop("environment")
    assert all(one.str.contains('"stack').all() for one in told)
    assert_same_records(mine, other)


def test_nothing_of_a_pack_outlives_its_training(tapes, monkeypatch):
    seen = []
    module = importlib.import_module("lossbench.engine.train")
    original = module.assemble  # where what may not outlive training begins

    def gathering(*arguments, **words):
        found = original(*arguments, **words)
        seen.append(weakref.ref(found))
        return found

    monkeypatch.setattr(module, "assemble", gathering)
    small = {"model__params": {"widths": [8], "activation": "relu"}, "steps": 13, "batch_size": 9}
    gc.collect()
    gc.disable()
    try:
        trained(mixed(**small), strategies=["graph"])
        tapes.clear()
        assert seen.pop()() is None
    finally:
        gc.enable()


def test_where_a_recording_failed_later_packs_train_without_graphs_and_say_so(tapes, caplog):
    caplog.set_level(logging.INFO)
    machine = Machine(torch.device("cpu"), strategies=("graph",))
    machine.captures.has_failed = True
    tables = trained(mixed(), machine=machine)
    assert {json.loads(told)["strategy"] for told in tables["runs"].environment} == {"stack"}
    assert "trains without a CUDA graph: a recording failed in this process" in caplog.text
    assert not tapes


def test_a_name_of_no_strategy_is_refused_with_the_nearest_one():
    strategies.check(["graph"], "cuda")
    with pytest.raises(ConfigError, match=r"'grph' is unknown: .*graph"):
        strategies.check(["grph"], "cuda")
