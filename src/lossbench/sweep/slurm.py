"""Backend that trains packs as elements of Slurm job arrays, which later commands find again.

The state is always read from disk and from Slurm: this process may end at any time, and the next
command goes on waiting for the jobs that run. An element that is signalled at its time limit
commits its pack and is queued again.
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
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lossbench import store
from lossbench.question import ConfigError
from lossbench.question.schema import LauncherNode
from lossbench.sweep.backend import Backend, InProcess, RetryPolicy, Trained
from lossbench.sweep.inventory import OpenPack
from lossbench.sweep.stop import Interrupted, Stop, stopping
from lossbench.sweep.training import Trainer

submitit: Any = import_module("submitit") if find_spec("submitit") else None
"""Package that submits jobs; None if the extra `slurm` of lossbench is not installed."""

Job = Any
"""Job of submitit, which may not be installed."""

log = logging.getLogger(__name__)

ALIVE = ("PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING")
ALIVE += ("COMPLETING", "PREEMPTED", "RESIZING", "UNKNOWN", "READY")
"""States of jobs that may still train; a job that Slurm queues again may be PREEMPTED."""

UNCERTAIN = ("PREEMPTED", "UNKNOWN")
"""States that Slurm's accounting gives to jobs that are queued again and to jobs that are gone."""

CANCELLED = ("CANCELLED", "PREEMPTED", "REVOKED", "DEADLINE", "TIMEOUT", "INTERRUPTED")
"""States of jobs that a person or a limit ended; this command does not submit their packs again."""

FAULTS_OF_NODES = ("UNKNOWN", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL")
"""States of jobs that ended by a fault of the machine; their packs are not halved."""

JOBS_LOCK_PATIENCE = 300.0
"""Seconds to wait while another command submits jobs."""

USUAL_ARRAY = 1001
"""Largest number of elements of an array if the cluster does not report `MaxArraySize`."""

LOOKS = 4
"""Number of checks in a row that must miss a job before the job counts as gone: a job that queues
itself again is reported as failed, and is not in the queue, for a moment."""

POLL_SECONDS = 2.0
"""Seconds between two checks of Slurm and of the packs."""

JOBS, NOTES = Path("jobs"), Path("jobs/packs")
"""Subfolders of a sweep: files of submitit, and for each pack a file that names its job."""


def parameters(launcher: LauncherNode) -> dict[str, object]:
    """Resources of a job, as parameters of submitit."""
    job: dict[str, object] = {"name": "lossbench"}
    job |= {name: getattr(launcher, name) for name in ("timeout_min", "cpus_per_task", "mem_gb")}
    if launcher.gpus_per_node:
        job["gpus_per_node"] = launcher.gpus_per_node
    if launcher.executor != "slurm":
        return job
    job["slurm_array_parallelism"] = launcher.array_parallelism
    job["slurm_signal_delay_s"] = launcher.signal_delay_s
    job["slurm_additional_parameters"] = dict(launcher.additional)
    for name in ("partition", "account", "qos"):
        if (value := getattr(launcher, name)) is not None:
            job[f"slurm_{name}"] = value
    if launcher.setup:
        job["slurm_setup"] = [*launcher.setup]
    return job


@dataclass(frozen=True)
class Element:
    """Function of a Slurm job: trains one pack."""

    pack: OpenPack
    trainer: Trainer

    def __call__(self) -> int:
        """Train the pack; if an end is asked for, commit the pack, then exit or be queued again."""
        logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
        try:
            self.trainer.prepare(self.pack.runs)
            with stopping() as stop:
                return InProcess(self.trainer).train([self.pack], stop).ended
        except (ConfigError, store.StoreError) as error:
            log.error("%s", error)  # the pack is unchanged, and waiting commands abandon it
            return 0
        except Interrupted as end:
            if end.signal == signal.SIGUSR2:  # at a time limit; submitit's handler is active again
                os.kill(os.getpid(), signal.SIGUSR2)
                time.sleep(60)
            sys.exit(128 + end.signal)

    def checkpoint(self) -> object:
        """Return what submitit queues again: the element itself, because all state is on disk."""
        return submitit.helpers.DelayedSubmission(self)


class SlurmBackend(Backend):
    """Trains packs in Slurm jobs. Any number of commands may wait for the same jobs."""

    # `packs_at_once` is 1: packs are as large as memory allows, so that few jobs wait in the queue.

    def __init__(self, trainer: Trainer, launcher: LauncherNode) -> None:
        if submitit is None:
            raise ConfigError(
                f"hydra.launcher.executor={launcher.executor} needs submitit: "
                "pip install 'lossbench[slurm]'"
            )
        self.trainer, self.launcher = trainer, launcher
        self.is_slurm = launcher.executor == "slurm"
        self.retries = RetryPolicy(trainer.engine)
        self.queue: set[str] | None = None

    def check(self) -> None:
        """Refuse a machine without Slurm's commands."""
        if self.is_slurm and not shutil.which("srun"):
            raise ConfigError(
                "hydra/launcher=packed_slurm needs Slurm's commands, and srun is not on PATH: give "
                "the command on a login node, or try it here with hydra.launcher.executor=local"
            )

    def queued(self, sweep_folder: Path) -> set[str]:
        """Names (pack_id) of the packs whose jobs wait or run."""
        return {*self._attached_jobs(sweep_folder)}

    def train(self, packs: Sequence[OpenPack], stop: Stop) -> Trained:
        """See `Backend`; submits packs that have no job, and waits until all jobs have ended."""
        sweep_folder = packs[0].sweep_folder
        with store.lock(sweep_folder / JOBS / store.LOCK, patience=JOBS_LOCK_PATIENCE):
            jobs = self._attached_jobs(sweep_folder)
            fresh = [
                pack
                for pack in packs
                if pack.pack_id not in jobs and not pack.is_leased and pack.record is not None
            ]
            jobs |= self._submit(fresh, sweep_folder)
        waiting = {pack.pack_id: pack for pack in packs if pack.pack_id in jobs}
        log.info(
            "%d packs: %d submitted, %d found running or queued; Ctrl-C leaves them to Slurm",
            *(len(packs), len(fresh), len(waiting) - len(fresh)),  # other processes have the rest
        )
        ended, abandoned, times_gone = 0, {}, dict.fromkeys(waiting, 0)
        most_gone = LOOKS if self.is_slurm else 1
        while waiting:
            until = time.monotonic() + POLL_SECONDS
            while time.monotonic() < until:
                stop.check()
                time.sleep(0.1)
            self._look([jobs[pack_id] for pack_id in waiting])
            for pack_id, pack in [*waiting.items()]:
                record = store.committed(pack.folder)  # none while its halves train
                is_finished = record is not None and record["is_finished"]
                is_alive = self._is_alive(jobs[pack_id])
                times_gone[pack_id] = 0 if is_alive else times_gone[pack_id] + 1
                if not is_finished and times_gone[pack_id] < most_gone:
                    continue
                del waiting[pack_id]
                if record is None or is_finished:
                    ended += len(pack.runs)
                elif reason := self._why_abandoned(pack, jobs[pack_id], record):
                    abandoned[pack_id] = pack, reason
        return Trained(ended, abandoned)

    def _attached_jobs(self, sweep_folder: Path) -> dict[str, Job]:
        """Jobs that earlier commands have submitted and that may still train, by pack_id."""
        if not self.is_slurm:
            return {}  # only the command that started local processes knows them
        jobs = {}
        for path in sorted((sweep_folder / NOTES).glob("*.json")):
            note = json.loads(store.read_file(path))
            record = store.committed(sweep_folder / "packs" / path.stem)
            if note["executor"] == "slurm" and record is not None and not record["is_finished"]:
                folder = sweep_folder / JOBS
                jobs[path.stem] = submitit.SlurmJob(folder=folder, job_id=note["job"], tasks=[0])
        self._look(jobs.values())
        return {pack_id: job for pack_id, job in jobs.items() if self._is_alive(job)}

    def _look(self, jobs: Collection[Job]) -> None:
        """Ask Slurm for the states of all jobs at once."""
        if not self.is_slurm or not jobs:
            return
        watcher = submitit.SlurmJob.watcher
        watcher.clear()  # a job that has ended may have been queued again
        for job in jobs:
            watcher.register_job(job.job_id)
        watcher.update()
        states = {self._state(job) for job in jobs}
        self.queue = set() if states <= {*ALIVE} - {*UNCERTAIN} else _queue()

    def _submit(self, packs: Sequence[OpenPack], sweep_folder: Path) -> dict[str, Job]:
        """Submit packs as arrays, and record the job of each pack; returns jobs by pack_id."""
        if not packs:
            return {}
        executor = submitit.AutoExecutor(
            folder=sweep_folder / JOBS,
            cluster=self.launcher.executor,
            slurm_max_num_timeout=self.launcher.requeues,
        )
        executor.update_parameters(**parameters(self.launcher))
        jobs: dict[str, Job] = {}
        size = _largest_array() if self.is_slurm else len(packs)
        for start in range(0, len(packs), size):
            batch = packs[start : start + size]
            try:
                # Not map_array: submitit must find `checkpoint` at the function itself, or it
                # queues preempted jobs again, but not jobs that reach their time limit.
                with executor.batch():
                    array = [executor.submit(Element(pack, self.trainer)) for pack in batch]
            except submitit.core.utils.FailedJobError as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                of_sbatch = [line for line in lines if line.startswith("sbatch: error")]
                reason = of_sbatch[0] if of_sbatch else lines[0][:200]
                raise ConfigError(
                    f"Slurm refuses a job of {len(batch)} packs ({reason}): correct "
                    f"what it names with hydra.launcher.partition, account, qos, "
                    f"timeout_min, mem_gb; or "
                    "give fewer and larger packs with engine.pack_size"
                ) from error
            for pack, job in zip(batch, array, strict=True):
                note = {"job": job.job_id, "executor": self.launcher.executor}
                path = sweep_folder / NOTES / f"{pack.pack_id}.json"
                store.write(path, store.to_json(note))
                jobs[pack.pack_id] = job
        return jobs

    def _is_alive(self, job: Job) -> bool:
        """Whether a job may still train, as of the last `_look`."""
        state = self._state(job)
        if not self.is_slurm or (state in ALIVE and state not in UNCERTAIN):
            return state in ALIVE
        # For a moment accounting reports a job that queues itself again as failed.
        return self.queue is None or job.job_id in self.queue

    def _state(self, job: Job) -> str:
        """State of a job in one word of Slurm, as of the last `_look`."""
        state = job.state
        if self.is_slurm:
            state = job.watcher.get_state(job.job_id, mode="cache")
        return (state.split() or ["UNKNOWN"])[0].rstrip("+")

    def _why_abandoned(self, pack: OpenPack, job: Job, record: Mapping[str, object]) -> str:
        """Reason to abandon a pack whose job ended first, or ""; may halve it: `RetryPolicy`."""
        state, has_begun = self._state(job), bool(record["starts"])
        ending = f"job {job.job_id}: {state}"
        if pack.is_leased:
            return ""  # another process has it
        if state in CANCELLED:
            log.warning("pack %s is not finished, %s", pack.pack_id, ending)
            return f"{ending}; its checkpoint is kept"
        is_of_node = state in (*FAULTS_OF_NODES, "COMPLETED") or (
            state == "FAILED" and not has_begun
        )
        if is_of_node:
            log.warning("pack %s: %s, which is not a fault of its runs", pack.pack_id, ending)
        try:
            last_words = "\n" + str(job.stderr())[-2000:]
        except Exception:
            last_words = ""  # the output of the job is not there yet
        return self.retries.reason(pack, ending, is_of_pack=not is_of_node, last_words=last_words)


def _queue() -> set[str] | None:
    """Ids of this user's jobs in Slurm's queue; None if Slurm does not answer."""
    output = _output_of("squeue", "--me", "-h", "-r", "-o", "%i")
    return None if output is None else {*output.split()}


def _largest_array() -> int:
    """Largest number of elements of one array."""
    output = _output_of("scontrol", "show", "config") or ""
    setting = re.search(r"MaxArraySize\s*=\s*(\d+)", output)
    return max(1, int(setting[1])) if setting else USUAL_ARRAY


def _output_of(*line: str) -> str | None:
    """Output of one of Slurm's commands; None if the command fails."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
