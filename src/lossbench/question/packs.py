"""Grouping of runs into packs that train together; nothing is trained here."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from lossbench.question.run import Run, joined


@dataclass(frozen=True)
class Pack:
    """Runs trained together in one process; runs with equal losses are adjacent."""

    pack_id: str
    runs: tuple[Run, ...]


def group(runs: Sequence[Run], *, pack_size: int) -> list[Pack]:
    """Packs of at most `pack_size` runs.

    Data, corruption, model, optimizer kind, schedule, steps, batch size and precision are the
    same within a pack; loss, seed, learning rate, momentum and weight decay may differ. Losses
    with more than one output per target need wider models, and so packs of their own. A repeated
    run_id trains once. Packs have nearly equal sizes, and the order of the first runs that fit.
    """
    return _grouped(_alike(runs), pack_size)


def _grouped(every: Sequence[Sequence[Run]], pack_size: int) -> list[Pack]:
    grouped = []
    for alike in every:
        count = -(-len(alike) // pack_size)
        size = -(-len(alike) // count)
        members = ordered(alike)
        for start in range(0, len(members), size):
            part = members[start : start + size]
            grouped.append(Pack(name_of(part), part))
    return grouped


LEAST_MEMBERS = 16
"""Least size to which packs shrink to serve more processes: smaller packs would be slower."""


def shared(runs: Sequence[Run], *, pack_size: int, packs_at_once: int) -> list[Pack]:
    """Packs like those of `group`, small enough for each of several processes to get one."""
    every = _alike(runs)
    counts = [len(alike) for alike in every]
    size, least = pack_size, min(pack_size, LEAST_MEMBERS)
    while size > least and sum(-(-count // size) for count in counts) < packs_at_once:
        size -= 1
    return _grouped(every, size)


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Lists of runs that may train together, without repetitions."""
    together: dict[str, list[Run]] = {}
    for run in {run.run_id: run for run in runs}.values():
        together.setdefault(structure(run), []).append(run)
    return [*together.values()]


def slices(pack: Pack) -> list[tuple[slice, Run]]:
    """Slices of adjacent runs with the same loss and parameters, and one run of each slice."""
    spans, start = [], 0
    for _, members in itertools.groupby(pack.runs, key=_loss):
        alike = list(members)
        spans.append((slice(start, start + len(alike)), alike[0]))
        start += len(alike)
    return spans


_VARIES = {"loss", "seed", "lr", "momentum", "weight_decay", "source_sha"}


def structure(run: Run) -> str:
    """Text of all factors that the runs of a pack have in common."""
    alike = {name: text for name, text in run.texts.items() if name not in _VARIES}
    return joined({**alike, "outputs_per_target": str(run.row.outputs_per_target)})


def _loss(run: Run) -> str:
    return json.dumps([run.loss.name, run.loss.fn, dict(run.loss.params)], sort_keys=True)


def ordered(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Runs in the order of a pack, in which equal losses are adjacent."""
    return tuple(sorted(runs, key=lambda run: (_loss(run), run.seed, run.lr, run.run_id)))


def name_of(runs: Sequence[Run]) -> str:
    """Hash that is the pack_id of runs that train together, 16 hex digits."""
    ids = ",".join(sorted(run.run_id for run in runs))
    return hashlib.sha256(ids.encode()).hexdigest()[:16]
