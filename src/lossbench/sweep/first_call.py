"""First calls of the user's functions, in a trial process that may end or hang."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from lossbench.claims.kind import depends_on_others
from lossbench.data import DATA
from lossbench.data.files import Files
from lossbench.data.splits import Tokens
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.losses.spec import Context
from lossbench.models import MODELS
from lossbench.question import Part, Run
from lossbench.user_code import Own, TrialProcess, is_own, restoring_process_state

EXAMPLES = 8

RETURNED: set[tuple[str, Callable[..., Any], str]] = set()
"""Parts, their functions and further arguments whose calls returned: later looks ask again."""


class FirstCalls(TrialProcess):
    """Calls the user's functions in a trial process; lossbench's own functions are not called.

    Each method raises ConfigError where a call ended the process, did not return in time, changed
    torch's functions, or, of a loss, gave an example another value beside other examples. An error
    that a function raises is ignored: its runs report it.
    """

    cure = "mend it, or allow it more with engine.patience=SECONDS"

    def data(self, run: Run, files: Files) -> None:
        """Call the data function of a run with its seed."""
        self._first("data", run.data, DATA[run.data.fn].fn, _call_data, run.seed, files)

    def model(self, run: Run, inputs: int | Tokens | tuple[int, ...], outputs: int) -> None:
        """Build the model of a run for inputs of a shape, and compute outputs of a few."""
        self._first("model", run.model, MODELS[run.model.fn].fn, _call_model, inputs, outputs)

    def loss(self, run: Run, outputs: int) -> None:
        """Call the loss of a run forward and backward; an example has so many targets."""
        self._first("loss", run.loss, run.row.fn, _call_loss, outputs)

    def _first(
        self, kind: str, part: Part, own: Callable[..., Any], call: Any, *further: Any
    ) -> None:
        key = (repr((kind, part)), own, repr(further))
        if self.own != Own() and is_own(own) and key not in RETURNED:
            self.call(f"{kind} {part.name} is called", call, part.fn, dict(part.params), *further)
            RETURNED.add(key)


# An error that a function raises is reported where its runs call it; here it is ignored.
RAISED = (Exception, SystemExit, KeyboardInterrupt)


def _call_data(name: str, params: Mapping[str, Any], seed: int, files: Files) -> None:
    with contextlib.suppress(*RAISED), restoring_process_state(name):
        DATA[name].splits(seed, files, params)


def _call_model(name: str, params: Mapping[str, Any], inputs: Any, outputs: int) -> None:
    shape = (inputs,) if isinstance(inputs, int) else inputs
    examples = torch.zeros(EXAMPLES, *shape)
    if isinstance(inputs, Tokens):
        examples = torch.zeros(EXAMPLES, inputs.positions, dtype=torch.int64)
    with contextlib.suppress(*RAISED), restoring_process_state(name):
        MODELS[name].fn(inputs, outputs, **params)(examples)


def _call_loss(name: str, params: Mapping[str, Any], outputs: int) -> None:
    """Refuse a loss whose value for an example depends on the others."""
    row = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    members = 2  # in the shape of a pack, as it trains
    target = torch.randn(members, EXAMPLES, outputs, generator=generator)
    if row.task == "classification":
        target = torch.nn.functional.one_hot(target.argmax(-1), outputs).float()
    elif row.domain == "nonnegative":
        target = target.abs()
    width = row.outputs_per_target * outputs
    output = torch.randn(members, EXAMPLES, width, generator=generator)
    context, mixes = Context.outside_training(target.flatten(0, 1).sum(0)), False
    with contextlib.suppress(*RAISED), restoring_process_state(row.name):
        compute = partial(row.values, params=params, context=context)
        compute(output.requires_grad_(), target).sum().backward()
        mixes = depends_on_others(compute, output.detach(), target, rtol=1e-3, atol=1e-5)
    if mixes:
        raise ConfigError(
            "an example's value depends on the other examples of its batch, and so on what else "
            "trains beside it: return one value an example, and take no mean"
        )
