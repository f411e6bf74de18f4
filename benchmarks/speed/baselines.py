"""What a user would write instead: one model after the other, in plain torch."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from lossbench.data import Splits
from lossbench.engine import batch_indices
from lossbench.models import MODELS, initialised
from lossbench.question import Run
from speed.clock import Clock

Step = Callable[[Tensor, Tensor], Tensor]


class Permutations(Sampler[int]):
    """The rows of one epoch after the other, the same as the engine's."""

    def __init__(self, batches: Tensor, per_epoch: int) -> None:
        self.epochs = iter(batches.split(per_epoch))

    def __iter__(self) -> Iterator[int]:
        return iter(next(self.epochs).flatten().tolist())


def loader(run: Run, splits: Splits, clock: Clock, device: torch.device) -> list[float]:
    """B0: a DataLoader, torch.optim, and the loss as a number at each step.

    Args:
        run: What to train.
        splits: Its data.
        clock: Called after each update.
        device: Where.

    Returns:
        Mean loss of each step.
    """
    model, inputs, targets, batches = _prepared(run, splits, torch.device("cpu"))
    step, losses = _step(model.to(device), run), []
    rows = Permutations(batches, len(inputs) // run.batch_size)
    batched = DataLoader(TensorDataset(inputs, targets), run.batch_size, sampler=rows)
    while len(losses) < run.steps:
        for some_inputs, some_targets in batched:
            losses.append(step(some_inputs.to(device), some_targets.to(device)).item())
            clock(len(losses))
    return losses


def tensors(run: Run, splits: Splits, clock: Clock, device: torch.device) -> list[float]:
    """B1: all data on the device, batches by index_select, no number fetched before the end.

    Args, Returns: as for `loader`.
    """
    model, inputs, targets, batches = _prepared(run, splits, device)
    return _loop(_step(model, run), inputs, targets, batches, clock)


def compiled(run: Run, splits: Splits, clock: Clock, device: torch.device) -> list[float]:
    """B2: B1 with forward pass, loss and backward pass through torch.compile.

    Args, Returns: as for `loader`.
    """
    _, inputs, targets, batches = _prepared(run, splits, device)
    return _loop(_compiled_step(run, splits.sizes, device), inputs, targets, batches, clock)


@functools.cache
def why_nothing_compiles() -> str:
    """What torch.compile says here; empty where it works."""
    try:
        torch.compile(lambda values: values.sin() + 1, dynamic=False)(torch.ones(8))
    except Exception as error:  # whatever a missing compiler raises
        return f"torch.compile does not work here: {type(error).__name__}"
    return ""


def lightning(run: Run, splits: Splits, clock: Clock, device: torch.device) -> list[float]:
    """B4: a LightningModule with the DataLoader of B0, nothing logged or saved.

    Args, Returns: as for `loader`.
    """
    from lightning.pytorch import Trainer

    model, inputs, targets, batches = _prepared(run, splits, torch.device("cpu"))
    rows = Permutations(batches, len(inputs) // run.batch_size)
    batched = DataLoader(TensorDataset(inputs, targets), run.batch_size, sampler=rows)
    module = _lightning_module(model, run, clock)
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        max_steps=run.steps,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        enable_checkpointing=False,
        **silent,  # type: ignore[arg-type]
    )
    trainer.fit(module, batched)
    return module.losses  # type: ignore[return-value]


def is_installed(package: str) -> bool:
    """Whether a package can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def _loop(
    step: Step, inputs: Tensor, targets: Tensor, batches: Tensor, clock: Clock
) -> list[float]:
    losses = []
    for rows in batches:
        losses.append(step(inputs.index_select(0, rows), targets.index_select(0, rows)))
        clock(len(losses))
    return torch.stack(losses).tolist()


def _prepared(
    run: Run, splits: Splits, device: torch.device
) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Model, inputs and targets of the training split, and the rows of each batch."""
    dtype = getattr(torch, run.precision)
    inputs, targets = (part["train"].to(device, dtype) for part in (splits.inputs, splits.targets))
    batches = batch_indices(run.seed, len(inputs), run.steps, run.batch_size).to(device)
    return _model(run, splits.sizes).to(device, dtype), inputs, targets, batches


def _model(run: Run, sizes: Any) -> nn.Module:
    build = functools.partial(MODELS[run.model.fn].fn, *sizes, **run.model.params)
    return initialised(build, seed=run.seed)


def _optimizer(model: nn.Module, run: Run) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=run.lr, momentum=run.momentum)


def _step(model: nn.Module, run: Run) -> Step:
    optimizer = _optimizer(model, run)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = run.row.fn(model(inputs), targets, **run.loss.params).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@functools.cache
def _compiled_kept() -> dict[str, Step]:
    return {}


def _compiled_step(run: Run, sizes: Any, device: torch.device) -> Step:
    """One for all repetitions of a loss and a task: compiling takes longer than any window."""
    key, kept = f"{run.data} {run.model} {run.loss.name} {device}", _compiled_kept()
    if key not in kept:
        torch._dynamo.config.recompile_limit = 64  # type: ignore[attr-defined]
        model = _model(run, sizes).to(device, getattr(torch, run.precision))
        optimizer = _optimizer(model, run)
        mean_loss = torch.compile(
            lambda inputs, targets: run.row.fn(model(inputs), targets, **run.loss.params).mean(),
            dynamic=False,
        )

        def step(inputs: Tensor, targets: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = mean_loss(inputs, targets)
            loss.backward()
            optimizer.step()
            return loss.detach()

        kept[key] = step
    return kept[key]


def _lightning_module(model: nn.Module, run: Run, clock: Clock) -> Any:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = model, []

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            inputs, targets = batch
            loss = run.row.fn(self.model(inputs), targets, **run.loss.params).mean()
            self.losses.append(loss.item())
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            clock(len(self.losses))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return _optimizer(self.model, run)

    return Module()
