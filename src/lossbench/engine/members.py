"""Members of a pack: runs, data of their seeds, models as stacked tensors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from lossbench.data import DATA
from lossbench.data.corruption import realised
from lossbench.data.splits import Splits, dense
from lossbench.engine.batches import Batches, augmentation_words, batch_indices
from lossbench.engine.bayes import BayesPoints
from lossbench.engine.machine import Machine
from lossbench.engine.memory_layout import guarded, guards
from lossbench.fingerprints import tensors_sha
from lossbench.losses.links import PROBABILITY_LINKS
from lossbench.models import MODELS, called, initialised, rescaled, stacked, widened
from lossbench.models.start import STARTS
from lossbench.optimizers import Hyperparameters
from lossbench.question import PRECISIONS, Run
from lossbench.question.packs import Pack, slices
from lossbench.user_code import restoring_process_state

log = logging.getLogger(__name__)

Span = tuple[slice, Run]
"""Slice of adjacent members with the same loss, and a run with that loss."""

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


@dataclass(frozen=True)
class Members:
    """K members: the runs of a pack, followed by repetitions of the last run.

    Attributes:
        runs: The K runs.
        is_apart: Whether each member computes alone, see `runs_apart`.
        recorded_count: Number of members that are recorded: the first members.
        spans: Slices of adjacent members with the same loss, over the whole pack.
        inputs, targets, posterior, distributions: By split, [S, N, ...], see `Splits`.
        clean: Train and validation targets before corruption, by split, [S, N, ...]; empty without
            corruption.
        data_columns: Columns of the table `runs` that describe the data of a seed, by seed: effect
            of corruption on the training targets, and scale of the targets.
        class_counts: Training targets summed over examples, [S, C].
        batches: Batches of every step.
        bayes: Prediction of least expected loss by split, [K, N, C]; only for a test split with a
            known posterior. NaN where the prediction is not defined.
        fingerprints: By seed: init_sha, batch_sha and data_sha.
        model: Module whose forward pass all members share.
        parameters, buffers: Initial values by name, [K, ...].
    """

    runs: tuple[Run, ...]
    is_apart: bool
    recorded_count: int
    spans: list[Span]
    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    posterior: dict[str, Tensor]
    distributions: dict[str, Tensor]
    clean: dict[str, Tensor]
    data_columns: dict[int, dict[str, object]]
    class_counts: Tensor
    batches: Batches
    bayes: dict[str, Tensor]
    fingerprints: dict[int, dict[str, str]]
    model: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @property
    def seed_index(self) -> Tensor:
        """Index [K] of each member's seed among the S seeds."""
        return self.batches.seed_index

    @property
    def device(self) -> torch.device:
        """Device on which the members train."""
        return self.seed_index.device

    @cached_property
    def hyper(self) -> Hyperparameters:
        """Learning rate, momentum and weight decay, [K] each."""
        dtype = PRECISIONS[self.runs[0].precision]
        rows = [(run.lr, run.momentum, run.weight_decay) for run in self.runs]
        columns = (torch.tensor(column, dtype=dtype) for column in zip(*rows, strict=True))
        return Hyperparameters(*(column.to(self.device) for column in columns))

    @cached_property
    def is_probability(self) -> Tensor:
        """Flags [K]: whether the inverse link of a member gives probabilities."""
        return self._flags(run.row.inverse_link in PROBABILITY_LINKS for run in self.runs)

    @cached_property
    def has_error(self) -> Tensor:
        """Flags [K]: whether each of the first C outputs of a member has an error, see `Loss`."""
        return self._flags(run.row.has_error for run in self.runs)

    @cached_property
    def is_distribution(self) -> Tensor:
        """Flags [K]: whether the prediction of a member estimates the distribution of the label.

        A probability does, and so does any prediction that is trained with a strictly proper loss.
        """
        is_proper = self._flags("strictly_proper" in run.row.claims for run in self.runs)
        return self.is_probability | is_proper

    def _flags(self, flags: Iterable[bool]) -> Tensor:
        return torch.tensor([*flags], device=self.device)

    def inputs_of(self, split: str, rows: slice) -> Tensor:
        """Inputs [K, n, ...] of all members at some rows of a split."""
        inputs = self.inputs[split][:, rows]
        if inputs.stride(0) == 0 or len(inputs) == 1:
            return inputs[0].expand(len(self.runs), *inputs.shape[1:])
        return inputs[self.seed_index]

    def rows_of(self, values: Tensor, output: Tensor) -> Tensor:
        """Dense rows [K, n, C] of values by seed [S, N, ...] (targets) for outputs [K, n, W]."""
        examples = output.shape[1] // self.batches.positions
        return self.batches.dense(values[:, :examples][self.seed_index])

    def predict(self, output: Tensor) -> Tensor:
        """Predictions [K, N, C] of outputs [K, N, W], through the inverse link of each member."""
        return torch.cat(
            [
                run.row.predict(guarded(output, span), run.loss.params)[: span.stop - span.start]
                for span, run in self.spans
            ]
        )

    def subset(self, indices: Sequence[int]) -> Members:
        """Members at some indices as a separate pack, with its own runs, spans and batches.

        Initial values are still the values of all members.
        """
        runs = tuple(self.runs[index] for index in indices)
        order = [self.batches.order[index] for index in indices]
        batches = replace(self.batches, seed_index=self.seed_index[[*indices]], order=order)
        return replace(self, runs=runs, spans=slices(Pack("", runs)), batches=batches)


def assemble(pack: Pack, splits_by_seed: Mapping[int, Splits], machine: Machine) -> Members:
    """Members of a pack with their data, batches and initial values, on the machine's device.

    Raises:
        ValueError: The batch is larger than the training split.
    """
    seeds, first = sorted({run.seed for run in pack.runs}), pack.runs[0]
    device, dtype = machine.device, PRECISIONS[first.precision]
    data = [splits_by_seed[seed] for seed in seeds]
    models = [
        initial_model(first, splits, seed=seed).to(dtype)
        for seed, splits in zip(seeds, data, strict=True)
    ]
    two_examples = _placed(data[0].inputs["train"][:2], device, dtype)
    is_apart = runs_apart(first.model.name, copy.deepcopy(models[0]).to(device), two_examples)
    runs = pack.runs
    if not is_apart:  # repetitions of the last run: as guards, and up to `padding` members
        sizes = [len(inputs) for splits in data for inputs in splits.inputs.values()]
        fewest = data[0].positions * min(first.batch_size, *sizes)
        count = max(machine.padding, len(runs) + guards(fewest, device))
        runs += (runs[-1],) * (count - len(runs))
    spans = slices(Pack(pack.pack_id, runs))
    order = [seeds.index(run.seed) for run in runs]
    examples = len(data[0].inputs["train"])
    draws = [
        {
            "batches": batch_indices(seed, examples, first.steps, first.batch_size),
            **augmentation_words(first, seed),
        }
        for seed in seeds
    ]
    shas = [
        {
            "init_sha": tensors_sha(model.state_dict()),
            "batch_sha": tensors_sha(drawn),
            "data_sha": splits.sha,
        }
        for model, drawn, splits in zip(models, draws, data, strict=True)
    ]
    # Additional outputs of a loss start at zero, so that init_sha is the same for all losses.
    outputs, times = data[0].outputs, first.row.outputs_per_target
    models = [widened(model, outputs=outputs, times=times) for model in models]
    tensors = {name: value.to(device) for name, value in stacked(models, order).items()}
    trainable = dict(models[0].named_parameters())
    stacks = {name: torch.stack([drawn[name] for drawn in draws]).to(device) for name in draws[0]}
    by_split = _members_data(data, first, device, dtype)
    batches = Batches(
        run=first,
        inputs=by_split["inputs"]["train"],
        targets=by_split["targets"]["train"],
        outputs=outputs,
        positions=data[0].positions,
        rows=stacks["batches"],
        words=stacks.get("words"),
        seed_index=torch.as_tensor(order, device=device),
        order=order,
    )
    return Members(
        runs=runs,
        is_apart=is_apart,
        recorded_count=len(pack.runs),
        spans=spans,
        **by_split,
        bayes=_bayes_targets(spans, data, order, machine.bayes_points, device, dtype),
        data_columns={
            seed: {
                **realised(splits),
                "target_scale": splits.target_scale,
                **{f"{split}_examples": len(rows) for split, rows in splits.inputs.items()},
            }
            for seed, splits in zip(seeds, data, strict=True)
        },
        class_counts=torch.stack([splits.class_counts for splits in data]).to(device, dtype),
        batches=batches,
        fingerprints=dict(zip(seeds, shas, strict=True)),
        model=models[0].to(device),
        parameters={name: value for name, value in tensors.items() if name in trainable},
        buffers={name: value for name, value in tensors.items() if name not in trainable},
    )


def _members_data(
    data: Sequence[Splits], run: Run, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, Tensor]]:
    """The attributes of `Members` that hold data by split, on the device."""
    posterior = _by_split([splits.posterior for splits in data], device, dtype)
    distributions = posterior
    if run.has_teacher:
        distributions = _by_split([splits.distributions for splits in data], device, dtype)
    # Without the test split, which no corruption touches.
    clean = [
        {split: values for split, values in splits.clean.items() if split != "test"}
        for splits in data
    ]
    return {
        "inputs": _by_split([splits.inputs for splits in data], device, dtype),
        "targets": _by_split([splits.targets for splits in data], device, dtype),
        "posterior": posterior,
        "distributions": distributions,
        "clean": _by_split(clean, device, dtype),
    }


def _bayes_targets(
    spans: Sequence[Span],
    data: Sequence[Splits],
    order: Sequence[int],
    bayes_points: BayesPoints,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Attribute `Members.bayes`; empty if training labels do not follow the posterior of test.

    Corrupted labels and the predictions of a teacher have distributions other than the posterior.
    """
    run = spans[0][1]
    is_corrupted = run.corruption.fn not in ("none", "few_samples")
    is_other = is_corrupted or run.has_teacher or DATA[run.data.fn].is_multilabel
    if "test" not in data[0].posterior or is_other:
        return {}
    posteriors = [splits.posterior["test"].flatten(0, -2) for splits in data]
    counts = [splits.class_counts for splits in data]
    predictions = []
    for span, run_of_span in spans:
        seeds = sorted({*order[span]})
        solved = bayes_points.of(
            run_of_span, [posteriors[index] for index in seeds], [counts[index] for index in seeds]
        )
        predictions += [solved[seeds.index(index)] for index in order[span]]
    return {"test": torch.stack(predictions).to(device, dtype)}


def initial_model(run: Run, splits: Splits, *, seed: int) -> nn.Module:
    """Model of a run at the start of training on the data of a seed, with one output per target."""
    inputs, targets = splits.inputs["train"], splits.targets["train"]
    targets = dense(targets[None], classes=splits.outputs, dtype=torch.float32)[0]
    function = MODELS[run.model.fn].fn
    build = partial(function, *splits.sizes, **run.model.params)
    with restoring_process_state(f"model {run.model.name}", function):
        model = initialised(build, seed=seed)
    STARTS[run.init.start](model, inputs, targets, seed=seed, before=splits.start)
    return rescaled(model, output_scale=run.init.output_scale)


def runs_apart(name: str, model: nn.Module, inputs: Tensor) -> bool:
    """Whether members compute one after the other, so that kernels do not depend on K.

    On the CPU, convolutions are faster for one member after the other than for a whole pack.
    Modules that `vmap` refuses can only run one after the other. Buffers of the model may change.
    `name` is that of the model, `inputs` are two examples.
    """
    if inputs.device.type == "cpu" and any(
        isinstance(part, CONVOLUTIONS) for part in model.modules()
    ):
        return True
    state = {key: value.detach()[None] for key, value in model.state_dict().items()}
    try:
        with torch.no_grad():
            torch.func.vmap(called(model))(state, {}, inputs[None])
    except (RuntimeError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        log.warning(
            "%s cannot be vectorised (%s): its members are computed one by one", name, first
        )
        return True
    return False


def _by_split(
    parts: Sequence[Mapping[str, Tensor]], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensors of all seeds [S, N, ...] by split; a tensor that all seeds share is held once."""
    stacks = {}
    for split, first in parts[0].items():
        tensors = [part[split] for part in parts]
        if all(tensor is first for tensor in tensors):
            placed = _placed(first, device, dtype)
            stacks[split] = placed.expand(len(tensors), *first.shape)
        else:
            stacks[split] = _placed(torch.stack(tensors), device, dtype)
    return stacks


def _placed(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Values on a device; floats get the type `dtype`, tokens and labels remain integers."""
    return values.to(device, dtype if values.is_floating_point() else values.dtype)
