"""Forecast of a sweep before it is launched: runs, packs, time, memory and power."""

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
from torch import Tensor

from lossbench import records, statistics
from lossbench.data.files import Files
from lossbench.data.splits import Splits
from lossbench.engine import Machine, evaluate, runs_apart, train
from lossbench.measures.instruments import times
from lossbench.models import MODELS
from lossbench.processes import BYTES_A_PROCESS
from lossbench.protocol.answer import Outline
from lossbench.question import PRECISIONS, ConfigError, Question, Run, packs
from lossbench.question.packs import Pack
from lossbench.sweep import Sweep, splits_of
from lossbench.sweep.pretrained import key_of, run_before

TIMED_SECONDS = 0.5
"""Seconds after which the timing of one kind of pack ends early."""

NOT_TIMED = ("corruption", "schedule", "steps", "log_every", "eval_every")
"""Fields of a run that change the time of an update only through the size of the data."""

MUCH = 0.25
"""Share of the training time from which the forecast mentions the cost of evaluation."""

COPIES = 6
"""Copies of the parameters in memory: parameters, gradient, optimizer, update, temporaries."""

OUTPUTS_AT_ONCE = 4
"""Copies of all outputs in memory while metrics are computed, with targets and predictions."""


@dataclass(frozen=True)
class Forecast:
    """Cost of training the runs of one look.

    Attributes:
        look: Number of seeds, or "as given".
        runs: Runs of the look.
        present: Runs that have a result already.
        packs: Packs to be trained.
        updates: Updates of all runs to be trained.
        seconds: Duration of training on this machine, estimated from a few updates of each pack.
        evaluating: Share of the training time that evaluations take.
        memory: Peak bytes of all training processes together; on a GPU, bytes in the GPU's memory.
    """

    look: str
    runs: int
    present: int
    packs: int
    updates: int
    seconds: float
    evaluating: float
    memory: float


def forecast(looks: Mapping[str, Sequence[Run]], sweep: Sweep) -> list[Forecast]:
    """Forecast the cost of every look of a sweep.

    Args:
        looks: Runs by look.
        sweep: Sweep that would train the runs; nothing is written to its folder.

    Returns:
        One forecast for each look.
    """
    statuses, speeds, rows = sweep.statuses(), _Speeds(sweep), []
    done = {run_id for run_id, run in statuses.items() if run["status"] in records.RESULTS}
    packs_at_once = sweep.backend.packs_at_once
    for look, runs in looks.items():
        wanted = {run.run_id: run for run in runs}
        todo = [run for run_id, run in wanted.items() if run_id not in done]
        size = sweep.engine.pack_size
        grouped = packs.shared(todo, pack_size=size, packs_at_once=packs_at_once)
        # A start or a teacher is trained first, alone, by the process that trains the pack.
        before = {key_of(run): run_before(run) for run in todo if run.is_pretrained}
        alone = [Pack(key, (run,)) for key, run in before.items()]
        seconds = sorted(map(speeds.seconds, [*grouped, *alone]), reverse=True)
        memory = sorted(map(speeds.memory, grouped), reverse=True)
        busy = [0.0] * packs_at_once  # the longest pack first, by the process that is free first
        for duration in seconds:
            heapq.heapreplace(busy, busy[0] + duration)
        evaluating = sum(map(speeds.evaluating, grouped))
        row = Forecast(
            look=look,
            runs=len(wanted),
            present=len(wanted) - len(todo),
            packs=len(grouped),
            updates=sum(run.steps for run in todo),
            seconds=max(busy),
            evaluating=evaluating / sum(seconds) if seconds else 0.0,
            memory=sum(memory[:packs_at_once]),
        )
        rows.append(row)
    return rows


# ---- time and memory -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Speed:
    """Seconds that a member takes: an update, its logging, an evaluation, and once the start."""

    update: float
    logging: float
    evaluation: float
    once: float


class _Speeds:
    """Speeds of packs; each kind of pack is timed once."""

    def __init__(self, sweep: Sweep) -> None:
        self.machine = Machine(torch.device(sweep.engine.device), sweep.engine.padding)
        self.rhythm = RHYTHMS[self.machine.device.type]
        # Waiting for other processes must not count as time of the sweep.
        is_alone = sweep.engine.device == "cpu" and sweep.engine.threads == 1
        self.clock = time.process_time if is_alone else time.monotonic
        self.known: dict[str, _Speed] = {}
        self.sizes: dict[str, _Numbers] = {}
        torch.set_num_threads(sweep.engine.threads)
        self.files = sweep.engine.files

    def seconds(self, pack: Pack) -> float:
        """Seconds of training a whole pack."""
        run, speed = pack.runs[0], self._speed(pack)
        update = speed.update + speed.logging / run.log_every
        return self.evaluating(pack) + self._members(pack) * (_updates(run) * update + speed.once)

    def evaluating(self, pack: Pack) -> float:
        """Seconds of all evaluations of a pack except the last one."""
        run, speed = pack.runs[0], self._speed(pack)
        return self._members(pack) * -(-run.steps // run.eval_every) * speed.evaluation

    def _speed(self, pack: Pack) -> _Speed:
        fields = json.loads(packs.structure(pack.runs[0]))
        alike = {name: value for name, value in fields.items() if name not in NOT_TIMED}
        # Many members share the cost of an update.
        size = min(self._members(pack), self.rhythm.members).bit_length()
        numbers = self._numbers(pack)
        kind = json.dumps([alike, numbers.data + numbers.seed, size])
        if kind not in self.known:
            self.known[kind] = self._timed(pack)
        return self.known[kind]

    def _members(self, pack: Pack) -> int:
        """Number of members that a pack trains: its runs, and copies that pad a small pack."""
        count = len(pack.runs)
        return count if self._numbers(pack).is_apart else max(count, self.machine.padding)

    def _timed(self, pack: Pack) -> _Speed:
        rhythm = self.rhythm
        # The time of members that run one after the other is proportional to their number.
        most = 1 if self._numbers(pack).is_apart else rhythm.members
        count = min(most, len(pack.runs))
        runs = tuple(pack.runs[index * len(pack.runs) // count] for index in range(count))
        splits = {run.seed: splits_of(run, self.files) for run in runs}
        members = self._members(Pack(pack.pack_id, runs))
        stamps: list[tuple[int, float]] = []

        def train_briefly(steps: int, flush: Callable[[int, object], None]) -> None:
            schedule = {"steps": steps, "log_every": rhythm.logged, "eval_every": rhythm.evaluated}
            short = tuple(replace(run, **schedule, instruments=()) for run in runs)
            train(Pack(pack.pack_id, short), splits, self.machine, flush=flush)

        def stamp(step: int, _: object) -> None:
            stamps.append((step, self._now()))
            if step > rhythm.evaluated and stamps[-1][1] - stamps[0][1] > TIMED_SECONDS:
                raise _Enough

        with suppress(_Enough):
            train_briefly(rhythm.updates, stamp)
        parts = [seconds / members for seconds in rhythm.parts(stamps)]
        start = self._now()
        train_briefly(1, lambda *_: None)
        first = (self._now() - start) / members
        return _Speed(*parts, once=max(first - sum(parts), 0.0))

    def _now(self) -> float:
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize(self.machine.device)
        return self.clock()

    def memory(self, pack: Pack) -> float:
        """Peak bytes of a process that trains a pack, with data, parameters and activations."""
        numbers = self._numbers(pack)
        width = PRECISIONS[pack.runs[0].precision].itemsize
        seeds = len({run.seed for run in pack.runs})
        tensors = numbers.data + seeds * numbers.seed + numbers.once
        tensors += self._members(pack) * numbers.member
        process = BYTES_A_PROCESS if self.machine.device.type == "cpu" else 0
        return process + width * tensors + seeds * numbers.drawn

    def _numbers(self, pack: Pack) -> _Numbers:
        first = pack.runs[0]
        second = next((run for run in pack.runs if run.seed != first.seed), first)
        kind = json.dumps([packs.structure(first), second.seed == first.seed])
        if kind not in self.sizes:
            self.sizes[kind] = _numbers(first, second, self.machine.device, self.files)
        return self.sizes[kind]


class _Enough(Exception):
    """Ends a timed training early."""


@dataclass(frozen=True)
class _Rhythm:
    """Schedule of a short training that is only timed.

    Attributes:
        members: Largest number of members; a larger number would not change the time per member.
        updates: Largest number of updates.
        logged: Number of updates from one logged update to the next.
        evaluated: Number of updates from one evaluation to the next.
    """

    members: int
    updates: int
    logged: int
    evaluated: int

    def parts(self, stamps: Sequence[tuple[int, float]]) -> list[float]:
        """Estimate the seconds of an update, of its logging and of an evaluation.

        Args:
            stamps: Pairs of the number of updates done and the time in seconds. The time before
                the first pair is not counted, because the first update is slow.
        """
        spans: dict[tuple[int, bool, bool], list[float]] = {}
        for (before, start), (after, end) in itertools.pairwise(stamps):
            kind = after - before, before % self.logged == 0, before % self.evaluated == 0
            spans.setdefault(kind, []).append(end - start)
        # Medians, because on CUDA the second of a kind is slow as well: it is captured. Relative
        # errors are fitted, or the noise of an evaluation would exceed the time of an update.
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
"""Schedules by kind of device; on CUDA as in a sweep, where captured updates replay together."""


@dataclass(frozen=True)
class _Numbers:
    """Counts of the numbers that a pack holds in memory.

    Attributes:
        data: Numbers of the data that all seeds share.
        seed: Numbers of the data of one seed alone.
        drawn: Bytes of one seed's batch indices and of its random words for augmentation.
        member: Numbers that one member holds at its peak.
        once: Numbers of the member that is running, if members run one after the other; else 0.
        is_apart: Whether members run one after the other.
    """

    data: int
    seed: int
    drawn: int
    member: int
    once: int
    is_apart: bool


def _updates(run: Run) -> float:
    """Number of updates of a run, plus the cost of its instruments as a number of updates."""
    schedule = {"steps": run.steps, "eval_every": run.eval_every}
    return run.steps + sum(
        records.INSTRUMENTS[name].cost * times(name, **schedule) for name in run.instruments
    )


def _numbers(run: Run, other: Run, device: torch.device, files: Files) -> _Numbers:
    """Count the numbers of a pack from two of its runs, of two seeds if the pack has several."""
    splits = splits_of(run, files)
    tensors = _tensors(splits)
    others = {*map(id, _tensors(splits_of(other, files)))} if other is not run else set()
    data = sum(tensor.numel() for tensor in tensors if id(tensor) in others)
    seed = sum(tensor.numel() for tensor in tensors) - data
    drawn = run.steps * run.batch_size * (8 + 12 * (run.augmentation.fn != "none"))
    model = MODELS[run.model.fn].fn(*splits.sizes, **run.model.params)
    example = splits.inputs["train"][:1]
    activations = [example.numel()]  # of one example, by module
    for module in model.modules():
        if not [*module.children()]:
            module.register_forward_hook(lambda _, __, out: activations.append(out.numel()))
    with torch.no_grad():
        model.eval()(example)
    passing = max(map(sum, itertools.pairwise([*activations, 0])))  # the peak without gradients
    counts = {split: len(part) for split, part in splits.inputs.items()}
    counts["train"] = min(counts["train"], evaluate.most_training_rows(splits.positions))
    chunks = evaluate.chunks(example[None], max(counts.values()))
    rows = max(part.stop - part.start for part in chunks)
    judged = OUTPUTS_AT_ONCE * sum(counts.values()) * splits.positions * splits.outputs
    evaluating = rows * (example.numel() + passing)
    training = run.batch_size * (example.numel() + 2 * sum(activations))  # and their gradients
    parameters = COPIES * sum(parameter.numel() for parameter in model.parameters())
    two = splits.inputs["train"][:2].to(device)
    if runs_apart(run.model.name, model.train().to(device), two):
        once = max(evaluating, training)
        return _Numbers(data, seed, drawn, judged + parameters, once, is_apart=True)
    member = max(evaluating + judged, training) + parameters
    return _Numbers(data, seed, drawn, member, 0, is_apart=False)


def _tensors(splits: Splits) -> list[Tensor]:
    kinds = (splits.inputs, splits.targets, splits.posterior, splits.clean)
    return [part for kind in kinds for part in kind.values()]


# ---- in words ------------------------------------------------------------------------------------


def lines(outline: Outline) -> Iterable[str]:
    """Lines of text, of at most 80 columns, with the forecast of a question.

    Args:
        outline: Outline of the command's question.
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
        known = outline.known
        counted = f"what is open after {rows[known - 2].look}" if known > 1 else "every loss"
        text = (
            f"Later looks come on top, and only for what is still open: these lines count {counted}"
            f", with the candidates that {'remain' if known > 1 else 'usually remain'}. Expected: "
            f"{STILL_OPEN:.0%} of what is open at a look goes on to the next."
        )
        if known == len(rows):
            text = f"The last line counts {counted}, from the records."
        yield from textwrap.wrap(text, 80)
    memory, processes = max(row.memory for row in rows), outline.sweep.backend.packs_at_once
    yield ""
    cost = (
        f"Training {records.duration(first.seconds)} on this machine"
        + (f" by {processes} processes" if processes > 1 else "")
        + (f", {_expected(rows, outline.known)}" if len(rows) > 1 else "")
        + f", memory {memory / 2**20:,.0f} MiB."
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
"""Share of the comparisons at a look that are expected to stay open. A rule of thumb: with 10 seeds
13 of 32 comparisons of the essay were undecided, with somewhat narrower intervals."""


def _expected(rows: Sequence[Forecast], known: int) -> str:
    """Text with the duration of all looks: the expected one, and the longest."""
    likely = sum(row.seconds for row in rows[:known])
    likely += sum(row.seconds * STILL_OPEN**more for more, row in enumerate(rows[known:], start=1))
    most = sum(row.seconds for row in rows)
    return f"{records.duration(likely)} expected, {records.duration(most)} at most"


def _budget(runs: pd.DataFrame, extend: int) -> Iterable[str]:
    """Lines with the number of candidates of each loss and the runs that larger grids may add."""
    cells = runs.groupby(["label", "loss"]).seed.agg(["size", "nunique"])
    counts = sorted({*(cells["size"] // cells["nunique"])})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    yield f"Budget: {many} candidates for each of {len(cells)} losses"
    yield "(one counts once for each context)."
    if extend:
        rates = runs.groupby(["label", "loss"]).lr.nunique()
        most = int((2 * extend * cells["size"] / rates).sum())
        yield from textwrap.wrap(
            "Where a best learning rate lies on the edge, the grid of its context grows by up to "
            f"{extend} rates a side, for all losses alike: at most {most:,} runs more."
        )


def _placed(runs: Sequence[Run], tuned: Sequence[str]) -> pd.DataFrame:
    """Table of runs for the statistics, with the context and the label of each run."""
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
    """Lines of text, of at most 80 columns, with the differences that the last look can detect.

    Args:
        outline: Outline of an experiment.
        spread: Stated standard deviation of paired differences, in units of the metric. If NaN,
            the median over losses of the upper 80 % limit from the sweep's own validation is used.

    Raises:
        ConfigError: The question has no candidates, or no spread is stated or recorded.
    """
    if not outline.question.candidates:
        raise ConfigError("plan --power: this sweep declares nothing, give an experiment")
    source = f"a stated spread of {spread:g}" if spread > 0 else "the spread on validation"
    yield "What the last look can tell apart with a power of 80 %,"
    yield f"from {source}:"
    heads = f"{'context':<33}{'losses':>7}{'seeds':>6}{'spread':>9}"
    yield f"{heads}{'finds':>8}{'margin':>8}{'needs':>9}"
    known = pd.DataFrame() if spread > 0 else _spreads(outline)
    margins = _margins(outline)
    for (context, label), runs in _placed(outline.first, outline.question.tuned).groupby(
        ["context", "label"], sort=False
    ):
        if len(known):
            spread = float(known[known.context == context].spread_upper.median())
        margin = margins.get(str(context), math.nan)
        yield from _resolved(str(label), runs, outline.question, spread, margin)
    yield from textwrap.wrap(
        "finds: smallest difference that is found; margin: smallest margin within which no "
        "difference is called equivalent; needs: seeds that the declared margin takes for that, "
        "where it is known. The luck of the choice comes on top.",
        80,
    )


def _resolved(
    label: str, runs: pd.DataFrame, question: Question, spread: float, margin: float
) -> Iterable[str]:
    """Line of one context in the table, or the cure if the spread of the context is unknown."""
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
    data, task = str(runs.data.iloc[0]), str(runs.task.iloc[0])
    number = records.declared(declared["margin"], data=data, task=task)
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
    """Margins by context in the metric's unit, if margins are declared as shares of an error."""
    folder = outline.question.folder
    is_share = any(
        isinstance(margin, str) for margin in outline.question.declared["margin"].values()
    )
    if not is_share or not (folder / "sweep.json").exists():
        return {}
    mains = statistics.Verdicts(records.load(folder))
    return {str(main.runs.context.iloc[0]): main.margin.value for main in mains}


def _spreads(outline: Outline) -> pd.DataFrame:
    """Spread of paired differences on validation, by context and loss."""
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
