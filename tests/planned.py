"""What a command would train, without training it."""

from __future__ import annotations

from lossbench import cli, launch
from lossbench.cli.overrides import with_hydra
from lossbench.protocol import Outline


def planned(*line: str) -> Outline:
    """What a command would run; a mistake is raised as it is."""
    outlines: list[Outline] = []

    def keep(config, loader):
        outlines.append(launch.outline(config, loader))
        return cli.DONE

    assert with_hydra([*line], keep) == cli.DONE
    return outlines[0]
