"""Tables of the page: text by column, made from the numbers of a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossbench import figures, records
from lossbench.report import summary, words
from lossbench.statistics import Comparison


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: Content of the table, with n and the kind of interval.
        rows: Rows of text by column.
        file: Stem of the files with the numbers of the table.
        context: Label of the context; empty if the table is about all contexts.
    """

    caption: str
    rows: Sequence[Mapping[str, str]]
    file: str
    context: str = ""


def verdict_tables(groups: Sequence[Sequence[Comparison]]) -> list[Table]:
    """Tables of every difference with its interval, verdict and caveats, one for each context."""
    tables = []
    for group in groups:
        comparison, rows = group[0], []
        if comparison.paired.empty:
            continue
        elsewhere = [one for one in group if not one.is_main]
        for row in words.verdicts_of(comparison).itertuples():
            scale, in_target = row.target_scale, {}
            if math.isfinite(scale):
                bounds = (scale * row.estimate, scale * row.low, scale * row.high)
                in_target = {row.target_unit: words.interval(*bounds, sign=True)}
            fixed = (row.estimate, row.fixed_low, row.fixed_high)
            cells = {
                "loss": row.loss,
                "difference": _difference(row.estimate, row.low, row.high),
                **in_target,
                "pairs": str(row.n),
                "verdict": row.verdict,
                "at these rates": words.interval(*fixed, sign=True),
            }
            for one in elsewhere:
                verdicts = one.paired.set_index("loss").verdict.map(one.printed)
                short = records.CONDITIONS[one.condition].short
                cells[short] = verdicts.get(row.loss, "not trained there")
            notes = summary.caveats(row._asdict(), is_declared=comparison.is_declared)
            rows.append(cells | {"to know": "; ".join(notes)})
        first, looks = comparison.paired.iloc[0], comparison.rule.looks
        over_looks = f" and looks at {words.listed(looks)} seeds" if len(looks) > 1 else ""
        caption = (
            f"{comparison.label}: loss minus {comparison.reference} in "
            f"{summary.headline(comparison)}; {comparison.rule.average} over pairs of one seed, "
            f"simultaneous {first.confidence:.0%} interval over "
            f"{figures.families(comparison.paired)}{over_looks}. It holds that "
            "other seeds would differ, and would have chosen other rates. Margin "
            f"±{words.margin_text([comparison.margin])}. At these rates: the interval as if "
            "the rates had been known; it decides nothing."
        )
        tables.append(Table(caption, rows, "verdicts", comparison.label))
    return tables


def interaction_tables(frame: pd.DataFrame, *, mark: str) -> Iterator[Table]:
    """Tables of changes of losses, or of differences, with a factor; `mark` starts each verdict."""
    for (context, factor, base, reference), rows in _groups(
        frame, ["context", "factor", "base", "reference"]
    ):
        first = rows.iloc[0]
        question = f"does {first.metric} change with {factor}? Change: {first.metric} there"
        if reference:
            question = (
                f"does the difference to {reference} in {first.metric} change with {factor}? "
                f"Change: loss minus {reference} there"
            )
        caption = (
            f"{context}: {question}, less the same at {base}, "
            "seed by seed; the interval is simultaneous over these rows and holds that other seeds "
            f"would have chosen other rates. Margin ±{first.margin:g}."
        )
        sign = "+" if reference else ""
        cells = [
            {
                "loss": row.loss,
                factor: row.level,
                f"at {base}": _number(row.at_base, sign),
                "there": _number(row.at_level, sign),
                "change": words.interval(row.change, row.low, row.high, sign=True) or "–",
                "seeds": str(row.seeds),
                "verdict": f"{mark}{words.change_in_words(row._asdict())}",
            }
            for row in rows.itertuples(index=False)
        ]
        yield Table(caption, cells, "interactions")


def _difference(value: float, low: float, high: float) -> str:
    return words.interval(value, low, high, sign=True) or "no pair survived"


def finding_tables(findings: pd.DataFrame, *, mark: str) -> Iterator[Table]:
    """Table of published findings, each judged by the records; `mark` starts each verdict."""
    if findings.empty:
        return
    caption = (
        "Published findings, declared beforehand and judged together. q: the p-value of each, "
        "adjusted for the rate of false discoveries among them (Benjamini and Hochberg). Confirmed "
        "takes the simultaneous interval and q."
    )
    rows = [
        {
            "finding": row.finding,
            "source": row.source,
            "on": row.context if row.n else "–",
            "difference": f"{row.metric} {_difference(row.difference, row.low, row.high)}"
            if row.n
            else "–",
            "pairs": str(row.n),
            "q": _number(row.q),
            "judged": f"{mark}{row.judged}",
        }
        for row in findings.itertuples()
    ]
    yield Table(caption, rows, "published")


def tuning_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """Tables of the stability of each chosen learning rate, and of the cost of other rates."""
    caption = (
        "Stability: share of resampled seeds that choose the same rate again. Plausible: rates "
        "that at least one resample in fifty chooses. Excess: what a rate drawn blindly "
        "from the grid costs. More: how much more that is on test than with the reference, by the "
        "margin of the verdicts; to lose less is better. Diverged: share of the rates at which a "
        "run did."
    )
    for label, rows in _groups(frame, "label"):
        more = f"more than {rows.reference.iloc[0]}"
        cells = [
            {
                "loss": row.loss,
                "best rate": _number(row.best_lr),
                "stability": _share(row.stability),
                "plausible": f"{row.plausible} of {row.rates}",
                f"excess {_of_loss(row.metric)}": _number(row.sensitivity),
                more: f"{_difference(row.more, row.more_low, row.more_high)} {row.verdict}"
                if math.isfinite(row.more)
                else "–",
                "diverged": f"{row.diverged_share:.0%}",
            }
            for row in rows.itertuples()
        ]
        yield Table(caption, cells, "sensitivity", label)


def selection_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """Tables of the cost of selecting learning rates on corrupted validation data."""
    caption = (
        "What selection on noisy labels cost. Learning rates were selected on validation that is "
        "as corrupted as training. Oracle: the rate that the same runs choose by the targets from "
        "before the corruption. Cost: by how much the rate chosen is worse on those, mean over "
        "the first look's seeds with its paired t interval, not adjusted for their number; on "
        "these the oracle cannot lose, so the cost is an upper bound. Nothing was selected by the "
        "oracle."
    )
    for label, rows in _groups(frame, "label"):
        cells = [
            {
                "loss": row.loss,
                f"chosen by {_of_loss(row.selected_by)}": _number(row.noisy_lr),
                "oracle": _number(row.clean_lr),
                f"{row.metric} of the chosen": _number(row.noisy_value),
                "of the oracle": _number(row.clean_value),
                "cost": "0, the same choice"
                if row.is_same
                else words.interval(row.cost, row.low, row.high) or "–",
                "seeds": f"{row.n} ({row.lost} lost)" if row.lost else str(row.n),
            }
            for row in rows.itertuples()
        ]
        yield Table(caption, cells, "selection_cost", label)


def convergence_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """Tables of how many runs converged and when, with their gradients, errors and cosines."""
    caption = (
        "Converged: runs whose own training loss stays within 5 % of its whole decrease from its "
        "final value in the last fifth of the updates. Other columns: medians over runs; last "
        "values are means of the last five logged steps."
    )
    for label, rows in _groups(frame, "label"):
        cells = [
            {
                "loss": row.loss,
                "converged": f"{row.converged} of {row.n}",
                "settled after": _number(row.steps_to_final),
                "first gradient": _number(row.initial_gradient_norm),
                "last gradient": _number(row.final_gradient_norm),
                "last error": _number(row.final_error_norm),
                "mean cosine": _number(row.mean_cosine),
            }
            for row in rows.itertuples()
        ]
        yield Table(caption, cells, "convergence", label)


def robustness_tables(mains: Sequence[Comparison]) -> Iterator[Table]:
    """Tables of the differences with a bootstrap-t interval, and of the stability of the rates."""
    for comparison in mains:
        rows = [
            {
                "loss": row.loss,
                "verdict": comparison.printed(row.verdict),
                "verdict's interval": _difference(row.difference, row.low, row.high),
                "bootstrap-t": words.interval(
                    row.difference, row.boot_low, row.boot_high, sign=True
                ),
                "both chosen again": _share(row.chosen_again),
            }
            for row in comparison.paired.itertuples()
        ]
        caption = (
            f"{comparison.label}, {comparison.metric}: what the verdicts rest on. Bootstrap-t: "
            "an interval that takes differences for skewed as they are. Both chosen again: "
            "resamples of the seeds in which loss and reference choose the same learning rates."
        )
        if rows:
            yield Table(caption, rows, "paired", comparison.label)


def _groups(frame: pd.DataFrame, by: str | list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    if len(frame):
        yield from frame.groupby(by, sort=False)


def _of_loss(metric: str) -> str:
    return metric.replace(records.OWN_LOSS, "own loss")


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "–"


def _number(value: float, sign: str = "") -> str:
    """Number with three digits; a dash for NaN, and "never" for infinity."""
    if math.isnan(value):
        return "–"
    return "never" if math.isinf(value) else f"{value:{sign}.3g}"
