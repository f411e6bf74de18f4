"""What holds for every test, and the data sets that several files train on."""

from __future__ import annotations

import gc
import os
import sys

import pytest
import torch
from tiny_data import tiny_grey, tiny_images, tiny_text, tiny_vectors
from trained_sweep import trained_once

from lossbench import processes
from lossbench.data import DATA, Data
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.user_code import modules

torch.set_num_threads(1)
# Or Python searches all that is imported for circles, a tenth of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True, scope="session")
def ready_for_processes():
    """All processes begin as copies of one that has imported everything, as those of a command.

    Otherwise the first that begins says what is imported once: of a report that is so little that
    all later ones take seconds to begin.
    """
    processes.prepare(processes.TRAINING)


@pytest.fixture(autouse=True)
def registered():
    """Fails a test that leaves a loss, a data set, or a model registered: the next would see it."""
    registries = {"LOSSES": LOSSES, "DATA": DATA, "MODELS": MODELS}
    before = {name: dict(registry) for name, registry in registries.items()}
    yield
    assert {name: dict(registry) for name, registry in registries.items()} == before


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder of its own; what was made known is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modules, "_ADDED", {})
    before = {id(registry): dict(registry) for registry in (LOSSES, DATA, MODELS)}
    imported, path = {*sys.modules}, [*sys.path]
    yield tmp_path
    for name in {*sys.modules} - imported:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.path[:] = path
    for registry in (LOSSES, DATA, MODELS):
        registry.clear()
        registry.update(before[id(registry)])


def pytest_ignore_collect(collection_path, config):
    """Tests that start clusters are run when they are named: `pytest tests/slurm`."""
    name = collection_path.name
    is_cluster = name in ("slurm", "executors") and collection_path.is_dir()
    return (is_cluster and not any(name in word for word in config.args)) or None


def pytest_terminal_summary(terminalreporter):
    """The promises of tests/sweep/test_faults.py that held, with their figures."""
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


@pytest.fixture(scope="session")
def essay_sweep(tmp_path_factory):
    """Folder of the sweep of trained_sweep.py, which the processes of pytest-xdist share."""
    root = tmp_path_factory.getbasetemp()
    return trained_once(root.parent if "PYTEST_XDIST_WORKER" in os.environ else root)


@pytest.fixture
def tiny(monkeypatch):
    """Data sets of two dozen examples, by name: images, grey ones, vectors."""
    for fn in (tiny_images, tiny_grey, tiny_vectors, tiny_text):
        drawn_by = "generated" if fn in (tiny_vectors, tiny_text) else "fixed"
        monkeypatch.setitem(DATA, fn.__name__, Data(fn, "classification", "test", drawn=drawn_by))
