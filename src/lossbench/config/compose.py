"""From Hydra's configuration to runs: Hydra composes each cell once, plain values then vary."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from lossbench.config.overrides import (
    MOST_RUNS,
    checked_overrides,
    in_type_of_field,
    single_overrides,
    values_of,
)
from lossbench.config.schema import GROUPS, known_keys, loss_node
from lossbench.config.trust import refuse_foreign
from lossbench.errors import ConfigError, nearest, refuse_unknown
from lossbench.question.run import NEUTRAL, Draft, Init, Part, Pretrained, Run
from lossbench.question.settings import AUTO, DEVICES, PRECISIONS, TF32, Engine
from lossbench.question.vary import can_vary, check_positive, checked, with_values
from lossbench.records import REPORTS

SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


class Composer:
    """Turns overrides into runs.

    Hydra composes once for each combination of config groups and of what else is no plain value;
    loss, seed, learning rate and every other value that a run has is then set on the run itself.

    Args:
        loader: Hydra's, with its search path.
        config: The whole command's configuration, with `hydra`.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader = loader
        self._config = config
        self._options: dict[str, list[str]] = {}
        self._composed: dict[tuple[str, ...], tuple[Draft, bool]] = {}  # blocks share many

    def drafts(self, lines: Sequence[str]) -> Iterator[Draft]:
        """The drafts of the runs of every combination of the values in overrides.

        Args:
            lines: Overrides, sweeps included.

        Raises:
            HydraException: What Hydra itself would raise for them.
            ConfigError: A key, a choice or a parameter does not exist.
        """
        overrides = checked_overrides(lines, self.loader, options=self._options)
        plain = [override for override in overrides if _is_plain(override, overrides)]
        others = [override for override in overrides if override not in plain]
        plain.sort(key=lambda override: override.key_or_group != "loss")  # before its parameters
        swept = [
            [(key, _value(key, value)) for value in values_of(override)]
            for override in plain
            for key in [override.key_or_group]
        ]
        choices = [single_overrides(override) for override in others]
        for override, values in zip((*others, *plain), (*choices, *swept), strict=True):
            if not values:
                raise ConfigError(f"{override.input_line!r} has no value: give it one at least")
        if (count := math.prod(map(len, (*choices, *swept)))) > MOST_RUNS:
            raise ConfigError(
                f"{count:,} runs: use at most {MOST_RUNS:,} in one command, and a folder of its "
                "own for each part, with name=..."
            )
        for choice in itertools.product(*choices):
            draft, is_interpolated = self._compose(choice)
            if is_interpolated:  # one value depends on another, so Hydra composes every run
                for rest in itertools.product(*map(single_overrides, plain)):
                    yield self._compose((*choice, *rest))[0]
            else:
                for values in itertools.product(*swept):
                    yield with_values(draft, dict(values))

    def runs(self, lines: Sequence[str]) -> list[Run]:
        """The runs of every combination of the values in overrides, checked.

        Raises:
            HydraException: What Hydra itself would raise for them.
            ConfigError: A run cannot be trained.
        """
        return [checked(draft) for draft in self.drafts(lines)]

    def _compose(self, choice: tuple[str, ...]) -> tuple[Draft, bool]:
        """What Hydra composes for overrides of single values, and whether it is interpolated.

        It is where one of its values depends on another.
        """
        if choice not in self._composed:
            config = self.loader.load_sweep_config(self._config, list(choice))
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
            self._composed[choice] = to_draft(config), "${" in unresolved
        return self._composed[choice]


def _is_plain(override: Override, overrides: Sequence[Override]) -> bool:
    """Whether an override sets values that a run has, and no other override has a say in it."""
    key = override.key_or_group
    others = (other.key_or_group for other in overrides if other is not override)
    return (
        override.type == OverrideType.CHANGE
        and override.package is None
        and (can_vary(key) or (key == "loss" and _is_plain_loss(override, overrides)))
        and "${" not in str(override.input_line)
        and not any(f"{key}.".startswith(f"{other}.") for other in others if other not in GROUPS)
        and not any(isinstance(value, dict) for value in values_of(override))
    )


def _is_plain_loss(choice: Override, overrides: Sequence[Override]) -> bool:
    """Whether losses are rows of the catalog, whose choice sets nothing but the loss.

    A yaml of that name may set anything, and so may a second choice and what else is typed of it.
    """
    others = [other for other in overrides if other is not choice]
    of_loss = [other for other in others if f"{other.key_or_group}.".startswith("loss.")]
    is_alone = all(other.key_or_group != "loss" and _is_plain(other, others) for other in of_loss)
    return is_alone and all(loss_node(str(name)) for name in values_of(choice))


def _value(key: str, value: Any) -> Any:
    """A plain value as a run has it."""
    if key == "loss":
        return _part({"name": str(value), **loss_node(str(value))})
    return in_type_of_field(key, value)


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
    """The run that a composed configuration asks for.

    Args:
        config: Composed configuration with every part's `name` filled in, without `hydra`.

    Raises:
        ConfigError: Unknown key, name or parameter, or a value out of range; says the cure.
    """
    return checked(to_draft(config))


def to_draft(config: DictConfig | Mapping[str, Any]) -> Draft:
    """The run that a composed configuration asks for, its own values not yet checked.

    Raises:
        ConfigError: A key is unknown, or what is no part of the run is wrong.
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
    return Draft(
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


def to_engine(config: DictConfig | Mapping[str, Any]) -> Engine:
    """The engine settings of a composed configuration.

    Raises:
        ConfigError: A value is out of range, or this machine lacks the device.
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


def _check_engine(engine: Mapping[str, Any]) -> None:
    numbers = ("pack_size", "threads", "commit_every", "patience")
    check_positive({f"engine.{name}": engine[name] for name in numbers})
    refuse_unknown(engine["device"], DEVICES, "engine.device")
    refuse_unknown(engine["precision"], PRECISIONS, "engine.precision")


def _part(node: Mapping[str, Any]) -> Part:
    fn = node.get("fn", "???")
    name, title = node["name"], node.get("title", "")
    return Part(name, name if fn == "???" else fn, dict(node["params"]), title)


def _plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    return dict(config)
