"""The plan of a sweep on disk: `sweep.json`, which names the parts beside it that have the runs.

A part is a parquet file that is never changed: a launch that asks for more runs adds one, and
sweep.json, which names each with its sha256, is what makes it count. What it does not name is
garbage from an interrupted write.
"""

from __future__ import annotations

import json
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

_KEYS = {"name", "declarations", "losses", "data", "commands"}
_CURE = "Delete it and give the sweep's command again: finished runs are kept."


class Plan(NamedTuple):
    """What a sweep was asked for.

    Attributes:
        facts: Content of sweep.json.
        runs: By run_id, with the columns of `PLANNED`.
    """

    facts: dict[str, Any]
    runs: pd.DataFrame


def read_plan(folder: Path) -> Plan:
    """The plan of a sweep; that of a version before parts too, which had the runs in sweep.json.

    Raises:
        store.StoreError: It is missing, torn or not one of ours.
    """
    while True:
        facts = _read_facts(folder / "sweep.json")
        try:
            return Plan(facts, _read_runs(folder, facts))
        except store.StoreError:
            # A launch that writes all parts anew deletes those of before.
            if _read_facts(folder / "sweep.json") == facts:
                raise


def _read_facts(path: Path) -> dict[str, Any]:
    facts = store.read_sealed(path)
    runs = facts.get("parts", facts.get("planned"))
    if not facts.keys() >= _KEYS or not isinstance(runs, dict):
        raise store.StoreError(f"{path}: not a plan of lossbench. {_CURE}")
    for entry in facts["declarations"]:
        if store.sha256(store.to_json(entry["declared"])) != entry["sha256"]:
            raise store.StoreError(
                f"{path}: a declaration was edited after the fact. Restore it, or give the new "
                "question its own folder with name=..."
            )
    return facts


def _read_runs(folder: Path, facts: dict[str, Any]) -> pd.DataFrame:
    if "parts" not in facts:
        rows = [{"run_id": run_id, **row} for run_id, row in facts.pop("planned").items()]
        return planned(rows)
    cure = f"Restore it, or delete {folder / 'sweep.json'} and give the sweep's command again."
    parts = [PLANNED.empty_table()]
    for name, sha in facts["parts"].items():
        content = store.read_hashed(folder / name, sha, cure=cure)
        try:
            parts.append(pq.read_table(pa.BufferReader(content)))
        except pa.ArrowException as error:
            raise store.StoreError(
                f"{folder / name}: no part of a plan ({error}). {cure}"
            ) from error
    every = pa.concat_tables(parts, promote_options="default").select(PLANNED.names)
    return every.combine_chunks().to_pandas().set_index("run_id")


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
