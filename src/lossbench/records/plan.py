"""The plan of a sweep on disk: `sweep.json`, which names the parts beside it that have the runs.

A part is a parquet file that is never changed: a launch that asks for more runs adds one, and
sweep.json, which lists the sha256 of each, is what makes it count. A file is called by what is in
it, so that a name never means something else. What sweep.json does not list is garbage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench import store
from lossbench.records.columns import encode

PLANNED = pa.schema(
    [pa.field("run_id", pa.string())]
    + [pa.field(name, pa.string()) for name in ("data", "model", "loss", "optimizer")]
    + [pa.field("lr", pa.float64()), pa.field("seed", pa.int64())]
    + [pa.field(name, pa.string()) for name in ("task", "family", "params", "tuned")]
    + [pa.field(name, pa.string()) for name in ("cell", "context", "source_sha", "declaration")]
    + [pa.field(name, pa.string()) for name in ("seen_under", "seen_in", "asked_in")]
)
"""Columns of a part: `params` of the loss and `tuned` values as JSON; `cell` is a hash of all
factors but the seed and what is tuned, `context` of these but the loss. The last four say of a run
what was known when it was planned first: under which declaration it was (its sha256, empty without
one), and what `sweep.siblings` found. Where nothing was found there is no value."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"name", "declarations", "losses", "data", "commands"}
_CURE = (
    "Restore it from a copy, or delete {} and give the sweep's command again: finished runs are "
    "kept, and their verdicts count as exploratory, because what was declared before them is lost."
)


class Plan(NamedTuple):
    """What a sweep was asked for.

    Attributes:
        facts: Content of sweep.json.
        runs: By run_id, with the columns of `PLANNED`.
    """

    facts: dict[str, Any]
    runs: pd.DataFrame


LISTED = {"plan": _CURE, "curves": "Give the sweep's command again: it is written anew."}
"""Kinds of files that sweep.json lists, parts and the losses over error or prediction, and what to
do where one is damaged."""


def path_of(folder: Path, kind: str, sha256: str) -> Path:
    """Where a file of a kind of `LISTED` lies."""
    return folder / f"{kind}-{sha256[:16]}.parquet"


def files_of(folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """All files that a plan lists, from the facts of sweep.json."""
    parts = [path_of(folder, "plan", sha256) for sha256 in facts.get("parts", ())]
    drawn = facts.get("curves_sha")
    return [*parts, path_of(folder, "curves", drawn)] if drawn else parts


def read_plan(folder: Path) -> Plan:
    """The plan of a sweep; that of a version before parts too, which had the runs in sweep.json.

    Raises:
        store.StoreError: It is missing, torn or not one of ours.
    """
    facts = read_facts(folder)
    if "planned" in facts:
        rows = [{"run_id": run_id, **row} for run_id, row in facts.pop("planned").items()]
        facts.pop("curves_sha", None)  # of a file of another name, which the next launch writes
        return Plan(facts, planned(rows))
    parts = [PLANNED.empty_table()]
    parts += [read_listed(folder, "plan", sha256) for sha256 in facts["parts"]]
    every = pa.concat_tables(parts, promote_options="default").select(PLANNED.names)
    return Plan(facts, every.combine_chunks().to_pandas().set_index("run_id"))


def read_listed(folder: Path, kind: str, sha256: str) -> pa.Table:
    """The table of a file that sweep.json lists; see `path_of`.

    Raises:
        store.StoreError: It is missing, altered or no table.
    """
    path = path_of(folder, kind, sha256)
    cure = LISTED[kind].format(folder / "sweep.json")
    try:
        return pq.read_table(pa.BufferReader(store.read_hashed(path, sha256, cure=cure)))
    except pa.ArrowException as error:
        raise store.StoreError(f"{path}: no parquet of lossbench ({error}). {cure}") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """Content of a sweep's sweep.json; raises as `read_plan` does."""
    path = folder / "sweep.json"
    cure = _CURE.format(path)
    facts = store.read_sealed(path, cure=cure)
    shas = facts.get("parts")
    if isinstance(shas, list):
        shas = [*shas, facts.get("curves_sha", "0" * 64)]
        has_runs = all(isinstance(sha, str) and _SHA256.fullmatch(sha) for sha in shas)
    else:
        has_runs = isinstance(facts.get("planned"), dict)
    if not (has_runs and facts.keys() >= _KEYS):
        raise store.StoreError(f"{path}: not a plan of this version of lossbench. {cure}")
    for entry in facts["declarations"]:
        if store.sha256(store.to_json(entry["declared"])) != entry["sha256"]:
            raise store.StoreError(
                f"{path}: a declaration was edited after the fact. Restore it, or give the new "
                "question its own folder with name=..."
            )
    return facts


def planned(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of a plan as its frame; `params` and `tuned` as mappings or as JSON."""
    texts = [
        {
            **row,
            **{
                key: row[key] if isinstance(row[key], str) else json.dumps(row[key], sort_keys=True)
                for key in ("params", "tuned")
                if key in row
            },
        }
        for row in rows
    ]
    return pa.Table.from_pylist(texts, schema=PLANNED).to_pandas().set_index("run_id")


def encode_runs(runs: pd.DataFrame) -> bytes:
    """Rows of a plan as the bytes of a part."""
    return encode(pa.Table.from_pandas(runs.reset_index(), schema=PLANNED, preserve_index=False))
