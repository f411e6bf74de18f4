"""Answers a question: trains the missing runs until all comparisons are settled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lossbench.engine import strategies
from lossbench.protocol.looks import Protocol
from lossbench.question import TF32, Question, Run
from lossbench.records import RESULTS
from lossbench.sweep import Sweep, preflight
from lossbench.sweep.launchers import backend_of
from lossbench.sweep.training import Trainer
from lossbench.user_code import own_rows

log = logging.getLogger(__name__)


class RunsFailed(Exception):
    """At least one run of a question has no result; the results of other runs are on disk.

    Attributes:
        folder: Folder of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"runs of {folder} failed")
        self.folder = folder


@dataclass(frozen=True)
class Outline:
    """Runs that a question would train, look by look.

    Attributes:
        question: The question.
        sweep: The sweep that would contain the runs.
        runs: Runs by look; for later looks every comparison that may stay open counts as open.
        known: Number of looks whose runs are certain: the first look, and the look after each
            recorded look.
    """

    question: Question
    sweep: Sweep
    runs: dict[str, list[Run]]
    known: int = 1

    @property
    def first(self) -> list[Run]:
        """The runs of the first look."""
        return next(iter(self.runs.values()))


def answer(question: Question) -> None:
    """Train the runs of a question that have no result yet.

    Raises:
        ConfigError: A run cannot be trained, or a comparison has no reference or no metric.
        RunsFailed: A run has no result, and the question has no candidates to choose from.
    """
    with _opened(question) as sweep:
        if question.candidates is not None:
            Protocol(question, sweep).carry_out()
            return
        statuses = sweep.run(question.cells)
        if any(run["status"] not in RESULTS for run in statuses.values()):
            raise RunsFailed(question.folder)


def outline(question: Question) -> Outline:
    """Find the runs that a question would train, without training them.

    Raises:
        ConfigError: A run cannot be trained.
    """
    with _opened(question) as sweep:
        protocol = Protocol(question, sweep) if question.candidates is not None else None
        preflight(
            question.cells,
            question.engine.files,
            own=sweep.backend.trainer.own,
            patience=question.engine.patience,
        )
        if protocol is None:
            return Outline(question, sweep, {"as given": [*question.cells]})
        later, known = protocol.later_looks()
        runs = {f"{question.looks[0]} seeds": protocol.first_look(), **later}
        return Outline(question, sweep, runs, 1 + known)


@contextmanager
def _opened(question: Question) -> Iterator[Sweep]:
    """Sweep of a question; leaving the context ends the processes of the sweep."""
    engine = question.engine
    if any(run.precision == TF32 for run in question.cells):
        log.warning("tf32 rounds factors to 10 bits: steep losses like quartic train differently")
    strategies.check(engine.strategies, engine.device)
    trainer = Trainer(engine, own_rows(question.extensions))
    with backend_of(question.launcher, trainer) as backend:
        yield Sweep(
            folder=question.folder,
            name=question.name,
            command=question.command,
            question=question.text,
            backend=backend,
        )
