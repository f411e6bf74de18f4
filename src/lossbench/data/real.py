"""Real data that comes with scikit-learn: no download, no network.

Splits are 60/20/20: test is fixed, and the seed divides the rest into training and validation.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch

from lossbench.data.splits import Data, Splits, by_split, classification, permuted, regression

TABLES = {
    "digits": ("digits.csv.gz", 0),
    "breast_cancer": ("breast_cancer.csv", 1),
    "wine": ("wine_data.csv", 1),
}
"""File of each classification set, with labels in the last column, and number of lines to skip."""


def digits(*, seed: int) -> Splits:
    """1,797 handwritten digits of 8x8 pixels in 10 classes."""
    return _labelled("digits", classes=10, seed=seed)


def breast_cancer(*, seed: int) -> Splits:
    """569 tumours, 30 measurements of their cell nuclei, malignant (0) or benign (1)."""
    return _labelled("breast_cancer", classes=2, seed=seed)


def wine(*, seed: int) -> Splits:
    """178 wines, 13 chemical measurements, 3 cultivars: too easy to tell losses apart."""
    return _labelled("wine", classes=3, seed=seed)


def diabetes(*, seed: int) -> Splits:
    """442 patients, 10 measurements, a score of disease progression one year later."""
    measurements, progression = (torch.as_tensor(part) for part in _loaded("diabetes"))
    rows = permuted(len(progression), seed)
    return regression(by_split(measurements, rows), by_split(progression[:, None], rows))


def _labelled(name: str, *, classes: int, seed: int) -> Splits:
    inputs, labels = (torch.as_tensor(part) for part in _loaded(name))
    rows = permuted(len(labels), seed)
    return classification(by_split(inputs, rows), by_split(labels, rows), classes=classes)


@functools.cache
def _loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, bitwise equal to scikit-learn's, without its import, which takes 1 s."""
    folder = _folder()
    try:
        if name == "diabetes":
            # Each measurement with mean 0 and sum of squares 1, as published.
            measured = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
            measured = (measured - measured.mean(0)) / measured.std(0) / len(measured) ** 0.5
            return measured, np.loadtxt(folder / "diabetes_target.csv.gz")
        file, skipped_lines = TABLES[name]
        table = np.loadtxt(folder / file, delimiter=",", skiprows=skipped_lines)
        return table[:, :-1], table[:, -1].astype(int)
    except OSError:  # a version of scikit-learn that keeps the files elsewhere
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(return_X_y=True)


def _folder() -> Path:
    """Folder in which scikit-learn keeps its data."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "datasets", "data")


ROWS = (
    Data(
        digits,
        "classification",
        "Alpaydin and Kaynak 1998, UCI; in scikit-learn",
        licence="CC BY 4.0",
        # Confusions that label-noise papers use for handwritten digits since Patrini et al. 2017.
        confusions={2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
        bar="logistic regression, 20 seeds: accuracy .965",
    ),
    Data(
        breast_cancer,
        "classification",
        "Wolberg, Street and Mangasarian 1995, UCI; in scikit-learn",
        licence="CC BY 4.0",
        note="A linear model is right in 98 % of cases; 114 test rows resolve little.",
        bar="logistic regression, 20 seeds: accuracy .986",
    ),
    Data(
        wine,
        "classification",
        "Aeberhard and Forina 1992, UCI; in scikit-learn",
        licence="CC BY 4.0",
        note="Saturated: a linear model errs on none or one of 36 test rows; no comparison.",
        bar="logistic regression, 20 seeds: accuracy .992",
    ),
    Data(
        diabetes,
        "regression",
        "Efron, Hastie, Johnstone and Tibshirani 2004, Annals of Statistics; in scikit-learn",
        licence="none stated",
        bar="ridge, 20 seeds: R² .441",
        unit="points of the progression score",
    ),
)
