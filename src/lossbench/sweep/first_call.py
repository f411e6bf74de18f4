"""The first call of somebody's losses, in a process of its own: one that ends or hangs is seen."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import IO, Any

import torch
from torch import Tensor

from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.losses.spec import Context, Loss
from lossbench.runs import Run
from lossbench.runs.extensions import contained, load_extensions

STARTING = 120.0
"""Seconds that Python and the modules may take before the first loss is called."""

EXAMPLES = 8

PROGRAM = """
import json, sys
question = json.loads(sys.stdin.read())
sys.path[:] = question["path"]
from lossbench.sweep.first_call import answer
answer(question)
"""

WELL = "well"
"""What the process says of a call that nothing speaks against."""

RETURNED: set[tuple[str, Callable[..., Tensor], int]] = set()
"""Losses with their parameters and outputs whose calls have returned: later looks ask again."""


def first_calls(
    runs: Iterable[tuple[Run, int]], *, extensions: Sequence[str], patience: float
) -> None:
    """Call losses on a few examples, forward and backward, in a process that may come to any end.

    Args:
        runs: That have them, each with C, the number of targets of an example.
        extensions: Modules that bring them.
        patience: Seconds that one call may take.

    Raises:
        ConfigError: A call ended the process, did not return, changed torch's functions, or gave an
            example another value beside other examples.
    """
    keys = {(repr(run.loss), run.row.fn, outputs): (run, outputs) for run, outputs in runs}
    new = {key: run for key, run in keys.items() if key not in RETURNED}
    if not new:
        return
    losses = [(run.loss.fn, dict(run.loss.params), outputs) for run, outputs in new.values()]
    question = {"path": sys.path, "extensions": [*extensions], "losses": losses}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode())
            process.stdin.close()
            steps = [(f"extensions {', '.join(extensions)} are imported", STARTING, "mend it")]
            cure = "mend it, or allow it more with engine.patience=SECONDS"
            steps += [
                (f"loss {run.loss.name} is called", patience, cure) for run, _ in new.values()
            ]
            for when, seconds, cure in steps:
                if not select.select([process.stdout], [], [], seconds)[0]:
                    raise ConfigError(
                        f"when {when}, nothing comes back within {seconds:g} s: {cure}"
                    )
                said = process.stdout.readline().decode().strip()
                if not said:
                    raise ConfigError(
                        f"when {when}, its process ends ({_end(process, errors)}): mend it, or "
                        "leave it out"
                    )
                if said != WELL:
                    raise ConfigError(f"when {when}, {said}")
        finally:
            process.kill()
    RETURNED.update(new)


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    """How the process came to its end, and its last words."""
    code = process.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}, after the words {lines[-1][:200]!r}" if lines else how


def answer(question: Mapping[str, Any]) -> None:
    """In the process: a line when the modules are imported, then one for each call that ends."""
    with os.fdopen(os.dup(1), "w", buffering=1) as lines:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what somebody's code prints
        torch.set_num_threads(1)
        before = _functions()
        load_extensions(question["extensions"])
        lines.write(f"{_changed(before) or WELL}\n")
        for fn, params, outputs in question["losses"]:
            mixes = _call(LOSSES[fn], params, outputs)
            lines.write(f"{_changed(before) or mixes or WELL}\n")


def _functions() -> dict[str, int]:
    """What stands under the public names of torch, its functions and its tensors."""
    places = {"torch": torch, "functional": torch.nn.functional, "Tensor": torch.Tensor}
    return {
        f"{place}.{name}": id(value)
        for place, owner in places.items()
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("_")
    }


def _changed(before: Mapping[str, int]) -> str:
    """Which of torch's functions are others now; empty where none is."""
    now = _functions()
    if names := sorted(name for name in before if now.get(name) != before[name]):
        return f"it replaces {', '.join(names[:3])} for every other loss too: call your own instead"
    return ""


def _call(row: Loss, params: Mapping[str, Any], outputs: int) -> str:
    """Call a loss, and say whether an example's value depends on the others; empty if not.

    What it raises fails its own runs, and is said where they are.
    """
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(EXAMPLES, outputs, generator=generator)
    if row.task == "classification":
        target = torch.nn.functional.one_hot(target.argmax(-1), outputs).float()
    elif row.domain == "nonnegative":
        target = target.abs()
    output = torch.randn(EXAMPLES, row.outputs_per_target * outputs, generator=generator)
    context = Context.outside_training(target.sum(0))
    with contextlib.suppress(Exception, SystemExit, KeyboardInterrupt), contained(row.name):
        values = row.values(output.requires_grad_(), target, params, context)
        values.sum().backward()
        again, few = (
            row.values(output[:count].detach(), target[:count], params, context)
            for count in (EXAMPLES, EXAMPLES // 2)
        )
        near = partial(torch.allclose, rtol=1e-3, atol=1e-5, equal_nan=True)
        # A loss that draws random numbers differs from itself.
        if near(values.detach(), again) and not near(again[: EXAMPLES // 2], few):
            return (
                "an example's value depends on the other examples of its batch, and so on what "
                "else trains beside it: return one value an example, and let the mean be ours"
            )
    return ""
