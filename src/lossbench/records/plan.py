"""The plan of a sweep on disk: `sweep.json`, and beside it the parts that hold its runs.

A part is a parquet file that is never changed: a launch that asks for more runs adds one, and
counts once sweep.json lists its sha256. A file is named by its content, so that a name never means
something else. Files that sweep.json does not list are garbage.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench import store
from lossbench.errors import ConfigError
from lossbench.records.columns import SCHEMA, encode

log = logging.getLogger(__name__)

WHEN_PLANNED = ["declaration", "seen_under", "seen_in", "asked_in"]
"""Columns that a run gets when it is planned first, and keeps: the declaration it was planned
under; the other declaration under which it had been trained before, and in which sweep; and the
sweep of the same rules that asked other questions of it."""

PLANNED = pa.schema(
    [pa.field("run_id", pa.string())]
    + [pa.field(name, pa.string()) for name in ("data", "model", "loss", "optimizer")]
    + [pa.field("lr", pa.float64()), pa.field("seed", pa.int64())]
    + [pa.field(name, pa.string()) for name in ("task", "family", "params", "tuned")]
    + [pa.field(name, pa.string()) for name in ("cell", "context", "source_sha", *WHEN_PLANNED)]
)
"""Columns of a part: `params` of the loss and `tuned` values as JSON; `cell` and `context` are the
hashes of `question.cells`. `declaration` is a sha256, empty without one; the last three come from
`sweep.siblings` and are null where it saw nothing."""

GROWS = ("losses", "cells", "sources")
"""Keys of a declaration that a later one of the same sweep may change: it adds losses."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"name", "declarations", "losses", "data", "commands"}
_CURE = (
    "Restore it from a copy, or delete {} and give the sweep's command again: finished runs are "
    "kept, and their verdicts count as exploratory, because what was declared before them is lost."
)


class Plan(NamedTuple):
    """Request of a sweep.

    Attributes:
        facts: Content of sweep.json.
        runs: Runs by run_id, with the columns of `PLANNED`.
    """

    facts: dict[str, Any]
    runs: pd.DataFrame


LISTED = {"plan": _CURE, "curves": "Give the sweep's command again: it is written anew."}
"""Kinds of files that sweep.json lists, parts and curves of the losses, and the cure for each
where one is damaged."""


def path_of(folder: Path, kind: str, sha256: str) -> Path:
    """Path of a file of a kind of `LISTED`."""
    return folder / f"{kind}-{sha256[:16]}.parquet"


def files_of(folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Files that a plan lists, from the facts of sweep.json."""
    parts = [path_of(folder, "plan", sha256) for sha256 in facts.get("parts", ())]
    drawn = facts.get("curves_sha")
    return [*parts, path_of(folder, "curves", drawn)] if drawn else parts


def read_plan(folder: Path) -> Plan:
    """Plan of a sweep, also of a version before parts, which had the runs in sweep.json.

    Raises:
        store.StoreError: The plan is missing, torn or not one of ours.
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
    """Table of a file that sweep.json lists; see `path_of`.

    Raises:
        store.StoreError: The file is missing, altered or no table.
    """
    path = path_of(folder, kind, sha256)
    cure = LISTED[kind].format(folder / "sweep.json")
    try:
        return pq.read_table(pa.BufferReader(store.read_hashed(path, sha256, cure=cure)))
    except pa.ArrowException as error:
        raise store.StoreError(
            f"{path}: not a Parquet file of lossbench ({error}). {cure}"
        ) from error


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
    """Frame of a plan from its rows; `params` and `tuned` are mappings or JSON."""
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


EMPTY_PLAN = Plan(
    {"declarations": [], "losses": {}, "data": {}, "commands": [], "parts": []}, planned([])
)


def extend_plan(
    old: Plan,
    new: pd.DataFrame,
    *,
    facts: Mapping[str, Any],
    declaration: Mapping[str, Any] | None,
    recorded: int,
    seen: Mapping[str, Mapping[str, str]],
) -> Plan:
    """Plan with more runs, those of before first; its facts lack the names of files.

    An old run leaves the plan where a new one takes its place: equal cell and candidate, other
    code.

    Args:
        old: The plan so far, or `EMPTY_PLAN`.
        new: Runs of this launch, from `planned`.
        facts: Of this launch: name, command, question, and descriptions of losses and data.
        declaration: Declaration that was fixed before any of these runs, if there is one.
        recorded: Number of runs that the folder already holds, planned or not.
        seen: Columns of `WHEN_PLANNED` but the first, by run_id, of runs that are new.

    Raises:
        ConfigError: The declaration contradicts the first one, or there is none and the sweep has.
    """
    declarations, digest = _declarations(old, declaration, recorded)
    is_new = ~new.index.isin(old.runs.index)
    if declarations and declaration is None and is_new.any():
        raise ConfigError(
            f"{facts['name']} is a declared sweep, whose verdicts other runs would change: give "
            "these a folder of their own with name=..."
        )
    new = new.copy()
    new[WHEN_PLANNED] = old.runs[WHEN_PLANNED].reindex(new.index)
    new.loc[is_new, "declaration"] = digest
    for run_id, columns in seen.items():
        new.loc[run_id, [*columns]] = [*columns.values()]
    slots, new_slots = old.runs.cell + old.runs.tuned, new.cell + new.tuned
    is_current = (slots + old.runs.source_sha).isin(new_slots + new.source_sha)
    stay = old.runs.index[is_current | ~slots.isin(new_slots)]
    every = pd.concat([old.runs, new])
    every = every[~every.index.duplicated(keep="last")]
    runs = every.loc[[*stay, *new.index[~new.index.isin(stay)]]]
    merged = {
        "schema": SCHEMA,
        "name": facts["name"],
        "question": facts["question"] or old.facts.get("question", ""),
        "commands": [*dict.fromkeys([*old.facts["commands"], facts["command"]])],
        "losses": old.facts["losses"] | facts["losses"],
        "data": old.facts["data"] | facts["data"],
        "declarations": declarations,
    }
    return Plan(merged, runs)


def _declarations(
    old: Plan, declaration: Mapping[str, Any] | None, recorded: int
) -> tuple[list[dict[str, Any]], str]:
    """Declarations of a plan with the present one, and the sha256 of the present one."""
    known = old.facts["declarations"]
    if declaration is None:
        return known, ""
    digest = store.sha256(store.to_json(declaration))
    if any(entry["sha256"] == digest for entry in known):
        return known, digest
    first_keys = known[0]["declared"] if known else declaration
    for key in sorted({*first_keys, *declaration} - {*GROWS}):
        first, now = first_keys.get(key), declaration.get(key)
        if first != now:
            raise ConfigError(
                f"{key} is declared as {now}, but this sweep began with {first}. A "
                f"declaration is fixed before the first run: give the new question "
                f"its own folder with name=..."
            )
    before = max(recorded, len(old.runs))
    entry = {"sha256": digest, "declared": dict(declaration), "runs_before": before}
    return [*known, entry], digest


def is_written(folder: Path, old: Plan, new: Plan) -> bool:
    """Whether a folder's plan `old` already says all of `new`, and its curves are undamaged."""
    listed = {key: old.facts.get(key) for key in ("parts", "curves_sha")}
    is_same = old.runs.equals(new.runs) and old.facts == {**new.facts, **listed}
    return is_same and has_curves(folder, old.facts)


def has_curves(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the file of the losses' curves is there and undamaged, by the facts of a plan."""
    try:
        read_listed(folder, "curves", facts["curves_sha"])
    except (KeyError, store.StoreError):
        return False
    return True


def write_plan(folder: Path, old: Plan, new: Plan, *, curves: bytes) -> None:
    """Write a plan over the one before; the sweep's lock is held.

    New runs become a new part. Where old runs leave the plan or their rows change, one part takes
    the place of all. Files of before stay for processes that read them now, until the next launch
    that writes.

    Args:
        folder: Folder of the sweep.
        old: The plan as read from the folder, or `EMPTY_PLAN`.
        new: The plan from `extend_plan`.
        curves: Curves of the losses, as parquet.
    """
    if gone := len(old.runs.index.difference(new.runs.index)):
        log.warning(
            "code or data were edited: %d earlier runs no longer belong to %s", gone, folder
        )
    if len(new.facts["declarations"]) > max(1, len(old.facts["declarations"])):
        log.warning(
            "%s was declared before: comparisons that are new here count as exploratory. "
            "Give a new question its own folder with name=...",
            folder,
        )
    grows = "parts" in old.facts and new.runs.iloc[: len(old.runs)].equals(old.runs)
    parts = old.facts["parts"] if grows else []
    added = new.runs.iloc[len(old.runs) :] if grows else new.runs
    if len(added):
        content = encode_runs(added)
        parts = [*parts, store.sha256(content)]
        store.write(path_of(folder, "plan", parts[-1]), content)
    facts = {**new.facts, "parts": parts, "curves_sha": store.sha256(curves)}
    store.write(path_of(folder, "curves", facts["curves_sha"]), curves)
    store.write(folder / "sweep.json", store.sealed(facts))
    live = {file for plan in (old.facts, facts) for file in files_of(folder, plan)}
    for kind in LISTED:
        for other in {*folder.glob(f"{kind}[-.]*parquet")} - live:
            store.delete(other)
