"""The same trainings in JAX, jit(vmap(scan)): all members and all steps in one program.

Nothing is measured, evaluated or kept on the way, no member can stop before the others, and all are
of one seed: they share data and batches, which ours do by four seeds.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # one thread, as all rows

import jax
import jax.numpy as jnp
import torch
from jax import lax

from lossbench.data import Splits
from lossbench.engine import batch_indices
from lossbench.engine.members import initial_model
from lossbench.question import Run

jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a card, as all rows

Parameters = list[tuple[Any, Any]]

LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": lambda z, y: -(y * jax.nn.log_softmax(z)).sum(-1),
    "brier": lambda z, y: jnp.square(jax.nn.softmax(z) - y).sum(-1),
    "mae_probs": lambda z, y: jnp.abs(jax.nn.softmax(z) - y).sum(-1),
    "quartic_probs": lambda z, y: 0.25 * ((jax.nn.softmax(z) - y) ** 4).sum(-1),
    "mse": lambda z, y: 0.5 * jnp.square(z - y).sum(-1),
    "mae": lambda z, y: jnp.abs(z - y).sum(-1),
    "quartic": lambda z, y: 0.25 * ((z - y) ** 4).sum(-1),
    "huber": lambda z, y: jnp.where(
        jnp.abs(z - y) <= 1, 0.5 * jnp.square(z - y), jnp.abs(z - y) - 0.5
    ).sum(-1),
}


def parameters_of(runs: list[Run], splits: dict[int, Splits]) -> Parameters:
    """Weights and biases of each layer, [K, ...], as the engine starts them."""
    models = {seed: initial_model(runs[0], splits[seed], seed=seed) for seed in splits}
    layers = zip(
        *(
            [layer for layer in models[run.seed] if isinstance(layer, torch.nn.Linear)]
            for run in runs
        ),
        strict=True,
    )
    return [
        (
            jnp.stack([jnp.asarray(one.weight.detach().numpy().T) for one in alike]),
            jnp.stack([jnp.asarray(one.bias.detach().numpy()) for one in alike]),
        )
        for alike in layers
    ]


@functools.partial(jax.jit, static_argnames=("loss",))
def trained(
    parameters: Parameters, lr: Any, inputs: Any, targets: Any, batches: Any, *, loss: str
) -> tuple[Parameters, Any]:
    """Members of one loss and one batch stream, each through all its steps.

    Args:
        parameters: [K, ...].
        lr: [K].
        inputs: [N, F].
        targets: [N, C].
        batches: Rows, [T, B].
        loss: Its name.

    Returns:
        Parameters, and the mean loss of each step [K, T].
    """

    def mean_loss(own: Parameters, x: Any, y: Any) -> Any:
        for weight, bias in own[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        weight, bias = own[-1]
        return LOSSES[loss](x @ weight + bias, y).mean()

    def one(own: Parameters, rate: Any) -> tuple[Parameters, Any]:
        def step(state: Any, rows: Any) -> tuple[Any, Any]:
            now, speed = state
            value, slope = jax.value_and_grad(mean_loss)(now, inputs[rows], targets[rows])
            speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, slope)
            return (jax.tree.map(lambda p, v: p - rate * v, now, speed), speed), value

        (after, _), values = lax.scan(step, (own, jax.tree.map(jnp.zeros_like, own)), batches)
        return after, values

    return jax.vmap(one)(parameters, lr)


class Program:
    """A pack of runs as JAX trains it: one program per loss, members of one seed."""

    def __init__(self, runs: list[Run], splits: Splits) -> None:
        first = runs[0]
        self.inputs = jnp.asarray(splits.inputs["train"].flatten(1).numpy())
        self.targets = jnp.asarray(splits.targets["train"].numpy())
        rows = batch_indices(first.seed, len(self.inputs), first.steps, first.batch_size)
        self.batches = jnp.asarray(rows.numpy())
        self.by_loss = {
            name: [run for run in runs if run.loss.name == name]
            for name in dict.fromkeys(run.loss.name for run in runs)
        }
        self.starts = {
            name: (
                parameters_of(alike, {first.seed: splits}),
                jnp.asarray([run.lr for run in alike]),
            )
            for name, alike in self.by_loss.items()
        }

    def __call__(self) -> dict[str, Any]:
        """Train them all; mean loss of each step [k, T] by loss."""
        data = (self.inputs, self.targets, self.batches)
        found = {name: trained(*start, *data, loss=name)[1] for name, start in self.starts.items()}
        return {name: values.block_until_ready() for name, values in found.items()}
