"""From records to estimates: which runs are pairs, what differs between losses, and how surely.

Pure functions on plain frames. Every interval is a t interval over seeds; verdicts come only from
simultaneous paired-t intervals over the declared family. Diverged runs rank worst and are counted
beside every mean over survivors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lossbench import records

FEWEST_PAIRS = 6
"""Fewer pairs than this give no verdict."""

CURES = {
    "init_sha": "they did not start equal: give every loss the same model",
    "batch_sha": "their batches differed: give every loss the same data, steps and batch_size",
    "data_sha": "their examples differed: give every loss the same version of the data",
    "shared_sha": "the code of data, model or optimizer was edited in between: use name=NEW",
    "env_sha": "versions, device or threads differed: run the sweep on one machine, with name=NEW",
}
"""Fingerprints that must be equal within a seed and context, and what to do where they are not."""

FACTS = ["context", "label", "task", "condition", "loss", "family"]
"""Columns that begin every estimate: what it is an estimate of."""

_NO_FACTORS = {"run_id", "pack_id", "name", "stage", "condition", "loss", "lr", "seed"}
_NO_FACTORS |= {"source_sha", "experiment", "extensions"}  # the loss's code is part of source_sha


@dataclass(frozen=True)
class Estimate:
    """A number, its interval, and how many values it comes from; NaN where there is none."""

    value: float
    low: float
    high: float
    n: int


def estimate(values: Iterable[float], *, confidence: float = 0.95) -> Estimate:
    """Mean and t interval of the finite values; fewer than two have no interval."""
    finite = np.asarray(list(values), dtype=float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return Estimate(float(finite[0]) if len(finite) else np.nan, np.nan, np.nan, len(finite))
    mean, half = finite.mean(), _half_width(finite.std(ddof=1), len(finite), confidence)
    return Estimate(float(mean), float(mean - half), float(mean + half), len(finite))


def _half_width(deviation: Any, n: Any, confidence: float) -> Any:
    """Half the width of the t interval of a mean of n > 1 values."""
    return stats.t.ppf(0.5 + confidence / 2, n - 1) * deviation / np.sqrt(n)


# ---- which runs are compared ---------------------------------------------------------------------


def contexts(runs: pd.DataFrame) -> pd.DataFrame:
    """The pairing key of every run: all its factors but the loss, the learning rate and the seed.

    A run without a configuration (it is missing) joins the one context of its data, model and
    optimizer where that is unique.

    Args:
        runs: Table `runs`.

    Returns:
        One row a run, indexed like `runs`: `context` (8 hex digits), `label` (data × model, and
        whatever else tells contexts apart) and `variant` (the loss, with those of its parameters
        that vary within the sweep).
    """
    configs = [json.loads(text) if isinstance(text, str) and text else {} for text in runs.config]
    factors = {_digest(found): found for found in map(_factors, configs)}
    keys = pd.Series([_digest(_factors(config)) for config in configs], index=runs.index, dtype=str)
    kind = runs.data.astype(str) + " × " + runs.model.astype(str)
    place, unknown = kind + " × " + runs.optimizer.astype(str), keys == _digest({})
    for name in place[unknown].unique():
        known = keys[~unknown & (place == name)].unique()
        keys[unknown & (place == name)] = known[0] if len(known) == 1 else _digest(name)
    labels: dict[str, str] = {}
    for name, members in keys.groupby(kind):
        labels |= _labels(str(name), {key: factors.get(key, {}) for key in members.unique()})
    variants = _variants(runs.loss, configs)
    return pd.DataFrame({"context": keys, "label": keys.map(labels), "variant": variants})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted name."""
    if not isinstance(value, Mapping):
        return {prefix[:-1]: value}
    parts = [_flat(inner, f"{prefix}{name}.") for name, inner in value.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def _factors(config: Mapping[str, Any]) -> dict[str, Any]:
    leaves = _flat({name: value for name, value in config.items() if name not in _NO_FACTORS})
    speed = [name for name in leaves if name.startswith("engine.") and name != "engine.precision"]
    return {name: leaf for name, leaf in leaves.items() if name not in {*speed, "optimizer.lr"}}


def _labels(kind: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Labels of contexts that share data and model: what differs between them is spelt out."""
    names = sorted({name for factors in found.values() for name in factors})
    varied = [n for n in names if len({str(factors.get(n)) for factors in found.values()}) > 1]
    groups = {name.split(".")[0] for name in varied if name.endswith(".name")}
    told = [n for n in varied if n.endswith(".name") or n.split(".")[0] not in groups]
    distinct = {tuple(str(factors.get(n)) for n in told) for factors in found.values()}
    told = told if len(distinct) == len(found) else varied
    return {
        key: " · ".join([kind, *(f"{n.removesuffix('.name')}={factors.get(n)}" for n in told)])
        for key, factors in found.items()
    }


def _variants(losses: pd.Series, configs: Sequence[Mapping[str, Any]]) -> pd.Series:
    """Names of losses, with their parameters where one name was run with several."""
    params = [config["loss"].get("params") or {} if "loss" in config else {} for config in configs]
    texts = pd.Series([", ".join(f"{k}={v}" for k, v in sorted(p.items())) for p in params])
    texts.index = losses.index
    several = texts[texts != ""].groupby(losses).nunique()
    plain = ~losses.isin(several.index[several > 1]) | (texts == "")
    return losses.where(plain, losses + "(" + texts + ")")


def endpoint(
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    *,
    split: str,
    metric: str | Sequence[str],
    endpoint: str = "last",
) -> pd.DataFrame:
    """One row per run with its metrics at the declared endpoint.

    Args:
        runs: Table `runs`, or from `placed`.
        evals: Table `evals`.
        split: "train", "validation" or "test".
        metric: Name or names of metrics; each becomes a column.
        endpoint: "last" evaluated step, or "best": the validation-best step.

    Returns:
        The runs, placed, with the metrics; only runs that are done have values. `best_step` is
        the step with the best validation value of the first metric.

    Raises:
        ValueError: The endpoint is neither "last" nor "best".
    """
    if endpoint not in ("last", "best"):
        raise ValueError(f"endpoint {endpoint!r} is unknown: use 'last' or 'best'")
    metrics = [metric] if isinstance(metric, str) else list(metric)
    done = runs[runs.status == "done"].set_index("run_id")
    evals = evals[evals.run_id.isin(done.index)]
    rows = evals[(evals.split == split) & evals.metric.isin(metrics)]
    best = _best_steps(evals, metrics[0])
    ends = rows.groupby("run_id").step.max() if endpoint == "last" else best
    rows = rows[rows.step == rows.run_id.map(ends)]
    values = rows.pivot_table(index="run_id", columns="metric", values="value")
    values = values.reindex(columns=metrics).astype(float)
    return placed(runs).assign(best_step=runs.run_id.map(best)).join(values, on="run_id")


def _best_steps(evals: pd.DataFrame, metric: str) -> pd.Series:
    """First step with the best validation value of a metric, by run."""
    rows = evals[(evals.split == "validation") & (evals.metric == metric)]
    sign = -1.0 if records.direction(metric) == "higher" else 1.0
    order = rows.assign(worth=sign * rows.value).sort_values(["worth", "step"])
    return order.drop_duplicates("run_id").set_index("run_id").step


def placed(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with their context and its label, and the variant in place of the loss."""
    if "context" in runs:
        return runs
    found = contexts(runs)
    return runs.assign(context=found.context, label=found.label, loss=found.variant)


def joined(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of `steps`, `layers` or `evals` of the given runs, with their contexts and variants."""
    facts = placed(runs).set_index("run_id")[[*FACTS, "lr", "seed"]]
    own = frame.columns.difference(facts.columns, sort=False)
    return frame[own].join(facts, on="run_id", how="inner")


# ---- what differs --------------------------------------------------------------------------------


def paired(
    frame: pd.DataFrame,
    *,
    metric: str,
    reference: str,
    margin: float = 0.0,
    family: str = "task",
    confidence: float = 0.95,
    declared: Sequence[str] = (),
) -> pd.DataFrame:
    """Every loss against the reference, seed by seed, with simultaneous intervals and a verdict.

    Bonferroni over m comparisons: the declared challengers within a context. A loss outside the
    declaration is exploratory, and its m counts all challengers.

    Args:
        frame: From `endpoint`, one row a run.
        metric: Column to compare; its direction is `records.direction(metric)`.
        reference: The loss the others are compared with.
        margin: Largest difference that does not matter, in units of the metric.
        family: What the intervals hold for simultaneously; "task" is the only one so far.
        confidence: Simultaneous coverage over the family.
        declared: Losses named beforehand; none makes every comparison exploratory.

    Returns:
        Per context, condition and challenger: `pairs`, `difference` (loss - reference, mean over
        pairs in which both survived), `low`, `high`, `verdict`, `comparisons` (m), `p`, `p_holm`,
        `diverged` and `reference_diverged` runs, `wins` of `trials` with their exact binomial
        interval (a diverged run loses, a tie is no trial), `pairs_needed` (to leave zero out or
        fit into the margin), `exploratory`, and `differences` (all of them, by seed).

    Raises:
        ValueError: Two runs of a pair differ in a fingerprint, or a run has a twin.
    """
    if family != "task":
        raise ValueError(f"family {family!r} is unknown: declare 'task'")
    tables = [pd.DataFrame(columns=PAIRED)]
    for _, cell in frame.groupby(["context", "condition"], sort=False):
        challengers = sorted({*cell.loss} - {reference})
        early = [loss for loss in challengers if {loss, reference} <= {*declared}]
        base, rows = cell.loc[cell.loss == reference], []
        for loss in challengers if len(base) else []:
            runs = cell.loc[cell.loss == loss]
            refuse_unequal(pd.concat([base, runs]))
            m = len(early if loss in early else challengers)
            row = _versus(runs, base, metric=metric, margin=margin, level=1 - (1 - confidence) / m)
            rows.append(row | {"comparisons": m, "exploratory": loss not in early})
        if rows:
            tables.append(_with_holm(pd.DataFrame(rows)))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    shared = {"metric": metric, "reference": reference, "margin": margin, "confidence": confidence}
    return table.assign(**shared)[PAIRED]


def _with_holm(table: pd.DataFrame) -> pd.DataFrame:
    early = holm(table.p.mask(table.exploratory))
    return table.assign(p_holm=early.where(~table.exploratory, holm(table.p)))


PAIRED = [
    *(*FACTS, "metric", "reference", "pairs", "difference", "low", "high", "verdict", "margin"),
    *("confidence", "comparisons", "p", "p_holm", "diverged", "reference_diverged"),
    *("wins", "trials", "win_low", "win_high", "pairs_needed", "exploratory", "differences"),
]
"""Columns of `paired`."""


def refuse_unequal(cell: pd.DataFrame) -> None:
    """Refuse runs of one context that are not pairs.

    Raises:
        ValueError: Names the seed, the column, both losses and the cure.
    """
    ran = cell[cell.status.isin(["done", "diverged"])].sort_values(["seed", "loss"])
    for row in ran[ran.duplicated(["loss", "seed"])].itertuples():
        raise ValueError(
            f"seed {row.seed} of {row.label}: {row.loss} has several runs (lr {row.lr:g} and "
            "another), a pair needs one of each loss. Keep one learning rate per loss."
        )
    for column, cure in CURES.items():
        first = ran.groupby("seed")[[column, "loss"]].transform("first")
        for row in ran[ran[column].fillna("") != first[column].fillna("")].itertuples():
            raise ValueError(
                f"seed {row.seed} of {row.label}: {column} differs between "
                f"{first.loss[row.Index]} ({str(first[column][row.Index])[:8]}) and {row.loss} "
                f"({str(getattr(row, column))[:8]}), so they are no pair; {cure}."
            )


def _versus(
    runs: pd.DataFrame, base: pd.DataFrame, *, metric: str, margin: float, level: float
) -> dict[str, Any]:
    """One row of `paired`."""
    ran = [one[one.status.isin(["done", "diverged"])].set_index("seed") for one in (runs, base)]
    seeds = ran[0].index.intersection(ran[1].index).sort_values()
    mine, theirs = (one.loc[seeds] for one in ran)
    difference = (mine[metric] - theirs[metric]).astype(float)
    sign = 1.0 if records.direction(metric) == "higher" else -1.0
    lost, gained = mine.status == "diverged", theirs.status == "diverged"
    wins = int((~lost & (gained | (sign * difference > 0))).sum())
    trials = len(seeds) - int((difference == 0).sum())
    survivors = difference[np.isfinite(difference)]
    share = stats.binomtest(wins, trials).proportion_ci(0.95) if trials else (np.nan, np.nan)
    found = estimate(survivors, confidence=level)
    both = pd.concat([runs, base])
    row = {name: runs[name].iloc[0] for name in FACTS} | {
        "seeds": len(seeds),
        "unfinished": int(both.status.isin(["failed", "missing"]).sum()),
        "pairs": found.n,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "diverged": int((runs.status == "diverged").sum()),
        "reference_diverged": int((base.status == "diverged").sum()),
        "wins": wins,
        "trials": trials,
        "win_low": share[0],
        "win_high": share[1],
        "p": _p_value(survivors),
        "pairs_needed": _pairs_needed(survivors, margin, level),
        "differences": tuple(difference),
    }
    low, high = sorted((sign * found.low, sign * found.high))
    return row | {"verdict": _verdict(row, low, high, margin)}


def _verdict(row: Mapping[str, Any], low: float, high: float, margin: float) -> str:
    """The verdict in words, from the interval of the gain over the reference.

    A mean over survivors excuses no divergence: a loss with diverged runs can only be worse, and
    a reference with diverged runs can only be beaten.
    """
    if row["unfinished"]:
        return "incomplete"
    inside = -margin <= low and high <= margin
    mine, theirs = row["diverged"] > 0, row["reference_diverged"] > 0
    if row["seeds"] >= FEWEST_PAIRS and (mine or theirs):
        if row["pairs"] >= FEWEST_PAIRS and not inside and mine != theirs:
            if mine and high < 0:
                return "worse"
            if theirs and low > 0:
                return "better"
        return "both diverge" if mine and theirs else "diverges" if mine else "reference diverges"
    if row["pairs"] < FEWEST_PAIRS:
        return "too few pairs"
    if low <= 0 <= high:
        return "equivalent" if inside else "not distinguishable"
    return "different but below the margin" if inside else "better" if low > 0 else "worse"


def _p_value(differences: pd.Series) -> float:
    """Two-sided p of the paired t test; differences without spread have p 0 or 1."""
    n = len(differences)
    if n < 2:
        return np.nan
    if differences.std() == 0:
        return float(differences.iloc[0] == 0)
    return float(2 * stats.t.sf(abs(differences.mean()) / differences.std() * np.sqrt(n), n - 1))


def _pairs_needed(differences: pd.Series, margin: float, level: float) -> float:
    """Fewest pairs that would settle the comparison, were today's mean and spread the true ones.

    It is settled where the interval leaves zero out or lies within the margin.
    """
    if len(differences) < 2:
        return np.nan
    mean = abs(differences.mean())
    n = np.arange(2, 100_001)
    fits = _half_width(differences.std(), n, level) < max(mean, margin - mean)
    return float(n[fits][0]) if fits.any() else np.inf


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjusted p-values; NaN stays NaN and is not counted."""
    ordered = p.dropna().sort_values()
    raised = ordered * np.arange(len(ordered), 0, -1)
    return raised.cummax().clip(upper=1.0).reindex(p.index)


# ---- what is the case ----------------------------------------------------------------------------


def summary(
    frame: pd.DataFrame, *, metrics: Sequence[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Mean and t interval over the runs that are done, per context, condition, loss and metric.

    Args:
        frame: From `endpoint`, one row a run.
        metrics: Columns to summarise.
        confidence: Coverage of each interval, not adjusted for their number.

    Returns:
        Long rows: `FACTS`, metric, value, low, high, n; `planned`, `diverged`, `failed`, `missing`
        runs; `improving` (done runs whose best validation step is their last); `lr` (NaN if mixed).
    """
    rows = []
    for facts, cell in frame.groupby(FACTS, sort=False, dropna=False):
        done, rates = cell[cell.status == "done"], cell.lr.unique()
        shared = dict(zip(FACTS, facts, strict=True)) | {"planned": len(cell), **_counts(cell)}
        shared["improving"] = int((done.best_step == done.stop_step).sum())
        shared["lr"] = rates[0] if len(rates) == 1 else np.nan
        for metric in metrics:
            found = estimate(cell[metric], confidence=confidence)
            rows.append(shared | {"metric": metric, "confidence": confidence} | vars(found))
    return pd.DataFrame(rows)


def _counts(cell: pd.DataFrame) -> dict[str, int]:
    return {status: int((cell.status == status).sum()) for status in records.STATUSES}


def curves(
    frame: pd.DataFrame, *, value: str, confidence: float = 0.95, geometric: bool = False
) -> pd.DataFrame:
    """Mean over seeds at every step, with a pointwise t interval; n falls where runs diverge.

    Args:
        frame: From `joined`.
        value: Column to average.
        confidence: Pointwise coverage.
        geometric: Whether to average logarithms; values that are not positive drop out.

    Returns:
        Rows by `FACTS` and step: value, low, high, n.
    """
    numbers = frame[value].astype(float)
    numbers = np.log(numbers.where(numbers > 0)) if geometric else numbers
    numbers = numbers.where(np.isfinite(numbers)).rename("number")
    groups = numbers.groupby([frame[name] for name in [*FACTS, "step"]], dropna=False)
    table = groups.agg(["mean", "std", "count"])
    half = _half_width(table["std"], table["count"].where(table["count"] > 1), confidence)
    bounds = {"value": table["mean"], "low": table["mean"] - half, "high": table["mean"] + half}
    back = np.exp if geometric else np.asarray
    found = pd.DataFrame({name: back(bound) for name, bound in bounds.items()}, index=table.index)
    return found.assign(n=table["count"], confidence=confidence, metric=value).reset_index()


def learning_rates(frame: pd.DataFrame, *, metric: str, confidence: float = 0.95) -> pd.DataFrame:
    """How each loss fares at each learning rate, and which is best.

    Args:
        frame: From `endpoint` on validation, one row a run.
        metric: Column to average.
        confidence: Coverage of each interval.

    Returns:
        Rows by `FACTS` and lr: value, low, high, n, `planned`, counts by status, `best`.
    """
    rows = [
        dict(zip([*FACTS, "lr"], facts, strict=True))
        | {"planned": len(cell), "metric": metric, "confidence": confidence, **_counts(cell)}
        | vars(estimate(cell[metric], confidence=confidence))
        for facts, cell in frame.groupby([*FACTS, "lr"], dropna=False)
    ]
    table = pd.DataFrame(rows)
    cell = ["context", "condition", "loss"]
    best = frame.groupby(cell).apply(lambda runs: best_learning_rate(runs, metric=metric))
    chosen = best.reindex(pd.MultiIndex.from_frame(table[cell])).to_numpy()
    return table.assign(best=(table.lr == chosen) & table.value.notna())


def best_learning_rate(runs: pd.DataFrame, *, metric: str) -> float:
    """The learning rate with the best mean of a metric over seeds.

    A run without a value has diverged or failed and ranks worst: first come the rates with the
    fewest of them, then the mean decides; the smaller rate wins a tie.

    Args:
        runs: Runs of one loss, with columns lr and the metric; NaN where a run has no value.
        metric: Its direction is `records.direction(metric)`.
    """
    sign = -1.0 if records.direction(metric) == "higher" else 1.0
    by_rate = (sign * runs[metric]).groupby(runs.lr)
    ranked = pd.DataFrame(
        {"lost": by_rate.apply(lambda v: (~np.isfinite(v)).sum()), "mean": by_rate.mean()}
    )
    return float(ranked.sort_values(["lost", "mean"], kind="stable").index[0])


def at_best_rate(frame: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """The runs of each loss at its own best learning rate, as `learning_rates` finds it."""
    cell = ["context", "condition", "loss"]
    table = learning_rates(frame, metric=metric)
    table["kept"] = table.best | ~table.groupby(cell).best.transform("any")
    kept = table.loc[table.kept].drop_duplicates(cell)[[*cell, "lr"]]
    return frame[
        pd.MultiIndex.from_frame(frame[[*cell, "lr"]]).isin(pd.MultiIndex.from_frame(kept))
    ]


def completeness(runs: pd.DataFrame) -> pd.DataFrame:
    """How many of the planned runs ended how, per stage and context.

    Args:
        runs: Table `runs`.

    Returns:
        Rows by stage, context and label: `planned`, counts by status, and `unfinished`: what
        failed or is missing, in words.
    """
    rows = []
    for facts, cell in placed(runs).groupby(["stage", "context", "label"], dropna=False):
        left = cell[cell.status.isin(["failed", "missing"])].sort_values(["loss", "lr", "seed"])
        names = [
            f"{row.loss} lr={row.lr:g} seed={row.seed:g} {row.status}"
            + (f" ({row.reason})" if isinstance(row.reason, str) and row.reason else "")
            for row in left.itertuples()
        ]
        shared = dict(zip(["stage", "context", "label"], facts, strict=True))
        rows.append(
            shared | {"planned": len(cell), **_counts(cell), "unfinished": "; ".join(names)}
        )
    columns = ["stage", "context", "label", "planned", *records.STATUSES, "unfinished"]
    return pd.DataFrame(rows, columns=columns)
