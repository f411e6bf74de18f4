"""Measurement of a loss function that has no row: its task, inverse link and defects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from lossbench.claims.draws import hard_targets, normal, raw_outputs, seeded
from lossbench.claims.minima import output_gradient
from lossbench.errors import ConfigError
from lossbench.losses.spec import Loss

OUTPUTS, EXAMPLES = 3, 64
STEPS = (0.02, 1.0)
"""Small and large steps away from prediction = target, near which the loss may be flat."""

KINDS = (("regression", "identity"), ("classification", "softmax"))
KINDS += (("classification", "sigmoid"), ("regression", "exp"))
"""Tasks and inverse links, in the order in which they are tried."""

NOT_FINITE = (
    "it is not finite at ordinary outputs, which are any real numbers: a logarithm or a root of "
    "them needs the inverse link first, as output.log_softmax(-1)"
)
"""Objection to a loss that is not finite but may only need another inverse link."""


def guessed(loss: Loss, task: str = "") -> tuple[str, str, str]:
    """Task, inverse link and the reason for both, for a loss whose row does not state them.

    The answer is the first of `KINDS` with which the loss is least if the prediction equals the
    target. If there is none, as for a margin loss, the task is classification if a larger output
    of the labelled class makes the loss smaller.

    Args:
        loss: Loss to measure; errors of its function pass through.
        task: Task of the loss if it is known, else empty.

    Raises:
        ConfigError: Neither rule applies; the message names the option to give.
    """
    for kind, link in KINDS:
        if task not in ("", kind):
            continue
        target = _targets(kind)
        output = _output_for(link, target)
        # Small steps from the target must never lower the loss, and some large step must raise it.
        steps = normal((32, *output.shape), seeded("steps", OUTPUTS))
        here, slack = loss.values(output, target), 1e-9
        near, far = (
            loss.values(output + size * steps, target.expand_as(steps)) - here for size in STEPS
        )
        if bool((near >= -slack).all()) and bool((far.amax(0) > slack).all()):
            where = "the output" if link == "identity" else f"{link}(output)"
            return kind, link, f"least where {where} equals the target"
    if task == "regression":
        return "regression", "identity", "as you said"
    labels = torch.nn.functional.one_hot(torch.arange(EXAMPLES) % OUTPUTS, OUTPUTS).double()
    output = torch.zeros_like(labels).requires_grad_()
    gradient = torch.autograd.grad(loss.values(output, labels).sum(), output)[0]
    if task or bool(((gradient * labels).sum(-1) < 0).all()):
        return "classification", "softmax", "smaller where the labelled class has a larger output"
    raise ConfigError(
        "its task cannot be guessed: it is smallest at the target with none of the inverse links, "
        "and does not fall as the output of the labelled class grows. Say --task regression or "
        "--task classification"
    )


def _targets(task: str) -> Tensor:
    generator = seeded("kind", OUTPUTS)
    target = torch.rand((EXAMPLES, OUTPUTS), generator=generator, dtype=torch.float64) + 0.1
    return 2 * target if task == "regression" else target / target.sum(-1, keepdim=True)


def _output_for(link: str, target: Tensor) -> Tensor:
    """Output, [M, C], whose prediction behind the inverse link is the target."""
    if link == "identity":
        return target
    if link == "softmax":  # any constant may be added
        return target.log() + normal((len(target), 1), seeded("shift", OUTPUTS))
    return target.logit() if link == "sigmoid" else target.log()


@functools.lru_cache(maxsize=1024)
@torch.enable_grad()
def is_separable(loss: Loss) -> bool:
    """Whether the gradient of a class does not depend on outputs and targets of other classes.

    With such a loss, a target may mark any number of classes as true.
    """
    generator, shape = seeded("separability", OUTPUTS), (EXAMPLES, OUTPUTS)
    output, other = (raw_outputs(loss, shape, generator) for _ in range(2))
    target, another = (torch.rand(shape, generator=generator).round().double() for _ in range(2))
    mixed = torch.cat([output[:, :1], other[:, 1:]], -1)
    aims = torch.cat([target[:, :1], another[:, 1:]], -1)
    first, again = (
        output_gradient(loss, *pair)[:, 0] for pair in ((output, target), (mixed, aims))
    )
    return torch.allclose(first, again, rtol=1e-9, atol=1e-12)


def unlike_a_loss(row: Loss) -> str:
    """Reason why a function cannot be a loss of any task; empty if it can be a loss.

    A loss returns one number per example and does not change its arguments.
    """
    output, target = _example(row)
    before = output.detach().clone(), target.clone()
    values: object = row.values(output, target)
    expected = list(target.shape[:-1])
    if not isinstance(values, Tensor):
        return f"it returns {type(values).__name__}: return a tensor, one number per example"
    if list(values.shape) == [*output.shape[:1], *output.shape[2:]]:
        return (
            "it takes the second axis for the classes, as torch's cross_entropy does, and they are "
            "the last one here: write -(target * output.log_softmax(-1)).sum(-1)"
        )
    if list(values.shape) != expected:
        times = "reduces over examples" if values.ndim == 0 else "has another shape than examples"
        return (
            f"it {times}: for outputs {list(output.shape)} it returns shape "
            f"{list(values.shape)}, and not {expected}: sum over the last axis only, with "
            ".sum(-1), and take no mean; a function of torch takes reduction='none'"
        )
    try:
        torch.vmap(row.values, randomness="different")(output.detach(), target)
    except RuntimeError as error:  # other errors are ignored: training does not need vmap
        if "data-dependent" in str(error) or ".item()" in str(error):
            return "a step depends on values, as an `if` on a tensor does: use torch.where"
    if depends_on_others(row.values, output, target, rtol=1e-5, atol=1e-8):
        return (
            "an example's value depends on the other examples, as where something is summed or "
            "averaged over all of them: return one value for each, with .sum(-1); a function of "
            "torch takes reduction='none'"
        )
    if not (torch.equal(before[0], output) and torch.equal(before[1], target)):
        return "it changes its arguments in place: work on new tensors"
    return ""


def depends_on_others(
    compute: Callable[[Tensor, Tensor], Tensor],
    output: Tensor,
    target: Tensor,
    *,
    rtol: float,
    atol: float,
) -> bool:
    """Whether an example's value changes if other members and half of the examples are left out.

    False for a loss that draws random numbers, because its values differ between any two calls.

    Args:
        compute: Function from outputs [K, B, W] and targets [K, B, C] to values [K, B].
        output: Outputs of a pack, [K, B, W], of two members or more.
        target: Targets of the pack, [K, B, C].
        rtol: Relative tolerance of a value.
        atol: Absolute tolerance of a value.
    """
    near = partial(torch.allclose, rtol=rtol, atol=atol, equal_nan=True)
    half = slice(output.shape[1] // 2)
    values, again = compute(output, target), compute(output, target)
    few = compute(output[:1, half], target[:1, half])
    return near(values, again) and not near(values[:1, half], few)


def refused(row: Loss) -> str:
    """Reason why a loss cannot be trained, like a gradient that is not finite; empty if it can."""
    if problem := unlike_a_loss(row):
        return problem
    output, target = _example(row)
    values = row.values(output, target)
    if not values.requires_grad:
        return "its value has no gradient with respect to the output: detach nothing"
    gradient = torch.autograd.grad(values.sum(), output)[0]
    if not bool(values.isfinite().all() and gradient.isfinite().all()):
        return NOT_FINITE
    return ""


DRAWS = "draws random numbers: two calls differ, and runs of one seed are no pairs"


def unsound(row: Loss) -> Iterator[str]:
    """Defects of a loss that can still be trained, each as a clause."""
    output, target = _example(row)
    first, again = (row.values(output, target) for _ in range(2))
    if not torch.allclose(first, again, rtol=0, atol=0, equal_nan=True):
        yield DRAWS
    for size in (100.0, 10_000.0):
        far = (size * output.detach().float().sign()).requires_grad_()
        values = row.values(far, target.float())
        gradient = torch.autograd.grad(values.sum(), far)[0]
        if not bool(values.isfinite().all() and gradient.isfinite().all()):
            yield f"is not finite in float32 at outputs of {size:,.0f}: runs may diverge by that"
            return


def _example(row: Loss) -> tuple[Tensor, Tensor]:
    """Outputs, [2, M, W], that require a gradient, and targets, [2, M, C]."""
    generator, shape = seeded("soundness", OUTPUTS), (2 * EXAMPLES, OUTPUTS)
    target = hard_targets(row, shape, generator)
    output, target = (
        rows.unflatten(0, (2, EXAMPLES)) for rows in (raw_outputs(row, shape, generator), target)
    )
    return output.requires_grad_(), target
