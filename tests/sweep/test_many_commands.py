"""The same command, given many times: files in docs/cluster that do it, and what is promised."""

from __future__ import annotations

import ast
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from commands import WAITING, packs, place_of_commands
from interrupted import contents

from lossbench import cli

FILES = Path(__file__).parents[2] / "docs" / "cluster"


def commands_in(text):
    """Words of the `lossbench` commands of a shell script that train."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [line.partition("lossbench ")[2] for line in lines if "lossbench " in line]
    found = [line.partition(" :::")[0] for line in found if not line.startswith("report")]
    return [shlex.split(line, comments=True) for line in found]


def is_understood(words, capsys):
    """Whether all words of a command are known: what it would run is printed, and not run."""
    return cli.main([*words, "--cfg", "job"]) == cli.DONE and "loss:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pbs.sh", "parallel.sh"])
def test_a_script_is_bash_and_gives_a_command_that_is_understood(name, capsys):
    done = subprocess.run(["bash", "-n", FILES / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (words,) = [one for one in commands_in((FILES / name).read_text()) if one]
    assert any(word.startswith("hydra.launcher.workers=") for word in words)
    assert is_understood(words, capsys)


def test_the_indexed_job_gives_a_command_that_is_understood(capsys):
    job = yaml.safe_load((FILES / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["lossbench"]
    assert is_understood(container["args"], capsys)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [cli.SOME_FAILED, cli.MISTAKE]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (volume,) = spec["template"]["spec"]["volumes"]
    assert mounts[volume["name"]] == container["workingDir"]


def test_the_script_for_dask_is_python_and_its_command_is_understood(capsys):
    text = (FILES / "dask_on_pbs.py").read_text()
    docstring = str(ast.get_docstring(ast.parse(text))).replace("$(cat scheduler)", "node1")
    (words,) = [one for one in commands_in(docstring) if "experiment=essay" in one]
    assert is_understood(words, capsys)


def test_every_file_is_named_on_the_page():
    page = (FILES.parent / "cluster.md").read_text()
    assert all(f"(cluster/{path.name})" in page for path in FILES.iterdir())


@pytest.mark.exhaustive
def test_eight_commands_that_are_killed_at_random_share_a_sweep(tmp_path, record_property):
    place = place_of_commands(tmp_path)
    line = [sys.executable, "-m", "lossbench.cli", *WAITING, "seed=range(16)", "steps=600"]
    line += ["eval_every=300", "engine.commit_every=0.5", "hydra.launcher.workers=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = [*line, "name=alone", "engine.pack_size=128"]
    subprocess.run(alone, cwd=place, env=environment, capture_output=True, check=True)
    # Each without a network of its own, as on machines that share nothing but the folder.
    apart = ["unshare", "--net", "--uts"] if os.geteuid() == 0 and shutil.which("unshare") else []

    def begin():
        return subprocess.Popen(
            [*apart, *line, "name=many"],
            cwd=place,
            env={**environment, "LOSSBENCH_WAITS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    draw, kills, least = random.Random(0), 0, 8
    commands = [begin() for _ in range(8)]
    until = time.monotonic() + 500
    while any(command.poll() is None for command in commands) and time.monotonic() < until:
        time.sleep(draw.uniform(0.5, 3))
        begun = [state for state in packs(place, "many").values() if state["step"]]
        living = [place for place, command in enumerate(commands) if command.poll() is None]
        if living and begun and kills < least:
            victim = draw.choice(living)
            os.killpg(commands[victim].pid, signal.SIGKILL)
            commands[victim].wait()
            commands[victim] = begin()
            kills += 1
    assert [command.returncode for command in commands] == [cli.DONE] * 8
    assert kills == least
    assert contents(place / "runs" / "many") == contents(place / "runs" / "alone")
    finished = [state for state in packs(place, "many").values() if state["is_finished"]]
    counts = Counter(run_id for state in finished for run_id in state["members"])
    assert {*counts.values()} == {1}
    told = f"{kills} kills, 16 packs: lost 0, doubled 0, bit-identical"
    record_property("figure", ("8 commands of one sweep", told))
