"""The first call of somebody's functions, in a process that may end or hang: that is seen."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

import torch

from lossbench.data import DATA
from lossbench.data.files import Files
from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.losses.spec import Context
from lossbench.models import MODELS
from lossbench.runs import Part, Run
from lossbench.runs.extensions import contained, is_own, load_extensions

STARTING = 120.0
"""Seconds that Python and the modules may take before the first function is called."""

EXAMPLES = 8

PROGRAM = """
import sys
sys.path[:] = {path!r}
from lossbench.sweep.first_call import answer
answer({extensions!r})
"""

WELL = "well"
"""What the process says of a call that nothing speaks against."""

RETURNED: set[tuple[str, Callable[..., Any], str]] = set()
"""Parts, their functions and further arguments whose calls returned: later looks ask again."""


class FirstCalls:
    """Calls somebody's functions in a process of its own, which begins with the first of them.

    Each method raises ConfigError where a call ended the process, did not return in time, changed
    torch's functions, or, of a loss, gave an example another value beside other examples. What a
    function raises is no concern of theirs. Lossbench's own functions are not called.
    """

    def __init__(self, extensions: Sequence[str], *, patience: float) -> None:
        """Name the modules that bring the functions, and the seconds that a call may take."""
        self.extensions, self.patience = [*extensions], patience
        self.stack = contextlib.ExitStack()
        self.process: subprocess.Popen[bytes] | None = None
        self.errors: IO[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
        self.stack.close()

    def data(self, run: Run, files: Files) -> None:
        """Call the data function of a run with its seed."""
        function = DATA[run.data.fn].fn
        self._call("data", run.data, function, run.seed, str(files.root), files.download)

    def model(self, run: Run, inputs: int | tuple[int, ...], outputs: int) -> None:
        """Build the model of a run for inputs of a shape, and compute outputs of a few."""
        self._call("model", run.model, MODELS[run.model.fn].fn, inputs, outputs)

    def loss(self, run: Run, outputs: int) -> None:
        """Call the loss of a run forward and backward; an example has so many targets."""
        self._call("loss", run.loss, run.row.fn, outputs)

    def _call(self, kind: str, part: Part, function: Callable[..., Any], *further: Any) -> None:
        key = (repr((kind, part)), function, repr(further))
        if not self.extensions or not is_own(function) or key in RETURNED:
            return
        process = self.process or self._start()
        assert process.stdin is not None
        call = json.dumps([kind, part.fn, dict(part.params), *further])
        process.stdin.write(f"{call}\n".encode())
        cure = "mend it, or allow it more with engine.patience=SECONDS"
        self._answer(f"{kind} {part.name} is called", self.patience, cure)
        RETURNED.add(key)

    def _start(self) -> subprocess.Popen[bytes]:
        errors = self.stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  it is closed there
        program = PROGRAM.format(path=sys.path, extensions=self.extensions)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", program], stdin=pipe, stdout=pipe, stderr=errors, bufsize=0
        )
        self.errors, self.process = errors, self.stack.enter_context(process)
        self._answer(f"extensions {', '.join(self.extensions)} are imported", STARTING, "mend it")
        return process

    def _answer(self, when: str, seconds: float, cure: str) -> None:
        """Wait for what the process says next, and refuse what is not well."""
        assert self.process is not None
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise ConfigError(f"when {when}, nothing comes back within {seconds:g} s: {cure}")
        said = self.process.stdout.readline().decode().strip()
        if not said:
            how = _end(self.process, self.errors)
            raise ConfigError(f"when {when}, its process ends ({how}): mend it, or leave it out")
        if said != WELL:
            raise ConfigError(f"when {when}, {said}")


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    """How the process came to its end, and its last words."""
    code = process.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}, after the words {lines[-1][:200]!r}" if lines else how


def answer(extensions: Sequence[str]) -> None:
    """In the process: a line when the modules are imported, then one for each call that ends."""
    with os.fdopen(os.dup(1), "w", buffering=1) as lines, os.fdopen(os.dup(0)) as questions:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)  # what somebody's code reads
        os.dup2(null, 1)  # what it prints
        torch.set_num_threads(1)
        before = _functions()
        load_extensions(extensions)
        lines.write(f"{_changed(before) or WELL}\n")
        calls = {"data": _call_data, "model": _call_model, "loss": _call_loss}
        for question in questions:
            kind, name, params, *further = json.loads(question)
            said = calls[kind](name, params, *further)
            lines.write(f"{_changed(before) or said or WELL}\n")


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
        return f"it replaces {', '.join(names[:3])} for everything else too: call your own instead"
    return ""


# What a function raises is said where it is called for its runs; here it is passed over.
RAISED = (Exception, SystemExit, KeyboardInterrupt)


def _call_data(name: str, params: Mapping[str, Any], seed: int, root: str, download: bool) -> str:
    row = DATA[name]
    with contextlib.suppress(*RAISED), contained(name):
        row.splits(seed, Files(Path(root), download), params)
    return ""


def _call_model(name: str, params: Mapping[str, Any], inputs: Any, outputs: int) -> str:
    inputs = inputs if isinstance(inputs, int) else tuple(inputs)
    shape = (inputs,) if isinstance(inputs, int) else inputs
    with contextlib.suppress(*RAISED), contained(name):
        MODELS[name].fn(inputs, outputs, **params)(torch.zeros(EXAMPLES, *shape))
    return ""


def _call_loss(name: str, params: Mapping[str, Any], outputs: int) -> str:
    """Say whether an example's value depends on the others; empty if not."""
    row = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(EXAMPLES, outputs, generator=generator)
    if row.task == "classification":
        target = torch.nn.functional.one_hot(target.argmax(-1), outputs).float()
    elif row.domain == "nonnegative":
        target = target.abs()
    output = torch.randn(EXAMPLES, row.outputs_per_target * outputs, generator=generator)
    context = Context.outside_training(target.sum(0))
    with contextlib.suppress(*RAISED), contained(row.name):
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
