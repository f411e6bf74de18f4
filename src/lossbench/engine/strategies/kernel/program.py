"""The Triton program that trains one member over many updates, and where a member's numbers lie.

Parameters, momentum and activations stay in global memory, where caches keep them close: a program
touches its own member's only. Where threads read what others wrote stands a barrier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from lossbench.engine.rows import ALIGNED, Rows
from lossbench.engine.strategies.layers import Layer

BLOCK = 64
"""Most rows and columns of a product computed at once; Triton's products have 16 at least."""

FEWEST = 16


class LayerLayout(NamedTuple):
    """A layer, and where a member's numbers of it lie.

    Attributes:
        inputs, outputs: Numbers of an example that go in and come out.
        weight: Where its weight begins in the member's row.
        by_input, by_output: From a number of the weight to that of the next input, or output.
        bias: Where its bias begins; -1 without one.
        result: Where its result [B, outputs] begins in the member's scratch.
        gradient: Where the gradient in its affine map's result does; until that is known, the
            activation's derivative.
        is_curved: Whether an activation follows.
        input_block, output_block: Of a product computed at once.
    """

    inputs: int
    outputs: int
    weight: int
    by_input: int
    by_output: int
    bias: int
    result: int
    gradient: int
    is_curved: bool
    input_block: int
    output_block: int


@triton.jit(do_not_specialize=["first", "count", "steps"])
def train(
    row, momentum, alive, stop_step, scratch, inputs, targets, batches, seed_index,
    lr, momentum_factor, decay, factors, step, first, count, steps, row_numbers, scratch_numbers,
    inputs_by_seed, inputs_by_row, targets_by_seed, targets_by_row,
    LAYERS: tl.constexpr, EXAMPLES: tl.constexpr, ROWS: tl.constexpr, LOSS_ROWS: tl.constexpr,
    LOSS: tl.constexpr, ACTIVATED: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Make `count` updates of one member, fewer if its loss is no longer finite."""
    member = (first + tl.program_id(0)).to(tl.int64)
    seed = tl.load(seed_index + member)
    row += member * row_numbers
    momentum += member * row_numbers
    scratch += member * scratch_numbers
    inputs += seed * inputs_by_seed
    targets += seed * targets_by_seed
    batches += seed * steps * EXAMPLES
    rate = tl.load(lr + member)
    keep = tl.load(momentum_factor + member)
    shrink = tl.load(decay + member)
    start = tl.load(step)
    done = start
    is_alive = tl.load(alive + member) != 0
    goes = is_alive & (count > 0)
    while goes:
        batch = batches + done * EXAMPLES
        for AT in tl.static_range(len(LAYERS)):
            _forward(
                row, scratch, inputs, batch, inputs_by_row,
                LAYERS, AT, EXAMPLES, ROWS, INNER, ACTIVATED, PRECISION,
            )  # fmt: skip
            tl.debug_barrier()
        is_alive = _losses(
            scratch, targets, batch, targets_by_row, LAYERS, EXAMPLES, LOSS_ROWS, LOSS
        )
        tl.debug_barrier()
        if is_alive:
            now = rate * tl.load(factors + done)
            for BEHIND in tl.static_range(len(LAYERS)):
                if len(LAYERS) > BEHIND + 1:
                    _backward(
                        row, scratch,
                        LAYERS, len(LAYERS) - 1 - BEHIND, EXAMPLES, ROWS, INNER, PRECISION,
                    )  # fmt: skip
                    tl.debug_barrier()
                _update(
                    row, momentum, scratch, inputs, batch, inputs_by_row, now, keep, shrink,
                    LAYERS, len(LAYERS) - 1 - BEHIND, EXAMPLES, INNER, PRECISION,
                )  # fmt: skip
            tl.debug_barrier()
            done += 1
        goes = is_alive & (done < start + count)
    tl.store(alive + member, is_alive)
    if done > start:
        tl.store(stop_step + member, done)


@triton.jit
def _forward(
    row, scratch, inputs, batch, inputs_by_row,
    LAYERS: tl.constexpr, AT: tl.constexpr, EXAMPLES: tl.constexpr, ROWS: tl.constexpr,
    INNER: tl.constexpr, ACTIVATED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write a layer's result, and its activation's derivative into the gradient's place."""
    layer: tl.constexpr = LAYERS[AT]
    source, by_row = _before(scratch, inputs, inputs_by_row, LAYERS, AT)
    for first_row in range(0, EXAMPLES, ROWS):
        rows = first_row + tl.arange(0, ROWS)
        left = source + _starts(rows, batch, by_row, EXAMPLES, AT == 0)[:, None]
        for first_output in range(0, layer.outputs, layer.output_block):
            outputs = first_output + tl.arange(0, layer.output_block)
            is_output = outputs < layer.outputs
            is_real = (rows < EXAMPLES)[:, None] & is_output[None, :]
            right = row + layer.weight + outputs[None, :] * layer.by_output
            result = _product(
                left, 1, rows < EXAMPLES, right, layer.by_input, is_output,
                ROWS, layer.output_block, layer.inputs, INNER, PRECISION,
            )  # fmt: skip
            if layer.bias >= 0:
                result += tl.load(row + layer.bias + outputs, mask=is_output, other=0.0)[None, :]
            to = scratch + rows[:, None] * layer.outputs + outputs[None, :]
            if layer.is_curved:
                result, derivative = ACTIVATED(result, AT)
                tl.store(to + layer.gradient, derivative, mask=is_real)
            tl.store(to + layer.result, result, mask=is_real)


@triton.jit
def _losses(
    scratch, targets, batch, targets_by_row,
    LAYERS: tl.constexpr, EXAMPLES: tl.constexpr, ROWS: tl.constexpr, LOSS: tl.constexpr,
):  # fmt: skip
    """Write the output's gradient of the mean loss; whether each example's loss is finite."""
    layer: tl.constexpr = LAYERS[len(LAYERS) - 1]
    broken = tl.zeros((ROWS, 1), tl.int32)
    for first_row in range(0, EXAMPLES, ROWS):
        rows = first_row + tl.arange(0, ROWS)
        is_row = (rows < EXAMPLES)[:, None]
        here = scratch + rows[:, None] * layer.outputs
        target = targets + _starts(rows, batch, targets_by_row, EXAMPLES, True)[:, None]
        value = LOSS(here + layer.result, target, here + layer.gradient, is_row)
        is_finite = tl.abs(value) < float("inf")
        broken += tl.where(is_row & (is_finite == 0), 1, 0)
    return tl.sum(tl.sum(broken, 1), 0) == 0


@triton.jit
def _backward(
    row, scratch, LAYERS: tl.constexpr, AT: tl.constexpr, EXAMPLES: tl.constexpr,
    ROWS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the layer in front of this one, where its derivative was."""
    layer: tl.constexpr = LAYERS[AT]
    before: tl.constexpr = LAYERS[AT - 1]
    for first_row in range(0, EXAMPLES, ROWS):
        rows = first_row + tl.arange(0, ROWS)
        left = scratch + layer.gradient + rows[:, None] * layer.outputs
        for first_input in range(0, layer.inputs, layer.input_block):
            inputs = first_input + tl.arange(0, layer.input_block)
            is_real = (rows < EXAMPLES)[:, None] & (inputs < layer.inputs)[None, :]
            right = row + layer.weight + inputs[None, :] * layer.by_input
            gradient = _product(
                left, 1, rows < EXAMPLES, right, layer.by_output, inputs < layer.inputs,
                ROWS, layer.input_block, layer.outputs, INNER, PRECISION,
            )  # fmt: skip
            to = scratch + before.gradient + rows[:, None] * layer.inputs + inputs[None, :]
            if before.is_curved:
                derivative = tl.load(to, mask=is_real, other=0.0)
                # An infinite gradient stays out of where the activation lets nothing through.
                gradient = tl.where(derivative != 0.0, gradient * derivative, 0.0)
            tl.store(to, gradient, mask=is_real)


@triton.jit
def _update(
    row, momentum, scratch, inputs, batch, inputs_by_row, rate, keep, shrink,
    LAYERS: tl.constexpr, AT: tl.constexpr, EXAMPLES: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Descend along a layer's gradient."""
    layer: tl.constexpr = LAYERS[AT]
    source, by_row = _before(scratch, inputs, inputs_by_row, LAYERS, AT)
    for first_output in range(0, layer.outputs, layer.output_block):
        outputs = first_output + tl.arange(0, layer.output_block)
        is_output = outputs < layer.outputs
        gradients = scratch + layer.gradient + outputs[None, :]
        for first_input in range(0, layer.inputs, layer.input_block):
            numbers = first_input + tl.arange(0, layer.input_block)
            is_input = numbers < layer.inputs
            weight_gradient = tl.zeros((layer.input_block, layer.output_block), tl.float32)
            for first_row in range(0, EXAMPLES, INNER):
                rows = first_row + tl.arange(0, INNER)
                is_row = rows < EXAMPLES
                starts = _starts(rows, batch, by_row, EXAMPLES, AT == 0)
                left = tl.load(
                    source + starts[None, :] + numbers[:, None],
                    mask=is_input[:, None] & is_row[None, :], other=0.0,
                )  # fmt: skip
                right = tl.load(
                    gradients + rows[:, None] * layer.outputs,
                    mask=is_row[:, None] & is_output[None, :], other=0.0,
                )  # fmt: skip
                weight_gradient = tl.dot(left, right, weight_gradient, input_precision=PRECISION)
            at = layer.weight + numbers[:, None] * layer.by_input
            at += outputs[None, :] * layer.by_output
            is_real = is_input[:, None] & is_output[None, :]
            _descend(row + at, momentum + at, is_real, weight_gradient, rate, keep, shrink)
        if layer.bias >= 0:
            weight_gradient = tl.zeros((layer.output_block,), tl.float32)
            for first_row in range(0, EXAMPLES, INNER):
                rows = first_row + tl.arange(0, INNER)
                is_real = (rows < EXAMPLES)[:, None] & is_output[None, :]
                gradient = tl.load(
                    gradients + rows[:, None] * layer.outputs, mask=is_real, other=0.0
                )
                weight_gradient += tl.sum(gradient, 0)
            at = layer.bias + outputs
            _descend(row + at, momentum + at, is_output, weight_gradient, rate, keep, shrink)


@triton.jit
def _descend(value, buffer, is_real, weight_gradient, rate, keep, shrink):
    """SGD with momentum and weight decay, as `optimizers.sgd`."""
    old = tl.load(value, mask=is_real, other=0.0)
    new = (weight_gradient + shrink * old) + keep * tl.load(buffer, mask=is_real, other=0.0)
    tl.store(buffer, new, mask=is_real)
    tl.store(value, old - rate * new, mask=is_real)


@triton.jit
def _product(
    left, left_step, is_left, right, right_step, is_right,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ left right over `INNER`, of pointers to the first of it, [ROWS, 1] and [1, COLUMNS]."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, INNER, STEP):
        inner = first + tl.arange(0, STEP)
        is_inner = inner < INNER
        a = tl.load(
            left + inner[None, :] * left_step, mask=is_left[:, None] & is_inner[None, :], other=0.0
        )
        b = tl.load(
            right + inner[:, None] * right_step,
            mask=is_inner[:, None] & is_right[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def _before(scratch, inputs, inputs_by_row, LAYERS: tl.constexpr, AT: tl.constexpr):
    """Where what goes into a layer lies, and how far its rows are apart."""
    if AT == 0:
        return inputs, inputs_by_row
    else:  # noqa: RET505 - Triton wants both branches
        return scratch + LAYERS[AT - 1].result, LAYERS[AT - 1].outputs


@triton.jit
def _starts(rows, batch, by_row, EXAMPLES: tl.constexpr, IS_DATA: tl.constexpr):
    """Where rows of a batch begin: in the data, at the rows drawn for it."""
    if IS_DATA:
        rows = tl.load(batch + rows, mask=rows < EXAMPLES, other=0)
    return rows * by_row


def layout(
    layers: Sequence[Layer], parameters: Mapping[str, Tensor], examples: int
) -> tuple[tuple[LayerLayout, ...], int]:
    """Where the layers' numbers lie, a `LayerLayout` each, and the length of a member's scratch.

    Args:
        layers: Of the model.
        parameters: [K, ...] by name, in the order of `Rows`.
        examples: Of a batch.
    """
    rows = Rows({name: value[:1] for name, value in parameters.items()})
    layouts, end = [], 0
    for layer in layers:
        size = -(-examples * layer.outputs // ALIGNED) * ALIGNED
        weight = rows[layer.weight]
        layouts.append(
            LayerLayout(
                inputs=layer.inputs,
                outputs=layer.outputs,
                weight=int(weight.storage_offset()),
                by_input=weight.stride(2),
                by_output=weight.stride(1),
                bias=int(rows[layer.bias].storage_offset()) if layer.bias else -1,
                result=end,
                gradient=end + size,
                is_curved=layer.activation is not None,
                input_block=block_size(layer.inputs),
                output_block=block_size(layer.outputs),
            )
        )
        end += 2 * size
    return tuple(layouts), end


def block_size(numbers: int) -> int:
    """Rows or columns, of so many, that are computed at once: a power of two."""
    return min(BLOCK, max(FEWEST, triton.next_power_of_2(numbers)))
