"""A sweep on a real Slurm: the same command, the same bits, whatever happens to its jobs.

`python -m pytest tests/slurm`; needs root and Debian's slurmctld slurmd slurm-client slurmdbd
mariadb-server munge. Left out of a plain `pytest`: one node, one at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from commands import TASK, WAITING, Command, packs, place_of_commands, until
from interrupted import contents
from needs import skip_without
from one_node import CPUS, OneNode, missing

from lossbench import cli, records

SHORT = [*TASK, "loss=mse", "seed=range(5)", "steps=200"]
LONG = [*WAITING, "steps=1000", "log_every=20", "eval_every=400", "engine.commit_every=0.5"]
MINUTE = [*WAITING, "steps=4000", "log_every=500", "eval_every=4000"]
ON_SLURM = ["hydra/launcher=packed_slurm", "hydra.launcher.mem_gb=1"]


@pytest.fixture(scope="module")
def node():
    if lacking := missing():
        skip_without("slurm", f"no Slurm can run here: {', '.join(lacking)} missing")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: it becomes a socket's name
    one = OneNode(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where all commands are given: it has a loss that takes its time."""
    return place_of_commands(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module", autouse=True)
def minute(node, place):
    """A pack that trains for a minute, under a limit of one, beside all other tests.

    Slurm looks at limits every 30 s and may be that early: 25 to 55 s after the job began.
    """
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5"]
    limit += ["hydra.launcher.partition=apart"]
    command = Command(node, place, *MINUTE, *ON_SLURM, *limit, "name=minute")
    until(lambda: jobs(place, "minute"), what="a job")
    return command


@pytest.fixture(scope="module")
def undisturbed(node, place):
    """The long sweep on this machine, where its loss does not wait: its bits are the same."""
    Command(node, place, *LONG, "seed=range(4)", "engine.pack_size=128", "name=inline").ends(
        cli.DONE
    )
    return contents(place / "runs" / "inline")


def jobs(place, name):
    """The job of every pack of a sweep that was submitted, by pack_id."""
    notes = (place / "runs" / name / "jobs" / "packs").glob("*.json")
    return {path.stem: json.loads(path.read_text())["job"] for path in notes}


def training(place, name, *, but=()):
    """Packs that have a checkpoint and are not finished, by pack_id their job."""
    begun = {
        pack_id
        for pack_id, state in packs(place, name).items()
        if state["step"] > 0 and not state["is_finished"]
    }
    return {pack_id: job for pack_id, job in jobs(place, name).items() if pack_id in begun - {*but}}


def hurry(node):
    """Slurm lets a requeued job wait for two minutes; not here.

    Two seconds it must wait: in the second of its requeue Slurm takes it for the one it ended, and
    does not start it (job credential revoked).
    """
    for line in node.run("squeue", "-h", "-r", "-o", "%A %t %r").splitlines():
        number, state, *why = line.split()
        if state == "PD" and "BeginTime" in why:
            shown = node.run("scontrol", "show", "job", number)
            # The number of an array's first job shows all of them.
            jobs = [text.strip() for text in shown.split("\n\n")]
            (job,) = [text for text in jobs if text.startswith(f"JobId={number} ")]
            (begin,) = re.findall(r"\bEligibleTime=(\S+)", job)  # and not PreemptEligibleTime
            if datetime.fromisoformat(begin) > datetime.now() + timedelta(seconds=5):
                node.run("scontrol", "update", f"JobId={number}", "StartTime=now+2")


def followed(command, node):
    """Until a command ends, with requeued jobs hurried on."""
    while command.process.poll() is None:
        hurry(node)
        time.sleep(0.5)


def say(record_property, promise, told):
    record_property("figure", (promise, told))


def test_a_sweep_on_slurm_has_the_bits_of_one_on_this_machine(node, place, record_property):
    Command(node, place, *SHORT, "engine.pack_size=128", "name=here").ends(cli.DONE)
    line = [*SHORT, *ON_SLURM, "name=short"]
    assert "5 packs: 5 submitted, 0 found" in Command(node, place, *line).ends(cli.DONE)
    assert contents(place / "runs" / "short") == contents(place / "runs" / "here")
    arrays = {job.split("_")[0] for job in jobs(place, "short").values()}
    assert len(arrays) == 2  # of at most four jobs, says slurm.conf
    assert "submitted" not in Command(node, place, *line).ends(cli.DONE)
    told = "5 packs in arrays of at most 4, bit-identical to this machine without Slurm"
    say(record_property, "Slurm: arrays", told)


def test_an_experiment_works_through_it(node, place, record_property):
    line = ["--config-dir", "conf", "experiment=tiny", "report=verdicts", *ON_SLURM]
    out = Command(node, place, *line).ends(cli.DONE)
    assert out.count("submitted") == 1
    runs = records.load(place / "runs" / "tiny").runs
    assert {*runs.status} == {"done"}
    assert (place / "runs" / "tiny" / "report" / "index.html").is_file()
    say(record_property, "Slurm: an experiment", f"{len(runs)} runs, and the report")


def test_jobs_are_found_again_and_those_that_are_ended_go_on(
    node, place, undisturbed, record_property
):
    line = [*LONG, "seed=range(4)", *ON_SLURM, "name=long"]
    first = Command(node, place, *line)
    until(lambda: len(jobs(place, "long")) == 4, what="four jobs")
    os.killpg(first.process.pid, signal.SIGINT)
    assert "Interrupted" in first.ends(cli.INTERRUPTED)
    say(record_property, "Slurm: the command is interrupted", "the next finds its jobs, 0 twice")

    second = Command(node, place, *line)
    until(lambda: "4 packs: 0 submitted, 4 found running or queued" in second.out, what="all jobs")
    # What Slurm sends before a limit is sent here: its own clock is a minute coarse.
    ends = {
        "limited": lambda job: node.run("scancel", "--signal=USR2", job),
        "cancelled": lambda job: node.run("scancel", job),
        "killed": lambda job: [os.kill(pid, signal.SIGKILL) for pid in _python_of(node, job)],
    }
    victims = {}
    for name, end in ends.items():
        unharmed = until(lambda: training(place, "long", but=victims), what="a checkpoint")
        pack_id, job = next(iter(unharmed.items()))
        victims[pack_id] = name
        end(job)
    followed(second, node)
    out = second.ends(cli.SOME_FAILED)
    assert "CANCELLED" in out
    assert "ended at step" in out
    limited, cancelled, _ = victims
    assert _restarts(node, [jobs(place, "long")[limited]])
    (left,) = [one for one, state in packs(place, "long").items() if not state["is_finished"]]
    assert left == cancelled
    assert packs(place, "long")[left]["step"] > 0
    Command(node, place, *line).ends(cli.DONE)
    assert contents(place / "runs" / "long") == undisturbed
    say(record_property, "Slurm: kill -9 of a job", "submitted again, bit-identical")
    say(record_property, "Slurm: scancel", "the others done, it goes on from its checkpoint")
    say(record_property, "Slurm: the signal of a time limit", "queued again, bit-identical")


def _python_of(node, job):
    """Processes of a job, from what they were started with."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        array, _, task = job.partition("_")
        mine = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
        if mine <= {*words} and b"submitit.core._submit" in line and b"srun" not in line:
            found.append(int(folder.name))
    return found


def test_a_preempted_pack_is_queued_again_and_goes_on(node, place, undisturbed, record_property):
    command = Command(node, place, *LONG, "seed=range(2)", *ON_SLURM, "name=preempted")
    until(lambda: len(training(place, "preempted")) == 2, what="two checkpoints")
    many = ["-p", "high", "-n", str(CPUS - 1), "--mem=100"]
    node.run("sbatch", *many, "--wrap", "sleep 3", "-o", "/dev/null")
    began = jobs(place, "preempted").values()
    until(
        lambda: "PREEMPTED" in "\n".join(node.states()) or _restarts(node, began), what="preemption"
    )
    followed(command, node)
    command.ends(cli.DONE)
    assert _restarts(node, began)
    found = contents(place / "runs" / "preempted")
    assert len(found) == 2
    assert found.items() <= undisturbed.items()
    say(record_property, "Slurm: preemption", "committed, queued again, bit-identical")


def _restarts(node, jobs):
    shown = [node.run("scontrol", "show", "job", job) for job in jobs]
    return sum(int(number) for text in shown for number in re.findall(r"Restarts=(\d+)", text))


def test_a_pack_that_slurm_itself_ends_at_its_limit_goes_on(node, place, minute, record_property):
    followed(minute, node)
    minute.ends(cli.DONE)
    restarts = _restarts(node, jobs(place, "minute").values())
    assert restarts
    Command(node, place, *MINUTE, "name=minute_here").ends(cli.DONE)
    assert contents(place / "runs" / "minute") == contents(place / "runs" / "minute_here")
    told = f"by Slurm's own clock, {restarts} times: committed, queued again, bit-identical"
    say(record_property, "Slurm: time limit of one minute", told)


def test_what_slurm_refuses_is_said_with_the_cure(node, place):
    line = [*TASK, "loss=mse", "steps=20", "name=refused", *ON_SLURM]
    line += ["hydra.launcher.partition=gpu"]
    out = Command(node, place, *line).ends(cli.MISTAKE)
    assert "invalid partition" in out
    assert "hydra.launcher.partition" in out
    assert "Traceback" not in out


def test_a_finished_pack_that_is_queued_again_changes_nothing(node, place, record_property):
    folder = place / "runs" / "short"
    before = {path: path.stat().st_mtime_ns for path in (folder / "packs").rglob("*.*")}
    node.run("scontrol", "requeue", next(iter(jobs(place, "short").values())))
    until(
        lambda: (hurry(node), not node.run("squeue", "-h", "-r", "-p", "main"))[1],
        what="the end of the job",
    )
    assert {path: path.stat().st_mtime_ns for path in (folder / "packs").rglob("*.*")} == before
    say(record_property, "Slurm: a finished pack is queued again", "nothing changes")
