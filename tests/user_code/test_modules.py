"""Modules of somebody's own: their rows are known by name, or refused with the cure."""

from __future__ import annotations

import sys

import pytest
import torch
from configs import make_run

from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.question import ConfigError
from lossbench.user_code import load_extensions

MODULE = """
from lossbench.losses.spec import Loss

def {name}(output, target, *, power: float = 3.0):
    return (output - target).abs().pow(power).sum(-1)

LOSSES = (
    Loss(fn={name}, inverse_link="identity", family="power", task="regression", formula="|e|³",
         claims=frozenset(), source="test"),
)
"""


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Writes a module into the current folder; afterwards the catalogs are as before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = [(rows, dict(rows)) for rows in (LOSSES, DATA, MODELS)]
    made = []

    def write(module, text):
        (tmp_path / f"{module}.py").write_text(text)
        made.append(module)
        return module

    yield write
    for module in made:
        sys.modules.pop(module, None)
    for rows, known in before:
        rows.clear()
        rows.update(known)


def test_a_loss_of_an_extension_can_be_run(extension):
    load_extensions([extension("ext_cubic", MODULE.format(name="cubic"))])
    run = make_run(loss="cubic", loss__params={"power": 3})
    assert run.row.fn(torch.tensor([2.0]), torch.tensor([0.0]), **run.loss.params) == 8.0
    load_extensions(["ext_cubic"])


def test_an_extension_may_list_a_bare_function_as_its_model_and_be_loaded_twice(extension):
    body = (
        "import torch\n\ndef TwoLayers(inputs, outputs):\n"
        "    return torch.nn.Linear(inputs, outputs)\n\nMODELS = (TwoLayers,)\n"
    )
    name = extension("ext_bare", body)
    load_extensions([name])
    row = MODELS["twolayers"]
    load_extensions([name])
    assert MODELS["twolayers"] is row


def test_an_extension_cannot_take_a_name_that_exists(extension):
    original = LOSSES["mse"]
    with pytest.raises(ConfigError, match="'mse' exists: rename yours"):
        load_extensions([extension("ext_mse", MODULE.format(name="mse"))])
    assert LOSSES["mse"] is original


@pytest.mark.parametrize("path", ["../x", "x.py/", "/tmp/x", "a b", "", "a;b"])
def test_an_extension_is_a_modules_name_and_no_path(path):
    with pytest.raises(ConfigError, match="use a module's name, not a path"):
        load_extensions([path])


def test_an_extension_that_is_not_there_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match=r"No module named 'nosuch'.*put nosuch\.py into"):
        load_extensions(["nosuch"])


def test_an_extension_that_raises_is_refused_with_its_reason(extension):
    with pytest.raises(ConfigError, match=r"'ext_broken' cannot be imported.*division by zero"):
        load_extensions([extension("ext_broken", "1 / 0")])
