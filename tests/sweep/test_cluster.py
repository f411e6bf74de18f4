"""Packs as jobs: what is asked of a cluster, and the same sweep as processes of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import yaml
from interrupted import contents, trainer

import lossbench
from lossbench import cli
from lossbench.question.schema import LauncherNode
from lossbench.sweep import slurm

SLURM = LauncherNode(executor="slurm")


def test_the_yaml_has_every_key_of_the_launcher_with_its_default():
    text = (lossbench.CONF / "hydra" / "launcher" / "packed_slurm.yaml").read_text()
    keys = yaml.safe_load(text)
    assert keys.pop("defaults") == ["packed"]
    expected = dataclasses.asdict(SLURM)
    del expected["workers"], expected["address"]  # Slurm has its own
    assert keys == expected


def test_what_is_not_said_is_not_asked_of_slurm():
    job = slurm.parameters(SLURM)
    assert not {"slurm_partition", "slurm_account", "slurm_qos", "gpus_per_node"} & job.keys()
    job = slurm.parameters(dataclasses.replace(SLURM, partition="cpu", gpus_per_node=1))
    assert (job["slurm_partition"], job["gpus_per_node"]) == ("cpu", 1)
    assert job["timeout_min"] == 60


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        (["hydra.launcher.executor=sge"], "use inline, local, slurm, dask or ray"),
        (["hydra.launcher.partitoin=cpu"], "partitoin"),
        (["hydra/launcher=packed_slrum"], "packed_slrum"),
    ],
)
def test_a_mistake_names_the_cure_and_writes_nothing(tmp_path, monkeypatch, capsys, line, cure):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data=diabetes", "loss=mse", "steps=2", *line]) == cli.MISTAKE
    assert cure in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.exhaustive
def test_the_same_sweep_as_jobs_of_this_machine_has_the_same_bits(tmp_path):
    line = [sys.executable, "-m", "lossbench.cli", "-m", "data=diabetes", "model=linear"]
    line += ["loss=mse,mae", "seed=0,1", "steps=30", "engine.pack_size=2"]
    jobs = ["hydra/launcher=packed_slurm", "hydra.launcher.executor=local", "name=jobs"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words in (["name=here"], jobs, jobs):
        done = subprocess.run(
            [*line, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == cli.DONE, done.stderr
    assert "submitted" not in done.stderr
    assert contents(tmp_path / "runs" / "jobs") == contents(tmp_path / "runs" / "here")
    notes = [*(tmp_path / "runs" / "jobs" / "jobs" / "packs").iterdir()]
    assert len({json.loads(path.read_text())["job"] for path in notes}) == len(notes) == 2


def program(folder, name, text):
    """A stand-in for one of Slurm's commands."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bin_dir(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("code", "out", "queue"),
    [(0, "7_0\\n7_1\\n9\\n", {"7_0", "7_1", "9"}), (0, "", set()), (1, "", None)],
)
def test_the_queue_is_what_squeue_lists_and_unknown_where_it_fails(bin_dir, code, out, queue):
    program(bin_dir, "squeue", f"printf '{out}'; exit {code}")
    assert slurm._queue() == queue


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("echo 'MaxArraySize            = 33'", 33),
        ("exit 1", slurm.USUAL_ARRAY),
        ("echo nothing", slurm.USUAL_ARRAY),
    ],
)
def test_an_array_is_as_large_as_slurm_takes_it(bin_dir, text, size):
    program(bin_dir, "scontrol", text)
    assert slurm._largest_array() == size


@pytest.fixture
def cluster(monkeypatch):
    """A cluster whose commands are stand-ins, with a watcher that knows nothing yet."""
    watcher = slurm.submitit.SlurmJob.watcher
    watcher.clear()
    # submitit has one for the whole process.
    monkeypatch.setattr(watcher, "_registered", set())
    return slurm.SlurmBackend(trainer(), SLURM)


def jobs_of(folder, *numbers):
    jobs = slurm.submitit.SlurmJob
    return {number: jobs(folder=folder, job_id=number, tasks=[0]) for number in numbers}


def test_one_look_asks_slurm_twice_however_many_jobs_there_are(cluster, bin_dir, tmp_path):
    calls = tmp_path / "calls"
    told = "JobID|State|NodeList\\n7_0|RUNNING|\\n7_1|PREEMPTED|\\n7_2|PREEMPTED|\\n7_3|FAILED|\\n"
    program(bin_dir, "sacct", f"echo sacct >> {calls}; printf '{told}'")
    program(bin_dir, "squeue", f"echo squeue >> {calls}; printf '7_0\\n7_1\\n9_0\\n'")
    jobs = jobs_of(tmp_path, "7_0", "7_1", "7_2", "7_3", "9_0", "9_1")
    cluster._look(jobs.values())
    alive = {number for number, job in jobs.items() if cluster._is_alive(job)}
    assert alive == {"7_0", "7_1", "9_0"}  # accounting has not heard of 9_0 yet
    assert calls.read_text().split() == ["sacct", "squeue"]


def test_a_job_that_queues_itself_again_is_alive_though_accounting_says_it_failed(
    cluster, bin_dir, tmp_path
):
    program(bin_dir, "sacct", "printf 'JobID|State|NodeList\\n1|FAILED|\\n2|FAILED|\\n'")
    program(bin_dir, "squeue", "echo 1")
    jobs = jobs_of(tmp_path, "1", "2")
    cluster._look(jobs.values())
    assert [cluster._is_alive(job) for job in jobs.values()] == [True, False]


def test_a_job_counts_as_alive_where_neither_accounting_nor_queue_answers(
    cluster, bin_dir, tmp_path
):
    program(bin_dir, "sacct", "exit 1")
    program(bin_dir, "squeue", "exit 1")
    (job,) = jobs_of(tmp_path, "7_0").values()
    cluster._look([job])
    assert cluster._is_alive(job)


def test_a_machine_without_slurm_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    line = ["-m", "data=diabetes", "loss=mse", "steps=2", "hydra/launcher=packed_slurm"]
    assert cli.main(line) == cli.MISTAKE
    assert "srun is not on PATH" in capsys.readouterr().err
    assert not [*tmp_path.rglob("*.json")]
