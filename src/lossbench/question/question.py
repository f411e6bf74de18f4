"""The request of a command as one frozen value: runs, candidates, declaration and engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lossbench import store
from lossbench.question.cells import context
from lossbench.question.run import Run
from lossbench.question.schema import LauncherNode
from lossbench.question.settings import Engine


@dataclass(frozen=True)
class Candidates:
    """The values that every loss tries.

    Attributes:
        rates: Learning rates, ascending.
        extend: Most rates that are added at either end where the best one lies there.
        others: Values by key of everything else that is chosen for each loss.
    """

    rates: tuple[float, ...]
    extend: int = 4
    others: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """Everything that a command asks for; Hydra, Python and `try` are three ways to make one.

    Attributes:
        name: Of the sweep.
        folder: Where its records lie.
        cells: One run of each cell; where nothing is tuned, all runs.
        candidates: Values that every loss tries; None trains the cells as they are.
        looks: Numbers of seeds at which verdicts are read, ascending.
        first_seed: The seeds count up from it.
        declared: Metric, reference, margin, ...: everything that is fixed beforehand.
        engine: How runs are computed.
        launcher: Where they are computed.
        extensions: Modules of the user's own that processes import.
        report: Extent of the report that follows, a key of `records.REPORTS`.
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
    declared: Mapping[str, Any] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    report: str = "none"
    command: str = ""
    text: str = ""

    @property
    def tuned(self) -> list[str]:
        """Keys that are chosen for each loss, the learning rate first."""
        return ["optimizer.lr", *(self.candidates.others if self.candidates else ())]

    @property
    def seeds(self) -> list[int]:
        """All declared seeds, those of the last look."""
        return [*range(self.first_seed, self.first_seed + max(self.looks, default=0))]

    @cached_property
    def contexts(self) -> frozenset[str]:
        """Hashes of the contexts of its cells, as the plan has them."""
        return frozenset(context(run, self.tuned) for run in self.cells)

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that decides which runs there have to be, as plain values."""
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
