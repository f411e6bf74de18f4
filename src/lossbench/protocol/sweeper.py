"""Hydra's sweeper: which cells are asked for, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossbench.protocol import cells
from lossbench.protocol.declaration import TUNE
from lossbench.protocol.size import check_size, sized_blocks, sized_stage
from lossbench.protocol.stages import Protocol

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from lossbench.launch import PackedLauncher
    from lossbench.runs import Run


class ProtocolSweeper:
    """Tunes and confirms. Registered with Hydra by `hydra_plugins.lossbench_protocol`.

    Args:
        blocks: Grids whose union is swept, each a mapping of override key to value or list.
        tune: `lr` (the grid), `seeds`, `extend` (most rates added at either end), `others`
            (values by key of what else is tuned); None sweeps the blocks as they stand.
        confirm: `seeds`, none of which may tune, and `conditions`.
        declare: What is fixed beforehand: primary metric, endpoint, reference, margin, family.
    """

    config: DictConfig
    launcher: PackedLauncher

    def __init__(
        self,
        blocks: Sequence[Mapping[str, Any]],
        tune: Mapping[str, Any] | None,
        confirm: Mapping[str, Any] | None,
        declare: Mapping[str, Any],
    ) -> None:
        self.blocks = blocks
        self.tune = tune
        self.confirm = confirm
        self.declare = declare

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's call before the sweep."""
        from hydra.core.plugins import Plugins

        from lossbench.runs import ConfigError

        self.config = config
        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not hasattr(launcher, "sweep"):
            raise ConfigError(
                f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']} trains one run "
                "a job and cannot tune: use hydra/launcher=packed"
            )
        self.launcher = launcher
        self._resize()

    def _resize(self) -> None:
        """The experiment at the chosen size; what was typed goes before it."""
        size, composer = self.config.size, self.launcher.composer
        check_size(size, composer)
        lines = [*self.config.hydra.overrides.task, *self.config.hydra.overrides.hydra]
        typed = {*cells.typed_lines(lines, composer)}
        self.blocks = sized_blocks(self.blocks, size, top=self.config, typed=typed)
        given = {"typed": typed, "composer": composer}
        self.tune = sized_stage("tune", self.tune, size.tune, **given)
        self.confirm = sized_stage("confirm", self.confirm, size.confirm, **given)

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Tune every cell, choose, confirm.

        Args:
            arguments: What was typed; a typed key replaces that key in every block.

        Raises:
            ConfigError: No cell is left, seeds overlap, or a value is refused; nothing trained.
        """
        found, protocol = self._asked(arguments)
        if protocol is None:
            return [self.launcher.launch([list(cell) for cell in found], 0)]
        with self.launcher.sweep.crew:  # its processes live on from stage to stage
            return protocol.carried_out()

    def stages(self, arguments: list[str]) -> dict[str, list[Run]]:
        """The runs of each stage before anything is known: nothing is trained or written.

        Args:
            arguments: As for `sweep`.

        Returns:
            Runs by stage; learning rates that only tuning can tell are the first of the grid.
        """
        found, protocol = self._asked(arguments)
        if protocol is None:
            return {"exploratory": self.launcher.runs([list(cell) for cell in found])}
        return protocol.outlined()

    @property
    def extend(self) -> int:
        """Most learning rates that may be added at either end of a grid."""
        return int({**TUNE, **(self.tune or {"extend": 0})}["extend"])

    @property
    def tuned(self) -> list[str]:
        """Keys that tuning chooses, the learning rate first."""
        return ["optimizer.lr", *((self.tune or {}).get("others") or {})]

    def _asked(self, arguments: list[str]) -> tuple[list[cells.Cell], Protocol | None]:
        """The cells, and the protocol for them, None where nothing is tuned."""
        composer = self.launcher.composer
        typed = cells.typed_lines(arguments, composer)
        if self.tune is None:
            return cells.asked(self.blocks, typed, composer), None
        self._refuse_tuned(typed)
        held = {key: line for key, line in typed.items() if key != "seed"}
        found = cells.asked(self.blocks, held, composer)
        protocol = Protocol(
            self.launcher,
            found,
            tune=self.tune,
            confirm=self.confirm or {},
            declare=self.declare,
            seeds=typed.get("seed", "").partition("=")[2],
        )
        return found, protocol

    def _refuse_tuned(self, typed: Mapping[str, str]) -> None:
        from lossbench.runs import ConfigError

        for key in self.tuned:
            if key in typed:
                where = "tune.lr" if key == "optimizer.lr" else "tune.others"
                raise ConfigError(
                    f"{key} is chosen by tuning: change the grid with hydra.sweeper.{where}, or "
                    "sweep it yourself with 'lossbench -m ...' without an experiment"
                )
