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
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from configs import TINY, write_experiment
from interrupted import contents
from needs import skip_without
from one_node import OneNode, missing

from lossbench import cli, records, store

LOSSES = "loss=mse,mae,huber"
TASK = ["-m", "data=diabetes", "model=linear", "batch_size=16", LOSSES, "engine.pack_size=1"]
SHORT = [*TASK, "steps=200", "name=short"]
LONG = [*TASK, "steps=24000", "log_every=400", "eval_every=8000", "engine.commit_every=0.5"]
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
    return tmp_path_factory.mktemp("sweeps")


class Command:
    """A `lossbench` command in a process of its own."""

    def __init__(self, node, place, *line):
        self.node, self.folder = node, place
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lossbench.cli", *line],
            cwd=place,
            env={**node.environment, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ends(self, code):
        out, _ = self.process.communicate(timeout=500)
        assert self.process.returncode == code, out
        return out


WAITING_LOSS = """
import os, time
from lossbench.losses.spec import Loss

def waiting(output, target):
    if "SLURM_JOB_ID" in os.environ and output.requires_grad:
        time.sleep(0.012)
    return 0.5 * (output - target).square().sum(-1)

LOSSES = (
    Loss(fn=waiting, inverse_link="identity", family="power", task="regression", formula="?",
         claims=frozenset(), source="test"),
)
"""
"""A loss that takes its time on Slurm, and no processor."""

WAITING = [*TASK[:4], "loss=waiting", "steps=5000", "log_every=500", "eval_every=5000"]
WAITING = ["--config-dir", "conf", *WAITING, "extensions=[waiting_loss]"]


@pytest.fixture(scope="module", autouse=True)
def minute(node, place):
    """A pack that trains for more than a minute, under a limit of one, beside all other tests.

    Slurm looks at limits every 30 s and may be that early: 25 to 55 s after the job began.
    """
    (place / "waiting_loss.py").write_text(WAITING_LOSS)
    (place / "conf" / "loss").mkdir(parents=True)
    (place / "conf" / "loss" / "waiting.yaml").write_text("fn: waiting\n")
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=5"]
    limit += ["hydra.launcher.partition=apart"]
    command = Command(node, place, *WAITING, *ON_SLURM, *limit, "name=minute")
    until(lambda: job_of_one_pack(place, "minute"), what="a job")
    return command


@pytest.fixture(scope="module")
def undisturbed(node, place):
    """The long sweep on this machine, without Slurm, in one pack: its bits are the same."""
    whole = [word for word in LONG if not word.startswith("engine.")]
    Command(node, place, *whole, "name=inline").ends(cli.DONE)
    return contents(place / "runs" / "inline")


def until(condition, seconds=120, what=""):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"it never came: {what}")


def packs(place, name):
    found = {}
    for folder in (place / "runs" / name / "packs").glob("*"):
        state = store.committed(folder)
        if state is not None:
            found[folder.name] = state
    return found


def training(place, name, *, least=1):
    """Packs that have a checkpoint, by pack_id their job."""
    notes = place / "runs" / name / "jobs" / "packs"
    begun = [one for one, state in packs(place, name).items() if state["step"] > 0]
    if len(begun) < least:
        return {}
    return {one: json.loads((notes / f"{one}.json").read_text())["job"] for one in begun}


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
            (begin,) = re.findall(r"EligibleTime=(\S+)", job)
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
    Command(node, place, *SHORT[:-1], "name=here").ends(cli.DONE)
    out = Command(node, place, *SHORT, *ON_SLURM).ends(cli.DONE)
    assert "3 packs: 3 submitted, 0 found" in out
    assert contents(place / "runs" / "short") == contents(place / "runs" / "here")
    again = Command(node, place, *SHORT, *ON_SLURM).ends(cli.DONE)
    assert "submitted" not in again
    say(record_property, "Slurm: an array", "3 packs, bit-identical to this machine without Slurm")


def test_tuning_and_confirming_work_through_it(node, place, record_property):
    write_experiment(place, "tiny", TINY)
    line = ["--config-dir", "conf", "experiment=tiny", "report=verdicts", *ON_SLURM]
    out = Command(node, place, *line).ends(cli.DONE)
    assert out.count("submitted") == 2
    runs = records.load(place / "runs" / "tiny").runs
    assert runs.groupby("stage").status.unique().map(list).to_dict() == {
        "tune": ["done"],
        "confirm": ["done"],
    }
    assert (place / "runs" / "tiny" / "report" / "index.html").is_file()
    say(record_property, "Slurm: both stages of the protocol", f"{len(runs)} runs, and the report")


def test_a_command_may_be_interrupted_and_finds_its_jobs_again(
    node, place, undisturbed, record_property
):
    line = [*LONG, *ON_SLURM, "name=attached"]
    first = Command(node, place, *line)
    until(lambda: training(place, "attached"), what="a checkpoint")
    os.killpg(first.process.pid, signal.SIGINT)
    assert "Interrupted" in first.ends(cli.INTERRUPTED)
    assert node.run("squeue", "-h", "-r", "-p", "main")
    before = {line.split("_")[0] for line in node.states("JobID")}
    out = Command(node, place, *line).ends(cli.DONE)
    found = re.search(r"(\d+) packs: 0 submitted, (\d+) found running or queued", out)
    assert found
    assert found[1] == found[2]
    assert {line.split("_")[0] for line in node.states("JobID")} == before
    assert contents(place / "runs" / "attached") == undisturbed
    say(
        record_property,
        "Slurm: the command is interrupted",
        "the same command finds its jobs, 0 twice",
    )


def test_a_killed_process_costs_its_pack_a_moment(node, place, undisturbed, record_property):
    command = Command(node, place, *LONG, *ON_SLURM, "name=killed")
    (job, *_) = until(lambda: training(place, "killed"), what="a checkpoint").values()
    log = next((place / "runs" / "killed" / "jobs").glob(f"{job}_0_log.out"))
    number = re.search(r"pid: (\d+)", log.read_text())
    pids = [int(number[1])] if number else _python_of(node, job)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    out = command.ends(cli.DONE)
    assert "ended at step" in out
    assert contents(place / "runs" / "killed") == undisturbed
    say(record_property, "Slurm: kill -9 of a job", "submitted again, bit-identical")


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


def test_a_cancelled_pack_leaves_the_others_and_can_go_on(
    node, place, undisturbed, record_property
):
    line = [*LONG, *ON_SLURM, "name=cancelled"]
    command = Command(node, place, *line)
    (job, *_) = until(lambda: training(place, "cancelled"), what="a checkpoint").values()
    node.run("scancel", job)
    out = command.ends(cli.SOME_FAILED)
    assert "CANCELLED" in out
    states = [state["is_finished"] for state in packs(place, "cancelled").values()]
    assert sorted(states) == [False, True, True]
    (left,) = [one for one in packs(place, "cancelled").values() if not one["is_finished"]]
    assert left["step"] > 0
    Command(node, place, *line).ends(cli.DONE)
    assert contents(place / "runs" / "cancelled") == undisturbed
    say(
        record_property,
        "Slurm: scancel",
        "2 of 3 packs done, the third goes on from its checkpoint",
    )


def test_a_preempted_pack_is_queued_again_and_goes_on(node, place, undisturbed, record_property):
    command = Command(node, place, *LONG, *ON_SLURM, "name=preempted")
    begun = until(lambda: training(place, "preempted", least=2), what="two checkpoints")
    cpus = str(os.cpu_count() or 1)
    node.run(
        "sbatch", "-p", "high", "-n", cpus, "--mem=100", "--wrap", "sleep 3", "-o", "/dev/null"
    )
    until(
        lambda: "PREEMPTED" in "\n".join(node.states()) or _restarts(node, begun), what="preemption"
    )
    followed(command, node)
    command.ends(cli.DONE)
    assert _restarts(node, begun)
    assert contents(place / "runs" / "preempted") == undisturbed
    say(record_property, "Slurm: preemption", "committed, queued again, bit-identical")


def _restarts(node, begun):
    shown = [node.run("scontrol", "show", "job", job) for job in begun.values()]
    return sum(int(number) for text in shown for number in re.findall(r"Restarts=(\d+)", text))


def test_a_pack_at_its_time_limit_is_queued_again_and_goes_on(
    node, place, undisturbed, record_property
):
    # What Slurm sends before a limit is sent here: its own clock is a minute coarse.
    command = Command(node, place, *LONG, *ON_SLURM, "name=limited")
    begun = until(lambda: training(place, "limited"), what="a checkpoint")
    for job in begun.values():
        node.run("scancel", "--signal=USR2", job)
    until(lambda: _restarts(node, begun), what="a job that is queued again")
    followed(command, node)
    command.ends(cli.DONE)
    assert contents(place / "runs" / "limited") == undisturbed
    say(
        record_property,
        "Slurm: the signal of a time limit",
        "committed, queued again, bit-identical",
    )


def test_a_pack_that_slurm_itself_ends_at_its_limit_goes_on(node, place, minute, record_property):
    followed(minute, node)
    minute.ends(cli.DONE)
    restarts = _restarts(node, {"": job_of_one_pack(place, "minute")})
    assert restarts
    Command(node, place, *WAITING, "name=minute_here").ends(cli.DONE)
    assert contents(place / "runs" / "minute") == contents(place / "runs" / "minute_here")
    told = f"by Slurm's own clock, {restarts} times: committed, queued again, bit-identical"
    say(record_property, "Slurm: time limit of one minute", told)


def job_of_one_pack(place, name):
    """The job of the one pack of a sweep."""
    notes = [*(place / "runs" / name / "jobs" / "packs").glob("*.json")]
    return json.loads(notes[0].read_text())["job"] if notes else ""


def test_more_packs_than_an_array_holds_are_several_arrays(node, place, record_property):
    line = [*TASK, "steps=20", "seed=0,1", "name=many"]
    out = Command(node, place, *line, *ON_SLURM).ends(cli.DONE)
    assert "6 packs: 6 submitted" in out
    notes = (place / "runs" / "many" / "jobs" / "packs").glob("*.json")
    arrays = {json.loads(path.read_text())["job"].split("_")[0] for path in notes}
    assert len(arrays) == 2
    told = "6 packs, MaxArraySize 4: two arrays, all done"
    say(record_property, "Slurm: more packs than an array holds", told)


def test_what_slurm_refuses_is_said_with_the_cure(node, place):
    line = [*TASK, "steps=20", "name=refused", *ON_SLURM, "hydra.launcher.partition=gpu"]
    out = Command(node, place, *line).ends(cli.MISTAKE)
    assert "invalid partition" in out
    assert "hydra.launcher.partition" in out
    assert "Traceback" not in out


def test_a_finished_pack_that_is_queued_again_changes_nothing(node, place, record_property):
    folder = place / "runs" / "short"
    before = {path: path.stat().st_mtime_ns for path in (folder / "packs").rglob("*.*")}
    job = next(json.loads(p.read_text())["job"] for p in (folder / "jobs" / "packs").iterdir())
    node.run("scontrol", "requeue", job)
    until(
        lambda: (hurry(node), not node.run("squeue", "-h", "-r", "-p", "main"))[1],
        what="the end of the job",
    )
    assert {path: path.stat().st_mtime_ns for path in (folder / "packs").rglob("*.*")} == before
    say(record_property, "Slurm: a finished pack is queued again", "nothing changes")
