"""What can be chosen: yaml files and the catalog compose, under their names, at their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from configs import to_run
from needs import PROSE
from selection import one_in

import lossbench
from lossbench.ask import named, open_hydra
from lossbench.cli.help import SELECTION, usage
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.question import Part
from lossbench.question.vary import parameters

FUNCTIONS = {
    "data": {name: row.fn for name, row in DATA.items()},
    "model": {name: row.fn for name, row in MODELS.items()},
    "loss": {name: row.fn for name, row in LOSSES.items()},
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
FILES = sorted(path for group in FUNCTIONS for path in (lossbench.CONF / group).glob("*.yaml"))
ALL_FILES = sorted(lossbench.CONF.rglob("*.yaml"))
EXPERIMENTS = sorted((lossbench.CONF / "experiment").glob("*.yaml"))


def label(path: Path) -> str:
    return str(path.relative_to(lossbench.CONF))


def content(path: Path) -> dict:
    return yaml.safe_load(path.read_text()) or {}


def is_variant(path: Path) -> bool:
    return "defaults" in content(path)


def function_name(path: Path) -> str:
    """The function a file uses: its own fn, its base's, or its stem."""
    if is_variant(path):
        (base,) = content(path)["defaults"]
        base_path = path.with_name(f"{base}.yaml")
        return function_name(base_path) if base_path.exists() else base
    return content(path).get("fn", path.stem)


def own_parameters(path: Path) -> dict:
    return content(path).get("params") or {}


@pytest.fixture(scope="module")
def compose():
    with open_hydra() as loader:
        yield lambda overrides: loader.single(loader.whole([]), overrides)


def composed(compose, group: str, name: str, fn: str) -> Part:
    """A part of the run that a choice composes to, beside data or a loss of its task."""
    chosen = {group: name}
    if group == "loss":
        chosen["data"] = "noisy_counts" if LOSSES[fn].task == "regression" else "digits"
    if group == "data":
        chosen["loss"] = "mse" if DATA[fn].task == "regression" else "bce_ova"
    overrides = [f"{key}={value}" for key, value in chosen.items()]
    if name == "text":  # has no file of its own
        overrides.append(f"data.params.path={PROSE}")
    config = compose(overrides)
    return getattr(to_run(named(config, dict(config.hydra.runtime.choices))), group)


@pytest.mark.parametrize("path", one_in(4, FILES), ids=label)
def test_a_yaml_composes_to_a_run_under_its_own_name(path, compose):
    part = composed(compose, path.parent.name, path.stem, function_name(path))
    assert (part.name, part.fn) == (path.stem, function_name(path))


@pytest.mark.parametrize("name", one_in(8, LOSSES))
def test_a_loss_composes_to_a_run_with_the_defaults_of_its_signature(name, compose):
    part = composed(compose, "loss", name, name)
    assert (part.name, part.fn) == (name, name)
    assert {key: (type(value), value) for key, value in part.params.items()} == {
        key: (type(value), value) for key, value in parameters(LOSSES[name].fn).items()
    }


def test_a_loss_has_a_yaml_only_where_it_is_a_variant():
    files = [path for path in FILES if path.parent.name == "loss"]
    assert files
    assert all(is_variant(path) and path.stem not in LOSSES for path in files)


@pytest.mark.parametrize("path", [p for p in FILES if not is_variant(p)], ids=label)
def test_a_yaml_repeats_the_defaults_of_its_function(path):
    defaults = parameters(FUNCTIONS[path.parent.name][function_name(path)])
    written = own_parameters(path)
    assert list(written) == list(defaults)
    for name, default in defaults.items():
        expected = list(default) if isinstance(default, tuple) else default
        assert (type(written[name]), written[name]) == (type(expected), expected)


@pytest.mark.parametrize("path", [p for p in FILES if is_variant(p)], ids=label)
def test_a_variant_differs_from_its_base_in_parameters_that_its_base_has(path):
    (base,) = content(path)["defaults"]
    before, after = parameters(FUNCTIONS[path.parent.name][base]), own_parameters(path)
    assert after
    assert after.keys() <= before.keys()
    assert all(after[name] != before[name] for name in after)


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group, rows in FUNCTIONS.items() if group != "loss" for name in rows],
)
def test_every_row_has_a_yaml(group, name):
    assert (lossbench.CONF / group / f"{name}.yaml").is_file()


@pytest.mark.parametrize("path", ALL_FILES, ids=label)
def test_a_yaml_says_what_it_is_unless_it_is_one_line(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert lines[0].startswith("#") or len([x for x in lines if not x.startswith(" ")]) <= 2


def chosen_in_help(group: str) -> str:
    """What the help lists behind `group=`, up to the next key."""
    section = usage()[usage().index("what to choose") :]
    listed = re.search(rf"^ +{group}=(.*?)^ +\w[\w.]*=", section, re.M | re.S)
    assert listed is not None
    return listed[1]


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name != "loss"], ids=label)
def test_help_lists_every_choice_but_losses(path):
    assert re.search(rf"\b{path.stem}\b", chosen_in_help(path.parent.name))


@pytest.mark.parametrize("task", SELECTION)
def test_help_names_losses_of_each_task_that_exist(task):
    named = SELECTION[task]
    (line,) = [line for line in chosen_in_help("loss").splitlines() if f"({task})" in line]
    assert line.split()[:-1] == list(named)
    for name in named:
        path = lossbench.CONF / "loss" / f"{name}.yaml"
        assert LOSSES[function_name(path) if path.exists() else name].task == task


def test_help_says_how_to_see_the_losses_that_it_does_not_name():
    assert "and more: lossbench losses" in chosen_in_help("loss")


def test_help_fits_a_hundred_columns():
    assert max(map(len, usage().splitlines())) <= 100


@pytest.mark.parametrize("path", EXPERIMENTS, ids=label)
def test_an_experiment_is_named_like_its_file_and_declares_what_it_asks(path):
    text = content(path)
    assert text["name"] == path.stem
    declared = text["hydra"]["sweeper"]["declare"]
    assert declared.keys() >= {"primary", "endpoint", "reference", "margin", "family"}
    assert {*declared["reference"].values()} <= LOSSES.keys()
