"""Changes of a loss, or of the difference between two losses, with a factor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.choice import Choice, TuningTable, difference, least_step, tuning_table
from lossbench.statistics.comparisons import Comparison
from lossbench.statistics.declared import Declaration
from lossbench.statistics.design import Row, context_factors
from lossbench.statistics.intervals import FEWEST_PAIRS
from lossbench.statistics.rule import Rule
from lossbench.statistics.verdict import divergence_p, gain, verdict

INTERACTIONS = ["context", "factor", "base", "level", "loss", "reference", "metric", "at_base"]
INTERACTIONS += ["at_level", "change", "low", "high", "seeds", "margin", "confidence"]
INTERACTIONS += ["comparisons", "pairs", "exploratory", "verdict"]
"""Columns of `interactions`."""

BELONGING = {
    "optimizer": ("momentum", "weight_decay"),
    "targets": ("pretrained",),
    "init.from": ("pretrained",),
}
"""Settings that belong to the level of a factor and may differ with it, by recorded factor."""


def interactions(mains: Sequence[Comparison], declaration: Declaration) -> pd.DataFrame:
    """Changes of each loss, or of its difference to the reference, with a factor.

    Each of the two or four runs of a seed has the candidate that its loss chooses in its context,
    and the interval includes that other seeds would have chosen other candidates. Intervals are
    simultaneous over all losses and levels of a factor in a context, and over the looks.

    Args:
        mains: The fair comparison of each context, one a context.
        declaration: From `declaration_of`. By factor, as typed, `interactions` has the base level
            for the differences to the reference, and `levels` the base level for the losses alone.

    Returns:
        Columns `INTERACTIONS`; `change` is the change of loss - reference from `base` to `level`,
        in units of the metric, `at_base` and `at_level` are the differences at the two levels,
        `verdict` judges the change; if `reference` is empty, all are about the loss alone.
    """
    by_context = {one.context: one for one in mains}
    configs = {
        context: next((text for text in one.runs.config if isinstance(text, str) and text), "{}")
        for context, one in by_context.items()
    }
    asked = [
        (key == "levels", factor, str(base), family)
        for key in ("interactions", "levels")
        for factor, base in declaration.get(key, {}).items()
        for family in families(configs, factor, tuned=declaration["tuned"])
    ]
    rows: list[Row] = []
    for is_alone, factor, base, family in asked:
        members = {level: by_context[context] for level, context in family.items()}
        if (first := members.pop(base, None)) is None:
            continue
        reference = "" if is_alone else first.rule.reference
        losses = {
            one.context: {*(one.runs if is_alone else one.paired).loss}
            for one in (first, *members.values())
        }
        pairs = [
            (level, loss, other)
            for level, other in members.items()
            for loss in sorted(losses[first.context] & losses[other.context])
        ]
        # Comparisons that were declared count, whether they ran or not.
        declared = sum(
            len((first.declared.expected & other.declared.expected) - {reference})
            for other in members.values()
        )
        context = f"{first.runs.data.iloc[0]} × {first.runs.model.iloc[0]}"
        for level, loss, other in pairs:
            facts = {"context": context, "factor": factor, "base": base, "level": level}
            row = _change(first, other, loss, reference, max(len(pairs), declared))
            rows.append(facts | row)
    return pd.DataFrame(rows, columns=INTERACTIONS)


def families(
    configs: Mapping[str, str], factor: str, *, tuned: Sequence[str]
) -> list[dict[str, str]]:
    """Contexts by level of one factor, for each combination of all other factors.

    Args:
        configs: A run's recorded configuration, as JSON, by context.
        factor: Name of the factor, as typed: `optimizer`, `steps`, `init.output_scale`.
        tuned: Keys that are chosen for each loss.

    Returns:
        One mapping from level to context for each combination with two levels or more; the name
        of a level is the shortest that is distinct.
    """
    name = records.recorded(factor)
    names = (name, *BELONGING.get(name, ()))
    groups: dict[str, dict[str, dict[str, object]]] = {}
    for context, config in configs.items():
        leaves = context_factors(config, tuned=tuned)
        mine = {
            leaf: value
            for leaf, value in leaves.items()
            if any(f"{leaf}.".startswith(f"{each}.") for each in names)
        }
        others = sorted((leaf, repr(v)) for leaf, v in leaves.items() if leaf not in mine)
        groups.setdefault(repr(others), {})[context] = mine
    return [
        {_level(leaves, name, members.values()): context for context, leaves in members.items()}
        for members in groups.values()
        if len(members) > 1
    ]


def _level(leaves: Mapping[str, object], name: str, every: Iterable[Mapping[str, object]]) -> str:
    """Name of a level: the recorded name of its part if that name is distinct, else varying values.

    `leaves` are the level's settings by recorded name, `every` has those of each level.
    """
    names = [its.get(f"{name}.name") for its in every]
    if None not in names and len({*names}) == len(names):
        return str(leaves[f"{name}.name"])
    return " ".join(
        str(value)
        for leaf, value in sorted(leaves.items())
        if not leaf.endswith(".fn") and len({str(its[leaf]) for its in every if leaf in its}) > 1
    )


def _change(
    base: Comparison, level: Comparison, loss: str, reference: str, comparisons: int
) -> Row:
    """The numbers and the verdict of one row; without a reference, about the loss alone."""
    names = [loss, reference] if reference else [loss]
    sides = [(one, name) for one in (base, level) for name in names]
    frames = [one.every_run[one.every_run.loss == name] for one, name in sides]
    seeds = sorted(set.intersection(*({*rows.seed} for rows in frames)))
    frames = [rows[rows.seed.isin(seeds)] for rows in frames]
    tables = [
        tuning_table(rows, replace(base.rule, select=one.rule.select), seeds=seeds)
        for rows, (one, _) in zip(frames, sides, strict=True)
    ]
    asked_runs = base.declared.asked_runs | level.declared.asked_runs
    row = {
        "loss": loss,
        "reference": reference,
        "metric": base.rule.metric,
        "seeds": len(seeds),
        "pairs": 0,
        "margin": base.rule.margin,
        "comparisons": comparisons,
        "exploratory": not {*names} <= {*base.confirming} & {*level.confirming}
        or any(rows.run_id.isin(asked_runs).any() for rows in frames),
        "verdict": "too few pairs",
    }
    if any(rows.status.isin(["failed", "missing"]).any() for rows in frames):
        return row | {"verdict": "incomplete"}
    if not all(len(table.candidates) for table in tables):
        return row
    level_of_one = base.rule.level(len(seeds), comparisons)
    return row | _judged_change(tables, base.rule, confidence=level_of_one)


def _judged_change(tables: Sequence[TuningTable], rule: Rule, *, confidence: float) -> Row:
    """Estimate, interval and verdict of a change, with this confidence.

    `tables` has the runs of the loss, and of the reference if there is one, at the base; then the
    runs at the other level in the same order.
    """
    choices = [Choice.of(table, average=rule.average) for table in tables]
    lost = [table.diverged[:, one.index] for table, one in zip(tables, choices, strict=True)]
    if np.any(lost):  # two tests may give the verdict, so each gets half of the error
        confidence = 1 - (1 - confidence) / 2
    size = len(tables) // 2
    here, there = choices[:size], choices[size:]
    change, _ = difference(
        [there[0], *here[1:]],
        [here[0], *there[1:]],
        confidence=confidence,
        average=rule.average,
        resolution=least_step(
            np.concatenate([table.results.ravel() for table in tables]), metric=rule.metric
        ),
    )
    values = np.stack([choice.result for choice in choices])
    differences = values[::size]  # at the base, at the level
    if size == 2:
        differences = differences - values[1::2]
    survived = differences[:, np.isfinite(differences).all(0)]
    average = {"mean": np.mean, "median": np.median}[rule.average]
    at_base, at_level = average(survived, axis=1) if change.n else (np.nan, np.nan)
    if size == 2:  # one test at each of two levels, so each gets half of the error
        p_diverged = 2 * min(divergence_p(*lost[:2]), divergence_p(*lost[2:]))
    else:
        p_diverged = divergence_p(*lost)
    if (~np.isfinite(values) & ~np.stack(lost)).any():
        word = "undefined"
    elif p_diverged <= 1 - confidence:
        word = "diverges"
    elif change.n < FEWEST_PAIRS:
        word = "too few pairs"
    else:
        ends = gain(change.low, change.high, sign=records.sign(rule.metric))
        word = verdict(*ends, rule.margin)
    return {
        "at_base": float(at_base),
        "at_level": float(at_level),
        "change": change.value,
        "low": change.low,
        "high": change.high,
        "confidence": confidence,
        "pairs": change.n,
        "verdict": word,
    }
