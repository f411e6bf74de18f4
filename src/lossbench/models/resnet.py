"""Residual networks in the form for small images: a 3 x 3 stem, and no pooling before the end.

Parameters have the same names as in torchvision's ResNet. `normalisation` is batch or group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from lossbench.models.spec import Inputs, Model, image_of

CHANNELS_PER_GROUP = 16


def group_norm(channels: int) -> nn.Module:
    """Group normalisation with 16 channels per group and at least one group.

    Source:
        Wu, He 2018, ECCV, table 3: a fixed number of channels per group.
    """
    return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)


NORMALISATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
}


def resnet8(inputs: Inputs, outputs: int, *, normalisation: str = "batch") -> nn.Module:
    """The residual network of 6n + 2 layers for CIFAR with n = 1: 16, 32, 64 channels.

    Shortcuts have no parameters: a shortcut that halves the image takes every other pixel and
    fills new channels with zeros (option A of the paper).

    Source:
        He, Zhang, Ren, Sun 2016, CVPR, section 4.2.
    """
    channels, _, _ = image_of(inputs, model="resnet8")
    return ResNet(channels, outputs, (16, 32, 64), 1, normalisation, is_projected=False)


def resnet18(inputs: Inputs, outputs: int, *, normalisation: str = "batch") -> nn.Module:
    """The residual network of 18 layers, 64 to 512 channels, with a 3 x 3 stem of stride 1.

    Shortcuts that change the shape are 1 x 1 convolutions (option B). The rest is as in
    torchvision, whose stem of stride 2 and pooling would reduce a CIFAR image to one pixel.

    Source:
        He, Zhang, Ren, Sun 2016, CVPR, table 1.
    """
    channels, _, _ = image_of(inputs, model="resnet18")
    return ResNet(channels, outputs, (64, 128, 256, 512), 2, normalisation, is_projected=True)


class ResNet(nn.Module):
    """Stages of residual blocks; each stage but the first halves the image.

    Args:
        channels: Channels of the image.
        outputs: Number C of outputs.
        widths: Number of channels of each stage.
        blocks: Number of blocks of each stage.
        normalisation: batch or group.
        is_projected: Whether a shortcut that changes the shape is a convolution.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        widths: Sequence[int],
        blocks: int,
        normalisation: str,
        *,
        is_projected: bool,
    ) -> None:
        super().__init__()
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f"normalisation {normalisation!r}: use one of {', '.join(NORMALISATIONS)}"
            )
        normalised, before = NORMALISATIONS[normalisation], widths[0]
        self.conv1 = _convolution(channels, before, 3)
        self.bn1 = normalised(before)
        self.stages = [f"layer{place + 1}" for place in range(len(widths))]
        for place, (name, width) in enumerate(zip(self.stages, widths, strict=True)):
            strides = [1 if place == 0 else 2] + [1] * (blocks - 1)
            stage = nn.Sequential()
            for stride in strides:
                stage.append(Block(before, width, stride, normalised, is_projected=is_projected))
                before = width
            self.add_module(name, stage)
        self.fc = nn.Linear(before, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs [B, C] of images [B, channels, height, width]."""
        hidden = functional.relu(self.bn1(self.conv1(inputs)))
        for name in self.stages:
            hidden = self.get_submodule(name)(hidden)
        return self.fc(hidden.flatten(2).mean(-1))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them.

    Args:
        before: Number of channels of the inputs.
        width: Number of channels of the outputs.
        stride: 2 to halve the image, else 1.
        normalised: Function that makes a normalisation layer for a number of channels.
        is_projected: Whether a shortcut that changes the shape is a convolution.
    """

    def __init__(
        self,
        before: int,
        width: int,
        stride: int,
        normalised: Callable[[int], nn.Module],
        *,
        is_projected: bool,
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(before, width, 3, stride)
        self.bn1 = normalised(width)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = normalised(width)
        if (before, stride) == (width, 1):
            self.downsample = nn.Identity()
        elif is_projected:
            self.downsample = nn.Sequential(
                _convolution(before, width, 1, stride), normalised(width)
            )
        else:
            self.downsample = Subsampled(width - before, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H / stride, W / stride] after the block, with C = `width` channels."""
        hidden = functional.relu(self.bn1(self.conv1(inputs)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.downsample(inputs))


class Subsampled(nn.Module):
    """Layer that keeps every `stride`-th pixel and appends `added` channels of zeros."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, inputs: Tensor) -> Tensor:
        """Every `stride`-th pixel of the images, with the added channels."""
        pixels = inputs[..., :: self.stride, :: self.stride]
        return functional.pad(pixels, (0, 0, 0, 0, 0, self.added))


def _convolution(before: int, width: int, kernel: int, stride: int = 1) -> nn.Module:
    layer = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


ROWS = (
    Model(resnet8, "He, Zhang, Ren, Sun 2016, section 4.2; He initialisation"),
    Model(resnet18, "He, Zhang, Ren, Sun 2016, table 1, 3 x 3 stem; He initialisation"),
)
