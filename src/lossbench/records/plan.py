"""The plan of a sweep on disk: `sweep.json`, and beside it the parts that hold its runs.

A part is a parquet file that is never changed: a launch with new runs adds a part, which counts
once sweep.json lists the part's sha256. A file is named by the hash of its content, so that a name
never refers to different contents. Files that sweep.json does not list are garbage.
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
from lossbench.records.vocabulary import Declaration

log = logging.getLogger(__name__)

WHEN_PLANNED = ["declaration", "seen_under", "seen_in", "asked_in"]
"""Columns whose values are fixed when a run is first planned: the declaration under which the run
was planned; the other declaration under which another sweep had trained it, and the name of the
sweep; and the name of a sweep that judged it by the same rules but asked other questions."""

PLANNED = pa.schema(
    [pa.field("run_id", pa.string())]
    + [pa.field(name, pa.string()) for name in ("data", "model", "loss", "optimizer")]
    + [pa.field("lr", pa.float64()), pa.field("seed", pa.int64())]
    + [pa.field(name, pa.string()) for name in ("task", "family", "params", "tuned")]
    + [pa.field(name, pa.string()) for name in ("cell", "context", "source_sha", *WHEN_PLANNED)]
)
"""Columns of a part: `params` of the loss and `tuned` values as JSON; `cell` and `context` are the
hashes of `question.cells`. `declaration` is a sha256, empty without a declaration; the last three
columns come from `sweep.siblings` and are null if no other sweep had trained the run."""

GROWS = ("losses", "cells", "sources")
"""Keys whose values a later declaration of the same sweep may change, because it adds losses."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"name", "declarations", "losses", "data", "commands"}
_CURE = (
    "Restore it from a copy, or delete {} and give the sweep's command again: finished runs are "
    "kept, and their verdicts count as exploratory, because what was declared before them is lost."
)


class Plan(NamedTuple):
    """The plan of a sweep, as read from its folder or before it is written.

    Attributes:
        facts: Content of sweep.json.
        runs: Runs by run_id, with the columns of `PLANNED`.
    """

    facts: store.Record
    runs: pd.DataFrame


LISTED = {"plan": _CURE, "curves": "Give the sweep's command again: it is written anew."}
"""Kinds of files that sweep.json lists, parts of the plan and curves of the losses, and the cure
for a damaged file of each kind."""


def path_of(folder: Path, kind: str, sha256: str) -> Path:
    """Path of the file of a kind in `LISTED` with a sha256."""
    return folder / f"{kind}-{sha256[:16]}.parquet"


def files_of(folder: Path, facts: store.Record) -> list[Path]:
    """Paths of the files that sweep.json lists, from its content `facts`."""
    parts = [path_of(folder, "plan", sha256) for sha256 in facts.get("parts", ())]
    drawn = facts.get("curves_sha")
    return [*parts, path_of(folder, "curves", drawn)] if drawn else parts


def read_plan(folder: Path) -> Plan:
    """Read the plan of a sweep, also in the older format, which had the runs in sweep.json.

    Raises:
        store.StoreError: The plan is missing, damaged or not one of lossbench.
    """
    facts = read_facts(folder)
    if "planned" in facts:
        rows = [{"run_id": run_id, **row} for run_id, row in facts.pop("planned").items()]
        facts.pop("curves_sha", None)  # that file has another name; the next launch writes it anew
        return Plan(facts, planned(rows))
    parts = [PLANNED.empty_table()]
    parts += [read_listed(folder, "plan", sha256) for sha256 in facts["parts"]]
    every = pa.concat_tables(parts, promote_options="default").select(PLANNED.names)
    return Plan(facts, every.combine_chunks().to_pandas().set_index("run_id"))


def read_listed(folder: Path, kind: str, sha256: str) -> pa.Table:
    """Read the table in a file that sweep.json lists; see `path_of`.

    Raises:
        store.StoreError: The file is missing, altered or not a table.
    """
    path = path_of(folder, kind, sha256)
    cure = LISTED[kind].format(folder / "sweep.json")
    try:
        return pq.read_table(pa.BufferReader(store.read_hashed(path, sha256, cure=cure)))
    except pa.ArrowException as error:
        raise store.StoreError(
            f"{path}: not a Parquet file of lossbench ({error}). {cure}"
        ) from error


def read_facts(folder: Path) -> store.Record:
    """Read and check a sweep's sweep.json; raises the errors of `read_plan`."""
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
    """Frame of planned runs by run_id, from rows with `params` and `tuned` as mappings or JSON."""
    texts = []
    for row in rows:
        mappings = {key: row[key] for key in ("params", "tuned") if key in row}
        encoded = {
            key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for key, value in mappings.items()
        }
        texts.append({**row, **encoded})
    return pa.Table.from_pylist(texts, schema=PLANNED).to_pandas().set_index("run_id")


def encode_runs(runs: pd.DataFrame) -> bytes:
    """Encode planned runs as a part, a parquet file."""
    return encode(pa.Table.from_pandas(runs.reset_index(), schema=PLANNED, preserve_index=False))


EMPTY_PLAN = Plan(
    {"declarations": [], "losses": {}, "data": {}, "commands": [], "parts": []}, planned([])
)


def extend_plan(
    old: Plan,
    new: pd.DataFrame,
    *,
    facts: Mapping[str, Any],
    declaration: Declaration | None,
    recorded: int,
    seen: Mapping[str, Mapping[str, str]],
) -> Plan:
    """Add runs to a plan, behind its earlier runs; the facts of the result lack the names of files.

    An old run leaves the plan if a new run replaces the old run: with equal cell and candidate, and
    other code.

    Args:
        old: The plan so far, or `EMPTY_PLAN`.
        new: Runs of this launch, from `planned`.
        facts: Facts of this launch: name, command, question, and descriptions of losses and data.
        declaration: Declaration that was fixed before any of these runs; None if there is none.
        recorded: Number of runs that the folder already holds, planned or not.
        seen: Values of the columns of `WHEN_PLANNED` but the first, by run_id, for new runs.

    Raises:
        ConfigError: The declaration contradicts the first declaration of the sweep, or a declared
            sweep gets new runs without a declaration.
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
    old: Plan, declaration: Declaration | None, recorded: int
) -> tuple[list[store.Record], str]:
    """All declarations, including the present one, and its sha256; empty without a present one."""
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
    """Whether a folder's plan `old` already equals `new`, and its file of curves is undamaged."""
    listed = {key: old.facts.get(key) for key in ("parts", "curves_sha")}
    is_same = old.runs.equals(new.runs) and old.facts == {**new.facts, **listed}
    return is_same and has_curves(folder, old.facts)


def has_curves(folder: Path, facts: store.Record) -> bool:
    """Whether the file of the losses' curves exists and has the sha256 in the facts of a plan."""
    try:
        read_listed(folder, "curves", facts["curves_sha"])
    except (KeyError, store.StoreError):
        return False
    return True


def write_plan(folder: Path, old: Plan, new: Plan, *, curves: bytes) -> None:
    """Write a plan in place of the old plan; the caller holds the sweep's lock.

    New runs become a new part. If old runs leave the plan or their rows change, one new part
    replaces all parts. Files of the old plan stay until the next launch that writes, because other
    processes may be reading these files. `curves` are the bytes of a parquet file.
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
