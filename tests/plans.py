"""A plan on disk, of invented facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lossbench import records, store


def write_plan(
    folder: Path, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, parts: int = 1
) -> None:
    """Write a sweep.json and its parts.

    Args:
        folder: Of the sweep.
        facts: Of sweep.json; what is left out is empty.
        rows: Of the runs, with their run_id.
        parts: How many files they are divided among.
    """
    shas = []
    for part in range(parts):
        content = records.encode_runs(records.planned(rows[part::parts]))
        shas.append(store.sha256(content))
        store.write(records.path_of(folder, "plan", shas[-1]), content)
    empty = {"name": folder.name, "declarations": [], "losses": {}, "data": {}, "commands": []}
    store.write(folder / "sweep.json", store.sealed({**empty, **facts, "parts": shas}))
