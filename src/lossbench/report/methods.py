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
from lossbench.statistics.declared import Declaration


def paragraph(loaded: records.Records, mains: Sequence[Comparison]) -> list[str]:
    """Sentences on protocol, budget, seeds, statistics, hardware and versions of a sweep."""
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
    losses = sorted({loss for one in mains for loss in one.runs.loss})
    kinds = [f"{one.label} ({'; '.join([*_setup(one), _training(one)])})" for one in mains]
    names = listed(losses) if len(losses) <= 12 else f"{len(losses)} losses"
    verb = "compared" if len(losses) > 1 else "trained"
    yield f"We {verb} {names} on {listed(kinds)}."
    if len({*runs.seed}) > 1 or len(losses) > 1:
        yield (
            "At each seed all losses start from the same parameters and see the same data, split "
            "and mini-batches; sha256 fingerprints of all of these and of the software were "
            "recorded, and runs whose fingerprints differ within a seed were not paired."
        )


def _setup(one: Comparison) -> Iterator[str]:
    """Number of examples of each split, and model with settings and size, as far as recorded."""
    counts = {split: _counts(one.runs, f"{split}_examples") for split in records.SPLITS}
    if all(map(len, counts.values())):
        texts = [f"{counted_from_to(count, ',')} {split}" for split, count in counts.items()]
        yield f"{listed(texts)} examples".replace(" train,", " training,")
    model = config_of(one.runs).get("model")
    if model is None:
        return
    settings = [f"{name.replace('_', ' ')} {value}" for name, value in model["params"].items()]
    if len(learned := _counts(one.runs, "parameters")):
        settings.append(f"{counted_from_to(learned, ',')} parameters")
    yield " with ".join(text for text in (f"{model['name']}", listed(settings)) if text)


def _counts(runs: pd.DataFrame, name: str) -> pd.Series:
    """Values of a column; none if the records are older than the column."""
    return runs.get(name, pd.Series(dtype=float)).dropna()


OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "lion": "Lion"}
OPTIMIZERS |= {"muon": "Muon (and AdamW for all but matrices of hidden layers)"}
"""Names of optimizers in a paper."""


def _training(one: Comparison) -> str:
    facts = config_of(one.runs)
    name = str(one.runs.optimizer.iloc[0])
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


def _tuning(mains: Sequence[Comparison], question: Declaration) -> Iterator[str]:
    chosen = [one for one in mains if one.is_declared]
    if not chosen:
        yield (
            "Nothing was declared before the runs; where several learning rates were run, each "
            "loss is shown at its best on validation, and all of this is exploratory."
        )
        return
    candidates = counted_from_to(pd.concat([one.budgets for one in chosen]).candidates)
    rates = pd.concat([one.rates for one in chosen])
    chosen_by = sorted({selected_by(one) for one in chosen})
    more, looks = [key for key in question["tuned"] if key != "optimizer.lr"], question["looks"]
    what = f"The learning rate{' (with ' + listed(more) + ')' if more else ''}"
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
    question = statistics.declaration_of(loaded.plan)
    declared = loaded.plan.get("declarations") or []
    metrics = sorted({f"{one.metric} on {one.split}" for one in mains})
    is_last = question["endpoint"] == "last"
    when = "after the last update" if is_last else "at the validation-best step"
    yield f"Models were judged by {listed(metrics)} {when}."
    if declared and declared[0]["runs_before"] == 0:
        yield (
            "Metrics, references, margins and losses were declared before the first run (sha256 "
            f"{declared[0]['sha256'][:16]}); what was added later is marked as exploratory."
        )
        seen, count = pd.concat([one.seen for one in mains]), sum(len(one.runs) for one in mains)
        if text := words.seen_text(seen, count=count):
            yield f"{text}, as far as they rest on these runs."
    judged = [one for one in mains if len(one.paired)]
    if not judged:
        return
    pairs = counted_from_to(pd.concat([one.paired.pairs for one in judged]))
    references = sorted({one.reference for one in judged})
    averages = {one.rule.average for one in judged}
    lengths = " ".join(text for average, text in LENGTHS.items() if average in averages)
    yield (
        f"Each loss was compared with {listed(references)} by the {_averages(judged)} of paired "
        f"differences over {pairs} seeds. The {question['confidence']:.0%} intervals are "
        "simultaneous (Bonferroni over the losses of a context, the level spent over the looks). "
        f"{lengths} Each is widened by how much the choice of candidates varies when "
        "seeds are resampled. "
        f"Differences below {listed([*_margins(judged)])} were declared too small to matter."
    )


def _averages(comparisons: Sequence[Comparison]) -> str:
    """Average over seeds, with the contexts that use the other average: mean (median on a × b)."""
    medians = [one.label for one in comparisons if one.rule.average == "median"]
    if len(medians) == len(comparisons):
        return "median"
    return f"mean (median on {listed([*dict.fromkeys(medians)])})" if medians else "mean"


LENGTHS = {
    "mean": "Those of means are Student's t, made longer where the differences are skewed.",
    "median": "Those of medians lie between order statistics.",
}
"""Sentence on the interval of each average."""


def _margins(judged: Sequence[Comparison]) -> Iterator[str]:
    """Margins of a sweep; margins with equal metric, reference and declared value are joined."""
    alike: dict[tuple[str, str, object], list[Comparison]] = {}
    for one in judged:
        alike.setdefault((one.metric, one.reference, one.margin.declared), []).append(one)
    for (metric, *_), those in alike.items():
        unit = records.metric_of(metric).unit.replace(LONG_UNIT, "SD of the target")
        in_unit = f" ({unit})" if unit not in ("", "1") else ""
        yield f"{words.margin_text([one.margin for one in those])} in {metric}{in_unit}"


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
    known = runs.environment.dropna() if "environment" in runs else ()
    software = {
        f"lossbench {one.get('lossbench', '?')}, Python {one['python']}, PyTorch {one['torch']}"
        for one in (json.loads(text) for text in dict.fromkeys(known) if text)
    }
    if software:
        yield f"Software: {'; '.join(sorted(software))}."


def _parts(one: Comparison, data: Mapping[str, str]) -> Iterator[str]:
    """Sentences on data and model, with the parameters from the configuration."""
    facts = config_of(one.runs)
    for kind, about in (("data", data.get("source", "")), ("model", "")):
        part = facts.get(kind, {})
        params = ", ".join(f"{name} {value}" for name, value in part.get("params", {}).items())
        details = "; ".join(text for text in (about, params) if text)
        if part:
            yield f"{kind.capitalize()}: {part['name']}" + (f" ({details})." if details else ".")


def hardware(runs: pd.DataFrame) -> str:
    """Device, threads and precision of some runs."""
    ran = runs.dropna(subset="device")
    kinds = dict.fromkeys(zip(ran.device, ran.threads, ran.precision, strict=True))
    return "; ".join(
        f"{device}, {threads:.0f} {'threads' if threads > 1 else 'thread'}, {precision}"
        for device, threads, precision in kinds
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
    data = plan.get("data", {}).get(comparison.runs.data.iloc[0], {})
    lines = [*_parts(comparison, data), f"Training: {_training(comparison)}."]
    if len({*comparison.rates.lr}) > 1:
        lines.append(f"Learning rates were chosen by {selected_by(comparison)} on validation.")
    if len(ran) and len({*ran.seed}) > 1:
        is_fixed = len({*ran.data_sha}) == 1
        lines.append(DRAWN["fixed" if is_fixed else data.get("drawn", "generated")])
    if len(ran):
        spent = records.duration(float(ran.train_seconds.sum()))
        lines.append(f"{ran.seed.nunique()} seeds, {spent} of training on {hardware(ran)}.")
    return " ".join(lines)
