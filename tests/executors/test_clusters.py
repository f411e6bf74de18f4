"""A sweep on a real Dask and a real Ray: the same bits, whatever happens to workers and commands.

`python -m pytest -n 2 --dist loadgroup tests/executors`; needs `pip install distributed ray`. Left
out of a plain `pytest`: it starts clusters of two workers each, and mostly waits.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from clusters import Cluster, Dask, Ray
from commands import TASK, WAITING, Command, packs, place_of_commands, until
from interrupted import contents, mounted
from needs import skip_without

from lossbench import cli, store

SHORT = [*TASK, "loss=mse", "seed=range(4)", "steps=100"]
LONG = [*WAITING, "seed=range(4)", "steps=600", "log_every=20", "eval_every=300"]
LONG += ["engine.commit_every=0.5"]


DASK, RAY = pytest.mark.xdist_group("dask"), pytest.mark.xdist_group("ray")
"""With `-n 2 --dist loadgroup` each cluster is started once, and both at the same time."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(Dask, marks=DASK, id="dask"), pytest.param(Ray, marks=RAY, id="ray")],
)
def cluster(request):
    with started(request.param) as one:
        yield one


def started(kind):
    package = {"dask": "distributed", "ray": "ray"}[kind.launcher]
    if find_spec(package) is None:
        skip_without(kind.launcher, f"{package} is not installed")
    one = kind(short_folder(kind.launcher))
    one.start()
    return one


def short_folder(name):
    """A new folder, which has a short path, because it becomes a socket's name."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return place_of_commands(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module")
def here(place, tmp_path_factory):
    """The sweeps on this machine alone, where the loss does not wait; contents by name."""
    alone = Cluster(tmp_path_factory.mktemp("alone"))
    for line, name in ((SHORT, "short"), (LONG, "long")):
        Command(alone, place, *line, "engine.pack_size=128", f"name={name}").ends(cli.DONE)
    return {name: contents(place / "runs" / name) for name in ("short", "long")}


def training(place, name):
    """Packs that are leased and have a checkpoint, with the process that trains each."""
    found = {}
    for pack_id, state in packs(place, name).items():
        lock = place / "runs" / name / "packs" / pack_id / store.LOCK
        if state["step"] > 0 and not state["is_finished"] and store.is_held(lock):
            found[pack_id] = int(store.holder(lock))
    return found


def doubled(place, name):
    """How many runs more than one pack has finished."""
    finished = [s for s in packs(place, name).values() if s["is_finished"]]
    counts = Counter(run_id for state in finished for run_id in state["members"])
    return sum(count > 1 for count in counts.values())


def worker_of(process):
    """The worker that began a training process: the parent of the one that it is a copy of."""
    for _ in range(2):
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
    return process


def say(record_property, promise, told):
    record_property("figure", (promise, told))


def test_a_sweep_on_a_cluster_has_the_bits_of_one_on_this_machine(
    cluster, place, here, record_property
):
    name = f"{cluster.launcher}-short"
    line = [*SHORT, *cluster.words, f"name={name}"]
    out = Command(cluster, place, *line).ends(cli.DONE)
    assert "4 to train in 4 packs" in out
    assert contents(place / "runs" / name) == here["short"]
    told = (
        f"4 packs on 2 workers, bit-identical to this machine alone, doubled {doubled(place, name)}"
    )
    say(record_property, f"{cluster.launcher}: array", told)


def test_neither_an_interrupt_nor_a_kill_nor_a_lost_worker_loses_anything(
    cluster, place, here, record_property
):
    name = f"{cluster.launcher}-long"
    line = [*LONG, *cluster.words, f"name={name}"]

    command = Command(cluster, place, *line)
    until(lambda: training(place, name), what="a checkpoint")
    os.killpg(command.process.pid, signal.SIGINT)
    assert "Interrupted" in command.ends(cli.INTERRUPTED)
    assert not training(place, name)
    begun = [state for state in packs(place, name).values() if state["step"]]
    assert begun
    assert all(state["starts"] == 0 for state in begun)  # ended in order

    command = Command(cluster, place, *line)
    until(lambda: training(place, name), what="packs that go on")
    command.process.kill()
    command.process.wait()
    until(lambda: not training(place, name), what="the end of those that train for it")
    # Ray kills who works for a command that is gone: what was committed before stays.
    is_in_order = cluster.launcher != "ray"
    assert not is_in_order or all(state["starts"] == 0 for state in packs(place, name).values())

    command = Command(cluster, place, *line)
    victims = until(lambda: training(place, name), what="packs that go on")
    os.kill(worker_of(next(iter(victims.values()))), signal.SIGKILL)
    command.ends(cli.DONE)
    assert contents(place / "runs" / name) == here["long"]
    assert doubled(place, name) == 0
    for what in ("Ctrl-C", "command killed, attached again", "worker killed"):
        say(record_property, f"{cluster.launcher}: {what}", "lost 0, doubled 0, bit-identical")


AN_HOUR_AHEAD = """
import time

of_machine = time.time
time.time = lambda: of_machine() + 3600
"""


@DASK
def test_a_worker_without_room_on_its_own_disk_and_one_with_another_clock_serve(
    place, here, tmp_path, record_property
):
    if find_spec("distributed") is None:
        skip_without("dask", "distributed is not installed")
    (tmp_path / "sitecustomize.py").write_text(AN_HOUR_AHEAD)
    with mounted(tmp_path / "disk", "size=4k") as disk, Dask(short_folder("dask")) as dask:
        (disk / "full").write_bytes(b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(b"x" * 4096)
        dask.start_scheduler()
        dask.start_worker("full", TMPDIR=str(disk))
        dask.start_worker("ahead", PYTHONPATH=str(tmp_path))
        command = Command(dask, place, *LONG, *dask.words, "hydra.launcher.workers=2", "name=odd")
        until(lambda: len(training(place, "odd")) == 2, what="a pack on each worker")
        status = Command(dask, place, "status", "runs/odd", "--json").ends(cli.DONE)
        since = [pack["seconds"] for pack in json.loads(status)["packs"] if pack["process"]]
        assert all(0 <= seconds < 600 for seconds in since)
        command.ends(cli.DONE)
    assert contents(place / "runs" / "odd") == here["long"]
    assert doubled(place, "odd") == 0
    told = "each trains, lost 0, doubled 0, bit-identical"
    say(record_property, "a worker whose own disk is full, one whose clock is an hour ahead", told)


@RAY
def test_a_sweep_begun_on_dask_goes_on_in_processes_and_ends_on_ray(
    place, here, tmp_path, record_property
):
    alone = Cluster(tmp_path)
    alone.environment["LOSSBENCH_WAITS"] = "1"
    with started(Dask) as dask, started(Ray) as ray:
        for cluster, words in ((dask, dask.words), (alone, ["hydra.launcher.workers=2"])):
            command = Command(cluster, place, *LONG, *words, "name=mixed")
            until(lambda: training(place, "mixed"), what="packs that train")
            time.sleep(1)
            os.killpg(command.process.pid, signal.SIGINT)
            command.ends(cli.INTERRUPTED)
        Command(ray, place, *LONG, *ray.words, "name=mixed").ends(cli.DONE)
    assert contents(place / "runs" / "mixed") == here["long"]
    assert "4 done" in Command(alone, place, "verify", "runs/mixed").ends(cli.DONE)
    Command(alone, place, "report", "runs/mixed").ends(cli.DONE)
    told = "bit-identical, one report, verify clean"
    say(record_property, "begun on Dask, continued in processes, ended on Ray", told)


def test_a_scheduler_that_does_not_answer_is_named_before_anything_is_written(cluster, place):
    words = [word for word in cluster.words if "address" not in word]
    words += ["hydra.launcher.address=127.0.0.1:1", "name=nobody"]
    out = Command(cluster, place, *SHORT, *words).ends(cli.MISTAKE)
    assert "answers at hydra.launcher.address=127.0.0.1:1" in out
    assert "Traceback" not in out
    assert not (place / "runs" / "nobody" / "sweep.json").exists()
