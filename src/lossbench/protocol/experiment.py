"""What a command asks for: its cells, and the protocol that chooses candidates and adds seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from lossbench.config import Composer, typed_lines
from lossbench.protocol.cells import cells
from lossbench.protocol.looks import Protocol
from lossbench.protocol.size import (
    check_size,
    sized_blocks,
    sized_candidates,
    sized_interactions,
)
from lossbench.question import ConfigError, Run
from lossbench.sweep import Sweep, preflight

USUAL_SIZE = "laptop"


@dataclass(frozen=True)
class Outline:
    """What a command would train, before anything is known.

    Attributes:
        runs: By look; of later ones, were every comparison open that is not known to be settled.
        sweep: Where they would go.
        tuned: Keys that are chosen for each loss.
        extend: Most learning rates that may be added at either end of a grid.
        declared: What is declared; empty where nothing is.
        known: How many looks are known to take just these runs: the first, and one after each that
            is recorded.
    """

    runs: dict[str, list[Run]]
    sweep: Sweep
    tuned: Sequence[str]
    extend: int
    declared: Mapping[str, Any]
    known: int = 1

    @property
    def first(self) -> list[Run]:
        """The runs of the first look."""
        return next(iter(self.runs.values()))


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
        self.declare = {**sweeper.declare} if sweeper.declare else {}
        self.size = str(config.hydra.runtime.choices["size"])
        check_size(size, composer)
        typed = {*typed_lines([*overrides.task, *overrides.hydra], composer.loader)}
        lines = typed_lines(overrides.task, composer.loader)
        self.candidates, self.first_seed = None, int(sweeper.first_seed)
        is_typed = "hydra.sweeper.looks" in typed
        self.looks = [*sweeper.looks] if is_typed else [*(size.looks or sweeper.looks)]
        if not sweeper.blocks and sweeper.candidates is None:
            _refuse_size(self.size)
            self.cells = composer.runs(overrides.task)
            return
        if sweeper.candidates is not None:
            self.candidates = sized_candidates(
                sweeper.candidates, size.candidates, typed=typed, composer=composer
            )
            self._refuse_chosen(lines)
        for key in ("interactions", "levels"):
            if self.declare.get(key):
                self.declare[key] = sized_interactions(
                    self.declare[key], size["scale"], typed=lines
                )
        blocks = sized_blocks(sweeper.blocks, size, top=config, typed=typed)
        self.cells = cells(blocks, lines, composer)

    @property
    def tuned(self) -> list[str]:
        """Keys that are chosen for each loss, the learning rate first."""
        return ["optimizer.lr", *((self.candidates or {}).get("others") or {})]

    def protocol(self, sweep: Sweep) -> Protocol | None:
        """What trains the cells look by look; None where they are trained as they are.

        Raises:
            ConfigError: A part of the experiment is refused.
        """
        if self.candidates is None:
            return None
        return Protocol(
            sweep,
            self.composer,
            self.cells,
            candidates=self.candidates,
            looks=self.looks,
            first_seed=self.first_seed,
            declare={**self.declare, "size": self.size},
        )

    def outline(self, sweep: Sweep) -> Outline:
        """What would be trained; nothing is trained or written.

        Raises:
            ConfigError: Something cannot be trained.
        """
        protocol = self.protocol(sweep)
        preflight(
            self.cells,
            sweep.engine.files,
            own=sweep.backend.trainer.own,
            patience=sweep.engine.patience,
        )
        if protocol is None:
            return Outline({"as given": self.cells}, sweep, self.tuned, 0, {})
        later, known = protocol.later_looks()
        runs = {f"{protocol.looks[0]} seeds": protocol.first_look(), **later}
        declared = {**self.declare, "looks": protocol.looks, "seeds": protocol.seeds}
        return Outline(runs, sweep, self.tuned, protocol.extend, declared, 1 + known)

    def _refuse_chosen(self, typed: Mapping[str, str]) -> None:
        for key in self.tuned:
            if key in typed:
                where = "candidates.lr" if key == "optimizer.lr" else "candidates.others"
                raise ConfigError(
                    f"{key} is chosen for each loss: change what is tried with "
                    f"hydra.sweeper.{where}, or sweep it yourself with 'lossbench -m ...' without "
                    "an experiment"
                )
        if "seed" in typed:
            raise ConfigError(
                f"{typed['seed']}: an experiment declares its seeds, and none is added to settle a "
                "comparison: declare other looks, with hydra.sweeper.looks=[...] and name=...; of "
                "runs that this sweep has, verdicts are exploratory there"
            )


def _refuse_size(size: str) -> None:
    if size != USUAL_SIZE:
        raise ConfigError(
            f"size={size} changes an experiment, and there is none: add experiment=NAME, or type "
            "steps and seeds yourself"
        )
