"""What a sweep would cost before it is launched: runs, packs, time, memory, disk, power."""

from __future__ import annotations

import heapq
import itertools
import json
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lossbench import records, statistics
from lossbench.data.files import Files
from lossbench.data.splits import Splits
from lossbench.engine import WorkerCache, evaluate, runs_apart, train
from lossbench.losses import LOSSES
from lossbench.measures import probes
from lossbench.measures.instruments import times
from lossbench.models import MODELS
from lossbench.processes import BYTES_A_PROCESS
from lossbench.protocol.answer import Outline
from lossbench.question import PRECISIONS, ConfigError, Question, Run, packs
from lossbench.question.packs import Pack
from lossbench.sweep import Sweep, splits_of
from lossbench.sweep.pretrained import key_of, run_before

TIMED_SECONDS = 0.5
"""Fewer updates of one pack of a kind are timed where they take longer than that."""

TIMED_AS_ONE = ("corruption", "schedule", "steps", "log_every", "eval_every")
"""Facts of a run that what is timed does not depend on, the numbers of its data apart."""

MUCH = 0.25
"""Share of the time from which on evaluation is worth a word."""

BYTES_A_ROW = {"runs": 900.0, "steps": 22.0, "layers": 11.0, "evals": 4.0, "examples": 3.0}
"""Of the parquet files of `experiment=essay`, as `lossbench plan` was written."""

COPIES = 6
"""Of the parameters while a pack trains: themselves, gradient, optimizer, update and what comes."""

OUTPUTS_AT_ONCE = 4
"""Of every split while metrics are computed: outputs, targets, predictions and what comes."""


@dataclass(frozen=True)
class Forecast:
    """The cost of one look.

    Attributes:
        look: So many seeds, or "as given".
        runs: Asked for.
        present: Of these, already there.
        packs: To be trained.
        updates: Of all runs to be trained.
        seconds: To train them here, by all processes, from updates timed and thrown away.
        evaluating: Share of them that evaluations take.
        memory: Most bytes at once of all processes that train; on a card, of their tensors there.
        disk: Bytes of parquet.
    """

    look: str
    runs: int
    present: int
    packs: int
    updates: int
    seconds: float
    evaluating: float
    memory: float
    disk: float


def forecast(looks: Mapping[str, Sequence[Run]], sweep: Sweep) -> list[Forecast]:
    """The cost of every look of a sweep.

    Args:
        looks: Runs by look.
        sweep: Where and how they would train; nothing is written there.

    Returns:
        One row a look.
    """
    members, speeds = sweep.statuses(), _Speeds(sweep)
    return [_look(look, runs, members, speeds, sweep) for look, runs in looks.items()]


def _look(
    look: str,
    runs: Sequence[Run],
    members: Mapping[str, Mapping[str, str]],
    speeds: _Speeds,
    sweep: Sweep,
) -> Forecast:
    wanted = {run.run_id: run for run in runs}
    todo = [
        run
        for run_id, run in wanted.items()
        if members.get(run_id, {}).get("status") not in records.RESULTS
    ]
    packs_at_once = sweep.backend.packs_at_once
    grouped = packs.shared(todo, pack_size=sweep.engine.pack_size, packs_at_once=packs_at_once)
    # What is trained before a pack is trained by whoever trains the pack.
    before = {key_of(run): run_before(run) for run in todo if run.is_pretrained}
    alone = [Pack(key, (run,)) for key, run in before.items()]
    each = sorted((speeds.seconds(pack) for pack in (*grouped, *alone)), reverse=True)
    sizes = sorted((speeds.memory(pack) for pack in grouped), reverse=True)
    return Forecast(
        look=look,
        runs=len(wanted),
        present=len(wanted) - len(todo),
        packs=len(grouped),
        updates=sum(run.steps for run in todo),
        seconds=_until_all_are_done(each, packs_at_once),
        evaluating=sum(map(speeds.evaluating, grouped)) / sum(each) if each else 0.0,
        memory=sum(sizes[:packs_at_once]),
        disk=sum(speeds.disk(pack) for pack in grouped),
    )


def _until_all_are_done(seconds: Sequence[float], processes: int) -> float:
    """Seconds that packs take, the longest first, each by the process that is free first."""
    busy = [0.0] * processes
    for duration in seconds:
        heapq.heapreplace(busy, busy[0] + duration)
    return max(busy)


@dataclass(frozen=True)
class _Speed:
    """Seconds a member takes: an update, to log it, an evaluation, and all that comes once."""

    update: float
    logging: float
    evaluation: float
    once: float


class _Speeds:
    """Speeds by kind of pack, timed once each."""

    def __init__(self, sweep: Sweep) -> None:
        self.device = torch.device(sweep.engine.device)
        self.padding = sweep.engine.padding
        self.rhythm = RHYTHMS[self.device.type]
        # What other people do on the machine meanwhile is no property of the sweep.
        is_alone = sweep.engine.device == "cpu" and sweep.engine.threads == 1
        self.clock = time.process_time if is_alone else time.monotonic
        self.known: dict[str, _Speed] = {}
        self.sizes: dict[str, _Numbers] = {}
        self.cache = WorkerCache()
        torch.set_num_threads(sweep.engine.threads)
        self.files = sweep.engine.files

    def seconds(self, pack: Pack) -> float:
        """Of training a whole pack."""
        run, speed = pack.runs[0], self._speed(pack)
        update = speed.update + speed.logging / run.log_every
        return self.evaluating(pack) + self._members(pack) * (_updates(run) * update + speed.once)

    def evaluating(self, pack: Pack) -> float:
        """Seconds of that for evaluations, but for the last one."""
        run, speed = pack.runs[0], self._speed(pack)
        return self._members(pack) * -(-run.steps // run.eval_every) * speed.evaluation

    def _speed(self, pack: Pack) -> _Speed:
        facts = json.loads(packs.structure(pack.runs[0]))
        alike = {name: value for name, value in facts.items() if name not in TIMED_AS_ONE}
        # Many members share the cost of an update.
        size = min(self._members(pack), self.rhythm.members).bit_length()
        numbers = self._numbers(pack)
        kind = json.dumps([alike, numbers.data + numbers.seed, size])
        if kind not in self.known:
            self.known[kind] = self._timed(pack)
        return self.known[kind]

    def _members(self, pack: Pack) -> int:
        """How many train: the runs, and what pads them."""
        count = len(pack.runs)
        return count if self._numbers(pack).is_apart else max(count, self.padding)

    def _timed(self, pack: Pack) -> _Speed:
        rhythm = self.rhythm
        # Members that run one after the other take as long each, however many there are.
        most = 1 if self._numbers(pack).is_apart else rhythm.members
        count = min(most, len(pack.runs))
        runs = tuple(pack.runs[place * len(pack.runs) // count] for place in range(count))
        splits = {run.seed: splits_of(run, self.files) for run in runs}
        members = self._members(Pack(pack.pack_id, runs))
        stamps: list[tuple[int, float]] = []

        def train_some(steps: int, flush: Callable[[int, object], None]) -> None:
            typed = {"steps": steps, "log_every": rhythm.logged, "eval_every": rhythm.evaluated}
            short = tuple(replace(run, **typed, instruments=()) for run in runs)
            train(
                Pack(pack.pack_id, short),
                splits,
                device=self.device,
                padding=self.padding,
                flush=flush,
                cache=self.cache,
            )

        def stamp(step: int, _: object) -> None:
            stamps.append((step, self._now()))
            if step > rhythm.evaluated and stamps[-1][1] - stamps[0][1] > TIMED_SECONDS:
                raise _Enough

        with suppress(_Enough):
            train_some(rhythm.updates, stamp)
        parts = [seconds / members for seconds in rhythm.parts(stamps)]
        start = self._now()
        train_some(1, lambda *_: None)
        first = (self._now() - start) / members
        return _Speed(*parts, once=max(first - sum(parts), 0.0))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def memory(self, pack: Pack) -> float:
        """Bytes of a process and of a pack: data, parameters, a chunk evaluated or a batch."""
        numbers = self._numbers(pack)
        width = PRECISIONS[pack.runs[0].precision].itemsize
        seeds = len({run.seed for run in pack.runs})
        tensors = numbers.data + seeds * numbers.seed + numbers.once
        tensors += self._members(pack) * numbers.member
        process = BYTES_A_PROCESS if self.device.type == "cpu" else 0
        return process + width * tensors + seeds * numbers.drawn

    def disk(self, pack: Pack) -> float:
        """Bytes of the rows of a pack's runs in the five tables."""
        numbers = self._numbers(pack)
        return sum(
            _disk(run, layers=numbers.layers, examples=numbers.examples) for run in pack.runs
        )

    def _numbers(self, pack: Pack) -> _Numbers:
        first = pack.runs[0]
        second = next((run for run in pack.runs if run.seed != first.seed), first)
        kind = json.dumps([packs.structure(first), second.seed == first.seed])
        if kind not in self.sizes:
            self.sizes[kind] = _numbers(first, second, self.device, self.files)
        return self.sizes[kind]


class _Enough(Exception):
    """Enough was timed."""


@dataclass(frozen=True)
class _Rhythm:
    """What a training does that is timed and thrown away.

    Attributes:
        members: Of so many at most: from there on each takes as long.
        updates: So many at most.
        logged: Every which of them is logged.
        evaluated: Every which of them comes after an evaluation.
    """

    members: int
    updates: int
    logged: int
    evaluated: int

    def parts(self, stamps: Sequence[tuple[int, float]]) -> list[float]:
        """Seconds of an update, and what one takes longer that is logged, or is evaluated before.

        Args:
            stamps: Updates done, and when. What came before the first is not counted: the first of
                everything is slow.
        """
        spans: dict[tuple[int, bool, bool], list[float]] = {}
        for (before, start), (after, end) in itertools.pairwise(stamps):
            kind = after - before, before % self.logged == 0, before % self.evaluated == 0
            spans.setdefault(kind, []).append(end - start)
        # Medians, because on CUDA the second of a kind is slow as well: it is captured. Divided by
        # themselves, or what an evaluation varies by would be more than all of an update.
        spent = np.array([max(float(np.median(span)), 1e-9) for span in spans.values()])
        shares = np.array([*spans], dtype=float) / spent[:, None]
        seconds, columns = np.zeros(3), [*range(min(3, len(spent)))]
        while columns:  # least squares without negative seconds; scipy's takes 0.4 s to import
            fit = np.linalg.lstsq(shares[:, columns], np.ones(len(spent)))[0]
            if (fit >= 0).all():
                seconds[columns] = fit
                break
            columns = [column for column, value in zip(columns, fit, strict=True) if value > 0]
        return seconds.tolist()


RHYTHMS = {
    "cpu": _Rhythm(members=64, updates=40, logged=7, evaluated=10),
    "cuda": _Rhythm(members=10_000, updates=400, logged=10, evaluated=50),
}
"""By kind of device; on CUDA nearly that of a sweep, because stretches are replayed as a whole."""


@dataclass(frozen=True)
class _Numbers:
    """How many numbers a pack is.

    Attributes:
        data: That all seeds have in common.
        seed: Data of a seed alone.
        drawn: Bytes of a seed's rows of batches and words of augmentation.
        member: What each member holds at once at most.
        once: What members that run one after the other hold one at a time.
        is_apart: Whether they do.
        layers: Layers with parameters, a row each.
        examples: Those of test that have a row each.
    """

    data: int
    seed: int
    drawn: int
    member: int
    once: int
    is_apart: bool
    layers: int
    examples: int


def _updates(run: Run) -> float:
    """Updates of a run, and as many more as its instruments cost."""
    schedule = {"steps": run.steps, "eval_every": run.eval_every}
    return run.steps + sum(
        records.INSTRUMENTS[name].cost * times(name, **schedule) for name in run.instruments
    )


def _numbers(run: Run, other: Run, device: torch.device, files: Files) -> _Numbers:
    """How many numbers packs are of which these two are runs, of two seeds if they have several."""
    splits = splits_of(run, files)
    tensors = _tensors(splits)
    others = {*map(id, _tensors(splits_of(other, files)))} if other is not run else set()
    data = sum(tensor.numel() for tensor in tensors if id(tensor) in others)
    seed = sum(tensor.numel() for tensor in tensors) - data
    drawn = run.steps * run.batch_size * (8 + 12 * (run.augmentation.fn != "none"))
    model = MODELS[run.model.fn].fn(*splits.sizes, **run.model.params)
    example = splits.inputs["train"][:1]
    passing, stored = _activations(model, example)
    counts = {split: len(part) for split, part in splits.inputs.items()}
    counts["train"] = min(counts["train"], evaluate.most_training_rows(splits.positions))
    chunks = evaluate.chunks(example[None], max(counts.values()))
    rows = max(part.stop - part.start for part in chunks)
    judged = OUTPUTS_AT_ONCE * sum(counts.values()) * splits.positions * splits.outputs
    evaluating = rows * (example.numel() + passing)
    training = run.batch_size * (example.numel() + 2 * stored)  # and their gradients
    parameters = COPIES * sum(parameter.numel() for parameter in model.parameters())
    layers = len(probes.layer_names([name for name, _ in model.named_parameters()]))
    examples = evaluate.recorded_examples(run, counts["test"])
    two = splits.inputs["train"][:2].to(device)
    if runs_apart(run.model.name, model.train().to(device), two):
        once = max(evaluating, training)
        return _Numbers(data, seed, drawn, judged + parameters, once, True, layers, examples)
    member = max(evaluating + judged, training) + parameters
    return _Numbers(data, seed, drawn, member, 0, False, layers, examples)


def _tensors(splits: Splits) -> list[Tensor]:
    kinds = (splits.inputs, splits.targets, splits.posterior, splits.clean)
    return [part for kind in kinds for part in kind.values()]


def _activations(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """Numbers of one example that are there at once without gradients, and all that are kept."""
    sizes = [example.numel()]
    for module in model.modules():
        if not [*module.children()]:
            module.register_forward_hook(lambda _, __, output: sizes.append(output.numel()))
    with torch.no_grad():
        model.eval()(example)
    return max(map(sum, itertools.pairwise([*sizes, 0]))), sum(sizes)


def _disk(run: Run, *, layers: int, examples: int) -> float:
    """Bytes of a run's rows in the five tables."""
    logged = -(-run.steps // run.log_every)
    evaluated = run.steps // run.eval_every + 1
    of_task = [row for row in records.METRICS.values() if row.task == run.row.task]
    final = sum(row.is_final for row in of_task if not row.needs)
    metrics = sum(not row.needs for row in of_task) - final
    losses = sum(row.task == run.row.task for row in LOSSES.values())
    rows = {
        "runs": 1.0,
        "steps": float(logged),
        "layers": float(layers * logged),
        "evals": float(3 * evaluated * metrics + 2 * final + losses),
        "examples": float(examples),
    }
    return sum(count * BYTES_A_ROW[table] for table, count in rows.items())


# ---- in words ------------------------------------------------------------------------------------


def lines(outline: Outline) -> Iterable[str]:
    """A forecast in lines of at most 80 columns.

    Args:
        outline: What a command asks for.
    """
    rows = forecast(outline.runs, outline.sweep)
    first = rows[0]
    yield f"{outline.question.name}: {first.runs:,} runs. Nothing was trained or written."
    yield ""
    yield f"{'look':<12}{'runs':>8}{'there':>8}{'packs':>7}{'updates':>12}{'about':>10}"
    for row in rows:
        yield (
            f"{row.look:<12}{row.runs:>8,}{row.present:>8,}{row.packs:>7,}{row.updates:>12,}"
            f"{records.duration(row.seconds):>10}"
        )
    if len(rows) > 1:
        yield from textwrap.wrap(_later(rows, outline.known), 80)
    memory, disk = max(row.memory for row in rows), sum(row.disk for row in rows)
    yield ""
    cost = (
        f"Training {records.duration(first.seconds)} on this machine"
        f"{_by(outline.sweep.backend.packs_at_once)}"
        + (f", {_expected(rows, outline.known)}" if len(rows) > 1 else "")
        + f", memory {memory / 2**20:,.0f} MiB, disk {disk / 1e6:,.1f} MB."
        " Starting, and writing the report, take more."
    )
    yield from textwrap.wrap(cost, 80)
    if first.evaluating >= MUCH:
        yield f"Evaluation is {first.evaluating:.0%} of it: a larger eval_every takes less."
    if outline.question.candidates:
        yield from _budget(
            _placed(outline.first, outline.question.tuned), outline.question.candidates.extend
        )


STILL_OPEN = 0.5
"""Share of the comparisons at a look that are expected to go on to the next. A rule of thumb: with
10 seeds 13 of 32 comparisons of the essay were undecided, by intervals somewhat narrower."""


def _later(rows: Sequence[Forecast], known: int) -> str:
    """What the lines of later looks count."""
    recorded = f"what is open after {rows[known - 2].look}" if known > 1 else "every loss"
    if known == len(rows):
        return f"The last line counts {recorded}, from the records."
    return (
        f"Later looks come on top, and only for what is still open: these lines count {recorded}, "
        "with the candidates that "
        + ("remain" if known > 1 else "usually remain")
        + f". Expected: {STILL_OPEN:.0%} of what is open at a look goes on to the next."
    )


def _expected(rows: Sequence[Forecast], known: int) -> str:
    """Seconds of all looks: expected, and at most."""
    likely = sum(row.seconds for row in rows[:known])
    likely += sum(row.seconds * STILL_OPEN**more for more, row in enumerate(rows[known:], start=1))
    most = sum(row.seconds for row in rows)
    return f"{records.duration(likely)} expected, {records.duration(most)} at most"


def _by(processes: int) -> str:
    return f" by {processes} processes" if processes > 1 else ""


def _budget(runs: pd.DataFrame, extend: int) -> Iterable[str]:
    """How many candidates each loss of a task tries, and how many more a growing grid may bring."""
    cells = runs.groupby(["label", "loss"]).seed.agg(["size", "nunique"])
    counts = sorted({*(cells["size"] // cells["nunique"])})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    yield f"Budget: {many} candidates for each of {len(cells)} losses"
    yield "(one counts once for each task)."
    if extend:
        rates = runs.groupby(["label", "loss"]).lr.nunique()
        most = int((2 * extend * cells["size"] / rates).sum())
        yield from textwrap.wrap(
            "Where a best learning rate lies on the edge, its task's grid grows by up to "
            f"{extend} rates a side, for all losses alike: at most {most:,} runs more."
        )


def _placed(runs: Sequence[Run], tuned: Sequence[str]) -> pd.DataFrame:
    """The runs as the statistics will see them: with context and label."""
    rows = [
        {
            "run_id": run.run_id,
            "data": run.data.name,
            "model": run.model.name,
            "optimizer": run.optimizer.name,
            "task": run.row.task,
            "loss": run.loss.name,
            "lr": run.lr,
            "seed": run.seed,
            "config": json.dumps(run.facts, sort_keys=True),
        }
        for run in {run.run_id: run for run in runs}.values()
    ]
    return statistics.placed(pd.DataFrame(rows), tuned=tuned)


# ---- power ---------------------------------------------------------------------------------------


def power(outline: Outline, *, spread: float) -> Iterable[str]:
    """What the last look can tell apart, in lines of at most 80 columns.

    Args:
        outline: What a command asks for: an experiment.
        spread: Stated standard deviation of paired differences, in units of the metric; NaN takes
            the median over losses of the upper 80 % limit that the sweep's own validation gives.

    Raises:
        ConfigError: Nothing is declared, or no spread was stated and no runs have one.
    """
    if not outline.question.candidates:
        raise ConfigError("plan --power: this sweep declares nothing, give an experiment")
    source = f"a stated spread of {spread:g}" if spread > 0 else "the spread on validation"
    yield "What the last look can tell apart with a power of 80 %,"
    yield f"from {source}:"
    heads = f"{'task':<33}{'losses':>7}{'seeds':>6}{'spread':>9}"
    yield f"{heads}{'finds':>8}{'margin':>8}{'needs':>9}"
    known = pd.DataFrame() if spread > 0 else _spreads(outline)
    margins = _margins(outline)
    for (context, label), runs in _placed(outline.first, outline.question.tuned).groupby(
        ["context", "label"], sort=False
    ):
        mine = known[known.context == context].spread_upper if len(known) else pd.Series(spread)
        margin = margins.get(str(context), math.nan)
        yield from _resolved(str(label), runs, outline.question, float(mine.median()), margin)
    yield from textwrap.wrap(
        "finds: smallest difference that is found; margin: smallest margin within which no "
        "difference is called equivalent; needs: seeds that the declared margin takes for that, "
        "where it is known. The luck of the choice comes on top.",
        80,
    )


def _resolved(
    label: str, runs: pd.DataFrame, question: Question, spread: float, margin: float
) -> Iterable[str]:
    losses, looks, declared = runs.loss.nunique() - 1, question.looks, question.declared
    if losses >= 1 and math.isnan(spread):
        yield from textwrap.wrap(f"{label}: no spread on validation, state one with --spread", 80)
    if losses < 1 or not spread > 0:
        return
    level = statistics.level_at(
        len(looks) - 1, looks, confidence=declared["confidence"], comparisons=losses
    )
    each = {"comparisons": 1, "confidence": level}
    smallest = statistics.minimum_detectable_effect(spread, pairs=looks[-1], **each)
    place = {"data": str(runs.data.iloc[0]), "task": str(runs.task.iloc[0])}
    number = records.declared(declared["margin"], **place)
    margin = margin if isinstance(number, str) else number
    needed = math.inf if margin == 0 else math.nan
    if margin > 0:
        needed = statistics.pairs_for(spread, size=margin, **each).margin
    count = "–" if math.isnan(needed) else f"{needed:,.0f}"
    if len(label) > 32:
        yield label
    yield (
        f"{'' if len(label) > 32 else label:<33}{losses:>7}{looks[-1]:>6}{spread:>9.2g}"
        f"{smallest.difference:>8.2g}{smallest.margin:>8.2g}{count:>9}"
    )


def _margins(outline: Outline) -> dict[str, float]:
    """By context the margins that are shares of an error, as the sweep's records resolve them."""
    folder = outline.question.folder
    is_share = any(
        isinstance(margin, str) for margin in outline.question.declared["margin"].values()
    )
    if not is_share or not (folder / "sweep.json").exists():
        return {}
    mains = statistics.Verdicts(records.load(folder))
    return {str(main.runs.context.iloc[0]): main.margin.value for main in mains}


def _spreads(outline: Outline) -> pd.DataFrame:
    """How paired differences scatter on validation, by context and loss."""
    folder = outline.question.folder
    if not (folder / "sweep.json").exists():
        raise ConfigError(
            f"plan --power: {folder} has no runs to take a spread from: state one, like "
            "--spread 0.02, in units of the metric"
        )
    loaded, parts = records.load(folder), []
    for main in statistics.Verdicts(loaded):
        ends = statistics.endpoint(
            main.every_run.drop(columns=main.metric),
            loaded.measured,
            split="validation",
            metric=main.metric,
            endpoint=outline.question.declared["endpoint"],
        )
        if ends[main.metric].notna().any():
            parts.append(statistics.spreads(ends, main.rule))
    if not parts:
        raise ConfigError(
            "plan --power: no primary metric is measured on validation: state a spread, like "
            "--spread 0.02, in units of the metric"
        )
    return pd.concat(parts, ignore_index=True)
