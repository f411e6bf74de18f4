"""Multilayer perceptrons trained by one program per member that loops over many updates.

A Triton kernel. What it knows of losses and activations it reads from their own formulas: they are
traced with their derivative, and the trace is printed as a function of blocks [rows, columns].

Triton compiles for the GPU, or interprets on the CPU where TRITON_INTERPRET=1 was set before it was
imported.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from lossbench.engine.members import Members
from lossbench.engine.rows import Rows
from lossbench.engine.state import State
from lossbench.engine.strategies.kernel.printing import (
    IS_INTERPRETED,
    Unknown,
    activation_source,
    compiled,
    loss_source,
)
from lossbench.engine.strategies.kernel.program import block_size, layout, train
from lossbench.engine.strategies.layers import Layer, layers_of
from lossbench.engine.strategy import Advance, Logged, Unserved
from lossbench.engine.update import Updates
from lossbench.question import TF32, Run

log = logging.getLogger(__name__)

VERSION = f"triton {triton.__version__}"
"""What compiles the kernel: bits depend on it."""

MOST_LAUNCHED = 1_000
"""Updates made in one launch: more would gain nothing."""

TRUSTED = {"float32": 1e-3, TF32: 1e-1}
"""How far the kernel's first update may be from ours, relative to the update, by precision."""

INNER = 32
"""Numbers summed over at once in a product."""

LOSS_NUMBERS = 4096
"""Most outputs whose loss is computed at once."""

COMPILED = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False}
"""One stage: nothing may be read ahead of a barrier. No fusion: as torch rounds."""


class Service:
    """Serves every pack of stacked perceptrons that SGD trains with a loss it can print."""

    def advance(self, members: Members, updates: Updates, inner: Advance) -> Trusted:
        """Stretches of updates by the kernel, logged ones by `inner`.

        Raises:
            Unserved: It cannot serve these members.
        """
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
        """Make so many updates of a state, the first of all by the kernel and without it."""
        if not self._is_tried:
            self._is_tried, count = True, count - 1
            theirs, before, reason = copy.deepcopy(state), row_of(state).clone(), ""
            try:
                self._kernel.advance(theirs, 1)
            except Exception as error:
                reason = str(error).partition("\n")[0]
            self._inner.advance(state, 1)
            if not reason:
                distance = _distance(before, state, theirs, self._recorded)
                if distance <= self._most_distance:
                    state.write(theirs.values)
                else:
                    reason = (
                        f"its first one is {distance:.1g} of an update away from what it should be"
                    )
            if reason:
                self._is_trusted = False
                log.warning("no updates by the kernel: %s", reason)
        if not self._is_trusted:
            self._inner.advance(state, count)
        elif count:
            self._kernel.advance(state, count)

    def logged(self, state: State) -> Logged:
        """Make a logged update of a state."""
        return self._inner.logged(state)


def row_of(state: State) -> Tensor:
    """All parameters of each member, [K, P']."""
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
    mine, theirs = row_of(state)[recorded], row_of(other)[recorded]
    step = (mine - before[recorded]).abs().nan_to_num(posinf=torch.inf).amax(-1)
    rounding = 8 * torch.finfo(mine.dtype).eps * mine.abs()
    off = torch.where(mine == theirs, 0.0, ((mine - theirs).abs() - rounding).clamp_min(0))
    off = torch.where(mine.isfinite() | theirs.isfinite(), off, 0.0).amax(-1)
    relative = torch.where(off > 0, off / step, 0.0)
    return float(torch.where(alive, relative, 0.0).max())


class Kernel:
    """Trains members.

    Args:
        members: The pack.
        factors: What the schedule makes of the learning rate, by update, [T], on the device.

    Raises:
        Unserved: It cannot train these; says why.
    """

    def __init__(self, members: Members, factors: Tensor) -> None:
        run, device, count = members.runs[0], members.device, members.recorded_count
        layers = layers_of(members.model)
        types = {value.dtype for value in members.parameters.values()}
        if (device.type == "cpu") != IS_INTERPRETED:
            wanted = int(device.type == "cpu")
            raise Unserved(f"on {device.type} TRITON_INTERPRET is to be {wanted}")
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
            activated = compiled(activation_source(layers))["activated"]
        except Unknown as operation:
            why = f"an activation needs {operation}, which the kernel does not know"
            raise Unserved(why) from operation
        self._spans = []
        for span, run in members.spans:
            if run.row.needs_context:
                raise Unserved(f"loss {run.loss.name} needs a context")
            # Padding is left as it is: nothing of it is recorded.
            recorded = slice(span.start, min(span.stop, count))
            try:
                fixed = constants(layers, members, run, activated)
            except Unknown as operation:
                why = f"loss {run.loss.name} needs {operation}, which the kernel does not know"
                raise Unserved(why) from operation
            if recorded.start < recorded.stop:
                self._spans.append((recorded, fixed))
        self._members, self._factors = members, factors.to(members.hyper.lr.dtype)
        _, length = layout(layers, members.parameters, members.batches.size)
        self._scratch = members.hyper.lr.new_empty(count, length)
        self._inputs = members.batches.inputs.flatten(2)
        self._targets = members.batches.targets
        assert self._inputs.stride(-1) == self._targets.stride(-1) == 1
        self._rows = members.batches.rows.contiguous()
        streams = self._spans if device.type == "cuda" else []
        self._streams = [torch.cuda.Stream(device) for _ in streams]

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
        members, hyper, row = self._members, self._members.hyper, row_of(state)
        kernel: Any = train
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


def constants(
    layers: Sequence[Layer], members: Members, run: Run, activated: Any
) -> dict[str, Any]:
    """What the kernel is compiled for: sizes, a run's loss and the compiled activations.

    Raises:
        Unknown: Something in the loss's formula.
    """
    examples, targets = members.batches.size, members.targets["train"].shape[-1]
    source = loss_source(run.row, run.loss.params, targets=targets, examples=examples)
    rows = block_size(examples)
    return {
        "LAYERS": layout(layers, members.parameters, examples)[0],
        "EXAMPLES": examples,
        "ROWS": rows,
        "INNER": INNER,
        "LOSS_ROWS": max(1, min(rows, LOSS_NUMBERS // triton.next_power_of_2(targets))),
        "LOSS": compiled(source)["loss"],
        "ACTIVATED": activated,
        "PRECISION": "tf32" if run.precision == TF32 else "tf32x3",
    }
