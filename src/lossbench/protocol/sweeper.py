"""Hydra's sweeper: which cells are asked for, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossbench.protocol.stages import Cell, Protocol

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from lossbench.config import Run
    from lossbench.launch import PackedLauncher


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

        from lossbench.config import ConfigError

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

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Tune every cell, choose, confirm.

        Args:
            arguments: What was typed; a typed key replaces that key in every block.

        Raises:
            ConfigError: No cell is left, seeds overlap, or a value is refused; nothing trained.
        """
        typed = self._typed(arguments)
        cells = self._cells(typed)
        if self.tune is None:
            return [self.launcher.launch([list(cell) for cell in cells], 0)]
        protocol = Protocol(self, typed, cells)
        self.launcher.sweep.facts = {
            **self.launcher.sweep.facts,
            "declaration": protocol.declaration(),
        }
        return protocol.carried_out()

    def stages(self, arguments: list[str]) -> dict[str, list[Run]]:
        """The runs of each stage before anything is known: nothing is trained or written.

        Args:
            arguments: As for `sweep`.

        Returns:
            Runs by stage; learning rates that only tuning can tell are the first of the grid.
        """
        typed = self._typed(arguments)
        cells = self._cells(typed)
        if self.tune is None:
            return {"exploratory": self.launcher.runs([list(cell) for cell in cells])}
        return Protocol(self, typed, cells).outlined()

    def _typed(self, arguments: Sequence[str]) -> dict[str, str]:
        """Typed overrides by key; what is tuned belongs to the protocol."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from lossbench.config import ConfigError

        parser = OverridesParser.create(config_loader=self.launcher.composer)  # type: ignore[arg-type]
        typed = {
            o.get_key_element(): str(o.input_line) for o in parser.parse_overrides(list(arguments))
        }
        if self.tune is None:
            return typed
        for key in ("optimizer.lr", *(self.tune.get("others") or {})):
            if key in typed:
                where = "tune.lr" if key == "optimizer.lr" else "tune.others"
                raise ConfigError(
                    f"{key} is chosen by tuning: change the grid with hydra.sweeper.{where}, or "
                    "sweep it yourself with 'lossbench -m ...' without an experiment"
                )
        return typed

    def _cells(self, typed: Mapping[str, str]) -> list[Cell]:
        """Overrides of every cell of every block whose loss fits its data, each once."""
        from lossbench.config import ConfigError, fits

        held = {key: line for key, line in typed.items() if key != "seed" or self.tune is None}
        cells: dict[Cell, None] = {}
        for block in self._blocks(typed):
            # A typed group takes the block's settings of that group with it.
            lines = {
                key: _line(key, value)
                for key, value in block.items()
                if not {key, key.partition(".")[0]} & typed.keys()
            }
            for cell in self.product([*held.values(), *lines.values()]):
                if fits(self.launcher.composer.compose(cell)):
                    cells[cell] = None
        if not cells:
            raise ConfigError(
                "the sweep is empty: no loss fits the task and targets of its data. Regression "
                "losses need regression data; 'lossbench losses' lists the task of each"
            )
        return list(cells)

    def _blocks(self, typed: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        """All blocks; but where some have the typed data set, only those."""
        wanted = {*typed.get("data", "").partition("=")[2].split(",")} - {""}
        having = [block for block in self.blocks if wanted and wanted <= {*block.get("data", ())}]
        return having or self.blocks or [{}]

    def product(self, lines: Sequence[str]) -> list[Cell]:
        """Every combination of the values in override lines."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from lossbench.config import check_overrides

        check_overrides(lines, self.launcher.composer)
        parser = OverridesParser.create(config_loader=self.launcher.composer)  # type: ignore[arg-type]
        overrides = parser.parse_overrides(list(lines))
        return [tuple(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]

    def values(self, key: str, value: Any) -> list[str]:
        """Single values of a key whose values are typed or listed in some way Hydra knows."""
        from lossbench.config import ConfigError

        if not isinstance(value, str | int | float) and not value:
            raise ConfigError(f"the list of {key} is empty: give it at least one value")
        return [job[0].partition("=")[2] for job in self.product([_line(key, value)])]


def _line(key: str, value: Any) -> str:
    if isinstance(value, str | int | float):
        return f"{key}={value}"
    return f"{key}={','.join(str(item) for item in value)}"
