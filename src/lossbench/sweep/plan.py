"""The plan of a sweep: which runs were asked for, under which declaration, in place of which."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lossbench import records, store
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve
from lossbench.losses.relations import related
from lossbench.own import contained
from lossbench.runs import ConfigError, Run
from lossbench.sweep.siblings import seen_elsewhere

log = logging.getLogger(__name__)

EMPTY: dict[str, Any] = {
    "planned": {},
    "declarations": [],
    "losses": {},
    "data": {},
    "commands": [],
}

GROWS = ("losses", "cells", "sources")
"""What a later declaration of the same sweep may change: it adds losses."""

WHEN_PLANNED = ("declaration", "seen_under", "seen_in", "asked_in")
"""What is said of a run when it is planned first, and stays: under which declaration it was; under
which other one it had been trained before, in which sweep; and which sweep of the same rules asked
other questions of it."""

NOT_OF_A_CELL = ("seed", "source_sha")
NOT_OF_A_CONTEXT = (*NOT_OF_A_CELL, "loss")


def write(
    folder: Path,
    runs: Sequence[Run],
    *,
    name: str,
    command: str,
    question: str = "",
    declaration: Mapping[str, Any] | None = None,
    recorded: int,
) -> None:
    """Add runs to the sweep.json of a folder, and the curves of their losses beside it.

    The sweep's lock is held. The arguments and what is raised are those of `extended`.
    """
    path, curves_path = folder / "sweep.json", folder / "curves.parquet"
    old = records.read_plan(path) if path.exists() else EMPTY
    new = extended(
        old,
        runs,
        name=name,
        command=command,
        question=question,
        declaration=declaration,
        recorded=recorded,
        seen=_seen(folder, old, runs, declaration),
    )
    if gone := len(old["planned"].keys() - new["planned"].keys()):
        log.warning("code or data were edited: %d runs of before leave %s", gone, folder)
    if len(new["declarations"]) > max(1, len(old["declarations"])):
        log.warning(
            "%s was declared before: what is new here counts as exploratory. "
            "Give a new question its own folder with name=...",
            folder,
        )
    sha = old.get("curves_sha", "")
    if {**new, "curves_sha": sha} == old:
        with contextlib.suppress(store.StoreError):
            store.read_hashed(curves_path, sha, cure="")
            return
    curves = _curves(new["losses"])
    store.write(curves_path, curves)
    store.write(path, store.sealed({**new, "curves_sha": store.sha256(curves)}))


def _seen(
    folder: Path, old: Mapping[str, Any], runs: Sequence[Run], declaration: Mapping[str, Any] | None
) -> dict[str, dict[str, str]]:
    """What other sweeps had trained of the runs that are new here."""
    declarations = {entry["sha256"]: entry["declared"] for entry in old["declarations"]}
    if declaration is not None:
        # As JSON, because that is what the declarations of other sweeps have become.
        declarations[_digest(declaration)] = json.loads(store.to_json(declaration))
    new = [run for run in runs if run.run_id not in old["planned"]]
    if not new:
        return {}
    return seen_elsewhere(folder, new, planned=old["planned"], declarations=declarations)


def _digest(declaration: Mapping[str, Any]) -> str:
    return store.sha256(store.to_json(declaration))


def _curves(losses: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Curves of losses as parquet; empty where one raises or its extension is not loaded now."""
    parts = []
    for name, facts in losses.items():
        try:
            row = LOSSES[facts["fn"]]
            with contained(f"loss {name}", row.fn):
                columns = curve(row, facts["params"])
            columns = {key: pa.array(its, pa.float64()) for key, its in columns.items()}
            pa.table(columns)  # refuses what is not as many numbers in each
        except Exception:
            columns = {name: [] for name in ("argument", "value", "first", "second", "weight")}
        count = len(columns["argument"])
        labels = {"loss": name, "task": facts["task"], "family": facts["family"]}
        parts.append(pa.table({key: [value] * count for key, value in labels.items()} | columns))
    return records.encode(pa.concat_tables(parts, promote_options="default"))


def extended(
    old: Mapping[str, Any],
    runs: Sequence[Run],
    *,
    name: str,
    command: str,
    question: str = "",
    declaration: Mapping[str, Any] | None,
    recorded: int = 0,
    seen: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """A plan with more runs.

    An old run leaves it where a new one stands in its place: the same cell and
    candidate with other code.

    Args:
        old: The plan so far, or `EMPTY`.
        runs: What is asked for now.
        name: Of the sweep.
        command: What was typed; a sweep keeps each command once.
        question: What it asks, in words.
        declaration: What was fixed before any of these runs, None where nothing was.
        recorded: Runs the folder already holds, whatever the plan says.
        seen: From `siblings.seen_elsewhere`, of the new ones; a run keeps what was said of it when
            it was planned.

    Raises:
        ConfigError: The declaration contradicts the first one, or there is none and the sweep has.
    """
    declarations, digest = _declared(old, declaration, recorded)
    if (
        declarations
        and declaration is None
        and any(run.run_id not in old["planned"] for run in runs)
    ):
        raise ConfigError(
            f"{name} is a declared sweep, whose verdicts other runs would change: give these a "
            "folder of their own with name=..."
        )
    of_losses = {run.loss.name: run for run in runs}
    tuned = next((d["declared"].get("tuned", []) for d in declarations), [])
    new = {run.run_id: _planned(run, tuned) for run in runs}
    for run_id, facts in new.items():
        first = old["planned"].get(run_id, {"declaration": digest, **(seen or {}).get(run_id, {})})
        facts |= {key: first[key] for key in WHEN_PLANNED if key in first}
    versions: dict[tuple[Any, ...], set[str]] = {}
    for facts in new.values():
        versions.setdefault(_slot(facts), set()).add(facts["source_sha"])
    current = {
        run_id: facts
        for run_id, facts in old["planned"].items()
        if facts["source_sha"] in versions.get(_slot(facts), {facts["source_sha"]})
    }
    planned = current | new
    names = ("task", "source", "licence", "drawn", "is_symmetric", "note")
    data = {
        source.name: {"fn": source.fn, "params": dict(source.params), "title": source.title}
        | {name: getattr(DATA[source.fn], name) for name in names}
        | {"unit": DATA[source.fn].unit_of(source.params)}
        for source in {run.data.name: run.data for run in runs}.values()
    }
    return {
        "schema": records.SCHEMA,
        "name": name,
        "question": question or old.get("question", ""),
        "commands": [*dict.fromkeys([*old["commands"], command])],
        "planned": planned,
        "losses": old["losses"] | {loss: _loss_facts(run) for loss, run in of_losses.items()},
        "data": old["data"] | data,
        "declarations": declarations,
    }


def _declared(
    old: Mapping[str, Any], declaration: Mapping[str, Any] | None, recorded: int
) -> tuple[list[dict[str, Any]], str]:
    """All declarations, and the sha256 of the present one."""
    known = old["declarations"]
    if declaration is None:
        return known, ""
    digest = _digest(declaration)
    if any(entry["sha256"] == digest for entry in known):
        return known, digest
    first_keys = known[0]["declared"] if known else declaration
    for key in sorted({*first_keys, *declaration} - {*GROWS}):
        first, now = first_keys.get(key), declaration.get(key)
        if first != now:
            raise ConfigError(
                f"{key} is declared as {now}, this sweep began with {first}: what is judged is "
                "fixed beforehand, so give the new question its own folder with name=..."
            )
    before = max(recorded, len(old["planned"]))
    entry = {"sha256": digest, "declared": dict(declaration), "runs_before": before}
    return [*known, entry], digest


def _slot(facts: Mapping[str, Any]) -> tuple[str, str]:
    """What a run is for: a cell and a candidate, on any seed."""
    return facts["cell"], json.dumps(facts["tuned"], sort_keys=True)


def _planned(run: Run, tuned: Sequence[str]) -> dict[str, Any]:
    names = {group: getattr(run, group).name for group in ("data", "model", "loss", "optimizer")}
    values, facts = _split(run, tuned)
    return {
        "cell": _hash(facts, but=NOT_OF_A_CELL),
        "context": _hash(facts, but=NOT_OF_A_CONTEXT),
        "tuned": values,
        "params": dict(run.loss.params),
        "source_sha": run.source_sha,
        **names,
        "lr": run.lr,
        "seed": run.seed,
        "task": run.row.task,
        "family": run.row.family,
    }


def cell(run: Run, tuned: Sequence[str] = ()) -> str:
    """Hash of all factors but the seed, and but what is chosen for each loss or the code decides.

    Args:
        run: One of its runs.
        tuned: Keys that tuning chooses; the learning rate always counts as one.
    """
    return _hash(_split(run, tuned)[1], but=NOT_OF_A_CELL)


def context(run: Run, tuned: Sequence[str] = ()) -> str:
    """Hash of what cells have in common whose losses are compared: all of `cell` but the loss."""
    return _hash(_split(run, tuned)[1], but=NOT_OF_A_CONTEXT)


def _hash(facts: Mapping[str, Any], *, but: Sequence[str]) -> str:
    others = {name: value for name, value in facts.items() if name not in but}
    return _hash_of_text(json.dumps(others, sort_keys=True))


@functools.lru_cache(maxsize=10_000)
def _hash_of_text(compact: str) -> str:
    """The hash of the readable JSON, which takes longer: many runs have the same facts."""
    return store.sha256(store.to_json(json.loads(compact)))[:16]


def _split(run: Run, tuned: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tuned values by key, those that the run has; and its facts without them."""
    facts, values = run.facts, {}
    for key in dict.fromkeys(["optimizer.lr", *tuned]):
        node, path = facts, key.split(".")
        if path[0] == "optimizer" and len(path) == 2:  # these stand at the top of a run
            path = path[1:]
        for name in path[:-1]:
            node = node.get(name, {})
        if path[-1] in node:
            values[key] = node.pop(path[-1])
    return values, facts


def _loss_facts(run: Run) -> dict[str, Any]:
    row = run.row
    is_default = all(row.defaults[name] == value for name, value in run.loss.params.items())
    return {
        "fn": run.loss.fn,
        "params": dict(run.loss.params),
        **{name: getattr(row, name) for name in ("inverse_link", "family", "task")},
        **{name: getattr(row, name) for name in ("formula", "source")},
        "claims": sorted(row.claims),
        # Losses that are this one up to a factor, all with default parameters, and how we say it.
        "duplicates": {
            ({relation.loss, relation.other} - {run.loss.fn}).pop(): relation.sentence
            for relation in related(run.loss.fn)
            if relation.is_duplicate and is_default
        },
    }
