"""The composer gives what Hydra gives, with fewer compositions."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lossbench import cli
from lossbench.config import named, register
from lossbench.launch import Composer, _of_integer
from lossbench.runs import ConfigError


@pytest.fixture(scope="module")
def loader():
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    register()
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("lossbench", cli._search_path(None))
    yield hydra.config_loader
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def master(loader):
    from hydra.types import RunMode

    return loader.load_configuration("config", ["seed=range(3)"], RunMode.MULTIRUN)


@pytest.fixture
def composer(loader, master):
    return Composer(loader, master)


def hydras_own(loader, master, overrides):
    """What Hydra composes for a job, as plain values, parts named after their yaml."""
    config = copy.deepcopy(loader.load_sweep_config(master, list(overrides)))
    choices = {str(group): choice for group, choice in config.hydra.runtime.choices.items()}
    return OmegaConf.to_container(named(config, choices), resolve=True)


JOBS = {
    "nothing": [],
    "plain value": ["seed=3", "steps=7"],
    "float": ["optimizer.lr=1e-3"],
    "integer for a float": ["optimizer.lr=1"],
    "nested": ["optimizer.momentum=0.5", "data.corruption.name=symmetric", "init.output_scale=0"],
    "start": ["init.from=permuted_labels", "init={output_scale:2}"],
    "targets": ["data=gaussian_mixture", "data.targets=distribution"],
    "list": ["model.params.widths=[3,4]", "extensions=[a,b]"],
    "empty list": ["model.params.widths=[]"],
    "dict params": ["loss=huber", "loss.params={delta:0.3}"],
    "parameter": ["loss=huber", "loss.params.delta=0.3"],
    "group choice": ["data=diabetes", "model=linear", "loss=mae"],
    "variant file": ["loss=huber_tight", "data=noisy_linear_student_t", "seed=1"],
    "value before its group": ["loss.params.delta=0.3", "loss=huber"],
    "group that resets a value": ["optimizer.lr=0.3", "optimizer=adam"],
    "add": ["+loss.params.extra=3"],
    "add or change": ["++loss.params.extra=3", "++seed=4"],
    "add, then change": ["+loss.params.extra=3", "loss.params.extra=4"],
    "delete": ["loss=huber", "~loss.params.delta"],
    "delete by value": ["loss=huber", "~loss.params.delta=1.0"],
    "quoted string": ["name='quoted name'", 'model.params.activation="tanh"'],
    "null": ["model.params.activation=null"],
    "interpolation": ["batch_size=${steps}", "steps=31", "model.params.activation=${loss.fn}"],
    "interpolation into a list": ["model.params.widths=['${seed}',4]", "seed=9"],
    "experiment": ["experiment=essay", "data=diabetes", "loss=mse", "seed=2"],
    "hydra's own": ["hydra.output_subdir=.hydra", "seed=2"],
    "engine": ["engine=cuda", "engine.pack_size=3"],
    "twice": ["seed=1", "seed=2"],
}


@pytest.mark.parametrize("overrides", JOBS.values(), ids=JOBS)
def test_a_job_is_composed_as_by_hydra_itself(overrides, composer, loader, master):
    expected = hydras_own(loader, master, overrides)
    for _ in range(2):  # by Hydra, then from memory
        assert OmegaConf.to_container(composer.compose(overrides), resolve=True) == expected
        assert composer.plain(overrides) == expected


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=abc"],
        ["stepz=3"],
        ["loss.params.nonsense=1"],
        ["~loss.params.nonsense"],
        ["loss=nonsense"],
        ["seed=1.5"],
        ["loss=huber", "loss.params.delt=3"],
        ["init.form=random"],
    ],
    ids=str,
)
def test_what_hydra_refuses_is_refused_with_the_same_error(overrides, composer, loader, master):
    with pytest.raises(Exception) as expected:  # noqa: PT011  whatever it is
        hydras_own(loader, master, overrides)
    for compose in (composer.compose, composer.plain):
        with pytest.raises(type(expected.value)) as error:
            compose(overrides)
        assert str(error.value) == str(expected.value)


def test_a_plain_value_has_the_type_of_its_field_whatever_was_set_before(composer, loader, master):
    for overrides in (
        ["optimizer.lr=1", "seed=3"],
        ["optimizer.lr=0.5", "model.params.activation=tanh"],
        ["model.params.activation=3", "optimizer.lr=2"],
        ["seed=4"],
    ):
        expected, found = hydras_own(loader, master, overrides), composer.plain(overrides)
        assert found == expected
        assert repr(found) == repr(expected)  # 1 is no 1.0


def test_plain_values_of_one_job_are_not_those_of_another(composer):
    composer.plain(["seed=1"])["model"]["params"]["widths"].append(9)
    assert composer.plain(["seed=2"])["model"]["params"]["widths"] == [64, 64]


def test_a_job_that_was_composed_is_not_composed_again_to_be_validated(composer, monkeypatch):
    composer.plain(["seed=5"])
    monkeypatch.setattr(composer, "compose", lambda overrides: pytest.fail("composed again"))
    composer.load_sweep_config(None, ["seed=5"])


def test_a_job_leaves_the_memory_of_others_alone(composer):
    composer.compose(["seed=1", "model.params.widths=[3]"]).model.params.widths.append(9)
    assert composer.compose(["seed=2"]).model.params.widths == [64, 64]
    assert composer.compose(["seed=2"]).seed == 2
    assert composer.compose([]).seed == 0


NAMES = st.from_regex(r"[a-z_0-9]{1,3}([./@][a-z_0-9]{1,3})?", fullmatch=True)
VALUES = st.integers().map(str) | st.from_regex(r"[-+ ]?[0-9_.e,]{1,6} ?", fullmatch=True)


@given(name=NAMES, value=VALUES)
def test_a_line_that_sets_an_integer_says_what_hydra_reads_in_it(name, value):
    line, parser = f"{name}={value}", OverridesParser.create()
    found = _of_integer(line)
    if found is not None:
        assert found == parser.parse_override(line)
        assert type(found.value()) is int


def test_lines_of_seeds_and_steps_take_no_parser(composer, monkeypatch):
    monkeypatch.setattr(OverridesParser, "parse_override", lambda *_: pytest.fail("it parses"))
    config = composer.plain(["seed=17", "optimizer.lr=1", "steps=20"])
    assert (config["seed"], config["optimizer"]["lr"], config["steps"]) == (17, 1.0, 20)


@pytest.mark.parametrize(
    ("shared", "count"), [([], 1), (["loss=mse"], 1), (["loss=mse", "+loss.params.a=1"], 1)]
)
def test_jobs_that_differ_in_plain_values_are_composed_by_hydra_once(
    shared, count, composer, loader, monkeypatch
):
    calls, original = [], loader.load_sweep_config

    def counted(master, overrides):
        calls.append(overrides)
        return original(master, overrides)

    monkeypatch.setattr(loader, "load_sweep_config", counted)
    for seed in range(10):
        for rate in (0.1, 0.2, 0.3, 0.4, 0.5):
            config = composer.compose([*shared, f"seed={seed}", f"optimizer.lr={rate}"])
            assert (config.seed, config.optimizer.lr) == (seed, rate)
    assert len(calls) == count


def test_jobs_that_differ_in_a_group_are_composed_once_per_choice(composer, loader, monkeypatch):
    calls, original = [], loader.load_sweep_config
    monkeypatch.setattr(
        loader, "load_sweep_config", lambda m, o: (calls.append(tuple(o)), original(m, o))[1]
    )
    for _ in range(3):
        names = [composer.compose([f"loss={name}"]).loss.name for name in ("mse", "mae")]
        assert names == ["mse", "mae"]
    assert calls == [("loss=mse",), ("loss=mae",)]


@pytest.mark.parametrize("group", ["data", "loss", "model", "optimizer", "schedule", "engine"])
def test_a_part_is_named_by_its_yaml_and_by_nothing_else(group, composer):
    with pytest.raises(ConfigError, match=f"{group}.name is 'other': choose with {group}=other"):
        composer.compose([f"{group}.name=other"])


@pytest.mark.parametrize("module", ["launch", "protocol", "cli"])
def test_a_room_that_must_start_at_once_imports_no_torch(module):
    code = f"import sys, lossbench.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hydras_search_for_plugins_imports_no_torch():
    code = (
        "import sys; from hydra.core.plugins import Plugins; Plugins.instance();"
        "import hydra_plugins.lossbench_packed, hydra_plugins.lossbench_protocol;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
