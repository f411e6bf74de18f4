"""Runs from axes of values: Hydra composes config groups, plain values are set on the runs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from lossbench.ask.grammar import MOST_RUNS, Axis, in_type_of_field
from lossbench.ask.loader import Loader
from lossbench.ask.rows import default_parameters
from lossbench.ask.trust import refuse_foreign
from lossbench.errors import ConfigError, nearest, refuse_unknown
from lossbench.losses import LOSSES
from lossbench.question.run import NEUTRAL, Init, Part, Pretrained, Run
from lossbench.question.schema import GROUPS, MISSING, known_keys
from lossbench.question.settings import AUTO, DEVICES, PRECISIONS, TF32, Engine
from lossbench.question.vary import can_vary, check_positive, checked, vary
from lossbench.records import REPORTS

SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")

Node = Mapping[str, Any]
"""Values of the configuration, or of a node of it, by key."""

Composed = DictConfig | Node


class Composer:
    """Composer of runs from axes of values.

    Hydra composes once for each combination of config groups and of other keys that `vary` cannot
    set. The loss, the seed, the learning rate and other plain values are then set on the run. The
    configuration of the whole command includes its node `hydra`.
    """

    def __init__(self, loader: Loader, config: DictConfig) -> None:
        self.loader = loader
        self._config = config
        self._variants = loader.variants("loss")  # yaml files, which may set anything
        self._composed: dict[tuple[str, ...], tuple[Run, bool]] = {}  # shared by many blocks

    def unchecked(self, axes: Sequence[Axis]) -> Iterator[Run]:
        """Runs of every combination of values of the axes, not checked yet."""
        if (count := math.prod(len(axis.values) for axis in axes)) > MOST_RUNS:
            raise ConfigError(
                f"{count:,} runs: use at most {MOST_RUNS:,} in one command, and a folder of its "
                "own for each part, with name=..."
            )
        plain = [axis for axis in axes if self._is_plain(axis, axes)]
        others = [axis for axis in axes if axis not in plain]
        plain.sort(key=lambda axis: axis.key != "loss")  # the loss before its parameters
        swept = []
        for axis in plain:
            if axis.key == "loss":
                names = map(str, axis.values)
                values = [Part(name, name, default_parameters(LOSSES[name])) for name in names]
            else:
                values = [in_type_of_field(axis.key, value) for value in axis.values]
            swept.append([(axis.key, value) for value in values])
        for choice in itertools.product(*(axis.lines for axis in others)):
            run, is_interpolated = self._compose(choice)
            if is_interpolated:  # one value depends on another, so Hydra composes every run
                for rest in itertools.product(*(axis.lines for axis in plain)):
                    yield self._compose((*choice, *rest))[0]
            else:
                for values in itertools.product(*swept):
                    yield vary(run, dict(values))

    def runs(self, axes: Sequence[Axis]) -> list[Run]:
        """Checked runs of every combination of values of the axes."""
        return [checked(run) for run in self.unchecked(axes)]

    def _compose(self, choice: tuple[str, ...]) -> tuple[Run, bool]:
        """Run of overrides with one value each, and whether its values have interpolations."""
        if choice not in self._composed:
            config = self.loader.single(self._config, list(choice))
            refuse_foreign(config)
            choices = {str(group): name for group, name in config.hydra.runtime.choices.items()}
            config = named(config, choices)
            if config.name != self._config.name:
                raise ConfigError(f"name is swept over {config.name!r}: a sweep has one name")
            for key in ("root", "download"):
                if config.data[key] != self._config.data[key]:
                    raise ConfigError(
                        f"data.{key} is {config.data[key]!r} for some runs: give one for all of "
                        "them, on the command line or at the top of the experiment"
                    )
            unresolved = str(OmegaConf.to_container(config, resolve=False))
            self._composed[choice] = run_of(config), "${" in unresolved
        return self._composed[choice]

    def _is_plain(self, axis: Axis, axes: Sequence[Axis]) -> bool:
        """Whether `vary` can set the values of an axis, independently of all other axes."""
        key = axis.key
        others = [other.key for other in axes if other is not axis]
        return (
            axis.is_change
            and (can_vary(key) or (key == "loss" and self._is_plain_loss(axis, axes)))
            and "${" not in axis.line
            and not any(
                f"{key}.".startswith(f"{other}.") for other in others if other not in GROUPS
            )
            and not any(isinstance(value, dict) for value in axis.values)
        )

    def _is_plain_loss(self, choice: Axis, axes: Sequence[Axis]) -> bool:
        """Whether the choice of each loss on an axis sets nothing but the loss.

        A yaml file of a loss may set anything. So may a second axis of losses, and a key below
        `loss` that is not plain.
        """
        others = [axis for axis in axes if axis is not choice]
        of_loss = [axis for axis in others if f"{axis.key}.".startswith("loss.")]
        is_alone = all(axis.key != "loss" and self._is_plain(axis, others) for axis in of_loss)
        names = {*map(str, choice.values)}
        if not is_alone or names & self._variants or not names <= LOSSES.keys():
            return False
        return all(MISSING not in default_parameters(LOSSES[name]).values() for name in names)


def named(config: DictConfig, choices: Mapping[str, object]) -> DictConfig:
    """The configuration without `hydra`, each config group named after the yaml chosen for it.

    The configuration is changed in place; `choices` are the yamls by config group.

    Raises:
        ConfigError: The name of a config group was set to a name other than that of the yaml.
    """
    with open_dict(config):
        config.pop("hydra", None)
    for group in GROUPS:
        typed = None if OmegaConf.is_missing(config[group], "name") else config[group].name
        if typed not in (None, choices[group]):
            raise ConfigError(f"{group}.name is {typed!r}: choose with {group}={typed}")
        config[group].name = choices[group]
    return config


def run_of(config: Composed) -> Run:
    """Run of a composed configuration; the values of the run are not checked yet.

    Args:
        config: Composed configuration with every part's `name` filled in, without `hydra`.

    Raises:
        ConfigError: A key of `init`, the name, the report or a setting of the engine is refused.
    """
    plain = _plain(config)
    _check_engine(plain["engine"])
    refuse_unknown(plain.get("report", "all"), REPORTS, "report")
    if not SWEEP_NAME.fullmatch(plain["name"]):
        raise ConfigError(f"name is {plain['name']!r}: use up to 80 letters, digits, '_', '-', '.'")
    for name in plain["init"]:  # Hydra knows all other keys by the schema
        if name not in NEUTRAL["init"]:
            hint = nearest(f"init.{name}", known_keys())
            raise ConfigError(f"unknown key 'init.{name}': {hint}")
    data, optimizer, init = plain["data"], plain["optimizer"], {**NEUTRAL["init"], **plain["init"]}
    numbers = ("seed", "steps", "batch_size", "log_every", "eval_every")
    return Run(
        data=_part(data),
        targets=data["targets"],
        corruption=_part(data["corruption"]),
        augmentation=_part(data["augmentation"]),
        **{name: _part(plain[name]) for name in ("model", "loss", "optimizer", "schedule")},
        **{name: optimizer[name] for name in ("lr", "momentum", "weight_decay")},
        init=Init(start=init["from"], output_scale=init["output_scale"]),
        pretrained=Pretrained(**plain["pretrained"]),
        instruments=tuple(plain["instruments"]),
        **{name: plain[name] for name in ("signal", *numbers)},
        precision=plain["engine"]["precision"],
    )


def to_engine(config: Composed) -> Engine:
    """The engine settings of a composed configuration.

    Raises:
        ConfigError: A value is out of range, or this machine lacks the device or the precision.
    """
    plain = _plain(config)
    node, data, device = plain["engine"], plain["data"], plain["engine"]["device"]
    _check_engine(node)
    is_there = torch.cuda.is_available()
    if device == "cuda" and not is_there:
        raise ConfigError("engine.device is cuda: torch finds no CUDA device here, use engine=cpu")
    if device == AUTO:
        device = "cuda" if is_there else "cpu"
    if node["precision"] == TF32 and device == "cpu":
        raise ConfigError("engine.precision is tf32, which a CPU does not have: use float32")
    return Engine(
        device=device,
        pack_size=node["pack_size"],
        threads=node["threads"],
        commit_every=node["commit_every"],
        patience=node["patience"],
        strategies=tuple(node["strategies"]),
        data_root=data["root"],
        download=data["download"],
    )


def _check_engine(engine: Node) -> None:
    numbers = ("pack_size", "threads", "commit_every", "patience")
    check_positive({f"engine.{name}": engine[name] for name in numbers})
    refuse_unknown(engine["device"], DEVICES, "engine.device")
    refuse_unknown(engine["precision"], PRECISIONS, "engine.precision")


def _part(node: Node) -> Part:
    fn = node.get("fn", "???")
    name, title = node["name"], node.get("title", "")
    return Part(name, name if fn == "???" else fn, dict(node["params"]), title)


def _plain(config: Composed) -> Node:
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    return config
