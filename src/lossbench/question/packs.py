"""Which runs train together: pure grouping, no training."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from lossbench.question.run import Run, joined


@dataclass(frozen=True)
class Pack:
    """Runs trained together in one process; equal losses stand side by side."""

    pack_id: str
    runs: tuple[Run, ...]


def group(runs: Sequence[Run], *, pack_size: int) -> list[Pack]:
    """Runs as packs of at most `pack_size` members.

    Data, corruption, model, optimizer kind, schedule, steps, batch size and precision are the
    same within a pack; loss, seed, learning rate, momentum and weight decay may differ. Losses
    with more than one output per target need wider models and stay apart.

    Args:
        runs: Runs in any order; a run_id that comes twice trains once.
        pack_size: Most members of a pack.

    Returns:
        Packs of nearly equal size, in the order their first run came.
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
"""A pack is not made smaller than this for the sake of more processes: it would be slower."""


def shared(runs: Sequence[Run], *, pack_size: int, packs_at_once: int) -> list[Pack]:
    """Runs as packs, so many that several processes have one each where there are runs enough.

    Args:
        runs: Runs in any order; a run_id that comes twice trains once.
        pack_size: Most members of a pack.
        packs_at_once: Packs that train at the same time.
    """
    every = _alike(runs)
    counts = [len(alike) for alike in every]
    size, least = pack_size, min(pack_size, LEAST_MEMBERS)
    while size > least and sum(-(-count // size) for count in counts) < packs_at_once:
        size -= 1
    return _grouped(every, size)


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that may train together, each once."""
    together: dict[str, list[Run]] = {}
    for run in {run.run_id: run for run in runs}.values():
        together.setdefault(structure(run), []).append(run)
    return [*together.values()]


def slices(pack: Pack) -> list[tuple[slice, Run]]:
    """Contiguous places that share one loss with one set of parameters, and a run of each."""
    spans, start = [], 0
    for _, members in itertools.groupby(pack.runs, key=_loss):
        alike = list(members)
        spans.append((slice(start, start + len(alike)), alike[0]))
        start += len(alike)
    return spans


_VARIES = {"loss", "seed", "lr", "momentum", "weight_decay", "source_sha"}


def structure(run: Run) -> str:
    """Factors that the runs of one pack have in common, as text."""
    alike = {name: text for name, text in run.texts.items() if name not in _VARIES}
    return joined({**alike, "outputs_per_target": str(run.row.outputs_per_target)})


def _loss(run: Run) -> str:
    return json.dumps([run.loss.name, run.loss.fn, dict(run.loss.params)], sort_keys=True)


def ordered(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Runs of one pack in its order, equal losses side by side."""
    return tuple(sorted(runs, key=lambda run: (_loss(run), run.seed, run.lr, run.run_id)))


def name_of(runs: Sequence[Run]) -> str:
    """The pack_id of runs that train together, 16 hex digits."""
    ids = ",".join(sorted(run.run_id for run in runs))
    return hashlib.sha256(ids.encode()).hexdigest()[:16]
