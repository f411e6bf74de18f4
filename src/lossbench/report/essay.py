"""Findings of the essay: each statement that a sweep can judge, with the measurements.

Source:
    The essay "Why do we use cross entropy and mean squared error?".
"""

from __future__ import annotations

import functools
import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from lossbench import records, statistics
from lossbench.report.words import interval, listed, rounded, updates_taken
from lossbench.statistics import Comparison

ALONG = 1 - 1e-5
"""Least mean cosine that counts as 1, because the records are float32."""

LINKS = ("identity", "sigmoid", "softmax")
LINK_BY_LOSS = {
    "square": {"identity": "mse_logits", "sigmoid": "mse_sigmoid", "softmax": "brier"},
    "matching": {"identity": "", "sigmoid": "bce_ova", "softmax": "cross_entropy"},
}
"""Loss of each kind for each inverse link; the matching loss of the identity is the square."""


@dataclass(frozen=True)
class Finding:
    """Finding of the essay, its consequence, and the measurements.

    Attributes:
        name: Stem of the table's files.
        says: Statement of the essay.
        consequence: Consequence of the statement.
        verdict: Result of the measurements, in one sentence.
        measured: More sentences with numbers.
        caption: Caption of the table.
        table: Table of the measured numbers.
    """

    name: str
    says: str
    consequence: str
    verdict: str
    measured: list[str]
    caption: str
    table: pd.DataFrame


@functools.lru_cache(maxsize=1)
def of_sweep(verdicts: statistics.Verdicts) -> list[Finding]:
    """Findings from all declared runs of a sweep."""
    return findings(verdicts.sweep, verdicts.comparisons)


def findings(loaded: records.Records, together: Sequence[Comparison]) -> list[Finding]:
    """Findings from the declared runs of some comparisons of a sweep, in the essay's order.

    Findings for which the sweep has no runs are left out; all of them are if the declaration of
    the sweep does not ask for the essay's findings.
    """
    if "essay" not in statistics.declaration_of(loaded.plan)["questions"]:
        return []
    declared = [one for one in together if one.is_declared]
    mains = [
        one for one in declared if one.is_main and _factor(one, "init.from", "random") == "random"
    ]
    parts = (
        _error_signal(mains, loaded),
        _linear_in_target(mains, loaded.plan),
        _confidently_wrong(declared, loaded),
        _link_by_loss(declared),
    )
    mark = "SMOKE: " if any(one.declared.is_smoke for one in together) else ""
    return [replace(part, verdict=f"{mark}{part.verdict}") for part in parts if part is not None]


def as_text(verdicts: statistics.Verdicts) -> str:
    """Findings as plain text, at most 80 columns wide; empty if there are no findings."""
    lines = []
    for one in of_sweep(verdicts):
        lines += textwrap.wrap(f"{one.says} {one.verdict}", 80, subsequent_indent="  ")
    return "\n".join(["The essay's findings, measured", *lines, ""]) if lines else ""


# ---- 1 -------------------------------------------------------------------------------------------


def _error_signal(mains: Sequence[Comparison], loaded: records.Records) -> Finding | None:
    signals = statistics.signals(loaded)
    table = pd.DataFrame(row for one in mains for row in _signal_rows(one, signals))
    if table.empty:
        return None
    least = table.groupby("loss").cosine.min()
    along, astray = least.index[least >= ALONG], least[least < ALONG].sort_values()
    verdict = (
        "The cosine between output gradient and error is 1 all along training, on every context it "
        f"ran on, for {listed(along) or 'no loss'}; for no other of the {len(least)} losses."
    )
    measured = []
    if len(astray):
        measured.append(
            f"Furthest astray on a context is {astray.index[0]}: {astray.iloc[0]:.2f} on average."
        )
    fns = {name: facts.get("fn") for name, facts in loaded.plan["data"].items()}
    noiseless = [one.label for one in mains if fns.get(one.runs.data.iloc[0]) == "clean_linear"]
    for label, rows in table[table.context.isin(noiseless)].groupby("context"):
        ends = [
            f"{r.loss} {r.final_error_norm:.1g} (norm of the parameters' gradient "
            f"{r.final_gradient_norm:.1g})"
            for r in rows.sort_values("final_error_norm").itertuples()
        ]
        verdict += f" {label}, without noise: error left after the last update {', '.join(ends)}."
    slow = [f"{r.loss} on {r.context}" for r in table.itertuples() if 2 * r.converged < r.n]
    if slow:
        measured.append(f"Most runs do not settle in the first 80 % of updates: {listed(slow)}.")
    return Finding(
        "finding_1_error_signal",
        "Squared error is the loss whose error signal is prediction - target.",
        "A signal that is the error fades as the error does: steps shrink towards the optimum. The "
        "quartic's fades with the cube and stalls early, the absolute error's never fades.",
        verdict,
        measured,
        "Own best learning rate, medians over seeds. Cosine(output gradient, error): mean along "
        "training. Signal per error: norm of the output gradient over that of the error, at the "
        "first and over the last five logged steps. Steps to final: until the own training loss "
        "stays within 5 % of its total decrease from its final value; converged: runs where that "
        "is in the first 80 % of the updates.",
        table,
    )


def _signal_rows(one: Comparison, signals: pd.DataFrame) -> Iterator[dict[str, object]]:
    runs = statistics.convergence(one.runs, signals, one.evals)
    for row in statistics.converged(runs).itertuples():
        yield {
            "context": one.label,
            "loss": row.loss,
            "n": row.n,
            "cosine": row.mean_cosine,
            "signal_per_error_first": row.initial_signal_per_error,
            "signal_per_error_last": row.final_signal_per_error,
            "converged": row.converged,
            "steps_to_final": row.steps_to_final,
            "initial_gradient_norm": row.initial_gradient_norm,
            "final_gradient_norm": row.final_gradient_norm,
            "final_error_norm": row.final_error_norm,
        }


# ---- 2 -------------------------------------------------------------------------------------------

KINDS = {"sampled": "labels drawn from it", "distribution": "the distribution itself"}


def _linear_in_target(mains: Sequence[Comparison], plan: Mapping[str, Any]) -> Finding | None:
    known = [one for one in mains if one.runs.get("tv_bayes", pd.Series()).notna().any()]
    table = pd.DataFrame(row for one in known for row in _distance_rows(one, plan))
    if table.empty:
        return None
    table = table.merge(_costs_of_labels(known), on=["place", "loss"], how="left")
    most = table[table.sample_size == table.groupby("data").sample_size.transform("max")]
    sentences = []
    for (data, kind, _), rows in most.groupby(["data", "targets", "place"], sort=False):
        ends = [
            f"{r.loss} {rounded(r.tv_posterior, r.tv_posterior_half)} "
            f"({rounded(r.tv_bayes, r.tv_bayes_half)})"
            for r in rows.itertuples()
        ]
        sentences.append(
            f"{data}, taught by {KINDS[kind]}: distance to the posterior, and to the loss's own "
            f"Bayes point: {', '.join(ends)}."
        )
    sentences += _cost_sentences(most)
    return Finding(
        "finding_2_linear_in_target",
        "Cross entropy is minimised where prediction is target, and is linear in the target.",
        "Labels drawn from a distribution then teach what the distribution itself would teach. A "
        "loss that is not linear learns something else from labels: its own Bayes point.",
        sentences[-1],
        sentences[:-1],
        "Own best learning rate. Total variation distance (0 to 1), mean and half its 95 % t "
        "interval over seeds: to the true posterior, and to the prediction that theory says the "
        "loss learns from such targets. Cost of labels: distance to the posterior when taught by "
        "labels minus when taught by the distribution, paired by seed, simultaneous 95 % intervals "
        "over the losses.",
        table.drop(columns="place"),
    )


def _distance_rows(one: Comparison, plan: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    for loss, mine in one.runs.groupby("loss", sort=False):
        claims = plan["losses"].get(str(loss).partition("(")[0], {}).get("claims", [])
        row = {
            "place": _place(one),
            "data": one.runs.data.iloc[0],
            "loss": loss,
            "targets": _factor(one, "targets", "sampled"),
            "sample_size": int(_factor(one, "data.params.examples", 0)),
            "linear_in_target": "linear_in_target" in claims,
        }
        for metric in ("tv_posterior", "tv_bayes"):
            mean = statistics.estimate(mine[metric])
            row |= {metric: mean.value, f"{metric}_half": (mean.high - mean.low) / 2}
        yield row | {"n": int(mine.tv_posterior.notna().sum())}


def _costs_of_labels(known: Sequence[Comparison]) -> pd.DataFrame:
    """Costs of sampled against distribution targets, from contexts that differ in nothing else."""
    by_place: dict[str, dict[str, Comparison]] = {}
    for one in known:
        by_place.setdefault(_place(one), {})[_factor(one, "targets", "sampled")] = one
    columns = ["place", "loss", "cost_of_labels", "low", "high"]
    costs = []
    for place, kinds in by_place.items():
        if kinds.keys() != KINDS.keys():
            continue
        dense, labels = kinds["distribution"], kinds["sampled"]
        rule = replace(labels.rule, metric="tv_posterior", average="mean", margin=0.0)
        try:
            rows = statistics.contrasted(dense.every_run, labels.every_run, rule)
        except ValueError:  # no pairs: another machine, or edited code
            continue
        costs.append(rows.assign(place=place, cost_of_labels=rows.difference)[columns])
    return pd.concat(costs) if costs else pd.DataFrame(columns=columns)


def _place(one: Comparison) -> str:
    """Key that is equal for two contexts if they differ in nothing but the kind of targets."""
    text = next(text for text in one.runs.config if isinstance(text, str) and text)
    varied = ("loss.", "seed", "lr", "source_sha", "targets")
    factors = {k: v for k, v in statistics.factors(text).items() if not k.startswith(varied)}
    return repr(sorted(factors.items(), key=str))


def _cost_sentences(most: pd.DataFrame) -> Iterator[str]:
    """Sentences on the cost of labels, for losses linear in the target and for other losses."""
    # A loss that ends far off even with the distribution has not arrived: its cost means little.
    dense = most[most.targets == "distribution"].groupby(["place", "loss"]).tv_posterior.max()
    paid = most[(most.targets == "sampled") & most.cost_of_labels.notna()]
    for (data, _), rows in paid.groupby(["data", "place"], sort=False):
        parts = []
        linear_first = rows.sort_values("linear_in_target", ascending=False, kind="stable")
        for is_linear, mine in linear_first.groupby("linear_in_target", sort=False):
            ends = []
            for r in mine.sort_values("cost_of_labels").itertuples():
                left = float(dense.get((r.place, r.loss), math.nan))
                text = f"{r.loss} {r.cost_of_labels:+.3f} [{r.low:+.3f}, {r.high:+.3f}]"
                if left > 0.02:
                    text += f" (taught by the distribution it still ends {left:.2f} off)"
                ends.append(text)
            kind = "losses linear in the target" if is_linear else "others"
            parts.append(f"{kind} {', '.join(ends)}")
        yield (
            f"{data}: what sampled labels cost in distance to the posterior, against the "
            f"distribution itself: {'; '.join(parts)}."
        )


# ---- 3 -------------------------------------------------------------------------------------------


def _confidently_wrong(declared: Sequence[Comparison], loaded: records.Records) -> Finding | None:
    wrong = [one for one in declared if _factor(one, "init.from", "random") == "permuted_labels"]
    table = pd.DataFrame(row for one in wrong for row in _recovery_rows(one, loaded))
    if table.empty:
        return None
    sentences = {}
    for (context, condition), rows in table.groupby(["context", "condition"], sort=False):
        times = rows.rename(columns={"median_steps": "median"}).sort_values(["median", "loss"])
        ends = [updates_taken(row) for row in times.to_dict("records")]
        sentences[context, condition] = (
            f"{context}, {records.CONDITIONS[condition].short}: updates until "
            f"{rows.metric.iloc[0]} {rows.target.iloc[0]:g}, median over {rows.n.max()} seeds: "
            f"{', '.join(ends)}."
        )
    # At the reference's rate for all losses, no larger rate makes up for a small signal.
    first = next((key for key in sentences if key[1] == "reference_lr"), next(iter(sentences)))
    other = next((key for key in sentences if key[1] == "own_lr" and key != first), None)
    verdict = sentences.pop(first) + (f" {sentences.pop(other)}" if other else "")
    return Finding(
        "finding_3_confidently_wrong",
        "Through softmax, the gradient of cross entropy at the outputs is again prediction - "
        "target.",
        "Where the model is confidently wrong the error is largest, and so is this gradient; a "
        "loss whose gradient passes through the softmax's own slope gets almost none and stalls.",
        verdict,
        [*sentences.values()],
        "Every loss starts from the same state, fitted to permuted labels with cross entropy, "
        "which leaves the identity link far off; time until the validation metric reaches the "
        "declared target, misses censored at the last update. Learning rates were chosen for the "
        "end, not for speed: at the own rate the time says little, at the reference's it is the "
        "signal alone.",
        table,
    )


def _recovery_rows(one: Comparison, loaded: records.Records) -> Iterator[dict[str, object]]:
    kind, data = str(one.runs.task.iloc[0]), str(one.runs.data.iloc[0])
    targets = statistics.declaration_of(loaded.plan)["targets"]
    declared = records.declared(targets, data=data, task=kind)
    if declared is None:
        return
    target = float(declared)
    times = statistics.time_to(
        one.runs, one.evals, metric=one.metric, target=target, split="validation"
    )
    starts = loaded.sql("select run_id, output_gradient_norm from steps where step = 0")
    starts = starts.set_index("run_id").output_gradient_norm
    for row in times.itertuples():
        mine = one.runs[one.runs.loss == row.loss]
        yield {
            "context": one.label,
            "condition": one.condition,
            "loss": row.loss,
            "n": row.n,
            "reached": row.reached,
            "metric": one.metric,
            "target": target,
            "budget": row.budget,
            "median_steps": row.median,
            "initial_output_gradient": statistics.geometric_mean(mine.run_id.map(starts)),
        }


# ---- 4 -------------------------------------------------------------------------------------------


def _link_by_loss(declared: Sequence[Comparison]) -> Finding | None:
    wanted = {loss for by_link in LINK_BY_LOSS.values() for loss in by_link.values() if loss}
    rows = []
    for group in statistics.grouped(declared, "context"):
        main = group[0]
        if not wanted <= {*main.runs.loss} or _factor(main, "init.from", "random") != "random":
            continue
        for one, metric in itertools.product(group, dict.fromkeys((main.metric, "nll"))):
            known = one.summary[one.summary.metric == metric].set_index("loss")
            first = {"context": one.label, "condition": one.condition, "metric": metric}
            for kind, by_link in LINK_BY_LOSS.items():
                cells = {link: _cell(known, by_link[link]) for link in LINKS}
                rows.append(first | {"kind": kind} | cells)
    if not rows:
        return None
    table = pd.DataFrame(rows)
    within = {}
    for one in declared:
        paired = one.paired[one.paired.loss.isin(wanted)]
        if one.is_main and len(paired):
            ends = [
                f"{r.loss} {interval(r.difference, r.low, r.high, sign=True)}"
                for r in paired.itertuples()
            ]
            text = f" Within seeds, minus {one.reference}: {', '.join(ends)}."
            within[one.label, one.metric] = text
    measured = []
    own = table[table.condition == "own_lr"]
    for (label, metric), cell in own.groupby(["context", "metric"], sort=False):
        kinds = [
            f"{r.kind} loss: " + ", ".join(f"{link} {getattr(r, link)}" for link in LINKS)
            for r in cell.itertuples()
        ]
        text = f"{label}, {metric}, each at its own rate: {'; '.join(kinds)}."
        measured.append(text + within.get((label, metric), ""))
    return Finding(
        "finding_4_link_by_loss",
        "The simple gradient belongs to a loss and its link together, not to the loss alone.",
        "A loss behind the link that it matches has the error as its gradient; the square behind "
        "another link has the link's slope as a factor.",
        measured[0] if measured else "",
        measured[1:],
        "Rows: the square, and the loss that matches the link; columns: the link. Mean ± half the "
        "t interval over seeds. The identity's matching loss is the square itself.",
        table,
    )


def _cell(known: pd.DataFrame, loss: str) -> str:
    """Mean ± half its interval, or the number of runs that diverged, failed or are missing."""
    if not loss:
        return "the square"
    if loss not in known.index:
        return "not run"
    row = known.loc[loss]
    for status in ("diverged", "failed", "missing"):
        if row[status]:
            return f"{row[status]} of {row.planned} {status}"
    if not np.isfinite(row.value):
        return "undefined"
    half = (known.high[loss] - known.low[loss]) / 2
    return f"{rounded(known.value[loss], half)} ± {rounded(half, half)}"


# ---- words and numbers ---------------------------------------------------------------------------


def _factor(one: Comparison, name: str, default: object) -> Any:
    """Factor of the context's runs, by dotted name in the recorded configuration."""
    configs = [text for text in one.runs.config if isinstance(text, str) and text]
    return statistics.factors(configs[0]).get(name, default) if configs else default
