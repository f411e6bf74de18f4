"""Runs trained by the engine, and what a user would write instead."""

from __future__ import annotations

import pandas as pd
import torch
from torch.nn import functional

from lossbench.engine import Machine, train
from lossbench.engine import strategies as engine_strategies
from lossbench.engine.batches import batch_indices
from lossbench.engine.members import assemble
from lossbench.models import MODELS, initialised, rescaled
from lossbench.question import packs
from lossbench.sweep import splits_of

CPU = torch.device("cpu")


REGRESSION = ["mse", "mae", "quartic", "huber", "log_cosh"]


CLASSIFICATION = ["cross_entropy", "brier", "mse_logits", "mae_probs", "quartic_probs"]


VOLATILE = ["pack_id", "pack_size", "train_seconds"]


def trained(runs, *, padding=2, strategies=(), machine=None, flush=lambda step, snapshot: None):
    pack = packs.Pack("pack", tuple(runs))
    splits = {run.seed: splits_of(run) for run in runs}
    machine = machine or Machine(CPU, padding, tuple(strategies))
    tables = train(pack, splits, machine, flush=flush)
    return {name: table.to_pandas() for name, table in tables.items()}


def grouped(runs, **kwargs):
    (pack,) = packs.group(runs, pack_size=10_000)
    return trained(pack.runs, **kwargs)


def records_of(tables, *runs):
    """What tables say of some runs, but for how they were trained."""
    ids = [run.run_id for run in runs]
    return {
        name: frame[frame.run_id.isin(ids)]
        .drop(columns=VOLATILE, errors="ignore")
        .reset_index(drop=True)
        for name, frame in tables.items()
    }


def assert_same_records(left, right):
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


def single_run_loop(run, *, stop=None):
    """What a user would write: one module, torch.optim, autograd through the mean of the loss."""
    splits = splits_of(run)
    dtype = getattr(torch, run.precision)
    inputs, targets = in_type(splits.inputs["train"], dtype), targets_of(splits, "train", dtype)
    model = initialised(
        lambda: MODELS[run.model.fn].fn(*splits.sizes, **run.model.params), seed=run.seed
    )
    model = rescaled(model, output_scale=run.init.output_scale).to(dtype)
    shared = {"lr": run.lr, "weight_decay": run.weight_decay}
    optimizer = (
        torch.optim.SGD(model.parameters(), momentum=run.momentum, **shared)
        if run.optimizer.fn == "sgd"
        else torch.optim.Adam(model.parameters(), **shared)
    )
    schedule = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=run.steps)
        if run.schedule.fn == "cosine"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    )
    values = []
    for rows in batch_indices(run.seed, len(inputs), run.steps, run.batch_size)[:stop]:
        optimizer.zero_grad()
        loss = run.row.fn(model(inputs[rows]), targets[rows], **run.loss.params).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        values.append(loss.item())
    return values, model


def in_type(inputs, dtype):
    """Numbers in a type; tokens as they are."""
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def targets_of(splits, split, dtype):
    """Targets [N, C], or [N, T, C] of sequences, as a user would make them: by `one_hot`."""
    targets = splits.targets[split]
    if targets.is_floating_point():
        return targets.to(dtype)
    return functional.one_hot(targets, splits.vocabulary).to(dtype)


def members_of(runs, padding=2):
    pack = packs.Pack("pack", tuple(runs))
    splits = {run.seed: splits_of(run) for run in runs}
    return assemble(pack, splits, Machine(CPU, padding))


def strategy_of(members):
    """What computes a pack where nothing optional is named."""
    return engine_strategies.strategy_of(members)


MODEL_CASES = {
    "linear": ("tiny_images", "linear", {}),
    "mlp": ("tiny_vectors", "mlp", {}),
    "mlp batch dropout": ("tiny_vectors", "mlp", {"normalisation": "batch", "dropout": 0.3}),
    "mlp layer": ("tiny_grey", "mlp", {"normalisation": "layer"}),
    "lenet": ("tiny_grey", "lenet", {}),
    "strided_cnn": ("tiny_images", "strided_cnn", {"widths": [4, 8]}),
    "resnet8": ("tiny_images", "resnet8", {}),
    "resnet8 group": ("tiny_images", "resnet8", {"normalisation": "group"}),
    "resnet18": ("tiny_images", "resnet18", {}),
    "vit dropout": ("tiny_images", "vit", {"depth": 2, "dropout": 0.2}),
    "bigram": ("tiny_text", "bigram", {}),
    "gpt dropout": ("tiny_text", "gpt", {"width": 8, "heads": 2, "dropout": 0.2}),
    "torchvision": ("tiny_images", "torchvision", {"name": "shufflenet_v2_x0_5"}),
}
