"""What a sweep is judged by: its declaration, and the runs that are compared with each other."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossbench import records, statistics

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
        return statistics.verdicts(self.paired, self.summary, steps=self.steps)

    @functools.cached_property
    def settled(self) -> pd.DataFrame:
        """How often tuning on other seeds would choose the same learning rate."""
        return statistics.stability(self.grid, metric=str(self.rates.metric.iloc[0]))

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


def _stems(runs: pd.DataFrame) -> dict[str, str]:
    """By context the stem of its files; the context itself in those that would not differ."""
    labels = runs.drop_duplicates("context").set_index("context").label
    slugs = labels.map(slug)
    alike = slugs.str.casefold().duplicated(keep=False) | (slugs.str.len() > 60)
    return {
        context: f"{stem[:50]}_{context}" if alike[context] else stem
        for context, stem in slugs.items()
    }


def asked(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The first declaration of a sweep, or the defaults of a sweep that declared nothing."""
    declarations = plan.get("declarations") or []
    return {**DEFAULTS, **(declarations[0]["declared"] if declarations else {})}


def declared_losses(plan: Mapping[str, Any], runs: pd.DataFrame) -> list[str]:
    """Losses all of whose given runs were declared before the sweep had any run."""
    first = next(iter(plan["declarations"]), {"sha256": None, "runs_before": -1})
    facts = [plan["planned"][run_id] for run_id in runs.run_id]
    is_declared = [
        first["runs_before"] == 0 and one.get("declaration") == first["sha256"] for one in facts
    ]
    every = pd.Series(is_declared, index=runs.index, dtype=bool).groupby(runs.loss).all()
    return sorted(every.index[every])


def declared_here(plan: Mapping[str, Any], runs: pd.DataFrame) -> frozenset[str]:
    """Losses of a context, each with its parameters a loss, that the first declaration tuned there.

    Args:
        plan: Content of sweep.json.
        runs: All of the context, placed, those of stage tune among them.
    """
    first = next(iter(plan["declarations"]), {"sha256": None})
    tuned = runs[runs.stage == "tune"]
    declared = [plan["planned"][run_id].get("declaration") for run_id in tuned.run_id]
    return frozenset(tuned.loss[[sha == first["sha256"] for sha in declared]])


@functools.lru_cache(maxsize=1)
def comparisons(found: records.Records) -> list[Comparison]:
    """Every context and condition of a sweep, with the runs that are compared there.

    Those of stage confirm where there are any; else the exploratory ones, else those of tune, each
    loss at its best learning rate on validation.
    """
    question = asked(found.plan)
    runs = statistics.placed(found.runs, tuned=question["tuned"])
    together, stems = [], _stems(runs)
    for _, mine in runs.sort_values("label", kind="stable").groupby("context", sort=False):
        together += _of_context(mine, found, question, stems[mine.context.iloc[0]])
    return together


def chosen(found: records.Records, wanted: str = "") -> Comparison:
    """The fair comparison of the first task whose label contains what is wanted.

    Raises:
        ValueError: There is none; names the labels there are.
    """
    mains = [main_of(group) for group in by_context(comparisons(found))]
    for task in mains:
        if wanted in task.label:
            return task
    labels = ", ".join(repr(task.label) for task in mains) or "none at all"
    raise ValueError(f"no task's label contains {wanted!r}: the sweep has {labels}")


def _of_context(
    mine: pd.DataFrame, found: records.Records, question: Mapping[str, Any], stem: str
) -> Iterator[Comparison]:
    stage = next(stage for stage in STAGES if (mine.stage == stage).any())
    kind, data = str(mine.task.dropna().iloc[0]), str(mine.data.iloc[0])

    def choice(key: str) -> Any:
        return records.declared(question[key], data=data, task=kind)

    metric = choice("primary")
    grid = mine[mine.stage == ("tune" if (mine.stage == "tune").any() else stage)]
    select = records.declared(question.get("select", {}), data=data, task=kind) or metric
    grid = statistics.endpoint(
        grid, found.evals, split="validation", metric=select, endpoint=question["endpoint"]
    )
    grid = statistics.profiled(grid, metric=select, tuned=question["tuned"])
    judged = mine[mine.stage == stage]
    if stage != "confirm":
        best = statistics.at_best_rate(grid[grid.stage == stage], metric=select)
        judged = judged[judged.run_id.isin(best.run_id)]
    judged = statistics.with_reference(judged, choice("reference"))
    rates = statistics.learning_rates(grid, metric=select, confidence=question["confidence"])
    own = judged[[records.CONDITIONS[name].is_own for name in judged.condition]]
    used = pd.MultiIndex.from_frame(own[["loss", "lr"]])
    rates["best"] = pd.MultiIndex.from_frame(rates[["loss", "lr"]]).isin(used) & rates.value.notna()
    budgets = statistics.budgets(mine, tuned=question["tuned"])
    for condition in records.CONDITIONS:
        cell = judged[judged.condition == condition]
        if len(cell):
            yield _task(
                cell,
                found,
                metric=metric,
                grid=grid,
                rates=rates.assign(split="validation"),
                budgets=budgets,
                reference=choice("reference"),
                margin=choice("margin"),
                question=question,
                expected=declared_here(found.plan, mine),
                stem=stem,
            )


def _task(
    runs: pd.DataFrame,
    found: records.Records,
    *,
    metric: str,
    grid: pd.DataFrame,
    rates: pd.DataFrame,
    budgets: pd.DataFrame,
    reference: str,
    margin: float,
    question: Mapping[str, Any],
    expected: frozenset[str],
    stem: str,
) -> Comparison:
    kind, losses = runs.task.dropna().iloc[0], sorted({*runs.loss})
    stage, confidence = str(runs.stage.iloc[0]), question["confidence"]
    is_last = question["endpoint"] == "last"  # elsewhere some runs alone would have final metrics
    of_task = [
        n for n, m in records.METRICS.items() if m.task == kind and (is_last or not m.is_final)
    ]
    metrics = list(dict.fromkeys([metric, *of_task]))
    frame = statistics.endpoint(
        runs, found.evals, split=STAGES[stage], metric=metrics, endpoint=question["endpoint"]
    )
    refusal, compared = "", statistics.paired(frame.iloc[:0], metric=metric, reference="")
    if stage != "confirm":  # nothing was declared of such runs
        expected = frozenset()
    declared = declared_losses(found.plan, runs) if stage == "confirm" else []
    if reference not in losses and stage != "confirm":
        reference = next((one for one in records.REFERENCE.values() if one in losses), losses[0])
    try:
        if reference not in losses:
            raise ValueError(f"the declared reference {reference} has no confirmed run here.")
        compared = statistics.paired(
            frame,
            metric=metric,
            reference=reference,
            margin=margin,
            family=question["family"],
            confidence=confidence,
            declared=declared,
            declared_challengers=len(expected - {reference}),
        )
    except ValueError as error:
        refusal = str(error)
    return Comparison(
        label=str(runs.label.iloc[0]),
        stage=stage,
        condition=str(runs.condition.iloc[0]),
        metric=metric,
        reference=reference,
        runs=frame,
        summary=statistics.summary(frame, metrics=metrics, confidence=confidence).assign(
            split=STAGES[stage]
        ),
        paired=compared.assign(split=STAGES[stage]),
        grid=grid,
        rates=rates,
        budgets=budgets,
        declared=tuple(declared),
        expected=expected,
        refusal=refusal,
        stem=stem,
    )


def by_context(together: Iterable[Comparison]) -> list[list[Comparison]]:
    """Tasks that differ in their condition only, side by side."""
    found: dict[str, list[Comparison]] = {}
    for task in together:
        found.setdefault(str(task.runs.context.iloc[0]), []).append(task)
    return list(found.values())


def main_of(group: Sequence[Comparison]) -> Comparison:
    """Of one context's comparisons the fair one, each loss at its own rate; else the first."""
    return next((one for one in group if one.is_main), group[0])


def selection_costs(mains: Iterable[Comparison], found: records.Records) -> Iterator[pd.DataFrame]:
    """What selection on corrupted validation cost in each task; nothing without corruption."""
    if not found.evals.metric.isin([*records.CLEAN.values()]).any():
        return
    question = asked(found.plan)
    runs = statistics.placed(found.runs, tuned=question["tuned"])
    for task in mains:
        yield statistics.selection_cost(
            runs[runs.context == task.runs.context.iloc[0]],
            found.evals,
            metric=str(task.rates.metric.iloc[0]),
            at=question["endpoint"],
            tuned=question["tuned"],
            confidence=question["confidence"],
        )


def objections(found: records.Records, together: Iterable[Comparison]) -> list[str]:
    """What a strict reader would hold against the verdicts of a sweep, a sentence each.

    Args:
        found: The sweep.
        together: Its tasks, from `comparisons`.

    Returns:
        Missing and failed runs, pairs that were refused, comparisons that were not declared
        beforehand, have too few pairs or too coarse a grid of learning rates; none where the
        sweep is what it claims to be.
    """
    told = []
    for status in ("failed", "missing"):
        if count := int((found.runs.status == status).sum()):
            told.append(f"{count} of {len(found.runs)} runs {_SAID[status]}.")
    for task in together:
        where = f"{task.label} ({task.condition})"
        if task.refusal:
            told.append(f"{where}: no pairs, {task.refusal}")
        if task.stage != "confirm":
            told.append(f"{where}: nothing was confirmed on fresh seeds.")
            continue
        late = task.paired.loss[task.paired.exploratory.astype(bool)]
        if len(late):
            told.append(f"{where}: not declared before the first run: {', '.join(late)}.")
        if task.absent:
            told.append(f"{where}: declared, and not confirmed: {', '.join(task.absent)}.")
        if task.is_main and (spent := unequal(task.budgets)):
            told.append(f"{where}: {spent}")
        if task.is_main and (wide := coarse(task.rates)):
            told.append(f"{where}: {wide}")
        undefined = task.paired.loss[task.paired.undefined.astype(bool)]
        if len(undefined):
            told.append(f"{where}: {task.metric} has no value in runs of {', '.join(undefined)}.")
        few = task.paired.loss[task.paired.verdict == "too few pairs"]
        if len(few):
            told.append(
                f"{where}: fewer than {statistics.FEWEST_PAIRS} pairs, so no verdict: "
                f"{', '.join(few)}."
            )
    return told


def unequal(budgets: pd.DataFrame) -> str:
    """A sentence where losses of a context were not tuned alike, else nothing."""
    if len(budgets[["trials", "tuning_runs"]].drop_duplicates()) < 2:
        return ""
    spent = ", ".join(
        f"{row.loss} {row.trials} in {row.tuning_runs}" for row in budgets.itertuples()
    )
    return f"budgets differ, so these losses were not tuned alike; candidates in runs: {spent}."


def coarse(rates: pd.DataFrame) -> str:
    """A sentence where neighbouring learning rates lie more than a decade apart, else nothing.

    Args:
        rates: With a column `lr`.
    """
    tried = sorted({*rates.lr})
    apart = max((high / low for low, high in itertools.pairwise(tried) if low > 0), default=1.0)
    if apart <= WIDEST:
        return ""
    return (
        f"the learning rates tried lie up to a factor of {apart:.3g} apart, too far to say which "
        "suits a loss: verdicts may be those of the grid, not of the losses."
    )


WIDEST = 10.1
"""Factor from one learning rate to the next that still tells which suits a loss."""

_SAID = {"failed": "failed", "missing": "are missing"}
