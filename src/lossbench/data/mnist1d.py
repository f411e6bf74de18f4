"""MNIST-1D: ten one-dimensional digits, padded, stretched, shifted, sheared and noisy."""

from __future__ import annotations

import functools

import numpy as np
import scipy
import torch

from lossbench.data.splits import Data, Extent, Splits, by_split, classification
from lossbench.fingerprints import stream

SEED = 42
"""Seed of the published data set."""

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2
"""Share of validation among the examples outside the test split."""

LENGTH = 40
PADDING = (36, 60)
LARGEST_SHIFT = 48
SCALE = 0.4
SHEAR = 0.75
SMOOTH_NOISE, NOISE = 0.25, 0.02

TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
"""Digits, one per row, as in the package mnist1d."""


def mnist1d(*, seed: int, examples: int = 5000) -> Splits:
    """Ten digits as signals of 40 points, [N, 40]: the published data set, generated here.

    With 5,000 examples the test split is the published one of 1,000, and train and validation are
    3,200 and 800 of the published 4,000, by one permutation. Every seed has the same tensors.

    `examples` is a multiple of 50; a number other than 5,000 gives other signals.

    Source:
        Greydanus and Kobak 2024, arXiv 2011.14439; package mnist1d 0.0.2, Apache-2.0.
    """
    if examples <= 0 or examples % 50:
        raise ValueError(f"mnist1d of {examples} examples: use a positive multiple of 50")
    return _splits(examples)


@functools.cache
def _splits(examples: int) -> Splits:
    signals, labels = (torch.from_numpy(part) for part in generated(examples))
    held = round(examples * TEST_SHARE)
    order = torch.randperm(examples - held, generator=stream(SEED, "split"))
    rows = {
        "train": order[round(len(order) * VALIDATION_SHARE) :],
        "validation": order[: round(len(order) * VALIDATION_SHARE)],
        "test": torch.arange(examples - held, examples),
    }
    return classification(by_split(signals, rows), by_split(labels, rows), classes=len(TEMPLATES))


def generated(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Generate signals [N, 40], float64, and labels [N], in the published order: training first.

    Random numbers are drawn in the same order as in the package, but from a local generator instead
    of numpy's global one, so that the signals equal the package's. N is a multiple of 10.
    """
    draw = np.random.RandomState(SEED)
    labels = np.repeat(np.arange(len(TEMPLATES)), examples // len(TEMPLATES))
    # Digits [10, 12] that start and end at 0.
    templates = np.asarray(TEMPLATES)
    templates = templates - templates.mean(1, keepdims=True)
    templates = templates / templates.std(1, keepdims=True)
    templates = (templates - templates[:, :1]) / 6.0
    signals = np.stack([_transformed(templates[label], draw) for label in labels])
    order = draw.permutation(len(labels))
    signals = signals[order]
    return (signals - signals.mean()) / signals.std(), labels[order]


def _transformed(template: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """Make a signal [40] from a template [12]: pad, stretch, scale, shift, add noise and shear."""
    low, high = PADDING
    padded = np.concatenate([template + 1e-8, np.zeros(low + int(draw.rand() * (high - low + 1)))])
    signal = _resampled(padded, len(template) + high)
    signal = signal * (1 + SCALE * (draw.rand() - 0.5))
    signal = np.roll(signal, draw.choice(LARGEST_SHIFT))
    # The signal is exactly 0 only in the padding, because 1e-8 was added to the template.
    smooth = scipy.ndimage.gaussian_filter(SMOOTH_NOISE * draw.randn(len(signal)), 2)
    signal = np.where(signal != 0, signal, smooth)
    signal = signal + NOISE * draw.randn(len(signal))
    signal = signal - SHEAR * (draw.rand() - 0.5) * np.linspace(-0.5, 0.5, len(signal))
    return _resampled(signal, LENGTH)


def _resampled(signal: np.ndarray, count: int) -> np.ndarray:
    """Resample a signal at `count` equally spaced points by linear interpolation."""
    places = np.linspace(0, 1, len(signal))
    return np.interp(np.linspace(0, 1, count), places, signal)


ROWS = (
    Data(
        mnist1d,
        "classification",
        "Greydanus and Kobak 2024, arXiv 2011.14439; generated as mnist1d 0.0.2 does",
        drawn="fixed",
        licence="Apache-2.0",
        extent=Extent(3200, 800, 1000, inputs=(LENGTH,), outputs=len(TEMPLATES)),
        bar="logistic regression: accuracy .315; one hidden layer of 64: .55",
        note="The published 1,000 test signals; a seed draws neither data nor split.",
    ),
)
