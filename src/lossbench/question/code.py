"""Fingerprints of the code that a run uses, and refusal of runs whose code was edited."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from lossbench import fingerprints
from lossbench.data import DATA
from lossbench.data.augmentation import AUGMENTATIONS
from lossbench.data.corruption import CORRUPTIONS, takes_confusions
from lossbench.data.splits import set_aside
from lossbench.data.targets import TARGETS
from lossbench.errors import ConfigError
from lossbench.fingerprints import source_sha
from lossbench.losses import LOSSES
from lossbench.losses.links import INVERSE_LINKS
from lossbench.models import MODELS
from lossbench.models.start import STARTS
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.question.run import Run
from lossbench.user_code import is_added


def code_of(run: Run) -> dict[str, str]:
    """Hashes of a run's code: `source_sha` of all code, `shared_sha` of all but the loss."""
    row, data = LOSSES[run.loss.fn], DATA[run.data.fn]
    # Neutral choices do nothing, so their code is not hashed.
    optional = (
        (CORRUPTIONS[run.corruption.fn], run.corruption.fn == Run.corruption.fn),
        (AUGMENTATIONS[run.augmentation.fn], run.augmentation.fn == Run.augmentation.fn),
        (TARGETS[run.targets], run.targets == Run.targets),
        (STARTS[run.init.start], run.init.start == Run.init.start),
    )
    shared = [
        *(data.fn, MODELS[run.model.fn].fn),
        *(OPTIMIZERS[run.optimizer.fn], SCHEDULES[run.schedule.fn]),
        *(function for function, is_neutral in optional if not is_neutral),
    ]
    if run.is_pretrained:
        before = run.pretrained
        model = MODELS[before.model or run.model.fn]
        shared += [set_aside, LOSSES[before.loss].fn, model.fn]
    facts = data.content_of(run.data.params)
    if _takes_confusions(run.corruption.fn):  # confusions are in the row of the data
        facts += repr(sorted(data.confusions.items()))
    return _code_shas((row.fn, INVERSE_LINKS[row.inverse_link]), tuple(shared), facts)


_takes_confusions = functools.cache(takes_confusions)


def refuse_other_code(runs: Iterable[Run]) -> None:
    """Refuse runs whose loss, data set or model was edited after the run was made."""
    for run in runs:
        rows = (LOSSES[run.loss.fn], DATA[run.data.fn], MODELS[run.model.fn])
        if any(map(is_added, rows)):
            continue
        if code_of(run) != {"source_sha": run.source_sha, "shared_sha": run.shared_sha}:
            raise ConfigError(
                f"run {run.run_id}: code of loss {run.loss.name}, data {run.data.name} or model "
                f"{run.model.name} was edited after the command started: give the command again"
            )


def forget() -> None:
    """Clear the caches of code hashes: in a notebook, code may change between two commands."""
    _code_shas.cache_clear()
    fingerprints.forget()


@functools.cache
def _code_shas(
    loss: tuple[Callable[..., object], ...], shared: tuple[Callable[..., object], ...], facts: str
) -> dict[str, str]:
    return {
        "source_sha": source_sha([*loss, *shared], facts=facts),
        "shared_sha": source_sha(shared, facts=facts),
    }
