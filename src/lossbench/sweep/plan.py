"""The plan of a sweep: which runs were asked for, under which declaration, in place of which."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lossbench import records, store
from lossbench.data import DATA
from lossbench.losses.relations import related
from lossbench.runs import ConfigError, Run

EMPTY: dict[str, Any] = {
    "planned": {},
    "declarations": [],
    "losses": {},
    "data": {},
    "commands": [],
}

FIXED = (
    *("primary", "select", "reference", "margin", "endpoint", "family", "confidence", "targets"),
    "tuned",
)
"""What a later declaration of the same sweep may not change."""


def extended(
    old: Mapping[str, Any],
    runs: Sequence[Run],
    *,
    name: str,
    command: str,
    declaration: Mapping[str, Any] | None,
    recorded: int = 0,
) -> dict[str, Any]:
    """A plan with more runs.

    An old run leaves it where a new one stands in its place: the same cell, stage and seeds with
    other code, or, once tuning chose again, with another learning rate.

    Args:
        old: The plan so far, or `EMPTY`.
        runs: What is asked for now.
        name: Of the sweep.
        command: What was typed; a sweep keeps each command once.
        declaration: What was fixed before any of these runs, None where nothing was.
        recorded: Runs the folder already holds, whatever the plan says.

    Raises:
        ConfigError: The declaration contradicts the first one, or a seed would tune and confirm.
    """
    declarations, digest = _declared(old, declaration, recorded)
    before = {run_id: facts["declaration"] for run_id, facts in old["planned"].items()}
    tuned = next((d["declared"].get("tuned", []) for d in declarations), [])
    new = {run.run_id: _planned(run, before.get(run.run_id, digest), tuned) for run in runs}
    planned = _without_superseded(old["planned"], new) | new
    _refuse_tuned_and_confirmed(planned)
    return {
        "schema": records.SCHEMA,
        "name": name,
        "commands": [*dict.fromkeys([*old["commands"], command])],
        "planned": planned,
        "losses": old["losses"] | {run.loss.name: _loss_facts(run) for run in runs},
        "data": old["data"] | {run.data.name: _data_facts(run) for run in runs},
        "declarations": declarations,
    }


def _declared(
    old: Mapping[str, Any], declaration: Mapping[str, Any] | None, recorded: int
) -> tuple[list[dict[str, Any]], str]:
    """All declarations, and the sha256 of the present one."""
    known = old["declarations"]
    if declaration is None:
        return known, ""
    digest = store.sha256(store.to_json(declaration))
    if any(entry["sha256"] == digest for entry in known):
        return known, digest
    for key in FIXED if known else ():
        first, now = known[0]["declared"].get(key), declaration.get(key)
        if first != now:
            raise ConfigError(
                f"{key} is declared as {now}, this sweep began with {first}: what is judged is "
                "fixed beforehand, so give the new question its own folder with name=..."
            )
    before = max(recorded, len(old["planned"]))
    entry = {"sha256": digest, "declared": dict(declaration), "runs_before": before}
    return [*known, entry], digest


def _without_superseded(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    versions: dict[tuple[Any, ...], set[str]] = {}
    for facts in new.values():
        versions.setdefault(_slot(facts), set()).add(_version(facts))
    return {
        run_id: facts
        for run_id, facts in old.items()
        if _version(facts) in versions.get(_slot(facts), {_version(facts)})
    }


def _slot(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run is for. Confirmed runs of a cell share what was tuned; others do not."""
    tuned = "" if facts["stage"] == "confirm" else json.dumps(facts["tuned"], sort_keys=True)
    return facts["cell"], facts["condition"], tuned


def _version(facts: Mapping[str, Any]) -> str:
    return json.dumps([facts["tuned"], facts["source_sha"]], sort_keys=True)


def _refuse_tuned_and_confirmed(planned: Mapping[str, Any]) -> None:
    stages: dict[tuple[str, int], set[str]] = {}
    for facts in planned.values():
        stages.setdefault((facts["cell"], facts["seed"]), set()).add(facts["stage"])
    both = sorted({seed for (_, seed), seen in stages.items() if {"tune", "confirm"} <= seen})
    if both:
        raise ConfigError(
            f"seeds {', '.join(map(str, both))} would tune and confirm: a seed that tuned cannot "
            "confirm. Choose other seeds with hydra.sweeper.tune.seeds='\"range(100,105)\"', or "
            "give the sweep its own folder with name=..."
        )


def _planned(run: Run, declaration: str, tuned: Sequence[str]) -> dict[str, Any]:
    names = {group: getattr(run, group).name for group in ("data", "model", "loss", "optimizer")}
    found, facts = _tuned(run, ["optimizer.lr", *tuned])
    return {
        "cell": _hash(facts, but=_OF_NO_CELL),
        "context": _hash(facts, but=_OF_NO_CONTEXT),
        "tuned": found,
        "params": dict(run.loss.params),
        "declaration": declaration,
        "source_sha": run.source_sha,
        "stage": run.stage,
        "condition": run.condition,
        **names,
        "lr": run.lr,
        "seed": run.seed,
        "task": run.row.task,
        "family": run.row.family,
    }


def cell(run: Run, tuned: Sequence[str] = ()) -> str:
    """Hash of all factors but the seed, and but what tuning chooses or the code decides.

    Args:
        run: One of its runs.
        tuned: Keys that tuning chooses; the learning rate always counts as one.
    """
    return _hash(_tuned(run, ["optimizer.lr", *tuned])[1], but=_OF_NO_CELL)


def context(run: Run, tuned: Sequence[str] = ()) -> str:
    """Hash of what cells have in common whose losses are compared: all of `cell` but the loss."""
    return _hash(_tuned(run, ["optimizer.lr", *tuned])[1], but=_OF_NO_CONTEXT)


_OF_NO_CELL = ("seed", "condition", "source_sha")
_OF_NO_CONTEXT = (*_OF_NO_CELL, "loss")


def _hash(facts: Mapping[str, Any], *, but: Sequence[str]) -> str:
    kept = {name: value for name, value in facts.items() if name not in but}
    return _hash_of_text(json.dumps(kept, sort_keys=True))


@functools.lru_cache(maxsize=10_000)
def _hash_of_text(compact: str) -> str:
    """The hash of the readable JSON, which takes longer: many runs have the same facts."""
    return store.sha256(store.to_json(json.loads(compact)))[:16]


def _tuned(run: Run, keys: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tuned values by key, those that the run has; and its facts without them."""
    facts, found = run.facts, {}
    for key in keys:
        place, path = facts, key.split(".")
        if path[0] == "optimizer" and len(path) == 2:  # these stand at the top of a run
            path = path[1:]
        for name in path[:-1]:
            place = place.get(name, {})
        if path[-1] in place:
            found[key] = place.pop(path[-1])
    return found, facts


def _loss_facts(run: Run) -> dict[str, Any]:
    row = run.row
    return {
        "fn": run.loss.fn,
        "params": dict(run.loss.params),
        "inverse_link": row.inverse_link,
        "family": row.family,
        "task": row.task,
        "formula": row.formula,
        "claims": sorted(row.claims),
        "source": row.source,
        "duplicates": _duplicates(run),
    }


def _duplicates(run: Run) -> dict[str, str]:
    """Losses that are this one up to a factor, all with default parameters, and how we say it."""
    if any(run.row.defaults[name] != value for name, value in run.loss.params.items()):
        return {}
    return {
        ({relation.loss, relation.other} - {run.loss.fn}).pop(): relation.sentence
        for relation in related(run.loss.fn)
        if relation.is_duplicate
    }


def _data_facts(run: Run) -> dict[str, Any]:
    row = DATA[run.data.fn]
    return {
        "fn": run.data.fn,
        "params": dict(run.data.params),
        "task": row.task,
        "source": row.source,
        "licence": row.licence,
        "drawn": row.drawn,
        "is_symmetric": row.is_symmetric,
        "note": row.note,
    }
