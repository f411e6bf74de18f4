"""Methods of a sweep as a paragraph for a paper, written from the records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from lossbench import records, statistics
from lossbench.report import words
from lossbench.report.summary import LONG_UNIT, counted_from_to
from lossbench.report.words import listed
from lossbench.statistics import Comparison


def paragraph(loaded: records.Records, mains: Sequence[Comparison]) -> list[str]:
    """Sentences on protocol, budget, seeds, statistics, hardware and versions.

    Args:
        loaded: The sweep.
        mains: Fair comparisons of the sweep, one per context.
    """
    runs = loaded.runs[loaded.runs.status != "missing"]
    if not len(runs) or not mains:
        return ["No run has finished."]
    smoke = "This sweep was run at size=smoke, and nothing of it is a result."
    return [
        *([smoke] if mains[0].declared.is_smoke else []),
        *_design(runs, mains),
        *_tuning(mains, statistics.declaration_of(loaded.plan)),
        *_judging(loaded, mains),
        *_outcome(runs),
        *machine(runs),
    ]


def _design(runs: pd.DataFrame, mains: Sequence[Comparison]) -> Iterator[str]:
    losses = sorted({loss for comparison in mains for loss in comparison.runs.loss})
    kinds = [f"{comparison.label} ({_task(comparison)})" for comparison in mains]
    names = listed(losses) if len(losses) <= 12 else f"{len(losses)} losses"
    verb = "compared" if len(losses) > 1 else "trained"
    yield f"We {verb} {names} on {listed(kinds)}."
    if len({*runs.seed}) > 1 or len(losses) > 1:
        yield (
            "At each seed all losses start from the same parameters and see the same data, split "
            "and mini-batches; sha256 fingerprints of all of these and of the software were "
            "recorded, and runs whose fingerprints differ within a seed were not paired."
        )


def _task(comparison: Comparison) -> str:
    """Examples, model and training of a context, for a parenthesis."""
    return "; ".join([*_examples(comparison), *_model(comparison), _training(comparison)])


def _examples(comparison: Comparison) -> Iterator[str]:
    """Number of examples of each split, if recorded."""
    counts = {
        split: comparison.runs.get(f"{split}_examples", NO_COUNTS).dropna()
        for split in records.SPLITS
    }
    if all(map(len, counts.values())):
        texts = [f"{counted_from_to(count, ',')} {split}" for split, count in counts.items()]
        yield f"{listed(texts)} examples".replace(" train,", " training,")


def _model(comparison: Comparison) -> Iterator[str]:
    """Model with its settings and the number of learned parameters."""
    model = config_of(comparison.runs).get("model")
    if model is None:
        return
    settings = [f"{name.replace('_', ' ')} {value}" for name, value in model["params"].items()]
    learned = comparison.runs.get("parameters", NO_COUNTS).dropna()
    if len(learned):
        settings.append(f"{counted_from_to(learned, ',')} parameters")
    yield " with ".join(text for text in (f"{model['name']}", listed(settings)) if text)


NO_COUNTS = pd.Series(dtype=float)
"""Values of a column that older records do not have."""


OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "lion": "Lion"}
OPTIMIZERS |= {"muon": "Muon (and AdamW for all but matrices of hidden layers)"}
"""Names of optimizers in a paper."""


def _training(comparison: Comparison) -> str:
    facts = config_of(comparison.runs)
    name = str(comparison.runs.optimizer.iloc[0])
    parts = [OPTIMIZERS.get(name, name)]
    if facts.get("momentum"):
        parts.append(f"momentum {facts['momentum']:g}")
    if facts.get("weight_decay"):
        parts.append(f"weight decay {facts['weight_decay']:g}")
    if "steps" in facts:
        parts.append(f"{facts['steps']} updates")
    if "batch_size" in facts:
        parts.append(f"batches of {facts['batch_size']}")
    return ", ".join(parts)


def selected_by(comparison: Comparison) -> str:
    """The validation metric that chose the learning rates of a context."""
    return comparison.rule.select.replace(records.OWN_LOSS, "each loss's own value")


def config_of(runs: pd.DataFrame) -> dict[str, Any]:
    """The recorded configuration of the first run that has one."""
    texts = [text for text in runs.config.dropna() if text]
    return json.loads(texts[0]) if texts else {}


def _tuning(mains: Sequence[Comparison], question: Mapping[str, Any]) -> Iterator[str]:
    chosen = [comparison for comparison in mains if comparison.is_declared]
    if not chosen:
        yield (
            "Nothing was declared before the runs; where several learning rates were run, each "
            "loss is shown at its best on validation, and all of this is exploratory."
        )
        return
    budgets = pd.concat([comparison.budgets for comparison in chosen])
    rates = pd.concat([comparison.rates for comparison in chosen])
    chosen_by = sorted({selected_by(comparison) for comparison in chosen})
    candidates = counted_from_to(budgets.candidates)
    more = [key for key in question["tuned"] if key != "optimizer.lr"]
    what = f"The learning rate{' (with ' + listed(more) + ')' if more else ''}"
    looks = [f"{look}" for look in question["looks"]]
    yield (
        f"{what} of each loss is that with the best {_averages(chosen)} over all seeds on the "
        f"validation split by {listed(chosen_by)}, of {candidates} candidates between "
        f"{rates.lr.min():.3g} and {rates.lr.max():.3g}, the same for all losses of a context "
        "(where a best rate lay on the grid's edge, the grid was extended for all of them)."
    )
    if len(looks) > 1:
        yield (
            f"Verdicts were read with {listed(looks)} seeds; comparisons whose interval lay wholly "
            "beyond or wholly within the margin ended there, the others went on with the "
            "candidates that resampled seeds still chose, and those beside them."
        )


def _judging(loaded: records.Records, mains: Sequence[Comparison]) -> Iterator[str]:
    question, declared = (
        statistics.declaration_of(loaded.plan),
        loaded.plan.get("declarations") or [],
    )
    judged = [comparison for comparison in mains if len(comparison.paired)]
    metrics = {f"{comparison.metric} on {comparison.split}" for comparison in mains}
    is_last = question["endpoint"] == "last"
    when = "after the last update" if is_last else "at the validation-best step"
    yield f"Models were judged by {listed(sorted(metrics))} {when}."
    if declared and declared[0]["runs_before"] == 0:
        yield (
            "Metrics, references, margins and losses were declared before the first run (sha256 "
            f"{declared[0]['sha256'][:16]}); what was added later is marked as exploratory."
        )
        seen = pd.concat([comparison.seen for comparison in mains])
        count = sum(len(comparison.runs) for comparison in mains)
        if text := words.seen_text(seen, count=count):
            yield f"{text}, as far as they rest on these runs."
    if not judged:
        return
    pairs = counted_from_to(pd.concat([comparison.paired.pairs for comparison in judged]))
    margins = [*_margins(judged)]
    references = sorted({comparison.reference for comparison in judged})
    yield (
        f"Each loss was compared with {listed(references)} by the {_averages(judged)} of paired "
        f"differences over {pairs} seeds. The {question['confidence']:.0%} intervals are "
        "simultaneous (Bonferroni over the losses of a context, the level spent over the looks). "
        f"{_lengths(judged)} Each is widened by how much the choice of candidates varies when "
        "seeds are resampled. "
        f"Differences below {listed(margins)} were declared too small to matter."
    )


def _averages(comparisons: Sequence[Comparison]) -> str:
    """Average over seeds, with the contexts that use the other average: mean (median on a × b)."""
    medians = list(
        dict.fromkeys(
            comparison.label for comparison in comparisons if comparison.rule.average == "median"
        )
    )
    if all(comparison.rule.average == "median" for comparison in comparisons):
        return "median"
    return f"mean (median on {listed(medians)})" if medians else "mean"


LENGTHS = {
    "mean": "Those of means are Student's t, made longer where the differences are skewed.",
    "median": "Those of medians lie between order statistics.",
}
"""Sentence on the interval of each average."""


def _lengths(judged: Sequence[Comparison]) -> str:
    kinds = {comparison.rule.average for comparison in judged}
    return " ".join(text for kind, text in LENGTHS.items() if kind in kinds)


def _margins(judged: Sequence[Comparison]) -> Iterator[str]:
    """Margins of a sweep; margins with equal metric, reference and declared value are joined."""
    alike: dict[tuple[Any, ...], list[Comparison]] = {}
    for comparison in judged:
        alike.setdefault(
            (_named(comparison), comparison.reference, comparison.margin.declared), []
        ).append(comparison)
    for (name, *_), comparisons in alike.items():
        yield f"{words.margin_text([comparison.margin for comparison in comparisons])} in {name}"


def _named(comparison: Comparison) -> str:
    unit = records.metric_of(comparison.metric).unit.replace(LONG_UNIT, "SD of the target")
    return comparison.metric + (f" ({unit})" if unit not in ("", "1") else "")


def _outcome(runs: pd.DataFrame) -> Iterator[str]:
    counts = runs.status.value_counts()
    lost = [f"{counts[s]:,} {s}" for s in ("diverged", "failed") if s in counts]
    losses = f", of which {listed(lost)}" if lost else ""
    ranked = "; diverged runs rank worst and are counted" if "diverged" in counts else ""
    yield f"{len(runs):,} runs were trained{losses}{ranked}."


def machine(runs: pd.DataFrame) -> Iterator[str]:
    """Sentences on time, hardware and software of some runs."""
    spent = runs.train_seconds.sum()
    yield f"Training took {records.duration(float(spent))} of computing on {hardware(runs)}."
    known = runs.environment.dropna() if "environment" in runs else pd.Series(dtype=str)
    software = {
        f"lossbench {one.get('lossbench', '?')}, Python {one['python']}, PyTorch {one['torch']}"
        for one in (json.loads(text) for text in dict.fromkeys(known) if text)
    }
    if software:
        yield f"Software: {'; '.join(sorted(software))}."


def _parts(comparison: Comparison, plan: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on data and model, with the parameters from the configuration."""
    facts = config_of(comparison.runs)
    source = plan.get("data", {}).get(comparison.runs.data.iloc[0], {}).get("source", "")
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


DRAWN = {
    "generated": "Every seed generates data of its own, the same for all losses.",
    "resplit": "A fifth of the examples is test for every seed, and none trains or chooses on it; "
    "every seed splits the others anew into training and validation, alike for all losses. So the "
    "intervals speak about new trainings and new splits of these, judged on one fixed test part; "
    "whether a verdict carries over to new examples is said beside it.",
    "fixed": "All seeds share one data set and split: conditional on this test set.",
}


def of_task(comparison: Comparison, plan: Mapping[str, Any]) -> str:
    """Data, model, training and hardware of a context's runs in sentences, as far as recorded."""
    ran = comparison.runs[comparison.runs.status.isin(records.RESULTS)]
    lines = [*_parts(comparison, plan), f"Training: {_training(comparison)}."]
    if len({*comparison.rates.lr}) > 1:
        lines.append(f"Learning rates were chosen by {selected_by(comparison)} on validation.")
    if len(ran) and len({*ran.seed}) > 1:
        kind = plan.get("data", {}).get(comparison.runs.data.iloc[0], {}).get("drawn", "generated")
        lines.append(DRAWN[kind] if len({*ran.data_sha}) > 1 else DRAWN["fixed"])
    if len(ran):
        spent = records.duration(float(ran.train_seconds.sum()))
        lines.append(f"{ran.seed.nunique()} seeds, {spent} of training on {hardware(ran)}.")
    return " ".join(lines)
