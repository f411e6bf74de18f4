"""Tune, then confirm: fair, on validation alone, and never trained twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import pandas as pd
import pytest
from configs import IN_THIS_PROCESS, TINY
from planned import planned
from selection import one_in
from sweep_on_disk import build, plan_runs

from lossbench import cli, records, statistics
from lossbench.engine.losses import TrainingLosses
from lossbench.losses import LOSSES
from lossbench.protocol import Candidate, Grid, candidates
from lossbench.protocol.cells import block_overrides
from lossbench.protocol.stages import Chosen, Protocol, why_too_short

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
    is_other = any(word.startswith("hydra/launcher=") for word in overrides)  # has no workers
    workers = [] if is_other else [IN_THIS_PROCESS]
    return cli.main(["--config-dir", str(conf), "report=none", *workers, *overrides])


def snapshot(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def plan(conf, *overrides):
    return planned("--config-dir", str(conf), *overrides)


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
    tried = candidates(Grid((0.01, 0.1)), OTHERS, applicable)
    assert len({*tried}) == len(tried) == 2 * 2 * 3
    assert {0.01, 0.1} <= {candidate.lr for candidate in tried}
    assert all(len(candidate.others) == len(applicable) for candidate in tried)


def test_a_candidate_sets_what_it_says_and_a_loss_with_nothing_else_to_tune_gets_finer_rates():
    assert Candidate(0.1, (("a.b", 2),)).settings == {"optimizer.lr": 0.1, "a.b": 2}
    finer = candidates(Grid((0.01, 0.1)), {"loss.params.delta": [1.0, 2.0]}, [])
    assert [candidate.lr for candidate in finer] == [0.01, 0.0316228, 0.1, 0.316228]


# ---- end to end ----------------------------------------------------------------------------------


def test_what_is_asked_is_written_down(sweep):
    (entry,) = json.loads((sweep / "sweep.json").read_text())["declarations"]
    declared = entry["declared"]
    assert declared["losses"] == ["mae", "mse"]
    assert (declared["tune_seeds"], declared["confirm_seeds"]) == ([100, 101], [0, 1, 2])
    assert declared["reference"]["regression"] == "mse"
    assert len(declared["learning_rates"]) == 3


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


ALL_CONDITIONS = {"own_lr", "reference_lr", "scale_matched"}


@pytest.mark.parametrize(
    ("typed", "conditions"),
    [
        ("optimizer=sgd", ALL_CONDITIONS),
        # It takes the same step for a multiple of a loss.
        ("optimizer=adam", {"own_lr", "reference_lr"}),
        ("optimizer.weight_decay=0.01", {"own_lr", "reference_lr"}),
        # Another signal has no scale of the loss to match.
        ("signal=norm_matched", {"own_lr", "reference_lr"}),
        ("signal=reweighted", {"own_lr", "reference_lr"}),
    ],
)
def test_a_challenger_is_confirmed_under_every_condition_that_changes_its_rate(
    typed, conditions, conf
):
    confirm = plan(conf, "experiment=three", typed).runs["confirm"]
    assert {run.condition for run in confirm if run.loss.name == "mse"} == {"own_lr"}
    assert {run.condition for run in confirm if run.loss.name == "mae"} == conditions


def test_the_reference_has_one_rate_under_all_signals(conf, place, monkeypatch):
    best = Protocol._best

    def near_tie(self, task, cell, loaded):
        found = best(self, task, cell, loaded)
        other = self._candidates(task, cell.run_id)[0 if cell.signal == "reweighted" else 1]
        return dataclasses.replace(found, candidate=other)

    # Rounding decides which of two equal rates is best: no sweep brings a tie about for sure.
    monkeypatch.setattr(Protocol, "_best", near_tie)
    typed = ["name=signals", "signal=own,reweighted"]
    assert ask(conf, "experiment=three", *typed) == cli.DONE
    runs = records.load(place / "runs" / "signals").runs
    confirmed = runs[runs.stage == "confirm"]
    assert {*confirmed[confirmed.loss == "mse"].lr} == {0.1}
    assert {*confirmed[confirmed.condition == "reference_lr"].lr} == {0.1}
    other = confirmed[(confirmed.loss == "mae") & (confirmed.condition == "own_lr")]
    assert {*other.lr} == {0.01, 0.1}


def test_a_loss_added_later_is_matched_to_the_reference_of_the_sweep(essay_sweep, place):
    shutil.copytree(essay_sweep, place / "runs" / "later")
    conf = essay_sweep.parents[1] / "conf"
    typed = ["name=later", "data=diabetes", "loss=log_cosh"]
    assert ask(conf, "experiment=essay", *typed) == cli.DONE
    runs = records.load(place / "runs" / "later").runs.query("data == 'diabetes'")
    assert {*own(runs, "log_cosh", "reference_lr").lr} == {*own(runs, "mse", "own_lr").lr}
    assert len(own(runs, "log_cosh", "scale_matched")) == len(own(runs, "mse", "own_lr"))


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


def test_rates_at_which_a_run_of_the_loss_diverged_are_known(conf, place, monkeypatch):
    seen = []
    # A best rate above one that diverged is what the grid is judged by, and no training's for sure.
    monkeypatch.setattr(
        "lossbench.protocol.stages.why_too_short",
        lambda chosen, ends, side: seen.append(dict(chosen)) or "",
    )
    typed = ["loss=mse,quartic", "steps=60", "hydra.sweeper.tune.extend=1"]
    rates = "hydra.sweeper.tune.lr=[0.05,0.5,5.0]"
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

    # A loss knows neither its learning rate nor its seed, so none can fail in one run only.
    monkeypatch.setattr(TrainingLosses, "__call__", breaks)
    assert ask(conf, "experiment=three", "name=part") == cli.SOME_FAILED
    runs = records.load(place / "runs" / "part").runs
    assert {*runs[runs.stage == "confirm"].loss} == {"mse"}
    assert any("1 of 6 tuning runs of mae failed" in line for line in caplog.messages)
    monkeypatch.setattr(TrainingLosses, "__call__", call)
    assert ask(conf, "experiment=three", "name=part") == cli.DONE
    runs = records.load(place / "runs" / "part").runs
    assert {*runs[runs.stage == "confirm"].loss} == {"mse", "mae"}


BROKEN = """
from lossbench.losses.spec import Loss

def broken(output, target):
    raise RuntimeError("broken on purpose")

LOSSES = (
    Loss(fn=broken, inverse_link="identity", family="power", task="regression", formula="?",
         claims=frozenset(), source="test"),
)
"""


def test_a_failed_reference_stops_the_confirming_of_its_task(conf, place, monkeypatch):
    (place / "broken_loss.py").write_text(BROKEN)
    (conf / "loss").mkdir()
    (conf / "loss" / "broken.yaml").write_text("fn: broken\n")
    monkeypatch.syspath_prepend(place)
    typed = ["extensions=[broken_loss]", "loss=broken,mae"]
    declared = "hydra.sweeper.declare.reference.regression=broken"
    try:
        line = ["experiment=three", "name=broken", *typed, declared]
        assert ask(conf, *line) == cli.SOME_FAILED
    finally:
        LOSSES.pop("broken", None)
    assert {*records.load(place / "runs" / "broken").runs.stage} == {"tune"}


@pytest.mark.parametrize(
    ("rates", "is_objected_to"), [((0.01, 0.1, 0.2, 1.0), True), ((0.02, 0.2, 2.0), False)]
)
def test_unequal_budgets_are_objected_to_and_equal_ones_of_unlike_grids_are_not(
    rates, is_objected_to, tmp_path
):
    runs = plan_runs({("diabetes", "mlp"): {"mse": "power"}})
    runs += plan_runs({("diabetes", "mlp"): {"mae": "power"}}, rates=rates)
    loaded = records.load(build(tmp_path / "grids", runs, curves=False))
    objections = " ".join(statistics.objections(loaded, statistics.all_comparisons(loaded)))
    assert ("budgets differ" in objections) == is_objected_to


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
    # What was tuned is no factor: losses are compared across it.
    (task,) = statistics.all_comparisons(loaded)
    assert {*task.runs.loss} == {"mse", "huber"}
    assert len(task.paired) == 1


def cells_of(outline):
    """Data and loss of every run that would be confirmed."""
    return {(run.data.name, run.loss.name) for run in outline.runs["confirm"]}


@pytest.mark.parametrize(
    ("experiment", "typed", "expected"),
    [
        # Pairs of loss and data of two tasks are dropped.
        ("mixed", "loss=mae,brier", {("diabetes", "mae"), ("digits", "brier")}),
        # A typed key replaces that key in every block.
        ("blocks", "loss=quartic", {("diabetes", "quartic"), ("noisy_linear", "quartic")}),
    ],
)
def test_cells_are_those_of_the_blocks_with_what_was_typed(experiment, typed, expected, conf):
    assert cells_of(plan(conf, f"experiment={experiment}", typed)) == expected


def block_lines(blocks, *typed):
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
    assert block_lines(TWO, typed) == expected


def test_a_typed_group_takes_the_settings_of_that_group_with_it():
    block = {"data": ["diabetes"], "model": ["mlp"], "model.params.activation": ["tanh"]}
    assert block_lines([block], "model=linear") == [("data=diabetes", "model=linear")]
    assert block_lines([block]) == [("data=diabetes", "model.params.activation=tanh", "model=mlp")]


def test_typed_seeds_are_the_seeds_that_confirm(conf):
    runs = plan(conf, "experiment=tiny", "loss=mse", "seed=range(7,9)").runs
    seeds = {stage: {run.seed for run in stage_runs} for stage, stage_runs in runs.items()}
    assert seeds == {"confirm": {7, 8}, "tune": {100, 101}}


def test_without_tuning_a_sweep_is_the_union_of_its_blocks(conf):
    runs = plan(conf, "experiment=union", "seed=0,1", "optimizer.lr=0.1,0.2").runs
    assert [*runs] == ["exploratory"]
    assert len({run.run_id for run in runs["exploratory"]}) == 2 * 2 * 2


def test_instruments_of_a_block_are_one_value_and_typed_ones_replace_them():
    block = {"loss": ["mse", "mae"], "instruments": ["curvature", "sharpness"]}
    both = "instruments=[curvature,sharpness]"
    assert block_lines([block]) == [(both, "loss=mse,mae")]
    typed = "instruments=[curvature]"
    assert block_lines([block], typed) == [(typed, "loss=mse,mae")]
    assert block_lines([{**block, "instruments": []}]) == [("instruments=[]", "loss=mse,mae")]


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
