"""The members of a pack as stacked tensors: parameters, data, batches, and what each run is."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lossbench.data.augmentation import AUGMENTATIONS, WORDS, drawn
from lossbench.data.corruption import realised
from lossbench.data.splits import Splits
from lossbench.engine.bayes import bayes_predictions
from lossbench.losses.links import PROBABILITY_LINKS
from lossbench.losses.spec import Context, Loss
from lossbench.models import MODELS, called, initialised, rescaled, stacked, widened
from lossbench.models.start import STARTS
from lossbench.optimizers import Hyperparameters
from lossbench.pairing import stream, tensors_sha
from lossbench.runs import PRECISIONS, Run
from lossbench.runs.packs import Pack, slices

log = logging.getLogger(__name__)

EVERYONE = slice(None)

GUARD_ELEMENTS = 64
"""At least two vectors of the widest instruction set."""


@dataclass(frozen=True)
class Batch:
    """The inputs of a batch, held once for each seed.

    Attributes:
        inputs: [S, B, ...].
        places: Which of the S each member has, [k].
        order: The same as numbers.
    """

    inputs: Tensor
    places: Tensor
    order: list[int]

    @property
    def all(self) -> Tensor:
        """Of every member, [k, B, ...]."""
        is_each_once = self.order == [*range(len(self.inputs))]
        return self.inputs if is_each_once else self.inputs.index_select(0, self.places)

    def some(self, own: slice) -> Tensor:
        """Of some members, [n, B, ...]; on the CPU no copy where they are of one seed or a row.

        Elsewhere always one: kernels are chosen by how tensors lie, and bits with them.
        """
        order = self.order[own]
        first, count = order[0], len(order)
        if self.inputs.device.type == "cpu":
            if order == [first] * count:
                return self.inputs[first].expand(count, *self.inputs.shape[1:])
            if order == [*range(first, first + count)]:
                return self.inputs[first : first + count]
        return self.inputs.index_select(0, self.places[own])


@dataclass(frozen=True)
class Members:
    """K members: the runs of a pack, and repetitions of the last one behind them.

    Attributes:
        runs: The K runs.
        is_apart: Whether each computes on its own, see `runs_apart`.
        recorded: How many of them, from the first on, are recorded.
        spans: Contiguous places that share one loss, with a run that has it.
        places: [K], which of the S seeds each member has.
        inputs, targets, posterior: By split, [S, N, ...].
        clean: Train and validation targets before they were corrupted, by split, [S, N, C]; empty
            where they were not.
        corruption: By seed, what it did to the training targets: columns of the table `runs`.
        class_counts: Training targets summed over examples, [S, C].
        batches: Rows of the training split, [S, T, B].
        words: Random numbers of the augmentation, [S, T, B, WORDS]; None where there is none.
        hyper: Learning rate, momentum and weight decay, [K] each.
        is_probability: [K], whether the member's inverse link gives probabilities.
        is_distribution: [K], whether its prediction is to be the distribution of the label: a
            probability, or what a strictly proper loss makes of any other link.
        bayes: By split, [K, N, C], what the member's loss aims at; of the test split where its
            posterior is known and the stage may see it. NaN where it is not defined.
        fingerprints: By seed: init_sha, batch_sha and data_sha.
        model: The module whose forward all members share.
        parameters, buffers: Initial values by name, [K, ...].
    """

    runs: tuple[Run, ...]
    is_apart: bool
    recorded: int
    spans: list[tuple[slice, Run]]
    places: Tensor
    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    posterior: dict[str, Tensor]
    clean: dict[str, Tensor]
    corruption: dict[int, dict[str, Any]]
    class_counts: Tensor
    batches: Tensor
    words: Tensor | None
    hyper: Hyperparameters
    is_probability: Tensor
    is_distribution: Tensor
    bayes: dict[str, Tensor]
    fingerprints: dict[int, dict[str, str]]
    model: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def seen(self, split: str, rows: slice) -> Tensor:
        """Inputs [K, n, ...] of some rows of a split."""
        inputs = self.inputs[split][:, rows]
        if inputs.stride(0) == 0 or len(inputs) == 1:
            return inputs[0].expand(len(self.places), *inputs.shape[1:])
        return inputs[self.places]

    def clock(self, step: int) -> Tensor:
        """A step on the device, [1]: what is captured once reads its batch by it."""
        return torch.tensor([step], device=self.places.device)

    def rows(self, clock: Tensor) -> Tensor:
        """Rows of the training split that a step's batches are made of, [S, B]."""
        return self.batches.index_select(1, clock)[:, 0]

    @cached_property
    def order(self) -> list[int]:
        """`places` as numbers; asked for first by an update that is not captured."""
        return self.places.tolist()

    @cached_property
    def _seeds(self) -> Tensor:
        """Places of all seeds, [S]."""
        return torch.arange(len(self.batches), device=self.batches.device)

    def batch(self, clock: Tensor, own: slice = EVERYONE) -> tuple[Batch, Tensor]:
        """Inputs and targets [k, B, C] of a step [1], of some members."""
        rows, places, order = self.rows(clock), self.places[own], self.order[own]
        target = _rows_of(self.targets["train"], places, rows[places])
        # Once for each seed, but a member alone does not wait for the seeds of others.
        seeds = self._seeds
        if len(order) == 1:
            rows, seeds, places, order = rows[places], places, torch.zeros_like(places), [0]
        inputs = _rows_of(self.inputs["train"], seeds, rows)
        if self.words is not None:
            chosen, words = self.runs[0].augmentation, self.words.index_select(1, clock)[:, 0]
            inputs = AUGMENTATIONS[chosen.fn](inputs, words[seeds], **chosen.params)
        return Batch(inputs, places, order), target

    def context(self, span: slice, clock: Tensor) -> Context:
        """What a loss may know beside output and target, for a span with guards behind it.

        Args:
            span: Places of the members.
            clock: Step whose batch is trained on, [1].
        """
        places = self._guarded_places(span, self.batches.shape[-1])
        counts = self.class_counts[places][:, None]
        return Context(class_counts=counts, rows=self.rows(clock)[places])

    def own_losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Each member's own loss with its own parameters, mean over examples: [K].

        Args:
            output: [K, N, W].
            target: [K, N, C].
        """
        return torch.cat(
            [
                self.mean_losses(run.row, run.loss.params, span, output, target)
                for span, run in self.spans
            ]
        )

    def mean_losses(
        self, row: Loss, params: Mapping[str, Any], span: slice, output: Tensor, target: Tensor
    ) -> Tensor:
        """A loss of the members of a span, mean over examples that are of no batch: [k].

        Args:
            row: The loss.
            params: Its parameters.
            span: Places of the members.
            output: [K, N, W].
            target: [K, N, C].

        Returns:
            NaN for a member for which the loss raises, and for that member only.
        """
        count, leaf = span.stop - span.start, guarded(output, span)
        places = self._guarded_places(span, output.shape[1])
        try:
            context = Context.outside_training(self.class_counts[places][:, None])
            values = row.values(leaf, guarded(target, span), params, context)
            check_loss(values, leaf, row.name)
        except (Exception, SystemExit):
            if count == 1:
                return output.new_full((1,), torch.nan)
            singles = [slice(place, place + 1) for place in range(span.start, span.stop)]
            return torch.cat(
                [self.mean_losses(row, params, one, output, target) for one in singles]
            )
        return values[:count].contiguous().mean(-1)

    def _guarded_places(self, span: slice, examples: int) -> Tensor:
        own = self.places[span]
        return torch.cat([own, own[-1:].expand(guards(examples, own.device))])

    def predict(self, output: Tensor) -> Tensor:
        """Predictions [K, N, C] of outputs [K, N, C], each through its own inverse link."""
        return torch.cat(
            [
                run.row.predict(guarded(output, span), run.loss.params)[: span.stop - span.start]
                for span, run in self.spans
            ]
        )


def gathered(
    pack: Pack, splits_by_seed: Mapping[int, Splits], *, device: torch.device, padding: int
) -> Members:
    """Everything a pack needs, on the device.

    Args:
        pack: The runs.
        splits_by_seed: Their data.
        device: Where to train.
        padding: Least number of members; kernels, and with them bits, are chosen by K.

    Raises:
        ValueError: The batch is larger than the training split.
    """
    seeds, first = sorted({run.seed for run in pack.runs}), pack.runs[0]
    dtype = PRECISIONS[first.precision]
    data = [splits_by_seed[seed] for seed in seeds]
    outputs = data[0].targets["train"].shape[-1]
    models = [
        started(first, splits, seed=seed).to(dtype)
        for seed, splits in zip(seeds, data, strict=True)
    ]
    fewest = min(first.batch_size, *(len(x) for splits in data for x in splits.inputs.values()))
    few = data[0].inputs["train"][:2].to(device, dtype)
    is_apart = runs_apart(first.model.name, copy.deepcopy(models[0]).to(device), few)
    behind = guards(fewest, device) if not is_apart else 0
    least = padding if not is_apart else 1
    runs = pack.runs + (pack.runs[-1],) * max(least - len(pack.runs), behind)
    spans = slices(Pack(pack.pack_id, runs))
    places = [seeds.index(run.seed) for run in runs]
    examples = len(data[0].inputs["train"])
    batches = [batch_indices(seed, examples, first.steps, first.batch_size) for seed in seeds]
    words = [_words(first, seed) for seed in seeds]
    targets = _by_split([splits.targets for splits in data], device, dtype)
    init_shas = [tensors_sha(model.state_dict()) for model in models]
    # Outputs that a loss has beyond the others' start at zero: what they share is what is equal.
    times = first.row.outputs_per_target
    models = [widened(model, outputs=outputs, times=times) for model in models]
    state = {name: value.to(device) for name, value in stacked(models, places).items()}
    trainable = dict(models[0].named_parameters())
    return Members(
        runs=runs,
        is_apart=is_apart,
        recorded=len(pack.runs),
        spans=spans,
        places=torch.as_tensor(places, device=device),
        inputs=_by_split([splits.inputs for splits in data], device, dtype),
        targets=targets,
        posterior=_by_split([splits.posterior for splits in data], device, dtype),
        clean=_by_split([_seen(splits.clean) for splits in data], device, dtype),
        corruption={seed: realised(splits) for seed, splits in zip(seeds, data, strict=True)},
        class_counts=targets["train"].sum(1),
        batches=torch.stack(batches).to(device),
        words=torch.stack([one["words"] for one in words]).to(device) if words[0] else None,
        hyper=Hyperparameters(
            *(
                torch.tensor([getattr(run, name) for run in runs], dtype=dtype, device=device)
                for name in ("lr", "momentum", "weight_decay")
            )
        ),
        is_probability=torch.tensor(
            [run.row.inverse_link in PROBABILITY_LINKS for run in runs], device=device
        ),
        is_distribution=torch.tensor(
            [
                run.row.inverse_link in PROBABILITY_LINKS or "strictly_proper" in run.row.claims
                for run in runs
            ],
            device=device,
        ),
        bayes=_bayes(spans, data, places, device, dtype),
        fingerprints={
            seed: {
                "init_sha": init_shas[place],
                "batch_sha": tensors_sha({"batches": batches[place], **words[place]}),
                "data_sha": data[place].sha,
            }
            for place, seed in enumerate(seeds)
        },
        model=models[0].to(device),
        parameters={name: value for name, value in state.items() if name in trainable},
        buffers={name: value for name, value in state.items() if name not in trainable},
    )


def _words(run: Run, seed: int) -> dict[str, Tensor]:
    """Random numbers of the augmentation, [T, B, WORDS]; nothing where there is none."""
    if run.augmentation.fn == "none":
        return {}
    words = drawn(stream(seed, "augmentation"), run.steps * run.batch_size)
    return {"words": words.view(run.steps, run.batch_size, WORDS)}


def _bayes(
    spans: list[tuple[slice, Run]],
    data: list[Splits],
    places: list[int],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """What the members' losses aim at on the test split, empty where there is no such thing.

    Corrupted labels come from another distribution than the posterior.
    """
    run = spans[0][1]
    is_corrupted = run.corruption.fn not in ("none", "few_samples")
    if run.stage == "tune" or "test" not in data[0].posterior or is_corrupted:
        return {}
    parts = []
    for span, run in spans:
        own = places[span]
        seeds = sorted(set(own))
        posteriors = [data[place].posterior["test"] for place in seeds]
        counts = [data[place].targets["train"].sum(0) for place in seeds]
        found = dict(zip(seeds, bayes_predictions(run, posteriors, counts), strict=True))
        parts += [found[place] for place in own]
    return {"test": torch.stack(parts).to(device, dtype)}


def started(run: Run, splits: Splits, *, seed: int) -> nn.Module:
    """A run's model as its training finds it, one output per target.

    Args:
        run: Its model and its `init` are used.
        splits: Data of the seed.
        seed: Block of the paired design.
    """
    inputs, targets = splits.inputs["train"], splits.targets["train"]
    build = partial(MODELS[run.model.fn].fn, *splits.sizes, **run.model.params)
    model = initialised(build, seed=seed)
    STARTS[run.init.start](model, inputs, targets, seed=seed)
    return rescaled(model, output_scale=run.init.output_scale)


def runs_apart(name: str, model: nn.Module, inputs: Tensor) -> bool:
    """Whether members compute one after the other, each on its own: no kernel is chosen by K then.

    On the CPU a pack of convolutions is slower than its members; what `vmap` refuses runs nowhere
    else.

    Args:
        name: Of the model, for the log.
        model: On the device; its buffers may change.
        inputs: Two examples, on the device.
    """
    if inputs.device.type == "cpu" and any(isinstance(part, _ConvNd) for part in model.modules()):
        return True
    state = {key: value.detach()[None] for key, value in model.state_dict().items()}
    try:
        with torch.no_grad():
            torch.func.vmap(called(model))(state, {}, inputs[None])
    except (RuntimeError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        log.warning("%s cannot be vectorised (%s): its members run one by one", name, first)
        return True
    return False


def _rows_of(values: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """Rows [K, B] of values [S, N, ...], each of the seed at its place [K]: [K, B, ...]."""
    if values.stride(0) == 0 or len(values) == 1:
        chosen = values[0].index_select(0, rows.flatten())
    else:
        starts = places[:, None] * values.shape[1]
        chosen = values.flatten(0, 1).index_select(0, (rows + starts).flatten())
    return chosen.view(*rows.shape, *values.shape[2:])


def guards(examples: int, device: torch.device) -> int:
    """Members to put behind the last one, so that its bits do not depend on its place.

    On the CPU torch computes the last elements of a whole tensor (fewer than two vectors) by
    other code than the rest, one unit in the last place apart for exp, log and tanh. Behind
    guards those elements are never a member's.

    Args:
        examples: Fewest elements of a member in any tensor: its batch or split.
        device: CUDA kernels treat all elements alike and need none.
    """
    return -(-GUARD_ELEMENTS // examples) if device.type == "cpu" else 0


def pieces(rows: int, at_once: int) -> list[slice]:
    """Slices of so many rows that go through a model at once.

    A rest of less than `GUARD_ELEMENTS` rows goes with the piece before it: what guards hold off
    must not reach the last row of a member in a smaller tensor than they were counted for.

    Args:
        rows: All of them.
        at_once: Rows of a piece.
    """
    count = max(1, rows // at_once)
    if rows - count * at_once >= min(GUARD_ELEMENTS, at_once):
        count += 1
    stops = [*range(at_once, count * at_once, at_once), rows]
    return [slice(*ends) for ends in itertools.pairwise([0, *stops])]


def guarded(values: Tensor, span: slice) -> Tensor:
    """A copy of the members [k, N, C] of a span with guards behind them."""
    own = values[span]
    count = guards(values.shape[1], values.device)
    return torch.cat([own, own[-1:].expand(count, *own.shape[1:])])


def check_loss(values: Tensor, output: Tensor, name: str) -> None:
    """Refuse what a loss may not return.

    Args:
        values: What it returned; should be one number of the output's type per example, [...].
        output: What it was given, [..., W].
        name: Of the loss.

    Raises:
        TypeError: No tensor, or one of another type.
        ValueError: Another shape.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"loss {name} returned {type(values).__name__}: return a tensor")
    if values.shape != output.shape[:-1]:
        raise ValueError(
            f"loss {name} returned shape {list(values.shape)} for outputs {list(output.shape)}: "
            "sum over the last dimension only"
        )
    if values.dtype != output.dtype:
        raise TypeError(f"loss {name} returned {values.dtype} for {output.dtype}: keep the type")


def batch_indices(seed: int, examples: int, steps: int, batch_size: int) -> Tensor:
    """Rows of each step's batch, [T, B]: permutations of all rows cut into batches.

    Args:
        seed: Block of the paired design.
        examples: Rows of the training split.
        steps: T.
        batch_size: B; what is left of a permutation is dropped.

    Raises:
        ValueError: B is larger than the training split.
    """
    if batch_size > examples:
        raise ValueError(
            f"batch_size is {batch_size}, the training split has {examples} examples: "
            f"use {examples} or less"
        )
    draw = stream(seed, "batches")
    per_epoch = examples // batch_size
    epochs = -(-steps // per_epoch)
    rows = [
        torch.randperm(examples, generator=draw)[: per_epoch * batch_size] for _ in range(epochs)
    ]
    return torch.cat(rows).view(-1, batch_size)[:steps]


def refuse_unpaired(build: Callable[[], nn.Module], inputs: Tensor) -> None:
    """Refuse modules whose members could not be proven equal, or would not train as they should.

    Args:
        build: Makes the module.
        inputs: One batch, [B, ...].

    Raises:
        ValueError: Its forward pass draws random numbers, or depends on more than its parameters
            and buffers; or it ties or freezes parameters.
    """
    model, other = (initialised(build, seed=seed) for seed in (0, 1))
    named = dict(model.named_parameters(remove_duplicate=False))
    if not all(parameter.requires_grad for parameter in named.values()):
        raise ValueError("it has frozen parameters: keep what does not train in a buffer")
    if len(named) != len(dict(model.named_parameters())):
        raise ValueError("it ties parameters: use each of them once")
    other.load_state_dict(model.state_dict())
    again = copy.deepcopy(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second, third = model(inputs), again(inputs), other(inputs)
    if not torch.equal(first, second):
        raise ValueError(
            "it draws random numbers of its own while training: use lossbench.models.Dropout, "
            "whose masks belong to the seed"
        )
    if tensors_sha(dict(model.named_buffers())) != tensors_sha(dict(again.named_buffers())):
        raise ValueError("its buffers change at random while training: nothing could be paired")
    if not torch.equal(first, third):
        raise ValueError("its output depends on more than its state_dict: register it as a buffer")


def refuse_unwidened(build: Callable[[], nn.Module], inputs: Tensor, *, times: int) -> None:
    """Refuse a module whose further outputs would not stand, as zeros, behind those it has.

    Args:
        build: Makes the module.
        inputs: One batch, [B, F].
        times: Outputs per target.

    Raises:
        ValueError: Its last linear layer does not make its output.
    """
    if times == 1:
        return
    narrow, model = (initialised(build, seed=0) for _ in range(2))
    with torch.no_grad():
        own = narrow(inputs)
        got = widened(model, outputs=own.shape[-1], times=times)(inputs)
    expected = torch.cat([own, torch.zeros_like(own).repeat(1, times - 1)], -1)
    if got.shape != expected.shape or not torch.allclose(got, expected, atol=1e-6):
        raise ValueError(
            f"a loss with {times} outputs per target needs a model that ends in a linear layer"
        )


def _seen(by_split: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is not of the test split, which no corruption touches."""
    return {split: rows for split, rows in by_split.items() if split != "test"}


def _by_split(
    parts: list[dict[str, Tensor]], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """By split the seeds' tensors [S, N, ...]; what all seeds have in common is held once."""
    return {split: _stacked([part[split] for part in parts], device, dtype) for split in parts[0]}


def _stacked(tensors: list[Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    first = tensors[0]
    if all(tensor is first for tensor in tensors):
        return first.to(device, dtype).expand(len(tensors), *first.shape)
    return torch.stack(tensors).to(device, dtype)
