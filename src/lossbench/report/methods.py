"""The methods of a sweep as a paragraph for a paper, written from what was recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from lossbench import records, statistics
from lossbench.report.summary import LONG_UNIT, listed
from lossbench.statistics import Comparison


def paragraph(loaded: records.Records, mains: Sequence[Comparison]) -> list[str]:
    """Sentences on protocol, budget, seeds, statistics, hardware and versions.

    Args:
        loaded: The sweep.
        mains: Its fair comparisons, one a context.
    """
    runs = loaded.runs[loaded.runs.status != "missing"]
    if not len(runs) or not mains:
        return ["No run has finished."]
    return [
        *_design(runs, mains),
        *_tuning(mains, statistics.declaration_of(loaded.plan)),
        *_judging(loaded, mains),
        *_outcome(runs),
        *machine(runs),
    ]


def _design(runs: pd.DataFrame, mains: Sequence[Comparison]) -> Iterator[str]:
    losses = sorted({loss for task in mains for loss in task.runs.loss})
    kinds = [f"{task.label} ({_training(task)})" for task in mains]
    names = listed(losses) if len(losses) <= 12 else f"{len(losses)} losses"
    verb = "compared" if len(losses) > 1 else "trained"
    yield f"We {verb} {names} on {listed(kinds)}."
    if len({*runs.seed}) > 1 or len(losses) > 1:
        yield (
            "At each seed all losses start from the same parameters and see the same data, split "
            "and mini-batches; sha256 fingerprints of all of these and of the software were "
            "recorded, and runs whose fingerprints differ within a seed were not paired."
        )


def _training(task: Comparison) -> str:
    facts = config_of(task.runs)
    name = str(task.runs.optimizer.iloc[0])
    parts = [name.upper() if name == "sgd" else name]
    if facts.get("momentum"):
        parts.append(f"momentum {facts['momentum']:g}")
    if facts.get("weight_decay"):
        parts.append(f"weight decay {facts['weight_decay']:g}")
    if "steps" in facts:
        parts.append(f"{facts['steps']} updates")
    if "batch_size" in facts:
        parts.append(f"batches of {facts['batch_size']}")
    return ", ".join(parts)


def selected_by(task: Comparison) -> str:
    """The validation metric that chose the learning rates of a task."""
    return str(task.rates.metric.iloc[0]).replace(records.OWN_LOSS, "each loss's own value")


def config_of(runs: pd.DataFrame) -> dict[str, Any]:
    """The recorded configuration of the first run that has one."""
    texts = [text for text in runs.config.dropna() if text]
    return json.loads(texts[0]) if texts else {}


def _tuning(mains: Sequence[Comparison], question: Mapping[str, Any]) -> Iterator[str]:
    tuned = [task for task in mains if task.stage == "confirm" and len(task.budgets)]
    if not tuned:
        yield (
            "Nothing was tuned and confirmed on fresh seeds; where several learning rates were "
            "run, each loss is shown at its best on validation, so all of this is exploratory."
        )
        return
    budgets = pd.concat([task.budgets for task in tuned])
    rates = pd.concat([task.rates for task in tuned])
    chosen_by = sorted({selected_by(task) for task in tuned})
    trials, runs = (span(budgets[name]) for name in ("trials", "tuning_runs"))
    more = [key for key in question["tuned"] if key != "optimizer.lr"]
    what = f"The learning rate{' (with ' + listed(more) + ')' if more else ''}"
    yield (
        f"{what} was tuned for each loss on the validation split by {listed(chosen_by)}: "
        f"{trials} candidates between {rates.lr.min():.2g} and {rates.lr.max():.2g} in {runs} "
        "runs a loss, the same for all losses of a task (where a best rate lay on the grid's edge, "
        "the grid was extended for all of them), and confirmed on fresh seeds."
    )


def _judging(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    question, declared = (
        statistics.declaration_of(loaded.plan),
        loaded.plan.get("declarations") or [],
    )
    judged = [task for task in mains if len(task.paired)]
    metrics = {f"{task.metric} on {task.split}" for task in mains}
    is_last = question["endpoint"] == "last"
    when = "after the last update" if is_last else "at the validation-best step"
    yield f"Models were judged by {listed(sorted(metrics))} {when}."
    if declared and declared[0]["runs_before"] == 0:
        yield (
            "Metrics, references, margins and losses were declared before the first run (sha256 "
            f"{declared[0]['sha256'][:16]}); what was added later is marked as exploratory."
        )
    if not judged:
        return
    pairs = span(pd.concat([task.paired.pairs for task in judged]))
    margins = sorted({f"{task.paired.margin.iloc[0]:g} in {_named(task)}" for task in judged})
    references = sorted({task.reference for task in judged})
    yield (
        f"Each loss was compared with {listed(references)} by simultaneous "
        f"{question['confidence']:.0%} paired-t intervals over {pairs} seeds (Bonferroni over the "
        f"losses of a task), with margins of {listed(margins)} below which a difference was "
        "declared too small to matter."
    )


def _named(task: Comparison) -> str:
    unit = records.metric_of(task.metric).unit.replace(LONG_UNIT, "SD of the target")
    return task.metric + (f" ({unit})" if unit not in ("", "1") else "")


def _outcome(runs: pd.DataFrame) -> Iterator[str]:
    counts = runs.status.value_counts()
    lost = [f"{counts[s]:,} {s}" for s in ("diverged", "failed") if s in counts]
    losses = f", of which {listed(lost)}" if lost else ""
    ranked = "; diverged runs rank worst and are counted" if "diverged" in counts else ""
    yield f"{len(runs):,} runs were trained{losses}{ranked}."


def machine(runs: pd.DataFrame) -> Iterator[str]:
    """Sentences on time, hardware and software of some runs."""
    spent = runs.train_seconds.sum()
    yield f"Training took {_duration(float(spent))} of computing on {hardware(runs)}."
    known = runs.environment.dropna() if "environment" in runs else pd.Series(dtype=str)
    software = {
        f"lossbench {one.get('lossbench', '?')}, Python {one['python']}, PyTorch {one['torch']}"
        for one in (json.loads(text) for text in dict.fromkeys(known) if text)
    }
    if software:
        yield f"Software: {'; '.join(sorted(software))}."


def _parts(task: Comparison, plan: Mapping[str, Any]) -> Iterator[str]:
    """Data and model, with what the configuration sets of them."""
    facts = config_of(task.runs)
    source = plan.get("data", {}).get(task.runs.data.iloc[0], {}).get("source", "")
    for kind, about in (("data", source), ("model", "")):
        part = facts.get(kind, {})
        params = ", ".join(f"{name} {value}" for name, value in part.get("params", {}).items())
        details = "; ".join(text for text in (about, params) if text)
        if part:
            yield f"{kind.capitalize()}: {part['name']}" + (f" ({details})." if details else ".")


def hardware(runs: pd.DataFrame) -> str:
    """Device, threads and precision of some runs."""
    ran = runs.dropna(subset="device")
    return "; ".join(
        f"{device}, {threads:.0f} {'threads' if threads > 1 else 'thread'}, {precision}"
        for device, threads, precision in dict.fromkeys(
            map(tuple, ran[["device", "threads", "precision"]].to_numpy())
        )
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def span(numbers: pd.Series) -> str:
    """A number, or from the least to the most."""
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low}" if low == high else f"{low} to {high}"


DRAWN = {
    "generated": "Every seed generates data of its own, the same for all losses.",
    "resplit": "Every seed splits the same examples anew, alike for all losses. Test sets of two "
    "seeds overlap, so the intervals speak about new splits of these examples, not about new ones. "
    "The seeds that tuned split the same examples too: most of what is a test example here helped "
    "to choose a learning rate there, for all losses alike.",
    "fixed": "All seeds share one data set and split: conditional on this test set.",
}


def of_task(task: Comparison, plan: Mapping[str, Any]) -> str:
    """How the runs of a task came about, as far as the records tell."""
    ran = task.runs[task.runs.status.isin(records.RESULTS)]
    lines = [*_parts(task, plan), f"Training: {_training(task)}."]
    if len({*task.rates.lr}) > 1:
        lines.append(f"Learning rates were chosen by {selected_by(task)} on validation.")
    if len(ran) and len({*ran.seed}) > 1:
        kind = plan.get("data", {}).get(task.runs.data.iloc[0], {}).get("drawn", "generated")
        lines.append(DRAWN[kind] if len({*ran.data_sha}) > 1 else DRAWN["fixed"])
    if len(ran):
        spent = _duration(float(ran.train_seconds.sum()))
        lines.append(f"{ran.seed.nunique()} seeds, {spent} of training on {hardware(ran)}.")
    return " ".join(lines)
