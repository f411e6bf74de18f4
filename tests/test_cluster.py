"""Packs as jobs: what is asked of a cluster, and the same sweep as processes of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import yaml
from interrupted import contents

import hydra_plugins.lossbench_packed as plugin
from lossbench import cli, cluster

SETTINGS = {
    field.name: field.default_factory() if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(plugin.PackedLauncherConf)
    if field.name != "_target_"
}


def test_the_yaml_has_every_key_of_the_launcher_with_its_default():
    text = (cli.conf_dir() / "hydra" / "launcher" / "packed_slurm.yaml").read_text()
    keys = yaml.safe_load(text)
    assert keys.pop("defaults") == ["packed"]
    assert keys == {**SETTINGS, "executor": "slurm"}


def test_what_is_not_said_is_not_asked_of_slurm():
    told = cluster.Settings(**{**SETTINGS, "executor": "slurm"}).parameters
    assert not {"slurm_partition", "slurm_account", "slurm_qos", "gpus_per_node"} & told.keys()
    asked = {**SETTINGS, "executor": "slurm", "partition": "cpu", "gpus_per_node": 1}
    told = cluster.Settings(
        **asked,
    ).parameters
    assert (told["slurm_partition"], told["gpus_per_node"]) == ("cpu", 1)
    assert told["timeout_min"] == 60


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        (["hydra.launcher.executor=ray"], "use inline, local or slurm"),
        (["hydra.launcher.partitoin=cpu"], "partitoin"),
        (["hydra/launcher=packed_slrum"], "packed_slrum"),
    ],
)
def test_a_mistake_names_the_cure_and_writes_nothing(tmp_path, monkeypatch, capsys, line, cure):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data=diabetes", "loss=mse", "steps=2", *line]) == cli.MISTAKE
    assert cure in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("code", "out", "err", "queued"),
    [
        (0, "7_0 main lossbench PD\n", "", True),
        (0, "", "", False),
        (1, "", "slurm_load_jobs error: Invalid job id specified\n", False),
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller\n", True),
    ],
)
def test_a_job_that_accounting_does_not_know_is_looked_for_in_the_queue(
    tmp_path, monkeypatch, code, out, err, queued
):
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\nprintf '{out!s}'\nprintf '{err!s}' >&2\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    class Job:
        job_id = "7_0"

    assert cluster._is_queued(Job()) is queued
