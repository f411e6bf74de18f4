"""What several test files start from: a plain configuration, runs made from it, their data."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch

from lossbench import config
from lossbench.data import DATA, Data, Splits, files
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.report import pictures

torch.set_num_threads(1)
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

PLAIN = {
    "data": {
        "name": "diabetes",
        "fn": "diabetes",
        "params": {},
        "targets": "sampled",
        "root": "data",
        "download": False,
        "corruption": {"name": "none", "params": {}},
        "augmentation": {"name": "none", "params": {}},
    },
    "model": {"name": "mlp", "fn": "mlp", "params": {"widths": [16, 16], "activation": "relu"}},
    "loss": {"name": "mse", "fn": "mse", "params": {}},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "params": {}},
    "schedule": {"name": "constant", "params": {}},
    "engine": {
        "name": "cpu",
        "device": "cpu",
        "precision": "float32",
        "pack_size": 128,
        "threads": 1,
        "commit_every": 30,
        "kernel": False,
    },
    "init": {"from": "random", "output_scale": 1.0},
    "name": "test",
    "condition": "as_given",
    "signal": "own",
    "instruments": [],
    "seed": 0,
    "steps": 20,
    "batch_size": 32,
    "log_every": 5,
    "eval_every": 10,
    "report": "all",
    "size": {
        "name": "laptop",
        **{part: {} for part in ("scale", "most", "replace", "tune", "confirm")},
    },
    "extensions": [],
}


TINY = """
# @package _global_
defaults:
  - override /hydra/sweeper: protocol
name: tiny
steps: 4
batch_size: 16
log_every: 2
eval_every: 2
hydra:
  sweeper:
    blocks:
      - data: [diabetes]
        model: [linear]
        loss: [mse, mae]
    tune:
      lr: [0.01, 0.1, 1.0]
      seeds: range(100,102)
      extend: 0
    confirm:
      seeds: range(0,3)
      conditions: [own_lr]
    declare:
      primary: { regression: rmse, classification: accuracy }
      endpoint: last
      reference: { regression: mse, classification: cross_entropy }
      margin: { regression: 0.02, classification: 0.01 }
      family: task
      confidence: 0.95
"""
"""An experiment that tunes two losses over three rates and confirms them, in seconds."""


@pytest.fixture(autouse=True)
def registered():
    """Fails a test that leaves a loss, a data set, or a model registered: the next would see it."""
    registries = {"LOSSES": LOSSES, "DATA": DATA, "MODELS": MODELS}
    before = {name: dict(registry) for name, registry in registries.items()}
    yield
    assert {name: dict(registry) for name, registry in registries.items()} == before


def write_experiment(folder: Path, name: str, text: str) -> None:
    """Put an experiment where `--config-dir conf` finds it from that folder."""
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / f"{name}.yaml").write_text(text)


def skip_without(what: str, reason: str) -> None:
    """Skip a test that needs a program; fail it where the environment promises the program.

    `LOSSBENCH_REQUIRE="browser"` is such a promise: CI makes it, so that it skips nothing there.
    """
    if what in os.environ.get("LOSSBENCH_REQUIRE", "").split():
        pytest.fail(reason)
    pytest.skip(reason)


def splits_of_set(name: str, **params: object) -> Splits:
    """Splits of a data set; skips the test by the set's name where its files are missing."""
    try:
        return DATA[name].fn(**{"seed": 0, **params})
    except files.Missing as missing:
        skip_without(name, str(missing))
        raise


def without_pictures(folder, drawings, *, workers, losses):
    """Stands in for `pictures.all_drawn`, which takes most of the time of a report."""
    return [pictures.Picture(one.name, one.task, "", "", ()) for one in drawings]


def set_key(plain: dict, key: str, value: object) -> None:
    """Set one dotted key of a nested dictionary."""
    *path, last = key.split(".")
    for part in path:
        plain = plain[part]
    plain[last] = value


def plain_config(**overrides: object) -> dict:
    """A resolved configuration; dotted keys are written with double underscores."""
    plain = copy.deepcopy(PLAIN)
    for key, value in overrides.items():
        if key in ("data", "model", "loss") and isinstance(value, str):
            plain[key] |= {"name": value, "fn": value, "params": {}}
        elif key in ("optimizer", "schedule"):
            plain[key] |= {"name": value, "params": {}}
        else:
            set_key(plain, key.replace("__", "."), value)
    return plain


def make_run(**overrides: object) -> config.Run:
    return config.to_run(plain_config(**overrides))


@pytest.fixture(autouse=True)
def own_setting(registered, monkeypatch):  # what monkeypatch registers is gone before it looks
    """What a test says of where data lie holds for that test only."""
    monkeypatch.setattr(files, "_setting", files._Setting())


@pytest.fixture
def run_of():
    return make_run


def pytest_ignore_collect(collection_path, config):
    """Slurm's tests start daemons and are run when they are named: `pytest tests/slurm`."""
    if collection_path.name == "slurm" and not any("slurm" in word for word in config.args):
        return True
    return None


def pytest_terminal_summary(terminalreporter):
    """The promises of tests/test_faults.py that held, with their figures."""
    passed = terminalreporter.stats.get("passed", [])
    found = [
        (value[0], report.nodeid.partition("::")[2], value[1])
        for report in passed
        for name, value in report.user_properties
        if name == "figure" and report.when == "call"
    ]
    if found:
        terminalreporter.section("promises that held")
        for promise, test, told in found:
            terminalreporter.write_line(f"{promise}: {told}  ({test})")


SIZES = {"train": 24, "validation": 12, "test": 12}
CLASSES = 3


def made(shape, seed):
    draw = torch.Generator().manual_seed(seed)
    return Splits(
        {split: torch.randn(size, *shape, generator=draw) for split, size in SIZES.items()},
        {
            split: torch.eye(CLASSES)[torch.randint(CLASSES, (size,), generator=draw)]
            for split, size in SIZES.items()
        },
        "classification",
        1.0,
    )


PUBLISHED = {"tiny_images": made((3, 16, 12), 0), "tiny_grey": made((1, 28, 28), 1)}


def tiny_images(*, seed):
    return PUBLISHED["tiny_images"]


def tiny_grey(*, seed):
    return PUBLISHED["tiny_grey"]


def tiny_vectors(*, seed):
    return made((7,), 10 + seed)


@pytest.fixture
def tiny(monkeypatch):
    """Data sets of two dozen examples, by name: images, grey ones, vectors."""
    for fn in (tiny_images, tiny_grey, tiny_vectors):
        drawn_by = "generated" if fn is tiny_vectors else "fixed"
        monkeypatch.setitem(DATA, fn.__name__, Data(fn, "classification", "test", drawn=drawn_by))
