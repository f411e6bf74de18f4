"""The code that a run uses: its fingerprints, and the refusal of code that was edited since."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from lossbench.data import DATA
from lossbench.data.augmentation import AUGMENTATIONS
from lossbench.data.corruption import CORRUPTIONS, takes_confusions
from lossbench.data.targets import TARGETS
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.losses.links import INVERSE_LINKS
from lossbench.models import MODELS
from lossbench.models.start import STARTS
from lossbench.optimizers import OPTIMIZERS, SCHEDULES
from lossbench.pairing import source_sha
from lossbench.runs.run import Draft, Run


def code_of(draft: Draft) -> dict[str, str]:
    """`source_sha` of all code that a run uses, and `shared_sha` of all but its loss."""
    parts = (draft.loss, draft.data, draft.model, draft.corruption, draft.augmentation)
    functions = [part.fn for part in (*parts, draft.optimizer, draft.schedule)]
    return _code_shas(*functions, draft.targets, draft.init.start)


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
        (CORRUPTIONS[corruption], corruption == Draft.corruption.fn),
        (AUGMENTATIONS[augmentation], augmentation == Draft.augmentation.fn),
        (TARGETS[targets], targets == Draft.targets),
        (STARTS[start], start == Draft.init.start),
    )
    shared += [function for function, is_neutral in optional if not is_neutral]
    # The confusions stand in the row of the data, which is no function.
    facts = repr(sorted(DATA[data].confusions.items())) if takes_confusions(corruption) else ""
    return {
        "source_sha": source_sha([row.fn, INVERSE_LINKS[row.inverse_link], *shared], facts=facts),
        "shared_sha": source_sha(shared, facts=facts),
    }
