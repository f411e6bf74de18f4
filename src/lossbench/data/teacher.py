"""A teacher model, which estimates class probabilities if the true posterior is not known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

TEACHER_ROWS = 10_000
"""Maximum number of training rows, the first ones, on which the teacher is fitted."""

TEACHER_RIDGE = 100.0
"""Inverse of scikit-learn's C; large, so that the teacher is not certain of training labels."""

CHUNK = 1_000
"""Number of rows that are predicted, and copied to float64, at once."""


def teacher_probabilities(inputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """Class probabilities of train and validation, float64, by ridge-penalised logistic regression.

    `targets` are the one-hot labels of the training split, [N, C].
    """
    # Imported here because scikit-learn takes a second to import, and only the teacher needs it.
    from sklearn import exceptions, linear_model

    rows = inputs["train"][:TEACHER_ROWS].flatten(1).double().numpy()
    labels = targets.argmax(-1)[:TEACHER_ROWS].numpy()
    teacher = linear_model.LogisticRegression(C=1.0 / TEACHER_RIDGE, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        teacher.fit(rows, labels)
    classes = torch.as_tensor(teacher.classes_)
    probabilities = {}
    for split in ("train", "validation"):
        probabilities[split] = torch.zeros(len(inputs[split]), targets.shape[-1]).double()
        chunks = zip(inputs[split].split(CHUNK), probabilities[split].split(CHUNK), strict=True)
        for chunk, into in chunks:
            predicted = teacher.predict_proba(chunk.flatten(1).double().numpy())
            into[:, classes] = torch.as_tensor(predicted).double()
    return probabilities
