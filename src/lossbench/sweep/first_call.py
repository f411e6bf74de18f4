"""Calls each of the user's functions first in a trial process, which may crash or hang."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial

import torch

from lossbench.claims.kind import depends_on_others
from lossbench.data import DATA
from lossbench.data.files import Files
from lossbench.data.splits import Tokens
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.losses.spec import Context
from lossbench.models import MODELS
from lossbench.question import Part
from lossbench.user_code import Own, TrialProcess, is_own, restoring_process_state
from lossbench.user_code.modules import Row

EXAMPLES = 8

PASSED: set[tuple[object, ...]] = set()
"""Checks that have passed: kind, part, function, arguments. Later looks do not repeat a check."""


class FirstCalls(TrialProcess):
    """Calls the user's functions in a trial process; lossbench's own functions are not called.

    An error that a function raises is ignored here; the runs of the function report the error.
    """

    cure = "mend it, or allow it more with engine.patience=SECONDS"

    def call_once(self, kind: str, part: Part, *arguments: object) -> None:
        """Call the function of a part in the trial process, unless this call has passed before.

        The kind is "data" with seed and files as arguments; "model" with the shape of inputs and
        the number of outputs; or "loss" with the number of targets of an example.

        Raises:
            ConfigError: The call ended the process, did not return in time or changed torch's
                functions; or the value of a loss for an example depends on other examples.
        """
        rows, call = CALLS[kind]
        function = rows[part.fn].fn
        key = (kind, repr(part), function, repr(arguments))
        if self.own != Own() and is_own(function) and key not in PASSED:
            self.call(f"{kind} {part.name} is called", call, part.fn, dict(part.params), *arguments)
            PASSED.add(key)


# An error that a function raises is reported where its runs call it; here it is ignored.
RAISED = (Exception, SystemExit, KeyboardInterrupt)


def _call_data(name: str, params: Mapping[str, object], seed: int, files: Files) -> None:
    with contextlib.suppress(*RAISED), restoring_process_state(name):
        DATA[name].splits(seed, files, params)


def _call_model(
    name: str, params: Mapping[str, object], inputs: int | Tokens | tuple[int, ...], outputs: int
) -> None:
    shape = (inputs,) if isinstance(inputs, int) else inputs
    examples = torch.zeros(EXAMPLES, *shape)
    if isinstance(inputs, Tokens):
        examples = torch.zeros(EXAMPLES, inputs.positions, dtype=torch.int64)
    with contextlib.suppress(*RAISED), restoring_process_state(name):
        MODELS[name].fn(inputs, outputs, **params)(examples)


def _call_loss(name: str, params: Mapping[str, object], outputs: int) -> None:
    """Call a loss, and refuse a loss whose value for an example depends on other examples."""
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
            "an example's value depends on the other examples of its batch, and so "
            "on the other runs of its pack: return one value for each example, "
            "without taking a mean"
        )


CALLS: dict[str, tuple[Mapping[str, Row], Callable[..., None]]] = {
    "data": (DATA, _call_data),
    "model": (MODELS, _call_model),
    "loss": (LOSSES, _call_loss),
}
"""By kind of part: the registry of functions, and the function that makes the first call."""
