"""Runs are what Hydra composes, however few times it composes."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys

import pytest
from configs import to_run
from selection import one_in

from lossbench.ask import named, open_hydra
from lossbench.ask.compose import Composer
from lossbench.ask.grammar import axis_of, check, explained, read
from lossbench.question import ConfigError, varied


@pytest.fixture(scope="module")
def loader():
    with open_hydra() as loader:
        yield loader


@pytest.fixture(scope="module")
def whole(loader):
    """The configuration of a command that types nothing."""
    return loader.whole([])


@pytest.fixture
def runs_of(loader, whole):
    """The runs of some overrides, as a command makes them."""
    composer = Composer(loader, whole)

    def runs_of(lines):
        overrides = read(lines, loader.choices)
        check(overrides, loader.choices)
        return composer.runs([*map(axis_of, overrides)])

    return runs_of


def composed_by_hydra(loader, whole, lines):
    """Every job of some overrides, each composed by Hydra alone."""
    for job in itertools.product(*(axis_of(one).lines for one in read(lines, loader.choices))):
        config = copy.deepcopy(loader.single(whole, list(job)))
        choices = {str(group): choice for group, choice in config.hydra.runtime.choices.items()}
        yield to_run(named(config, choices))


REGRESSION = ["data=noisy_linear", "loss=huber"]
LABELS = ["data=gaussian_mixture", "loss=brier"]
COMMANDS = {
    "nothing": [],
    "seeds": ["seed=range(3)"],
    "seeds shuffled": ["seed=shuffle(1,2)"],
    "rates": ["optimizer.lr=1e-3,0.1,1"],
    "integer for a float": ["optimizer.lr=1", "optimizer.momentum=0"],
    "text for a number": ["optimizer.lr='0.5'", "seed='3'"],
    "numbers of a run": ["steps=7,8", "batch_size=4", "log_every=2", "eval_every=3,9"],
    "decay": ["optimizer.weight_decay=0,0.1", "optimizer.momentum=0.5"],
    "choice": ["data=diabetes", "model=linear", "loss=mae,mse"],
    "choice by pattern": ["data=diabetes", "loss=glob(mse*,exclude=mse_*)"],
    "variant": ["loss=huber_tight", "data=noisy_linear_student_t", "seed=1"],
    "value before its group": ["loss.params.delta=0.3", *REGRESSION],
    "group that resets a value": ["optimizer.lr=0.3", "optimizer=adam"],
    "parameter of a loss": [*REGRESSION, "loss.params.delta=1,0.5"],
    "parameters of a loss": [*REGRESSION, "loss.params={delta:0.3}"],
    "parameters of data": ["data=noisy_linear", "loss=mse", "data.params.examples=320,640"],
    "parameters of a model": ["model.params.widths=[3,4]", "model.params.activation=tanh,relu"],
    "lists swept": ["model.params.widths=[3],[4,5]"],
    "quoted": ['model.params.activation="tanh"', "name=default"],
    "parameter of an optimizer": ["optimizer=adam", "optimizer.params.beta2=0.9,0.99"],
    "parameter of a schedule": ["schedule=warmup", "schedule.params.share=0.2"],
    "corruption": [*LABELS, "data.corruption.name=symmetric", "data.corruption.params.rate=0.1"],
    "corruptions": [*LABELS, "data.corruption.name=none,symmetric"],
    "augmentation": ["data=mnist", "model=lenet", "data.augmentation.name=flip"],
    "targets": [*LABELS, "data.targets=sampled,distribution"],
    "start": [*LABELS, "init.from=permuted_labels", "init.output_scale=0,4"],
    "start at once": [*LABELS, "init={output_scale:2}"],
    "signals": [*REGRESSION, "signal=own,reweighted"],
    "instruments": ["instruments=[curvature]", "seed=1,2"],
    "lists of instruments": ["instruments=[],[representation,curvature]"],
    "precision": ["engine.precision=float32,float64", "engine.threads=2"],
    "engine": ["engine=cuda", "engine.pack_size=3"],
    "add": [*LABELS, "data.corruption.name=symmetric", "+data.corruption.params.rate=0.1"],
    "add or change": ["++seed=4", *REGRESSION, "++loss.params.delta=2"],
    "change, then add or change": ["seed=3", "++seed=4"],
    "delete": [*REGRESSION, "~loss.params.delta"],
    "interpolation": ["batch_size=${steps}", "steps=31,32"],
    "interpolation into a list": ["model.params.widths=['${seed}',4]", "seed=9"],
    "size": ["size=smoke", "seed=2"],
    "Hydra's own": ["hydra.sweep.dir=elsewhere", "seed=2"],
    "twice": ["seed=1", "seed=2"],
    "two losses": ["data=noisy_linear", "loss=mse", "loss=huber_tight"],
    "two losses of the catalog": ["data=noisy_linear", "loss=huber", "loss=mse"],
}


@pytest.mark.parametrize("lines", one_in(5, COMMANDS.values()), ids=COMMANDS)
def test_a_run_is_the_one_that_hydra_composes(lines, runs_of, loader, whole):
    expected = {run.run_id: run for run in composed_by_hydra(loader, whole, lines)}
    runs = {run.run_id: run for run in runs_of(lines)}
    assert runs == expected
    assert {i: repr(run) for i, run in runs.items()} == {  # 1 is no 1.0
        i: repr(run) for i, run in expected.items()
    }


@pytest.mark.parametrize(
    "lines",
    [
        ["optimizer.lr=abc"],
        ["optimizer.lr=null"],
        ["steps=1.5"],
        ["loss.params.nonsense=1"],
        ["~loss.params.nonsense"],
        [*REGRESSION, "loss.params.delt=3"],
        ["init.from=permuted_labels", "data=diabetes", "loss=mse"],
        ["data.corruption.params.rate=0.1"],
        [*LABELS, "data.corruption.name=symmetric", "data.corruption.params.rat=0.1"],
        ["model.params.widths=3"],
        ["instruments=curvature"],
        ["batch_size=0"],
        ["loss=mse", "data=digits"],
        ["+loss.params.extra=3"],
    ],
    ids=str,
)
def test_what_hydra_or_a_check_refuses_is_refused_in_the_same_words(lines, runs_of, loader, whole):
    def words(composed):
        with pytest.raises(Exception) as refused:  # noqa: PT011  whatever it is
            list(composed)
        return str(refused.value) if refused.type is ConfigError else explained(refused.value)

    assert words(runs_of(lines) for _ in "1") == words(composed_by_hydra(loader, whole, lines))


def test_values_that_vary_on_a_run_are_those_that_are_typed(runs_of):
    (run,) = runs_of(REGRESSION)
    values = {"seed": 3, "optimizer.lr": 1, "loss.params.delta": 2, "instruments": ("curvature",)}
    typed = ["seed=3", "optimizer.lr=1", "loss.params.delta=2", "instruments=[curvature]"]
    assert [varied(run, values)] == runs_of([*REGRESSION, *typed])
    with pytest.raises(ConfigError, match=r"engine\.threads belongs to the whole sweep"):
        varied(run, {"engine.threads": 2})


@pytest.mark.parametrize("group", ["data", "loss", "model", "optimizer", "schedule", "engine"])
def test_a_part_is_named_by_its_yaml_and_by_nothing_else(group, runs_of):
    with pytest.raises(ConfigError, match=f"{group}.name is 'other': choose with {group}=other"):
        runs_of([f"{group}.name=other"])


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        (["seed=range(50)", "optimizer.lr=0.1,0.2"], 1),
        ([*REGRESSION, "loss.params.delta=1,2,3", "steps=1,2"], 1),
        (["data=diabetes", "loss=mse,mae", "seed=1,2"], 1),
        (["data=diabetes", "loss=huber,huber_tight", "seed=1,2"], 2),
        (["data=diabetes,noisy_linear", "loss=mse,mae"], 2),
    ],
)
def test_hydra_composes_once_for_each_choice_of_groups(lines, count, runs_of, loader, monkeypatch):
    jobs, load = [], loader.hydra.load_sweep_config
    monkeypatch.setattr(  # counts the compositions
        loader.hydra,
        "load_sweep_config",
        lambda whole, job: (jobs.append(job), load(whole, job))[1],
    )
    runs_of(lines)
    assert len(jobs) == count


def test_a_sweep_has_one_name_and_one_place_of_its_data(runs_of):
    with pytest.raises(ConfigError, match="a sweep has one name"):
        runs_of(["name=a,b"])
    with pytest.raises(ConfigError, match=r"data\.root is 'x' for some runs"):
        runs_of(["data.root=x,y"])


def test_an_interval_is_no_list_of_values(runs_of):
    with pytest.raises(ConfigError, match=r"is an interval: list values"):
        runs_of(["optimizer.lr=interval(0.1,1)"])


def test_the_command_line_starts_without_torch_or_hydra():
    code = "import sys, lossbench.cli; sys.exit(len({'torch', 'hydra', 'pandas'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("stepz", "did you mean 'steps'"),
        ("optimizer.lrr", "did you mean 'optimizer.lr'"),
        ("engine.thread", "did you mean 'engine.threads'"),
        ("data.corruption.nam", "did you mean 'data.corruption.name'"),
        ("loss.parms", "did you mean 'loss.params'"),
        ("init.form", "did you mean 'init.from'"),
        ("init.output_scal", "did you mean 'init.output_scale'"),
        ("data.target", "did you mean 'data.targets'"),
        ("lr", "did you mean 'optimizer.lr'"),
        ("looks", "did you mean 'hydra.sweeper.looks'"),
        ("margin", "use hydra.sweeper.declare.margin.regression="),
        ("metric", "use hydra.sweeper.declare.primary.TASK=NAME"),
    ],
)
def test_a_key_that_only_plus_lets_through_is_refused_with_the_nearest(runs_of, key, hint):
    with pytest.raises(ConfigError, match=f"unknown key '{key}': {hint}"):
        runs_of([f"+{key}=3"])
