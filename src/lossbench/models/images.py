"""Small convolutional networks for images [N, channels, height, width]."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lossbench.models.layers import activated
from lossbench.models.spec import Inputs, Model, check_positive, image_of

POOLINGS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}

LENET_SIDE = 32
"""Smallest side of LeNet's images, in pixels; smaller images are padded with zeros."""


def lenet(
    inputs: Inputs, outputs: int, *, activation: str = "relu", pooling: str = "max"
) -> nn.Module:
    """LeNet-5 as it is used today: rectified units, maximum pooling, a linear output layer.

    The model has two 5 x 5 convolutions of 6 and 16 channels, each followed by 2 x 2 pooling, and
    linear layers of 120 and 84 units. Images below 32 x 32 are padded with zeros to that size, as
    in 1998. `activation=tanh pooling=average` is closer to the model of 1998, but also without the
    trained subsampling, the partial connections and the radial output units of 1998.

    `pooling` is max or average.

    Source:
        LeCun, Bottou, Bengio, Haffner 1998, Proceedings of the IEEE 86.
    """
    channels, *sides = image_of(inputs, model="lenet")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r}: use one of {', '.join(POOLINGS)}")
    missing = [max(0, LENET_SIDE - side) for side in sides]
    top, left = (margin // 2 for margin in missing)
    height, width = (
        ((side + margin - 4) // 2 - 4) // 2 for side, margin in zip(sides, missing, strict=True)
    )
    return nn.Sequential(
        nn.ZeroPad2d((left, missing[1] - left, top, missing[0] - top)),
        nn.Conv2d(channels, 6, 5),
        activated(activation),
        POOLINGS[pooling](2),
        nn.Conv2d(6, 16, 5),
        activated(activation),
        POOLINGS[pooling](2),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        activated(activation),
        nn.Linear(120, 84),
        activated(activation),
        nn.Linear(84, outputs),
    )


def strided_cnn(
    inputs: Inputs,
    outputs: int,
    *,
    widths: Sequence[int] = (32, 64, 128),
    activation: str = "relu",
) -> nn.Module:
    """Convolutions, 3 x 3 with stride 2, that each halve the image, then an affine map; no pooling.

    `widths` has the number of channels of each convolution.

    Source:
        Springenberg et al. 2015, ICLR workshop: strides in the place of pooling.
    """
    before, height, width = image_of(inputs, model="strided_cnn")
    check_positive([*widths], what="widths")
    layers: list[nn.Module] = []
    for channels in widths:
        layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), activated(activation)]
        before, height, width = channels, (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * height * width, outputs))


ROWS = (
    Model(lenet, "LeCun, Bottou, Bengio, Haffner 1998; torch's default initialisation"),
    Model(strided_cnn, "Springenberg et al. 2015; torch's default initialisation"),
)
