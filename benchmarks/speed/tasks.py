"""What is trained: five kinds of small models, the same four losses for every way to train them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from lossbench.data import DATA, Data, Splits, files
from lossbench.data.splits import classification
from lossbench.models import MODELS
from lossbench.question import Run, checked, part
from lossbench.question.packs import Pack
from lossbench.sweep import splits_of

CLASSES = ("cross_entropy", "brier", "mae_probs", "quartic_probs")
REALS = ("mse", "mae", "quartic", "huber")

EVALUATED_ROWS = 128
"""Examples of validation and test that are kept: what is timed lies between evaluations."""

NEVER = 10**9
"""For `log_every`: step 0 alone is logged, and that is before any window of time."""

LR = 0.01


def random_images(*, seed: int, examples: int = 1_000) -> Splits:
    """Noise of the shape of Fashion-MNIST, where its files are not; all seeds share it.

    Args:
        seed: Draws nothing.
        examples: Of training; validation and test have `EVALUATED_ROWS` each.
    """
    return _random_images(examples)


@functools.cache
def _random_images(examples: int) -> Splits:
    draw = torch.Generator().manual_seed(0)
    counts = {"train": examples, "validation": EVALUATED_ROWS, "test": EVALUATED_ROWS}
    inputs = {part: torch.rand(n, 1, 28, 28, generator=draw) for part, n in counts.items()}
    labels = {part: torch.randint(10, (n,), generator=draw) for part, n in counts.items()}
    return classification(inputs, labels, classes=10)


RANDOM_IMAGES = Data(random_images, "classification", "this benchmark", drawn="fixed")
DATA["random_images"] = RANDOM_IMAGES


PACK_SIZE = 128
"""Members of a pack by default."""


@dataclass(frozen=True)
class Task:
    """A data set and a model, with the batch size and the losses that they are trained with.

    Attributes:
        name: What it is called here and in docs/performance.md.
        title: The same for people.
        data: Its name; keyword arguments are `examples`.
        model: Its name; keyword arguments are `widths`.
        losses: Four.
        batch_size: B.
        goals: Wanted ratio of a pack on every core, by what it is compared with.
        members: K of that pack: 128, as by default; 16 where members run one by one, so that K
            changes nothing but the length of an update.
        card_goals: Wanted ratios of a pack on an H100.
        card_members: K of that one.
    """

    name: str
    title: str
    data: str
    examples: Mapping[str, Any]
    model: str
    widths: tuple[int, ...]
    losses: tuple[str, ...]
    batch_size: int
    goals: Mapping[str, float] = field(default_factory=dict)
    members: int = PACK_SIZE
    card_goals: Mapping[str, float] = field(default_factory=dict)
    card_members: int = 1024

    def run(self, loss: str, **typed: Any) -> Run:
        """One run; `typed` are other factors of a `Run`."""
        unlogged = {"steps": 1, "lr": LR, "log_every": NEVER, "eval_every": NEVER}
        return checked(
            Run(
                data=part(self.data, **self.examples),
                model=part(self.model, widths=[*self.widths]),
                loss=part(loss),
                momentum=0.9,
                batch_size=self.batch_size,
                **{**unlogged, **typed},
            )
        )

    def overrides(self) -> list[str]:
        """The same as words of the command line."""
        data = [f"data.params.{key}={value}" for key, value in self.examples.items()]
        widths = ",".join(map(str, self.widths))
        return [
            *(f"data={self.data}", *data, f"model={self.model}", f"model.params.widths=[{widths}]"),
            *(f"batch_size={self.batch_size}", f"optimizer.lr={LR}", "optimizer.momentum=0.9"),
        ]


def tasks(*, is_quick: bool) -> dict[str, Task]:
    """By name.

    Args:
        is_quick: Small sets; their figures mean nothing.
    """
    images = "random_images" if is_quick else images_here()
    rows, many, few = (1_000, 256, 256) if is_quick else (16_384, 2_048, 512)
    found = (
        Task(
            *("W1", "digits, MLP 64-128-128-10", "digits", {}),
            *("mlp", (128, 128), CLASSES, 128, {"B0": 8, "B1 per core": 2.5}),
            card_goals={"B1": 1_500},
        ),
        Task(
            *("W2", f"{images}, MLP 784-256-256-10", images, {"examples": many}),
            *("mlp", (256, 256), CLASSES, 128, {"B0": 2.4, "B1 per core": 1.3}),
            card_goals={"B1": 220},
        ),
        Task(
            *("W3s", f"{images}, CNN 32-64-128 of stride 2", images, {"examples": few}),
            *("strided_cnn", (32, 64, 128), CLASSES, 128, {"B1 per core": 1}, 16),
            card_goals={"B1": 30},
            card_members=64,
        ),
        Task(
            *("W4", "noisy_linear, MLP 8-64-64-1", "noisy_linear", {"examples": rows}),
            *("mlp", (64, 64), REALS, 64, {"B0": 25, "B1 per core": 10}),
            card_goals={"B1": 5_000},
        ),
    )
    if is_quick:
        found = tuple(replace(task, widths=(8,) * len(task.widths)) for task in found)
    return {task.name: task for task in found}


@functools.cache
def images_here() -> str:
    """The data set of images: Fashion-MNIST where its files are."""
    try:
        DATA["fashion_mnist"].splits(0, files.Files(), {"examples": 1_024})
    except files.Missing:
        return "random_images"
    return "fashion_mnist"


def pack(task: Task, members: int, **typed: Any) -> Pack:
    """Runs that train together: equal losses side by side, up to four seeds, unlike rates.

    Args:
        task: What they train on.
        members: K; fewer than four losses where it is below four.
        typed: As for `Task.run`.
    """
    each = max(1, members // len(task.losses))
    seeds = min(4, each)
    runs = [
        task.run(loss, seed=place % seeds, lr=LR * 0.99 ** (place // seeds), **typed)
        for loss in task.losses[:members]
        for place in range(each)
    ]
    return Pack("pack", tuple(runs))


def packs(task: Task, members: int, **typed: Any) -> list[Pack]:
    """As many packs of K members as it takes to have every loss equally often."""
    losses = [task.losses[start : start + members] for start in range(0, len(task.losses), members)]
    return [pack(replace(task, losses=some), members, **typed) for some in losses]


@functools.cache
def splits(task_name: str, is_quick: bool, seed: int) -> Splits:
    """Data of a seed, with the first rows of validation and test."""
    task = tasks(is_quick=is_quick)[task_name]
    found = splits_of(task.run(task.losses[0], seed=seed))
    rows = {"train": None, "validation": EVALUATED_ROWS, "test": EVALUATED_ROWS}
    inputs, targets = (
        {split: part[split][:most] for split, most in rows.items()}
        for part in (found.inputs, found.targets)
    )
    return replace(found, inputs=inputs, targets=targets)


def parameters(task: Task, splits: Splits) -> int:
    """P."""
    model = MODELS[task.model].fn(*splits.sizes, widths=task.widths)
    return sum(value.numel() for value in model.parameters())


def flops(task: Task, splits: Splits) -> float:
    """Floating-point operations of one member's step, computed from the shapes of its products.

    Forward, and twice that backward, but for the first layer: nobody asks for the gradient of the
    inputs. Only products count.
    """
    model = MODELS[task.model].fn(*splits.sizes, widths=task.widths)
    found: list[float] = []

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        products = layer.weight[0].numel()  # type: ignore[index, union-attr, operator]
        found.append(2.0 * output.numel() * products)

    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.register_forward_hook(count)
    model(splits.inputs["train"][: task.batch_size])
    return 3 * sum(found) - found[0]
