"""The identity of a run: a hash of what it is, and of the code that it uses."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from lossbench.data import DATA
from lossbench.data.augmentation import AUGMENTATIONS
from lossbench.data.corruption import CORRUPTIONS, takes_confusions
from lossbench.data.targets import TARGETS
from lossbench.losses import LOSSES
from lossbench.losses.links import INVERSE_LINKS
from lossbench.models import MODELS
from lossbench.models.start import STARTS
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.pairing import source_sha
from lossbench.runs.errors import ConfigError
from lossbench.runs.run import Run

ENGINE_SCHEMA = 2
"""Rises when a change of the engine, the optimizers or the schedules alters results."""

NO_CHANGE = {"name": "none", "fn": "none", "params": {}}
NEUTRAL = {
    "corruption": NO_CHANGE,
    "augmentation": NO_CHANGE,
    "targets": "sampled",
    "init": {"from": "random", "output_scale": 1.0},
    "signal": "own",
    "instruments": [],
}
"""Values of factors that change nothing."""


def run_id(facts: Mapping[str, Any]) -> str:
    """16 hex digits of sha256 over canonical facts and the engine's schema number.

    Neutral values do not count, so that a factor may be added without orphaning older sweeps.
    """
    canonical = json.dumps(
        {"engine": ENGINE_SCHEMA, **without_neutral(facts)}, sort_keys=True, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def without_neutral(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without those that change nothing: what the identity of a run is made of."""
    return {name: value for name, value in facts.items() if NEUTRAL.get(name) != value}


def code_of(run: Run) -> dict[str, str]:
    """`source_sha` of all code that a run uses, and `shared_sha` of all but its loss."""
    parts = (run.loss, run.data, run.model, run.corruption, run.augmentation)
    functions = [part.fn for part in (*parts, run.optimizer, run.schedule)]
    return _code_shas(*functions, run.targets, run.init.start)


def refuse_other_code(runs: Iterable[Run]) -> None:
    """Refuse runs that were made from other code than a process would train them with.

    Raises:
        ConfigError: A loss, data set or model was edited since.
    """
    for run in runs:
        if code_of(run) != {"source_sha": run.source_sha, "shared_sha": run.shared_sha}:
            raise ConfigError(
                f"run {run.run_id}: code of loss {run.loss.name}, data {run.data.name} or model "
                f"{run.model.name} was edited since it was asked for: give the command again"
            )


@functools.cache
def _code_shas(
    loss: str,
    data: str,
    model: str,
    corruption: str,
    augmentation: str,
    optimizer: str,
    schedule: str,
    targets: str,
    start: str,
) -> dict[str, str]:
    row = LOSSES[loss]
    shared = [DATA[data].fn, MODELS[model].fn, OPTIMIZERS[optimizer], SCHEDULES[schedule]]
    # The neutral ones do nothing, so their code decides nothing.
    optional = (
        (CORRUPTIONS[corruption], corruption == "none"),
        (AUGMENTATIONS[augmentation], augmentation == "none"),
        (TARGETS[targets], targets == NEUTRAL["targets"]),
        (STARTS[start], start == NEUTRAL["init"]["from"]),
    )
    shared += [function for function, is_neutral in optional if not is_neutral]
    # The confusions stand in the row of the data, which is no function.
    facts = repr(sorted(DATA[data].confusions.items())) if takes_confusions(corruption) else ""
    return {
        "source_sha": source_sha([row.fn, INVERSE_LINKS[row.inverse_link], *shared], facts=facts),
        "shared_sha": source_sha(shared, facts=facts),
    }
