"""Augmented images are torchvision's crops and mirror images, each by its own random numbers."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms import functional

from lossbench.data.augmentation import AUGMENTATIONS, WORDS, crop_flip, draw_words, flip
from lossbench.fingerprints import stream
from lossbench.question.vary import parameters

SHAPE = (2, 30, 3, 8, 6)


def example():
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(SHAPE, generator=draw)
    return images, draw_words(stream(0, "augmentation"), 60).view(2, 30, WORDS)


def test_flipped_images_are_torchvisions_mirror_images_and_some_are_not_flipped():
    images, words = example()
    found, flipped = flip(images, words).flatten(0, 1), 0
    for old, new, word in zip(images.flatten(0, 1), found, words.flatten(0, 1), strict=True):
        is_flipped = bool(word[0] % 2)
        flipped += is_flipped
        assert torch.equal(new, functional.hflip(old) if is_flipped else old)
    assert 15 < flipped < 45


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_cropped_images_are_torchvisions_crops_of_the_padded_image(pad):
    images, words = example()
    found = crop_flip(images, words, pad=pad).flatten(0, 1)
    for old, new, word in zip(images.flatten(0, 1), found, words.flatten(0, 1), strict=True):
        old = functional.hflip(old) if word[0] % 2 else old
        top, left = (int(word[place]) % (2 * pad + 1) for place in (1, 2))
        expected = functional.crop(functional.pad(old, [pad] * 4), top, left, 8, 6)
        assert torch.equal(new, expected)


def test_all_crops_and_flips_are_equally_likely():
    # One bright pixel amid a 9 x 9 image shows where the crop was taken.
    count = 20_000
    images = torch.zeros(count, 1, 9, 9)
    images[..., 4, 4] = 1
    words = draw_words(stream(1, "augmentation"), count)
    places = crop_flip(images, words, pad=4).flatten(1).argmax(-1)
    assert stats.chisquare(places.bincount(minlength=81).numpy()).pvalue > 1e-3
    together = 2 * places + words[:, 0] % 2
    assert stats.chisquare(together.bincount(minlength=162).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_image_is_augmented_by_its_own_words_alone(name):
    images, words = example()
    kept = images.clone()
    together = AUGMENTATIONS[name](images, words)
    assert torch.equal(images, kept)
    assert together.shape == images.shape
    for seed, place in ((0, 0), (1, 7), (1, 29)):
        alone = AUGMENTATIONS[name](images[seed, place], words[seed, place])
        assert torch.equal(alone, together[seed, place])


def test_words_are_those_of_the_seed_in_any_number():
    first, second = (
        draw_words(stream(3, "augmentation"), 50),
        draw_words(stream(3, "augmentation"), 50),
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, draw_words(stream(4, "augmentation"), 50))
    assert 0 <= first.min() < 2**27
    assert first.max() > 2**31 - 2**27
    assert torch.equal(first[:20], draw_words(stream(3, "augmentation"), 20))


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_vectors_are_refused_with_the_cure(name):
    words = draw_words(stream(0, "augmentation"), 4)
    with pytest.raises(
        ValueError, match=r"needs images .*\[4, 64\].*data\.augmentation\.name=none"
    ):
        AUGMENTATIONS[name](torch.ones(4, 64), words)


def test_a_negative_padding_is_refused():
    with pytest.raises(ValueError, match="use 0 or more"):
        crop_flip(*example(), pad=-1)


def test_the_configuration_knows_the_parameters_of_augmentations():
    found = {name: parameters(fn) for name, fn in AUGMENTATIONS.items()}
    assert found == {"none": {}, "flip": {}, "crop_flip": {"pad": 4}}
