"""Real data that comes with scikit-learn: no download, no network."""

from __future__ import annotations

import functools

import numpy as np
import torch

from lossbench.data.splits import Data, Splits, classification, permuted, regression


def digits(*, seed: int) -> Splits:
    """1,797 handwritten digits of 8x8 pixels in 10 classes.

    Args:
        seed: Draws the 60/20/20 split.

    Source:
        Alpaydin and Kaynak 1998, UCI repository; shipped with scikit-learn (CC BY 4.0).
    """
    pixels, labels = _loaded("digits")
    rows = permuted(len(labels), seed)
    return classification(
        {name: torch.as_tensor(pixels)[index] for name, index in rows.items()},
        {name: torch.as_tensor(labels)[index] for name, index in rows.items()},
        classes=10,
    )


def diabetes(*, seed: int) -> Splits:
    """442 patients, 10 measurements, a score of disease progression one year later.

    Args:
        seed: Draws the 60/20/20 split.

    Source:
        Efron, Hastie, Johnstone and Tibshirani 2004, Annals of Statistics; in scikit-learn.
    """
    measurements, progression = _loaded("diabetes")
    rows = permuted(len(progression), seed)
    return regression(
        {name: torch.as_tensor(measurements)[index] for name, index in rows.items()},
        {name: torch.as_tensor(progression)[index, None] for name, index in rows.items()},
    )


@functools.cache
def _loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(return_X_y=True)


ROWS = (
    Data(
        digits,
        "classification",
        "Alpaydin and Kaynak 1998; in scikit-learn",
        licence="CC BY 4.0",
        # Those that label-noise papers use for handwritten digits, from Patrini et al. 2017 on.
        confusions={2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
    ),
    Data(diabetes, "regression", "Efron et al. 2004; in scikit-learn", licence="none stated"),
)
