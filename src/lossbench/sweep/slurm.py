"""Packs as elements of Slurm job arrays: submitted once, waited for, found again by any command.

The state is always looked up on disk and in Slurm: this process may end at any time, and the same
command goes on waiting for the jobs that run. An element that is told to end commits its pack and
is queued again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossbench import store
from lossbench.runs import ConfigError, Engine
from lossbench.sweep.care import Left, broken, seen_to
from lossbench.sweep.isolation import Died, prepare
from lossbench.sweep.leases import Claim
from lossbench.sweep.sweep import Sweep
from lossbench.sweep.training import Interrupted, Stop, stopping

log = logging.getLogger(__name__)

ALIVE = ("PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING")
ALIVE += ("COMPLETING", "PREEMPTED", "RESIZING", "UNKNOWN", "READY")
"""States of jobs that may still train; Slurm says PREEMPTED of one that it queues again."""

UNCERTAIN = ("PREEMPTED", "UNKNOWN")
"""States that accounting gives both to jobs that are queued again and to those that are gone."""

CANCELLED = ("CANCELLED", "PREEMPTED", "REVOKED", "DEADLINE", "TIMEOUT", "INTERRUPTED")
"""Somebody, or a limit, wanted the end: not tried again by the same command."""

FAULTS_OF_NODES = ("UNKNOWN", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL")
"""Of the machine, not of the pack: such a pack is left for the next command, never halved."""

TRIES = 2
"""How often a pack whose job dies at one and the same step is tried as a whole."""

PATIENCE = 300.0
"""Seconds to wait for another command that submits."""

USUAL_ARRAY = 1001
"""Elements of one array where the cluster does not say (`MaxArraySize`)."""

LOOKS = 4
"""Looks in a row that have to say that a job is gone: one that queues itself again has failed, and
is in no queue, for a moment."""

LOOK = 2.0
"""Seconds between two looks at Slurm and at the packs."""


@dataclass(frozen=True)
class Settings:
    """What a job asks Slurm for; names as in conf/hydra/launcher/packed_slurm.yaml."""

    executor: str
    partition: str | None
    account: str | None
    qos: str | None
    timeout_min: int
    mem_gb: float
    cpus_per_task: int
    gpus_per_node: int
    array_parallelism: int
    requeues: int
    signal_delay_s: int
    additional: Mapping[str, Any]
    setup: Sequence[str]

    @property
    def parameters(self) -> dict[str, Any]:
        """As submitit names them."""
        told: dict[str, Any] = {"timeout_min": self.timeout_min}
        told["cpus_per_task"] = self.cpus_per_task
        told |= {"mem_gb": self.mem_gb, "name": "lossbench"}
        told |= {"gpus_per_node": self.gpus_per_node} if self.gpus_per_node else {}
        if self.executor != "slurm":
            return told
        asked = {"partition": self.partition, "account": self.account, "qos": self.qos}
        told |= {f"slurm_{name}": value for name, value in asked.items() if value is not None}
        told["slurm_array_parallelism"] = self.array_parallelism
        told["slurm_signal_delay_s"] = self.signal_delay_s
        told["slurm_additional_parameters"] = dict(self.additional)
        return told | ({"slurm_setup": [*self.setup]} if self.setup else {})


@dataclass(frozen=True)
class Element:
    """One pack as Slurm runs it."""

    claim: Claim
    engine: Engine
    extensions: tuple[str, ...]
    title: str

    def __call__(self) -> int:
        """Train the pack; where an end is asked for, commit it and have it queued again."""
        logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
        try:
            prepare(self.claim.pack.runs, self.engine, self.extensions)
            with stopping() as stop:
                return seen_to(self.claim, self.engine, self.extensions, stop, self.title)
        except (ConfigError, store.StoreError) as error:
            log.error("%s", error)  # the pack stays as it is; who waits for it leaves it
            return 0
        except Interrupted as end:
            if end.signal == signal.SIGUSR2:  # of a time limit; submitit's handler stands again
                os.kill(os.getpid(), signal.SIGUSR2)
                time.sleep(60)
            sys.exit(128 + end.signal)

    def checkpoint(self) -> Any:
        """What submitit queues again: the same, because the state is on disk."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Cluster:
    """The crew that is a cluster. Any number of commands may wait for the same jobs."""

    hands = 1
    """A job takes as many runs as its memory holds: more jobs would mostly wait in the queue."""

    def __init__(self, settings: Settings) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                f"hydra.launcher.executor={settings.executor} needs submitit: "
                "pip install 'lossbench[slurm]'"
            ) from error
        self.submitit = submitit
        self.settings = settings
        self.deaths: dict[tuple[str, int], int] = {}
        self.queue: set[str] | None = None

    def check(self) -> None:
        """Refuse a machine from which nothing can be submitted.

        Raises:
            ConfigError: Slurm's commands are not here.
        """
        if self.settings.executor == "slurm" and not shutil.which("srun"):
            raise ConfigError(
                "hydra/launcher=packed_slurm needs Slurm's commands, and srun is not on PATH: give "
                "the command on a login node, or try it here with hydra.launcher.executor=local"
            )

    def holding(self, sweep: Sweep) -> set[str]:
        """Packs whose jobs wait or run, by pack_id."""
        return {*self._attached(sweep)}

    def train(self, sweep: Sweep, claims: Sequence[Claim], stop: Stop, left: Left) -> int:
        """Submit the packs that no job trains, wait until all jobs have ended.

        Returns:
            How many runs came to an end.
        """
        with store.lock(_jobs_of(sweep) / store.LOCK, patience=PATIENCE):
            jobs = self._attached(sweep)
            free = [one for one in claims if not store.is_held(one.folder / store.LOCK)]
            fresh = [one for one in free if one.folder.name not in jobs and one.record is not None]
            jobs |= self._submitted(sweep, fresh)
        known = [claim for claim in claims if claim.folder.name in jobs]  # others have the rest
        log.info(
            "%d packs: %d submitted, %d found running or queued; Ctrl-C leaves them to Slurm",
            *(len(claims), len(fresh), len(known) - len(fresh)),
        )
        waiting, ended = {claim.folder.name: claim for claim in known}, 0
        gone = dict.fromkeys(waiting, 0)
        while waiting:
            self._wait(stop)
            self._look([jobs[name] for name in waiting])
            for name, claim in [*waiting.items()]:
                state = store.committed(claim.folder)  # none while its halves train
                is_finished = state is not None and state["is_finished"]
                gone[name] = 0 if self._is_alive(jobs[name]) else gone[name] + 1
                if not is_finished and gone[name] < self._looks:
                    continue
                del waiting[name]
                if state is None or is_finished:
                    ended += len(claim.pack.runs)
                else:
                    self._take(claim, jobs[name], state, left)
        return ended

    @property
    def _looks(self) -> int:
        """In how many looks running a job has to be gone before it is."""
        return LOOKS if self.settings.executor == "slurm" else 1

    def _wait(self, stop: Stop) -> None:
        until = time.monotonic() + LOOK
        while time.monotonic() < until:
            stop.check()
            time.sleep(0.1)

    def _attached(self, sweep: Sweep) -> dict[str, Any]:
        """Jobs that earlier commands have submitted and that may still train, by pack_id."""
        found = {}
        for path in sorted(_notes_of(sweep).glob("*.json")):
            note = json.loads(path.read_bytes())
            if not note["executor"] == self.settings.executor == "slurm":
                continue  # processes of this machine are known to the command that began them
            state = store.committed(sweep.folder / "packs" / path.stem)
            if state is None or state["is_finished"]:
                continue
            job = self.submitit.SlurmJob(folder=_jobs_of(sweep), job_id=note["job"], tasks=[0])
            found[path.stem] = job
        self._look(found.values())
        return {pack_id: job for pack_id, job in found.items() if self._is_alive(job)}

    def _look(self, jobs: Collection[Any]) -> None:
        """Ask Slurm about all jobs at once."""
        if self.settings.executor != "slurm" or not jobs:
            return
        watcher = self.submitit.SlurmJob.watcher
        watcher.clear()  # a job that has ended may have been queued again
        for job in jobs:
            watcher.register_job(job.job_id)
        watcher.update()
        is_unsure = not all(_is_surely_alive(self._state(job)) for job in jobs)
        self.queue = _queue() if is_unsure else set()

    def _submitted(self, sweep: Sweep, claims: Sequence[Claim]) -> dict[str, Any]:
        if not claims:
            return {}
        from submitit.core.utils import FailedJobError

        executor = self.submitit.AutoExecutor(
            folder=_jobs_of(sweep),
            cluster=self.settings.executor,
            slurm_max_num_timeout=self.settings.requeues,
        )
        executor.update_parameters(**self.settings.parameters)
        elements = [
            Element(claim, sweep.engine, tuple(sweep.extensions), f"pack {claim.folder.name}")
            for claim in claims
        ]
        jobs: dict[str, Any] = {}
        size = _largest_array() if self.settings.executor == "slurm" else len(elements)
        for first in range(0, len(elements), size):
            some = elements[first : first + size]
            try:
                # Not map_array: the function itself has to be what `checkpoint` is asked of, or
                # submitit queues a job again that was preempted, but none at its time limit.
                with executor.batch():
                    array = [executor.submit(element) for element in some]
            except FailedJobError as error:
                raise ConfigError(
                    f"Slurm takes no job of {len(some)} packs ({_told(error)}): mend what it names "
                    "with hydra.launcher.partition, account, qos, timeout_min, mem_gb; or give "
                    "fewer and larger packs with engine.pack_size"
                ) from error
            for element, job in zip(some, array, strict=True):
                note = {"job": job.job_id, "executor": self.settings.executor}
                pack_id = element.claim.folder.name
                store.write(_notes_of(sweep) / f"{pack_id}.json", store.to_json(note))
                jobs[pack_id] = job
        return jobs

    def _is_alive(self, job: Any) -> bool:
        state = self._state(job)
        if self.settings.executor != "slurm" or _is_surely_alive(state):
            return state in ALIVE
        # Of a job that queues itself again accounting says for a moment that it has failed.
        return self.queue is None or job.job_id in self.queue

    def _state(self, job: Any) -> str:
        """In Slurm's words, without what it adds to them, as of the last look."""
        told = job.state
        if self.settings.executor == "slurm":
            told = job.watcher.get_state(job.job_id, mode="cache")
        return (told.split() or ["UNKNOWN"])[0].rstrip("+")

    def _take(self, claim: Claim, job: Any, record: Mapping[str, Any], left: Left) -> None:
        """What becomes of a pack whose job has ended before it was finished."""
        state, step = self._state(job), int(record["step"])
        told = f"job {job.job_id}: {state}"
        if store.is_held(claim.folder / store.LOCK):
            return  # another process has it
        has_begun = bool(record["starts"])
        if state in (*FAULTS_OF_NODES, "COMPLETED") or (state == "FAILED" and not has_begun):
            self.deaths[claim.folder.name, -1] = self.deaths.get((claim.folder.name, -1), 0) + 1
            if self.deaths[claim.folder.name, -1] >= TRIES:
                left[claim.folder.name] = claim, f"{told}, but not finished{_last_words(job)}"
            log.warning("pack %s: %s, not by any fault of its runs", claim.folder.name, told)
            return
        if state in CANCELLED:
            left[claim.folder.name] = claim, f"{told}; its checkpoint is kept"
            log.warning("pack %s is not finished, %s", claim.folder.name, told)
            return
        key = claim.folder.name, step
        self.deaths[key] = self.deaths.get(key, 0) + 1
        log.warning("pack %s ended at step %d, %s", claim.folder.name, step, told)
        if self.deaths[key] >= TRIES:
            broken(claim, f"pack {claim.folder.name}", Died(told + _last_words(job)))


def _is_surely_alive(state: str) -> bool:
    return state in ALIVE and state not in UNCERTAIN


def _jobs_of(sweep: Sweep) -> Path:
    return sweep.folder / "jobs"


def _notes_of(sweep: Sweep) -> Path:
    """Which job trains a pack, in a file for each pack."""
    return _jobs_of(sweep) / "packs"


def _queue() -> set[str] | None:
    """Jobs of this user that Slurm has in its queue; None where it does not answer."""
    told = _asked("squeue", "--me", "-h", "-r", "-o", "%i")
    return None if told is None else {*told.split()}


def _largest_array() -> int:
    """How many elements Slurm takes in one array."""
    told = re.search(r"MaxArraySize\s*=\s*(\d+)", _asked("scontrol", "show", "config") or "")
    return max(1, int(told[1])) if told else USUAL_ARRAY


def _asked(*line: str) -> str | None:
    """What one of Slurm's commands says; None where it fails."""
    try:
        asked = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if asked.returncode else asked.stdout


def _told(error: Exception) -> str:
    """The last line of what sbatch says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("sbatch: error")), lines[0][:200])


def _last_words(job: Any) -> str:
    """The end of what a job wrote, if it is there already."""
    try:
        return "\n" + str(job.stderr())[-2000:]
    except Exception:
        return ""
