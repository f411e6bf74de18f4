"""How far a sweep is: what is done, what trains where since when, what waits, what has failed.

Reads, never writes, and takes no lock, so that it may be asked while others train.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench import store
from lossbench.records.load import Records, load
from lossbench.records.vocabulary import RESULTS, STATUSES, duration

SETTLED = "settled.json"
"""In a sweep's folder: what had been asked for when nothing was left to train, and the records."""

ATTEMPTS = 5
"""How often a folder is read in which packs are divided at that very moment."""


@dataclass(frozen=True)
class PackStatus:
    """A pack that is not finished.

    Attributes:
        pack_id: Its name.
        runs: How many it has.
        data: Their data sets.
        losses: Their losses.
        step: Of its last checkpoint, in updates.
        process: What trains it, and on which machine if that is another; empty where it waits.
        seconds: For which it has trained; 0 where it waits.
        job: Of Slurm, that was submitted for it; empty without.
        seconds_left: To its end, from how long finished runs of the same data and model took;
            None where none has finished.
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
    """The state of a sweep; what later looks will ask for is not known yet.

    Attributes:
        name: Of the sweep.
        runs: How many of the planned runs have each status.
        packs: Those that are not finished, those in training first.
        failed: Run by run: run_id, data, loss, lr, seed, and the last line of the reason.
        seconds_left: To the end of what is planned, by as many processes as train now, one at
            least; None where nothing has finished yet.
        may_go_on: Whether it is an experiment of which nobody has found out yet whether it needs
            more seeds or learning rates than are planned.
    """

    name: str
    runs: dict[str, int]
    packs: tuple[PackStatus, ...]
    failed: tuple[dict[str, Any], ...]
    seconds_left: float | None
    may_go_on: bool


def status(sweep_dir: Path) -> Status:
    """How far a sweep is.

    Raises:
        store.StoreError: The folder is no sweep, or its plan or a table is damaged.
    """
    for _ in range(ATTEMPTS):
        try:
            return _status(sweep_dir, load(sweep_dir))
        except FileNotFoundError:  # a pack was divided between two looks at it
            time.sleep(0.2)
    raise store.StoreError(f"{sweep_dir} changes while it is read: ask again")


def _status(sweep_dir: Path, sweep: Records) -> Status:
    runs = sweep.runs
    places = sweep.planned[["data", "model", "loss"]]
    plan = dict(zip(places.index, places.itertuples(index=False), strict=True))
    finished = runs[runs["status"].isin(RESULTS)].astype({"train_seconds": float})
    by_cell = finished.groupby(["data", "model"])[["train_seconds", "stop_step"]]
    costs = by_cell.agg({"train_seconds": "mean", "stop_step": "max"})

    def seconds_of(run_ids: Sequence[str], step: int = 0) -> float | None:
        """To train runs that have a checkpoint at a step."""
        total = 0.0
        for run_id in run_ids:
            cell = plan[run_id].data, plan[run_id].model
            if cell not in costs.index:
                return None
            cost = costs.loc[cell]
            total += cost["train_seconds"] * max(0.0, 1 - step / max(1, cost["stop_step"]))
        return total

    missing = {*runs.loc[runs["status"] == "missing", "run_id"]}
    # What has failed is tried again.
    open_ids = {*runs.loc[~runs["status"].isin(RESULTS), "run_id"]}
    unpacked, packs = set(missing), []
    for folder in store.packs_of(sweep_dir):
        record = store.committed(folder)
        mine = [run_id for run_id in (record or {}).get("members", ()) if run_id in open_ids]
        if record is None or record["is_finished"] or not mine:
            continue
        unpacked -= {*mine}
        lock = folder / store.LOCK
        is_training, step = store.is_held(lock), int(record["step"])
        packs.append(
            PackStatus(
                pack_id=folder.name,
                runs=len(mine),
                data=", ".join(sorted({plan[run_id].data for run_id in mine})),
                losses=", ".join(sorted({plan[run_id].loss for run_id in mine})),
                step=step,
                process=store.holder(lock) if is_training else "",
                # The machine that trains may have another clock.
                seconds=max(0.0, time.time() - lock.stat().st_mtime) if is_training else 0.0,
                job=_job(sweep_dir, folder.name),
                seconds_left=seconds_of(mine, step),
            )
        )
    packs.sort(key=lambda pack: (not pack.process, pack.pack_id))
    rest = [pack.seconds_left for pack in packs] + [seconds_of(sorted(unpacked))]
    known = [seconds for seconds in rest if seconds is not None]
    processes = max(1, sum(bool(pack.process) for pack in packs))
    counts = runs["status"].value_counts()
    return Status(
        name=sweep.plan["name"],
        runs={one: int(counts.get(one, 0)) for one in STATUSES},
        packs=tuple(packs),
        failed=tuple(_failed(runs)),
        may_go_on=bool(sweep.plan["declarations"]) and not (sweep_dir / SETTLED).exists(),
        # No pack is divided among processes.
        seconds_left=(
            max(sum(known) / processes, *known, 0.0) if len(known) == len(rest) else None
        ),
    )


def _job(sweep_dir: Path, pack_id: str) -> str:
    """The job of Slurm that was submitted for a pack last."""
    try:
        return str(json.loads(store.read_file(sweep_dir / "jobs/packs" / f"{pack_id}.json"))["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _failed(runs: pd.DataFrame) -> list[dict[str, Any]]:
    rows = runs[runs["status"] == "failed"]
    return [
        {
            **{name: store.plain(row[name]) for name in ("run_id", "data", "loss", "lr", "seed")},
            "reason": (str(row["reason"]).strip().splitlines() or [""])[-1],
        }
        for row in rows.to_dict("records")
    ]


def plain(found: Status) -> dict[str, Any]:
    """A status for programs."""
    return {"schema": 1, **store.plain(asdict(found))}


def lines(found: Status) -> list[str]:
    """A status for a terminal: the sum, and a line for each pack that is not finished."""
    counts = ", ".join(f"{count:,} {status}" for status, count in found.runs.items() if count)
    text = [f"{found.name}: {sum(found.runs.values()):,} planned runs: {counts}"]
    for pack in found.packs:
        what = f"{pack.pack_id}  {pack.runs} runs  {pack.data}: {_cut(pack.losses)}"
        place = f"step {pack.step:,}" if pack.step else "no checkpoint yet"
        if pack.process:
            since = duration(pack.seconds)
            text.append(f"training  {what}  {place}, by process {pack.process} for {since}")
        else:
            job = f", job {pack.job}" if pack.job else ""
            text.append(f"waiting   {what}  {place}{job}")
    text += [
        f"failed    {run['run_id']}  {run['data']} {run['loss']} lr={run['lr']:g} "
        f"seed={run['seed']}: {run['reason']}"
        for run in found.failed
    ]
    training = sum(bool(pack.process) for pack in found.packs)
    if not found.packs and not found.runs["missing"]:
        text.append("Nothing of what is planned is left to train.")
        if found.may_go_on:
            text.append("The same command finds out whether more seeds or rates are needed.")
    elif found.seconds_left is None:
        text.append("How long it takes is not known before a run of each data set has finished.")
    else:
        by = f"the {training} that train now" if training > 1 else "one process"
        text.append(f"About {duration(found.seconds_left)} to go, by {by}.")
    if (found.packs or found.runs["missing"]) and not training:
        text.append("Nothing trains now: the sweep's own command goes on with it.")
    return text


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."
