"""Cells and contexts: hashes of the factors that runs have in common, and a run's row in a plan."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

from lossbench import store
from lossbench.question.run import Run, joined
from lossbench.records import recorded

NOT_OF_A_CELL = ("seed", "source_sha")
NOT_OF_A_CONTEXT = (*NOT_OF_A_CELL, "loss")


def cell(run: Run, tuned: Sequence[str] = ()) -> str:
    """Hash of all factors except the seed, the code and tuned values, which include the lr."""
    return _hash_without(NOT_OF_A_CELL, _split(run, tuned)[1])


def context(run: Run, tuned: Sequence[str] = ()) -> str:
    """Hash of the factors of `cell` except the loss; losses are compared within a context."""
    return _hash_without(NOT_OF_A_CONTEXT, _split(run, tuned)[1])


def planned_row(run: Run, tuned: Sequence[str]) -> dict[str, object]:
    """Row of a run in a plan, see `records.plan.PLANNED`; for `tuned` see `cell`."""
    values, texts = _split(run, tuned)
    return {
        "run_id": run.run_id,
        "cell": _hash_without(NOT_OF_A_CELL, texts),
        "context": _hash_without(NOT_OF_A_CONTEXT, texts),
        "tuned": values,
        "params": dict(run.loss.params),
        "source_sha": run.source_sha,
        **{group: getattr(run, group).name for group in ("data", "model", "loss", "optimizer")},
        "lr": run.lr,
        "seed": run.seed,
        "task": run.row.task,
        "family": run.row.family,
    }


def _hash_without(names: Sequence[str], texts: Mapping[str, str]) -> str:
    return _hash_of_text(joined({name: text for name, text in texts.items() if name not in names}))


@functools.lru_cache(maxsize=10_000)
def _hash_of_text(compact: str) -> str:
    """Hash of the indented form of a JSON text, cached because indenting is slow."""
    return store.sha256(store.to_json(json.loads(compact)))[:16]


def _split(run: Run, tuned: Sequence[str]) -> tuple[dict[str, object], dict[str, str]]:
    """Values of the tuned keys that the run has, and all other factors as JSON."""
    texts = run.texts
    del texts["lr"]
    values: dict[str, object] = {"optimizer.lr": run.lr}
    if others := [key for key in tuned if key != "optimizer.lr"]:
        facts = {name: fact for name, fact in run.facts.items() if name != "lr"}
        for key in others:
            node, path = facts, recorded(key).split(".")
            for name in path[:-1]:
                node = node.get(name, {})
            if path[-1] in node:
                values[key] = node.pop(path[-1])
        texts = {name: json.dumps(fact, sort_keys=True) for name, fact in facts.items()}
    return values, texts
