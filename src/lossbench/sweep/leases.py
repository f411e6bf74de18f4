"""Which pack holds which runs.

Packs are written down before they train, so that every process of a sweep, now or after a crash,
finds the same ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossbench import records, store
from lossbench.runs import Run, packs
from lossbench.runs.packs import Pack

KEPT = ("done", "diverged")
"""Statuses that are results: such a run is not trained again."""

ATTEMPTS = 2
"""How often a run that fails is trained, by one command after the other."""

PATIENCE = 60.0
"""Seconds to wait for another process that changes the plan or the packs of a sweep."""

PLANNED = {"status": "missing", "reason": ""}

Members = dict[str, dict[str, str]]
"""Status and reason by run_id."""


@dataclass(frozen=True)
class Claim:
    """A pack that is not finished.

    Attributes:
        pack: Its runs.
        folder: Of the pack.
        is_suspect: The process that trained it last ended without a word.
    """

    pack: Pack
    folder: Path
    is_suspect: bool = False

    @property
    def record(self) -> dict[str, Any] | None:
        """The pack's commit record; None where it is finished or another pack by now."""
        state, ids = store.committed(self.folder), {run.run_id for run in self.pack.runs}
        is_open = state is not None and not state["is_finished"] and {*state["members"]} == ids
        return state if is_open else None


class Claims:
    """The packs of a sweep's folder as they are now; to be used under the sweep's lock.

    Args:
        folder: Of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        found = sorted((folder / "packs").glob("*"))
        states = {pack_dir: store.committed(pack_dir) for pack_dir in found}
        self.folder = folder
        self.nameless = [pack_dir for pack_dir, state in states.items() if state is None]
        self.states = {path: state for path, state in states.items() if state is not None}
        self.members = best(state["members"] for state in self.states.values())
        self.failures = Counter(
            run_id
            for state in self.states.values()
            for run_id, facts in state["members"].items()
            if facts["status"] == "failed"
        )

    def asked(
        self,
        runs: Sequence[Run],
        *,
        pack_size: int,
        allowed: Mapping[str, int],
        hands: int = 1,
        queued: Collection[str] = (),
    ) -> list[Claim]:
        """The unfinished packs of some runs; runs that have none get one.

        Args:
            runs: What is asked for.
            pack_size: Most members of a new pack.
            allowed: How often each run may have failed before; see `ATTEMPTS`.
            hands: Packs that train at the same time.
            queued: Packs, by pack_id, that a job will train as they are.
        """
        todo = {run.run_id: run for run in runs if self._is_to_do(run.run_id, allowed)}
        claims = []
        for pack_dir, state in self.states.items():
            if state["is_finished"]:
                store.clean(pack_dir)  # a crash may have come between its record and this
                continue
            members = state["members"]
            if all(self.members[run_id]["status"] in KEPT for run_id in members):
                _dissolved(pack_dir)  # its halves are done; a crash came before this
                continue
            mine = [todo[run_id] for run_id in members if run_id in todo]
            if not mine:
                continue
            is_held = store.is_held(pack_dir / store.LOCK)
            is_free = pack_dir.name not in queued and len(mine) < len(members)
            if is_free and _dissolved(pack_dir):
                continue  # no command asks for all of it any more
            for run in mine:
                del todo[run.run_id]
            pack = Pack(pack_dir.name, packs.ordered(mine))
            is_suspect = bool(state["starts"]) and not is_held
            claims.append(Claim(pack, pack_dir, is_suspect=is_suspect))
        for pack_dir in self.nameless:
            _dissolved(pack_dir)  # a crash came before its first record
        new = packs.shared([*todo.values()], pack_size=pack_size, hands=hands)
        return claims + [self._claimed(pack) for pack in new]

    def _is_to_do(self, run_id: str, allowed: Mapping[str, int]) -> bool:
        status = self.members.get(run_id, PLANNED)["status"]
        return status not in KEPT and self.failures[run_id] <= allowed.get(run_id, 0)

    def _claimed(self, pack: Pack) -> Claim:
        """Write a new pack down. Where its runs failed together before, it gets another name."""
        return claim(self.folder / "packs" / pack.pack_id, pack.runs)


def _dissolved(pack_dir: Path) -> bool:
    """Dissolve a pack unless a process has it."""
    with store.try_lock(pack_dir / store.LOCK) as is_mine:
        if is_mine:
            store.dissolve(pack_dir)
        return is_mine


def claim(folder: Path, runs: Sequence[Run]) -> Claim:
    """Write a new pack down; where its folder is taken, under another name."""
    while folder.exists():
        pack_id = hashlib.sha256(f"{folder.name} again".encode()).hexdigest()[:16]
        folder = folder.with_name(pack_id)
    store.commit(folder, {}, state_of(dict.fromkeys((run.run_id for run in runs), PLANNED)))
    return Claim(Pack(folder.name, tuple(runs)), folder)


def halved(broken: Claim) -> list[Claim]:
    """Two packs in the place of one that could not be trained as a whole.

    Its lock and the sweep's are held.

    Raises:
        ValueError: It has one run only.
    """
    runs = broken.pack.runs
    if len(runs) < 2:
        raise ValueError("a pack of one run has no halves")
    middle = len(runs) // 2
    halves = [
        claim(broken.folder.parent / packs.name_of(half), half)
        for half in (runs[:middle], runs[middle:])
    ]
    store.dissolve(broken.folder)
    return halves


def state_of(
    members: Mapping[str, Mapping[str, str]], *, is_finished: bool = False, **more: Any
) -> dict[str, Any]:
    """What a pack's commit record says beside its files.

    Args:
        members: Status and reason by run_id.
        is_finished: Whether its tables are there.
        more: Of a pack that is training: how often it was started since it last ended in order,
            the step of its checkpoint, and under which versions that was made.
    """
    facts = {"starts": 0, "step": 0, "made_by": ""} | more
    return {"schema": records.SCHEMA, "is_finished": is_finished, "members": members, **facts}


def best(found: Iterable[Mapping[str, dict[str, str]]]) -> Members:
    """Of several records of a run the best one."""
    together: Members = {}
    for members in found:
        for run_id, facts in members.items():
            known = together.get(run_id)
            if known is None or _rank(facts) < _rank(known):
                together[run_id] = facts
    return together


def _rank(facts: Mapping[str, str]) -> int:
    return records.STATUSES.index(facts["status"])
