"""The comparison of the losses of one context, as the sweep declared it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.averages import summary
from lossbench.statistics.choice import at_choice, candidates
from lossbench.statistics.declared import Declaration, Declared, declaration_of, declared_of
from lossbench.statistics.design import endpoint
from lossbench.statistics.margins import Margin, resolved_margin
from lossbench.statistics.oracle import selection_cost
from lossbench.statistics.pairs import PAIRED, paired
from lossbench.statistics.rule import Rule
from lossbench.statistics.trajectories import time_to
from lossbench.statistics.tuning import (
    budgets,
    learning_rates,
    sensitivity,
    sensitivity_differences,
    stability,
)

SMOKE = "SMOKE "
"""Prefix of each verdict of a sweep at `size=smoke`, whose runs are too short to judge losses."""


@dataclass(frozen=True)
class Comparison:
    """All estimates of one context and condition; each table is computed when it is first read.

    Attributes:
        label: Data and model of the context, and all factors in which other contexts differ.
        title: Title of the data set, or the label.
        stem: Prefix of the names of the context's files, different for each context.
        condition: The learning rates that are compared, a key of `records.CONDITIONS`.
        rule: The rule of the verdicts; its margin is `margin.value`.
        margin: The declared margin, resolved at the first look.
        declared: The declaration.
        every_run: All runs of the context with their values on test, as `paired` takes them.
        runs: The runs of `every_run` at the chosen candidates.
        validation: All runs of the context at the endpoint on validation, with their candidates.
        evals: Evaluations of all runs of the context, at every evaluated step.
        paired: `statistics.paired` of all runs.
        refusal: Reason why there are no pairs, else empty.
    """

    label: str
    title: str
    stem: str
    condition: str
    rule: Rule
    margin: Margin
    declared: Declared
    every_run: pd.DataFrame
    runs: pd.DataFrame
    validation: pd.DataFrame
    evals: pd.DataFrame
    paired: pd.DataFrame
    refusal: str = ""

    split = "test"

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.rule.metric

    @property
    def reference(self) -> str:
        """The loss that the others are compared with."""
        return self.rule.reference

    @property
    def name(self) -> str:
        """Part of file names: `stem`, with the condition if this is not the main comparison."""
        return self.stem if self.is_main else f"{self.stem}_{self.condition}"

    @property
    def task(self) -> str:
        """Regression or classification."""
        return str(self.runs.task.dropna().iloc[0])

    @property
    def context(self) -> str:
        """Digest of the factors that all runs share."""
        return str(self.runs.context.iloc[0])

    @property
    def is_main(self) -> bool:
        """Whether this is the fair comparison, each loss at its own learning rate."""
        return records.CONDITIONS[self.condition].is_own

    @property
    def is_declared(self) -> bool:
        """Whether the sweep declared losses for the context; else all results are exploratory."""
        return bool(self.declared.expected)

    @property
    def seen(self) -> pd.DataFrame:
        """Runs that were seen before, of those at the chosen candidates; others decide nothing."""
        seen = self.declared.seen_runs
        return seen[seen.run_id.isin(self.runs.run_id)]

    @property
    def confirming(self) -> tuple[str, ...]:
        """Losses declared before their runs and not seen before; all others are exploratory."""
        return tuple(sorted({*self.declared.losses} - {*self.seen.loss}))

    @property
    def late(self) -> tuple[str, ...]:
        """Losses whose comparison was not declared before the first run of the sweep."""
        early = self.declared.losses if self.reference in self.declared.losses else ()
        return tuple(loss for loss in self.paired.loss if loss not in early)

    @property
    def absent(self) -> tuple[str, ...]:
        """Losses that were declared for the context and have no run at this condition."""
        return tuple(sorted(self.declared.expected - {*self.runs.loss}))

    @property
    def steps(self) -> int:
        """Largest number of updates among the runs that are done; 0 if no run is done."""
        done = self.runs.stop_step[self.runs.status == "done"]
        return int(done.max()) if len(done) else 0

    def exploring(self, pairs: pd.DataFrame, run_ids: Iterable[str]) -> pd.DataFrame:
        """Mark rows of `paired` as exploratory if a rate compared in the row has one of given runs.

        Args:
            pairs: Rows of `paired`.
            run_ids: Identities of the given runs.
        """
        rows = self.every_run[self.every_run.run_id.isin([*run_ids])]
        places = {*zip(rows.loss, rows.lr, strict=True)}
        is_exploratory = [
            row.exploratory
            or not places.isdisjoint([(row.loss, row.lr), (row.reference, row.reference_lr)])
            for row in pairs.itertuples()
        ]
        return pairs.assign(exploratory=pd.Series(is_exploratory, pairs.index, dtype=bool))

    def printed(self, verdict: str) -> str:
        """A verdict as a reader sees it, with the prefix `SMOKE` in a smoke sweep."""
        return f"{SMOKE}{verdict}" if self.declared.is_smoke else verdict

    # ---- tables ----------------------------------------------------------------------------------

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """`statistics.summary` of the chosen runs, the primary metric first."""
        others = [name for name in records.METRICS if name in self.runs and name != self.metric]
        rows = summary(self.runs, metrics=[self.metric, *others], confidence=self.rule.confidence)
        return rows.assign(split=self.split)

    @functools.cached_property
    def grid(self) -> pd.DataFrame:
        """Runs of the first look on validation: at each learning rate the best candidate.

        Later looks have more seeds, but not at every rate, so their averages are not comparable.
        """
        first = self.validation[self.validation.seed.isin(self.declared.first_seeds)]
        if len(self.declared.tuned) == 1:  # only the learning rate
            return first
        return at_choice(first, self.rule, by=("context", "loss", "lr"))

    @functools.cached_property
    def rates(self) -> pd.DataFrame:
        """`statistics.learning_rates` of the grid; `best` marks the rate chosen on all seeds."""
        select, confidence = self.rule.select, self.rule.confidence
        rates = learning_rates(self.grid, metric=select, confidence=confidence)
        own = at_choice(self.validation, self.rule)
        is_chosen = pd.MultiIndex.from_frame(rates[["loss", "lr"]]).isin(
            pd.MultiIndex.from_frame(own[["loss", "lr"]])
        )
        return rates.assign(best=is_chosen & rates.value.notna(), split="validation")

    @functools.cached_property
    def budgets(self) -> pd.DataFrame:
        """`statistics.budgets` of the context."""
        return budgets(self.validation, tuned=self.declared.tuned)

    @functools.cached_property
    def sensitivity(self) -> pd.DataFrame:
        """`statistics.sensitivity` of the grid, with the differences from the reference."""
        rows = sensitivity(self.grid, metric=self.rule.select).assign(reference=self.reference)
        more = sensitivity_differences(self.every_run, self.rule, seeds=self.declared.first_seeds)
        more["verdict"] = more.verdict.map(self.printed)
        return rows.merge(more, on="loss", how="left")

    @functools.cached_property
    def stability(self) -> pd.DataFrame:
        """`statistics.tuning.stability` of all runs."""
        return stability(self.every_run, self.rule)

    @functools.cached_property
    def times_to_target(self) -> pd.DataFrame:
        """`statistics.time_to` the declared target on validation; no rows without a target."""
        if self.declared.target is None:
            return pd.DataFrame()
        metric = records.PRIMARY[self.task]
        how = {"metric": metric, "target": self.declared.target, "split": "validation"}
        return time_to(self.runs, self.evals, **how).assign(label=self.label)

    @functools.cached_property
    def selection_cost(self) -> pd.DataFrame:
        """`statistics.selection_cost` on the first look's seeds; no rows without corruption."""
        return selection_cost(
            self.validation[self.validation.seed.isin(self.grid.seed)].drop(
                columns=self.rule.select
            ),
            self.evals,
            self.rule,
            at=self.declared.endpoint,
            tuned=self.declared.tuned,
        )

    @functools.cached_property
    def at_reference_rate(self) -> Comparison | None:
        """The comparison at the reference's rate; None if it would equal this main comparison."""
        if len({*self.every_run.lr}) < 2:
            return None
        # Only the seeds of the first look count, because all of them have every candidate.
        every_run = self.every_run[self.every_run.seed.isin(self.declared.first_seeds)]
        base = at_choice(every_run[every_run.loss == self.reference], self.rule)
        runs = at_choice(every_run[every_run.lr.isin([*base.lr])], self.rule)
        at_rate = replace(
            self,
            condition="reference_lr",
            rule=replace(self.rule, looks=()),
            every_run=every_run,
            runs=runs.assign(condition="reference_lr"),
        )
        return _judged(at_rate, None) if len({*runs.loss}) > 1 else None


def slug(text: str) -> str:
    """Replace all characters that are not letters, digits or underscores, for a file name."""
    return re.sub(r"\W+", "_", text).strip("_")


# ---- judging -------------------------------------------------------------------------------------


def main_of_context(
    runs: pd.DataFrame, evals: pd.DataFrame, sweep: records.Records, *, stem: str
) -> Comparison:
    """The fair comparison of one context, each loss at its own learning rate.

    Args:
        runs: All runs of the context, placed.
        evals: Evaluations of these runs.
        sweep: Records of the sweep.
        stem: Prefix of the names of the context's files.
    """
    declaration, plan = declaration_of(sweep.plan), records.Plan(sweep.plan, sweep.planned)
    where = {"data": str(runs.data.iloc[0]), "task": str(runs.task.dropna().iloc[0])}
    declared = declared_of(declaration, plan, runs, where=where)
    rule = _rule(declaration, runs, is_declared=bool(declared.expected), where=where)
    at = {"evals": evals, "endpoint": declaration["endpoint"]}
    metrics = [rule.metric]
    for name, metric in records.METRICS.items():
        # At another endpoint than the last step, only some runs have final metrics.
        is_comparable = declaration["endpoint"] == "last" or not metric.is_final
        if metric.task == where["task"] and is_comparable and name != rule.metric:
            metrics.append(name)
    validation = endpoint(runs, split="validation", metric=rule.select, **at)
    choosing = {
        "selected_by": validation[rule.select],
        "candidate": candidates(runs, tuned=declaration["tuned"]),
    }
    every_run = endpoint(runs, split="test", metric=metrics, **at).assign(**choosing)
    base = runs[(runs.loss == rule.reference) & runs.seed.isin(declared.first_seeds)]
    base = endpoint(base, split="validation", metric=rule.metric, **at).assign(**choosing)
    data = sweep.plan["data"].get(where["data"], {})
    margin = resolved_margin(
        records.declared(declaration["margin"], **where),
        at_choice(base, rule),
        metric=rule.metric,
        reference=rule.reference,
        unit=data.get("unit", ""),
    )
    main = Comparison(
        label=str(runs.label.iloc[0]),
        title=data.get("title") or str(runs.label.iloc[0]),
        stem=stem,
        condition="own_lr",
        rule=replace(rule, margin=margin.value),
        margin=margin,
        declared=declared,
        every_run=every_run,
        runs=at_choice(every_run, rule),
        validation=validation.assign(**choosing),
        evals=evals,
        paired=pd.DataFrame(columns=PAIRED),
    )
    if declaration["endpoint"] != "last":
        return _judged(main, None)
    names = ["run_id", "example", "metric", "value"]
    examples = sweep.columns("examples", names, packs={*runs.pack_id.dropna()})
    is_own = examples.metric.eq(rule.metric) & examples.run_id.isin(every_run.run_id)
    return _judged(main, examples[is_own])


def _rule(
    declaration: Declaration, runs: pd.DataFrame, *, is_declared: bool, where: dict[str, str]
) -> Rule:
    """The declared rule for a context; the margin is not resolved yet and has its default."""
    reference, losses = records.declared(declaration["reference"], **where), {*runs.loss}
    if reference not in losses and not is_declared:  # another loss that did run
        usual = (loss for loss in records.REFERENCE.values() if loss in losses)
        reference = next(usual, min(losses))
    return Rule(
        metric=records.declared(declaration["primary"], **where),
        reference=reference,
        select=records.declared(declaration.get("select", {}), **where) or "",
        average=records.declared(declaration["average"], **where) or "mean",
        confidence=declaration["confidence"],
        looks=tuple(declaration["looks"]),
    )


def _judged(comparison: Comparison, examples: pd.DataFrame | None) -> Comparison:
    """The comparison with its table of pairs, or with the reason why no pairs exist."""
    declared, reference = comparison.declared, comparison.reference
    try:
        if reference not in {*comparison.validation.loss}:
            raise ValueError(f"the declared reference {reference} has no runs here.")
        pairs = paired(
            comparison.every_run,
            comparison.rule,
            condition=comparison.condition,
            declared=declared.losses,
            declared_challengers=len(declared.expected - {reference}),
            examples=examples,
        )
    except ValueError as error:
        return replace(comparison, refusal=str(error))
    pairs = comparison.exploring(pairs, declared.seen_runs.run_id)
    margin = comparison.margin
    pairs = pairs.assign(
        split=comparison.split,
        margin_share=margin.share,
        target_scale=margin.scale,
        target_unit=margin.unit if np.isfinite(margin.scale) else "",
    )
    return replace(comparison, paired=pairs)
