"""What a sweep compares: by its declaration, and among runs of one context and condition."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossbench import records
from lossbench.statistics.across import normalised
from lossbench.statistics.corruption import noise_curves
from lossbench.statistics.design import endpoint, placed, with_reference
from lossbench.statistics.oracle import selection_cost
from lossbench.statistics.outcomes import summary
from lossbench.statistics.pairs import paired
from lossbench.statistics.sentences import verdicts
from lossbench.statistics.trajectories import time_to
from lossbench.statistics.tuning import at_best_rate, budgets, learning_rates, profiled, stability

STAGES = {"confirm": "test", "exploratory": "test", "tune": "validation"}
"""Stages whose runs are compared, best first, and the split they are judged on."""

DEFAULTS = {
    "primary": records.PRIMARY,
    "reference": records.REFERENCE,
    "margin": {"regression": 0.02, "classification": 0.01},
    "endpoint": "last",
    "family": "task",
    "confidence": 0.95,
    "losses": [],
    "tuned": [],
    "targets": {},
    "questions": [],
}
"""What a sweep without a declaration is judged by; all of it is exploratory then."""


@dataclass(frozen=True)
class Comparison:
    """All estimates of one context and condition.

    Attributes:
        label: What is compared on, in words.
        stage: Of the runs.
        condition: At which learning rates.
        metric: Primary.
        reference: The loss that the others are compared with.
        runs: With their metrics at the declared endpoint; borrowed ones of the reference included.
        summary: `statistics.summary` of them.
        paired: `statistics.paired` of them.
        grid: The runs that tuned, at the endpoint on validation.
        rates: `statistics.learning_rates` of these.
        budgets: `statistics.budgets` of the context.
        declared: Losses all of whose runs here were declared before the sweep had any run.
        expected: Losses that were declared for the context, with or without a run here.
        refusal: Why there are no pairs, else empty.
        stem: Of the context's files, unlike that of any other.
    """

    label: str
    stage: str
    condition: str
    metric: str
    reference: str
    runs: pd.DataFrame
    summary: pd.DataFrame
    paired: pd.DataFrame
    grid: pd.DataFrame
    rates: pd.DataFrame
    budgets: pd.DataFrame
    declared: tuple[str, ...]
    expected: frozenset[str]
    refusal: str
    stem: str

    @property
    def task(self) -> str:
        """Regression or classification."""
        return str(self.runs.task.dropna().iloc[0])

    @property
    def split(self) -> str:
        """The split the runs are judged on."""
        return STAGES[self.stage]

    @property
    def is_main(self) -> bool:
        """Whether it is the fair comparison, each loss at its own learning rate."""
        return records.CONDITIONS[self.condition].is_own

    @property
    def absent(self) -> tuple[str, ...]:
        """Losses that were declared for the context and have no run at this condition."""
        return tuple(sorted(self.expected - {*self.runs.loss}))

    @functools.cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row a comparison, in words, as in verdicts.csv."""
        return verdicts(self.paired, self.summary, steps=self.steps)

    @functools.cached_property
    def stability(self) -> pd.DataFrame:
        """How often tuning on other seeds would choose the same learning rate."""
        return stability(self.grid, metric=str(self.rates.metric.iloc[0]))

    @property
    def steps(self) -> int:
        """Updates of a run; the largest number where they differ."""
        done = self.runs.stop_step[self.runs.status == "done"]
        return int(done.max()) if len(done) else 0

    @property
    def name(self) -> str:
        """Part of file names."""
        return self.stem if self.condition == "own_lr" else f"{self.stem}_{self.condition}"


def slug(text: str) -> str:
    """A name as part of a file's name: letters, digits and underscores."""
    return re.sub(r"\W+", "_", text).strip("_")


# ---- what was declared ---------------------------------------------------------------------------


def declaration_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The first declaration of a sweep, or the defaults of a sweep that declared nothing."""
    declarations = plan.get("declarations") or []
    return {**DEFAULTS, **(declarations[0]["declared"] if declarations else {})}


def declared_losses(plan: Mapping[str, Any], runs: pd.DataFrame) -> list[str]:
    """Losses all of whose given runs were declared before the sweep had any run."""
    first = next(iter(plan["declarations"]), {"sha256": None, "runs_before": -1})
    is_declared = [
        first["runs_before"] == 0 and plan["planned"][run_id].get("declaration") == first["sha256"]
        for run_id in runs.run_id
    ]
    every = pd.Series(is_declared, index=runs.index, dtype=bool).groupby(runs.loss).all()
    return sorted(every.index[every])


def declared_in_context(plan: Mapping[str, Any], runs: pd.DataFrame) -> frozenset[str]:
    """Losses that the first declaration tuned in a context; other parameters make another loss.

    Args:
        plan: Content of sweep.json.
        runs: All of the context, placed, those of stage tune among them.
    """
    first = next(iter(plan["declarations"]), {"sha256": None})
    tuned = runs[runs.stage == "tune"]
    declared = [plan["planned"][run_id].get("declaration") for run_id in tuned.run_id]
    return frozenset(tuned.loss[[sha == first["sha256"] for sha in declared]])


# ---- the comparisons of a sweep ------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def all_comparisons(sweep: records.Records) -> list[Comparison]:
    """Every context and condition of a sweep, with the runs that are compared there.

    Those of stage confirm where there are any; else the exploratory ones, else those of tune, each
    loss at its best learning rate on validation.
    """
    runs = placed(sweep.runs, tuned=declaration_of(sweep.plan)["tuned"])
    labels = runs.drop_duplicates("context").set_index("context").label
    stems = labels.map(slug)
    is_ambiguous = stems.str.casefold().duplicated(keep=False) | (stems.str.len() > 60)
    stems = stems.mask(is_ambiguous, stems.str[:50] + "_" + stems.index)
    comparisons = []
    for context, its in runs.sort_values("label", kind="stable").groupby("context", sort=False):
        comparisons += _of_context(its, sweep, stem=stems[context])
    return comparisons


def main_comparisons(sweep: records.Records) -> list[Comparison]:
    """Of each context of a sweep the fair comparison, each loss at its own learning rate."""
    return [main_of(group) for group in by_context(all_comparisons(sweep))]


def main_comparison(sweep: records.Records, label: str = "") -> Comparison:
    """The fair comparison of the first context whose label contains the given text.

    Raises:
        ValueError: There is none; names the labels there are.
    """
    mains = main_comparisons(sweep)
    for comparison in mains:
        if label in comparison.label:
            return comparison
    labels = ", ".join(repr(comparison.label) for comparison in mains) or "none at all"
    raise ValueError(f"no task's label contains {label!r}: the sweep has {labels}")


def by_context(comparisons: Iterable[Comparison]) -> list[list[Comparison]]:
    """Comparisons that differ in their condition only, side by side."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(str(comparison.runs.context.iloc[0]), []).append(comparison)
    return list(groups.values())


def main_of(group: Sequence[Comparison]) -> Comparison:
    """Of one context's comparisons the fair one, each loss at its own rate; else the first."""
    return next((comparison for comparison in group if comparison.is_main), group[0])


def _of_context(runs: pd.DataFrame, sweep: records.Records, *, stem: str) -> Iterator[Comparison]:
    """The comparison at each condition, from all runs of one context."""
    declaration = declaration_of(sweep.plan)
    place = {"data": str(runs.data.iloc[0]), "task": str(runs.task.dropna().iloc[0])}
    metric = records.declared(declaration["primary"], **place)
    select = records.declared(declaration.get("select", {}), **place) or metric
    stage = next(stage for stage in STAGES if (runs.stage == stage).any())

    grid = runs[runs.stage == ("tune" if (runs.stage == "tune").any() else stage)]
    grid = endpoint(
        grid, sweep.evals, split="validation", metric=select, endpoint=declaration["endpoint"]
    )
    grid = profiled(grid, metric=select, tuned=declaration["tuned"])
    rates = learning_rates(grid, metric=select, confidence=declaration["confidence"])

    judged = runs[runs.stage == stage]
    if stage != "confirm":
        best = at_best_rate(grid[grid.stage == stage], metric=select)
        judged = judged[judged.run_id.isin(best.run_id)]
    judged = with_reference(judged, records.declared(declaration["reference"], **place))
    fair = judged[[records.CONDITIONS[name].is_own for name in judged.condition]]
    used = pd.MultiIndex.from_frame(fair[["loss", "lr"]])
    is_used = pd.MultiIndex.from_frame(rates[["loss", "lr"]]).isin(used)
    rates = rates.assign(best=is_used & rates.value.notna(), split="validation")

    spent = budgets(runs, tuned=declaration["tuned"])
    expected = declared_in_context(sweep.plan, runs) if stage == "confirm" else frozenset()
    for condition in records.CONDITIONS:
        cell = judged[judged.condition == condition]
        if cell.empty:
            continue
        metrics = [metric]
        for name, facts in records.METRICS.items():
            # At another endpoint than the last step only some runs have final metrics.
            is_comparable = declaration["endpoint"] == "last" or not facts.is_final
            if facts.task == place["task"] and is_comparable and name != metric:
                metrics.append(name)
        frame = endpoint(
            cell,
            sweep.evals,
            split=STAGES[stage],
            metric=metrics,
            endpoint=declaration["endpoint"],
        )
        declared = declared_losses(sweep.plan, cell) if stage == "confirm" else []
        reference = _reference(declaration, cell, stage=stage, **place)
        pairs, refusal = paired(frame.iloc[:0], metric=metric, reference=""), ""
        try:
            if reference not in {*cell.loss}:
                raise ValueError(f"the declared reference {reference} has no confirmed run here.")
            pairs = paired(
                frame,
                metric=metric,
                reference=reference,
                margin=records.declared(declaration["margin"], **place),
                family=declaration["family"],
                confidence=declaration["confidence"],
                declared=declared,
                declared_challengers=len(expected - {reference}),
            )
        except ValueError as error:
            refusal = str(error)
        outcomes = summary(frame, metrics=metrics, confidence=declaration["confidence"])
        yield Comparison(
            label=str(cell.label.iloc[0]),
            stage=stage,
            condition=condition,
            metric=metric,
            reference=reference,
            runs=frame,
            summary=outcomes.assign(split=STAGES[stage]),
            paired=pairs.assign(split=STAGES[stage]),
            grid=grid,
            rates=rates,
            budgets=spent,
            declared=tuple(declared),
            expected=expected,
            refusal=refusal,
            stem=stem,
        )


def _reference(
    declaration: Mapping[str, Any], runs: pd.DataFrame, *, stage: str, data: str, task: str
) -> str:
    """The declared reference; where nothing was confirmed and it did not run, one that did."""
    declared, losses = (
        records.declared(declaration["reference"], data=data, task=task),
        {*runs.loss},
    )
    if declared in losses or stage == "confirm":
        return declared
    return next((loss for loss in records.REFERENCE.values() if loss in losses), min(losses))


# ---- what several comparisons say ----------------------------------------------------------------


def times_to_target(comparison: Comparison, sweep: records.Records) -> pd.DataFrame:
    """When the runs of a comparison reached its declared target on validation; else no rows."""
    targets, data = declaration_of(sweep.plan)["targets"], str(comparison.runs.data.iloc[0])
    target = records.declared(targets, data=data, task=comparison.task)
    if target is None:
        return pd.DataFrame()
    metric = records.PRIMARY[comparison.task]
    rows = time_to(
        comparison.runs, sweep.evals, metric=metric, target=float(target), split="validation"
    )
    return rows.assign(label=comparison.label)


def corruption_curves(
    comparisons: Iterable[Comparison], sweep: records.Records
) -> Iterator[pd.DataFrame]:
    """Estimates over the rates of a corruption, a frame for each curve that the contexts make."""
    declaration = declaration_of(sweep.plan)
    groups: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for one in comparisons:
        groups.setdefault((one.metric, one.split, one.condition), []).append(one.runs)
    for (metric, split, _), runs in groups.items():
        rows = noise_curves(
            pd.concat(runs, ignore_index=True),
            metric=metric,
            tuned=declaration["tuned"],
            confidence=declaration["confidence"],
        )
        for _, curve in rows.groupby("curve"):
            if curve.value.notna().any():
                yield curve.reset_index(drop=True).assign(split=split)


def normalised_scores(
    comparisons: Iterable[Comparison], sweep: records.Records
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Task, metric and `normalised` scores of those losses that several contexts have in common."""
    groups: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for one in comparisons:
        if not one.refusal:  # unequal runs have no common scale either
            groups.setdefault((one.task, one.metric, one.reference), []).append(one.runs)
    for (task, metric, reference), parts in groups.items():
        common = set.intersection(*({*runs.loss} for runs in parts))
        if len(parts) < 2 or not {reference} < common:
            continue
        runs = pd.concat(parts, ignore_index=True)
        runs = runs[runs.loss.isin(common)]
        first = sweep.evals[(sweep.evals.step == 0) & (sweep.evals.split == "test")]
        first = first[first.metric == metric].set_index("run_id").value
        start = runs.run_id.map(first).groupby(runs.context).mean()
        scores = normalised(runs, metric=metric, reference=reference, start=dict(start))
        if scores.score.notna().any():
            yield task, metric, scores.assign(reference=reference)


def selection_costs(mains: Iterable[Comparison], sweep: records.Records) -> Iterator[pd.DataFrame]:
    """What selection on corrupted validation cost in each task; nothing without corruption."""
    if not sweep.evals.metric.isin([*records.CLEAN.values()]).any():
        return
    declaration = declaration_of(sweep.plan)
    runs = placed(sweep.runs, tuned=declaration["tuned"])
    for main in mains:
        yield selection_cost(
            runs[runs.context == main.runs.context.iloc[0]],
            sweep.evals,
            metric=str(main.rates.metric.iloc[0]),
            at=declaration["endpoint"],
            tuned=declaration["tuned"],
            confidence=declaration["confidence"],
        )
