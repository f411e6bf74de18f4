"""Adds runs to the plan of a sweep, with descriptions of their losses and data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from lossbench import records, store
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve
from lossbench.losses.relations import related
from lossbench.question import Run
from lossbench.question.cells import planned_row
from lossbench.sweep.siblings import seen_elsewhere
from lossbench.user_code import restoring_process_state


def plan_runs(
    folder: Path,
    runs: Sequence[Run],
    *,
    name: str,
    command: str,
    question: str = "",
    declaration: records.Declaration | None = None,
    recorded: int,
) -> None:
    """Add runs to a sweep's plan, with their losses' curves; the caller holds the sweep's lock.

    For `declaration` and `recorded` see `records.extend_plan`.

    Raises:
        ConfigError: The declaration contradicts the first one of the sweep, or is missing although
            the sweep has one.
    """
    old = records.read_plan(folder) if (folder / "sweep.json").exists() else records.EMPTY_PLAN
    seen: dict[str, dict[str, str]] = {}
    new_runs = [run for run in runs if run.run_id not in old.runs.index]
    if new_runs:
        declarations = {entry["sha256"]: entry["declared"] for entry in old.facts["declarations"]}
        if declaration is not None:
            # As JSON, like the declarations of other sweeps, which are compared with it.
            content = store.to_json(declaration)
            declarations[store.sha256(content)] = json.loads(content)
        seen = seen_elsewhere(folder, new_runs, planned=old.runs, declarations=declarations)
    facts = {"name": name, "command": command, "question": question}
    new = extended(old, runs, facts, declaration=declaration, recorded=recorded, seen=seen)
    if not records.is_written(folder, old, new):
        records.write_plan(folder, old, new, curves=_curves(new.facts["losses"]))


def extended(
    old: records.Plan,
    runs: Sequence[Run],
    facts: Mapping[str, str],
    *,
    declaration: records.Declaration | None = None,
    recorded: int = 0,
    seen: Mapping[str, Mapping[str, str]] | None = None,
) -> records.Plan:
    """Plan with the runs of a launch added, and its data and losses; see `records.extend_plan`."""
    declared = [entry["declared"] for entry in old.facts["declarations"]]
    tuned = [*declared, declaration or {}][0].get("tuned", [])
    rows = [planned_row(run, tuned) for run in {run.run_id: run for run in runs}.values()]
    names = ("task", "source", "licence", "drawn", "is_symmetric", "note")
    data = {
        part.name: {"fn": part.fn, "params": dict(part.params), "title": part.title}
        | {name: getattr(DATA[part.fn], name) for name in names}
        | {"unit": DATA[part.fn].unit_of(part.params)}
        for part in {run.data.name: run.data for run in runs}.values()
    }
    losses: dict[str, dict[str, object]] = {}
    for run in {run.loss.name: run for run in runs}.values():
        row, fn = run.row, run.loss.fn
        is_default = all(row.defaults[name] == value for name, value in run.loss.params.items())
        losses[run.loss.name] = {
            "fn": fn,
            "params": dict(run.loss.params),
            **{name: getattr(row, name) for name in ("inverse_link", "family", "task")},
            **{name: getattr(row, name) for name in ("formula", "source")},
            "claims": sorted(row.claims),
            "unsound": [*row.unsound],
            # Losses that equal this one up to a factor, all with default parameters.
            "duplicates": {
                ({relation.loss, relation.other} - {fn}).pop(): relation.sentence
                for relation in related(fn)
                if relation.is_duplicate and is_default
            },
        }
    return records.extend_plan(
        old,
        records.planned(rows),
        facts={**facts, "losses": losses, "data": data},
        declaration=declaration,
        recorded=recorded,
        seen=seen or {},
    )


def _curves(losses: Mapping[str, Mapping[str, object]]) -> bytes:
    """Curves of losses as parquet; a loss that raises or is not loaded has an empty curve."""
    parts = []
    for name, facts in losses.items():
        try:
            row = LOSSES[str(facts["fn"])]
            with restoring_process_state(f"loss {name}", row.fn):
                values = curve(row, facts["params"])  # type: ignore[arg-type]
            columns = {key: pa.array(column, pa.float64()) for key, column in values.items()}
            pa.table(columns)  # refuses columns of unequal length
        except Exception:
            columns = {name: [] for name in ("argument", "value", "first", "second", "weight")}
        count = len(columns["argument"])
        labels = {"loss": name, "task": facts["task"], "family": facts["family"]}
        parts.append(pa.table({key: [value] * count for key, value in labels.items()} | columns))
    return records.encode(pa.concat_tables(parts, promote_options="default"))
