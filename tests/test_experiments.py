"""The experiments and their sizes: each can be planned, and a size keeps its question."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import TINY, write_experiment

from lossbench import cli, launch, records
from lossbench.config import ConfigError
from lossbench.protocol.grid import spread
from lossbench.protocol.size import sized_blocks, sized_stage

FOLDER = cli.conf_dir() / "experiment"
EXPERIMENTS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SIZES = sorted(path.stem for path in (cli.conf_dir() / "size").glob("*.yaml"))

ONE_OF_EACH = [
    "hydra.sweeper.tune.lr=[0.1]",
    "hydra.sweeper.tune.seeds=[100]",
    "hydra.sweeper.confirm.seeds=[0]",
]
"""Every cell once: what is typed goes before a size."""


def planned(*line: str) -> launch.Stages:
    """What a command would run; a mistake is raised as it is."""
    found: list[launch.Stages] = []

    def keep(hydra, args):
        found.append(launch.stages(hydra, args.overrides))
        return cli.DONE

    code = cli._with_hydra([*line], keep)
    assert code == cli.DONE
    return found[0]


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line[2:] for line in lines if line.startswith("# "))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_can_be_planned_at_every_size(name, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(f"experiment={name}", f"size={size}", *ONE_OF_EACH)
    assert plan.runs["tune"]
    assert len(plan.runs["confirm"]) >= len({run.run_id for run in plan.runs["tune"]}) / 2
    ending = "" if size == "laptop" else f"-{size}"
    assert plan.sweep.folder.name == plan.sweep.facts["name"] == name + ending
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_question_and_its_command(name):
    text = header(name)
    assert re.search(r"^Question: \S", text, re.M)
    command = re.search(r"Command: (lossbench.*)$", text, re.M)
    assert command is not None
    assert command[1] in ("lossbench", f"lossbench experiment={name}")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_block_has_the_reference_of_some_block_first(name):
    sweeper = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["hydra"]["sweeper"]
    references = {*sweeper["declare"]["reference"].values()}
    assert {block["loss"][0] for block in sweeper["blocks"]} & references


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_published_claim_is_about_losses_that_are_run(name):
    sweeper = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["hydra"]["sweeper"]
    ran = {loss for block in sweeper["blocks"] for loss in block["loss"]}
    for claim in sweeper["declare"].get("published", ()):
        assert claim["loss"].partition("(")[0] in ran
        assert claim.get("reference", "mse") in ran | {"mse"}
        assert re.search(r"\d{4}", claim["source"])


# ---- sizes ---------------------------------------------------------------------------------------

LAPTOP = {"scale": {}, "most": {}, "replace": {}}
TOP = {"steps": 500, "eval_every": 100}


def test_a_scale_reaches_numbers_in_blocks_and_at_the_top():
    size = {**LAPTOP, "scale": {"steps": 0.1, "data.params.examples": 0.5}}
    blocks = [{"loss": ["mse"]}, {"steps": [200, 800], "data.params.examples": [9]}]
    found = sized_blocks(blocks, size, top=TOP, typed=())
    assert found == [
        {"loss": ["mse"], "steps": 50},
        {"steps": [20, 80], "data.params.examples": [4]},
    ]


def test_what_is_typed_goes_before_a_size():
    size = {"scale": {"steps": 0.1}, "most": {}, "replace": {"eval_every": 5}}
    blocks = [{"steps": [200], "eval_every": [20]}]
    assert sized_blocks(blocks, size, top=TOP, typed=("steps", "eval_every")) == blocks


def test_most_keeps_the_first_values_that_a_block_lists():
    size = {**LAPTOP, "most": {"loss": 2}}
    found = sized_blocks([{"loss": ["mse", "mae", "huber"]}], size, top=TOP, typed=())
    assert found == [{"loss": ["mse", "mae"]}]


def test_a_scale_of_what_is_no_whole_number_is_refused():
    size = {**LAPTOP, "scale": {"loss": 2.0}}
    with pytest.raises(ConfigError, match="whole numbers"):
        sized_blocks([{"loss": ["mse"]}], size, top=TOP, typed=())


def test_a_sweep_that_tunes_nothing_tunes_nothing_at_any_size():
    assert sized_stage("tune", None, {"rates": 3}, typed=(), composer=None) is None


def test_rates_span_what_was_declared_in_equal_ratios():
    assert spread([0.0001, 0.01, 10.0], 3) == [0.0001, 0.032, 10.0]
    assert spread([0.1], 5) == [0.1]
    assert spread([0.01, 1.0], 1) == [0.1]


MISTAKES = {
    "size=smok": "did you mean 'smoke'",
    "size=smoke,full": "one size a command",
    "~size": "size=NAME",
    "siz=smoke": "did you mean 'size'",
    "report=some": "did you mean 'none'",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_about_sizes_is_told_with_its_cure(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["-m"] if "," in typed else []
    assert cli.main([*line, "experiment=essay", typed]) == cli.MISTAKE
    assert MISTAKES[typed] in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_size_without_an_experiment_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["loss=mse", "data=diabetes", "size=smoke"]) == cli.MISTAKE
    assert "add experiment=NAME" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


BAD = {
    "tune": ("{ tune: { rate: 3 } }", "size.tune.rate", "'rates'"),
    "scale": ("{ scale: { step: 0.5 } }", "'step'", "'steps'"),
    "factor": ("{ scale: { steps: -1.0 } }", "size.scale.steps", "positive"),
    "most": ("{ most: { loss: 0 } }", "size.most.loss", "1 or more"),
    "rates": ("{ tune: { rates: 0 } }", "size.tune.rates", "1 or more"),
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
    told = capsys.readouterr().err
    assert value in told
    assert cure in told


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The tiny experiment at size smoke, and once more under a name of its own without report."""
    place = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_experiment(place, "tiny", TINY)
        line = ["--config-dir", "conf", "experiment=tiny", "size=smoke"]
        assert cli.main(line) == cli.DONE
        assert cli.main([*line, "name=mine", "report=none", "seed=7"]) == cli.DONE
    return place / "runs"


def test_a_size_has_a_folder_of_its_own_unless_a_name_is_typed(smoke):
    assert {path.name for path in smoke.iterdir()} == {"tiny-smoke", "mine"}
    assert records.load(smoke / "tiny-smoke").plan["name"] == "tiny-smoke"


def test_smoke_confirms_with_enough_pairs_for_a_verdict(smoke):
    runs = records.load(smoke / "tiny-smoke").runs
    assert runs.seed[runs.stage == "confirm"].nunique() == 6
    assert runs.lr[runs.stage == "tune"].nunique() == 3


def test_a_quick_report_has_its_page_and_only_the_verdicts_drawn(smoke):
    report = smoke / "tiny-smoke" / "report"
    assert (report / "index.html").exists()
    assert (report / "tables" / "verdicts.csv").exists()
    assert {path.stem for path in (report / "figures").glob("*.png")} == {
        "verdict_map_regression",
        "verdict_map_regression_one_column",
    }


def test_an_experiment_without_a_report_writes_none_and_keeps_typed_seeds(smoke):
    assert not (smoke / "mine" / "report").exists()
    runs = records.load(smoke / "mine").runs
    assert {*runs.seed[runs.stage == "confirm"]} == {7}


def test_a_loss_that_diverges_at_every_rate_is_confirmed_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TINY.replace("steps: 4", "steps: 40").replace("[mse, mae]", "[mse, quartic]")
    write_experiment(tmp_path, "tiny", text.replace("[0.01, 0.1, 1.0]", "[1.0e+8, 1.0e+9]"))
    assert cli.main(["--config-dir", "conf", "experiment=tiny", "report=none"]) == cli.DONE
    runs = records.load("runs/tiny").runs
    assert {*runs.status[runs.stage == "confirm"]} == {"diverged"}
    assert {*runs.loss[runs.stage == "confirm"]} == {"mse", "quartic"}
