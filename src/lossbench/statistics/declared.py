"""The declaration of a sweep, fixed before its runs, and the runs that were seen before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossbench import records

DEFAULTS = {
    "primary": records.PRIMARY,
    "reference": records.REFERENCE,
    "margin": {"regression": 0.02, "classification": 0.01},
    "endpoint": "last",
    "family": "task",
    "confidence": 0.95,
    "losses": [],
    "tuned": [],
    "looks": [],
    "seeds": [],
    "targets": {},
    "average": {},
    "interactions": {},
    "levels": {},
    "questions": [],
    "size": "",
}
"""Declaration of a sweep that declared nothing, so that all its comparisons are exploratory."""


Declaration = dict[str, Any]
"""The declaration of a sweep, with the keys of `DEFAULTS` and others."""


@dataclass(frozen=True)
class Declared:
    """The declaration of one context, and the runs of the context that were seen before.

    Attributes:
        losses: Losses all of whose runs in the context were declared before the sweep had any run.
        expected: Losses that were declared for the context, with or without a run in it.
        first_seeds: Seeds of the first look, which have every candidate.
        tuned: Keys that were tuned for each loss, including the learning rate.
        endpoint: The evaluated step that counts: "last" or "best".
        target: Value of the task's primary metric to reach on validation; None if not declared.
        seen_runs: Runs seen before under another declaration, see `seen_before`.
        asked_runs: run_id of each run for which another sweep had declared other questions.
        is_smoke: Whether the runs are so short that their verdicts say nothing about losses.
    """

    losses: tuple[str, ...]
    expected: frozenset[str]
    first_seeds: tuple[int, ...]
    tuned: tuple[str, ...]
    endpoint: str
    target: float | None
    seen_runs: pd.DataFrame
    asked_runs: frozenset[str]
    is_smoke: bool


def declaration_of(plan: Mapping[str, Any]) -> Declaration:
    """The first declaration of a sweep, or the defaults of a sweep that declared nothing."""
    declarations = plan.get("declarations") or []
    return {**DEFAULTS, **(declarations[0]["declared"] if declarations else {})}


def declared_losses(plan: records.Plan, runs: pd.DataFrame) -> list[str]:
    """Losses all of whose given runs were declared before the sweep had any run."""
    first = next(iter(plan.facts["declarations"]), None)
    if not len(runs) or first is None or first["runs_before"]:
        return []
    is_declared = plan.runs.declaration[runs.run_id].eq(first["sha256"]).groupby(runs.loss.array)
    every = is_declared.all()
    return sorted(every.index[every])


def seen_before(plan: records.Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """Runs that another sweep had trained under another declaration, or under no declaration.

    Args:
        plan: Plan of the sweep, which records the other sweep of each run.
        runs: Runs of the sweep, placed.

    Returns:
        Columns run_id, loss, sweep (name of the other sweep), declaration (its sha256; empty if
        the other sweep declared nothing).
    """
    facts = plan.runs.loc[runs.run_id].assign(loss=runs.loss.array).reset_index()
    columns = {"run_id": "run_id", "loss": "loss", "seen_in": "sweep", "seen_under": "declaration"}
    return facts.loc[facts.seen_under.notna(), [*columns]].rename(columns=columns)


def declared_in_context(plan: records.Plan, runs: pd.DataFrame) -> frozenset[str]:
    """Losses that the first declaration named in a context, of which `runs` are all runs, placed.

    Other parameters make another loss. A loss stays among these losses if its code was edited
    later, though its runs are declared anew.
    """
    if not plan.facts["declarations"]:
        return frozenset()
    first = plan.facts["declarations"][0]
    facts = plan.runs.loc[runs.run_id]
    is_first = facts.declaration.eq(first["sha256"])
    is_declared = is_first | facts.cell.isin(first["declared"].get("cells", ()))
    return frozenset(runs.loss[is_declared.to_numpy(dtype=bool)])


def declared_of(
    declaration: Declaration, plan: records.Plan, runs: pd.DataFrame, *, where: Mapping[str, str]
) -> Declared:
    """The declaration of one context.

    Args:
        declaration: Declaration of the sweep.
        plan: Plan of the sweep.
        runs: All runs of the context, placed.
        where: Data set and task of the context, as `data` and `task`.
    """
    expected = declared_in_context(plan, runs)
    looks = declaration["looks"]
    target = records.declared(declaration["targets"], **where)
    return Declared(
        losses=tuple(declared_losses(plan, runs) if expected else ()),
        expected=expected,
        first_seeds=tuple(declaration["seeds"][: looks[0]] if looks else sorted({*runs.seed})),
        tuned=tuple(declaration["tuned"]),
        endpoint=declaration["endpoint"],
        target=None if target is None else float(target),
        seen_runs=seen_before(plan, runs if expected else runs.iloc[:0]),
        asked_runs=frozenset(runs.run_id[plan.runs.asked_in[runs.run_id].notna().to_numpy()]),
        is_smoke=declaration["size"] == "smoke",
    )
