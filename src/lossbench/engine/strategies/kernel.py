"""Multilayer perceptrons trained by one program per member that loops over many updates.

A Triton kernel. What it knows of losses and activations it reads from their own formulas: they are
traced with their derivative, and the trace is printed as a function of blocks [rows, columns].
Parameters, momentum and activations stay in global memory, where caches keep them close: a program
touches its own member's only. Where threads read what others wrote stands a barrier.

Triton compiles for the GPU, or interprets on the CPU where TRITON_INTERPRET=1 was set before it was
imported.
"""

from __future__ import annotations

import copy
import functools
import linecache
import logging
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from scipy import special
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from triton.language.extra import libdevice

from lossbench.engine.members import Members
from lossbench.engine.rows import ALIGNED, Rows
from lossbench.engine.state import State
from lossbench.engine.strategies.layers import Layer, layers_of
from lossbench.engine.strategy import Advance, Logged, Unserved
from lossbench.engine.update import Updates
from lossbench.losses.spec import Loss
from lossbench.runs import TF32, Run

log = logging.getLogger(__name__)

VERSION = f"triton {triton.__version__}"
"""What compiles the kernel: bits depend on it."""

MOST_LAUNCHED = 1_000
"""Updates made in one launch: more would gain nothing."""

TRUSTED = {"float32": 1e-3, TF32: 1e-1}
"""How far the kernel's first update may be from ours, relative to the update, by precision."""

IS_INTERPRETED: bool = triton.knobs.runtime.interpret

BLOCK = 64
"""Most rows and columns of a product computed at once; Triton's products have 16 at least."""

INNER = 32
"""Numbers summed over at once in a product."""

FEWEST = 16

LOSS_NUMBERS = 4096
"""Most outputs whose loss is computed at once."""

WARPS = 4


class Unknown(Exception):
    """A trace has something in it that the kernel does not know."""


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
def _train(
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


@triton.jit
def divided(a, b):
    """Rounded as IEEE 754 says; Triton's own quotient is not."""
    return tl.div_rn(a, b)


@triton.jit
def largest(block, is_real):
    """Of each row, [R, 1]; NaN where one is."""
    most = tl.max(tl.where(is_real, block, float("-inf")), 1, keep_dims=True)
    odd = tl.sum(tl.where(is_real & (block != block), 1, 0), 1, keep_dims=True)
    return tl.where(odd > 0, float("nan"), most)


EXPRESSIONS = {
    **dict.fromkeys(("alias", "clone", "detach", "lift_fresh_copy"), "{}"),
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "divided({}, {})",
    "neg": "-{}",
    "abs": "tl.abs({})",
    "reciprocal": "divided(1.0, {})",
    "square": "{0} * {0}",
    "sqrt": "tl.sqrt_rn({})",
    "rsqrt": "divided(1.0, tl.sqrt_rn({}))",
    "sigmoid": "divided(1.0, 1.0 + libdevice.exp(-{}))",
    "sign": "tl.where({0} > 0.0, 1.0, tl.where({0} < 0.0, -1.0, 0.0))",
    "relu": "tl.maximum({}, 0.0, propagate_nan=tl.PropagateNan.ALL)",
    "maximum": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "where": "tl.where({}, {}, {})",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "isnan": "{0} != {0}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    **dict.fromkeys(("logical_and", "bitwise_and"), "{} & {}"),
    **dict.fromkeys(("logical_or", "bitwise_or"), "{} | {}"),
    **dict.fromkeys(("logical_not", "bitwise_not"), "{} == 0"),
    **{name: f"libdevice.{name}({{}})" for name in ("exp", "expm1", "log", "log1p", "erf")},
    **{name: f"libdevice.{name}({{}})" for name in ("sinh", "cosh", "tanh", "atan", "sin", "cos")},
}
"""Of operations on each number: what Triton says for what torch calls so."""

POWERS = {
    -2.0: "divided(1.0, {0} * {0})",
    -1.0: "divided(1.0, {})",
    1.0: "{}",
    2.0: "{0} * {0}",
    -0.5: "divided(1.0, tl.sqrt_rn({}))",
    0.5: "tl.sqrt_rn({})",
    3.0: "{0} * {0} * {0}",
}
"""Exponents for which torch does not call pow either."""

TYPES = (torch.float32, torch.bool, torch.int64)
"""Of a traced value. Integers are counts of truths, for which float32 has room."""

Block = str | float
"""A name in the function that is printed, or a number known now."""


class _Printer:
    """Prints a traced graph as statements on blocks [rows, columns].

    A value of torch's is a list of blocks. [N], [N, 1] and [N, C] are one block, [N, 2C] and
    [N, C, 2] two of them.

    Args:
        examples: N in the trace, unlike any other size there.
        columns: C.
    """

    def __init__(self, examples: int, columns: int) -> None:
        self._examples, self._columns = examples, columns
        self._known: dict[fx.Node, list[Block]] = {}
        self.lines: list[str] = []

    def result(self, graph: fx.Graph, given: Sequence[list[Block]]) -> list[list[Block]]:
        """Blocks of what a graph returns for blocks that it is given."""
        places = [node for node in graph.nodes if node.op == "placeholder"]
        self._known = dict(zip(places, given, strict=True))
        results: list[list[Block]] = []
        for node in graph.nodes:
            if node.op == "output":
                results = [self._known[part] for part in node.args[0]]
            elif node.op == "call_function":
                if isinstance(node.meta["val"], Tensor):
                    self._known[node] = self._checked(node, self._blocks(node))
            elif node.op != "placeholder":
                raise Unknown("a tensor of its own")
        return results

    def _checked(self, node: fx.Node, blocks: list[Block]) -> list[Block]:
        """Blocks of a value, if they are as many as its shape says."""
        shape = [*node.meta["val"].shape]
        is_flat = shape in ([], [self._examples], [self._examples, 1])
        count = 1 if is_flat else math.prod(shape) / (self._examples * self._columns)
        if not is_flat and (shape[0] != self._examples or count % 1):
            raise Unknown(f"a tensor of shape {shape}")
        if len(blocks) == 1:
            blocks = blocks * int(count)
        if len(blocks) != count or node.meta["val"].dtype not in TYPES:
            raise Unknown(f"aten.{_name(node)} of {node.meta['val'].dtype} and shape {shape}")
        return blocks

    def _blocks(self, node: fx.Node) -> list[Block]:
        if node.target is operator.getitem:
            return self._split(*node.args)  # type: ignore[arg-type]
        name = _name(node)
        special = getattr(self, f"_of_{name}", None)
        if special is not None:
            return special(node, *node.args)
        is_truth = node.meta["val"].dtype == torch.bool
        if name not in EXPRESSIONS or (is_truth and name in ("add", "mul")):
            raise Unknown(f"aten.{name}")
        if node.kwargs.keys() - {"memory_format"}:
            raise Unknown(f"aten.{name} with {', '.join(node.kwargs)}")
        return self._each(EXPRESSIONS[name], node, node.args)

    def _each(self, expression: str, node: fx.Node, args: Sequence[Any]) -> list[Block]:
        """An operation on each number, of blocks side by side."""
        is_float = node.meta["val"].dtype == torch.float32 and not expression.startswith("tl.where")
        lists = [self._numbers(arg, is_float) for arg in args]
        count = max(len(blocks) for blocks in lists)
        lists = [blocks * count if len(blocks) == 1 else blocks for blocks in lists]
        return [self._one(expression, node, parts) for parts in zip(*lists, strict=True)]

    def _numbers(self, arg: Any, is_float: bool) -> list[Block]:
        """Blocks of an argument; truth as numbers where numbers come out."""
        if not isinstance(arg, fx.Node):
            return [float(arg)]
        blocks = self._known[arg]
        if is_float and arg.meta["val"].dtype == torch.bool:
            return [self._named(f"({block}).to(tl.float32)") for block in blocks]
        return blocks

    def _one(self, expression: str, node: fx.Node, parts: Sequence[Block]) -> Block:
        if expression == "{}":
            return parts[0]
        if all(isinstance(part, float) for part in parts):
            known = [torch.tensor(part, dtype=torch.float32) for part in parts]
            return float(node.target.overloadpacket(*known))  # type: ignore[union-attr]
        return self._named(expression.format(*map(_literal, parts)))

    def _named(self, expression: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def _of_pow(self, node: fx.Node, base: Any, exponent: Any) -> list[Block]:
        if isinstance(exponent, fx.Node):
            return self._each("libdevice.pow({}, {})", node, (base, exponent))
        if exponent == 0:
            return [1.0]
        if exponent in POWERS:
            return self._each(POWERS[exponent], node, (base,))
        return self._each(f"libdevice.pow({{}}, {_literal(float(exponent))})", node, (base,))

    def _of_clamp(
        self, node: fx.Node, value: Any, least: Any = None, most: Any = None
    ) -> list[Block]:
        blocks: list[Block] = [*self._known[value]]
        for name, bound in (("maximum", least), ("minimum", most)):
            if bound is not None:
                expression = EXPRESSIONS[name].format("{}", _literal(float(bound)))
                blocks = [self._named(expression.format(_literal(block))) for block in blocks]
        return blocks

    def _of_clamp_min(self, node: fx.Node, value: Any, least: Any) -> list[Block]:
        return self._of_clamp(node, value, least=least)

    def _of_full(self, node: fx.Node, _: Any, value: Any) -> list[Block]:
        return [float(value)]

    _of_full_like = _of_full

    def _of_scalar_tensor(self, node: fx.Node, value: Any) -> list[Block]:
        return [float(value)]

    def _of_empty_permuted(self, node: fx.Node, *_: Any) -> list[Block]:
        return [math.nan]  # only its shape is used

    def _of_copy(self, node: fx.Node, _: Any, value: fx.Node) -> list[Block]:
        return self._known[value]

    def _of_to_copy(self, node: fx.Node, value: fx.Node) -> list[Block]:
        is_cut = node.meta["val"].dtype == torch.bool != value.meta["val"].dtype
        return self._each("{} != 0.0" if is_cut else "{}", node, (value,))

    def _unchanged(self, node: fx.Node, value: fx.Node, *_: Any) -> list[Block]:
        return self._known[value]

    _of_unsqueeze = _of_squeeze = _of_expand = _unchanged

    def _of_sum(self, node: fx.Node, value: fx.Node, dims: Any = None, *_: Any) -> list[Block]:
        self._last(node, value, dims)
        blocks: list[Block] = self._numbers(value, True)
        if self._is_one(value):
            return blocks
        if value.meta["val"].dim() == 2:
            blocks = [
                self._named(f"tl.sum(tl.where(is_real, {_literal(block)}, 0.0), 1, keep_dims=True)")
                for block in blocks
            ]
        return [self._together("{} + {}", blocks)]

    def _of_mean(self, node: fx.Node, value: fx.Node, dims: Any = None, *_: Any) -> list[Block]:
        total = self._of_sum(node, value, dims)[0]
        if self._is_one(value):
            return [total]
        return [self._named(f"divided({total}, {float(value.meta['val'].shape[-1])})")]

    def _of_amax(self, node: fx.Node, value: fx.Node, dims: Any = None, *_: Any) -> list[Block]:
        blocks = self._last(node, value, dims)
        if self._is_one(value):
            return blocks
        if value.meta["val"].dim() == 2:
            blocks = [self._named(f"largest({_literal(block)}, is_real)") for block in blocks]
        return [self._together(EXPRESSIONS["maximum"], blocks)]

    def _is_one(self, value: fx.Node) -> bool:
        """Whether a row holds one number, which is then its sum, whatever the columns."""
        return value.meta["val"].shape[-1] == 1 != self._columns

    def _together(self, expression: str, blocks: list[Block]) -> Block:
        def both(a: Block, b: Block) -> Block:
            return self._named(expression.format(_literal(a), _literal(b)))

        return functools.reduce(both, blocks)

    def _last(self, node: fx.Node, value: fx.Node, dims: Any) -> list[Block]:
        """Blocks of a value that is reduced over its last dimension, and no other."""
        last = value.meta["val"].dim() - 1
        if last < 1 or [*(dims or ())] not in ([-1], [last]):
            raise Unknown(f"aten.{_name(node)} over other dimensions than the last")
        return self._known[value]

    def _of_cat(self, node: fx.Node, parts: Sequence[fx.Node], dim: int = 0) -> list[Block]:
        if dim not in (-1, node.meta["val"].dim() - 1):
            raise Unknown("aten.cat of examples")
        return [block for part in parts for block in self._known[part]]

    def _split(self, parts: fx.Node, at: int) -> list[Block]:
        """One of equal parts of the last dimension."""
        name, sizes = _name(parts), [part.shape[-1] for part in parts.meta["val"]]
        if not name.startswith("split") or {*sizes} != {self._columns}:
            raise Unknown(f"aten.{name}")
        return [self._known[parts.args[0]][at]]  # type: ignore[index]

    def _of_slice(
        self, node: fx.Node, value: fx.Node, dim: int, start: int = 0, _: int = 0, step: int = 1
    ) -> list[Block]:
        shape, blocks = value.meta["val"].shape, self._known[value]
        taken = node.meta["val"].shape
        if taken == shape:
            return blocks
        if dim not in (1, -1) or len(shape) != 2 or step != 1:
            raise Unknown("aten.slice of examples")
        start %= shape[1]
        if start % self._columns == 0 and taken[1] % self._columns == 0:
            return blocks[start // self._columns :][: taken[1] // self._columns]
        return self._column(blocks, start, taken[1])

    def _of_select(self, node: fx.Node, value: fx.Node, dim: int, at: int) -> list[Block]:
        shape, blocks = value.meta["val"].shape, self._known[value]
        if dim not in (-1, len(shape) - 1) or len(shape) < 2:
            raise Unknown("aten.select of examples")
        at %= shape[-1]
        return [blocks[at]] if len(shape) == 3 else self._column(blocks, at, 1)

    def _of_slice_scatter(
        self, node: fx.Node, into: fx.Node, part: fx.Node, dim: int, start: int = 0, *_: Any
    ) -> list[Block]:
        count, blocks = part.meta["val"].shape[-1], self._known[into]
        if part.meta["val"].shape == node.meta["val"].shape:
            return self._known[part]
        if dim not in (1, -1) or node.meta["val"].dim() != 2:
            raise Unknown("aten.slice of examples")
        start %= node.meta["val"].shape[1]
        if count % self._columns == 0:
            at = start // self._columns
            return blocks[:at] + self._known[part] + blocks[at + count // self._columns :]
        return self._with_column(blocks, start, self._known[part], count)

    def _of_select_scatter(
        self, node: fx.Node, into: fx.Node, part: fx.Node, dim: int, at: int
    ) -> list[Block]:
        shape, blocks = node.meta["val"].shape, [*self._known[into]]
        if dim not in (-1, len(shape) - 1) or len(shape) < 2:
            raise Unknown("aten.select of examples")
        at %= shape[-1]
        if len(shape) == 3:
            return [*blocks[:at], *self._known[part], *blocks[at + 1 :]]
        return self._with_column(blocks, at, self._known[part], 1)

    def _with_column(
        self, blocks: list[Block], at: int, part: list[Block], count: int
    ) -> list[Block]:
        if count != 1:
            raise Unknown(f"a slice of {count} outputs")
        place = at // self._columns
        literals = _literal(part[0]), _literal(blocks[place])
        expression = "tl.where(columns == {}, {}, {})".format(at % self._columns, *literals)
        return [*blocks[:place], self._named(expression), *blocks[place + 1 :]]

    def _column(self, blocks: list[Block], at: int, count: int) -> list[Block]:
        if count != 1 or not isinstance(block := blocks[at // self._columns], str):
            raise Unknown(f"a slice of {count} outputs")
        is_it = f"columns == {at % self._columns}"
        return [self._named(f"tl.sum(tl.where({is_it}, {block}, 0.0), 1, keep_dims=True)")]


def _name(node: fx.Node) -> str:
    return node.target.overloadpacket.__name__.strip("_")  # type: ignore[union-attr]


def _literal(block: Block) -> str:
    if isinstance(block, str):
        return block
    return repr(block) if math.isfinite(block) else f'float("{block}")'


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    aten: Any = torch.ops.aten
    whole = [aten._log_softmax, aten._softmax, aten.elu, aten.elu_backward, aten.gelu]
    whole += [aten._log_softmax_backward_data, aten._softmax_backward_data, aten.gelu_backward]
    undivided = {aten.slice_scatter.default, aten.select_scatter.default}
    table = {**core_aten_decompositions(), **get_decompositions(whole)}
    return {name: function for name, function in table.items() if name not in undivided}


def _trace(function: Callable[..., Tensor], *examples: Tensor) -> fx.Graph:
    """A function of numbers and its derivative in the first argument, as operations on them."""

    def both(value: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        result, pull, *_ = torch.func.vjp(lambda known: function(known, *others), value)
        return result, pull(torch.ones_like(result))[0]

    pure = torch.func.functionalize(both)
    traced = make_fx(pure, decomposition_table=_decompositions(), tracing_mode="fake")(*examples)
    traced.graph.eliminate_dead_code()
    return traced.graph


_sources: dict[tuple[Loss, str, int, int], str] = {}
"""Printed losses by row, parameters, C and B: packs of a sweep have the same ones."""


def loss_source(run: Run, *, targets: int, examples: int) -> str:
    """The function `loss` that the kernel calls: it writes gradients and returns values [rows, 1].

    Args:
        run: Whose loss it is.
        targets: C.
        examples: Of a batch, over which gradients are those of the mean.

    Raises:
        Unknown: Something in the loss's formula; or it is none that can be traced.
    """
    key = (run.row, repr(sorted(run.loss.params.items())), targets, examples)
    if key not in _sources:
        _sources[key] = _loss_source(run, targets, examples)
    return _sources[key]


def _loss_source(run: Run, targets: int, examples: int) -> str:
    times, row = run.row.outputs_per_target, run.row
    count = next(n for n in (7, 11, 13) if n not in (targets, times * targets))
    output, target = torch.ones(count, times * targets), torch.ones(count, targets)
    try:
        graph = _trace(lambda known, aim: row.values(known, aim, run.loss.params), output, target)
        value = next(reversed(graph.nodes)).args[0][0].meta["val"]  # type: ignore[union-attr, index]
    except (Exception, SystemExit) as error:
        first = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Unknown(f"a formula that torch can trace ({first})") from error
    if value.shape != (count,) or value.dtype != torch.float32:
        raise Unknown(f"a loss of shape {[*value.shape]} and {value.dtype}")
    printer = _Printer(count, targets)
    aims: list[Block] = ["target0"]
    outputs: list[Block] = [f"output{part}" for part in range(times)]
    (values,), gradients = _printed(printer, graph, [outputs, aims])
    if isinstance(values, float):
        raise Unknown("a constant")
    loaded = [
        f"{kind}{part} = tl.load({kind} + {part * targets} + columns, mask=is_real, other=0.0)"
        for kind, parts in (("output", times), ("target", 1))
        for part in range(parts)
    ]
    stored = [
        f"tl.store(gradient + {part * targets} + columns, {mean}, mask=is_real)"
        for part, mean in enumerate(_means(gradients, examples))
    ]
    head = [
        f"columns = tl.arange(0, {triton.next_power_of_2(targets)})[None, :]",
        f"is_real = is_row & (columns < {targets})",
    ]
    return _function(
        "loss(output, target, gradient, is_row)",
        [*head, *loaded, *printer.lines, *stored, f"return {values}"],
    )


def _printed(printer: _Printer, graph: fx.Graph, given: Sequence[list[Block]]) -> list[list[Block]]:
    """As `_Printer.result`; an operation of a form that nobody thought of is unknown too."""
    try:
        return printer.result(graph, given)
    except Unknown:
        raise
    except Exception as error:
        raise Unknown(f"something that cannot be printed ({type(error).__name__})") from error


def _means(gradients: list[Block], examples: int) -> Iterator[str]:
    for gradient in gradients:
        is_known = isinstance(gradient, float)
        yield (
            _literal(gradient / examples) if is_known else f"divided({gradient}, {float(examples)})"
        )


def activation_source(layers: Sequence[Layer]) -> str:
    """The function `activated` that the kernel calls: results and derivatives, by layer.

    Raises:
        Unknown: Something in an activation's formula.
    """
    functions, cases = [], []
    for at, layer in enumerate(layers):
        if layer.activation is None:
            continue
        printer = _Printer(7, 3)
        graph = _trace(layer.activation, torch.ones(7, 3))
        (result,), (derivative,) = _printed(printer, graph, [["z"]])
        lines = [*printer.lines, f"return {_literal(result)}, {_literal(derivative)}"]
        functions.append(_function(f"activated{at}(z)", lines))
        cases += [f"if LAYER == {at}:", f"    return activated{at}(z)"]
    cases.append("return z, z")
    return "\n".join([*functions, _function("activated(z, LAYER: tl.constexpr)", cases)])


def _function(head: str, lines: list[str]) -> str:
    return "\n    ".join([f"def {head}:", *lines]) + "\n"


def _by_numpy(function: Any) -> Callable[..., tl.tensor]:
    """A function of numpy's in the place of libdevice's, which no interpreter has."""
    from triton.runtime.interpreter import TensorHandle

    def apply(*args: Any) -> tl.tensor:
        known = [arg.handle.data if isinstance(arg, tl.tensor) else np.float32(arg) for arg in args]
        shaped = next(arg for arg in args if isinstance(arg, tl.tensor))
        return tl.tensor(TensorHandle(function(*known), tl.float32), shaped.type)

    return apply


NUMPY = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "sinh", "cosh")},
    **{name: getattr(np, name) for name in ("tanh", "sin", "cos")},
    "atan": np.arctan,
    "erf": special.erf,
    "pow": np.power,
}


@functools.cache
def compiled(source: str) -> Mapping[str, Any]:
    """The functions of a printed text, for the kernel, by name."""
    file = f"<lossbench {sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    known = SimpleNamespace(**{name: _by_numpy(function) for name, function in NUMPY.items()})
    names = {"tl": tl, "libdevice": known if IS_INTERPRETED else libdevice, "__name__": __name__}
    names |= {"divided": divided, "largest": largest}
    before = {*names}
    exec(compile(source, file, "exec"), names)
    for name in names.keys() - before - {"__builtins__"}:
        jitted: Any = type(_train)  # what triton.jit gave when it was imported
        names[name] = jitted(names[name])
    return names


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
                input_block=_block_size(layer.inputs),
                output_block=_block_size(layer.outputs),
            )
        )
        end += 2 * size
    return tuple(layouts), end


def _block_size(numbers: int) -> int:
    return min(BLOCK, max(FEWEST, triton.next_power_of_2(numbers)))


def constants(layers: Sequence[Layer], members: Members, run: Run) -> dict[str, Any]:
    """What the kernel is compiled for: sizes, the loss of a span and the activations.

    Raises:
        Unknown: Something in a formula.
    """
    examples, targets = members.batches.size, members.targets["train"].shape[-1]
    loss = compiled(loss_source(run, targets=targets, examples=examples))["loss"]
    rows = _block_size(examples)
    is_fast = run.precision == TF32
    return {
        "LAYERS": layout(layers, members.parameters, examples)[0],
        "EXAMPLES": examples,
        "ROWS": rows,
        "INNER": INNER,
        "LOSS_ROWS": max(1, min(rows, LOSS_NUMBERS // triton.next_power_of_2(targets))),
        "LOSS": loss,
        "ACTIVATED": compiled(activation_source(layers))["activated"],
        "PRECISION": "tf32" if is_fast else "tf32x3",
    }


COMPILED = {"num_warps": WARPS, "num_stages": 1, "enable_fp_fusion": False}
"""One stage: nothing may be read ahead of a barrier. No fusion: as torch rounds."""


def refuse_unserved(members: Members) -> None:
    """Refuse members that the kernel cannot serve.

    Raises:
        Unserved: Says why.
    """
    run, device = members.runs[0], members.device.type
    layers = layers_of(members.model)
    types = {value.dtype for value in members.parameters.values()}
    if (device == "cpu") != IS_INTERPRETED:
        raise Unserved(f"on {device} TRITON_INTERPRET is to be {int(device == 'cpu')}")
    if run.optimizer.fn != "sgd":
        raise Unserved(f"optimizer {run.optimizer.name}, which is not sgd")
    if run.signal != "own":
        raise Unserved(f"signal {run.signal}, which is not that of the member's own loss")
    if members.batches.words is not None:
        raise Unserved(f"augmentation {run.augmentation.name}")
    if types != {torch.float32}:
        raise Unserved(f"parameters of {', '.join(map(str, types))}, not float32")
    if layers is None or layers[-1].activation is not None:
        raise Unserved(
            f"model {run.model.name}, which is no stack of affine layers that ends in one"
        )
    if members.targets["train"].shape[-1] > LOSS_NUMBERS:
        raise Unserved(f"more than {LOSS_NUMBERS} targets")
    try:
        activation_source(layers)
    except Unknown as operation:
        raise Unserved(
            f"an activation needs {operation}, which the kernel does not know"
        ) from operation
    for _, run in members.spans:
        if run.row.needs_context:
            raise Unserved(f"loss {run.loss.name} needs a context")
        try:
            constants(layers, members, run)
        except Unknown as operation:
            raise Unserved(
                f"loss {run.loss.name} needs {operation}, which the kernel does not know"
            ) from operation


class Service:
    """Serves every pack of stacked perceptrons that SGD trains with a loss it can print."""

    def advance(self, members: Members, updates: Updates, inner: Advance) -> Trusted:
        """Stretches of updates by the kernel, logged ones by `inner`.

        Raises:
            Unserved: It cannot serve these members.
        """
        refuse_unserved(members)
        return Trusted(Kernel(members, updates.factors), inner, members)


class Trusted(Advance):
    """The kernel, where its first update is close enough to what it should be.

    Args:
        kernel: Makes stretches.
        inner: Makes logged updates, and stretches where the kernel is wrong or broken.
        members: The pack.
    """

    def __init__(self, kernel: Kernel, inner: Advance, members: Members) -> None:
        self._kernel, self._inner = kernel, inner
        self._recorded = slice(members.recorded_count)
        self._most_distance = TRUSTED[members.runs[0].precision]
        self._is_tried, self._is_trusted = False, True

    @property
    def name(self) -> str:
        """What is recorded of it."""
        is_used = self._is_tried and self._is_trusted
        return " ".join(name for name in (self._inner.name, "kernel" if is_used else "") if name)

    @property
    def most(self) -> int:
        """Updates of a stretch."""
        return MOST_LAUNCHED if self._is_trusted else self._inner.most

    def advance(self, state: State, count: int) -> None:
        """Make so many updates of a state."""
        if not self._is_tried:
            self._is_tried = True
            self._try(state)
            count -= 1
        if not self._is_trusted:
            self._inner.advance(state, count)
        elif count:
            self._kernel.advance(state, count)

    def logged(self, state: State) -> Logged:
        """Make a logged update of a state."""
        return self._inner.logged(state)

    def _try(self, state: State) -> None:
        """Make one update by the kernel and without, and compare the two states."""
        theirs, before = copy.deepcopy(state), _row(state).clone()
        reason = ""
        try:
            self._kernel.advance(theirs, 1)
        except Exception as error:
            reason = str(error).partition("\n")[0]
        self._inner.advance(state, 1)
        if not reason:
            distance = _distance(before, state, theirs, self._recorded)
            if distance <= self._most_distance:
                state.write(theirs.values)
                return
            reason = f"its first one is {distance:.1g} of an update away from what it should be"
        self._is_trusted = False
        log.warning("no updates by the kernel: %s", reason)


def _row(state: State) -> Tensor:
    assert isinstance(state.parameters, Rows), "a kernel takes parameters as rows"
    return state.parameters.row


def _distance(before: Tensor, state: State, other: State, recorded: slice) -> float:
    """How far two states are apart after one update.

    Args:
        before: Parameters before it, [K, P'].
        state: As it should be.
        other: As the kernel has it.
        recorded: Places of members that are compared.

    Returns:
        Of the members that go on, the largest difference of a parameter, relative to the largest
        step of one, rounding of the parameters apart; infinite where the two disagree on who goes
        on.
    """
    alive = state.alive[recorded]
    if not alive.equal(other.alive[recorded]):
        return math.inf
    mine, theirs = _row(state)[recorded], _row(other)[recorded]
    step = (mine - before[recorded]).abs().nan_to_num(posinf=torch.inf).amax(-1)
    rounding = 8 * torch.finfo(mine.dtype).eps * mine.abs()
    off = torch.where(mine == theirs, 0.0, ((mine - theirs).abs() - rounding).clamp_min(0))
    off = torch.where(mine.isfinite() | theirs.isfinite(), off, 0.0).amax(-1)
    relative = torch.where(off > 0, off / step, 0.0)
    return float(torch.where(alive, relative, 0.0).max())


class Kernel:
    """Trains members that it does not refuse.

    Args:
        members: The pack.
        factors: What the schedule makes of the learning rate, by update, [T], on the device.
    """

    def __init__(self, members: Members, factors: Tensor) -> None:
        layers = layers_of(members.model)
        assert layers is not None, "ask `refuse_unserved` first"
        self._members, self._factors = members, factors.to(members.hyper.lr.dtype)
        # Padding is left as it is: nothing of it is recorded.
        count = members.recorded_count
        self._spans = [
            (slice(span.start, min(span.stop, count)), constants(layers, members, run))
            for span, run in members.spans
            if span.start < count
        ]
        _, room = layout(layers, members.parameters, members.batches.size)
        self._scratch = members.hyper.lr.new_empty(count, room)
        self._inputs = members.batches.inputs.flatten(2)
        self._targets = members.batches.targets
        assert self._inputs.stride(-1) == self._targets.stride(-1) == 1
        self._rows = members.batches.rows.contiguous()
        device = members.device
        self._streams = (
            [torch.cuda.Stream(device) for _ in self._spans] if device.type == "cuda" else []
        )

    def advance(self, state: State, count: int) -> None:
        """Make so many updates of all recorded members, in place, in which nothing is logged."""
        if not self._streams:
            with np.errstate(all="ignore"):  # the interpreter's numpy
                for span, fixed in self._spans:
                    self._launch(span, fixed, state, count)
        else:
            here = torch.cuda.current_stream(state.clock.device)
            try:
                for stream, (span, fixed) in zip(self._streams, self._spans, strict=True):
                    stream.wait_stream(here)
                    with torch.cuda.stream(stream):
                        self._launch(span, fixed, state, count)
            finally:
                for stream in self._streams:
                    here.wait_stream(stream)
        state.clock.add_(count)

    def _launch(self, span: slice, fixed: dict[str, Any], state: State, count: int) -> None:
        members, hyper, row = self._members, self._members.hyper, _row(state)
        kernel: Any = _train
        kernel[(span.stop - span.start,)](
            row,
            state.optimizer["momentum"]["row"],
            state.alive,
            state.stop_step,
            self._scratch,
            self._inputs,
            self._targets,
            self._rows,
            members.seed_index,
            hyper.lr,
            hyper.momentum,
            hyper.weight_decay,
            self._factors,
            state.clock,
            span.start,
            count,
            self._rows.shape[1],
            row.stride(0),
            self._scratch.stride(0),
            *self._inputs.stride()[:2],
            *self._targets.stride()[:2],
            **fixed,
            **COMPILED,
        )
