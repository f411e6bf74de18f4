"""The door from Python: `lossbench.compare` and `lossbench.run`."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lossbench
from lossbench import records, statistics
from lossbench.errors import ConfigError
from lossbench.report import objections

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 3))
Y = X @ [1.0, -2.0, 0.0] + RNG.normal(size=100)


pytestmark = pytest.mark.usefixtures("own_folder")


def soft(output, target):
    return (1 + (output - target).square()).sqrt().sum(-1) - 1


class Net(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 8), nn.Linear(8, outputs)

    def forward(self, inputs):
        return self.last(self.first(inputs).relu())


FEW = {"steps": 20, "looks": [6], "workers": 1}


def test_arrays_a_module_and_a_function_are_compared_as_the_shell_would(capsys):
    result = lossbench.compare([soft, "mae"], (X, Y), Net, name="mine", margin=0.05, **FEW)
    assert {*result.verdicts.loss} == {"soft", "mae"}
    plan = result.records.plan["declarations"][0]["declared"]
    assert plan["margin"]["regression"] == 0.05
    assert plan["reference"]["regression"] == "mse"
    assert {*result.records.runs.model} == {"net"}
    # pseudo_huber with its default delta of 1 is the same loss.
    other = lossbench.compare(
        {"mine": soft}, (X, Y), Net, reference="pseudo_huber", name="b", **FEW
    )
    assert other.verdicts.estimate.abs().max() < 1e-6
    assert "mine" in str(other)
    row = other.verdicts.set_index("loss").loc["mine"]
    assert row.value - row.reference_value == pytest.approx(row.estimate, abs=1e-6)
    assert (row.metric, row.average) == ("rmse", "mean")
    third = lossbench.compare(["mae"], (X, Y), Net, metric="mae", average="median", name="c", **FEW)
    assert [*third.verdicts[["metric", "average"]].iloc[0]] == ["mae", "median"]
    assert result.forest().get_xlabel()
    assert result.report().name == "index.html"
    assert "<table" in result._repr_html_()


def test_the_same_call_trains_nothing_and_other_data_train_anew(caplog):
    lossbench.compare([soft], (X, Y), "linear", name="mine", **FEW)
    count = len(records.load("runs/mine").runs)
    lossbench.compare([soft], (X, Y), "linear", name="mine", **FEW)
    assert caplog.messages[-1].startswith("nothing to train")
    lossbench.compare([soft], (X + 1e-6, Y), "linear", name="mine", **FEW)
    assert any(f", {count} to train" in line for line in caplog.messages[2:])


def test_an_edited_function_of_the_same_name_trains_anew(caplog):
    def mine(output, target):
        return (output - target).abs().sum(-1)

    lossbench.compare([mine], (X, Y), "linear", name="mine", **FEW)

    def mine(output, target):
        return 2 * (output - target).abs().sum(-1)

    lossbench.compare([mine], (X, Y), "linear", name="mine", **FEW)
    assert "108 runs, 54 already there, 54 to train in 1 packs" in caplog.messages


def test_what_is_unsound_about_a_loss_is_said_and_held_against_its_verdicts(caplog):
    def noisy(output, target):
        return (output - target).square().sum(-1) * (1 + 0.1 * torch.rand_like(output[..., 0]))

    sweep = lossbench.run(noisy, (X, Y), "linear", steps=2)
    assert any(line.startswith("noisy draws random numbers: two") for line in caplog.messages)
    against = objections.of_sweep(sweep, statistics.Verdicts(sweep).comparisons)
    assert any(text.startswith("noisy draws random numbers: two") for text in against)


@pytest.mark.exhaustive
def test_what_a_function_names_counts_also_within_one_session(caplog):
    space = {"__name__": "__main__"}
    exec(
        "K = 2.0\ndef mine(output, target):\n    return K * (output - target).abs().sum(-1)", space
    )
    for k in (2.0, 2.0, 6.0):
        space["K"] = k
        lossbench.compare([space["mine"]], "diabetes", "linear", name="k", **FEW)
    counted = [line for line in caplog.messages if " to train in " in line]
    assert [line.split(", ")[2].split()[0] for line in counted] == ["108", "54"]


@pytest.mark.exhaustive
def test_other_targets_under_one_name_have_verdicts_of_their_own():
    first = lossbench.compare(["mae"], (X, Y), "linear", name="a", **FEW)
    second = lossbench.compare(["mae"], (X, Y[::-1].copy()), "linear", name="a", **FEW)
    alone = lossbench.compare(["mae"], (X, Y[::-1].copy()), "linear", name="b", **FEW)
    assert second.verdicts.estimate.tolist() == alone.verdicts.estimate.tolist()
    assert second.verdicts.estimate.tolist() != first.verdicts.estimate.tolist()
    assert second.verdicts.exploratory.all()


def test_hydra_of_who_calls_is_as_it_was():
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(group="model", name="theirs", node={"a": 1})
    with initialize_config_dir(str(lossbench.CONF), version_base=None):
        lossbench.run("mse", (X, Y), "linear", steps=2)
        assert ConfigStore.instance().load("model/theirs.yaml").node.a == 1
        assert compose("optimizer/sgd").optimizer.momentum == 0.9
        assert copy.deepcopy(ConfigStore.instance()) is not ConfigStore.instance()


def test_one_run_has_records():
    loaded = lossbench.run("mse", (X, Y), Net, steps=10, **{"optimizer.lr": 0.01})
    assert loaded.runs.status.tolist() == ["done"]
    assert loaded.runs.lr.tolist() == [0.01]


REFUSED = {
    "lengths": (lambda: lossbench.compare(["mae"], (X, Y[:-1]), name="a"), "100 rows of inputs"),
    "a mean": (
        lambda: lossbench.compare({"m": lambda o, t: (o - t).abs().mean()}, (X, Y), name="a"),
        "reduces over examples",
    ),
    "a lambda": (lambda: lossbench.compare([lambda o, t: o], (X, Y), name="a"), "gives one"),
    "a metric": (
        lambda: lossbench.compare(["mae"], (X, Y), name="a", metric="rms"),
        "metric: 'rms' is unknown: did you mean 'rmse'",
    ),
    "a loss": (lambda: lossbench.compare(["maee"], (X, Y), name="a"), "did you mean 'mae'"),
    "a key": (
        lambda: lossbench.compare(["mae"], (X, Y), name="a", stepz=3),
        "unknown key 'stepz'",
    ),
    "another task": (
        lambda: lossbench.compare(["mse", "cross_entropy"], (X, Y), name="a", task="regression"),
        "loss cross_entropy is for classification",
    ),
    "an object": (
        lambda: lossbench.compare([nn.L1Loss(reduction="none")], (X, Y), name="a"),
        "losses={'mine': object}",
    ),
    "a module": (
        lambda: lossbench.compare(["mae"], (X, Y), nn.Linear(3, 1), name="a"),
        "give a function or class (inputs, outputs)",
    ),
    "no column": (
        lambda: lossbench.compare(["mae"], pd.DataFrame(X), name="a"),
        "with target=",
    ),
    "data": (lambda: lossbench.compare(["mae"], 3, name="a"), "give a name, (inputs, targets)"),
    "task": (
        lambda: lossbench.compare(["brier"], (X, Y), name="a"),
        "the targets are numbers that are not whole, and classification needs labels",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(call, message, own_folder):
    with pytest.raises(ConfigError, match=re.escape(message)):
        call()
    assert not (own_folder / "runs").exists()


SCRIPT = """
import sys
import torch, lossbench

def mine(output, target):
    return (output - target).square().sum(-1) * SCALE

SCALE = 0.5
generator = torch.Generator().manual_seed(0)
X = torch.randn(100, 3, generator=generator)
result = lossbench.compare([mine], (X, X[:, 0]), "linear", name="s", steps=20, looks=[6], workers=2)
print(result.verdicts.estimate.abs().max() < 1e-6)
"""


@pytest.mark.parametrize(
    "how",
    ["file", *(pytest.param(how, marks=pytest.mark.exhaustive) for how in ("-c", "guarded"))],
)
def test_a_script_needs_no_guard_and_no_file(how, own_folder):
    source = SCRIPT
    if how == "guarded":
        source = "if __name__ == '__main__':\n" + textwrap.indent(SCRIPT, "    ")
    (own_folder / "script.py").write_text(source)
    command = [sys.executable, "-c", source] if how == "-c" else [sys.executable, "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "True", done.stderr
    assert "in 2 packs" in done.stderr


@pytest.mark.exhaustive
def test_a_notebook_has_functions_modules_and_a_table_of_its_own(own_folder):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    cells = [
        "import torch, lossbench\nfrom torch import nn",
        "def mine(output, target):\n    return (output - target).abs().sum(-1)",
        "class Net(nn.Module):\n    def __init__(self, inputs, outputs):\n"
        "        super().__init__()\n        self.only = nn.Linear(inputs, outputs)\n"
        "    def forward(self, inputs):\n        return self.only(inputs)",
        "X = torch.randn(100, 3)\n"
        "result = lossbench.compare([mine], (X, X[:, 0]), Net, name='n', steps=20, looks=[6], "
        "workers=2)\nresult",
    ]
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=made)
    client.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(own_folder))
    shown = [output for output in notebook.cells[-1].outputs if "data" in output]
    assert "mine" in shown[-1]["data"]["text/html"]


def test_a_call_answers_what_it_asked_and_a_name_of_other_tasks_is_refused(own_folder):
    same = {"data": "diabetes", "model": "linear", "looks": [6], "name": "same"}
    first = lossbench.compare(["mse", "mae"], **same, steps=3)
    second = lossbench.compare(["mse", "mae"], **same, steps=9)
    steps = [{*one.comparison.runs.stop_step} for one in (first, second)]
    assert steps == [{3}, {9}]
    assert {*lossbench.compare(["huber"], **same, steps=9).verdicts.loss} >= {"huber"}
    with pytest.raises(ConfigError, match="is a comparison on diabetes × linear: give this one"):
        lossbench.compare(["mse", "mae"], **{**same, "model": "mlp"}, steps=3)
    assert "'diabetes', 'linear'" in first.records.plan["commands"][0]


MISTAKES = {
    "no losses": (([], "diabetes"), {}, "no losses are given"),
    "a name for a name": (({"mine": "mae"}, "diabetes"), {}, "mae keeps its name"),
    "a loss twice": ((["mae"], "diabetes"), {"loss": "mse"}, "loss='mse': not a key of a run here"),
    "a sweep": ((["mae"], "diabetes"), {"steps": "5;6"}, "steps"),
    "a reference that is no name": ((["mae"], "diabetes"), {"reference": len}, "give the name"),
}


@pytest.mark.parametrize(("parts", "keys", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_call_that_cannot_be_meant_is_refused_in_a_line(parts, keys, message, own_folder):
    with pytest.raises(ConfigError, match=message) as error:
        lossbench.compare(*parts, "linear", name="m", **keys)
    assert "\n" not in str(error.value)
    assert not (own_folder / "runs").exists()


class Scaled(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor

    def forward(self, output, target):
        return self.factor * (output - target).square().sum(-1)


def test_a_call_is_recorded_as_it_can_be_given_again_and_a_class_is_a_loss(own_folder):
    frame = pd.DataFrame({"id": range(100), "a": [None, *X[1:, 0]], "y": Y})
    frame.to_csv("t.csv", index=False)
    words = {"target": "y", "without": "id", "missing": "median", "margin": "5% of error"}
    result = lossbench.compare([Scaled], "t.csv", "linear", name="m", **words, **FEW)
    assert {*result.verdicts.loss} == {"scaled"}
    (command,) = result.records.plan["commands"]
    assert command == (
        "lossbench.compare(['scaled'], 't.csv', 'linear', name='m', target='y', without='id', "
        "missing='median', margin='5% of error', looks=[6], workers=1, steps=20)"
    )


def test_looks_may_be_an_array(own_folder):
    few = {"steps": 2, "workers": 1, "looks": np.array([6])}
    assert len(lossbench.compare(["mae"], "diabetes", "linear", name="m", **few).verdicts) == 1
