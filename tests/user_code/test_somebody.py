"""Somebody's losses and data may do anything: it harms nobody else, and is said by name."""

from __future__ import annotations

import functools
import signal
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from selection import one_in

from lossbench import cli, records
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.sweep import first_call
from lossbench.user_code import containment, is_own, restoring_process_state

HEAD = """
import os, random, sys, time, warnings
import numpy as np
import torch
from lossbench.data import Data
from lossbench.data.splits import Splits
from lossbench.losses.spec import Loss

def row(fn):
    return Loss(fn=fn, inverse_link="identity", family="own", task="regression", formula="e",
                claims=frozenset(), source="test")

def square(output, target):
    return 0.5 * (output - target).square().sum(-1)

def splits(seed, n=40, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    parts = ("train", "validation", "test")
    rows = {part: torch.randn(n, 3, generator=draw).to(dtype) for part in parts}
    return Splits(rows, {part: x[:, :1] * 1 for part, x in rows.items()}, "regression", 1.0)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command with an extension of some source; its exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(first_call, "PASSED", set())
    before = {id(registry): dict(registry) for registry in (LOSSES, DATA, MODELS)}

    def run(source, *words, name="somebodys"):
        (tmp_path / f"{name}.py").write_text(HEAD + textwrap.dedent(source))
        code = cli.main([f"extensions=[{name}]", "hydra.launcher.workers=1", "steps=4", *words])
        return code, capsys.readouterr().err

    yield run
    sys.modules.pop("somebodys", None)
    for registry in (LOSSES, DATA, MODELS):
        registry.clear()
        registry.update(before[id(registry)])


def a_loss(body):
    return f"def mine(output, target):\n    {body}\n    return square(output, target)\n" + (
        "LOSSES = (row(mine),)\n"
    )


CHANGES = {
    "grad mode": "torch.set_grad_enabled(False)",
    "torch's default dtype": "torch.set_default_dtype(torch.float64)",
    "the working folder": "os.chdir('/')",
    "the filters of warnings": "warnings.simplefilter('ignore')",
    "the number of threads": "torch.set_num_threads(2)",
    "autograd's anomaly mode": "torch.autograd.set_detect_anomaly(True)",
    "the recursion limit": "sys.setrecursionlimit(5000)",
    "the mask of new files": "os.umask(0)",
    "the handlers of signals": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
}


@pytest.mark.parametrize(("changed", "body"), one_in(4, CHANGES.items()), ids=CHANGES)
def test_what_a_loss_changes_of_the_process_is_put_back_and_its_pack_mates_train_as_alone(
    changed, body, run, caplog
):
    state = lambda: (  # noqa: E731
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        Path.cwd(),
        [*warnings.filters],
        torch.get_num_threads(),
        torch.is_anomaly_enabled(),
        sys.getrecursionlimit(),
        signal.getsignal(signal.SIGTERM),
        containment.umask(),
    )
    before = state()
    run(a_loss(body), "-m", "data=diabetes", "loss=mse,mine", "name=together")
    assert state() == before
    assert any(f"loss mine changes {changed}" in line for line in caplog.messages)
    assert cli.main(["data=diabetes", "loss=mse", "name=alone", "steps=4"]) == cli.DONE
    rows = [records.load(f"runs/{name}").steps for name in ("together", "alone")]
    mine = [one[one.loss == "mse"].loss_value.tolist() for one in rows]
    assert mine[0] == mine[1]


def test_global_generators_are_put_back(capsys):
    torch.manual_seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with restoring_process_state("loss x"):
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


BACKWARD = """
class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output):
        return output * 1

    @staticmethod
    def backward(ctx, gradient):
        {body}
        return gradient

def mine(output, target):
    return square(Own.apply(output), target)

LOSSES = (row(mine),)
"""


@pytest.mark.parametrize("body", ["os.chdir('/')", "sys.exit(0)", "raise KeyboardInterrupt"])
def test_what_a_backward_pass_does_harms_nobody_else(body, run, tmp_path):
    run(BACKWARD.format(body=body), "-m", "data=diabetes", "loss=mse,mine")
    status = records.load(tmp_path / "runs" / "default").runs.set_index("loss").status
    assert status["mse"] == "done"
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    "body",
    [
        "class Own(KeyboardInterrupt): pass\n    raise Own",
        "class Own(BaseException): pass\n    raise Own",
        "class Own(Exception):\n        def __str__(self): raise ValueError\n    raise Own",
    ],
)
def test_whatever_a_loss_raises_fails_its_own_run_alone(body, run):
    code, _ = run(a_loss(body), "-m", "data=diabetes", "loss=mse,mine")
    assert code == cli.SOME_FAILED
    status = records.load("runs/default").runs.set_index("loss").status
    assert status.to_dict() == {"mse": "done", "mine": "failed"}


def test_a_function_that_wraps_one_of_ours_is_somebodys():
    @functools.wraps(LOSSES["mse"].fn)
    def wrapped(output, target):
        return LOSSES["mse"].fn(output, target)

    assert is_own(wrapped)
    assert not is_own(LOSSES["mse"].fn)
    assert not is_own(LOSSES["huber"].at(delta=2.0).fn)


@pytest.mark.parametrize("body", ["sys.exit(0)", "raise KeyboardInterrupt"])
def test_a_loss_that_exits_or_interrupts_fails_its_own_run_alone(body, run):
    code, _ = run(a_loss(body), "-m", "data=diabetes", "loss=mse,mine")
    assert code == cli.SOME_FAILED
    status = records.load("runs/default").runs.set_index("loss").status
    assert status.to_dict() == {"mse": "done", "mine": "failed"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os._exit(7)", "when loss mine is called, its process ends (exit code 7)"),
        ("os.kill(os.getpid(), 9)", "when loss mine is called, its process ends (signal 9)"),
        ("time.sleep(600)", "when loss mine is called, nothing comes back within 2 s"),
    ],
)
def test_a_loss_that_ends_or_hangs_its_process_is_refused_by_name_before_anything_trains(
    body, message, run, tmp_path
):
    code, err = run(a_loss(body), "-m", "data=diabetes", "loss=mse,mine", "engine.patience=2")
    assert code == cli.MISTAKE
    assert message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "torch.nn.functional.relu = torch.zeros_like\n    return square(output, target)",
            "it replaces functional.relu for everything else too",
        ),
        (
            "each = square(output, target)\n    return each / each.mean().detach()",
            "an example's value depends on the other examples of its batch",
        ),
        (  # of a pack alone: its mean is over what is the second axis there
            "mean = torch.nn.functional.cross_entropy(output, target)\n"
            "    return square(output, target) + mean",
            "an example's value depends on the other examples of its batch",
        ),
    ],
)
def test_a_loss_that_reaches_beyond_itself_is_refused_by_name_before_anything_trains(
    body, message, run, tmp_path
):
    source = f"""
def wide(output, target):
    {body}

LOSSES = (row(wide),)
"""
    code, errors = run(source, "loss=mse,wide", "data=noisy_linear")
    assert code == cli.MISTAKE
    assert f"when loss wide is called, {message}" in errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.exhaustive
def test_a_loss_that_hangs_while_it_trains_fails_its_own_run_alone(run):
    source = a_loss(
        "mine.calls = getattr(mine, 'calls', 0) + 1\n    if mine.calls > 6: time.sleep(600)"
    )
    code, _ = run(source, "-m", "data=diabetes", "loss=mse,mine", "engine.patience=1")
    assert code == cli.SOME_FAILED
    runs = records.load("runs/default").runs.set_index("loss")
    assert runs.status.to_dict() == {"mse": "done", "mine": "failed"}
    assert "it returned nothing within 1 s (engine.patience)" in runs.reason["mine"]


def test_a_loss_that_keeps_a_dimension_fails_its_own_run_alone(run):
    source = """
def kept(output, target):
    return (output - target).square().sum(-1, keepdim=True)

LOSSES = (row(kept),)
"""
    code, errors = run(source, "loss=mse,kept", "data=noisy_linear")
    assert code == cli.SOME_FAILED
    assert "Traceback" not in errors
    statuses = records.load("runs/default").runs.set_index("loss").status
    assert statuses.to_dict() == {"mse": "done", "kept": "failed"}


def test_a_loss_that_nobody_chose_is_never_called(run, tmp_path):
    code, _ = run(a_loss("open('called', 'w')"), "-m", "data=diabetes", "loss=mse,mae")
    assert code == cli.DONE
    assert not (tmp_path / "called").exists()


def test_an_extension_that_exits_while_it_is_imported_is_a_mistake(run):
    code, err = run("sys.exit(0)", "data=diabetes")
    assert code == cli.MISTAKE
    assert "extension 'somebodys' cannot be imported (SystemExit: 0)" in err


DATA_SETS = {
    "None": ("return None", "returned NoneType: return Splits"),
    "a list": ("return [1, 2]", "returned list: return Splits"),
    "complex numbers": ("return splits(seed, dtype=torch.complex64)", "are torch.complex64"),
    "whole numbers": ("return splits(seed, dtype=torch.int64)", "are torch.int64"),
    "one example": ("return splits(seed, n=1)", "have shape (1, 3)"),
    "NaN at a later seed": (
        "made = splits(seed)\n    if seed == 1: made.inputs['test'][3, 1] = float('nan')\n"
        "    return made",
        "seed 1: inputs of split test: 1 numbers are not finite",
    ),
    "shapes that differ by seed": (
        "return splits(seed, n=40 + seed)",
        "every seed needs as many examples",
    ),
    "a global generator": (
        "made = splits(seed)\n    made.inputs['train'] += torch.rand(())\n    return made",
        "two calls give different numbers",
    ),
    "an exit": ("sys.exit(3)", "SystemExit: 3"),
    "its own buffers again": (
        "global MADE\n    made = splits(seed)\n    MADE = globals().get('MADE') or made\n"
        "    MADE.inputs['train'].copy_(made.inputs['train'])\n    return MADE",
        "what a call returned changes with the next call",
    ),
    "another width of validation": (
        "made = splits(seed)\n    made.targets['validation'] = torch.zeros(40, 3)\n    return made",
        "targets of the splits have shapes",
    ),
    "a scale that is no number": (
        "made = splits(seed)\n    return Splits(made.inputs, made.targets, made.task, np.nan)",
        "its target_scale is nan",
    ),
    "another task": (
        "import dataclasses\n    return dataclasses.replace(splits(seed), task='classification')",
        "its row says task='regression'",
    ),
}


@pytest.mark.parametrize(("body", "message"), one_in(4, DATA_SETS.values()), ids=DATA_SETS)
def test_data_that_cannot_be_trained_on_are_refused_for_every_planned_seed(
    body, message, run, tmp_path
):
    (tmp_path / "c" / "data").mkdir(parents=True)
    (tmp_path / "c" / "data" / "mine.yaml").write_text("params: {}\n")
    source = f"def mine(*, seed):\n    {body}\n"
    source += "DATA = (Data(mine, 'regression', 'test', drawn='generated'),)\n"
    words = ["-m", "--config-dir", "c", "data=mine", "loss=mse", "model=linear", "seed=0,1"]
    code, err = run(source, *words)
    assert code == cli.MISTAKE
    assert message in err
    assert not (tmp_path / "runs").exists()


ENDS = {
    "os._exit(7)": "its process ends (exit code 7)",
    "os.kill(os.getpid(), 9)": "its process ends (signal 9)",
    "time.sleep(600)": "nothing comes back within 2 s",
}


@pytest.mark.parametrize(("body", "message"), ENDS.items(), ids=ENDS)
@pytest.mark.parametrize("kind", one_in(2, ["data", "model"]))
def test_data_and_models_that_end_or_hang_their_process_are_refused_by_name_before_anything_trains(
    kind, body, message, run, tmp_path
):
    (tmp_path / "c" / kind).mkdir(parents=True)
    (tmp_path / "c" / kind / "mine.yaml").write_text("params: {}\n")
    source = {
        "data": f"def mine(*, seed):\n    {body}\nDATA = (Data(mine, 'regression', 'test'),)\n",
        "model": f"def mine(inputs, outputs):\n    {body}\n"
        "from lossbench.models import Model\nMODELS = (Model(mine, 'test'),)\n",
    }[kind]
    words = ["--config-dir", "c", f"{kind}=mine", "engine.patience=2"]
    if kind == "model":
        words += ["data=noisy_linear"]
    code, errors = run(source, "loss=mse", *words)
    assert code == cli.MISTAKE
    assert f"when {kind} mine is called, {message}" in errors
    assert not (tmp_path / "runs").exists()
