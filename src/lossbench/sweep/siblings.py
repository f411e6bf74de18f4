"""Finds runs that other sweeps in the same folder had trained before this sweep planned them."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from lossbench import records, store
from lossbench.question import Run
from lossbench.sweep.inventory import Inventory

BY_PLACE = ("primary", "select", "reference", "margin", "average")
"""Keys of a declaration whose values may differ by task or data set."""

FOR_ALL = ("endpoint", "confidence", "looks", "seeds")
FOR_ALL += ("learning_rates", "extend", "tuned", "others")
"""Keys of a declaration whose values decide how all runs are judged."""

QUESTIONS = ("published", "interactions", "levels")
"""Keys of a declaration that ask further questions beside the verdicts."""


def seen_elsewhere(
    folder: Path,
    runs: Sequence[Run],
    *,
    planned: pd.DataFrame,
    declarations: Mapping[str, records.Declaration],
) -> dict[str, dict[str, str]]:
    """Find runs that other sweeps, the siblings, trained before under another declaration.

    A run counts if the sibling judged the run by other rules, or compared it with losses that this
    sweep does not have. Siblings are skipped if their plans say that they came after one of
    `declarations`, or if they cannot be read.

    The folder is that of the sweep that plans `runs` now; it had `planned` others before, because
    `runs` may not have all losses. Its declarations are given by sha256.

    Returns:
        By run_id: `seen_under` (sha256 of the sibling's declaration; empty if there was none) and
        `seen_in` (name of the sibling's folder). If siblings judged the run by the same rules but
        asked other questions, only `asked_in` (name of the folder). The first sibling by name
        counts.
    """
    run_ids = pd.Index([run.run_id for run in runs])
    now = ((run.data.name, run.model.name, run.loss.name) for run in runs)
    losses = _losses(itertools.chain(_places(planned), now))
    seen: dict[str, dict[str, str]] = {}
    for path in sorted(folder.parent.glob("*/sweep.json")):
        if path.parent == folder:
            continue
        try:
            plan = records.read_plan(path.parent)
            known = plan.runs[plan.runs.index.isin(run_ids)]
            if not len(known) or plan.runs.seen_under.isin([*declarations]).any():
                continue
            statuses = Inventory(path.parent).statuses
            others = {entry["sha256"]: entry["declared"] for entry in plan.facts["declarations"]}
            # Losses that were added later do not belong to the family.
            family = _losses(_places(plan.runs[plan.runs.declaration.isin([*others][:1])]))
        except (store.StoreError, OSError, ValueError, KeyError, TypeError):
            continue
        for run_id, row in known.fillna({"declaration": ""}).to_dict("index").items():
            digest, context = row["declaration"], (row["data"], row["model"])
            if statuses.get(run_id, {}).get("status") not in records.RESULTS:
                continue
            alike = [
                declared
                for declared in declarations.values()
                if _rules(declared, row) == _rules(others.get(digest), row)
                and family.get(context, set()) <= losses[context]
            ]
            if not alike and "seen_in" not in seen.get(run_id, {}):
                seen[run_id] = {"seen_under": digest, "seen_in": path.parent.name}
            elif alike and _questions(others[digest]) not in map(_questions, alike):
                seen.setdefault(run_id, {"asked_in": path.parent.name})
    return seen


def _places(runs: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """Data, model and loss of runs, without repetition."""
    return runs[["data", "model", "loss"]].drop_duplicates().itertuples(index=False, name=None)


def _losses(rows: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], set[str]]:
    """Names of losses by data and model."""
    losses: dict[tuple[str, str], set[str]] = {}
    for data, model, loss in rows:
        losses.setdefault((data, model), set()).add(loss)
    return losses


def _questions(declared: records.Declaration) -> list[object]:
    """Values of `QUESTIONS` in a declaration; None for a question that is not asked."""
    return [declared.get(key) or None for key in QUESTIONS]


def _rules(
    declared: records.Declaration | None, row: Mapping[Hashable, str]
) -> Mapping[str, object] | None:
    """Rules by which a declaration judges one run; None if there is no declaration."""
    if declared is None:
        return None
    context = {"data": row["data"], "task": row["task"]}
    by_place = {key: records.declared(declared.get(key, {}), **context) for key in BY_PLACE}
    return by_place | {key: declared.get(key) for key in FOR_ALL}
