"""Runs a list of runs: plans them in sweep.json, skips what is done, trains and commits packs."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from tqdm import tqdm

from lossbench import packs, plan, records, store
from lossbench.config import ConfigError, Engine, Run
from lossbench.data import DATA, Splits
from lossbench.data.corruption import corrupted
from lossbench.data.targets import TARGETS
from lossbench.engine import batch_indices, failed, refuse_unpaired, refuse_unwidened, train
from lossbench.losses import LOSSES
from lossbench.losses.curves import curve
from lossbench.losses.spec import Context
from lossbench.models import MODELS
from lossbench.packs import Pack

log = logging.getLogger(__name__)

KEPT = ("done", "diverged")
"""Statuses that are results: such a run is not trained again."""


@dataclass
class Sweep:
    """One folder of runs and what it takes to fill it.

    Attributes:
        folder: Where everything of the sweep is written.
        engine: How to train.
        facts: What sweep.json says beside the runs: name, command, declaration.
        seconds: Wall time spent so far, by part.
    """

    folder: Path
    engine: Engine
    facts: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, runs: Sequence[Run]) -> dict[str, dict[str, str]]:
        """Train what is missing of `runs`; the folder is locked meanwhile.

        Args:
            runs: What is asked for; runs that are done or diverged are skipped.

        Returns:
            Status and reason by run_id.

        Raises:
            ConfigError: Data, model and batch size do not fit; nothing was trained.
            store.StoreError: Another process holds the sweep, or a file of it is damaged.
        """
        torch.set_num_threads(self.engine.threads)
        start = time.monotonic()
        with self._clock("check"):
            preflight(runs)
        with store.lock(self.folder / "lock"):
            with self._clock("write"):
                members = self.members()
                self._plan(runs, recorded=len(members))
            todo = [run for run in runs if members.get(run.run_id, {}).get("status") not in KEPT]
            grouped = packs.group(todo, pack_size=self.engine.pack_size)
            log.info("%s", _announcement(runs, grouped))
            for place, pack in enumerate(grouped):
                members |= self._train(pack, f"pack {place + 1}/{len(grouped)}")
        if grouped:
            trained = sum(len(pack.runs) for pack in grouped)
            so_far = ", ".join(f"{part} {spent:.1f} s" for part, spent in self.seconds.items())
            log.info("%d runs in %.1f s (so far: %s)", trained, time.monotonic() - start, so_far)
        return {run.run_id: members[run.run_id] for run in runs}

    def members(self) -> dict[str, dict[str, str]]:
        """Status and reason of every recorded run, the best of each."""
        found: dict[str, dict[str, str]] = {}
        for folder in sorted((self.folder / "packs").glob("*")):
            for run_id, facts in (store.committed(folder) or {"members": {}})["members"].items():
                known = found.get(run_id)
                if known is None or _rank(facts) < _rank(known):
                    found[run_id] = facts
        return found

    def _train(self, pack: Pack, title: str) -> dict[str, dict[str, str]]:
        with self._clock("train"):
            tables = self._tables(pack, title)
        with self._clock("write"):
            rows = tables["runs"].select(["run_id", "status", "reason"]).to_pylist()
            members = {
                row["run_id"]: {"status": row["status"], "reason": row["reason"]} for row in rows
            }
            store.commit(
                self.folder / "packs" / pack.pack_id,
                {f"{name}.parquet": records.encode(table) for name, table in tables.items()},
                {"schema": records.SCHEMA, "members": members},
            )
        for row in rows:
            if row["status"] == "failed":
                log.error("run %s failed: %s", row["run_id"], row["reason"].splitlines()[-1])
        return members

    def _tables(self, pack: Pack, title: str) -> dict[str, pa.Table]:
        device = torch.device(self.engine.device)
        try:
            one_each = {run.seed: run for run in pack.runs}
            splits = {seed: splits_of(run) for seed, run in one_each.items()}
            with _bar(pack, title) as flush:
                padding = self.engine.padding
                return train(pack, splits, device=device, padding=padding, flush=flush)
        except Exception:
            return failed(pack, traceback.format_exc())

    def _plan(self, runs: Sequence[Run], *, recorded: int) -> None:
        """Add runs and declaration to sweep.json, and the curves of the losses beside it."""
        path = self.folder / "sweep.json"
        old = records.read_plan(path) if path.exists() else plan.EMPTY
        new = plan.extended(old, runs, **self.facts, recorded=recorded)
        if len(new["declarations"]) > max(1, len(old["declarations"])):
            log.warning(
                "%s was declared before: what is new here counts as exploratory. "
                "Give a new question its own folder with name=...",
                self.folder,
            )
        if new != old:
            store.write(path, store.to_json(new))
            store.write(self.folder / "curves.parquet", _curves(new["losses"]))

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start


def splits_of(run: Run) -> Splits:
    """The run's data as its seed sees it, with the targets it asks for, corruption applied."""
    clean = DATA[run.data.fn].fn(seed=run.seed, **run.data.params)
    fed, corruption = TARGETS[run.targets](clean), run.corruption
    return corrupted(fed, name=corruption.fn, seed=run.seed, params=dict(corruption.params))


def preflight(runs: Iterable[Run]) -> None:
    """Build the data, the model and the batches of each kind of run once, before any training.

    Raises:
        ConfigError: One of them refuses its parameters.
    """
    kinds: dict[str, dict[str, Run]] = {}
    for run in reversed(list(runs)):
        kind = (run.data, run.targets, run.corruption, run.model, run.batch_size, run.init)
        kinds.setdefault(repr((kind, run.row.outputs_per_target)), {})[repr(run.loss)] = run
    for by_loss in kinds.values():
        run = next(iter(by_loss.values()))
        try:
            splits = splits_of(run)
            inputs, targets = splits.inputs["train"], splits.targets["train"]
            batch_indices(run.seed, len(inputs), 1, run.batch_size)
            sizes = (inputs.shape[-1], targets.shape[-1])
            build = partial(MODELS[run.model.fn].fn, *sizes, **run.model.params)
            refuse_unpaired(build, inputs[: run.batch_size])
            refuse_unwidened(build, inputs[: run.batch_size], times=run.row.outputs_per_target)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"data {run.data.name}, model {run.model.name}: {error}") from error
        for run in by_loss.values():
            _refuse_parameters(run, splits)


def _refuse_parameters(run: Run, splits: Splits) -> None:
    """Call the loss once, so that parameters it refuses are refused before training."""
    targets = splits.targets["train"][: run.batch_size]
    context = Context.outside_training(splits.targets["train"].sum(0))
    output = torch.zeros(len(targets), run.row.outputs_per_target * targets.shape[-1])
    try:
        run.row.values(output, targets, run.loss.params, context)
    except ValueError as error:
        raise ConfigError(f"loss {run.loss.name}: {error}") from error
    except Exception as error:
        # It fails its own runs only, and their records say why.
        log.warning("loss %s raises %s: %s", run.loss.name, type(error).__name__, error)


def _rank(facts: Mapping[str, str]) -> int:
    return records.STATUSES.index(facts["status"])


def _announcement(runs: Sequence[Run], grouped: Sequence[Pack]) -> str:
    stage = "/".join(sorted({run.stage for run in runs}))
    asked, missing = len({run.run_id for run in runs}), sum(len(pack.runs) for pack in grouped)
    return (
        f"{stage}: {asked} runs, {asked - missing} already there, "
        f"{missing} to train in {len(grouped)} packs"
    )


def _curves(losses: Mapping[str, Mapping[str, Any]]) -> bytes:
    parts = []
    for name, facts in losses.items():
        columns = _curve(facts)
        count = len(columns["argument"])
        labels = {"loss": name, "task": facts["task"], "family": facts["family"]}
        parts.append(pa.table({key: [value] * count for key, value in labels.items()} | columns))
    return records.encode(pa.concat_tables(parts, promote_options="default"))


def _curve(facts: Mapping[str, Any]) -> dict[str, list[float]]:
    """A loss's curve; empty where the loss raises or its extension is not loaded now."""
    try:
        return curve(LOSSES[facts["fn"]], facts["params"])
    except Exception:
        return {name: [] for name in ("argument", "value", "first", "second", "weight")}


@contextmanager
def _bar(pack: Pack, title: str) -> Iterator[Any]:
    """A progress bar over a pack's updates; silent when standard output is no terminal."""
    run = pack.runs[0]
    label = f"{run.stage} {run.data.name} {title}"
    with tqdm(
        total=run.steps, desc=label, unit="step", leave=False, disable=not sys.stdout.isatty()
    ) as bar:
        yield lambda step: bar.update(step - bar.n)
