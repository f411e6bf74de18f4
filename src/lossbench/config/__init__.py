"""From the composed configuration to a frozen `Run`. The only room that knows OmegaConf."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from lossbench.data import DATA
from lossbench.data.augmentation import AUGMENTATIONS
from lossbench.data.corruption import CORRUPTIONS
from lossbench.data.files import ROOT
from lossbench.data.targets import TARGETS
from lossbench.losses import LOSSES
from lossbench.losses.spec import NAME
from lossbench.models import MODELS
from lossbench.models.start import STARTS
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.records import CONDITIONS, INSTRUMENTS, REPORTS, SIGNALS
from lossbench.runs.identity import NEUTRAL, code_of, run_id
from lossbench.runs.run import ConfigError, Init, Part, Run
from lossbench.runs.settings import AUTO, DEVICES, PRECISIONS, TF32, Engine

SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
# ---- the schema: what may be typed ---------------------------------------------------------------


@dataclass
class PartNode:
    """Any config group: a name (the yaml's stem), the function it uses, its parameters."""

    name: str = MISSING
    fn: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class CorruptionNode:
    """What is done to train and validation targets."""

    name: str = "none"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class AugmentationNode:
    """What is done to training inputs, batch by batch."""

    name: str = "none"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataNode(PartNode):
    """The `data` group. Where its files lie, and whether they may be downloaded, is no factor."""

    root: str = ROOT
    download: bool = False
    targets: str = "sampled"
    corruption: CorruptionNode = field(default_factory=CorruptionNode)
    augmentation: AugmentationNode = field(default_factory=AugmentationNode)


@dataclass
class OptimizerNode:
    """The `optimizer` group."""

    name: str = MISSING
    lr: float = MISSING
    momentum: float = 0.0
    weight_decay: float = 0.0
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleNode:
    """The `schedule` group."""

    name: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class EngineNode:
    """The `engine` group."""

    name: str = MISSING
    device: str = "cpu"
    precision: str = "float32"
    pack_size: int = 128
    threads: int = 1
    commit_every: float = 30.0
    strategies: list[str] = field(default_factory=list)


@dataclass
class SizeNode:
    """The `size` group: what it changes of an experiment's blocks, grid and seeds."""

    name: str = MISSING
    scale: dict[str, float] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    replace: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, Any] = field(default_factory=dict)
    confirm: dict[str, Any] = field(default_factory=dict)


INIT = NEUTRAL["init"]
"""The `init` node. A plain dictionary: `from` is no name that Python lets a field have."""


@dataclass
class Config:
    """Everything a run is made of."""

    data: DataNode = field(default_factory=DataNode)
    model: PartNode = field(default_factory=PartNode)
    loss: PartNode = field(default_factory=PartNode)
    optimizer: OptimizerNode = field(default_factory=OptimizerNode)
    schedule: ScheduleNode = field(default_factory=ScheduleNode)
    engine: EngineNode = field(default_factory=EngineNode)
    size: SizeNode = field(default_factory=SizeNode)
    init: dict[str, Any] = field(default_factory=lambda: dict(INIT))
    name: str = "default"
    condition: str = "as_given"
    signal: str = "own"
    instruments: list[str] = field(default_factory=list)
    seed: int = 0
    steps: int = 500
    batch_size: int = 64
    log_every: int = 10
    eval_every: int = 100
    report: str = "all"
    extensions: list[str] = field(default_factory=list)


GROUPS = ("data", "model", "loss", "optimizer", "schedule", "engine", "size")


def register(folders: Iterable[Path] = ()) -> None:
    """Make known to Hydra the schema, and each loss of the catalog as `loss/NAME`.

    A loss's parameters and their defaults are those of its signature; a yaml file is for a variant.

    Args:
        folders: Folders of yaml files of one's own. A loss that has a file `loss/NAME.yaml` there
            is left to it: Hydra would check the file against the loss's parameters, and warn.
    """
    schema = OmegaConf.structured(Config)
    # No config group brings their parameters, so any may be typed; `to_run` knows which there are.
    for part in (schema.data.corruption, schema.data.augmentation):
        OmegaConf.set_struct(part.params, False)
    store = ConfigStore.instance()
    store.store(name="schema", node=schema)
    store.repo.pop("loss", None)  # those of an earlier call, whose extensions may be gone
    files = {path.stem for folder in folders for path in (folder / "loss").glob("*.yaml")}
    for name, row in LOSSES.items():
        if name not in files:
            params = {
                key: MISSING if default is inspect.Parameter.empty else default
                for key, default in parameters(row.fn).items()
            }
            store.store(group="loss", name=name, node={"fn": name, "params": params})


def named(config: DictConfig, choices: Mapping[str, Any]) -> DictConfig:
    """The task's configuration with each part named after the yaml that was chosen for it.

    Args:
        config: Composed configuration; `hydra` is dropped from it.
        choices: Chosen yaml by config group, as Hydra reports it.

    Raises:
        ConfigError: A part was given another name than its yaml's.
    """
    with open_dict(config):
        config.pop("hydra", None)
    for group in GROUPS:
        typed = None if OmegaConf.is_missing(config[group], "name") else config[group].name
        if typed not in (None, choices[group]):
            raise ConfigError(f"{group}.name is {typed!r}: choose with {group}={typed}")
        config[group].name = choices[group]
    return config


def to_run(config: DictConfig | Mapping[str, Any]) -> Run:
    """The run a composed configuration asks for.

    Args:
        config: Composed configuration with every part's `name` filled in, without `hydra`.

    Raises:
        ConfigError: Unknown key, name or parameter, or a value out of range; says the cure.
    """
    plain = _plain(config)
    _refuse_unknown(plain, KEYS, "")
    _check_values(plain)
    parts = {
        "data": _part(plain["data"], "data", {name: row.fn for name, row in DATA.items()}),
        "model": _part(plain["model"], "model", {name: row.fn for name, row in MODELS.items()}),
        "loss": _part(plain["loss"], "loss", {name: row.fn for name, row in LOSSES.items()}),
        "corruption": _part(plain["data"]["corruption"], "data.corruption", CORRUPTIONS),
        "augmentation": _part(plain["data"]["augmentation"], "data.augmentation", AUGMENTATIONS),
        "optimizer": _part(plain["optimizer"], "optimizer", OPTIMIZERS),
        "schedule": _part(plain["schedule"], "schedule", SCHEDULES),
    }
    if not fits(plain):
        raise ConfigError(_unfit(parts["loss"], parts["data"]))
    values = {
        "condition": plain["condition"],
        "lr": plain["optimizer"]["lr"],
        "momentum": plain["optimizer"]["momentum"],
        "weight_decay": plain["optimizer"]["weight_decay"],
        "targets": _targets(plain["data"]["targets"], parts),
        "init": _init({**INIT, **plain["init"]}, parts["data"]),
        "signal": _known(plain["signal"], SIGNALS, "signal"),
        "instruments": _instruments(plain["instruments"]),
        "precision": plain["engine"]["precision"],
        **{name: plain[name] for name in _NUMBERS},
    }
    _check_signal(plain["signal"], parts["loss"])
    stage = CONDITIONS[plain["condition"]].stage
    run = Run(run_id="", stage=stage, source_sha="", shared_sha="", **parts, **values)
    run = dataclasses.replace(run, **code_of(run))
    return dataclasses.replace(run, run_id=run_id(run.facts))


def to_engine(config: DictConfig | Mapping[str, Any]) -> Engine:
    """The engine settings of a composed configuration.

    Raises:
        ConfigError: A value is out of range, or this machine lacks the device.
    """
    plain = _plain(config)
    node, data = plain["engine"], plain["data"]
    _check_engine(node)
    is_there = torch.cuda.is_available()
    if node["device"] == "cuda" and not is_there:
        raise ConfigError("engine.device is cuda: torch finds no CUDA device here, use engine=cpu")
    if node["device"] == AUTO:
        node["device"] = "cuda" if is_there else "cpu"
    if node["precision"] == TF32 and node["device"] == "cpu":
        raise ConfigError("engine.precision is tf32, which a CPU does not have: use float32")
    names = ("device", "pack_size", "threads", "commit_every")
    return Engine(
        **{name: node[name] for name in names},
        strategies=tuple(node["strategies"]),
        data_root=data["root"],
        download=data["download"],
    )


def fits(config: DictConfig | Mapping[str, Any]) -> bool:
    """Whether the loss is made for the task of the data and for such targets."""
    loss, data = (_fn(config[group]) for group in ("loss", "data"))
    row, drawn = LOSSES[_known(loss, LOSSES, "loss")], DATA[_known(data, DATA, "data")]
    return row.task == drawn.task and row.domain in ("real", drawn.domain)


def known_keys() -> set[str]:
    """Dotted names of all that may be typed as KEY=VALUE."""
    return set(_dotted(KEYS, "")) - {"condition"}


def is_key(key: str) -> bool:
    """Whether something may be typed as KEY=VALUE, a parameter of any part included."""
    return bool(_PASSES.match(key)) or key in known_keys()


def check_overrides(overrides: Iterable[str], loader: Any) -> None:
    """Refuse overrides whose key, choice or seed does not exist, before Hydra composes anything.

    Args:
        overrides: As typed, sweeps included.
        loader: Hydra's config loader; it knows the options of each group.

    Raises:
        ConfigError: Names the nearest key or choice.
    """
    parser = OverridesParser.create(config_loader=loader)
    for line in overrides:
        try:
            override = parser.parse_override(line)
        except HydraException as error:
            cure = SEED_CURE if line.startswith("seed=") else "use KEY=VALUE, or KEY=A,B to sweep"
            raise ConfigError(f"{line!r} cannot be read: {cure}") from error
        key = override.key_or_group
        if override.is_delete():
            if key in GROUPS:
                raise ConfigError(f"'~{key}' leaves no {key}: choose one with {key}=NAME")
        elif key in ("experiment", "size") and override.is_sweep_override():
            raise ConfigError(f"{line!r}: one {key} a command, give them one after the other")
        elif key in (*GROUPS, "experiment") or key.startswith("hydra/"):
            options = loader.get_group_options(key)
            for choice in _choices(override):
                _known(choice, options, key)
        elif key == "seed":
            for value in _choices(override):
                if not value.isdecimal() or int(value) >= 2**63:
                    raise ConfigError(f"seed {value!r} is no whole number: {SEED_CURE}")
        elif not is_key(key):
            raise ConfigError(f"unknown key {key!r}: {nearest(key, known_keys() | {*GROUPS})}")


SEED_CURE = "use seed=3, seed=1,2,3 or seed='range(10)'"
_PASSES = re.compile(
    r"(data|data\.corruption|data\.augmentation|model|loss|optimizer|schedule)\.params\.\w+|hydra\.|hydra$"
)


def _choices(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [str(override.value())]


def explained(error: BaseException) -> str:
    """One line for a composition that failed: the key, the value got, the cure.

    Args:
        error: What Hydra raised; OmegaConf's own error, which knows the key, is its cause.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Hydra names the file in a first line that ends in a colon, and the mistake in the next one.
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    key = getattr(error, "full_key", None)
    if key == "experiment" or "@experiment." in text:
        return f"{text} A yaml of an experiment begins with the line '# @package _global_'."
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and key:
        prefix, _, name = key.rpartition(".")
        siblings = [str(node) for node in error.parent_node or () if node != "_target_"]
        if not siblings and _PASSES.match(key):
            group = key.partition(".")[0]
            return f"{key}: a chosen {group} has no such parameter, sweep those that have it apart"
        return f"unknown key {key!r}: below {prefix!r} {nearest(name, siblings)}"
    if isinstance(error, ValidationError) and key:
        found = re.match(r"Value (.*) of type .* could not be converted to (\w+)", text)
        if found and found[2] in _TYPES:
            return f"{key} is {found[1]}: use {_TYPES[found[2]]}"
        if "is not a ListConfig" in text:
            return f"{key} is no list: use {key}=[NAME], or {key}=[NAME,NAME]"
        return f"{key}: {text}"
    return text


_TYPES = {"Float": "a number", "Integer": "a whole number"}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the most similar known name, or lists all of them when few."""
    names = sorted(known)
    if not names:
        return "there is none"
    if found := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean {found[0]!r}?"
    return f"use one of {', '.join(names)}" if len(names) <= 30 else "see 'lossbench --help'"


# ---- the checks ----------------------------------------------------------------------------------

_NUMBERS = ("seed", "steps", "batch_size", "log_every", "eval_every")


def _plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    return dict(config)


def _keys(node: type) -> dict[str, Any]:
    """Keys of a node of the schema, each with those below it, or with None where all go."""
    below = {item.name: item.default_factory for item in dataclasses.fields(node)}
    return {
        name: _keys(made) if isinstance(made, type) and dataclasses.is_dataclass(made) else None
        for name, made in below.items()
    }


KEYS = _keys(Config) | {"init": dict.fromkeys(INIT)}


def _dotted(keys: Mapping[str, Any], prefix: str) -> Iterable[str]:
    for name, inner in keys.items():
        yield f"{prefix}{name}"
        if inner is not None:
            yield from _dotted(inner, f"{prefix}{name}.")


def _refuse_unknown(plain: Mapping[str, Any], keys: Mapping[str, Any], prefix: str) -> None:
    for name, value in plain.items():
        if name not in keys:
            raise ConfigError(
                f"unknown key {prefix + str(name)!r}: {nearest(prefix + str(name), known_keys())}"
            )
        if keys[name] is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prefix}{name} is {value!r}: set the keys below it")
            _refuse_unknown(value, keys[name], f"{prefix}{name}.")


def _check_values(plain: Mapping[str, Any]) -> None:
    optimizer = plain["optimizer"]
    _check_engine(plain["engine"])
    _check_positive(
        {
            "optimizer.lr": optimizer["lr"],
            **{name: plain[name] for name in _NUMBERS if name != "seed"},
        }
    )
    for name, value in {
        "seed": plain["seed"],
        "optimizer.weight_decay": optimizer["weight_decay"],
    }.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigError(f"{name} is {value}: use 0 or more")
    if not 0 <= optimizer["momentum"] < 1:
        raise ConfigError(f"optimizer.momentum is {optimizer['momentum']}: use 0 up to below 1")
    _known(plain["condition"], CONDITIONS, "condition")
    _known(plain.get("report", "all"), REPORTS, "report")
    if not SWEEP_NAME.fullmatch(plain["name"]):
        raise ConfigError(f"name is {plain['name']!r}: use up to 80 letters, digits, '_', '-', '.'")


def _check_engine(engine: Mapping[str, Any]) -> None:
    _check_positive({f"engine.{name}": engine[name] for name in ("pack_size", "threads")})
    _known(engine["device"], DEVICES, "engine.device")
    _known(engine["precision"], PRECISIONS, "engine.precision")


def _check_positive(values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} is {value}: use a positive number")


def _targets(name: str, parts: Mapping[str, Part]) -> str:
    _known(name, TARGETS, "data.targets")
    if name == NEUTRAL["targets"]:
        return name
    data, corruption = parts["data"], parts["corruption"]
    if DATA[data.fn].task == "regression":
        raise ConfigError(
            f"data.targets is {name!r}, data {data.name!r} is regression, whose targets are "
            "numbers: use data.targets=sampled"
        )
    if corruption.fn != "none":
        raise ConfigError(
            f"data.targets is {name!r} and data.corruption {corruption.name!r}: there is no label "
            "to corrupt, use data.corruption.name=none or data.targets=sampled"
        )
    return name


def _check_signal(signal: str, loss: Part) -> None:
    if signal != NEUTRAL["signal"] and LOSSES[loss.fn].outputs_per_target > 1:
        raise ConfigError(
            f"signal is {signal!r}, loss {loss.name!r} has more outputs than the reference that it "
            "would be compared with: use signal=own"
        )


def _instruments(names: Iterable[str]) -> tuple[str, ...]:
    """Names of instruments in the order of their table, each once."""
    asked = {_known(str(name), INSTRUMENTS, "instruments:") for name in names}
    return tuple(name for name in INSTRUMENTS if name in asked)


def _init(node: Mapping[str, Any], data: Part) -> Init:
    start, scale = node["from"], node["output_scale"]
    _known(str(start), STARTS, "init.from")
    if type(scale) not in (int, float) or not math.isfinite(scale):
        raise ConfigError(f"init.output_scale is {scale!r}: use a number")
    if start != INIT["from"] and DATA[data.fn].task == "regression":
        raise ConfigError(
            f"init.from is {start!r}, data {data.name!r} is regression, which has no labels to "
            "permute: use init.from=random"
        )
    return Init(start, float(scale))


def _known(name: str, known: Iterable[str], what: str, hint: str = "") -> str:
    if name not in known:
        raise ConfigError(f"{what} {name!r} is unknown: {nearest(name, known)}{hint}")
    return name


def _fn(node: Mapping[str, Any]) -> str:
    fn = node.get("fn", "???")
    return node["name"] if fn == "???" else fn


def _part(node: Mapping[str, Any], what: str, functions: Mapping[str, Callable[..., Any]]) -> Part:
    if not NAME.fullmatch(node["name"]):
        raise ConfigError(f"{what} name {node['name']!r}: use {NAME.pattern}")
    hint = " One of your own needs the module that it is in: extensions=[MODULE]"
    fn = _known(_fn(node), functions, f"{what}.fn" if "fn" in node else what, hint)
    params = dict(node["params"])
    defaults = parameters(functions[fn])
    for name, value in params.items():
        _known(name, defaults, f"{what}.params of {fn}:")
        params[name] = _like(value, defaults[name], f"{what}.params.{name}")
    return Part(name=node["name"], fn=fn, params=params)


def _like(value: Any, default: Any, key: str) -> Any:
    """The value in the type of its default, so that 1 and 1.0 are the same run."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        return [_like(item, default[0], key) for item in value] if default else list(value)
    is_infinite = type(value) is float and not math.isfinite(value)
    if is_infinite or (type(default) in _PLAIN and type(value) is not type(default)):
        raise ConfigError(f"{key} is {value!r}: use a value like its default, {default!r}")
    return value


_PLAIN = (bool, int, float, str, list, tuple)


@functools.cache
def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameters that a configuration may set, with their defaults.

    One annotated as float has a float as its default, also where the signature says `= 1`.
    """
    kinds = inspect.signature(function).parameters.values()
    return {
        p.name: float(p.default) if p.annotation in _FLOAT and type(p.default) is int else p.default
        for p in kinds
        if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN
    }


_GIVEN = ("seed", "files", "draw", "step", "hyper", "out", "context", "confusions")
"""Parameters that no configuration sets: whoever calls gives them."""


_FLOAT = (float, "float")


def _unfit(loss: Part, data: Part) -> str:
    row, drawn = LOSSES[loss.fn], DATA[data.fn]
    if row.task == drawn.task:
        fitting = ", ".join(name for name, other in DATA.items() if other.domain == row.domain)
        return (
            f"loss {loss.name!r} is for {row.domain} targets, data {data.name!r} has others: "
            f"use data={fitting}"
        )
    fitting = [name for name, other in LOSSES.items() if other.task == drawn.task]
    return (
        f"loss {loss.name!r} is for {row.task}, data {data.name!r} is {drawn.task}: "
        f"use one of {', '.join(fitting[:6])}, or what 'lossbench losses' lists under {drawn.task}"
    )
