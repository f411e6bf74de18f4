"""The protocol: every candidate on every seed, chosen on validation, looks while it is open."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from configs import TINY
from interrupted import contents
from known_interval import interval
from selection import one_in

from lossbench import cli, records, statistics, store
from lossbench.ask.blocks import block_axes
from lossbench.ask.grammar import axis_of, read
from lossbench.engine.training_losses import TrainingLosses
from lossbench.question import Candidate, Grid, candidates
from lossbench.report import objections
from lossbench.statistics.levels import level_at

RUNS = 2 * 3 * 3
GROWING = TINY.replace("tiny", "growing").replace("extend: 0", "extend: 2")
GROWING = GROWING.replace("lr: [0.01, 0.1, 1.0]", "lr: [0.0001, 0.001]")
DECAYED = TINY.replace("tiny", "decayed").replace("loss: [mse, mae]", "loss: [mse, huber]")
DECAYED = DECAYED.replace(
    "extend: 0",
    "extend: 0\n      others:\n"
    "        optimizer.weight_decay: [0.0, 0.1]\n        loss.params.delta: [0.5, 2.0]",
)
LOOKS = TINY.replace("tiny", "looks").replace("looks: [3]", "looks: [6, 9]")
LOOKS = LOOKS.replace("loss: [mse, mae]", "loss: [mse, mae, log_cosh]")
LOOKS = LOOKS.replace("steps: 4", "steps: 40").replace("regression: 0.02", "regression: 0.03")

UNION = TINY.replace("tiny", "union").split("    candidates:")[0] + "    candidates: null\n"
MIXED = TINY.replace("tiny", "mixed").replace("data: [diabetes]", "data: [diabetes, digits]")
BLOCKS = TINY.replace("tiny", "blocks").replace(
    "    candidates:",
    "      - { data: [noisy_linear], model: [linear], loss: [mse, huber] }\n    candidates:",
)


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    texts = {"tiny": TINY, "union": UNION, "mixed": MIXED, "blocks": BLOCKS}
    texts |= {"growing": GROWING, "decayed": DECAYED, "looks": LOOKS}
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


@pytest.fixture(scope="module")
def grown(conf, place):
    assert ask(conf, "experiment=growing") == cli.DONE
    return place / "runs" / "growing"


@pytest.fixture(scope="module")
def decayed(conf, place):
    assert ask(conf, "experiment=decayed") == cli.DONE
    return records.load(place / "runs" / "decayed")


def ask(conf, *overrides):
    return cli.main(["--config-dir", str(conf), "report=none", *overrides])


def snapshot(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def cells(runs):
    return set(zip(runs.data, runs.loss, strict=True))


def end_values(loaded, split, step=4):
    """rmse of every run on a split after the last update."""
    rows = loaded.evals[(loaded.evals.split == split) & (loaded.evals.metric == "rmse")]
    return rows[rows.step == step].set_index("run_id").value


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


# ---- the first look ------------------------------------------------------------------------------


def test_every_loss_trains_every_rate_on_every_seed_and_all_splits_are_evaluated(sweep):
    loaded = records.load(sweep)
    assert (loaded.runs.status == "done").all()
    assert len(loaded.runs) == RUNS
    trained = {
        loss: set(zip(part.lr, part.seed, strict=True))
        for loss, part in loaded.runs.groupby("loss")
    }
    assert trained["mse"] == trained["mae"]
    assert {*loaded.runs.seed} == {0, 1, 2}
    assert {*loaded.evals.split} == {"train", "validation", "test"}


def test_a_loss_is_judged_at_the_rate_with_the_best_mean_on_validation(sweep):
    loaded = records.load(sweep)
    means = end_values(loaded, "validation").groupby(
        [loaded.runs.set_index("run_id").loss, loaded.runs.set_index("run_id").lr]
    )
    best = means.mean()
    (own, _) = statistics.Verdicts(loaded).comparisons
    for loss, runs in own.runs.groupby("loss"):
        assert {*runs.lr} == {best[loss].idxmin()}
        assert {*runs.seed} == {0, 1, 2}


def test_at_the_references_rate_the_same_runs_are_compared(sweep):
    loaded = records.load(sweep)
    own, at_reference = statistics.Verdicts(loaded).comparisons
    assert (own.condition, at_reference.condition) == ("own_lr", "reference_lr")
    rate = own.runs.lr[own.runs.loss == "mse"].iloc[0]
    assert {*at_reference.runs.lr} == {rate}
    runs = loaded.runs[loaded.runs.lr == rate].set_index("run_id")
    values = end_values(loaded, "test").reindex(runs.index)
    wide = pd.DataFrame({"loss": runs.loss, "seed": runs.seed, "value": values})
    wide = wide.pivot_table(index="seed", columns="loss", values="value")
    (row,) = at_reference.paired.itertuples()
    assert row.difference == pytest.approx((wide.mae - wide.mse).mean(), rel=1e-9)


def test_what_is_declared_is_written_down_before_the_first_run(sweep):
    (entry,) = json.loads((sweep / "sweep.json").read_text())["declarations"]
    declared = entry["declared"]
    assert entry["runs_before"] == 0
    assert declared["losses"] == ["mae", "mse"]
    assert (declared["looks"], declared["seeds"]) == ([3], [0, 1, 2])
    assert declared["reference"]["regression"] == "mse"
    assert (len(declared["learning_rates"]), declared["extend"]) == (3, 0)


def test_runs_of_one_seed_had_the_same_start_batches_and_data(sweep):
    runs = records.load(sweep).runs
    for name in ("init_sha", "batch_sha", "data_sha"):
        assert runs.groupby("seed")[name].agg(set).map(len).eq(1).all()
        assert len(set(runs[name])) == 3


def test_the_same_command_twice_trains_nothing_and_leaves_every_file_alone(sweep, conf, caplog):
    before = snapshot(sweep)
    caplog.set_level("INFO")
    assert ask(conf, "experiment=tiny") == cli.DONE
    assert snapshot(sweep) == before
    assert any("nothing to train" in line for line in caplog.messages)


def test_a_loss_that_is_added_trains_its_own_runs_only_and_is_exploratory(sweep, conf, place):
    sweep = shutil.copytree(sweep, place / "runs" / "added")
    before = {path: facts for path, facts in snapshot(sweep).items() if "packs" in path.parts}
    assert ask(conf, "experiment=tiny", "name=added", "loss=huber_tight") == cli.DONE
    after = snapshot(sweep)
    assert before.items() <= after.items()
    loaded = records.load(sweep)
    assert len(loaded.runs) == RUNS + 3 * 3
    added = [path for path in after if path not in before and path.name == "runs.parquet"]
    tables = [records.decode(path.read_bytes(), path=path).to_pandas() for path in added]
    assert set(pd.concat(tables).loss) == {"huber_tight"}
    paired = statistics.Verdicts(loaded).comparisons[0].paired.set_index("loss")
    assert paired.exploratory.to_dict() == {"mae": False, "huber_tight": True}


# ---- growth --------------------------------------------------------------------------------------


def test_a_grid_grows_for_all_losses_alike_until_its_bound(conf, place, caplog):
    caplog.set_level("INFO")
    assert ask(conf, "experiment=growing", "name=grows") == cli.DONE
    runs = records.load(place / "runs" / "grows").runs
    tried = runs.groupby("loss").lr.agg(lambda lr: sorted({*lr}))
    assert tried["mse"] == tried["mae"] == [0.0001, 0.001, 0.01, 0.1]
    assert any("it grows to 0.01, for all 2 losses" in line for line in caplog.messages)
    assert any("has grown as often as declared (extend: 2)" in line for line in caplog.messages)


def test_a_grid_grows_downwards_where_a_run_diverges_at_its_lowest_rate(conf, place, caplog):
    caplog.set_level("INFO")
    typed = ["loss=mse,quartic", "steps=60", "hydra.sweeper.candidates.extend=1"]
    rates = "hydra.sweeper.candidates.lr=[0.05,0.5,5.0]"
    assert ask(conf, "experiment=growing", "name=steep", *typed, rates) == cli.DONE
    assert any("runs diverge at the lower end" in line for line in caplog.messages) or any(
        "the best learning rate lies at the lower end" in line for line in caplog.messages
    )
    assert {*records.load(place / "runs" / "steep").runs.lr} == {0.005, 0.05, 0.5, 5.0}


@pytest.mark.exhaustive
def test_a_plateau_is_no_reason_to_grow(conf, place):
    # One update at hardly any rate: accuracy is the same at all of them.
    typed = ["data=digits", "loss=cross_entropy,brier", "steps=1", "eval_every=1", "log_every=1"]
    rates = "hydra.sweeper.candidates.lr=[1e-12,1e-11,1e-10]"
    assert ask(conf, "experiment=growing", "name=level", *typed, rates) == cli.DONE
    assert {*records.load(place / "runs" / "level").runs.lr} == {1e-12, 1e-11, 1e-10}


@pytest.mark.exhaustive
def test_a_grown_grid_is_not_trained_again_and_a_later_loss_gets_all_of_it(grown, conf):
    before = snapshot(grown)
    assert ask(conf, "experiment=growing") == cli.DONE
    assert snapshot(grown) == before
    assert ask(conf, "experiment=growing", "loss=huber") == cli.DONE
    tried = records.load(grown).runs.groupby("loss").lr.agg(lambda lr: sorted({*lr}))
    assert tried["huber"] == tried["mse"]


# ---- looks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looked(conf, place):
    assert ask(conf, "experiment=looks") == cli.DONE
    return records.load(place / "runs" / "looks")


def test_only_open_comparisons_and_their_reference_go_on_with_plausible_rates(looked):
    before = statistics.Verdicts(looked, seeds=6).mains[0]
    words = before.paired.set_index("loss").verdict
    still_open = {loss for loss in words.index if words[loss] in ("better", "worse", "undecided")}
    assert still_open
    assert still_open != {*words.index}  # one was settled at six seeds
    later = looked.runs[looked.runs.seed >= 6]
    assert {*later.loss} == still_open | {"mse"}
    assert {*later.seed} == {6, 7, 8}
    for loss, runs in later.groupby("loss"):
        tried = before.every_run[before.every_run.loss == loss]
        its = statistics.tuning_table(tried, before.rule, seeds=range(6))
        rates = before.every_run.lr[before.every_run.loss == loss].drop_duplicates().sort_values()
        assert [*np.unique(runs.lr)] == [
            rates.iloc[place] for place in statistics.plausible(its.costs, its.rates)
        ]


def test_what_a_look_decided_is_said_before_the_next_one_trains(conf, place, caplog):
    caplog.set_level("INFO")
    assert ask(conf, "experiment=looks", "name=said") == cli.DONE
    loaded = records.load(place / "runs" / "said")
    for seeds in (6, 9):
        lines = [line for line in caplog.messages if f", {seeds} seeds, against mse: " in line]
        said = {}
        for part in lines[0].partition("mse: ")[2].split("; ") if lines else []:
            word, _, losses = part.partition(": ")
            said |= dict.fromkeys(losses.split(", "), word)
        paired = statistics.Verdicts(loaded, seeds=seeds).mains[0].paired.set_index("loss")
        assert said == ({} if seeds == 9 else paired.verdict.to_dict())  # the last is the report's


def test_each_comparison_says_its_look_and_pays_for_it(looked):
    paired = statistics.Verdicts(looked).comparisons[0].paired.set_index("loss")
    for row in paired.itertuples():
        assert row.look == {6: 1, 9: 2}[row.seeds]
        level = level_at(row.look - 1, (6, 9), confidence=0.95, comparisons=2)
        assert row.level == pytest.approx(level)
        known = interval(np.array(row.differences), level)
        assert (row.difference, row.fixed_low, row.fixed_high) == pytest.approx(known)


def test_rates_are_averaged_over_the_first_look_and_marked_by_the_choice_of_all_seeds(looked):
    own = statistics.Verdicts(looked).comparisons[0]
    assert {*(own.rates.n + own.rates.diverged)} == {6}
    assert {*own.grid.groupby(["loss", "lr"]).seed.nunique()} == {6}
    assert own.runs.seed.nunique() == 9
    marked = own.rates[own.rates.best].set_index("loss").lr
    assert marked.to_dict() == own.runs.groupby("loss").lr.first().to_dict()


def test_a_repeated_command_takes_the_same_looks(looked, conf):
    before = snapshot(looked.sweep_dir)
    assert ask(conf, "experiment=looks") == cli.DONE
    assert snapshot(looked.sweep_dir) == before


def test_what_is_declared_cannot_change_after_a_look(looked, conf, capsys):
    for typed in (
        "hydra.sweeper.declare.margin.regression=0.5",
        "hydra.sweeper.looks=[6,9,12]",
        "hydra.sweeper.candidates.lr=[0.1,1.0]",
    ):
        assert ask(conf, "experiment=looks", typed) == cli.MISTAKE
        assert "fixed before the first run" in capsys.readouterr().err


def test_permuting_all_test_values_changes_no_choice(looked, tmp_path):
    folder = shutil.copytree(looked.sweep_dir, tmp_path / "permuted")
    draw = np.random.default_rng(0)
    for path in folder.glob("packs/*/evals.parquet"):
        table = records.decode(path.read_bytes(), path=path).to_pandas()
        is_test = table.split == "test"
        table.loc[is_test, "value"] = draw.permutation(table.value[is_test])
        state = store.committed(path.parent)
        files = {name: store.read(path.parent, name) for name in state["files"]}
        files["evals.parquet"] = records.encode(records.table_from("evals", table))
        facts = {key: value for key, value in state.items() if key != "files"}
        for name in (store.COMMIT, *files):
            (path.parent / name).unlink()
        store.commit(path.parent, files, facts)
    for seeds in (*looked.plan["declarations"][0]["declared"]["looks"], 0):
        (own, *_), (permuted, *_) = (
            statistics.Verdicts(one, seeds=seeds).mains for one in (looked, records.load(folder))
        )
        assert {*own.runs.run_id} == {*permuted.runs.run_id}
        assert own.rates.equals(permuted.rates)
        assert own.stability.equals(permuted.stability)
        assert own.paired.difference.tolist() != permuted.paired.difference.tolist()


# ---- failures, budgets, what else is tuned -------------------------------------------------------


def test_an_experiment_that_is_settled_computes_nothing_again_until_more_is_asked(
    conf, place, caplog
):
    again = ["experiment=tiny", "name=again"]
    assert ask(conf, *again) == cli.DONE
    before = contents(place / "runs" / "again")
    caplog.clear()
    assert ask(conf, *again) == cli.DONE
    assert any("nothing to train" in line for line in caplog.messages)
    shutil.rmtree(next((place / "runs" / "again" / "packs").iterdir()))
    caplog.clear()
    assert ask(conf, *again) == cli.DONE
    assert not any("nothing to train" in line for line in caplog.messages)
    assert contents(place / "runs" / "again") == before


@pytest.mark.exhaustive
def test_an_experiment_without_its_reference_is_refused_until_the_sweep_has_it(conf, place, capfd):
    alone = ["experiment=tiny", "name=alone"]
    assert ask(conf, *alone, "loss=mae,huber") == cli.MISTAKE
    assert "its reference mse is neither among the losses nor in" in capfd.readouterr().err
    assert not (place / "runs" / "alone").exists()
    assert ask(conf, *alone, "loss=mse,mae") == cli.DONE
    assert ask(conf, *alone, "loss=huber") == cli.DONE
    (task, *_) = statistics.Verdicts(records.load(place / "runs" / "alone")).comparisons
    assert {*task.paired.loss} == {"mae", "huber"}


@pytest.mark.exhaustive
def test_a_loss_of_which_a_run_failed_has_no_verdict_until_it_is_trained(
    conf, place, monkeypatch, caplog
):
    call = TrainingLosses.__call__

    def breaks(self, output, target, step, **words):
        loss, gradient = call(self, output, target, step, **words)
        for place_, run in enumerate(self._members.runs[: self._members.recorded_count]):
            if (run.loss.name, run.lr, run.seed, step) == ("mae", 0.1, 1, 0):
                self._report(place_, "step 0: broken")
                loss[place_] = float("nan")
        return loss, gradient

    monkeypatch.setattr(TrainingLosses, "__call__", breaks)  # nothing else fails one member
    # In this process, which is the one that is patched.
    alone = ["experiment=tiny", "name=part", "hydra.launcher.workers=1"]
    assert ask(conf, *alone) == cli.SOME_FAILED
    (task, *_) = statistics.Verdicts(records.load(place / "runs" / "part")).comparisons
    assert task.paired.verdict.tolist() == ["incomplete"]
    assert any("1 of 9 runs of mae failed" in line for line in caplog.messages)
    monkeypatch.setattr(TrainingLosses, "__call__", call)
    assert ask(conf, *alone) == cli.DONE
    (task, *_) = statistics.Verdicts(records.load(place / "runs" / "part")).comparisons
    assert task.paired.verdict.tolist() == ["too few pairs"]


@pytest.mark.exhaustive
def test_equal_budgets_of_unlike_grids_are_not_objected_to_and_unequal_ones_are(decayed):
    comparisons = statistics.Verdicts(decayed).comparisons
    assert "budgets differ" not in " ".join(objections.of_sweep(decayed, comparisons))
    every = comparisons[0].validation
    uneven = every[(every.loss != "huber") | (every.candidate > every.candidate.min())]
    comparisons = [dataclasses.replace(comparisons[0], validation=uneven)]
    assert "budgets differ" in " ".join(objections.of_sweep(decayed, comparisons))


def test_nuisance_parameters_are_tuned_with_equal_numbers_of_candidates(decayed):
    configs = decayed.runs.config.map(json.loads)
    facts = decayed.runs.assign(
        decay=configs.map(lambda c: c["weight_decay"]),
        delta=configs.map(lambda c: c["loss"]["params"].get("delta")),
    )
    assert facts.groupby("loss").size().to_dict() == {"mse": 36, "huber": 36}
    assert {*facts[facts.loss == "huber"].delta} == {0.5, 2.0}
    assert {*facts.decay} == {0.0, 0.1}
    facts = facts.assign(
        value=facts.run_id.map(end_values(decayed, "validation")), delta=facts.delta.fillna(0.0)
    )
    (task, *_) = statistics.Verdicts(decayed).comparisons
    for _, mine in facts.groupby("loss"):
        best = mine.groupby(["lr", "decay", "delta"]).value.mean().idxmin()
        chosen = mine[mine.run_id.isin(task.runs.run_id)]
        assert {*zip(chosen.lr, chosen.decay, chosen.delta, strict=True)} == {best}


def test_what_was_tuned_is_no_factor_so_losses_are_compared_across_it(decayed):
    (task, *_) = statistics.Verdicts(decayed).comparisons
    assert {*task.runs.loss} == {"mse", "huber"}
    assert len(task.paired) == 1


# ---- blocks and what is typed --------------------------------------------------------------------


@pytest.mark.exhaustive
def test_pairs_of_loss_and_data_of_two_tasks_are_dropped(conf, place):
    assert ask(conf, "experiment=mixed", "loss=mse,mae,cross_entropy") == cli.DONE
    runs = records.load(place / "runs" / "mixed").runs
    assert cells(runs) == {("diabetes", "mse"), ("diabetes", "mae"), ("digits", "cross_entropy")}


@pytest.mark.exhaustive
def test_a_typed_key_replaces_that_key_in_every_block(conf, place):
    assert ask(conf, "experiment=blocks", "loss=mse,quartic") == cli.DONE
    runs = records.load(place / "runs" / "blocks").runs
    assert cells(runs) == {
        (data, loss) for data in ("diabetes", "noisy_linear") for loss in ("mse", "quartic")
    }


LOADER = SimpleNamespace(choices=None)
"""Plain names need no choices."""


def asked(blocks, *typed):
    """The overrides of each block of a command, one data set in each."""
    by_key = {axis.key: axis for axis in map(axis_of, read(typed, LOADER.choices))}
    return [
        tuple(sorted(axis.line for axis in axes)) for axes in block_axes(blocks, by_key, LOADER)
    ]


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


def test_without_candidates_a_sweep_is_the_union_of_its_blocks(conf, place):
    assert ask(conf, "experiment=union", "seed=0,1", "optimizer.lr=0.1,0.2") == cli.DONE
    loaded = records.load(place / "runs" / "union")
    assert len(loaded.runs) == 8
    assert not statistics.Verdicts(loaded).comparisons[0].is_declared


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
    (["seed=1,100"], "an experiment declares its numbers of seeds"),
    (["loss=brier"], "no loss fits the task and targets of its data"),
    (["optimizer.lr=0.1"], "optimizer.lr is chosen for each loss"),
    (["hydra.sweeper.candidates.lr=[]"], "the list of optimizer.lr is empty"),
    (["hydra.sweeper.looks=[]"], "use numbers of seeds in ascending order"),
    (["hydra.sweeper.looks=[20,10]"], "use numbers of seeds in ascending order"),
    (["hydra.sweeper.candidates.lr=[0.1,-1]"], "optimizer.lr is -1.0: use a positive"),
    (["hydra.sweeper.candidates.lr=[0.1,abc]"], "optimizer.lr is 'abc': use a number"),
    (
        ["hydra/launcher=basic"],
        "hydra/launcher=basic does not serve here, see docs/commands.md: use hydra/launcher=packed",
    ),
    (
        ["+hydra.sweeper.candidates.split=test"],
        "a candidate is chosen on validation, and judged on test",
    ),
    (["+hydra.sweeper.candidates.sedes=[1]"], "hydra.sweeper.candidates.sedes"),
    (["+hydra.sweeper.candidates.seeds=[1]"], "declare hydra.sweeper.looks"),
    (["hydra.sweeper.declare.primary.regression=accuracy"], "primary of regression"),
    (["hydra.sweeper.declare.primary.regression=coverage_90"], "primary of regression"),
    ([SELECT.format("rmse_clean")], "select of regression is 'rmse_clean'"),
    (["hydra.sweeper.declare.primary.regression=rmse_clean"], "primary of regression"),
    (["data=digits", "loss=brier", PRIMARY.format("memorised")], "primary of classification"),
    (
        ["data=digits", "loss=brier", PRIMARY.format("tv_bayes")],
        "not measured on the validation part",
    ),
    (
        [
            *("data=digits", "loss=brier", "hydra.sweeper.declare.endpoint=best"),
            PRIMARY.format("tv_bayes"),
            "+hydra.sweeper.declare.select={classification:accuracy}",
        ],
        "not measured on the validation part",
    ),
    (["~hydra.sweeper.declare.primary.regression"], "declare.primary has nothing for diabetes"),
    (["+hydra.sweeper.declare.margin.regresion=0.1"], "did you mean 'regression'"),
    (["+hydra.sweeper.declare.primary.diabetes=mae"], "a margin for diabetes"),
    (["+hydra.sweeper.declare.questions=[life]"], "question 'life'"),
    (["hydra.sweeper.declare.margin.regression=small"], "use a number, 0 or more"),
    (["hydra.sweeper.declare.primary=rmse"], "declare.primary is 'rmse'"),
    (["+hydra.sweeper.candidates.others={schedule:[constant,cosine]}"], "use single values"),
    (
        [
            "+hydra.sweeper.candidates.others={loss.params.delta:[1.0]}",
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
