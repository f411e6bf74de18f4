"""The experiments and their sizes: each can be planned, and a size keeps its question."""

from __future__ import annotations

import itertools
import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from configs import TINY, write_experiment
from planned import planned
from selection import beyond

import lossbench
from lossbench import cli, records, statistics
from lossbench.ask.sizes import sized_blocks, sized_candidates, sized_interactions
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.question import ConfigError
from lossbench.question.grid import spread
from lossbench.report import summary
from lossbench.statistics.published import speaks_of
from lossbench.sweep import preflight

FOLDER = lossbench.CONF / "experiment"
EXPERIMENTS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SIZES = sorted(path.stem for path in (lossbench.CONF / "size").glob("*.yaml"))

ONE_OF_EACH = [
    "hydra.sweeper.candidates.lr=[0.1]",
    "hydra.sweeper.looks=[1]",
]
"""Every cell once: what is typed goes before a size."""


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line[2:] for line in lines if line.startswith("# "))


def sweeper_of(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["hydra"]["sweeper"]


LARGE = "essay_full"
"""It takes as long to compose as all others together, and is planned at its smallest size only."""

CLAIMING = [name for name in EXPERIMENTS if sweeper_of(name)["declare"].get("published")]

PLANNED = [(name, "smoke") for name in EXPERIMENTS]
PLANNED += [(name, "full") for name in EXPERIMENTS if name not in (*CLAIMING, LARGE)]
"""Those that claim something of losses are planned at `laptop` below."""


@pytest.mark.parametrize(
    ("name", "size"), beyond([("horizon", "smoke"), ("few_samples", "full")], PLANNED)
)
def test_an_experiment_can_be_planned_at_a_size(name, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(f"experiment={name}", f"size={size}", *ONE_OF_EACH)
    assert plan.first
    if size == "smoke":
        preflight(plan.first)
    assert plan.question.folder.name == plan.question.name == f"{name}-{size}"
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_question_and_its_command(name):
    text = header(name)
    assert re.search(r"^Question: \S", text, re.M)
    command = re.search(r"Command: (lossbench.*)$", text, re.M)
    assert command is not None
    assert command[1] in ("lossbench", f"lossbench experiment={name}")


def factors_of(block):
    """A block without its losses and their parameters."""
    return {key: value for key, value in block.items() if key.partition(".")[0] != "loss"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_block_begins_with_its_reference_or_goes_on_where_another_block_does(name):
    # Parameters that the reference lacks need a block of their own, behind that of their tasks.
    sweeper, begun = sweeper_of(name), []
    for block in sweeper["blocks"]:
        references = {
            records.declared(sweeper["declare"]["reference"], data=data, task=LOSSES[loss].task)
            for data in block["data"]
            for loss in block["loss"]
        }
        if {block["loss"][0]} == references:
            begun.append(factors_of(block))
        else:
            assert any(key.startswith("loss.params.") for key in block)
            assert factors_of(block) in begun


@pytest.mark.parametrize("name", beyond(CLAIMING[:1], CLAIMING))
def test_a_published_claim_speaks_of_a_loss_and_a_reference_that_are_planned_side_by_side(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    declared = sweeper_of(name)["declare"]
    plan = planned(f"experiment={name}", *ONE_OF_EACH)
    assert plan.question.folder.name == plan.question.name == name
    runs = pd.DataFrame(
        {"run_id": run.run_id, "task": run.row.task, "config": json.dumps(run.facts)}
        | {key: getattr(run, key).name for key in ("data", "model", "loss", "optimizer")}
        for run in plan.first
    )
    runs = statistics.placed(runs, tuned=[*sweeper_of(name)["candidates"].get("others", ())])
    for claim in declared["published"]:
        its_tasks = runs[[speaks_of(claim, statistics.factors(text)) for text in runs.config]]
        mine = its_tasks[its_tasks.loss == claim["loss"]]
        assert len(mine), claim
        for row in mine.itertuples():
            declared_one = records.declared(declared["reference"], data=row.data, task=row.task)
            beside = {*runs.loss[runs.context == row.context]}
            assert claim.get("reference", declared_one) in beside - {claim["loss"]}, claim
        assert re.search(r"\d{4}", claim["source"])


REACHED = {"diabetes": 0.82766, "noisy_linear": 0.75807, "clean_linear": 1e-6}
"""Largest rmse on validation over seeds 0 to 19 and 100 to 104 of least squares fitted on train."""


@pytest.mark.parametrize("data", REACHED)
def test_least_squares_reaches_on_validation_what_is_said_of_it(data):
    worst = 0.0
    for seed in (*range(20), *range(100, 105)):
        splits = DATA[data].fn(seed=seed)
        rows = {
            split: torch.nn.functional.pad(inputs.double(), (0, 1), value=1.0)
            for split, inputs in splits.inputs.items()
        }
        wanted = {split: target.double() for split, target in splits.targets.items()}
        weight = torch.linalg.lstsq(rows["train"], wanted["train"]).solution
        error = rows["validation"] @ weight - wanted["validation"]
        worst = max(worst, float(error.square().mean().sqrt()))
    assert worst == pytest.approx(REACHED[data], abs=2e-5)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_declared_error_can_be_reached_on_validation_which_carries_the_noise(name):
    sweeper = sweeper_of(name)
    targets = sweeper["declare"].get("targets", {})
    swept = {data for block in sweeper["blocks"] for data in block["data"]}
    for data in swept & DATA.keys():
        target = records.declared(targets, data=data, task=DATA[data].task)
        if target is not None and DATA[data].task == "regression":
            assert target > REACHED[data]
    assert {*targets} <= swept | {"classification"}


# ---- sizes ---------------------------------------------------------------------------------------

LAPTOP = {"scale": {}, "most": {}, "replace": {}}
TOP = {"steps": 500, "eval_every": 100}


@pytest.mark.parametrize(
    ("size", "blocks", "typed", "expected"),
    [
        (
            {"scale": {"steps": 0.1, "data.params.examples": 0.5}},
            [{"loss": ["mse"]}, {"steps": [200, 800], "data.params.examples": [9]}],
            (),
            [{"loss": ["mse"], "steps": 50}, {"steps": [20, 80], "data.params.examples": [4]}],
        ),
        (
            {"scale": {"steps": 0.1}, "replace": {"eval_every": 5}},
            [{"steps": [200], "eval_every": [20]}],
            ("steps", "eval_every"),
            [{"steps": [200], "eval_every": [20]}],
        ),
        (
            {"most": {"loss": 2}},
            [{"loss": ["mse", "mae", "huber"]}],
            (),
            [{"loss": ["mse", "mae"]}],
        ),
    ],
    ids=["numbers in blocks and at the top", "what is typed goes before", "the first values"],
)
def test_a_size_changes(size, blocks, typed, expected):
    assert sized_blocks(blocks, {**LAPTOP, **size}, top=TOP, typed=typed) == expected


def test_a_scale_of_what_is_no_whole_number_is_refused():
    size = {**LAPTOP, "scale": {"loss": 2.0}}
    with pytest.raises(ConfigError, match="whole numbers"):
        sized_blocks([{"loss": ["mse"]}], size, top=TOP, typed=())


def test_full_is_nowhere_coarser_than_what_was_declared():
    full = yaml.safe_load((lossbench.CONF / "size" / "full.yaml").read_text())["size"]
    assert "eval_every" not in full["scale"]
    finer = {"finer": full["candidates"]["finer"]}
    for name in EXPERIMENTS:
        declared = [float(rate) for rate in sweeper_of(name)["candidates"]["lr"]]
        rates = sized_candidates({"lr": declared}, finer, typed=(), loader=PLAIN_NUMBERS)["lr"]
        assert len(rates) == 2 * len(declared) - 1
        assert (rates[0], rates[-1]) == (declared[0], declared[-1])
        coarse, fine = (max_ratio(values) for values in (declared, rates))
        assert fine < 0.75 * coarse or len(declared) == 1


def max_ratio(rates):
    return max((after / rate for rate, after in itertools.pairwise(rates)), default=1.0)


PLAIN_NUMBERS = SimpleNamespace(choices=None)
"""A loader that knows no file: plain numbers need none."""


def test_rates_span_what_was_declared_in_equal_ratios():
    assert spread([0.0001, 0.01, 10.0], 3) == [0.0001, 0.032, 10.0]
    assert spread([0.1], 5) == [0.1]
    assert spread([0.01, 1.0], 1) == [0.1]


MISTAKES = {
    "experiment=tiny size=smok": "did you mean 'smoke'",
    "-m experiment=tiny size=smoke,full": "one size a command",
    "experiment=tiny ~size": "size=NAME",
    "experiment=tiny siz=smoke": "did you mean 'size'",
    "experiment=tiny report=some": "did you mean 'none'",
    "loss=mse data=diabetes size=smoke": "add experiment=NAME",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_about_sizes_is_told_with_its_cure(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, "tiny", TINY)
    assert cli.main(["--config-dir", "conf", *line.split()]) == cli.MISTAKE
    assert MISTAKES[line] in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


BAD = {
    "candidates": ("{ candidates: { rate: 3 } }", "size.candidates.rate", "'rates'"),
    "scale": ("{ scale: { step: 0.5 } }", "'step'", "'steps'"),
    "factor": ("{ scale: { steps: -1.0 } }", "size.scale.steps", "positive"),
    "most": ("{ most: { loss: 0 } }", "size.most.loss", "1 or more"),
    "rates": ("{ candidates: { rates: 0 } }", "size.candidates.rates", "1 or more"),
    "finer": ("{ candidates: { finer: 1.5 } }", "size.candidates.finer", "1 or more"),
    "both": ("{ candidates: { finer: 2, rates: 5 } }", "size.candidates", "use one of them"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_size_of_ones_own_that_cannot_be_is_refused(name, tmp_path, monkeypatch, capsys):
    text, value, cure = BAD[name]
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, "tiny", TINY)
    (tmp_path / "conf" / "size").mkdir()
    (tmp_path / "conf" / "size" / "own.yaml").write_text(f"# @package _global_\nsize: {text}\n")
    line = ["plan", "--config-dir", "conf", "experiment=tiny", "size=own"]
    assert cli.main(line) == cli.MISTAKE
    error = capsys.readouterr().err
    assert value in error
    assert cure in error


def test_an_experiment_at_size_smoke_has_a_folder_of_its_own_and_a_quick_report(
    tmp_path, monkeypatch
):
    write_experiment(tmp_path, "tiny", TINY)
    monkeypatch.chdir(tmp_path)
    line = ["--config-dir", "conf", "experiment=tiny", "size=smoke"]
    assert planned(*line, "name=mine").sweep.folder.name == "mine"
    assert cli.main(line) == cli.DONE
    folder = tmp_path / "runs" / "tiny-smoke"
    loaded = records.load(folder)
    assert loaded.plan["name"] == "tiny-smoke"
    assert (loaded.runs.seed.nunique(), loaded.runs.lr.nunique()) == (6, 3)  # a verdict needs them
    assert "SMOKE" in summary.table(loaded)
    assert "SMOKE" in (folder / "report" / "index.html").read_text()
    report = folder / "report"
    assert (report / "index.html").exists()
    assert (report / "tables" / "verdicts.csv").exists()
    drawn = json.loads((report / "pictures.json").read_text())
    assert [
        title for title, *_ in (value for value in drawn.values() if isinstance(value, list))
    ] == ["Does another loss beat mse on diabetes × linear?"]


@pytest.mark.exhaustive
def test_a_loss_that_diverges_at_every_rate_is_judged_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TINY.replace("steps: 4", "steps: 40").replace("[mse, mae]", "[mse, quartic]")
    write_experiment(tmp_path, "tiny", text.replace("[0.01, 0.1, 1.0]", "[1.0e+8, 1.0e+9]"))
    assert cli.main(["--config-dir", "conf", "experiment=tiny", "report=none"]) == cli.DONE
    assert not (tmp_path / "runs" / "tiny" / "report").exists()
    runs = records.load("runs/tiny").runs
    assert {*runs.status} == {"diverged"}
    assert {*runs.loss} == {"mse", "quartic"}
    assert "quartic" in summary.table(records.load("runs/tiny"))


def test_levels_scale_with_the_size_and_a_factor_that_is_typed_varies_no_more():
    declared = {"steps": 250, "batch_size": 32, "model": "mlp [16]"}
    assert sized_interactions(declared, {"steps": 0.1}, typed=[]) == declared | {"steps": 25}
    left = sized_interactions(declared, {}, typed=["model.params.widths", "batch_size", "data"])
    assert left == {"steps": 250}
