"""Packs in the folder of a sweep, with their runs and their progress.

Packs are recorded on disk before they train, so that every process of a sweep, now or after a
crash, finds the same packs. A lease is a lock on a pack: only its holder may train the pack.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lossbench import records, store
from lossbench.question import Run, packs
from lossbench.question.packs import Pack

ATTEMPTS = 2
"""Number of times that a failing run is trained, once by each command."""

LOCK_PATIENCE = 60.0
"""Seconds to wait for another process that changes the plan or the packs of a sweep."""

PACK_NAME = re.compile(r"[0-9a-f]{8,64}")
"""Pattern of the names of packs' folders; other folders are ignored."""

PLANNED = {"status": "missing", "reason": ""}

Statuses = dict[str, dict[str, str]]
"""Status and reason by run_id."""


@dataclass(frozen=True)
class OpenPack:
    """Unfinished pack, with its folder.

    Attributes:
        folder: Folder of the pack; its name is the pack_id.
        is_suspect: Whether the last process that trained the pack crashed or was killed.
    """

    folder: Path
    runs: tuple[Run, ...]
    is_suspect: bool = False

    @property
    def pack_id(self) -> str:
        """Name of the pack."""
        return self.folder.name

    @property
    def pack(self) -> Pack:
        """Pack as the engine takes it."""
        return Pack(self.pack_id, self.runs)

    @property
    def sweep_folder(self) -> Path:
        """Folder of the pack's sweep."""
        return self.folder.parent.parent

    @property
    def record(self) -> store.Record | None:
        """Commit record of the pack; None if the pack is finished, deleted or has other members."""
        state, ids = store.committed(self.folder), {run.run_id for run in self.runs}
        is_open = state is not None and not state["is_finished"] and {*state["members"]} == ids
        return state if is_open else None

    @property
    def is_leased(self) -> bool:
        """Whether some process holds the lease of the pack now."""
        return store.is_held(self.folder / store.LOCK)

    @contextmanager
    def lease(self) -> Iterator[store.Record | None]:
        """Take the lease of the pack for this process; yields the pack's commit record.

        Yields None if another process holds the lease, or if `record` is None.
        """
        with store.try_lock(self.folder / store.LOCK) as is_mine:
            yield self.record if is_mine else None


class Inventory:
    """Packs in a sweep's folder at this moment; `open_packs` requires the sweep's lock.

    Attributes:
        statuses: Status and reason by run_id; if several packs have a run, its best status.
        failures: Number of failures by run_id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unrecorded: list[Path] = []
        self.records: dict[Path, store.Record] = {}
        self.statuses: Statuses = {}
        self.failures: Counter[str] = Counter()
        rank = records.STATUSES.index
        for pack_dir in store.packs_of(folder):
            if not PACK_NAME.fullmatch(pack_dir.name):
                continue  # not a folder of lossbench
            record = store.committed(pack_dir)
            if record is None:
                self.unrecorded.append(pack_dir)
                continue
            self.records[pack_dir] = record
            for run_id, status in record["members"].items():
                best = self.statuses.setdefault(run_id, status)
                if rank(status["status"]) < rank(best["status"]):
                    self.statuses[run_id] = status
                self.failures[run_id] += status["status"] == "failed"

    def check(self, checked: set[Path]) -> None:
        """Read and verify every file of the finished packs, except folders in `checked`.

        Folders that were read are added to these.

        Raises:
            store.StoreError: A file is damaged, so that new runs would not get a verdict.
        """
        for pack_dir, record in self.records.items():
            if record["is_finished"] and pack_dir not in checked:
                for name in record["files"]:
                    store.read(pack_dir, name, record)
                checked.add(pack_dir)

    def open_packs(
        self,
        runs: Sequence[Run],
        *,
        pack_size: int,
        allowed: Mapping[str, int],
        packs_at_once: int = 1,
        queued: Collection[str] = (),
    ) -> list[OpenPack]:
        """Unfinished packs that contain given runs; runs without a pack are put into new packs.

        The number of failures up to which a run is trained again is `allowed`, by run_id. Packs of
        the names `queued` wait in a cluster's queue and must stay whole.
        """
        todo = {
            run.run_id: run
            for run in runs
            if self.statuses.get(run.run_id, PLANNED)["status"] not in records.RESULTS
            and self.failures[run.run_id] <= allowed.get(run.run_id, 0)
        }
        open_packs = []
        for pack_dir, record in self.records.items():
            if record["is_finished"]:
                store.clean(pack_dir)  # a crash may have come between its record and this
                continue
            members = record["members"]
            if all(self.statuses[run_id]["status"] in records.RESULTS for run_id in members):
                _dissolve(pack_dir)  # its halves are done; a crash came before this
                continue
            wanted = [todo[run_id] for run_id in members if run_id in todo]
            if not wanted:
                continue
            is_suspect = bool(record["starts"]) and not store.is_held(pack_dir / store.LOCK)
            is_divisible = pack_dir.name not in queued and len(wanted) < len(members)
            if is_divisible and _dissolve(pack_dir):
                continue  # no command asks for all of its runs any more
            for run in wanted:
                del todo[run.run_id]
            open_packs.append(OpenPack(pack_dir, packs.ordered(wanted), is_suspect))
        for pack_dir in self.unrecorded:
            _dissolve(pack_dir)  # a crash came before its first record
        grouped = packs.shared([*todo.values()], pack_size=pack_size, packs_at_once=packs_at_once)
        new = [new_pack(self.folder / "packs" / pack.pack_id, pack.runs) for pack in grouped]
        return open_packs + new


def _dissolve(pack_dir: Path) -> bool:
    """Delete a pack unless a process holds its lease; returns whether the pack was deleted."""
    with store.try_lock(pack_dir / store.LOCK) as is_mine:
        if is_mine:
            store.dissolve(pack_dir)
        return is_mine


def new_pack(folder: Path, runs: Sequence[Run]) -> OpenPack:
    """Write a new pack to disk, under another name if a folder of this name exists already."""
    while folder.exists():
        pack_id = hashlib.sha256(f"{folder.name} again".encode()).hexdigest()[:16]
        folder = folder.with_name(pack_id)
    store.commit(folder, {}, record_of(dict.fromkeys((run.run_id for run in runs), PLANNED)))
    return OpenPack(folder, tuple(runs))


def record_of(
    members: Mapping[str, Mapping[str, str]], *, is_finished: bool = False, **more: object
) -> store.Record:
    """Commit record of a pack, without the hashes of its files.

    Args:
        members: Status and reason by run_id.
        is_finished: Whether the pack has its final tables.
        more: Further fields; of a pack in training `starts` since its last orderly end, `step` of
            its checkpoint, and `made_by`, the versions that made the checkpoint.
    """
    known = {"schema": records.SCHEMA, "is_finished": is_finished, "members": members}
    return {**known, "starts": 0, "step": 0, "made_by": "", **more}
