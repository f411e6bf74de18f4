"""The runs that a command would train, without training them."""

from __future__ import annotations

from lossbench import cli, protocol
from lossbench.cli.overrides import with_question
from lossbench.protocol import Outline


def planned(*line: str) -> Outline:
    """The outline of a command; a mistake is raised as it is."""
    outlines: list[Outline] = []

    def keep(question):
        outlines.append(protocol.outline(question))
        return cli.DONE

    assert with_question([*line], keep) == cli.DONE
    return outlines[0]
