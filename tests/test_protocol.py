"""Tune, then confirm: fair, on validation alone, and never trained twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY

from lossbench import cli, records, report
from lossbench.statistics import best_learning_rate

TUNE, CONFIRM = 2 * 3 * 2, 2 * 3

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
    for name, text in texts.items():
        (folder / "experiment" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The current folder while this file's sweeps run; reports are tested elsewhere."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(report, "write", lambda sweep: Path(sweep) / "report")
        yield folder


@pytest.fixture(scope="module")
def sweep(conf, place):
    assert cli.main(["--config-dir", str(conf), "experiment=tiny"]) == cli.DONE
    return place / "runs" / "tiny"


def ask(conf, *overrides):
    return cli.main(["--config-dir", str(conf), *overrides])


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


def test_pairs_of_loss_and_data_of_two_tasks_are_dropped(conf, place):
    assert ask(conf, "experiment=mixed", "loss=mae,brier") == cli.DONE
    runs = records.load(place / "runs" / "mixed").runs
    assert cells(runs) == {("diabetes", "mae"), ("digits", "brier")}


def test_a_typed_key_replaces_that_key_in_every_block(conf, place):
    assert ask(conf, "experiment=blocks", "loss=quartic") == cli.DONE
    runs = records.load(place / "runs" / "blocks").runs
    assert cells(runs) == {("diabetes", "quartic"), ("noisy_linear", "quartic")}


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1,100"], "seeds 100 would tune and confirm"),
        (["hydra.sweeper.tune.seeds=[2,3]"], "seeds 2 would tune and confirm"),
        (["loss=brier"], "no loss fits the task and targets of its data"),
        (["optimizer.lr=0.1"], "optimizer.lr is chosen by tuning"),
        (["hydra.sweeper.tune.lr=[]"], "the list of optimizer.lr is empty"),
        (["hydra.sweeper.confirm.seeds=[]"], "the list of seed is empty"),
        (["hydra.sweeper.tune.lr=[0.1,-1]"], "optimizer.lr is -1.0: use a positive"),
        (["hydra.sweeper.tune.lr=[0.1,abc]"], "optimizer.lr is 'abc': use a number"),
        (["hydra/launcher=basic"], "use hydra/launcher=packed"),
    ],
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
