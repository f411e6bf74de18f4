"""The way from a Question to its records: missing runs are trained, until it is settled."""

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
    """A run failed; everything else of the sweep is finished and on disk.

    Attributes:
        folder: The sweep's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"runs of {folder} failed")
        self.folder = folder


@dataclass(frozen=True)
class Outline:
    """The runs that a question would train, before anything is known.

    Attributes:
        question: The question.
        sweep: The sweep that they would be part of.
        runs: By look; of later looks, were every comparison open that is not known to be settled.
        known: The number of looks that are known to take just these runs: the first, and one after
            each that is recorded.
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
    """Train the runs that a question asks for and that are not there yet.

    Raises:
        ConfigError: A run cannot be trained, or a comparison has no reference; nothing was trained.
        RunsFailed: A run failed, of a question that tunes nothing.
    """
    with _opened(question) as sweep:
        if question.candidates is not None:
            Protocol(question, sweep).carry_out()
            return
        statuses = sweep.run(question.cells)
        if any(run["status"] not in RESULTS for run in statuses.values()):
            raise RunsFailed(question.folder)


def outline(question: Question) -> Outline:
    """The runs that a question would train; nothing is trained or written.

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
    """The sweep of a question, whose processes end with the block."""
    engine = question.engine
    if any(run.precision == TF32 for run in question.cells):
        log.warning("tf32 rounds factors to 10 bits: steep losses like quartic train otherwise")
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
