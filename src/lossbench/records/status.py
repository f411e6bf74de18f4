"""Status of a sweep: runs that are done, in training, waiting or failed.

Reading the status takes no lock and writes nothing, so that other processes can train meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lossbench import store
from lossbench.records.load import Records, load
from lossbench.records.vocabulary import RESULTS, STATUSES, duration

SETTLED = "settled.json"
"""Name of the file in a sweep's folder with the hashes of the settled question and the records."""

ATTEMPTS = 5
"""Number of attempts to read a folder, because a pack may be divided during an attempt."""


@dataclass(frozen=True)
class PackStatus:
    """A pack that is not finished.

    Attributes:
        runs: Number of runs.
        data, losses: Data sets and losses of the runs.
        step: Updates done at the last checkpoint.
        process: Process that trains the pack, with its machine if it is on another machine; empty
            if the pack waits.
        seconds: Time in training, in seconds; 0 if the pack waits.
        job: Number of the Slurm job for the pack; empty without a job.
        seconds_left: Time to the end, in seconds, estimated from finished runs of the same data and
            model; None if no such run has finished.
    """

    pack_id: str
    runs: int
    data: str
    losses: str
    step: int
    process: str
    seconds: float
    job: str
    seconds_left: float | None


@dataclass(frozen=True)
class Status:
    """The state of a sweep, without the runs that later looks may add.

    Attributes:
        runs: Number of planned runs by status.
        packs: Packs that are not finished, those in training first.
        failed: Failed runs: run_id, data, loss, lr, seed, and the last line of the reason.
        seconds_left: Time to the end of the plan, in seconds, with as many processes as train now,
            at least one; None if no run of some data and model has finished yet.
        may_go_on: Whether an experiment may still need more seeds or learning rates than are
            planned.
    """

    name: str
    runs: dict[str, int]
    packs: tuple[PackStatus, ...]
    failed: tuple[dict[str, Any], ...]
    seconds_left: float | None
    may_go_on: bool


def status(sweep_dir: Path) -> Status:
    """Read the status of a sweep.

    Raises:
        store.StoreError: The folder is not a sweep, its plan or a table is damaged, or its packs
            change during every attempt.
    """
    for _ in range(ATTEMPTS):
        try:
            return _status(sweep_dir, load(sweep_dir))
        except FileNotFoundError:  # a pack was divided while it was read
            time.sleep(0.2)
    raise store.StoreError(f"{sweep_dir} changes while it is read: give the command again")


def _status(sweep_dir: Path, sweep: Records) -> Status:
    runs = sweep.runs
    places = sweep.planned[["data", "model", "loss"]]
    plan = dict(zip(places.index, places.itertuples(index=False), strict=True))
    finished = runs[runs["status"].isin(RESULTS)].astype({"train_seconds": float})
    by_cell = finished.groupby(["data", "model"])[["train_seconds", "stop_step"]]
    costs = by_cell.agg({"train_seconds": "mean", "stop_step": "max"})

    def seconds_of(run_ids: Sequence[str], step: int = 0) -> float | None:
        """Time to finish runs that have a checkpoint at a step; None if unknown."""
        total = 0.0
        for run_id in run_ids:
            cell = plan[run_id].data, plan[run_id].model
            if cell not in costs.index:
                return None
            cost = costs.loc[cell]
            total += cost["train_seconds"] * max(0.0, 1 - step / max(1, cost["stop_step"]))
        return total

    missing = {*runs.loc[runs["status"] == "missing", "run_id"]}
    # Failed runs are open too, because they are trained again.
    open_ids = {*runs.loc[~runs["status"].isin(RESULTS), "run_id"]}
    unpacked, packs = set(missing), []
    for folder in store.packs_of(sweep_dir):
        record = store.committed(folder)
        members = [run_id for run_id in (record or {}).get("members", ()) if run_id in open_ids]
        if record is None or record["is_finished"] or not members:
            continue
        unpacked -= {*members}
        lock = folder / store.LOCK
        is_training, step = store.is_held(lock), int(record["step"])
        packs.append(
            PackStatus(
                pack_id=folder.name,
                runs=len(members),
                data=", ".join(sorted({plan[run_id].data for run_id in members})),
                losses=", ".join(sorted({plan[run_id].loss for run_id in members})),
                step=step,
                process=store.holder(lock) if is_training else "",
                # The clock of the machine that trains may differ from the clock here.
                seconds=max(0.0, time.time() - lock.stat().st_mtime) if is_training else 0.0,
                job=_job(sweep_dir, folder.name),
                seconds_left=seconds_of(members, step),
            )
        )
    packs.sort(key=lambda pack: (not pack.process, pack.pack_id))
    rest = [pack.seconds_left for pack in packs] + [seconds_of(sorted(unpacked))]
    known = [seconds for seconds in rest if seconds is not None]
    processes = max(1, sum(bool(pack.process) for pack in packs))
    counts = runs["status"].value_counts()
    failed = tuple(
        {name: store.plain(row[name]) for name in ("run_id", "data", "loss", "lr", "seed")}
        | {"reason": (str(row["reason"]).strip().splitlines() or [""])[-1]}
        for row in runs[runs["status"] == "failed"].to_dict("records")
    )
    return Status(
        name=sweep.plan["name"],
        runs={status: int(counts.get(status, 0)) for status in STATUSES},
        packs=tuple(packs),
        failed=failed,
        may_go_on=bool(sweep.plan["declarations"]) and not (sweep_dir / SETTLED).exists(),
        # One process trains a pack, so the time is at least that of the longest pack.
        seconds_left=(
            max(sum(known) / processes, *known, 0.0) if len(known) == len(rest) else None
        ),
    )


def _job(sweep_dir: Path, pack_id: str) -> str:
    """Number of the Slurm job that was submitted last for a pack; empty without a job."""
    try:
        return str(json.loads(store.read_file(sweep_dir / "jobs/packs" / f"{pack_id}.json"))["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def plain(state: Status) -> dict[str, object]:
    """The status as plain values, for programs."""
    return {"schema": 1, **store.plain(asdict(state))}


def lines(state: Status) -> list[str]:
    """The status as lines for a terminal: counts, open packs, failed runs and remaining time."""
    counts = ", ".join(f"{count:,} {status}" for status, count in state.runs.items() if count)
    text = [f"{state.name}: {sum(state.runs.values()):,} planned runs: {counts}"]
    for pack in state.packs:
        losses = pack.losses if len(pack.losses) <= 40 else f"{pack.losses[:36]} ..."
        runs = f"{pack.pack_id}  {pack.runs} runs  {pack.data}: {losses}"
        checkpoint = f"step {pack.step:,}" if pack.step else "no checkpoint yet"
        if pack.process:
            since = duration(pack.seconds)
            text.append(f"training  {runs}  {checkpoint}, by process {pack.process} for {since}")
        else:
            job = f", job {pack.job}" if pack.job else ""
            text.append(f"waiting   {runs}  {checkpoint}{job}")
    text += [
        f"failed    {run['run_id']}  {run['data']} {run['loss']} lr={run['lr']:g} "
        f"seed={run['seed']}: {run['reason']}"
        for run in state.failed
    ]
    training = sum(bool(pack.process) for pack in state.packs)
    if not state.packs and not state.runs["missing"]:
        text.append("Nothing of what is planned is left to train.")
        if state.may_go_on:
            text.append("The same command finds out whether more seeds or rates are needed.")
    elif state.seconds_left is None:
        text.append("How long it takes is not known before a run of each data set has finished.")
    else:
        by = f"the {training} that train now" if training > 1 else "one process"
        text.append(f"About {duration(state.seconds_left)} to go, by {by}.")
    if (state.packs or state.runs["missing"]) and not training:
        text.append("Nothing trains now: the sweep's own command goes on with it.")
    return text
