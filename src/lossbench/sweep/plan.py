"""The plan of a sweep: which runs were asked for, under which declaration, in place of which."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lossbench import records, store
from lossbench.data import DATA
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve
from lossbench.losses.relations import related
from lossbench.question import ConfigError, Run
from lossbench.question.run import joined
from lossbench.sweep.siblings import seen_elsewhere
from lossbench.user_code import contained

log = logging.getLogger(__name__)

EMPTY = records.Plan(
    {"declarations": [], "losses": {}, "data": {}, "commands": [], "parts": []},
    records.planned([]),
)

GROWS = ("losses", "cells", "sources")
"""What a later declaration of the same sweep may change: it adds losses."""

WHEN_PLANNED = ["declaration", "seen_under", "seen_in", "asked_in"]
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
    """Add runs to the plan of a folder, and the curves of their losses beside it.

    New runs are a new part. Where others leave the plan, or what is said of them changes, one part
    takes the place of all; the files of before stay for who reads them now, until the next launch
    that writes. The sweep's lock is held. The arguments and what is raised are those of `extended`.
    """
    path = folder / "sweep.json"
    old = records.read_plan(folder) if path.exists() else EMPTY
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
    if gone := len(old.runs.index.difference(new.runs.index)):
        log.warning("code or data were edited: %d runs of before leave %s", gone, folder)
    if len(new.facts["declarations"]) > max(1, len(old.facts["declarations"])):
        log.warning(
            "%s was declared before: what is new here counts as exploratory. "
            "Give a new question its own folder with name=...",
            folder,
        )
    parts = old.facts.get("parts", [])
    grows = "parts" in old.facts and new.runs.iloc[: len(old.runs)].equals(old.runs)
    added = new.runs.iloc[len(old.runs) :] if grows else new.runs
    facts = {**new.facts, "parts": parts, "curves_sha": old.facts.get("curves_sha", "")}
    if not len(added) and facts == old.facts and are_drawn(folder, facts):
        return
    if len(added):
        part = _write(folder, "plan", records.encode_runs(added))
        facts["parts"] = [*parts, part] if grows else [part]
    facts["curves_sha"] = _write(folder, "curves", _curves(facts["losses"]))
    store.write(path, store.sealed(facts))
    live = {file for plan in (old.facts, facts) for file in records.files_of(folder, plan)}
    for kind in records.LISTED:
        for other in {*folder.glob(f"{kind}[-.]*parquet")} - live:
            store.delete(other)


def are_drawn(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the file of the losses' shapes is there and as it was written.

    Args:
        folder: Of the sweep.
        facts: Of its plan.
    """
    try:
        records.read_listed(folder, "curves", facts["curves_sha"])
    except (KeyError, store.StoreError):
        return False
    return True


def _write(folder: Path, kind: str, content: bytes) -> str:
    """Write a file that sweep.json will list; returns its sha256."""
    sha256 = store.sha256(content)
    store.write(records.path_of(folder, kind, sha256), content)
    return sha256


def _seen(
    folder: Path, old: records.Plan, runs: Sequence[Run], declaration: Mapping[str, Any] | None
) -> dict[str, dict[str, str]]:
    """What other sweeps had trained of the runs that are new here."""
    declarations = {entry["sha256"]: entry["declared"] for entry in old.facts["declarations"]}
    if declaration is not None:
        # As JSON, because that is what the declarations of other sweeps have become.
        declarations[_digest(declaration)] = json.loads(store.to_json(declaration))
    known = {*old.runs.index}
    new = [run for run in runs if run.run_id not in known]
    if not new:
        return {}
    return seen_elsewhere(folder, new, planned=old.runs, declarations=declarations)


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
    old: records.Plan,
    runs: Sequence[Run],
    *,
    name: str,
    command: str,
    question: str = "",
    declaration: Mapping[str, Any] | None,
    recorded: int = 0,
    seen: Mapping[str, Mapping[str, str]] | None = None,
) -> records.Plan:
    """A plan with more runs, those of before first; its facts lack what names files.

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
    tuned = next((d["declared"].get("tuned", []) for d in declarations), [])
    once = {run.run_id: run for run in runs}.values()
    new = records.planned([_planned(run, tuned) for run in once])
    is_new = ~new.index.isin(old.runs.index)
    if declarations and declaration is None and is_new.any():
        raise ConfigError(
            f"{name} is a declared sweep, whose verdicts other runs would change: give these a "
            "folder of their own with name=..."
        )
    new[WHEN_PLANNED] = old.runs[WHEN_PLANNED].reindex(new.index)
    new.loc[is_new, "declaration"] = digest
    for run_id, facts in (seen or {}).items():
        new.loc[run_id, [*facts]] = [*facts.values()]
    slots, new_slots = _slots(old.runs), _slots(new)
    is_current = (slots + old.runs.source_sha).isin(new_slots + new.source_sha)
    stay = old.runs.index[is_current | ~slots.isin(new_slots)]
    every = pd.concat([old.runs, new])
    every = every[~every.index.duplicated(keep="last")]
    planned = every.loc[[*stay, *new.index[~new.index.isin(stay)]]]
    of_losses = {run.loss.name: run for run in runs}
    names = ("task", "source", "licence", "drawn", "is_symmetric", "note")
    data = {
        source.name: {"fn": source.fn, "params": dict(source.params), "title": source.title}
        | {name: getattr(DATA[source.fn], name) for name in names}
        | {"unit": DATA[source.fn].unit_of(source.params)}
        for source in {run.data.name: run.data for run in runs}.values()
    }
    losses = {loss: _loss_facts(run) for loss, run in of_losses.items()}
    facts = {
        "schema": records.SCHEMA,
        "name": name,
        "question": question or old.facts.get("question", ""),
        "commands": [*dict.fromkeys([*old.facts["commands"], command])],
        "losses": old.facts["losses"] | losses,
        "data": old.facts["data"] | data,
        "declarations": declarations,
    }
    return records.Plan(facts, planned)


def _declared(
    old: records.Plan, declaration: Mapping[str, Any] | None, recorded: int
) -> tuple[list[dict[str, Any]], str]:
    """All declarations, and the sha256 of the present one."""
    known = old.facts["declarations"]
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
    before = max(recorded, len(old.runs))
    entry = {"sha256": digest, "declared": dict(declaration), "runs_before": before}
    return [*known, entry], digest


def _slots(runs: pd.DataFrame) -> pd.Series:
    """What each run is for: a cell and a candidate, on any seed."""
    return runs.cell + runs.tuned


def _planned(run: Run, tuned: Sequence[str]) -> dict[str, Any]:
    names = {group: getattr(run, group).name for group in ("data", "model", "loss", "optimizer")}
    values, facts = _split(run, tuned)
    return {
        "run_id": run.run_id,
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


def _hash(facts: Mapping[str, str], *, but: Sequence[str]) -> str:
    return _hash_of_text(joined({name: text for name, text in facts.items() if name not in but}))


@functools.lru_cache(maxsize=10_000)
def _hash_of_text(compact: str) -> str:
    """The hash of the readable JSON, which takes longer: many runs have the same facts."""
    return store.sha256(store.to_json(json.loads(compact)))[:16]


def _split(run: Run, tuned: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Tuned values by key, those that the run has; and its facts without them, as JSON."""
    texts, values = run.texts, {"optimizer.lr": run.lr}
    del texts["lr"]
    if others := [key for key in tuned if key != "optimizer.lr"]:
        facts = {name: fact for name, fact in run.facts.items() if name != "lr"}
        for key in others:
            node, path = facts, key.split(".")
            if path[0] == "optimizer" and len(path) == 2:  # these stand at the top of a run
                path = path[1:]
            for name in path[:-1]:
                node = node.get(name, {})
            if path[-1] in node:
                values[key] = node.pop(path[-1])
        texts = {name: json.dumps(fact, sort_keys=True) for name, fact in facts.items()}
    return values, texts


def _loss_facts(run: Run) -> dict[str, Any]:
    row = run.row
    is_default = all(row.defaults[name] == value for name, value in run.loss.params.items())
    return {
        "fn": run.loss.fn,
        "params": dict(run.loss.params),
        **{name: getattr(row, name) for name in ("inverse_link", "family", "task")},
        **{name: getattr(row, name) for name in ("formula", "source")},
        "claims": sorted(row.claims),
        "unsound": [*row.unsound],
        # Losses that are this one up to a factor, all with default parameters, and how we say it.
        "duplicates": {
            ({relation.loss, relation.other} - {run.loss.fn}).pop(): relation.sentence
            for relation in related(run.loss.fn)
            if relation.is_duplicate and is_default
        },
    }
