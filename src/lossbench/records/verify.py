"""Is a sweep on disk what it was when it was written, and is it complete? Reads, never writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lossbench import records, store


@dataclass
class Verified:
    """The state of a sweep's folder.

    Attributes:
        packs: Finished ones.
        unfinished: Those that have begun or wait.
        files: Whose sha256 was computed again.
        bytes: Of them.
        problems: A sentence each.
        runs: How many there are of each status.
    """

    packs: int = 0
    unfinished: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged and no planned run is missing or failed."""
        lacking = self.runs.get("missing", 0) + self.runs.get("failed", 0)
        return not self.problems and not lacking and bool(self.runs)


def verified(sweep_dir: Path) -> Verified:
    """Compute every sha256 of a sweep again, decode every table, count its runs.

    Raises:
        store.StoreError: The folder is no sweep, or its plan is damaged.
    """
    result, loaded = Verified(), records.load(sweep_dir)
    for folder in sorted((sweep_dir / "packs").glob("*")):
        try:
            state = store.committed(folder)
        except store.StoreError as error:
            result.problems.append(str(error))
            continue
        if state is None:
            continue
        result.packs += state["is_finished"]
        result.unfinished += not state["is_finished"]
        for name in state["files"]:
            try:
                content = store.read(folder, name, state)
                if name.endswith(".parquet"):
                    records.decode(content, path=folder / name)
            except store.StoreError as error:
                result.problems.append(str(error))
                continue
            result.files += 1
            result.bytes += len(content)
    try:
        result.files += 1
        loaded.curves  # noqa: B018  reads and checks
    except store.StoreError as error:
        result.problems.append(str(error))
    if not result.problems:
        counts: pd.Series = loaded.runs.status.value_counts()
        result.runs = {status: int(counts.get(status, 0)) for status in records.STATUSES}
    return result
