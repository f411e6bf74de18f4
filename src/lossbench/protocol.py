"""Tune, then confirm: the sweeper that gives every loss its own best learning rate, fairly.

Every loss is tuned on the same grid with the same seeds, chosen on validation alone, and judged
on fresh seeds. Tuning seeds never confirm.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from lossbench.config import Run
    from lossbench.launch import PackedLauncher

log = logging.getLogger(__name__)

Cell = tuple[str, ...]
"""Overrides of one cell: all factors but learning rate and seed."""


class ProtocolSweeper:
    """Tunes and confirms. Registered with Hydra by `hydra_plugins.lossbench_protocol`.

    Args:
        blocks: Grids whose union is swept, each a mapping of override key to value or list.
        tune: `lr` (the grid) and `seeds`; None sweeps the blocks as they stand.
        confirm: `seeds`, none of which may tune.
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
        tune_seeds = self._values("seed", self.tune["seeds"])
        confirm_seeds = self._values("seed", self._confirm_seeds(typed))
        _refuse_overlap(tune_seeds, confirm_seeds)
        rates = self._values("optimizer.lr", self.tune["lr"])
        self._declare(cells, tune_seeds, confirm_seeds)
        jobs = {
            cell: [[*cell, "condition=grid", rate, seed] for rate in rates for seed in tune_seeds]
            for cell in cells
        }
        tuned = self.launcher.launch([job for cell in cells for job in jobs[cell]], 0)
        chosen = self._chosen(jobs)
        confirming = [
            [*cell, "condition=own_lr", f"optimizer.lr={chosen[cell]!r}", seed]
            for cell in cells
            for seed in confirm_seeds
            if cell in chosen
        ]
        return [tuned, self.launcher.launch(confirming, len(tuned))]

    def _typed(self, arguments: Sequence[str]) -> dict[str, str]:
        """Typed overrides by key; learning rate and seed belong to the protocol."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from lossbench.config import ConfigError

        parser = OverridesParser.create(config_loader=self.launcher.composer)  # type: ignore[arg-type]
        typed = {
            o.get_key_element(): str(o.input_line) for o in parser.parse_overrides(list(arguments))
        }
        for key in ("optimizer.lr", "condition"):
            if key in typed and self.tune is not None:
                raise ConfigError(
                    f"{key} is chosen by tuning: change the grid with hydra.sweeper.tune.lr=[...], "
                    "or sweep it yourself with 'lossbench -m ...' without an experiment"
                )
        return typed

    def _cells(self, typed: Mapping[str, str]) -> list[Cell]:
        """Overrides of every cell of every block whose loss fits its data, each once."""
        from lossbench.config import ConfigError, same_task

        held = {key: line for key, line in typed.items() if key != "seed" or self.tune is None}
        cells: dict[Cell, None] = {}
        for block in self.blocks or [{}]:
            lines = {key: _line(key, value) for key, value in block.items() if key not in typed}
            for cell in self._product([*held.values(), *lines.values()]):
                if same_task(self.launcher.composer.compose(cell)):
                    cells[cell] = None
        if not cells:
            raise ConfigError(
                "the sweep is empty: no loss fits the task of its data. Regression losses need "
                "regression data; 'lossbench losses' lists the task of each"
            )
        return list(cells)

    def _product(self, lines: Sequence[str]) -> list[Cell]:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from lossbench.config import check_overrides

        check_overrides(lines, self.launcher.composer)
        parser = OverridesParser.create(config_loader=self.launcher.composer)  # type: ignore[arg-type]
        overrides = parser.parse_overrides(list(lines))
        return [tuple(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]

    def _values(self, key: str, value: Any) -> list[str]:
        from lossbench.config import ConfigError

        if not isinstance(value, str | int | float) and not value:
            raise ConfigError(f"the list of {key} is empty: give it at least one value")
        return [job[0] for job in self._product([_line(key, value)])]

    def _confirm_seeds(self, typed: Mapping[str, str]) -> Any:
        if "seed" in typed:
            return typed["seed"].partition("=")[2]
        return (self.confirm or {})["seeds"]

    def _declare(self, cells: Sequence[Cell], tune: Sequence[str], confirm: Sequence[str]) -> None:
        """Write down what is asked before anything is measured."""
        losses = [self.launcher.composer.compose(cell).loss.name for cell in cells]
        self.launcher.sweep.facts = {
            **self.launcher.sweep.facts,
            "declaration": {
                **_plain(self.declare),
                "losses": sorted(set(losses)),
                "learning_rates": self._values("optimizer.lr", (self.tune or {})["lr"]),
                "tune_seeds": len(tune),
                "confirm_seeds": len(confirm),
            },
        }

    def _chosen(self, jobs: Mapping[Cell, list[list[str]]]) -> dict[Cell, float]:
        """The learning rate of each cell, by the primary metric on validation at the last step."""
        from lossbench import records

        loaded = records.load(self.launcher.sweep.folder)
        chosen = {}
        for cell, asked in jobs.items():
            runs = self.launcher.runs(asked)
            primary = self.declare["primary"][runs[0].row.task]
            scores = validation_scores(runs, loaded.runs, loaded.evals, metric=primary)
            if not scores["status"].isin(["done", "diverged"]).any():
                log.error("%s: every tuning run failed, nothing to confirm", " ".join(cell))
                continue
            chosen[cell], is_edge = best_learning_rate(scores, direction=records.direction(primary))
            if is_edge:
                log.warning(
                    "%s on %s: the best learning rate %g lies on the edge of the grid",
                    runs[0].loss.name,
                    runs[0].data.name,
                    chosen[cell],
                )
        return chosen


def validation_scores(
    runs: Sequence[Run], recorded: pd.DataFrame, evals: pd.DataFrame, *, metric: str
) -> pd.DataFrame:
    """Last validation value of a metric, one row per run: run_id, lr, seed, status, value."""
    import pandas as pd

    asked = pd.DataFrame(
        [{"run_id": run.run_id, "lr": run.lr, "seed": run.seed, "step": run.steps} for run in runs]
    )
    found = evals[(evals.split == "validation") & (evals.metric == metric)]
    frame = asked.merge(found[["run_id", "step", "value"]], how="left", on=["run_id", "step"])
    return frame.merge(recorded[["run_id", "status"]], how="left", on="run_id")


def best_learning_rate(scores: pd.DataFrame, *, direction: str) -> tuple[float, bool]:
    """The learning rate with the best mean validation score over the tuning seeds.

    A run that diverged or failed ranks worst: first come the rates with the fewest of them, then
    the mean decides; the smaller rate wins a tie.

    Args:
        scores: Columns lr and value; NaN where a run did not reach the end.
        direction: "lower" or "higher".

    Returns:
        The rate, and whether it is the smallest or largest of the grid.
    """
    sign = -1.0 if direction == "higher" else 1.0
    by_rate = scores.groupby("lr")["value"].agg(lost=lambda v: v.isna().sum(), mean="mean")
    ranked = by_rate.assign(mean=sign * by_rate["mean"]).sort_values(
        ["lost", "mean"], kind="stable"
    )
    best = float(ranked.index[0])
    return best, best in (by_rate.index.min(), by_rate.index.max())


def _line(key: str, value: Any) -> str:
    if isinstance(value, str | int | float):
        return f"{key}={value}"
    return f"{key}={','.join(str(item) for item in value)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _refuse_overlap(tune: Sequence[str], confirm: Sequence[str]) -> None:
    from lossbench.config import ConfigError

    if shared := sorted(set(tune) & set(confirm)):
        raise ConfigError(
            f"{', '.join(shared)} would tune and confirm: seeds that tuned cannot confirm. "
            "Change hydra.sweeper.confirm.seeds or hydra.sweeper.tune.seeds"
        )
