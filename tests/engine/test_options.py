"""An optional strategy is its file and its line in the registry: without both the rest trains."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lossbench
from lossbench.engine.strategies import OPTIONS, check
from lossbench.question import ConfigError

TRAIN = """
import json
from configs import make_run
from training import grouped
from lossbench.engine import strategies

if "graph" in strategies.OPTIONS:  # recorded on the CPU, which then may not look at values
    import tape
    from lossbench import optimizers
    from lossbench.engine import update
    from lossbench.engine.strategies import graph
    optimizers.decayed = lambda gradient, value, decay: gradient + decay[:, None] * value
    update.alive_on_cpu = lambda alive: None
    graph.RECORDING = lambda: tape.recorded
strategies.OPTIONS |= {name: option._replace(devices=("cpu",))
                       for name, option in strategies.OPTIONS.items()}
small = {"model__params": {"widths": [4], "activation": "relu"}, "steps": 5, "batch_size": 5}
runs = [make_run(loss=loss, log_every=4, **small) for loss in ("mse", "mae")]
runs = grouped(runs, strategies=[*strategies.OPTIONS])["runs"]
assert {*runs.status} == {"done"}
print(sorted(strategies.OPTIONS), json.loads(runs.environment[0])["strategy"])
"""


@pytest.mark.parametrize("name", OPTIONS)
def test_without_its_file_and_its_line_the_others_train(name, tmp_path):
    copy, tests = tmp_path / "lossbench", Path(__file__).parents[1]
    shutil.copytree(Path(lossbench.__file__).parent, copy)
    file = copy / "engine" / "strategies" / f"{name}.py"
    if file.exists():
        file.unlink()
    else:
        shutil.rmtree(file.with_suffix(""))
    registry = copy / "engine" / "strategies" / "__init__.py"
    text, count = re.subn(rf'^    "{name}": Option\(.*\n', "", registry.read_text(), flags=re.M)
    assert count == 1
    registry.write_text(text)
    place = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(tests)]), "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], env=os.environ | place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    others, strategy = done.stdout.strip().split("] ")
    assert others == str(sorted({*OPTIONS} - {name})).rstrip("]")
    assert strategy.split() == ["stack", *(way for way in ("graph", "kernel") if way != name)]


def test_a_name_of_no_strategy_is_refused_with_the_nearest_one():
    check(["kernel", "graph"], "cuda")
    with pytest.raises(ConfigError, match=r"'kernl' is unknown: .*kernel"):
        check(["kernl"], "cuda")
