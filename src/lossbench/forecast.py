"""What a sweep would cost before it is launched: runs, packs, time, memory, disk, power."""

from __future__ import annotations

import itertools
import math
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lossbench import packs, plan, records, statistics
from lossbench.config import ConfigError, Run
from lossbench.engine import train
from lossbench.losses import LOSSES
from lossbench.models import MODELS
from lossbench.packs import Pack
from lossbench.sweep import KEPT, Sweep, splits_of

TIMED_UPDATES, TIMED_EVALS = 20, 5
"""Updates and evaluations of one pack of a kind that are timed and thrown away."""

TIMED_MEMBERS = 32
"""Most members of a pack that is timed; from there on time grows in proportion to them."""

BYTES_A_ROW = {"runs": 900.0, "steps": 22.0, "layers": 11.0, "evals": 4.0}
"""Of the parquet files of `experiment=essay`, as `lossbench plan` was written."""

COPIES = 6
"""Of the parameters while a pack trains: themselves, gradient, optimizer, update and what comes."""


@dataclass(frozen=True)
class Forecast:
    """The cost of one stage.

    Attributes:
        stage: tune, confirm or exploratory.
        runs: Asked for.
        present: Of these, already there.
        packs: To be trained.
        updates: Of all runs to be trained.
        seconds: To train them here, from updates timed and thrown away.
        memory: Most bytes of tensors at once.
        disk: Bytes of parquet.
    """

    stage: str
    runs: int
    present: int
    packs: int
    updates: int
    seconds: float
    memory: float
    disk: float


def forecast(stages: Mapping[str, Sequence[Run]], sweep: Sweep) -> list[Forecast]:
    """The cost of every stage of a sweep.

    Args:
        stages: Runs by stage.
        sweep: Where and how they would train; nothing is written there.

    Returns:
        One row a stage.
    """
    members, speeds = sweep.members(), _Speeds(sweep)
    return [_stage(stage, runs, members, speeds, sweep) for stage, runs in stages.items()]


def _stage(
    stage: str,
    runs: Sequence[Run],
    members: Mapping[str, Mapping[str, str]],
    speeds: _Speeds,
    sweep: Sweep,
) -> Forecast:
    asked = {run.run_id: run for run in runs}
    todo = [
        run for run_id, run in asked.items() if members.get(run_id, {}).get("status") not in KEPT
    ]
    grouped = packs.group(todo, pack_size=sweep.engine.pack_size)
    return Forecast(
        stage=stage,
        runs=len(asked),
        present=len(asked) - len(todo),
        packs=len(grouped),
        updates=sum(run.steps for run in todo),
        seconds=sum(speeds.seconds(pack) for pack in grouped),
        memory=max((speeds.memory(pack) for pack in grouped), default=0.0),
        disk=sum(_disk(run) for run in todo),
    )


@dataclass(frozen=True)
class _Speed:
    """Seconds a member takes: an update, an evaluation, and all that comes once."""

    update: float
    evaluation: float
    once: float


class _Speeds:
    """Speeds by kind of pack, timed once each."""

    def __init__(self, sweep: Sweep) -> None:
        self.device = torch.device(sweep.engine.device)
        self.padding = 2 if self.device.type == "cpu" else sweep.engine.pack_size
        self.known: dict[str, _Speed] = {}
        torch.set_num_threads(sweep.engine.threads)

    def seconds(self, pack: Pack) -> float:
        """Of training a whole pack."""
        run = pack.runs[0]
        kind = packs.structure(run)
        if kind not in self.known:
            self.known[kind] = self._timed(pack)
        speed = self.known[kind]
        evaluations = -(-run.steps // run.eval_every)
        each = run.steps * speed.update + evaluations * speed.evaluation + speed.once
        return len(pack.runs) * each

    def _timed(self, pack: Pack) -> _Speed:
        runs = pack.runs[:: -(-len(pack.runs) // TIMED_MEMBERS)]
        splits = {run.seed: splits_of(run) for run in runs}
        updates = 1 + TIMED_UPDATES

        def spent(steps: int, eval_every: int) -> float:
            short = [replace(run, steps=steps, eval_every=eval_every) for run in runs]
            start = time.monotonic()
            train(
                Pack(pack.pack_id, tuple(short)),
                splits,
                device=self.device,
                padding=self.padding,
                flush=lambda step: None,
            )
            return (time.monotonic() - start) / len(runs)

        spent(1, 1)  # the first call of anything is slow
        one, many = spent(1, 1), spent(updates, updates)
        often = spent(updates, -(-updates // TIMED_EVALS))
        update = max(many - one, 0.0) / TIMED_UPDATES
        evaluation = max(often - many, 0.0) / (TIMED_EVALS - 1)
        return _Speed(update, evaluation, max(one - update - evaluation, 0.0))

    def memory(self, pack: Pack) -> float:
        """Bytes of a pack's data, gathered for evaluation, and of its parameters."""
        run = pack.runs[0]
        splits = splits_of(run)
        rows = sum(part.numel() for part in (*splits.inputs.values(), *splits.targets.values()))
        size = (splits.inputs["train"].shape[-1], splits.targets["train"].shape[-1])
        model = MODELS[run.model.fn].fn(*size, **run.model.params)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        width = 4.0 if run.precision == "float32" else 8.0
        seeds = len({run.seed for run in pack.runs})
        members = max(len(pack.runs), self.padding)
        return width * (seeds * rows + members * (rows + COPIES * parameters))


def _disk(run: Run) -> float:
    """Bytes of a run's rows in the four tables."""
    logged = -(-run.steps // run.log_every)
    evaluated = run.steps // run.eval_every + 1
    splits = 2 if run.stage == "tune" else 3
    metrics = sum(metric.task == run.row.task for metric in records.METRICS.values())
    losses = sum(row.task == run.row.task for row in LOSSES.values())
    cross = losses if run.stage != "tune" else 0
    rows = {
        "runs": 1.0,
        "steps": float(logged),
        "layers": 3.0 * logged,
        "evals": float(splits * (evaluated * metrics + cross)),
    }
    return sum(count * BYTES_A_ROW[table] for table, count in rows.items())


def budgets(runs: Iterable[Run]) -> dict[tuple[int, int], list[str]]:
    """How many learning rates and runs each loss is tuned with.

    Args:
        runs: Of stage tune.

    Returns:
        Names of "loss on data × model" by (candidates, runs): one entry where budgets are equal.
    """
    found: dict[tuple[int, int], list[str]] = {}
    ordered = sorted(runs, key=_cell)
    for cell, members in itertools.groupby(ordered, key=_cell):
        together = list(members)
        tried = len(together) // len({run.seed for run in together})
        found.setdefault((tried, len(together)), []).append(f"{cell[0]} on {cell[1]}")
    return found


def _cell(run: Run) -> tuple[str, str]:
    factors = [run.data.name, run.model.name, run.targets, run.init.start]
    plain = {"sampled", "random"}
    return run.loss.name, " × ".join(name for name in factors if name not in plain)


def told(
    name: str, rows: Sequence[Forecast], stages: Mapping[str, Sequence[Run]], *, extend: int
) -> Iterable[str]:
    """A forecast in lines of at most 80 columns.

    Args:
        name: Of the sweep.
        rows: From `forecast`.
        stages: The runs it was made from.
        extend: Most learning rates that may be added at either end of a grid.
    """
    yield f"{name}: {sum(row.runs for row in rows):,} runs. Nothing was trained or written."
    yield ""
    yield f"{'stage':<12}{'runs':>8}{'there':>8}{'packs':>7}{'updates':>12}{'about':>10}"
    for row in rows:
        yield (
            f"{row.stage:<12}{row.runs:>8,}{row.present:>8,}{row.packs:>7,}{row.updates:>12,}"
            f"{_duration(row.seconds):>10}"
        )
    memory, disk = max(row.memory for row in rows), sum(row.disk for row in rows)
    yield ""
    yield (
        f"Training {_duration(sum(row.seconds for row in rows))} on this machine, tensors "
        f"{memory / 2**20:,.0f} MiB, disk {disk / 1e6:,.1f} MB."
    )
    if tuning := stages.get("tune"):
        yield from _budget(tuning, extend)


def _budget(tuning: Sequence[Run], extend: int) -> Iterable[str]:
    found = budgets(tuning)
    for (tried, runs), names in found.items():
        who = f"each of {len(names)} losses" if len(found) == 1 else ", ".join(names)
        yield from textwrap.wrap(
            f"Budget: {tried} candidates in {runs} tuning runs for {who} (a loss counts once for "
            "each task).",
            80,
        )
    most = 2 * extend * sum(runs // tried * len(names) for (tried, runs), names in found.items())
    yield from textwrap.wrap(
        f"Where a best learning rate lies on the edge, its task's grid grows by up to {extend} "
        f"rates a side, for all losses alike: at most {most:,} runs more.",
        80,
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def power(
    stages: Mapping[str, Sequence[Run]], sweep: Sweep, declared: Mapping[str, Any], *, spread: float
) -> Iterable[str]:
    """What the confirming seeds can resolve, in lines of at most 80 columns.

    Args:
        stages: Runs by stage, of a sweep that tunes and confirms.
        sweep: Whose tuning runs tell the spread.
        declared: Primary metric, reference, margin, endpoint, confidence, and what is tuned.
        spread: Stated standard deviation of paired differences, in units of the metric; NaN takes
            the median over losses of the upper 80 % limit that the tuning runs give.

    Raises:
        ConfigError: No spread was stated, and there are no tuning runs to take it from.
    """
    if "confirm" not in stages:
        raise ConfigError("--power: this sweep confirms nothing, give an experiment")
    said = f"a stated spread of {spread:g}" if spread > 0 else "the spread of the tuning runs"
    yield f"What the confirming seeds can tell apart with a power of 80 %, from {said}:"
    heads = f"{'task':<33}{'losses':>7}{'seeds':>6}{'spread':>9}"
    yield f"{heads}{'finds':>8}{'margin':>8}{'needs':>9}"
    together: dict[str, list[Run]] = {}
    for run in stages["confirm"]:
        together.setdefault(plan.context(run, declared.get("tuned", ())), []).append(run)
    for context, runs in together.items():
        yield from _resolved(context, runs, stages["tune"], sweep, declared, spread)
    yield "finds: smallest difference; margin: smallest in which none is called equivalent;"
    yield "needs: how many seeds the declared margin takes for that."


def _resolved(
    context: str,
    runs: Sequence[Run],
    tuning: Sequence[Run],
    sweep: Sweep,
    declared: Mapping[str, Any],
    spread: float,
) -> Iterable[str]:
    first, losses = runs[0], len({run.loss.name for run in runs}) - 1
    place = {"data": first.data.name, "task": first.row.task}
    tuned = declared.get("tuned", ())
    if not spread > 0:
        ids = {run.run_id for run in tuning if plan.context(run, tuned) == context}
        spread = _tuned_spread(sweep, ids, declared, place)
    if losses < 1 or not spread > 0:
        return
    pairs = len({run.seed for run in runs})
    level = {"comparisons": losses, "confidence": declared["confidence"]}
    found = statistics.resolvable(spread, pairs=pairs, **level)
    margin = records.declared(declared["margin"], **place) or math.nan
    needed = statistics.pairs_for(spread, size=margin, **level).margin if margin > 0 else math.nan
    yield (
        f"{_cell(first)[1][:32]:<33}{losses:>7}{pairs:>6}{spread:>9.2g}{found.difference:>8.2g}"
        f"{found.margin:>8.2g}{needed:>9,.0f}"
    )


def _tuned_spread(
    sweep: Sweep, run_ids: set[str], declared: Mapping[str, Any], place: Mapping[str, str]
) -> float:
    """Median over losses of the upper limit of the spread, from runs of stage tune."""
    if not (sweep.folder / "sweep.json").exists():
        raise ConfigError(
            f"--power: {sweep.folder} has no tuning runs to take a spread from: state one, like "
            "--spread 0.02, in units of the metric"
        )
    loaded, tuned = records.load(sweep.folder), declared.get("tuned", ())
    metric = records.declared(declared["primary"], **place)
    runs = statistics.placed(loaded.runs, tuned=tuned)
    frame = statistics.endpoint(
        runs[runs.run_id.isin(run_ids)],
        loaded.evals,
        split="validation",
        metric=metric,
        endpoint=declared["endpoint"],
    )
    if frame.empty or frame[metric].isna().all():
        return math.nan
    found = statistics.spreads(
        statistics.profiled(frame, metric=metric, tuned=tuned),
        metric=metric,
        reference=records.declared(declared["reference"], **place),
    )
    return float(found.spread_upper.median())
