"""Models of torchvision, by name."""

from __future__ import annotations

import copy
import difflib

import torch
from torch import Tensor, nn

from lossbench.models.spec import Inputs, Model, image_of


def torchvision(inputs: Inputs, outputs: int, *, name: str = "resnet18") -> nn.Module:
    """A classification model of torchvision, untrained.

    Images must have three channels. Vision transformers are built for the size of the images;
    other models take any size that their poolings do not reduce to nothing. `name` is one of
    torchvision.models.list_models(module=torchvision.models). `initialised` replaces the dropout
    layers by `Dropout`.
    """
    # Imported here, because the import takes a second that other models need not wait for.
    from torchvision import models

    image = image_of(inputs, model="torchvision")
    if image[0] != 3:
        raise ValueError(
            f"model torchvision needs 3 channels, the images have {image[0]}: "
            "use data with colours, or model=resnet18"
        )
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        raise ValueError(f"torchvision has no model {name!r}: use {', '.join(near or names)}")
    sizes: dict[str, int | tuple[int, ...]] = {"num_classes": outputs}
    if name.startswith("vit_"):
        sizes["image_size"] = image[1]
    if name.startswith("maxvit"):
        sizes["input_size"] = image[1:]
    model = models.get_model(name, weights=None, **sizes)
    # Try two images of zeros on a copy of the model, which is in training mode.
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = copy.deepcopy(model)(torch.zeros(2, *image))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"torchvision's {name} cannot take images {list(image)} ({reason}): "
            "use larger ones, or model=resnet18"
        ) from error
    if not isinstance(output, Tensor) or output.shape != (2, outputs):
        raise ValueError(f"torchvision's {name} returns more than one output: use another model")
    return model


ROWS = (Model(torchvision, "torchvision.models; torchvision's own initialisation"),)
