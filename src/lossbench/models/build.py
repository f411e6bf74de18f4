"""From a function that makes a module to the stacked parameters and buffers of a pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lossbench.fingerprints import stream
from lossbench.models.layers import Dropout

DROPPED_UNITS = {
    "Dropout": "element",
    "Dropout1d": "channel",
    "Dropout2d": "channel",
    "Dropout3d": "channel",
    "StochasticDepth": "example",
}
"""Layers of torch and torchvision that ask the global generator, and the unit that they drop."""


def initialised(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A freshly built model whose parameters depend on the seed's init stream only.

    Its dropout masks depend on the seed's dropout stream, so that a model starts from the same
    parameters with and without dropout.
    """
    # Modules draw from torch's global generator while they are built and take no other: it is
    # lent the init stream's state for that moment and gets its own back.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(stream(seed, "init").get_state())
        model = build()
    return paired(model, seed=seed)


def paired(model: nn.Module, *, seed: int) -> nn.Module:
    """The model with dropout layers that ask no generator, and their keys.

    Args:
        model: Changed in place, unless it is a dropout layer itself.
        seed: Block of the paired design; draws one key for each dropout layer, in order.

    Raises:
        ValueError: A layer of torchvision drops whole batches.
    """
    for name, layer in [*model.named_modules()]:
        package, kind = type(layer).__module__.partition(".")[0], type(layer).__name__
        if kind in DROPPED_UNITS and package in ("torch", "torchvision"):
            if getattr(layer, "mode", "row") != "row":
                raise ValueError(f"{layer} drops whole batches: use mode 'row'")
            p = float(layer.p)  # type: ignore[arg-type]
            dropout = Dropout(p, unit=DROPPED_UNITS[kind]) if p else nn.Identity()
            model = _with_submodule(model, name, dropout.train(layer.training))
    draw = stream(seed, "dropout")
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.key.random_(generator=draw)
    return model


def _with_submodule(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model, changed in place, with a layer in the place of that name; "" is the model."""
    if name == "":
        return layer
    model.set_submodule(name, layer)
    return model


def rescaled(model: nn.Module, *, output_scale: float) -> nn.Module:
    """The model, changed in place, with the parameters of its last linear layer multiplied.

    Raises:
        ValueError: The model has no linear layer, and the factor is not 1.
    """
    if output_scale == 1.0:
        return model
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("init.output_scale needs a linear layer: use 1 for this model")
    with torch.no_grad():
        for parameter in layers[-1].parameters():
            parameter.mul_(output_scale)
    return model


def widened(model: nn.Module, *, outputs: int, times: int) -> nn.Module:
    """A model whose last linear layer has `times` as many outputs; the new ones start at zero.

    Args:
        model: Changed in place, unless `times` is 1.
        outputs: C, the present outputs of the last linear layer.
        times: Outputs per target.

    Raises:
        ValueError: The last linear layer does not make the output.
    """
    if times == 1:
        return model
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    name, last = next(reversed(linear.items()), ("", None))
    if last is None or last.out_features != outputs:
        raise ValueError(
            f"a loss with {times} outputs per target needs a model that ends in a linear layer"
        )
    wide = torch.nn.utils.skip_init(
        nn.Linear, last.in_features, times * outputs, last.bias is not None, dtype=last.weight.dtype
    )
    with torch.no_grad():
        for new, old in zip(wide.parameters(), last.parameters(), strict=True):
            new.zero_()[:outputs].copy_(old)
    return _with_submodule(model, name, wide)


def hidden_matrices(model: nn.Module) -> frozenset[str]:
    """Names of the weights of linear layers but for the last one, which makes the outputs."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return frozenset(f"{name}.weight" for name in linear[:-1])


State = Mapping[str, Tensor]
"""Parameters or buffers by name."""


def called(model: nn.Module) -> Callable[[State, State, Tensor], Tensor]:
    """A model's forward pass as a function of parameters and buffers, by name, and inputs.

    The outputs are [N, W]; of sequences, whose every position has one, [N T, W]: from here on a
    position counts as an example.
    """

    def call(parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        state = dict(parameters), dict(buffers)
        return torch.func.functional_call(model, state, (inputs,)).flatten(0, -2)

    return call


def stacked(models: Sequence[nn.Module], places: Sequence[int]) -> dict[str, Tensor]:
    """Parameters and buffers by name, [K, ...].

    Args:
        models: One model per seed.
        places: For each of the K members, which model it starts from.
    """
    index = torch.as_tensor(places)
    states = [model.state_dict() for model in models]
    return {name: torch.stack([state[name] for state in states])[index] for name in states[0]}
