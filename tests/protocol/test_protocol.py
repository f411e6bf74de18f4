"""Tune, then confirm: fair, on validation alone, and never trained twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from configs import TINY
from selection import one_in

from lossbench import cli, records, statistics
from lossbench.engine.losses import TrainingLosses
from lossbench.losses import LOSSES
from lossbench.protocol import Candidate, Grid, candidates
from lossbench.protocol.cells import block_overrides
from lossbench.protocol.stages import Chosen, Protocol, why_too_short
from lossbench.statistics import best_learning_rate

TUNE, CONFIRM = 2 * 3 * 2, 2 * 3
SHAS = ("source_sha", "shared_sha")
THREE = TINY.replace("tiny", "three").replace(
    "conditions: [own_lr]", "conditions: [own_lr, reference_lr, scale_matched]"
)
GROWING = TINY.replace("tiny", "growing").replace("extend: 0", "extend: 2")
GROWING = GROWING.replace("lr: [0.01, 0.1, 1.0]", "lr: [0.0001, 0.001]")
DECAYED = TINY.replace("tiny", "decayed").replace("loss: [mse, mae]", "loss: [mse, huber]")
DECAYED = DECAYED.replace(
    "extend: 0",
    "extend: 0\n      others:\n"
    "        optimizer.weight_decay: [0.0, 0.1]\n        loss.params.delta: [0.5, 2.0]",
)

UNION = TINY.replace("tiny", "union").split("    tune:")[0] + "    tune: null\n"
MIXED = TINY.replace("tiny", "mixed").replace("data: [diabetes]", "data: [diabetes, digits]")
BLOCKS = TINY.replace("tiny", "blocks").replace(
    "    tune:", "      - { data: [noisy_linear], model: [linear], loss: [mse, huber] }\n    tune:"
)


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    texts = {"tiny": TINY, "union": UNION, "mixed": MIXED, "blocks": BLOCKS}
    texts |= {"three": THREE, "growing": GROWING, "decayed": DECAYED}
    for name, text in texts.items():
        (folder / "experiment" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The current folder while this file's sweeps run; reports are tested elsewhere."""
    folder = tmp_path_factory.mktemp("place")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def sweep(conf, place):
    assert ask(conf, "experiment=tiny") == cli.DONE
    return place / "runs" / "tiny"


def ask(conf, *overrides):
    return cli.main(["--config-dir", str(conf), "report=none", *overrides])


def snapshot(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def cells(runs):
    return set(zip(runs.data, runs.loss, strict=True))


# ---- choosing ------------------------------------------------------------------------------------


def scores(metric="rmse", **by_rate):
    rows = [
        {"lr": float(rate.removeprefix("r").replace("_", ".")), metric: value}
        for rate, values in by_rate.items()
        for value in values
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("metric", "best"), [("rmse", 0.2), ("accuracy", 0.3)])
def test_the_best_rate_has_the_best_mean_in_the_metrics_own_direction(metric, best):
    frame = scores(metric, r0_1=[3.0, 5.0], r0_2=[1.0, 2.0], r0_3=[2.0, 9.0])
    assert best_learning_rate(frame, metric=metric) == best


@pytest.mark.parametrize(("metric", "best"), [("rmse", 0.1), ("accuracy", 0.3)])
def test_a_rate_with_a_diverged_run_ranks_behind_every_rate_without(metric, best):
    frame = scores(metric, r0_1=[9.0, 9.0], r0_2=[0.1, np.nan], r0_3=[9.5, 9.5])
    assert best_learning_rate(frame, metric=metric) == best


def test_when_every_rate_diverges_somewhere_fewer_divergences_win():
    frame = scores(r0_1=[np.nan, np.nan, 0.0], r0_2=[np.nan, 9.0, 9.0])
    assert best_learning_rate(frame, metric="rmse") == 0.2


@pytest.mark.parametrize("metric", ["rmse", "accuracy"])
def test_the_smaller_rate_wins_a_tie(metric):
    frame = scores(metric, r0_3=[1.0], r0_1=[1.0], r0_2=[1.0])
    assert best_learning_rate(frame, metric=metric) == 0.1


# ---- the grid ------------------------------------------------------------------------------------


def test_a_grid_grows_by_the_ratio_of_its_outermost_rates():
    grid = Grid((0.01, 0.1, 0.3)).grown("below").grown("below").grown("above")
    assert grid.rates == (0.0001, 0.001, 0.01, 0.1, 0.3, 0.9)
    assert (grid.end("below"), grid.end("above")) == (0.0001, 0.9)


def test_growing_keeps_every_rate_that_was_there():
    grid = Grid((0.0001, 0.00042, 0.0018, 10.0))
    for side in ("below", "above", "below"):
        larger = grid.grown(side)
        assert {*grid.rates} < {*larger.rates}
        assert {*grid.divided(3)} < {*larger.divided(3)}
        assert list(larger.rates) == sorted(larger.rates)
        grid = larger


OTHERS = {"optimizer.weight_decay": [0.0, 0.1], "loss.params.delta": [0.5, 1.0, 2.0]}


@pytest.mark.parametrize("applicable", [[*OTHERS], ["optimizer.weight_decay"], []])
def test_every_loss_tries_the_same_number_of_candidates(applicable):
    found = candidates(Grid((0.01, 0.1)), OTHERS, applicable)
    assert len({*found}) == len(found) == 2 * 2 * 3
    assert {0.01, 0.1} <= {candidate.lr for candidate in found}
    assert all(len(candidate.others) == len(applicable) for candidate in found)


def test_a_loss_with_nothing_else_to_tune_gets_finer_rates():
    found = candidates(Grid((0.01, 0.1)), {"loss.params.delta": [1.0, 2.0]}, [])
    assert [candidate.lr for candidate in found] == [0.01, 0.0316228, 0.1, 0.316228]


def test_a_candidate_sets_what_it_says():
    assert Candidate(0.1, (("a.b", 2),)).settings == {"optimizer.lr": 0.1, "a.b": 2}


# ---- end to end ----------------------------------------------------------------------------------


def test_every_loss_is_tuned_on_the_same_grid_and_confirmed_on_fresh_seeds(sweep):
    runs = records.load(sweep).runs
    assert (runs.status == "done").all()
    tune, confirm = (runs[runs.stage == stage] for stage in ("tune", "confirm"))
    assert (len(tune), len(confirm)) == (TUNE, CONFIRM)
    grids = {loss: set(zip(part.lr, part.seed, strict=True)) for loss, part in tune.groupby("loss")}
    assert grids["mse"] == grids["mae"]
    assert set(confirm.seed) == {0, 1, 2}
    assert not set(tune.seed) & set(confirm.seed)


def test_tuning_never_sees_the_test_split_and_confirming_does(sweep):
    evals = records.load(sweep).evals
    splits = evals.groupby("stage").split.unique().map(set).to_dict()
    assert splits == {
        "tune": {"train", "validation"},
        "confirm": {"train", "validation", "test"},
    }


def test_a_loss_is_confirmed_at_the_rate_that_is_best_on_validation(sweep):
    loaded = records.load(sweep)
    evals = loaded.evals
    tune = evals[(evals.stage == "tune") & (evals.metric == "rmse") & (evals.step == 4)]
    means = tune[tune.split == "validation"].groupby(["loss", "lr"]).value.mean()
    for loss, confirm in loaded.runs[loaded.runs.stage == "confirm"].groupby("loss"):
        assert set(confirm.lr) == {means[loss].idxmin()}


def test_what_is_asked_is_written_down(sweep):
    (entry,) = json.loads((sweep / "sweep.json").read_text())["declarations"]
    declared = entry["declared"]
    assert declared["losses"] == ["mae", "mse"]
    assert (declared["tune_seeds"], declared["confirm_seeds"]) == ([100, 101], [0, 1, 2])
    assert declared["reference"]["regression"] == "mse"
    assert len(declared["learning_rates"]) == 3


def test_runs_of_one_seed_had_the_same_start_batches_and_data(sweep):
    runs = records.load(sweep).runs
    for name in ("init_sha", "batch_sha", "data_sha"):
        assert runs.groupby("seed")[name].agg(set).map(len).eq(1).all()
        assert len(set(runs[name])) == 5


def test_the_same_command_twice_trains_nothing_and_leaves_every_file_alone(sweep, conf, caplog):
    before = snapshot(sweep)
    caplog.set_level("INFO")
    assert ask(conf, "experiment=tiny") == cli.DONE
    assert snapshot(sweep) == before
    announced = [line for line in caplog.messages if "already there" in line]
    assert len(announced) == 2
    assert all("0 to train" in line for line in announced)


def test_a_loss_that_is_added_trains_its_own_runs_only(sweep, conf, place):
    sweep = shutil.copytree(sweep, place / "runs" / "added")
    before = {path: facts for path, facts in snapshot(sweep).items() if "packs" in path.parts}
    assert ask(conf, "experiment=tiny", "name=added", "loss=huber_tight") == cli.DONE
    after = snapshot(sweep)
    assert before.items() <= after.items()
    runs = records.load(sweep).runs
    assert len(runs) == TUNE + CONFIRM + 3 * 2 + 3
    added = [path for path in after if path not in before and path.name == "runs.parquet"]
    tables = [records.decode(path.read_bytes(), path=path).to_pandas() for path in added]
    assert set(pd.concat(tables).loss) == {"huber_tight"}
    known = json.loads((sweep / "sweep.json").read_text())
    assert set(known["losses"]) == {"mse", "mae", "huber_tight"}


def own(runs, loss, condition):
    return runs[(runs.loss == loss) & (runs.condition == condition)]


@pytest.fixture(scope="module")
def three(conf, place):
    assert ask(conf, "experiment=three") == cli.DONE
    return records.load(place / "runs" / "three")


def test_a_challenger_is_confirmed_at_three_learning_rates_and_the_reference_at_its_own(three):
    confirm = three.runs[three.runs.stage == "confirm"]
    counts = confirm.groupby(["loss", "condition"]).seed.agg(["size", "nunique"])
    assert counts.loc["mse"].index.tolist() == ["own_lr"]
    assert {*counts.loc["mae"].index} == {"own_lr", "reference_lr", "scale_matched"}
    assert (counts == 3).all(axis=None)


def test_the_reference_rate_is_the_references_and_the_matched_one_equalises_the_gradients(three):
    runs, steps = three.runs, three.steps
    rate = own(runs, "mse", "own_lr").lr.iloc[0]
    assert {*own(runs, "mae", "reference_lr").lr} == {rate}
    start = steps[(steps.step == 0) & (steps.stage == "tune")]
    rms = np.log(start.output_gradient_norm.astype(float)).groupby(start.loss).mean()
    ratio = np.exp(rms.mse - rms.mae)
    matched = own(runs, "mae", "scale_matched").lr.unique()
    assert matched == pytest.approx([rate * ratio], rel=1e-5)
    assert matched[0] != rate


def test_the_report_pairs_every_condition_with_the_reference_at_its_own_rate(three):
    tasks = {task.condition: task for task in statistics.all_comparisons(three)}
    assert [*tasks] == ["own_lr", "reference_lr", "scale_matched"]
    values = three.evals[(three.evals.split == "test") & (three.evals.metric == "rmse")]
    values = values[values.step == 4].set_index("run_id").value.astype(float)
    base = own(three.runs, "mse", "own_lr").set_index("seed").run_id.map(values)
    for condition, task in tasks.items():
        mine = own(three.runs, "mae", condition).set_index("seed").run_id.map(values)
        (row,) = task.paired.itertuples()
        assert row.difference == pytest.approx((mine - base).mean(), rel=1e-9)


def test_adam_takes_the_same_step_for_a_multiple_of_a_loss_so_no_scale_is_matched(conf, place):
    assert ask(conf, "experiment=three", "name=adam", "optimizer=adam") == cli.DONE
    runs = records.load(place / "runs" / "adam").runs
    assert {*runs[runs.loss == "mae"].condition} == {"grid", "own_lr", "reference_lr"}


@pytest.mark.parametrize("signal", ["norm_matched", "reweighted"])
def test_another_signal_has_no_scale_of_the_loss_to_match(signal, conf, place):
    typed = f"name={signal}", f"signal={signal}"
    assert ask(conf, "experiment=three", *typed) == cli.DONE
    runs = records.load(place / "runs" / signal).runs
    assert {*runs[runs.loss == "mae"].condition} == {"grid", "own_lr", "reference_lr"}


def test_the_reference_has_one_rate_under_all_signals(conf, place, monkeypatch):
    best = Protocol._best

    def near_tie(self, task, cell, loaded):
        found = best(self, task, cell, loaded)
        other = self._candidates(task, cell.run_id)[0 if cell.signal == "reweighted" else 1]
        return dataclasses.replace(found, candidate=other)

    monkeypatch.setattr(Protocol, "_best", near_tie)
    typed = ["name=signals", "signal=own,reweighted"]
    assert ask(conf, "experiment=three", *typed) == cli.DONE
    runs = records.load(place / "runs" / "signals").runs
    confirmed = runs[runs.stage == "confirm"]
    assert {*confirmed[confirmed.loss == "mse"].lr} == {0.1}
    assert {*confirmed[confirmed.condition == "reference_lr"].lr} == {0.1}
    other = confirmed[(confirmed.loss == "mae") & (confirmed.condition == "own_lr")]
    assert {*other.lr} == {0.01, 0.1}


def test_a_loss_added_later_is_matched_to_the_reference_of_the_sweep(three, conf, place):
    shutil.copytree(three.sweep_dir, place / "runs" / "later")
    assert ask(conf, "experiment=three", "name=later", "loss=huber") == cli.DONE
    runs = records.load(place / "runs" / "later").runs
    assert {*own(runs, "huber", "reference_lr").lr} == {own(runs, "mse", "own_lr").lr.iloc[0]}
    assert len(own(runs, "huber", "scale_matched")) == 3


def test_a_grid_grows_for_all_losses_alike_until_its_bound(conf, place, caplog):
    caplog.set_level("INFO")
    assert ask(conf, "experiment=growing") == cli.DONE
    runs = records.load(place / "runs" / "growing").runs
    tried = runs[runs.stage == "tune"].groupby("loss").lr.agg(lambda lr: sorted({*lr}))
    assert tried["mse"] == tried["mae"] == [0.0001, 0.001, 0.01, 0.1]
    assert any("it grows to 0.01, for all 2 losses" in line for line in caplog.messages)
    assert any("after 2 more rates" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("side", "told"),
    [
        ("below", "huber: the best learning rate lies; quartic: runs diverge at the lower end"),
        ("above", "mae: the best learning rate lies at the upper end"),
    ],
)
def test_a_grid_is_too_short_where_a_best_rate_is_its_end_or_its_lowest_one_diverges(side, told):
    found = {
        "mse": Chosen(Candidate(0.1), 1.0, diverged=frozenset({1.0})),
        "huber": Chosen(Candidate(0.01), 1.0),
        "log_cosh": Chosen(Candidate(0.01), 1.0, rivals=frozenset({0.1})),
        "quartic": Chosen(Candidate(0.1), 1.0, diverged=frozenset({0.01, 1.0})),
        "mae": Chosen(Candidate(1.0), 1.0),
    }
    end = {"below": 0.01, "above": 1.0}[side]
    assert why_too_short(found, dict.fromkeys(found, end), side) == told


def test_rates_at_which_a_run_of_the_loss_diverged_are_found(conf, place):
    typed = ["loss=mse,quartic", "steps=60", "hydra.sweeper.tune.extend=1"]
    rates = "hydra.sweeper.tune.lr=[0.05,0.5,5.0]"
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(
            "lossbench.protocol.stages.why_too_short",
            lambda chosen, ends, side: seen.append(dict(chosen)) or "",
        )
        assert ask(conf, "experiment=growing", "name=gone", *typed, rates) == cli.DONE
    assert seen[0]["mse"].diverged == {5.0}
    assert seen[0]["quartic"].diverged == {0.05, 0.5, 5.0}


def test_an_edge_that_is_no_better_than_the_rate_beside_it_is_no_reason_to_grow(conf, place):
    # One update at hardly any rate: accuracy is the same at all of them.
    typed = ["data=digits", "loss=cross_entropy,brier", "steps=1", "eval_every=1", "log_every=1"]
    rates = "hydra.sweeper.tune.lr=[1e-12,1e-11]"
    assert ask(conf, "experiment=growing", "name=level", *typed, rates) == cli.DONE
    runs = records.load(place / "runs" / "level").runs
    assert {*runs[runs.stage == "tune"].lr} == {1e-12, 1e-11}


def test_a_grown_grid_is_not_tuned_again_and_a_later_loss_gets_all_of_it(conf, place, caplog):
    caplog.set_level("INFO")
    if not (place / "runs" / "growing").exists():
        ask(conf, "experiment=growing")
    before = snapshot(place / "runs" / "growing")
    assert ask(conf, "experiment=growing") == cli.DONE
    assert snapshot(place / "runs" / "growing") == before
    assert ask(conf, "experiment=growing", "loss=huber") == cli.DONE
    runs = records.load(place / "runs" / "growing").runs
    tried = runs[runs.stage == "tune"].groupby("loss").lr.agg(lambda lr: sorted({*lr}))
    assert tried["huber"] == tried["mse"]


def test_without_its_reference_a_sweep_has_no_verdict_and_says_so(conf, place, capsys):
    assert ask(conf, "experiment=three", "name=alone", "loss=mae,huber") == cli.DONE
    loaded = records.load(place / "runs" / "alone")
    tasks = statistics.all_comparisons(loaded)
    assert [task.condition for task in tasks] == ["own_lr"]
    assert tasks[0].paired.empty
    assert "the declared reference mse has no confirmed run" in tasks[0].refusal
    assert any("reference mse" in text for text in statistics.objections(loaded, tasks))


def test_a_loss_whose_tuning_failed_in_part_is_not_confirmed(conf, place, monkeypatch, caplog):
    call = TrainingLosses.__call__

    def breaks(self, output, target, step, **words):
        loss, gradient = call(self, output, target, step, **words)
        for place_, run in enumerate(self._members.runs[: self._members.recorded_count]):
            if (run.loss.name, run.lr, run.seed, step) == ("mae", 0.1, 100, 0):
                self._report(place_, "step 0: broken")
                loss[place_] = float("nan")
        return loss, gradient

    monkeypatch.setattr(TrainingLosses, "__call__", breaks)
    assert ask(conf, "experiment=three", "name=part") == cli.SOME_FAILED
    runs = records.load(place / "runs" / "part").runs
    assert {*runs[runs.stage == "confirm"].loss} == {"mse"}
    assert any("1 of 6 tuning runs of mae failed" in line for line in caplog.messages)
    monkeypatch.setattr(TrainingLosses, "__call__", call)
    assert ask(conf, "experiment=three", "name=part") == cli.DONE
    runs = records.load(place / "runs" / "part").runs
    assert {*runs[runs.stage == "confirm"].loss} == {"mse", "mae"}


def test_a_failed_reference_stops_the_confirming_of_its_task(conf, place, monkeypatch):
    def broken(output, target):
        raise RuntimeError("no such thing")

    broken.__name__ = "mse"
    row = dataclasses.replace(LOSSES["mse"], fn=broken)
    monkeypatch.setitem(LOSSES, "mse", row)
    monkeypatch.setattr("lossbench.runs.source._code_shas", lambda *names: dict.fromkeys(SHAS, "x"))
    assert ask(conf, "experiment=three", "name=broken") == cli.SOME_FAILED
    runs = records.load(place / "runs" / "broken").runs
    assert {*runs.stage} == {"tune"}


def test_weight_decay_has_no_matched_scale(conf, place):
    typed = ("name=heavy", "optimizer.weight_decay=0.01")
    assert ask(conf, "experiment=three", *typed) == cli.DONE
    runs = records.load(place / "runs" / "heavy").runs
    assert {*runs[runs.loss == "mae"].condition} == {"grid", "own_lr", "reference_lr"}


def test_unequal_budgets_are_objected_to_and_equal_ones_of_unlike_grids_are_not(conf, place):
    assert ask(conf, "experiment=three", "name=uneven") == cli.DONE
    finer = "hydra.sweeper.tune.lr=[0.01,0.02,0.1,0.2,1.0]"
    assert ask(conf, "experiment=three", "name=uneven", "loss=mae", finer) == cli.DONE
    for name, is_uneven in (("uneven", True), ("decayed", False)):
        if not (place / "runs" / name).exists():
            ask(conf, f"experiment={name}")
        loaded = records.load(place / "runs" / name)
        against = " ".join(statistics.objections(loaded, statistics.all_comparisons(loaded)))
        assert ("budgets differ" in against) == is_uneven


def test_nuisance_parameters_are_tuned_with_equal_numbers_of_candidates(conf, place):
    assert ask(conf, "experiment=decayed") == cli.DONE
    loaded = records.load(place / "runs" / "decayed")
    configs = loaded.runs.config.map(json.loads)
    facts = loaded.runs.assign(
        decay=configs.map(lambda c: c["weight_decay"]),
        delta=configs.map(lambda c: c["loss"]["params"].get("delta")),
    )
    tune = facts[facts.stage == "tune"]
    assert tune.groupby("loss").size().to_dict() == {"mse": 24, "huber": 24}
    assert {*tune[tune.loss == "huber"].delta} == {0.5, 2.0}
    assert {*tune.decay} == {0.0, 0.1}
    end = loaded.evals[(loaded.evals.step == 4) & (loaded.evals.metric == "rmse")]
    end = end[end.split == "validation"].set_index("run_id").value.astype(float)
    tune = tune.assign(value=tune.run_id.map(end), delta=tune.delta.fillna(0.0))
    for loss, mine in tune.groupby("loss"):
        best = mine.groupby(["lr", "decay", "delta"]).value.mean().idxmin()
        confirm = facts[(facts.stage == "confirm") & (facts.loss == loss)].fillna({"delta": 0.0})
        assert {*zip(confirm.lr, confirm.decay, confirm.delta, strict=True)} == {best}


def test_what_was_tuned_is_no_factor_so_losses_are_compared_across_it(conf, place):
    if not (place / "runs" / "decayed").exists():
        ask(conf, "experiment=decayed")
    (task,) = statistics.all_comparisons(records.load(place / "runs" / "decayed"))
    assert {*task.runs.loss} == {"mse", "huber"}
    assert len(task.paired) == 1


def test_pairs_of_loss_and_data_of_two_tasks_are_dropped(conf, place):
    assert ask(conf, "experiment=mixed", "loss=mae,brier") == cli.DONE
    runs = records.load(place / "runs" / "mixed").runs
    assert cells(runs) == {("diabetes", "mae"), ("digits", "brier")}


def test_a_typed_key_replaces_that_key_in_every_block(conf, place):
    assert ask(conf, "experiment=blocks", "loss=quartic") == cli.DONE
    runs = records.load(place / "runs" / "blocks").runs
    assert cells(runs) == {("diabetes", "quartic"), ("noisy_linear", "quartic")}


def asked(blocks, *typed):
    """What each block of a command asks for, one data set in each."""
    by_key = {line.partition("=")[0]: line for line in typed}
    return [tuple(sorted(lines)) for lines in block_overrides(blocks, by_key)]


TWO = [
    {"data": ["diabetes"], "model": ["linear"]},
    {"data": ["noisy_linear"], "data.params.examples": [100], "model": ["mlp"]},
]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data=diabetes", [("data=diabetes", "model=linear")]),
        (
            "data=diabetes,noisy_linear",
            [
                ("data=diabetes", "model=linear"),
                ("data.params.examples=100", "data=noisy_linear", "model=mlp"),
            ],
        ),
        ("data=wine", [("data=wine", "model=linear"), ("data=wine", "model=mlp")]),
        ("model=wide", [
            ("data=diabetes", "model=wide"),
            ("data.params.examples=100", "data=noisy_linear", "model=wide"),
        ]),
    ],
)  # fmt: skip
def test_a_typed_data_set_keeps_to_the_blocks_that_have_it(typed, expected):
    assert asked(TWO, typed) == expected


def test_a_typed_group_takes_the_settings_of_that_group_with_it():
    block = {"data": ["diabetes"], "model": ["mlp"], "model.params.activation": ["tanh"]}
    assert asked([block], "model=linear") == [("data=diabetes", "model=linear")]
    assert asked([block]) == [("data=diabetes", "model.params.activation=tanh", "model=mlp")]


def test_typed_seeds_are_the_seeds_that_confirm(conf, place):
    assert ask(conf, "experiment=tiny", "name=seeds", "loss=mse", "seed=range(7,9)") == cli.DONE
    runs = records.load(place / "runs" / "seeds").runs
    assert set(runs[runs.stage == "confirm"].seed) == {7, 8}
    assert set(runs[runs.stage == "tune"].seed) == {100, 101}


def test_without_tuning_a_sweep_is_the_union_of_its_blocks(conf, place):
    assert ask(conf, "experiment=union", "seed=0,1", "optimizer.lr=0.1,0.2") == cli.DONE
    runs = records.load(place / "runs" / "union").runs
    assert len(runs) == 8
    assert set(runs.stage) == {"exploratory"}


def test_instruments_of_a_block_are_one_value_and_typed_ones_replace_them():
    block = {"loss": ["mse", "mae"], "instruments": ["curvature", "sharpness"]}
    both = "instruments=[curvature,sharpness]"
    assert asked([block]) == [(both, "loss=mse,mae")]
    typed = "instruments=[curvature]"
    assert asked([block], typed) == [(typed, "loss=mse,mae")]
    assert asked([{**block, "instruments": []}]) == [("instruments=[]", "loss=mse,mae")]


PRIMARY = "hydra.sweeper.declare.primary.classification={}"
SELECT = "+hydra.sweeper.declare.select={{regression:{}}}"


MISTAKES = [
    (["instruments=curvature"], "use instruments=[NAME]"),
    (["instruments=[curvatur]"], "did you mean 'curvature'"),
    (["seed=1,100"], "seeds 100 would tune and confirm"),
    (["hydra.sweeper.tune.seeds=[2,3]"], "seeds 2 would tune and confirm"),
    (["loss=brier"], "no loss fits the task and targets of its data"),
    (["optimizer.lr=0.1"], "optimizer.lr is chosen by tuning"),
    (["hydra.sweeper.tune.lr=[]"], "the list of optimizer.lr is empty"),
    (["hydra.sweeper.confirm.seeds='range(0,6),102'"], "use [0,1,2] or range(0,3)"),
    (["hydra.sweeper.confirm.seeds=[]"], "the list of seed is empty"),
    (["hydra.sweeper.tune.lr=[0.1,-1]"], "optimizer.lr is -1.0: use a positive"),
    (["hydra.sweeper.tune.lr=[0.1,abc]"], "optimizer.lr is 'abc': use a number"),
    (["hydra/launcher=basic"], "use hydra/launcher=packed"),
    (
        ["+hydra.sweeper.tune.split=test"],
        "on validation, and test is touched in confirm",
    ),
    (["+hydra.sweeper.confirm.sedes=[1]"], "hydra.sweeper.confirm.sedes"),
    (["hydra.sweeper.confirm.conditions=[reference_lr]"], "lacks own_lr"),
    (["hydra.sweeper.confirm.conditions=[own_lr,best]"], "condition 'best'"),
    (["hydra.sweeper.declare.primary.regression=accuracy"], "primary of regression"),
    (["hydra.sweeper.declare.primary.regression=coverage_90"], "primary of regression"),
    ([SELECT.format("rmse_clean")], "select of regression is 'rmse_clean'"),
    (["hydra.sweeper.declare.primary.regression=rmse_clean"], "primary of regression"),
    (["data=digits", "loss=brier", PRIMARY.format("memorised")], "primary of classification"),
    (["data=digits", "loss=brier", PRIMARY.format("tv_bayes")], "not measured on validation"),
    (
        [
            *("data=digits", "loss=brier", "hydra.sweeper.declare.endpoint=best"),
            PRIMARY.format("tv_bayes"),
            "+hydra.sweeper.declare.select={classification:accuracy}",
        ],
        "not measured on validation",
    ),
    (["~hydra.sweeper.declare.primary.regression"], "declare.primary has nothing for diabetes"),
    (["+hydra.sweeper.declare.margin.regresion=0.1"], "did you mean 'regression'"),
    (["+hydra.sweeper.declare.primary.diabetes=mae"], "a margin for diabetes"),
    (["+hydra.sweeper.declare.questions=[life]"], "question 'life'"),
    (["hydra.sweeper.declare.margin.regression=small"], "use a number, 0 or more"),
    (["hydra.sweeper.declare.primary=rmse"], "declare.primary is 'rmse'"),
    (["+hydra.sweeper.tune.others={schedule:[constant,cosine]}"], "tune single values"),
    (
        [
            "+hydra.sweeper.tune.others={loss.params.delta:[1.0]}",
            "+hydra.sweeper.declare.select={regression:'loss:own'}",
        ],
        "its own values have no order",
    ),
    (["+hydra.sweeper.declare.targets.regression=low"], "target of regression is 'low'"),
]


@pytest.mark.parametrize(
    ("overrides", "message"),
    one_in(4, MISTAKES),
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_an_experiment_trains_and_writes_nothing(
    overrides, message, conf, place, capsys
):
    assert ask(conf, "experiment=tiny", "name=mistaken", *overrides) == cli.MISTAKE
    assert message in capsys.readouterr().err
    assert not (place / "runs" / "mistaken").exists()


def test_a_condition_cannot_be_typed(place, capsys):
    assert cli.main(["loss=mse", "data=diabetes", "condition=own_lr"]) == 2
    assert "condition" in capsys.readouterr().err
