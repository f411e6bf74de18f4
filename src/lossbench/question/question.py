"""Request of a command as one frozen value: runs, candidates, declaration and engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lossbench import store
from lossbench.question.cells import context
from lossbench.question.run import Run
from lossbench.question.schema import LauncherNode
from lossbench.question.settings import Engine
from lossbench.records import Declaration


@dataclass(frozen=True)
class Candidates:
    """The values that every loss tries.

    Attributes:
        rates: Learning rates, ascending.
        extend: Most rates that are added at each end if the best rate lies there.
        others: Values by key of all other keys that are tuned for each loss.
    """

    rates: tuple[float, ...]
    extend: int = 4
    others: Mapping[str, list[object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """Everything that a command asks for, whether given by Hydra, by Python or by `try`.

    Attributes:
        name, folder: Name of the sweep, and folder of its records.
        cells: One run of each cell; all runs if nothing is tuned.
        candidates: Values that every loss tries; if None, nothing is tuned.
        looks: Numbers of seeds at which verdicts are read, ascending.
        first_seed: The first seed; all seeds are consecutive numbers.
        declared: Choices that are fixed before training: metric, reference, margin and others.
        launcher: Settings of the processes or the cluster where runs are computed.
        extensions: Modules of the user's own that processes import.
        report: Extent of the report after the sweep, a key of `records.REPORTS`.
        command: The command as typed, which is recorded.
        text: The question in words.
    """

    name: str
    folder: Path
    cells: tuple[Run, ...]
    engine: Engine
    launcher: LauncherNode
    candidates: Candidates | None = None
    looks: tuple[int, ...] = ()
    first_seed: int = 0
    declared: Declaration = field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    report: str = "none"
    command: str = ""
    text: str = ""

    @property
    def tuned(self) -> list[str]:
        """Keys whose values are tuned for each loss, the learning rate first."""
        return ["optimizer.lr", *(self.candidates.others if self.candidates else ())]

    @property
    def seeds(self) -> list[int]:
        """All declared seeds: the seeds of the last look."""
        return [*range(self.first_seed, self.first_seed + max(self.looks, default=0))]

    @cached_property
    def contexts(self) -> frozenset[str]:
        """Hashes of the contexts of all cells, as in the plan."""
        return frozenset(context(run, self.tuned) for run in self.cells)

    @property
    def facts(self) -> dict[str, object]:
        """Everything that determines which runs are needed, as plain values."""
        return {
            "cells": sorted(run.run_id for run in self.cells),
            "candidates": None if self.candidates is None else {**vars(self.candidates)},
            "looks": [*self.looks],
            "seeds": self.seeds,
            "declared": self.declared,
        }

    @property
    def sha256(self) -> str:
        """Hex hash of `facts` and of the code that would answer the question."""
        return store.sha256(store.to_json({"code": store.code_sha(), **self.facts}))
