"""The packed launcher: composes Hydra's jobs quickly, hands them to a sweep as one list of runs.

Every Hydra program of the environment imports this module while it looks for plugins, so what is
heavy (torch and all rooms that need it) is imported inside functions.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from lossbench.runs import Engine, Run
    from lossbench.sweep import Sweep
    from lossbench.sweep.crews import Crew
    from lossbench.sweep.training import Trainer

log = logging.getLogger(__name__)


class RunsFailed(Exception):
    """A run failed; everything else of the sweep is finished and on disk.

    Attributes:
        folder: The sweep's folder.
    """

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


def task(config: DictConfig) -> dict[str, str]:
    """Train one job by itself, for launchers that do not pack.

    Args:
        config: Composed configuration of the job, while Hydra's own is current.

    Raises:
        RunsFailed: The run failed.
    """
    from hydra.core.hydra_config import HydraConfig

    from lossbench import config as settings
    from lossbench.runs.extensions import load_extensions
    from lossbench.sweep.crews import Here
    from lossbench.sweep.training import Trainer

    hydra: Any = HydraConfig.get()
    load_extensions(config.extensions)
    named = settings.named(copy.deepcopy(config), dict(hydra.runtime.choices))
    crew = Here(Trainer(settings.to_engine(config), [*config.extensions]))
    run, sweep = settings.to_run(named), _sweep(config, hydra, crew)
    facts = sweep.run([run])[run.run_id]
    if facts["status"] == "failed":
        raise RunsFailed(f"run {run.run_id}: {facts['reason']}", sweep.folder)
    return {"run_id": run.run_id, **facts}


class Composer:
    """Hydra's config loader with a memory: one composition per choice of config groups.

    Overrides that set plain values are applied by Hydra's own code to a copy of it; groups, `+`,
    `~`, packages and `hydra.*` always go through Hydra.
    """

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parsed: dict[str, tuple[Override, bool]] = {}
        self._templates: dict[tuple[str, ...], DictConfig] = {}
        self._fields: dict[tuple[str, ...], _Fields | None] = {}
        self._legal: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """What a sweeper validates jobs with: those that have been composed are legal.

        For such a job this is the common part of all jobs with its choices, not to be changed.
        """
        if (chosen := self._legal.get(tuple(sweep_overrides))) is not None:
            return self._template(chosen)
        return self.compose(sweep_overrides)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The task's configuration of one job, each part named after its yaml.

        Args:
            overrides: One job's overrides, no sweeps.

        Raises:
            HydraException: What Hydra itself would raise for them.
            ConfigError: A part was given another name than its yaml's.
        """
        chosen, settings = self._divided(overrides)
        config = copy.deepcopy(self._template(chosen))
        self._loader._apply_overrides_to_config([override for _, override in settings], config)
        return config

    def plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The configuration of one job as plain values, interpolations resolved.

        A job that differs in numbers and names only from one that came before takes no time.

        Args:
            overrides: One job's overrides, no sweeps.

        Raises:
            HydraException: What Hydra itself would raise for them.
            ConfigError: A part was given another name than its yaml's.
        """
        from omegaconf import OmegaConf

        chosen, settings = self._divided(overrides)
        fields = self._fields_of(chosen)
        if fields is None or not all(_is_simple(override) for _, override in settings):
            plain = OmegaConf.to_container(self.compose(overrides), resolve=True)
        else:
            plain = fields.set(settings, self._loader._apply_overrides_to_config)
        self._legal[tuple(overrides)] = chosen
        return plain  # type: ignore[return-value]

    def _divided(
        self, overrides: Sequence[str]
    ) -> tuple[tuple[str, ...], list[tuple[str, Override]]]:
        """Lines that choose, and lines that set plain values, with what they say."""
        parsed = [(line, *self._parse(line)) for line in overrides]
        chosen = tuple(line for line, _, is_plain in parsed if not is_plain)
        return chosen, [(line, override) for line, override, is_plain in parsed if is_plain]

    def _fields_of(self, chosen: tuple[str, ...]) -> _Fields | None:
        """The fields of a template; None where some depend on others."""
        from omegaconf import OmegaConf

        if chosen not in self._fields:
            template = self._template(chosen)
            depends = "${" in str(OmegaConf.to_container(template, resolve=False))
            self._fields[chosen] = None if depends else _Fields(copy.deepcopy(template))
        return self._fields[chosen]

    def _template(self, chosen: tuple[str, ...]) -> DictConfig:
        if chosen not in self._templates:
            from lossbench.config import named

            config = self._loader.load_sweep_config(self._master, list(chosen))
            choices = {str(group): choice for group, choice in config.hydra.runtime.choices.items()}
            self._templates[chosen] = named(config, choices)
        return self._templates[chosen]

    def _parse(self, line: str) -> tuple[Override, bool]:
        """The override in a line, and whether it sets a plain value."""
        if line not in self._parsed:
            override = _of_integer(line) or self._parser.parse_override(line)
            self._parsed[line] = override, self._is_plain(override)
        return self._parsed[line]

    @cached_property
    def _parser(self) -> OverridesParser:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        return OverridesParser.create(config_loader=self._loader)

    def _is_plain(self, override: Override) -> bool:
        key = override.key_or_group
        return (
            override.type is not None
            and override.type.name == "CHANGE"
            and override.package is None
            and not override.is_sweep_override()
            and not key.startswith("hydra.")
            and not key.endswith(".name")  # a part is named by its yaml: `named` says so
            and not self._loader.repository.group_exists(key)
        )


class _Fields:
    """A configuration in which single fields are set, checked and converted by Hydra once each.

    Args:
        config: Whose fields do not depend on each other.
    """

    def __init__(self, config: DictConfig) -> None:
        from omegaconf import OmegaConf

        self._config = config
        self._plain = OmegaConf.to_container(config, resolve=True)
        self._values: dict[str, tuple[Sequence[str], Any]] = {}

    def set(self, settings: Sequence[tuple[str, Override]], apply: Any) -> dict[str, Any]:
        """Plain values with some fields set.

        Args:
            settings: Lines and what they say.
            apply: Hydra's function that sets them in a configuration.
        """
        plain = _copied(self._plain)
        for line, override in settings:
            if line not in self._values:
                self._values[line] = self._converted(override, apply)
            path, value = self._values[line]
            node = plain
            for name in path[:-1]:
                node = node[name]
            node[path[-1]] = value
        return plain

    def _converted(self, override: Override, apply: Any) -> tuple[Sequence[str], Any]:
        """Where the field stands, and its value in the type that it has."""
        from omegaconf import OmegaConf

        apply([override], self._config)  # the next setting of this field replaces it
        return override.key_or_group.split("."), OmegaConf.select(
            self._config, override.key_or_group
        )


_INTEGER = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(-?(?:0|[1-9][0-9]{0,17}))", re.ASCII)


def _of_integer(line: str) -> Override | None:
    """What a line like `seed=17` says; a thousand of them take Hydra's parser a second."""
    from hydra.core.override_parser.types import Override, OverrideType, ValueType

    found = _INTEGER.fullmatch(line)
    if found is None:
        return None
    name, number = found.groups()
    return Override(OverrideType.CHANGE, name, ValueType.ELEMENT, int(number), input_line=line)


def _is_simple(override: Override) -> bool:
    """Whether a setting is a number or a name for one field."""
    value = override.value()
    is_scalar = type(value) in (int, float, bool) or (type(value) is str and "${" not in value)
    return is_scalar and re.fullmatch(r"\w+(\.\w+)*", override.key_or_group) is not None


def _copied(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _copied(value) for key, value in plain.items()}
    return [*map(_copied, plain)] if isinstance(plain, list) else plain


class PackedLauncher:
    """Runs jobs as members of packs. Registered with Hydra by `hydra_plugins.lossbench_packed`."""

    config: DictConfig
    composer: Composer
    sweep: Sweep

    def __init__(self, *, executor: str, workers: int, **cluster: Any) -> None:
        self.executor = executor
        self.workers = workers
        self.cluster = cluster

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's call before the first launch."""
        from lossbench.config import to_engine
        from lossbench.runs.extensions import load_extensions
        from lossbench.sweep.training import Trainer

        load_extensions(config.extensions)
        self.config = config
        self.composer = Composer(hydra_context.config_loader, config)
        hydra_context.config_loader = self.composer  # type: ignore[assignment]
        engine = to_engine(config)
        self.sweep = _sweep(config, config.hydra, self._crew(Trainer(engine, [*config.extensions])))
        self._asked: dict[tuple[str, ...], Run] = {}
        if config.hydra.runtime.choices["hydra/sweeper"] == "basic":
            _refuse_size(config.hydra.runtime.choices["size"])
            # It writes multirun.yaml before it launches; a mistake must not leave a folder behind.
            self.check(_basic_jobs(config, self.composer))

    def _crew(self, trainer: Trainer) -> Crew:
        if self.executor != "inline":
            return _cluster(trainer, self.executor, self.cluster)
        from lossbench.sweep.crews import Here, Processes

        count = _hands(self.workers, trainer.engine)
        return Here(trainer) if count < 2 else Processes(trainer, count)

    def check(self, job_overrides: Sequence[Sequence[str]]) -> None:
        """Refuse what cannot be trained, before anything is written.

        Raises:
            ConfigError: A job asks for something that cannot be.
        """
        from lossbench.sweep import preflight

        preflight(self.runs(job_overrides), self.sweep.engine.files)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Hydra's call: train the jobs that are not done, then end what trained them.

        Raises:
            ConfigError: A job asks for something that cannot be; nothing was trained.
        """
        with self.sweep.crew:
            return self.train(job_overrides, initial_job_idx)

    def train(
        self,
        job_overrides: Sequence[Sequence[str]],
        initial_job_idx: int,
        *,
        declaration: Mapping[str, Any] | None = None,
    ) -> Sequence[JobReturn]:
        """Train the jobs that are not done and report on all of them, in their order.

        Args:
            job_overrides: Of each job.
            initial_job_idx: Number of the first.
            declaration: What was fixed before any of them; None where nothing was.

        Raises:
            ConfigError: A job asks for something that cannot be; nothing was trained.
        """
        runs = self.runs(job_overrides)
        members = self.sweep.run(runs, declaration=declaration)
        return [
            self._returned(run, members[run.run_id], overrides, initial_job_idx + number)
            for number, (run, overrides) in enumerate(zip(runs, job_overrides, strict=True))
        ]

    def runs(self, job_overrides: Sequence[Sequence[str]]) -> list[Run]:
        """The runs that jobs ask for."""
        from lossbench.runs import ConfigError

        if not job_overrides:
            raise ConfigError("the sweep is empty: give each swept key at least one value")
        with self.sweep.timed("compose"):
            return [self._run(tuple(overrides)) for overrides in job_overrides]

    def _run(self, overrides: tuple[str, ...]) -> Run:
        from lossbench.config import to_run
        from lossbench.runs import ConfigError

        if overrides not in self._asked:
            plain = self.composer.plain(overrides)
            if plain["name"] != self.config.name:
                raise ConfigError(f"name is swept over {plain['name']!r}: a sweep has one name")
            for key in ("root", "download"):
                if plain["data"][key] != self.config.data[key]:
                    raise ConfigError(
                        f"data.{key} is {plain['data'][key]!r} for some runs: give one for all of "
                        "them, on the command line or at the top of the experiment"
                    )
            self._asked[overrides] = to_run(plain)
        return self._asked[overrides]

    def _returned(
        self, run: Run, facts: dict[str, str], overrides: Sequence[str], number: int
    ) -> JobReturn:
        from hydra.core.utils import JobReturn, JobStatus

        if facts["status"] in ("failed", "missing"):
            value: Any = RunsFailed(f"run {run.run_id}: {facts['reason']}", self.sweep.folder)
            status = JobStatus.FAILED
        else:
            value, status = {"run_id": run.run_id, **facts}, JobStatus.COMPLETED
        result = JobReturn(
            overrides=list(overrides),
            working_dir=str(self.sweep.folder),
            task_name=str(number),
            status=status,
        )
        result.return_value = value
        return result


def _hands(workers: int, engine: Engine) -> int:
    """How many processes train: what was asked for, or what this machine has room for."""
    from lossbench.runs import ConfigError

    if workers < 0:
        raise ConfigError(f"hydra.launcher.workers={workers}: use 0 for one on each core, or more")
    if engine.device != "cpu":
        return 1
    return workers or min(cores() // engine.threads, int(_free_memory() // BYTES_A_WORKER))


BYTES_A_WORKER = 2**30
"""Of memory for a process that trains, PyTorch itself included."""


def cores() -> int:
    """Cores that this process may use, by its affinity and by the quota of its container."""
    count = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return max(1, math.floor(min(count, _quota())))


def _quota() -> float:
    """Cores that a container may use at most: of cgroup version 2, or of version 1."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):
        old = Path("/sys/fs/cgroup/cpu")
        quota, period = ((old / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf


def _free_memory() -> float:
    """Bytes that new processes may take; infinite where the system does not say."""
    with contextlib.suppress(OSError):
        told = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        return 1024.0 * int(told[1]) if told else math.inf
    return math.inf


def _cluster(trainer: Trainer, executor: str, cluster: Mapping[str, Any]) -> Any:
    from omegaconf import OmegaConf

    from lossbench.runs import ConfigError
    from lossbench.sweep.slurm import Cluster, Settings

    if executor not in ("slurm", "local"):
        raise ConfigError(
            f"hydra.launcher.executor={executor} is unknown: use inline, local or slurm"
        )
    plain: dict[str, Any] = {
        name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in cluster.items()
    }
    return Cluster(trainer, Settings(executor=executor, **plain))


def _basic_jobs(config: DictConfig, composer: Any) -> list[list[str]]:
    """Overrides of each job that Hydra's basic sweeper is about to launch."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = config.hydra.sweeper.params or {}
    lines = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    overrides = OverridesParser.create(config_loader=composer).parse_overrides(lines)
    return BasicSweeper.split_arguments(overrides, None)[0]


def _sweep(config: DictConfig, hydra: Any, crew: Crew) -> Sweep:
    from lossbench.engine import strategies
    from lossbench.runs import TF32
    from lossbench.sweep import Sweep

    ending, engine = _ending(hydra), crew.trainer.engine
    if config.engine.precision == TF32:
        log.warning("tf32 rounds factors to 10 bits: steep losses like quartic train otherwise")
    strategies.check(engine.strategies, engine.device)
    return Sweep(
        folder=Path(str(hydra.sweep.dir) + ending),
        name=config.name + ending,
        command=" ".join(["lossbench", *hydra.overrides.task]),
        crew=crew,
    )


def _ending(hydra: Any) -> str:
    """What an experiment's name ends with at another size, unless its place was typed.

    A hyphen: `essay` at size full is not the experiment `essay_full`.
    """
    size = str(hydra.runtime.choices["size"])
    lines = [*hydra.overrides.task, *hydra.overrides.hydra]
    is_placed = any(line.lstrip("+").startswith(("name=", "hydra.sweep.dir=")) for line in lines)
    return "" if is_placed or size == USUAL_SIZE else f"-{size}"


USUAL_SIZE = "laptop"


def _refuse_size(size: str) -> None:
    from lossbench.runs import ConfigError

    if size != USUAL_SIZE:
        raise ConfigError(
            f"size={size} changes an experiment, and there is none: add experiment=NAME, or type "
            "steps and seeds yourself"
        )


@dataclass(frozen=True)
class Stages:
    """What a command asks for, before anything is trained.

    Attributes:
        runs: By stage.
        sweep: Where they would go.
        tuned: Keys that tuning chooses.
        extend: Most learning rates that may be added at either end of a grid.
        declared: What is declared; empty without the protocol.
    """

    runs: dict[str, list[Run]]
    sweep: Sweep
    tuned: Sequence[str]
    extend: int
    declared: Mapping[str, Any]


def stages(hydra: Any, overrides: Sequence[str]) -> Stages:
    """What a command asks for; trains and writes nothing.

    Args:
        hydra: Hydra's main object, its search path set.
        overrides: As typed.

    Raises:
        ConfigError: Something asked for cannot be.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    config = hydra.compose_config(
        config_name="config",
        overrides=list(overrides),
        with_log_configuration=False,
        run_mode=RunMode.MULTIRUN,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    sweeper: Any = Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=task
    )
    launcher = sweeper.launcher
    if config.hydra.runtime.choices["hydra/sweeper"] != "protocol":
        runs = launcher.runs(_basic_jobs(config, launcher.composer))
        return Stages({"exploratory": runs}, launcher.sweep, ["optimizer.lr"], 0, {})
    runs = sweeper.stages(list(config.hydra.overrides.task))
    return Stages(runs, launcher.sweep, sweeper.tuned, sweeper.extend, sweeper.declare)
