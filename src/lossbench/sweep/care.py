"""Sees packs to their end: trains them, apart or in halves where they break."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from lossbench import store
from lossbench.runs import ConfigError, Engine
from lossbench.sweep.isolation import Died, run_apart
from lossbench.sweep.leases import PATIENCE, Claim, halved
from lossbench.sweep.training import Job, OutOfMemory, Stop, give_up

if TYPE_CHECKING:
    from lossbench.sweep.sweep import Sweep

log = logging.getLogger(__name__)


class Left(dict[str, tuple[Claim, str]]):
    """Packs that a command does not wait for any longer, by pack_id, with the reason."""

    def by_run(self) -> dict[str, str]:
        """The reason of each of their runs."""
        return {run.run_id: why for claim, why in self.values() for run in claim.pack.runs}


class Crew(Protocol):
    """Trains packs."""

    @property
    def hands(self) -> int:
        """Packs that it trains at the same time; fewer are not worth making."""
        ...

    def check(self) -> None:
        """Refuse what cannot be, before anything is written.

        Raises:
            ConfigError: It cannot train anything on this machine.
        """
        ...

    def holding(self, sweep: Sweep) -> set[str]:
        """Packs, by pack_id, that wait in a queue of its own: nobody else divides them."""
        ...

    def train(self, sweep: Sweep, claims: Sequence[Claim], stop: Stop, left: Left) -> int:
        """Train what it can of some packs, note those it leaves.

        Returns:
            How many runs came to an end.
        """
        ...


class Here:
    """The crew that is this process: one pack after the other."""

    hands = 1

    def check(self) -> None:
        """Any machine will do."""

    def holding(self, sweep: Sweep) -> set[str]:
        """It has no queue."""
        return set()

    def train(self, sweep: Sweep, claims: Sequence[Claim], stop: Stop, left: Left) -> int:
        """Train them, one after the other."""
        return sum(
            seen_to(claim, sweep.engine, sweep.extensions, stop, f"pack {place + 1}/{len(claims)}")
            for place, claim in enumerate(claims)
        )


def seen_to(claim: Claim, engine: Engine, extensions: Sequence[str], stop: Stop, title: str) -> int:
    """Train a pack, or its halves where it breaks.

    Args:
        claim: The pack.
        engine: How to train.
        extensions: Modules that a process of its own would have to import.
        stop: Asks for an end.
        title: Of the pack, for people.

    Returns:
        How many runs came to an end; 0 where others train the pack, or have trained it.
    """
    stop.check()
    job = Job(claim, engine, title)
    try:
        if not claim.is_suspect:
            return len(job.run(stop) or ())
        log.warning("%s: its last process was killed, so it trains apart now", title)
        run_apart(job, extensions, stop)
        return len(claim.pack.runs)
    except (OutOfMemory, Died) as trouble:
        if isinstance(trouble, OutOfMemory) and engine.device == "cuda":
            # Every pack there is padded to one size, so a half takes as much.
            raise ConfigError(
                f"{title}, {len(claim.pack.runs)} runs, does not fit into the card's memory "
                f"({str(trouble).splitlines()[0]}): use engine.pack_size={engine.pack_size // 2}"
            ) from trouble
        halves = broken(claim, title, trouble)
        is_suspect = isinstance(trouble, Died)
    if not halves:
        return 0 if halves is None else 1
    halves = [replace(half, is_suspect=is_suspect) for half in halves]
    return sum(seen_to(half, engine, extensions, stop, title) for half in halves)


def broken(claim: Claim, title: str, trouble: Exception) -> list[Claim] | None:
    """Halve a pack that could not be trained; one run alone fails, and leaves no halves.

    Returns:
        None where the pack is another one by now, or another process has it: look again.
    """
    above = claim.folder.parent.parent / store.LOCK
    with (
        store.lock(above, patience=PATIENCE),
        store.try_lock(claim.folder / store.LOCK) as is_mine,
    ):
        if not is_mine or claim.record is None:
            return None
        if len(claim.pack.runs) == 1:
            log.error("run %s failed: %s", claim.pack.runs[0].run_id, trouble)
            give_up(claim, f"{type(trouble).__name__}: {trouble}")
            return []
        log.warning("%s, %d runs: %s; in halves now", title, len(claim.pack.runs), trouble)
        return halved(claim)
