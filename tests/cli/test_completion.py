"""What a shell offers for the word that is being typed, in a shell itself too."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lossbench import export
from lossbench.cli import completion
from lossbench.losses import LOSSES

LINE = "complete -o nospace -C 'lossbench complete' lossbench"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "sweep.json").write_text("{}")
    (tmp_path / "mine.py").write_text(
        "def wing(output, target):\n    ...\n\n\ndef other():\n    ...\n"
    )
    (tmp_path / "rows.py").write_text("LOSSES = (\n    Loss(\n        fn=laplace,\n    ),\n)\n")
    (tmp_path / "table.csv").touch()
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "cars.yaml").write_text("fn: digits\n")
    return tmp_path


def offered(line):
    return completion.candidates(f"lossbench {line}")


def test_every_loss_of_the_catalog_is_offered():
    assert {*offered("loss=")} >= {f"loss={name}" for name in LOSSES}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rep", ["report ", "report="]),
        ("se", ["seed="]),
        ("report ", ["runs/old "]),
        ("loss=mse,huber_", ["loss=mse,huber_tight"]),
        ("loss=mine.py:", ["loss=mine.py:wing"]),
        ("model=mine.py:o", ["model=mine.py:other"]),
        ("try mine.py ", ["wing "]),
        ("losses huber_", ["huber_tight "]),
        ("losses --me", ["--measure"]),
        ("export runs/old --to ten", ["tensorboard "]),
        ("data=tab", ["data=table.csv"]),
        ("report runs/old --f", ["--figures"]),
        ("-", ["--cfg", "--config-dir", "--info", "--multirun"]),
        ("data=gaussian_mixture data.params.cl", ["data.params.classes="]),
        ("data=nosuch data.params.cl", []),
        ("missing=m", ["missing=median"]),
        ("--config-dir own data=c", ["data=california_housing", "data=cars", "data=cifar10",
                                     "data=cifar100", "data=clean_linear"]),
        ("'extensions=[rows]' loss=lap", ["loss=laplace"]),
        ("experiment=ess", ["experiment=essay", "experiment=essay_full"]),
        ("nosuch=", []),
    ],
)  # fmt: skip
def test_a_word_is_completed_by_commands_choices_and_what_is_ones_own(folder, line, expected):
    assert offered(line) == expected


def test_what_export_writes_for_is_offered():
    assert {*completion.EXPORTS} == {*export.TARGETS}


def test_nothing_that_takes_long_is_imported_for_a_key(folder):
    program = (
        "import sys; from lossbench.cli import main; main(['complete', 'lossbench', '', '']); "
    )
    program += "print(sorted({'torch', 'pandas', 'hydra'} & {*sys.modules}))"
    env = {**os.environ, "COMP_LINE": "lossbench loss=", "COMP_POINT": "15"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "cross_entropy" in done.stdout


def test_the_line_in_the_docs_completes_in_a_real_bash(folder):
    assert LINE in (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PS1": "$ "}
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
    screen = ""
    try:
        os.write(terminal, f"{LINE}\n".encode())
        os.write(terminal, b"lossbench loss=mine.py:wi\t")
        until = time.monotonic() + 60
        while "wing" not in screen and time.monotonic() < until:
            if select.select([terminal], [], [], 0.2)[0]:
                screen += os.read(terminal, 4096).decode(errors="replace")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    assert re.search(r"loss=mine\.py:wing", screen), screen
