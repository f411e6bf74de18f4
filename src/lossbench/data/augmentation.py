"""Augmentations of training images, batch by batch: drawn by the seed, the same for every loss.

An augmentation is a pure function `fn(images, words, **params) -> images` without a loop over
images. All randomness comes from `words`, `WORDS` uniform integers for each image. The engine
draws all words once per seed, for all steps and batch positions, and passes the words of one step:

    words = draw_words(stream(seed, "augmentation"), steps * batch_size)
    words = words.view(steps, batch_size, WORDS)
    images = AUGMENTATIONS[name](images, words[step], **params)

Leading dimensions are free and shared: images [S, B, channels, height, width] and words
[S, B, WORDS] augment the batches of S seeds at once, each image by its own words only. All
augmentations except "none" raise ValueError if the inputs are not images. "none" returns its
argument and needs no words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

WORDS = 3
"""Random integers per image: one for the flip, and two for the offsets of the crop."""


def draw_words(draw: torch.Generator, count: int) -> Tensor:
    """Draw the random integers of `count` images, [count, WORDS], int32, uniform in [0, 2**31)."""
    return torch.randint(2**31, (count, WORDS), generator=draw, dtype=torch.int32)


def none(images: Tensor, words: Tensor) -> Tensor:
    """Return the inputs, of any shape, unchanged."""
    return images


def flip(images: Tensor, words: Tensor) -> Tensor:
    """Mirror half of the images, left to right."""
    _refuse_vectors(images, words, name="flip")
    is_flipped = (words[..., 0] % 2 == 1)[..., None, None, None]
    return torch.where(is_flipped, images.flip(-1), images)


def crop_flip(images: Tensor, words: Tensor, *, pad: int = 4) -> Tensor:
    """Pad with zeros, crop to the old size at a random offset, and mirror half of the images.

    Zero is the mean of standardised pixels. All (2 pad + 1)^2 offsets are equally likely, up to
    one part in 10^8.

    Args:
        images: [..., channels, height, width].
        words: [..., WORDS].
        pad: Pixels on each side, 0 or more.

    Source:
        He, Zhang, Ren, Sun 2016, CVPR, section 4.2.
    """
    _refuse_vectors(images, words, name="crop_flip")
    if pad < 0:
        raise ValueError(f"crop_flip with pad {pad}: use 0 or more pixels")
    images = flip(images, words)
    height, width = images.shape[-2:]
    top, left = ((words[..., place] % (2 * pad + 1)).long() for place in (1, 2))
    rows = top[..., None] + torch.arange(height, device=images.device)
    columns = left[..., None] + torch.arange(width, device=images.device)
    padded = functional.pad(images, (pad, pad, pad, pad))
    tall = torch.take_along_dim(padded, rows[..., None, :, None], -2)
    return torch.take_along_dim(tall, columns[..., None, None, :], -1)


def _refuse_vectors(images: Tensor, words: Tensor, *, name: str) -> None:
    if images.dim() != words.dim() + 2:
        raise ValueError(
            f"augmentation {name} needs images [..., channels, height, width], got "
            f"{list(images.shape)}: use data of images, or data.augmentation.name=none"
        )


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "flip": flip,
    "crop_flip": crop_flip,
}
