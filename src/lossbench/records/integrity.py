"""Verification of a sweep on disk: damaged files and missing runs. Never writes to the folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lossbench import records, store
from lossbench.records.columns import schema
from lossbench.records.load import refuse_no_sweep


@dataclass
class Verified:
    """The state of a sweep's folder.

    Attributes:
        packs: Number of finished packs.
        unfinished: Number of packs that have started or wait.
        files: Number of files whose sha256 was computed again.
        bytes: Size of these files, in bytes.
        problems: One sentence per problem.
        unplanned: Number of recorded runs outside the plan, from edited code or another sweep.
        runs: Number of runs by status.
    """

    packs: int = 0
    unfinished: int = 0
    files: int = 0
    bytes: int = 0
    unplanned: int = 0
    problems: list[str] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged and no planned run is missing or failed."""
        lacking = self.runs.get("missing", 0) + self.runs.get("failed", 0)
        return not self.problems and not lacking and bool(self.runs)

    def count(self, size: int) -> None:
        """Count a file of `size` bytes."""
        self.files += 1
        self.bytes += size

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Record a StoreError of the block as a problem."""
        try:
            yield
        except store.StoreError as error:
            self.problems.append(str(error))


def verified(sweep_dir: Path, *, is_named_after: Callable[[str, str], bool]) -> Verified:
    """Compute every sha256 of a sweep again, decode every table, count the runs by status.

    Other processes may train in the folder meanwhile. The function `is_named_after` says whether a
    run_id is that of a configuration in the table `runs`.

    Raises:
        store.StoreError: The folder is not a sweep.
    """
    refuse_no_sweep(sweep_dir)
    result, members = Verified(), []
    for folder in store.packs_of(sweep_dir):
        state, part = _verified_pack(folder, is_named_after)
        result.files += part.files
        result.bytes += part.bytes
        result.problems += part.problems
        if state is not None:
            result.packs += state["is_finished"]
            result.unfinished += not state["is_finished"]
            members += state["members"]
    for folder in sorted(sweep_dir.glob("pretrained/*")):
        with result.noted():
            for name in (store.committed(folder) or {"files": {}})["files"]:
                result.count(len(store.read(folder, name)))
    machines = sorted(sweep_dir.glob("machine-*.json"))
    if result.packs and not machines:
        result.problems.append(f"{sweep_dir}: no machine-*.json, which training writes")
    for path in machines:
        with result.noted():
            store.read_sealed(path)
            result.count(path.stat().st_size)
    # The plan is read last: it may grow meanwhile, and a run is planned before its pack starts.
    with result.noted():
        loaded = records.load(sweep_dir)
        loaded.curves  # noqa: B018  reads and checks
        for path in (sweep_dir / "sweep.json", *records.files_of(sweep_dir, loaded.plan)):
            result.count(path.stat().st_size)
        planned = {*loaded.planned.index}
        result.unplanned = sum(run_id not in planned for run_id in members)
        if not result.problems:
            counts: pd.Series = loaded.runs.status.value_counts()
            result.runs = {status: int(counts.get(status, 0)) for status in records.STATUSES}
    return result


def _verified_pack(
    folder: Path, is_named_after: Callable[[str, str], bool]
) -> tuple[store.Record | None, Verified]:
    """The commit record and the state of a pack; the record is None if it cannot be read.

    A pack is read again if it is committed anew while its files are read.
    """
    while True:
        state, result = None, Verified()
        with result.noted():
            state = store.committed(folder)
        if state is not None:
            if state["schema"] != records.SCHEMA:
                result.problems.append(
                    f"{folder}: schema {state['schema']}, this version reads schema "
                    f"{records.SCHEMA}"
                )
            absent = {f"{table}.parquet" for table in records.TABLES} - {*state["files"]}
            if state["is_finished"] and absent:
                result.problems.append(
                    f"{folder}: finished, and without {', '.join(sorted(absent))}"
                )
            for name in state["files"]:
                with result.noted():
                    content = store.read(folder, name, state)
                    result.problems += _file_problems(folder / name, content, state, is_named_after)
                    result.count(len(content))
        if state is None or not result.problems:
            return state, result
        with result.noted():
            if store.committed(folder) == state:
                return state, result


def _file_problems(
    path: Path, content: bytes, state: store.Record, is_named_after: Callable[[str, str], bool]
) -> list[str]:
    """Contradictions in the content of a pack's file whose sha256 is right."""
    if not path.name.endswith(".parquet"):
        return []
    table = records.decode(content, path=path)
    problems = [*_table_problems(path.name, table, state["members"], path.parent.name)]
    if path.name == "runs.parquet" and not problems:
        pairs = zip(table["run_id"].to_pylist(), table["config"].to_pylist(), strict=True)
        if other := [run_id for run_id, config in pairs if not is_named_after(run_id, config)]:
            problems.append(
                f"{len(other)} runs with a config that is not that of their run_id, like "
                f"{min(other)}"
            )
    return [f"{path}: {text}" for text in problems]


ROW = {
    "runs": ["run_id"],
    "steps": ["run_id", "step"],
    "layers": ["run_id", "step", "layer"],
    "evals": ["run_id", "step", "split", "metric"],
    "examples": ["run_id", "example", "metric"],
}
"""Columns that identify a row, by table."""


def _table_problems(
    file: str, table: pa.Table, members: Mapping[str, Mapping[str, str]], pack_id: str
) -> Iterator[str]:
    """Contradictions within a pack's table, or between the table and the commit record.

    Foreign, missing or duplicate rows, other columns, another pack_id, another status of a run.
    """
    name = file.removesuffix(".parquet")
    if name not in ROW:
        yield "no table of lossbench"
        return
    if table.schema.names != schema(name).names:
        yield "its columns are not those of the schema"
        return
    if {*table["pack_id"].to_pylist()} - {pack_id}:
        yield "rows of another pack_id"
    rows = table.select(ROW[name])
    run_ids = {*rows["run_id"].to_pylist()}
    if foreign := run_ids - {*members}:
        yield f"rows of {len(foreign)} runs that are not in the pack, like {min(foreign)}"
    if name == "runs":
        if absent := {*members} - run_ids:
            yield f"no row of {len(absent)} runs of the pack, like {min(absent)}"
        ends = dict(zip(*(table[key].to_pylist() for key in ("run_id", "status")), strict=True))
        other = [
            run_id for run_id in run_ids & {*members} if ends[run_id] != members[run_id]["status"]
        ]
        if other:
            yield f"{len(other)} runs ended otherwise than the record says, like {min(other)}"
    if double := len(rows) - rows.group_by(ROW[name]).aggregate([]).num_rows:
        yield f"{double} rows are there twice"
    if name == "evals":
        on_test = table.filter(pc.field("split") == "test")
        done = {run_id for run_id, run in members.items() if run["status"] == "done"}
        if absent := done - {*on_test["run_id"].to_pylist()}:
            yield f"{len(absent)} runs are done and have no value on test, like {min(absent)}"
