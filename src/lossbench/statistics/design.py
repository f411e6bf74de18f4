"""The design of a comparison: contexts, endpoints, and the check that runs are pairs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossbench import records

CURES = {
    "init_sha": "they did not start equal: give every loss the same model",
    "batch_sha": "their batches differed: give every loss the same data, steps and batch_size",
    "data_sha": "their examples differed: give every loss the same version of the data",
    "shared_sha": "the code of data, model or optimizer was edited in between: use name=NEW",
    "env_sha": "versions, device or threads differed: run the sweep on one machine, with name=NEW",
}
"""Fingerprints that must be equal within a seed and context, and the cure if they differ."""

Row = dict[str, Any]
"""One row of a table: numbers, texts and tuples by column."""

FACTS = ["context", "label", "task", "condition", "loss", "family"]
"""First columns of every table of estimates: they identify the runs of an estimate."""

_NO_FACTORS = {"run_id", "pack_id", "name", "look", "loss", "lr", "seed"}
_NO_FACTORS |= {"source_sha", "experiment", "extensions"}  # the loss's code is part of source_sha

_QUIET = ("log_every", "eval_every", "batch_size", "schedule.name", "steps", "init.output_scale")
"""Factors that a label leaves out if other factors distinguish the contexts."""


def contexts(runs: pd.DataFrame, *, tuned: Sequence[str] = ()) -> pd.DataFrame:
    """The pairing key of every run: all its factors but the loss, the learning rate and the seed.

    A key that was tuned for each loss is not a factor either, because it belongs to the loss. A
    missing run, which has no configuration, gets the context of the runs with its
    `planned_context`, or with its data, model and optimizer, if these runs have one context.

    Args:
        runs: Table `runs`.
        tuned: Configuration keys that were tuned per loss, as typed: "optimizer.weight_decay",
            "loss.params.delta".

    Returns:
        One row a run, indexed like `runs`: `context` (8 hex digits), `label` (data × model, and
        the factors that distinguish contexts) and `variant` (the loss, with its parameters if they
        vary within the sweep).
    """
    kinds, few = _alike(runs)
    configs = [json.loads(text) if isinstance(text, str) and text else {} for text in few.config]
    leaves = [_factors(config, tuned) for config in configs]
    digests = [_digest(one) for one in leaves]
    factors = dict(zip(digests, leaves, strict=True))
    keys = pd.Series(digests, dtype=str).take(kinds).set_axis(runs.index)
    kind = runs.data.astype(str) + " × " + runs.model.astype(str)
    unknown, coarse = keys == _digest({}), kind + " × " + runs.optimizer.astype(str)
    fine = runs.get("planned_context", coarse)
    for place in (fine.where(fine.notna(), coarse), coarse):
        for name in place[unknown].unique():
            candidates = keys[~unknown & (place == name)].unique()
            if len(candidates) == 1:
                keys[unknown & (place == name)] = candidates[0]
        unknown = keys == _digest({})
    keys[unknown] = coarse[unknown].map(_digest)
    labels: dict[str, str] = {}
    for name, members in keys.groupby(kind):
        labels |= _labels(str(name), {key: factors.get(key, {}) for key in members.unique()})
    planned = few.get("planned_params", pd.Series(index=few.index, dtype=object))
    texts = []
    for config, text in zip(configs, planned, strict=True):
        planned_loss = {"params": json.loads(text) if isinstance(text, str) else {}}
        params = (config.get("loss", {}) if config else planned_loss).get("params") or {}
        own = [key for key in sorted(params) if f"loss.params.{key}" not in tuned]
        texts.append(", ".join(f"{key}={params[key]}" for key in own))
    params = pd.Series(texts, dtype=str).take(kinds).set_axis(runs.index)
    several = params[params != ""].groupby(runs.loss).nunique()
    is_plain = ~runs.loss.isin(several.index[several > 1]) | (params == "")
    variants = runs.loss.where(is_plain, runs.loss + "(" + params + ")")
    return pd.DataFrame({"context": keys, "label": keys.map(labels), "variant": variants})


def _alike(runs: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Groups of runs with the same configuration: the group of each run, and one run per group.

    Runs with the same `planned_slot` are one group, whatever their configurations (and seeds) are.
    """
    key = runs.config.astype(object).where(runs.config.notna(), "")
    if "planned_slot" in runs:
        is_known = runs.planned_slot.notna() & (key != "")
        key = key.where(~is_known, runs.planned_slot)
    if "planned_params" in runs:
        key = key.where(key != "", runs.planned_params)
    kinds, _ = pd.factorize(key, use_na_sentinel=False)
    return kinds, runs[~pd.Series(kinds).duplicated().to_numpy()]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Leaves of nested mappings, by dotted name."""
    if not isinstance(value, Mapping):
        return {prefix[:-1]: value}
    parts = [_flat(inner, f"{prefix}{name}.") for name, inner in value.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def factors(config: str) -> dict[str, object]:
    """Values of a run's recorded configuration by dotted name."""
    return _flat(json.loads(config))


def context_factors(config: str, *, tuned: Sequence[str] = ()) -> dict[str, object]:
    """Factors of a run's recorded configuration that make its context, by dotted name.

    Args:
        config: The configuration, as JSON.
        tuned: Keys that were tuned per loss, which belong to the loss.
    """
    return _factors(json.loads(config), tuned)


def _factors(config: Mapping[str, object], tuned: Sequence[str]) -> dict[str, object]:
    leaves = _flat({name: part for name, part in config.items() if name not in _NO_FACTORS})
    speed = [name for name in leaves if name.startswith("engine.") and name != "engine.precision"]
    left_out = {*speed, "optimizer.lr", *tuned, *map(records.recorded, tuned)}
    return {name: leaf for name, leaf in leaves.items() if name not in left_out}


def _labels(kind: str, contexts: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Labels of contexts that share data and model, made of the factors that differ."""
    varied = []
    for name in sorted({name for factors in contexts.values() for name in factors}):
        # A factor of pretraining counts only among pretrained contexts.
        is_everywhere = not name.startswith("pretrained.")
        those = [factors for factors in contexts.values() if is_everywhere or name in factors]
        if len({str(factors.get(name)) for factors in those}) > 1:
            varied.append(name)
    groups = {name.split(".")[0] for name in varied if name.endswith(".name")}
    words = [n for n in varied if n.endswith(".name") or n.split(".")[0] not in groups]

    def are_distinct(names: Sequence[str]) -> bool:
        values = {tuple(str(factors.get(n)) for n in names) for factors in contexts.values()}
        return len(values) == len(contexts)

    words = words if are_distinct(words) else varied
    functions = [n for n in words if n.endswith(".fn")]
    for name in (*functions, *_QUIET):
        shorter = [n for n in words if n != name]
        words = shorter if are_distinct(shorter) else words
    # A factor is `name=value` in a label, but `init value` and `targets value`.
    prefixes = r"^(data|corruption|model|optimizer|schedule)\.params\.|\.name$"
    heads = {name: re.sub(prefixes, "", name) + "=" for name in words}
    heads |= {"init.from": "init ", "targets": "targets "}
    return {
        key: " · ".join([kind, *(f"{heads[n]}{factors[n]}" for n in words if n in factors)])
        for key, factors in contexts.items()
    }


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
        endpoint: "last", the last evaluated step, or "best", the step that is best on validation.

    Returns:
        The runs, placed, with the metrics; only runs that are done have values. `best_step` is
        the step with the best validation value of the first metric.

    Raises:
        ValueError: The endpoint is neither "last" nor "best".
    """
    if endpoint not in ("last", "best"):
        raise ValueError(f"endpoint {endpoint!r} is unknown: use 'last' or 'best'")
    metrics = [metric] if isinstance(metric, str) else list(metric)
    done = runs.run_id[runs.status == "done"]
    is_wanted = evals.split.isin([split, "validation"]) & evals.metric.isin(metrics)
    evals = evals.loc[is_wanted, ["run_id", "step", "split", "metric", "value"]]
    evals = evals[evals.run_id.isin(done)].astype({"run_id": "str"})
    rows = evals[evals.split == split]
    judged = evals[(evals.split == "validation") & (evals.metric == metrics[0])]
    judged = judged.assign(worth=-records.sign(metrics[0]) * judged.value)
    judged = judged.sort_values(["worth", "step"]).drop_duplicates("run_id")
    best = judged.set_index("run_id").step
    ends = rows.groupby("run_id").step.max() if endpoint == "last" else best
    rows = rows[rows.step == rows.run_id.map(ends)]
    values = rows.pivot_table(index="run_id", columns="metric", values="value", observed=True)
    values = values.reindex(columns=metrics).astype(float)
    return placed(runs).assign(best_step=runs.run_id.map(best)).join(values, on="run_id")


def placed(runs: pd.DataFrame, *, tuned: Sequence[str] = ()) -> pd.DataFrame:
    """Add the columns context, label and condition to runs, and replace each loss by its variant.

    Args:
        runs: Table `runs`; runs that have a context already are returned unchanged.
        tuned: Configuration keys that were tuned per loss, as typed; each key becomes a column with
            the run's value (missing if the loss has no such parameter).
    """
    if "context" in runs:
        return runs
    table = contexts(runs, tuned=tuned)
    others = [key for key in tuned if key != "optimizer.lr"]
    kinds, few = _alike(runs)
    configs = [
        _flat(json.loads(text)) if others and isinstance(text, str) and text else {}
        for text in few.config
    ]
    columns = {}
    for key in others:
        leaves = [leaves.get(records.recorded(key)) for leaves in configs]
        plain = [json.dumps(leaf) if isinstance(leaf, list) else leaf for leaf in leaves]
        columns[key] = pd.Series(plain).take(kinds).set_axis(runs.index)
    return runs.assign(
        context=table.context, label=table.label, loss=table.variant, condition="own_lr", **columns
    )


def joined(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Join rows of `steps`, `layers` or `evals` with `FACTS`, lr and seed of the given runs."""
    facts = placed(runs).set_index("run_id")[[*FACTS, "lr", "seed"]]
    columns = frame.columns.difference(facts.columns, sort=False)
    return frame[columns].join(facts, on="run_id", how="inner")


def refuse_unequal(cell: pd.DataFrame, *, columns: Iterable[str] = tuple(CURES)) -> None:
    """Refuse runs of one context that are not pairs.

    Args:
        cell: Runs, with columns loss, lr, seed, label, status and the fingerprints.
        columns: Fingerprints that must be equal within a seed.

    Raises:
        ValueError: Two runs of a seed differ in a fingerprint, or a loss has several runs at one
            candidate and seed; the message names the seed, the losses and the cure.
    """
    ran = cell[cell.status.isin(records.RESULTS)].sort_values(["seed", "loss"])
    keys = [name for name in ("loss", "candidate", "seed") if name in ran]
    for row in ran[ran.duplicated(keys)].itertuples():
        raise ValueError(
            f"seed {row.seed} of {row.label}: {row.loss} has several runs (lr {row.lr:g} and "
            "another), a pair needs exactly one run of each loss. Keep one learning rate per loss."
        )
    for column in columns:
        if not ran[["seed", column]].fillna("").drop_duplicates().seed.duplicated().any():
            continue
        first = ran.groupby("seed")[[column, "loss"]].transform("first")
        for row in ran[ran[column].fillna("") != first[column].fillna("")].itertuples():
            raise ValueError(
                f"seed {row.seed} of {row.label}: {column} differs between "
                f"{first.loss[row.Index]} ({str(first[column][row.Index])[:8]}) and {row.loss} "
                f"({str(getattr(row, column))[:8]}), so the two runs are not a pair; "
                f"{CURES[column]}."
            )
