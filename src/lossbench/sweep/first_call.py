"""The first call of somebody's losses, in a process of its own: one that ends or hangs is seen."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

import torch

from lossbench.errors import ConfigError
from lossbench.losses import LOSSES
from lossbench.losses.spec import Context, Loss
from lossbench.runs import Run
from lossbench.runs.extensions import load_extensions

STARTING = 120.0
"""Seconds that Python and the modules may take before the first loss is called."""

EXAMPLES = 8

PROGRAM = "from lossbench.sweep.first_call import answer; answer()"


CALLED: dict[str, str] = {}
"""What calls raised that this process has seen, by loss, its code and outputs: looks ask again."""


def first_calls(
    losses: Mapping[str, Run], *, outputs: int, extensions: Sequence[str], patience: float
) -> dict[str, str]:
    """Call losses on a few examples, forward and backward, in a process that may come to any end.

    Args:
        losses: By name a run that has it.
        outputs: C, the number of targets of an example.
        extensions: Modules that bring them.
        patience: Seconds that one call may take.

    Returns:
        By name what a call raised; empty of one that returned.

    Raises:
        ConfigError: A call ended the process, or did not return.
    """
    keys = {name: repr((run.loss, run.source_sha, outputs)) for name, run in losses.items()}
    new = {name: run for name, run in losses.items() if keys[name] not in CALLED}
    answers = _asked(new, outputs, extensions, patience) if new else {}
    CALLED.update({keys[name]: text for name, text in answers.items()})
    return {name: CALLED[key] for name, key in keys.items()}


def _asked(
    losses: Mapping[str, Run], outputs: int, extensions: Sequence[str], patience: float
) -> dict[str, str]:
    """What a new process says of losses."""
    question = {
        "path": sys.path,
        "extensions": [*extensions],
        "outputs": outputs,
        "losses": [[name, run.loss.fn, dict(run.loss.params)] for name, run in losses.items()],
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode())
            process.stdin.close()
            _read(process, process.stdout, "it is imported", STARTING)
            return {
                name: str(_read(process, process.stdout, f"loss {name} is called", patience))
                for name in losses
            }
        finally:
            process.kill()


def _read(process: subprocess.Popen[bytes], pipe: IO[bytes], when: str, patience: float) -> Any:
    """One line of the process; refuses one that ends or stays silent."""
    if not select.select([pipe], [], [], patience)[0]:
        raise ConfigError(
            f"when {when}, nothing comes back within {patience:g} s: mend it, leave it out, or "
            "allow it more with engine.patience=SECONDS"
        )
    if line := pipe.readline():
        return json.loads(line)
    code = process.wait()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    raise ConfigError(f"when {when}, its process ends ({how}): mend it, or leave it out")


def answer() -> None:
    """In the process: answer what standard input asks, a line a loss."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what somebody's code prints
        question = json.loads(sys.stdin.read())
        sys.path[:] = question["path"]
        torch.set_num_threads(1)
        load_extensions(question["extensions"])
        answers.write(json.dumps("ready") + "\n")
        for _, fn, params in question["losses"]:
            answers.write(json.dumps(_outcome(LOSSES[fn], params, question["outputs"])) + "\n")


def _outcome(row: Loss, params: Mapping[str, Any], outputs: int) -> str:
    """What a call raises; empty where it returns."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(EXAMPLES, outputs, generator=generator)
    if row.task == "classification":
        target = torch.nn.functional.one_hot(target.argmax(-1), outputs).float()
    elif row.domain == "nonnegative":
        target = target.abs()
    output = torch.randn(EXAMPLES, row.outputs_per_target * outputs, generator=generator)
    context = Context.outside_training(target.sum(0))
    try:
        row.values(output.requires_grad_(), target, params, context).sum().backward()
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return ""
