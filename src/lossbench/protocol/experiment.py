"""What a command asks for: its cells, and the protocol that tunes and confirms them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from lossbench.config import Composer, typed_lines
from lossbench.protocol.cells import cells
from lossbench.protocol.declaration import STAGES
from lossbench.protocol.size import check_size, sized_blocks, sized_stage
from lossbench.protocol.stages import Protocol
from lossbench.runs import ConfigError, Run
from lossbench.sweep import Sweep, preflight

USUAL_SIZE = "laptop"


@dataclass(frozen=True)
class Outline:
    """What a command would train, before anything is known.

    Attributes:
        runs: By stage; learning rates that only tuning can tell are the first of the grid.
        sweep: Where they would go.
        tuned: Keys that tuning chooses.
        extend: Most learning rates that may be added at either end of a grid.
        declared: What is declared; empty where nothing is tuned.
    """

    runs: dict[str, list[Run]]
    sweep: Sweep
    tuned: Sequence[str]
    extend: int
    declared: Mapping[str, Any]


class Experiment:
    """What a command asks for, at the chosen size; what was typed goes before both.

    Args:
        config: The composed configuration, with `hydra`.
        composer: Of the same.

    Attributes:
        cells: A run of each cell; where nothing is tuned, all runs.

    Raises:
        ConfigError: No cell is left, or a value is refused.
    """

    def __init__(self, config: DictConfig, composer: Composer) -> None:
        sweeper, size, overrides = config.hydra.sweeper, config.size, config.hydra.overrides
        self.composer = composer
        self.declare = sweeper.declare
        check_size(size, composer)
        typed = {*typed_lines([*overrides.task, *overrides.hydra], composer.loader)}
        stages = {
            stage: sized_stage(stage, sweeper[stage], size[stage], typed=typed, composer=composer)
            for stage in STAGES
        }
        self.tune, self.confirm = stages["tune"], stages["confirm"] or {}
        lines = typed_lines(overrides.task, composer.loader)
        self.seeds = ""
        if not sweeper.blocks and self.tune is None:
            chosen = str(config.hydra.runtime.choices["size"])
            if chosen != USUAL_SIZE:
                raise ConfigError(
                    f"size={chosen} changes an experiment, and there is none: add experiment=NAME, "
                    "or type steps and seeds yourself"
                )
            self.cells = composer.runs(overrides.task)
            return
        if self.tune is not None:
            for key in self.tuned:
                if key in lines:
                    where = "tune.lr" if key == "optimizer.lr" else "tune.others"
                    raise ConfigError(
                        f"{key} is chosen by tuning: change the grid with hydra.sweeper.{where}, "
                        "or sweep it yourself with 'lossbench -m ...' without an experiment"
                    )
            self.seeds = lines.pop("seed", "").partition("=")[2]
        blocks = sized_blocks(sweeper.blocks, size, top=config, typed=typed)
        self.cells = cells(blocks, lines, composer)

    @property
    def tuned(self) -> list[str]:
        """Keys that tuning chooses, the learning rate first."""
        return ["optimizer.lr", *((self.tune or {}).get("others") or {})]

    def protocol(self, sweep: Sweep) -> Protocol | None:
        """What tunes and confirms the cells; None where they are trained as they are.

        Raises:
            ConfigError: Seeds overlap, or a part of the experiment is refused.
        """
        if self.tune is None:
            return None
        return Protocol(
            sweep,
            self.composer,
            self.cells,
            tune=self.tune,
            confirm=self.confirm,
            declare=self.declare,
            seeds=self.seeds,
        )

    def outline(self, sweep: Sweep) -> Outline:
        """What would be trained; nothing is trained or written.

        Raises:
            ConfigError: Something cannot be trained.
        """
        protocol = self.protocol(sweep)
        if protocol is None:
            preflight(self.cells, sweep.engine.files)
            return Outline({"exploratory": self.cells}, sweep, self.tuned, 0, {})
        return Outline(protocol.outline(), sweep, self.tuned, protocol.extend, self.declare)
