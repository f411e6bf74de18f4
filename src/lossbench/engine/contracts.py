"""Checks of modules; each error message says how to repair the module."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lossbench.fingerprints import tensors_sha
from lossbench.models import initialised, widened

MOST_PARAMETERS = 10**9
"""Largest number of parameters of a model, counted before memory is allocated."""


def refuse_too_large(build: Callable[[], nn.Module]) -> None:
    """Refuse a model of more parameters than `MOST_PARAMETERS`, by a ValueError."""
    try:
        with torch.device("meta"):
            model = build()
    except Exception:
        return  # the model needs values while it is built; later checks find other faults
    refuse_lazy(model)
    if (count := sum(parameter.numel() for parameter in model.parameters())) > MOST_PARAMETERS:
        raise ValueError(f"it has {count:,} parameters: at most {MOST_PARAMETERS:,} are trained")


def refuse_unpaired(build: Callable[[], nn.Module], inputs: Tensor) -> None:
    """Refuse modules whose members cannot be paired by seed, or would not train correctly.

    Raises:
        ValueError: The module draws random numbers, has an output that depends on more than its
            parameters and buffers, or ties or freezes parameters.
    """
    model, other = (initialised(build, seed=seed) for seed in (0, 1))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not all(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError("it has frozen parameters: keep what does not train in a buffer")
    if len(parameters) != len(dict(model.named_parameters())):
        raise ValueError("it ties parameters: use each of them once")
    other.load_state_dict(model.state_dict())
    again = copy.deepcopy(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second, third = model(inputs), again(inputs), other(inputs)
    if not torch.equal(first, second):
        raise ValueError(
            "it draws random numbers of its own while training: use lossbench.models.Dropout, "
            "whose masks belong to the seed"
        )
    if tensors_sha(dict(model.named_buffers())) != tensors_sha(dict(again.named_buffers())):
        raise ValueError(
            "its buffers change at random while training, so that runs of one seed would "
            "differ: remove what is random"
        )
    if not torch.equal(first, third):
        raise ValueError(
            "its output depends on state that is not in its state_dict: register that "
            "state as a buffer"
        )


def refuse_unfit(build: Callable[[], nn.Module], inputs: Tensor, *, outputs: int) -> None:
    """Refuse modules that do not return one raw output per target, from each example alone.

    `inputs` are one batch, [B, ...]; `outputs` is C.

    Raises:
        ValueError: The module has layers without a size, does not return [B, C] ([B, T, C] for
            sequences), ends in a softmax or sigmoid, or mixes examples in evaluation mode.
    """
    is_sequence = not inputs.is_floating_point()
    expected = [*inputs.shape, outputs] if is_sequence else [len(inputs), outputs]
    model = initialised(build, seed=0).eval()
    with torch.no_grad():
        whole = model(inputs)
        half = len(inputs) // 2
        parts = torch.cat([model(inputs[:half]), model(inputs[half:])]) if half else whole
    if not isinstance(whole, Tensor) or list(whole.shape) != expected:
        shape = list(getattr(whole, "shape", ())) or type(whole).__name__
        raise ValueError(
            f"for inputs {list(inputs.shape)} it returns {shape}: return {expected}, "
            "one output for each target"
        )
    if not bool(whole.isfinite().all()):
        raise ValueError("its outputs are not finite before any training")
    with torch.no_grad():
        # Tokens cannot be made larger, so that only outputs for the given tokens are checked.
        both = torch.stack([whole, whole if is_sequence else model(1000 * inputs)])
    ends = []
    for name, values in {"softmax": whole, "log_softmax": whole.exp()}.items():
        sums = values.sum(-1)
        is_distribution = torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
        if outputs > 1 and is_distribution and bool((values >= 0).all()):
            ends.append(name)
    if bool(((both >= 0) & (both <= 1)).all()) and len(both.unique()) > 1:
        ends.append("sigmoid")
    if ends:
        raise ValueError(
            f"it ends in a {ends[0]}: return the raw output of the last linear layer, a loss "
            "brings its own inverse link"
        )
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-4):
        raise ValueError(
            "the output of an example depends on the other examples, also in eval(): "
            "compute along all axes but the first"
        )


def refuse_lazy(model: nn.Module) -> None:
    """Refuse layers without a size, because a seed cannot draw parameters of unknown size."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"its layer {name.rpartition('.')[0]!r} is lazy: give it its size, the function "
                "gets the shape of an example as `inputs`"
            )


def refuse_unwidened(build: Callable[[], nn.Module], inputs: Tensor, *, times: int) -> None:
    """Refuse a module that cannot be widened to `times` outputs per target, which start at zero.

    Raises:
        ValueError: The output is not that of the last linear layer of the module.
    """
    if times == 1:
        return
    narrow, model = (initialised(build, seed=0) for _ in range(2))
    with torch.no_grad():
        output = narrow(inputs)
        wide = widened(model, outputs=output.shape[-1], times=times)(inputs)
    expected = torch.cat([output, torch.zeros_like(output).repeat(1, times - 1)], -1)
    if wide.shape != expected.shape or not torch.allclose(wide, expected, atol=1e-6):
        raise ValueError(
            f"a loss with {times} outputs per target needs a model that ends in a linear layer"
        )
