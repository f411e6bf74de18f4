"""`lossbench try FILE.py`: what a file's functions are, and a fair trial of them."""

from __future__ import annotations

import sys

import pytest
from own_files import FILE, ask

from lossbench import cli, records
from lossbench.ask import from_file
from lossbench.catalog.trial_lines import cards

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_trial_measures_a_function_and_settles_it_on_three_tasks(own_folder, capsys, caplog):
    (own_folder / "own_words.py").write_text(FILE)
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


def test_a_trial_takes_opponents_of_its_task_alone(own_folder, capsys):
    (own_folder / "own_words.py").write_text(FILE)
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


@pytest.mark.exhaustive
def test_a_class_of_modules_is_a_loss_and_what_has_a_name_of_the_catalog_gets_another(
    own_folder, capsys
):
    (own_folder / "own_classes.py").write_text(CLASSES)
    code, said = ask(capsys, "try", "own_classes.py", "size=smoke", "report=none")
    assert code == cli.DONE, said.err
    assert "wide_margin  (own_classes.py, line 9)" in said.out
    assert "is       2 mse, up to the learning rate" in said.out
    assert "my_huber  (own_classes.py, line 16)" in said.out
    assert {"wide_margin", "my_huber"} < {*records.load("runs/try_own_classes-smoke").runs.loss}
    code, said = ask(capsys, "loss=own_classes.py:Needs", "data=diabetes")
    assert (code, "give width of its __init__ a default" in said.err) == (cli.MISTAKE, True)


def test_an_edited_default_of_a_class_trains_anew(own_folder, capsys, caplog):
    words = ("loss=own_width.py:WideMargin", "data=diabetes", "steps=2")
    for width in (2.0, 3.0):
        sys.modules.pop("own_width", None)
        (own_folder / "own_width.py").write_text(CLASSES.replace("width=2.0", f"width={width}"))
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
    "dropout": (
        MODULE.format(made="self.drop = nn.Dropout()"),
        "Wide: Dropout draws random numbers",
    ),
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
    "a mean beside": (
        "def m(output, target):\n    e = (output - target).abs()\n"
        "    return e.sum(-1) + e.mean()\n",
        "line 1: an example's value depends on the other examples",
    ),
    "names": (
        "def n(y_true, y_pred):\n    e = y_true - y_pred\n    return (e.exp() - e).sum(-1)\n",
        "its arguments are in the wrong order, (y_true, y_pred): the output comes first",
    ),
    "mean": ("def mean(output, target):\n    return (output - target).mean()\n", "line 1"),
    "raises": ("def r(output, target):\n    return output.nosuch()\n", "f.py, line 2, raises"),
    "ends": ("import os\ndef e(output, target):\n    os._exit(3)\n", "ends (exit code 3)"),
    "NaN": ("def n(output, target):\n    return -(target * output.log()).sum(-1)\n", "not finite"),
    "swapped": (
        "def s(target, output):\n    return -(target * output.log_softmax(-1)).sum(-1)\n",
        "in the wrong order",
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
def test_a_file_without_a_loss_is_refused_with_its_line(source, message, own_folder, capsys):
    (own_folder / "f.py").write_text(source)
    code, said = ask(capsys, "try", "f.py")
    assert code == cli.MISTAKE
    assert message in said.err
    assert not (own_folder / "runs").exists()


SEVERAL = """
import os
from torch import nn

def good(output, target):
    return (output - target).abs().pow(1.5).sum(-1)

def reduces(output, target):
    return (output - target).square().mean()

def ends(output, target):
    os._exit(3)

class Trained(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def forward(self, output, target):
        return (output - target).abs().sum(-1)
"""


@pytest.mark.exhaustive
def test_of_a_file_what_is_no_loss_is_left_out_and_named_it_is_refused(own_folder, capsys, caplog):
    (own_folder / "several.py").write_text(SEVERAL)
    code, said = ask(capsys, "try", "several.py", "reduces", "ends", "size=smoke")
    assert code == cli.MISTAKE
    assert "several.py, line 8: it reduces over examples" in said.err
    assert "its process ends (exit code 3)" in said.err
    code, said = ask(capsys, "try", "several.py", "size=smoke", "report=none")
    assert code == cli.DONE, said.err
    left_out = [line for line in caplog.messages if line.startswith("left out: ")]
    for line, part in zip(left_out, ("its parameters", "reduces over", "exit code 3"), strict=True):
        assert part in line
    losses = {*records.load("runs/try_several-smoke").runs.loss}
    assert "good" in losses
    assert not {"reduces", "ends", "trained"} & losses


def test_the_catalog_shows_a_function_of_a_file(own_folder, capsys):
    (own_folder / "own_words.py").write_text(FILE)
    assert cli.main(["losses", "own_words.py:wing"]) == cli.DONE
    assert "nonnegative" in capsys.readouterr().out


def test_what_a_loss_that_draws_is_for_has_to_be_said(own_folder, capsys):
    (own_folder / "own_noise.py").write_text(
        "import torch\n\n"
        "def noisy(output, target):\n"
        "    return (output - target).square().sum(-1) * torch.rand_like(output[..., 0])\n"
    )
    code, said = ask(capsys, "try", "own_noise.py", "size=smoke", "report=none")
    assert (code, "own_noise.py, line 3: noisy draws random numbers" in said.err) == (
        cli.MISTAKE,
        True,
    )
    assert not (own_folder / "runs").exists()


def test_of_several_functions_one_that_draws_is_left_out(own_folder, caplog):
    (own_folder / "own_two.py").write_text(
        "import torch\n\n"
        "def plain(output, target):\n"
        "    return (output - target).square().sum(-1)\n\n"
        "def noisy(output, target):\n"
        "    return plain(output, target) * torch.rand_like(output[..., 0])\n"
    )
    tried = from_file.prepared(own_folder / "own_two.py")
    assert [one.row.name for one in tried.losses] == ["plain"]
    assert "left out: own_two.py, line 6: noisy draws random numbers" in caplog.text
    said = from_file.prepared(own_folder / "own_two.py", task="regression")
    assert [one.row.name for one in said.losses] == ["plain", "noisy"]
    assert "backward" not in "\n".join(cards(said, width=100))
