"""What a sweep compares: by its declaration, and among runs of one context and condition."""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from lossbench import records
from lossbench.statistics.choice import at_choice, candidates
from lossbench.statistics.corruption import noise_curves
from lossbench.statistics.design import endpoint, placed
from lossbench.statistics.margins import Margin, resolved_margin
from lossbench.statistics.oracle import selection_cost
from lossbench.statistics.outcomes import summary
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
"""What a sweep without a declaration is judged by; all of it is exploratory then."""


SMOKE = "SMOKE "
"""Beginning of each verdict of a sweep at `size=smoke`, which says nothing about losses."""


@dataclass(frozen=True)
class Declared:
    """The declaration of one context, and those of its runs that somebody had seen before.

    Attributes:
        losses: Losses all of whose runs here were declared before the sweep had any run.
        expected: Losses that were declared for the context, with or without a run here.
        first_seeds: Seeds of the first look, which have every candidate.
        tuned: Keys that were tuned for each loss, the learning rate among them.
        seen_runs: Runs seen before under another declaration, see `seen_before`.
        asked_runs: run_id of runs of which another sweep had asked other questions.
        is_smoke: Whether the runs are so short that their verdicts say nothing about losses.
    """

    losses: tuple[str, ...]
    expected: frozenset[str]
    first_seeds: tuple[int, ...]
    tuned: tuple[str, ...]
    seen_runs: pd.DataFrame
    asked_runs: frozenset[str]
    is_smoke: bool


@dataclass(frozen=True)
class Comparison:
    """All estimates of one context and condition; each table is computed when it is first read.

    Attributes:
        label: Data and model of the context, and all that tells it from others.
        title: Title of the data set, or the label.
        stem: Beginning of the names of the context's files, unlike that of any other.
        condition: The learning rates that are compared, a key of `records.CONDITIONS`.
        rule: The rule of the verdicts; its margin is `margin.value`.
        margin: The declared margin, resolved at the first look.
        declared: The declaration.
        every_run: All runs of the context with their values on test, as `paired` takes them.
        runs: Those runs that stand at the chosen candidates.
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
        """Part of file names."""
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
        """Whether it is the fair comparison, each loss at its own learning rate."""
        return records.CONDITIONS[self.condition].is_own

    @property
    def is_declared(self) -> bool:
        """Whether anything of it was declared before its runs; else all of it is exploratory."""
        return bool(self.declared.expected)

    @property
    def seen(self) -> pd.DataFrame:
        """Chosen runs that were seen before; a run that nobody chose settles nothing."""
        seen = self.declared.seen_runs
        return seen[seen.run_id.isin(self.runs.run_id)]

    @property
    def confirming(self) -> tuple[str, ...]:
        """Losses that were declared before their runs, and not seen before; others explore."""
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
        """Updates of a run; the largest number where they differ."""
        done = self.runs.stop_step[self.runs.status == "done"]
        return int(done.max()) if len(done) else 0

    def exploring(self, pairs: pd.DataFrame, run_ids: Iterable[str]) -> pd.DataFrame:
        """Rows of `paired`, exploratory also where a rate they compare has one of these runs."""
        rows = self.every_run[self.every_run.run_id.isin([*run_ids])]
        places = {*zip(rows.loss, rows.lr, strict=True)}
        is_exploratory = [
            row.exploratory
            or not places.isdisjoint([(row.loss, row.lr), (row.reference, row.reference_lr)])
            for row in pairs.itertuples()
        ]
        return pairs.assign(exploratory=pd.Series(is_exploratory, pairs.index, dtype=bool))

    def printed(self, verdict: str) -> str:
        """A verdict for a reader: that of a smoke sweep never without the word."""
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

        Later looks have more seeds, but not at every rate: averages side by side are the first's.
        """
        first = self.validation[self.validation.seed.isin(self.declared.first_seeds)]
        if len(self.declared.tuned) == 1:  # the rate alone
            return first
        return at_choice(first, self.rule, by=("context", "loss", "lr"))

    @functools.cached_property
    def rates(self) -> pd.DataFrame:
        """`statistics.learning_rates` of the grid; `best` is the choice of all seeds."""
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
        """How often other seeds would choose the same candidate."""
        return stability(self.every_run, self.rule)

    @functools.cached_property
    def at_reference_rate(self) -> Comparison | None:
        """Of a main comparison the one at the reference's rate; None where both are the same."""
        if len({*self.every_run.lr}) < 2:
            return None
        at_rate = _at_reference_rate(self)
        return at_rate if len({*at_rate.runs.loss}) > 1 else None


def slug(text: str) -> str:
    """A name as part of a file's name: letters, digits and underscores."""
    return re.sub(r"\W+", "_", text).strip("_")


# ---- what was declared ---------------------------------------------------------------------------


def declaration_of(plan: Mapping[str, Any]) -> dict[str, Any]:
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
    """Those runs that another sweep had trained under another declaration, or under none.

    Args:
        plan: Of the sweep, which says so of each run since it was planned.
        runs: Of the sweep, placed.

    Returns:
        Columns run_id, loss, sweep (its name), declaration (sha256; empty where nothing was
        declared).
    """
    facts = plan.runs.loc[runs.run_id, ["seen_in", "seen_under"]].assign(loss=runs.loss.array)
    seen = facts[facts.seen_under.notna()].reset_index()[
        ["run_id", "loss", "seen_in", "seen_under"]
    ]
    return seen.set_axis(["run_id", "loss", "sweep", "declaration"], axis="columns")


def declared_in_context(plan: records.Plan, runs: pd.DataFrame) -> frozenset[str]:
    """Losses that the first declaration named in a context; other parameters make another loss.

    A loss whose code was edited since stays one of them, though its runs are declared anew.

    Args:
        plan: Of the sweep.
        runs: All of the context, placed.
    """
    if not plan.facts["declarations"]:
        return frozenset()
    first = plan.facts["declarations"][0]
    facts = plan.runs.loc[runs.run_id]
    is_first = facts.declaration.eq(first["sha256"])
    is_declared = is_first | facts.cell.isin(first["declared"].get("cells", ()))
    return frozenset(runs.loss[is_declared.to_numpy(dtype=bool)])


# ---- the comparisons of a sweep ------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def placed_runs(sweep: records.Records) -> pd.DataFrame:
    """`placed` of all runs of a sweep, with what its declaration tunes."""
    return placed(sweep.runs, tuned=declaration_of(sweep.plan)["tuned"])


def main_comparisons(sweep: records.Records, *, seeds: int = 0) -> list[Comparison]:
    """Of each context of a sweep the fair comparison, each loss at its own learning rate.

    Args:
        sweep: Its records.
        seeds: How many of the declared seeds count, the first ones; 0 counts all runs.
    """
    return [*_mains(sweep, seeds)]


def contexts(sweep: records.Records) -> Iterator[list[Comparison]]:
    """By context each loss at its own choice, then at the reference's rate.

    One context is judged after the other, when it is asked for.
    """
    for main in _mains(sweep, 0):
        yield [main] if main.at_reference_rate is None else [main, main.at_reference_rate]


def all_comparisons(sweep: records.Records) -> list[Comparison]:
    """Every comparison of a sweep, see `contexts`."""
    return [comparison for group in contexts(sweep) for comparison in group]


class _Judged:
    """Comparisons in their order, each judged when it is asked for first."""

    def __init__(self, judges: Iterable[Callable[[], Comparison]]) -> None:
        self._open = deque(judges)  # which hold what they judge
        self._done: list[Comparison] = []

    def __iter__(self) -> Iterator[Comparison]:
        for place in range(len(self._done) + len(self._open)):
            if place == len(self._done):
                self._done.append(self._open[0]())  # raises again when it is asked again
                self._open.popleft()
            yield self._done[place]


@functools.lru_cache(maxsize=1)
def _mains(sweep: records.Records, seeds: int) -> Iterable[Comparison]:
    declaration, runs = declaration_of(sweep.plan), placed_runs(sweep)
    if seeds:
        runs = runs[runs.seed.isin(declaration["seeds"][:seeds])]
    labels = runs.drop_duplicates("context").set_index("context").label
    stems = labels.map(slug)
    is_ambiguous = stems.str.casefold().duplicated(keep=False) | (stems.str.len() > 60)
    stems = stems.mask(is_ambiguous, stems.str[:50] + "_" + stems.index)
    groups = runs.sort_values("label", kind="stable").groupby("context", sort=False)
    evals = sweep.measured.astype({"run_id": "category"})
    of_runs = pd.Series(evals.run_id.cat.categories).map(runs.set_index("run_id").context)
    context = of_runs.astype("category").array.take(evals.run_id.cat.codes)
    of_context = dict([*evals.groupby(context, observed=True)])
    judges = []
    for context, its in groups:
        evaluated = of_context.get(context, evals.iloc[:0])
        judges.append(functools.partial(_main, its, evaluated, sweep, stem=stems[context]))
    return _Judged(judges)


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
        groups.setdefault(comparison.context, []).append(comparison)
    return list(groups.values())


def alike(comparisons: Iterable[Comparison]) -> list[list[Comparison]]:
    """Comparisons that share metric and reference, side by side."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.metric, comparison.reference), []).append(comparison)
    return list(groups.values())


def main_of(group: Sequence[Comparison]) -> Comparison:
    """Of one context's comparisons the fair one, each loss at its own rate; else the first."""
    return next((comparison for comparison in group if comparison.is_main), group[0])


def _main(
    runs: pd.DataFrame, evals: pd.DataFrame, sweep: records.Records, *, stem: str
) -> Comparison:
    """The fair comparison of one context, from all of its runs and their evaluations."""
    declaration, plan = declaration_of(sweep.plan), records.Plan(sweep.plan, sweep.planned)
    where = {"data": str(runs.data.iloc[0]), "task": str(runs.task.dropna().iloc[0])}
    expected = declared_in_context(plan, runs)
    rule = Rule(
        metric=records.declared(declaration["primary"], **where),
        reference=_reference(declaration, runs, is_declared=bool(expected), **where),
        select=records.declared(declaration.get("select", {}), **where) or "",
        average=records.declared(declaration["average"], **where) or "mean",
        confidence=declaration["confidence"],
        looks=tuple(declaration["looks"]),
    )
    at = {"evals": evals, "endpoint": declaration["endpoint"]}
    metrics = [rule.metric]
    for name, metric in records.METRICS.items():
        # At another endpoint than the last step only some runs have final metrics.
        is_comparable = declaration["endpoint"] == "last" or not metric.is_final
        if metric.task == where["task"] and is_comparable and name != rule.metric:
            metrics.append(name)
    validation = endpoint(runs, split="validation", metric=rule.select, **at)
    choosing = {
        "selected_by": validation[rule.select],
        "candidate": candidates(runs, tuned=declaration["tuned"]),
    }
    every_run = endpoint(runs, split="test", metric=metrics, **at).assign(**choosing)
    looks = rule.looks
    first_seeds = declaration["seeds"][: looks[0]] if looks else sorted({*runs.seed})
    base = runs[(runs.loss == rule.reference) & runs.seed.isin(first_seeds)]
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
        declared=Declared(
            losses=tuple(declared_losses(plan, runs) if expected else ()),
            expected=expected,
            first_seeds=tuple(first_seeds),
            tuned=tuple(declaration["tuned"]),
            seen_runs=seen_before(plan, runs if expected else runs.iloc[:0]),
            asked_runs=frozenset(runs.run_id[plan.runs.asked_in[runs.run_id].notna().to_numpy()]),
            is_smoke=declaration["size"] == "smoke",
        ),
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


def _at_reference_rate(main: Comparison) -> Comparison:
    """The comparison at the rate that the reference chooses, each loss at its best of that rate.

    Why a loss differs is asked of the first look alone.
    """
    every_run = main.every_run[main.every_run.seed.isin(main.declared.first_seeds)]
    base = at_choice(every_run[every_run.loss == main.reference], main.rule)
    runs = at_choice(every_run[every_run.lr.isin([*base.lr])], main.rule)
    at_rate = replace(
        main,
        condition="reference_lr",
        rule=replace(main.rule, looks=()),
        every_run=every_run,
        runs=runs.assign(condition="reference_lr"),
    )
    return _judged(at_rate, None)


def _judged(comparison: Comparison, examples: pd.DataFrame | None) -> Comparison:
    """The comparison with its pairs, or with the reason why there are none."""
    declared, reference = comparison.declared, comparison.reference
    try:
        if reference not in {*comparison.validation.loss}:
            raise ValueError(f"the declared reference {reference} has no run here.")
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


def _reference(
    declaration: Mapping[str, Any], runs: pd.DataFrame, *, is_declared: bool, data: str, task: str
) -> str:
    """The declared reference; where nothing was declared and it did not run, one that did."""
    name, losses = records.declared(declaration["reference"], data=data, task=task), {*runs.loss}
    if name in losses or is_declared:
        return name
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
        comparison.runs, comparison.evals, metric=metric, target=float(target), split="validation"
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


def selection_costs(mains: Iterable[Comparison], sweep: records.Records) -> Iterator[pd.DataFrame]:
    """What selection on corrupted validation cost in each task, on the first look's seeds.

    Nothing without corruption.
    """
    if not sweep.measured.metric.isin([*records.CLEAN.values()]).any():
        return
    declaration, runs = declaration_of(sweep.plan), placed_runs(sweep)
    for main in mains:
        yield selection_cost(
            runs[runs.run_id.isin(main.every_run.run_id) & runs.seed.isin(main.grid.seed)],
            sweep.measured,
            main.rule,
            at=declaration["endpoint"],
            tuned=declaration["tuned"],
        )
