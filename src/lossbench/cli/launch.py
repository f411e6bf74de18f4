"""Command without a name, only overrides: trains their runs and prints the verdicts."""

from __future__ import annotations

import shlex

from lossbench import protocol
from lossbench.cli.overrides import with_question
from lossbench.cli.report import finish, loading
from lossbench.question import Question


def main(arguments: list[str]) -> int:
    """Train the runs that overrides describe, and print the verdicts; returns the exit code."""
    return with_question(arguments, _answer, command=shlex.join(["lossbench", *arguments]))


def _answer(question: Question) -> int:
    protocol.answer(question)
    return finish(question.folder, loading(question.folder), extent=question.report)
