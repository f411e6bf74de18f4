"""Checks of data, models, losses and update rules before any training; data of a run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from lossbench.data import DATA, Splits
from lossbench.data.augmentation import AUGMENTATIONS, WORDS
from lossbench.data.corruption import DROPPING, corrupted
from lossbench.data.files import Files
from lossbench.data.splits import dense, problem_of, set_aside, standardised
from lossbench.data.targets import TARGETS
from lossbench.engine import (
    batch_indices,
    refuse_too_large,
    refuse_unfit,
    refuse_unpaired,
    refuse_unwidened,
)
from lossbench.errors import describe_error
from lossbench.losses.spec import Context
from lossbench.models import MODELS, hidden_matrices
from lossbench.optimizers import BY_MATRIX, OPTIMIZERS, SCHEDULES, Hyperparameters, fresh_state
from lossbench.question import ConfigError, Run
from lossbench.sweep.first_call import PASSED, FirstCalls
from lossbench.sweep.pretrained import run_before
from lossbench.user_code import Own, draw_from_global_generators, is_own, restoring_process_state

log = logging.getLogger(__name__)

NOTHING = Own()
FILES = Files()
"""Files of data sets in the folder `data`, without downloads."""


def splits_of(run: Run, files: Files = FILES) -> Splits:
    """Data of a run for its seed, with the run's kind of targets and its corruption.

    If a model is trained before the run, the data of that model are set aside; `with_pretrained`
    adds the targets that a teacher gives.
    """
    row, corruption = DATA[run.data.fn], run.corruption
    with restoring_process_state(f"data {run.data.name}", row.fn):
        splits = row.splits(run.seed, files, run.data.params)
    if is_own(row.fn) and (
        problem := problem_of(splits, task=row.task, is_multilabel=row.is_multilabel)
    ):
        raise ValueError(problem)
    if run.is_pretrained:
        splits = set_aside(splits, share=run.pretrained.share)
    return corrupted(
        TARGETS[run.targets](splits),
        name=corruption.fn,
        seed=run.seed,
        params=corruption.params,
        confusions=row.confusions,
    )


def preflight(
    runs: Iterable[Run],
    files: Files = FILES,
    *,
    seeds: Iterable[int] = (),
    own: Own = NOTHING,
    patience: float = 60.0,
) -> None:
    """Build the data, the model and the batches of each kind of run once, before any training.

    The data of every seed are built if they are the user's own, or if every seed draws other data
    and a corruption drops rows. If all seeds share the test data, two seeds are built and compared.

    The user's own data are also built for the `seeds` of later looks. The user's own functions are
    called in a trial process first, in which a call may take `patience` seconds.

    Raises:
        ConfigError: A part refuses its parameters, or returns invalid values.
    """
    runs = list(runs)
    with FirstCalls(own, patience=patience) as first:
        _check_data(runs, files, seeds, first)
        _check_models_and_losses(runs, files, first)
    for run in {repr((run.optimizer, run.schedule)): run for run in runs}.values():
        # Schedule and optimizer are called once, on a matrix of two rows.
        one = {"w": torch.ones(1, 2, 2)}
        hyper = Hyperparameters(*(torch.zeros(1),) * 3)
        given = {"matrices": {"w"}} if run.optimizer.fn in BY_MATRIX else {}
        state = fresh_state(run.optimizer.fn, one)
        try:
            SCHEDULES[run.schedule.fn](0, run.steps, **run.schedule.params)
            OPTIMIZERS[run.optimizer.fn](
                one, one, state, step=0, hyper=hyper, **given, **run.optimizer.params
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _check_data(runs: Sequence[Run], files: Files, seeds: Iterable[int], first: FirstCalls) -> None:
    for by_seed in _by_kind_and_seed(run for run in runs if is_own(DATA[run.data.fn].fn)):
        run = next(iter(by_seed.values()))
        first.call_once("data", run.data, run.seed, files)
        if DATA[run.data.fn].drawn == "fixed":  # every seed has the same
            _check_own_data({run.seed: run}, files)
        else:
            later = {seed: replace(run, seed=seed) for seed in seeds}
            _check_own_data(later | by_seed, files)
    drawn_and_dropped = {
        repr((run.data, run.targets, run.corruption, run.pretrained, run.seed)): run
        for run in runs
        if run.corruption.fn in DROPPING and DATA[run.data.fn].drawn != "fixed"
    }
    for run in drawn_and_dropped.values():
        title = f"data {run.data.name}, corruption {run.corruption.name}, seed {run.seed}"
        _data(run, files, title)
    resplit = (run for run in runs if DATA[run.data.fn].drawn == "resplit")
    for by_seed in _by_kind_and_seed(resplit):
        for run, other in itertools.pairwise([*by_seed.values()][:2]):
            name, parts = run.data.name, []
            for one in (run, other):
                rows = _data(one, files, f"data {name}").targets["test"].double()
                parts.append(standardised({"train": rows})[0]["train"])
            if parts[0].shape != parts[1].shape or not torch.allclose(*parts, atol=1e-3):
                raise ConfigError(
                    f"data {name}: seeds {run.seed} and {other.seed} have other test examples, and "
                    "its row says drawn='resplit': draw rows with lossbench.data.splits.permuted, "
                    "or say drawn='generated'"
                )


def _check_models_and_losses(runs: Sequence[Run], files: Files, first: FirstCalls) -> None:
    kinds: dict[str, dict[str, Run]] = {}
    for run in reversed(runs):
        kind = (run.data, run.targets, run.corruption, run.augmentation, run.model)
        kind += (run.batch_size, run.init, run.row.outputs_per_target)
        kind += (run.optimizer.fn in BY_MATRIX, run.pretrained)
        kinds.setdefault(repr(kind), {})[repr(run.loss)] = run
    for by_loss in kinds.values():
        run = next(iter(by_loss.values()))
        splits = _data(run, files, f"data {run.data.name}")
        _check_model(run, splits, first)
        if splits.aside is not None:
            _check_model(run_before(run), splits.aside, first)
        counts = splits.class_counts
        targets = splits.targets["train"][None, : run.batch_size]
        targets = dense(targets, classes=len(counts), dtype=torch.float32)[0]
        for one in by_loss.values():
            first.call_once("loss", one.loss, len(counts))
            # `engine.training_losses` is not used, because there is no pack yet.
            context = Context.outside_training(counts)
            output = torch.zeros(len(targets), one.row.outputs_per_target * targets.shape[-1])
            try:
                with restoring_process_state(f"loss {one.loss.name}", one.row.fn):
                    one.row.values(output, targets.clone(), one.loss.params, context)
            except ValueError as error:
                raise ConfigError(f"loss {one.loss.name}: {error}") from error
            except Exception as error:
                # The loss fails its own runs only, and the records of these runs say why.
                log.warning(
                    "loss %s raised %s: %s. Its runs will fail, all others train",
                    one.loss.name,
                    type(error).__name__,
                    error,
                )


def _check_model(run: Run, splits: Splits, first: FirstCalls) -> None:
    """Build the model and a batch, and call the augmentation, to find errors before training."""
    function = MODELS[run.model.fn].fn
    first.call_once("model", run.model, *splits.sizes)
    try:
        inputs = splits.inputs["train"]
        batch_indices(run.seed, len(inputs), 1, run.batch_size)
        if run.augmentation.fn != "none":
            words = torch.zeros(1, WORDS, dtype=torch.int32)
            AUGMENTATIONS[run.augmentation.fn](inputs[:1], words, **run.augmentation.params)
        build = partial(function, *splits.sizes, **run.model.params)
        with restoring_process_state(f"model {run.model.name}", function):
            refuse_too_large(build)
            refuse_unpaired(build, inputs[: run.batch_size])
            if is_own(function):  # lossbench's own models are tested
                refuse_unfit(build, inputs[: run.batch_size], outputs=splits.outputs)
            times = run.row.outputs_per_target
            refuse_unwidened(build, inputs[: run.batch_size], times=times)
            if run.optimizer.fn in BY_MATRIX and not hidden_matrices(build()):
                raise ValueError(
                    f"it has no hidden layer whose matrix {run.optimizer.name} could "
                    "update: use optimizer=adamw, which would train the same here"
                )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"data {run.data.name}, model {run.model.name}: {error}") from error
    except Exception as error:
        message, _ = describe_error(error, function)
        raise ConfigError(f"model {run.model.name}: {message}") from error


def _by_kind_and_seed(runs: Iterable[Run]) -> Iterable[dict[int, Run]]:
    """One run by seed, for each data set with its parameters, targets and corruption."""
    kinds: dict[str, dict[int, Run]] = {}
    for run in runs:
        kind = repr((run.data, run.targets, run.corruption))
        kinds.setdefault(kind, {}).setdefault(run.seed, run)
    return kinds.values()


def _check_own_data(by_seed: Mapping[int, Run], files: Files) -> None:
    """Refuse the user's data if invalid, not reproducible, or of different shapes by seed."""
    keys = {
        ("splits", repr((run.data, run.targets, run.corruption)), DATA[run.data.fn].fn, seed)
        for seed, run in by_seed.items()
    }
    if keys <= PASSED:
        return
    first: Splits | None = None
    for seed, run in sorted(by_seed.items()):
        title = f"data {run.data.name}, seed {seed}"
        splits = _data(run, files, title)
        if first is None:
            first = splits
            with restoring_process_state(title):
                draw_from_global_generators()  # they differ in another process
                again = _data(run, files, title)
            if again.sha != splits.sha:
                raise ConfigError(
                    f"{title}: two calls give different numbers, so runs of one seed "
                    f"could not be paired: draw from a generator that the seed makes, as "
                    "lossbench.fingerprints.stream(seed, 'data')"
                )
        for part in ("inputs", "targets"):
            shapes, first_shapes = (
                {split: tuple(rows.shape) for split, rows in getattr(one, part).items()}
                for one in (splits, first)
            )
            if shapes != first_shapes:
                raise ConfigError(
                    f"{title}: {part} of shapes {shapes}, those of another seed {first_shapes}: "
                    "every seed needs as many examples, inputs and outputs"
                )
    if first is not None and replace(first).sha != first.sha:
        raise ConfigError(
            f"data {run.data.name}: what a call returned changes with the next call: return "
            "tensors of its own each time, as with .clone()"
        )
    PASSED.update(keys)


def _data(run: Run, files: Files, title: str) -> Splits:
    """Data of a run; any error becomes a `ConfigError` that begins with the title."""
    try:
        return splits_of(run, files)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{title}: {error}") from error
    except Exception as error:
        message, _ = describe_error(error, DATA[run.data.fn].fn)
        raise ConfigError(f"{title}: {message}") from error
