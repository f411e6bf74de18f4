"""Input from the command line: Hydra composes the words, and a Question is made of the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossbench import records
from lossbench.ask.blocks import cells, listed_values
from lossbench.ask.compose import Composer, Node, to_engine
from lossbench.ask.grammar import Axis, axes_of, in_type_of_field
from lossbench.ask.loader import Loader
from lossbench.ask.sizes import check_size, sized_blocks, sized_candidates, sized_interactions
from lossbench.ask.trust import refuse_foreign
from lossbench.errors import ConfigError
from lossbench.question import Candidates, Question
from lossbench.question.declaration import (
    CANDIDATES,
    check_declaration,
    check_extend,
    check_keys,
    check_looks,
    check_others,
)
from lossbench.question.schema import LauncherNode
from lossbench.user_code import load_extensions

SERVE = {"launcher": ("packed", "executor"), "sweeper": ("protocol", "blocks")}
"""Supported choice of each `hydra/...` group, and a key that every supported choice has."""

USUAL_SIZE = "laptop"


def composed(words: list[str], loader: Loader) -> tuple[DictConfig, list[Axis]]:
    """Configuration of a whole command, including `hydra`, and the axes of the words.

    Raises:
        ConfigError: A key, a choice or a value does not exist.
        HydraException: Hydra refuses a word.
    """
    axes = axes_of(words, loader.choices)
    try:
        config = loader.whole(words)
    except KeyError as error:  # `env_copy` names a variable that does not exist
        raise ConfigError(
            f"a yaml reads {error} from the environment: write the value itself"
        ) from error
    for kind, (serving, key) in SERVE.items():
        group = f"hydra/{kind}"
        if key not in config.hydra[kind]:
            choice = config.hydra.runtime.choices[group]
            raise ConfigError(
                f"{group}={choice} does not serve here, see docs/commands.md: use {group}={serving}"
            )
    refuse_foreign(config, usual=loader.whole([]) if loader.folder else None)
    load_extensions(config.extensions)  # those of a yaml; typed extensions are loaded already
    return config, axes


def question(words: list[str], loader: Loader, *, command: str = "", text: str = "") -> Question:
    """Question of a command; typed words take precedence over the experiment and the size.

    If no text is given, the question in words is that in the header of the experiment's yaml.

    Raises:
        ConfigError: No cell is left, or a value is refused.
    """
    config, axes = composed(words, loader)
    typed = {axis.line.partition("=")[0]: axis for axis in axes}
    of_runs = {key: axis for key, axis in typed.items() if not axis.key.startswith("hydra")}
    sweeper, size = config.hydra.sweeper, config.size
    check_size(size)
    composer = Composer(loader, config)
    engine = to_engine(config)
    looks = [*sweeper.looks]
    if "hydra.sweeper.looks" not in typed and size.looks:
        looks = [*size.looks]
    declared: Any = OmegaConf.to_container(sweeper.declare, resolve=True)
    choice = str(config.hydra.runtime.choices["size"])
    chosen = None
    if not sweeper.blocks and sweeper.candidates is None:
        if choice != USUAL_SIZE:
            raise ConfigError(
                f"size={choice} scales an experiment, and none is given: add experiment=NAME, or "
                "type steps and seeds yourself"
            )
        runs = composer.runs([axis for axis in axes if not axis.key.startswith("hydra")])
    else:
        if sweeper.candidates is not None:
            sized = sized_candidates(
                sweeper.candidates, size.candidates, typed=typed, loader=loader
            )
            chosen = _candidates(sized, declared, of_runs, loader)
            check_looks(looks)
        for key in ("interactions", "levels"):
            if declared.get(key):
                declared[key] = sized_interactions(declared[key], size["scale"], typed=of_runs)
        blocks = sized_blocks(sweeper.blocks, size, top=config, typed=typed)
        runs = cells(blocks, of_runs, composer)
    if chosen is not None:
        declared["size"] = choice
        check_declaration(
            declared,
            {run.data.name: run.row.task for run in runs},
            known=loader.choices("data"),
            losses=loader.choices("loss"),
        )
    # An unusual size is the end of the sweep's name, unless the name was typed. It begins with a
    # hyphen, because `essay_full` is the name of an experiment.
    is_placed = any(axis.key in ("name", "hydra.sweep.dir") for axis in axes)
    ending = "" if is_placed or choice == USUAL_SIZE else f"-{choice}"
    is_experiment = any(axis.key == "experiment" for axis in axes)
    launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    return Question(
        name=config.name + ending,
        folder=Path(str(config.hydra.sweep.dir) + ending),
        cells=tuple(runs),
        candidates=chosen,
        looks=tuple(looks),
        first_seed=int(sweeper.first_seed),
        declared=declared,
        engine=engine,
        launcher=LauncherNode(**launcher),
        extensions=tuple(config.extensions),
        # Only an experiment has a report.
        report=str(config.report) if is_experiment else "none",
        command=command,
        text=text or _header(config),
    )


def _candidates(
    sized: Node, declared: records.Declaration, typed: Mapping[str, Axis], loader: Loader
) -> Candidates:
    """Checked candidates of an experiment, which refuse typed seeds and typed tuned values."""
    check_keys("candidates", sized, CANDIDATES)
    sized = {**CANDIDATES, **sized}
    check_extend(sized["extend"])
    others = sized["others"] or {}
    check_others(others, declared)
    candidates = Candidates(
        rates=tuple(sorted(listed_values("optimizer.lr", sized["lr"], loader))),
        extend=sized["extend"],
        others={
            key: [in_type_of_field(key, value) for value in values]
            for key, values in others.items()
        },
    )
    for key in ("optimizer.lr", *candidates.others):
        if key in typed:
            where = "candidates.lr" if key == "optimizer.lr" else "candidates.others"
            raise ConfigError(
                f"{key} is chosen for each loss: change the values that are tried with "
                f"hydra.sweeper.{where}, or sweep it yourself with 'lossbench -m ...' without "
                "an experiment"
            )
    if "seed" in typed:
        raise ConfigError(
            f"{typed['seed'].line}: an experiment declares its numbers of seeds: declare others, "
            "with hydra.sweeper.looks=[...] and name=NAME. Verdicts on runs that exist already are "
            "exploratory there"
        )
    return candidates


def _header(config: DictConfig) -> str:
    """Question in the header of the experiment's yaml; empty if no experiment is chosen."""
    name = config.hydra.runtime.choices.get("experiment")
    for source in config.hydra.runtime.config_sources:
        path = Path(source.path) / "experiment" / f"{name}.yaml"
        if name and source.schema == "file" and path.is_file():
            return records.question_in(path.read_text())
    return ""
