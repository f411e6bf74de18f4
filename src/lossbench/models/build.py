"""From a function that makes a module to the stacked parameters and buffers of a pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lossbench.models.layers import Dropout
from lossbench.pairing import stream

DROPPED_UNITS = {
    "Dropout": "element",
    "Dropout1d": "channel",
    "Dropout2d": "channel",
    "Dropout3d": "channel",
    "StochasticDepth": "example",
}
"""Layers of torch and torchvision that ask the global generator, and what they drop as a whole."""


def initialised(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A freshly built model whose parameters depend on the seed's init stream only.

    Its dropout masks depend on the seed's dropout stream, so that a model starts from the same
    parameters with and without dropout.

    Args:
        build: Makes the module.
        seed: Block of the paired design.
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
        ValueError: A foreign layer drops everything.
    """
    foreign = [item for item in model.named_modules() if _is_foreign_dropout(item[1])]
    for name, layer in foreign:
        own = _own_dropout(layer)
        if name == "":
            model = own
        else:
            model.set_submodule(name, own)
    draw = stream(seed, "dropout")
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.key.random_(generator=draw)
    return model


def _is_foreign_dropout(layer: nn.Module) -> bool:
    package = type(layer).__module__.partition(".")[0]
    return type(layer).__name__ in DROPPED_UNITS and package in ("torch", "torchvision")


def _own_dropout(layer: nn.Module) -> nn.Module:
    p, unit = float(layer.p), DROPPED_UNITS[type(layer).__name__]  # type: ignore[arg-type]
    if getattr(layer, "mode", "row") != "row":
        raise ValueError(f"{layer} drops whole batches: use mode 'row'")
    return Dropout(p, unit=unit).train(layer.training) if p else nn.Identity()


def rescaled(model: nn.Module, *, output_scale: float) -> nn.Module:
    """The model with the parameters of its last linear layer multiplied.

    Args:
        model: Changed in place.
        output_scale: The factor; 1 changes nothing.

    Raises:
        ValueError: The model has no linear layer to scale.
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
        outputs: C, what its last linear layer has now.
        times: Outputs per target.

    Raises:
        ValueError: The last linear layer does not make the output.
    """
    if times == 1:
        return model
    layers = [item for item in model.named_modules() if isinstance(item[1], nn.Linear)]
    name, last = layers[-1] if layers else ("", None)
    if not isinstance(last, nn.Linear) or last.out_features != outputs:
        raise ValueError(
            f"a loss with {times} outputs per target needs a model that ends in a linear layer"
        )
    wide = torch.nn.utils.skip_init(
        nn.Linear, last.in_features, times * outputs, last.bias is not None, dtype=last.weight.dtype
    )
    with torch.no_grad():
        for new, old in zip(wide.parameters(), last.parameters(), strict=True):
            new.zero_()[:outputs].copy_(old)
    if name == "":
        return wide
    model.set_submodule(name, wide)
    return model


State = Mapping[str, Tensor]
"""Parameters or buffers by name."""


def called(model: nn.Module) -> Callable[[State, State, Tensor], Tensor]:
    """A model's forward pass as a function of parameters and buffers, by name, and inputs."""

    def call(parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        return torch.func.functional_call(model, (dict(parameters), dict(buffers)), (inputs,))

    return call


def stacked(models: Sequence[nn.Module], places: Sequence[int]) -> dict[str, Tensor]:
    """Parameters and buffers of models, one leading pack dimension.

    Args:
        models: One model per seed.
        places: For each of the K members, which model it starts from.

    Returns:
        Tensor [K, ...] by parameter name.
    """
    index = torch.as_tensor(places)
    states = [model.state_dict() for model in models]
    return {name: torch.stack([state[name] for state in states])[index] for name in states[0]}
