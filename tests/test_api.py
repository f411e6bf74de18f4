"""The doors: `lossbench.compare`, `lossbench try FILE.py`, words that name files of one's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from torch import nn

import lossbench
from lossbench import cli, records
from lossbench.data import DATA
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.own import modules

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 3))
Y = X @ [1.0, -2.0, 0.0] + RNG.normal(size=100)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
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
        lossbench.run("mse", (X, Y), "linear", steps=2, workers=1)
        assert ConfigStore.instance().load("model/theirs.yaml").node.a == 1
        assert compose("optimizer/sgd").optimizer.momentum == 0.9


def test_one_run_has_records():
    loaded = lossbench.run("mse", (X, Y), Net, steps=10, workers=1, **{"optimizer.lr": 0.01})
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
        "data data: 100 classes, and",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(call, message, place):
    with pytest.raises(ConfigError, match=re.escape(message)):
        call()
    assert not (place / "runs").exists()


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
def test_a_script_needs_no_guard_and_no_file(how, place):
    source = SCRIPT
    if how == "guarded":
        source = "if __name__ == '__main__':\n" + textwrap.indent(SCRIPT, "    ")
    (place / "script.py").write_text(source)
    command = [sys.executable, "-c", source] if how == "-c" else [sys.executable, "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "True", done.stderr
    assert "in 2 packs" in done.stderr


def test_a_notebook_has_functions_modules_and_a_table_of_its_own(place):
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
    client.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(place))
    shown = [output for output in notebook.cells[-1].outputs if "data" in output]
    assert "mine" in shown[-1]["data"]["text/html"]


# ---- words of the command line -------------------------------------------------------------------

FILE = """
import torch
from torch import nn
from lossbench.data.splits import by_split, permuted, regression


def wing(output, target, w=1.0):
    size = (output - target).abs()
    return torch.where(size < w, w * torch.log1p(size / 0.2), size).sum(-1)


def net(inputs, outputs, *, width=8):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def soft_net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Softmax(-1))


def lazy_net(inputs, outputs):
    return nn.LazyLinear(outputs)


class Tiny(nn.Linear):
    pass


def mixing_net(inputs, outputs):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(inputs, outputs)

        def forward(self, inputs):
            return self.last(inputs - inputs.mean(0))

    return Mixing()


def noise(*, seed):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 3, generator=draw, dtype=torch.float64)
    rows = permuted(100, seed)
    return regression(by_split(inputs, rows), by_split(inputs[:, :1] ** 2, rows))
"""


def ask(capsys, *words):
    code = cli.main([*words, "hydra.launcher.workers=1"])
    return code, capsys.readouterr()


def test_functions_of_a_file_are_typed_by_their_names(place, capsys):
    (place / "own_words.py").write_text(FILE)
    assert (
        ask(capsys, "model=own_words.py:Tiny", "data=diabetes", "loss=mse", "steps=2", "name=t")[0]
        == 0
    )
    words = (
        "loss=own_words.py:wing",
        "model=own_words.py:net",
        "data=own_words.py:noise",
        "steps=5",
    )
    code, said = ask(capsys, *words, "model.params.width=4", "batch_size=16")
    assert code == cli.DONE, said.err
    (run,) = records.load("runs/default").runs.to_dict("records")
    assert (run["loss"], run["model"], run["data"]) == ("wing", "net", "noise")
    assert json.loads(run["config"])["model"]["params"] == {"width": 4}


BAD_MODELS = {
    "soft_net": "it ends in a softmax: return the raw output",
    "lazy_net": "its layer '' is lazy",
    "mixing_net": "depends on the other examples",
    "nett": "has no function 'nett': did you mean 'net'",
}


@pytest.mark.parametrize(("name", "message"), BAD_MODELS.items(), ids=BAD_MODELS)
def test_a_model_that_would_train_wrong_is_recognised(name, message, place, capsys):
    (place / "own_words.py").write_text(FILE)
    code, said = ask(capsys, f"model=own_words.py:{name}", "data=digits", "steps=5")
    assert code == cli.MISTAKE
    assert message in said.err
    assert not (place / "runs").exists()


def test_a_table_is_typed_with_its_target_and_trains_anew_when_it_changes(capsys, caplog):
    frame = pd.DataFrame({"a": X[:, 0], "kind": ["u", "v"] * 50, "price": Y})
    frame.to_csv("cars.csv", index=False)
    words = ("data=cars.csv", "target=price", "loss=mse", "steps=5", "batch_size=16")
    assert ask(capsys, *words)[0] == cli.DONE
    assert ask(capsys, *words)[0] == cli.DONE
    assert caplog.messages[-1].startswith("1 runs, 1 already there")
    frame.assign(price=Y + 1e-3).to_csv("cars.csv", index=False)
    assert ask(capsys, *words)[0] == cli.DONE
    assert caplog.messages[-2].startswith("1 runs, 0 already there, 1 to train")
    assert ask(capsys, *words[:1])[1].err.count("target=COLUMN") == 1


def test_a_trial_measures_a_function_and_settles_it_on_three_tasks(place, capsys, caplog):
    (place / "own_words.py").write_text(FILE)
    words = ("try", "own_words.py", "wing", "size=smoke", "report=none")
    code, said = ask(capsys, *words)
    assert code == cli.DONE, said.err
    assert "regression behind the inverse link identity" in said.out
    assert "gradient_is_derivative" in said.out
    question = records.load("runs/try_own_words_wing-smoke").plan["question"]
    assert question == "Is wing better than mse?"
    assert said.out.count("wing") > 6
    assert said.out.strip().splitlines()[-1].startswith("SMOKE: After 30 updates on ")
    assert ask(capsys, *words)[0] == cli.DONE
    assert any("nothing to train" in line for line in caplog.messages)


def test_a_trial_takes_opponents_of_its_task_alone(place, capsys):
    (place / "own_words.py").write_text(FILE)
    code, said = ask(capsys, "try", "own_words.py", "wing", "--against", "cross_entropy")
    assert (code, "it is for classification" in said.err) == (cli.MISTAKE, True)


CLASSES = """
from torch import nn

class WideMargin(nn.Module):
    def __init__(self, width=2.0):
        super().__init__()
        self.width = width

    def forward(self, output, target):
        return (output - target).abs().pow(self.width).sum(-1)

class Needs(WideMargin):
    def __init__(self, width):
        super().__init__(width)

def huber(output, target):
    return (output - target).abs().sum(-1)
"""


def test_a_class_of_modules_is_a_loss_and_what_has_a_name_of_the_catalog_gets_another(
    place, capsys
):
    (place / "own_classes.py").write_text(CLASSES)
    code, said = ask(capsys, "try", "own_classes.py", "size=smoke", "report=none")
    assert code == cli.DONE, said.err
    assert "wide_margin  (own_classes.py, line 9)" in said.out
    assert "is       2 mse, up to the learning rate" in said.out
    assert "my_huber  (own_classes.py, line 16)" in said.out
    assert {"wide_margin", "my_huber"} < {*records.load("runs/try_own_classes-smoke").runs.loss}
    code, said = ask(capsys, "loss=own_classes.py:Needs", "data=diabetes")
    assert (code, "give width of its __init__ a default" in said.err) == (cli.MISTAKE, True)


def test_an_edited_default_of_a_class_trains_anew(place, capsys, caplog):
    words = ("loss=own_width.py:WideMargin", "data=diabetes", "steps=2")
    for width in (2.0, 3.0):
        sys.modules.pop("own_width", None)
        (place / "own_width.py").write_text(CLASSES.replace("width=2.0", f"width={width}"))
        assert ask(capsys, *words)[0] == cli.DONE
        assert any(line.startswith("1 runs, 0 already there") for line in caplog.messages)
        caplog.clear()


MODULE = """from torch import nn
class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        {made}
    def forward(self, output, target):
        return (output - target).abs().sum(-1)
"""

BAD_FILES = {
    "parameters": (MODULE.format(made="self.map = nn.Linear(1, 1)"), "its parameters map.weight"),
    "dropout": (MODULE.format(made="self.drop = nn.Dropout()"), "Wide: Dropout draws numbers"),
    "init": (MODULE.format(made="1 / 0"), "Wide: its __init__ raises ZeroDivisionError"),
    "two of a name": (
        MODULE.format(made="pass") + "def wide(output, target):\n    return output.sum(-1)\n",
        "f.py has several losses wide: rename one",
    ),
    "classes first": (
        "def c(output, target):\n    from torch.nn.functional import cross_entropy as f\n"
        "    return f(output, target, reduction='none')\n",
        "it takes the second axis for the classes",
    ),
    "mean": ("def mean(output, target):\n    return (output - target).mean()\n", "line 1"),
    "raises": ("def r(output, target):\n    return output.nosuch()\n", "f.py, line 2, raises"),
    "ends": ("import os\ndef e(output, target):\n    os._exit(3)\n", "ends (exit code 3)"),
    "NaN": ("def n(output, target):\n    return -(target * output.log()).sum(-1)\n", "not finite"),
    "swapped": (
        "def s(target, output):\n    return -(target * output.log_softmax(-1)).sum(-1)\n",
        "exchanged",
    ),
    "an if": (
        "def i(output, target):\n    return (output - target).abs().sum(-1) if output.sum() > 0 "
        "else (output - target).square().sum(-1)\n",
        "use torch.where",
    ),
    "one argument": ("def one(output):\n    return output.sum(-1)\n", "has no function of"),
    "nothing": ("X = 3\n", "has no function of an output and a target"),
    "syntax": ("def f(:\n", "f.py, line 1 cannot be imported: SyntaxError"),
    "name": (
        "def Loss(output, target):\n    return output.sum(-1)\n",
        "cannot have the name 'Loss'",
    ),
}


@pytest.mark.parametrize(("source", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_without_a_loss_is_refused_with_its_line(source, message, place, capsys):
    (place / "f.py").write_text(source)
    code, said = ask(capsys, "try", "f.py")
    assert code == cli.MISTAKE
    assert message in said.err
    assert not (place / "runs").exists()


def test_a_call_answers_what_it_asked_and_a_name_of_other_tasks_is_refused(place):
    same = {"data": "diabetes", "model": "linear", "looks": [6], "name": "same"}
    first = lossbench.compare(["mse", "mae"], **same, steps=3)
    second = lossbench.compare(["mse", "mae"], **same, steps=9)
    steps = [{*one.comparison.runs.stop_step} for one in (first, second)]
    assert steps == [{3}, {9}]
    assert {*lossbench.compare(["huber"], **same, steps=9).verdicts.loss} >= {"huber"}
    with pytest.raises(ConfigError, match="is a comparison on diabetes × linear: give this one"):
        lossbench.compare(["mse", "mae"], **{**same, "model": "mlp"}, steps=3)
    assert "'diabetes', 'linear'" in first.records.plan["commands"][0]
