"""Metrics and instruments: task, unit, better direction, and the predictions that they need."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial

from lossbench.records.vocabulary import SPLITS


@dataclass(frozen=True)
class Metric:
    """Description of a metric.

    Attributes:
        task: "regression" or "classification"; empty if the metric serves both tasks.
        unit: Unit of the values.
        direction: Better direction, "lower" or "higher"; empty if neither is better, so that
            nothing is ranked by the metric.
        about: Description in words.
        is_final: Whether the metric is measured at the last step only, on validation and test.
        needs: Prediction of a loss that the metric needs beside the task, in words; empty if none.
        splits: Splits on which the metric is measured. A metric without validation cannot choose a
            learning rate, a metric without test cannot judge.
        perfect: Value of a perfect prediction, from which errors are measured; NaN if the metric
            has no such value.
    """

    task: str
    unit: str
    direction: str
    about: str
    is_final: bool = False
    needs: str = ""
    splits: tuple[str, ...] = SPLITS
    perfect: float = 0.0


_HELD_OUT = ("validation", "test")
STANDARD = "standard deviations of the training target"
"""Unit of values in the scale of the training targets."""

_DISTRIBUTION = "a distribution"
_QUANTILE = "a quantile"

# Metrics of classification; the direction is the better one.
_lower = partial(Metric, "classification", "1", "lower", splits=_HELD_OUT)
_higher = partial(Metric, "classification", "1", "higher", perfect=1.0)
_nats = partial(Metric, "classification", "nats", "lower", splits=_HELD_OUT)

METRICS: dict[str, Metric] = {
    "rmse": Metric("regression", STANDARD, "lower", "root mean squared error; best at the mean"),
    "mae": Metric("regression", STANDARD, "lower", "mean absolute error; best at the median"),
    "median_ae": Metric("regression", STANDARD, "lower", "median absolute error"),
    "r2": Metric(
        "regression",
        "1",
        "higher",
        "1 - squared error / variance of the split's target",
        perfect=1.0,
    ),
    "crps": Metric(
        "regression",
        STANDARD,
        "lower",
        "continuous ranked probability score of the predicted distribution, mean over targets",
        needs=_DISTRIBUTION,
        splits=_HELD_OUT,
    ),
    "coverage_90": Metric(
        "regression",
        "1",
        "",
        "share of targets inside the central 90 % interval of the predicted distribution",
        needs=_DISTRIBUTION,
        splits=_HELD_OUT,
    ),
    "quantile_coverage": Metric(
        "regression",
        "1",
        "",
        "share of targets at or below the prediction",
        needs=_QUANTILE,
        splits=_HELD_OUT,
    ),
    "coverage_error": Metric(
        "regression",
        "1",
        "lower",
        "absolute difference of coverage_90 from 0.9, or of quantile_coverage from the level that "
        "the loss has as its parameter",
        needs=f"{_DISTRIBUTION} or {_QUANTILE}",
        splits=_HELD_OUT,
    ),
    "accuracy": _higher(
        "share of labels that are the largest p; where an example may have any number of labels, "
        "share of all labels that are on the side of 1/2 where p is after recalibration"
    ),
    "balanced_accuracy": _higher(
        "mean over classes of the share of their examples that have the largest p there; classes "
        "without examples are left out; of any number of labels the mean over labels of the same, "
        "a label against its absence",
        splits=_HELD_OUT,
    ),
    "brier": _lower(
        "mean squared error summed over classes; a prediction off the simplex is projected onto it"
    ),
    "nll": _nats(
        "negative log-likelihood of the recalibrated softmax(a output + b), a and b fitted on "
        "the first 2,000 examples (8,192 positions of sequences) of validation in the same way for "
        "every loss (so in-sample there); under label noise those labels are noisy, which pushes "
        "every loss towards them"
    ),
    "ece": _lower("expected calibration error after the same recalibration"),
    "ece_adaptive": _lower(
        "ece in 15 bins of equal mass in place of equal width, after the same recalibration",
        is_final=True,
    ),
    "auroc": _higher(
        "area under the ROC curve after the same recalibration, ties counted half: of class 1 "
        "where there are two, else mean of each class against the rest; classes without examples "
        "are left out",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "average_precision": _higher(
        "area under the precision-recall curve of each label in steps, mean over labels that hold "
        "somewhere; only of data with any number of labels an example",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "aurc": _lower(
        "area under the risk-coverage curve: mean over k of the share of errors among the k "
        "examples with the largest p after the same recalibration, equal ones in random order",
        is_final=True,
    ),
    "brier_reliability": _lower(
        "of brier = reliability - resolution + uncertainty: squared gap between mean p and share "
        "of labels in each of 15 bins of p, weighted by examples and summed over classes",
        is_final=True,
    ),
    "brier_resolution": _higher(
        "of the same: squared gap between the share of labels in each bin and in the split, and "
        "what the bins do not tell apart: minus the variance of p inside them, plus twice its "
        "covariance with the label",
        perfect=math.nan,  # as much as the split's uncertainty
        is_final=True,
        splits=_HELD_OUT,
    ),
    "brier_uncertainty": Metric(
        "classification",
        "1",
        "",
        "of the same: sum over classes of share (1 - share), a fact of the split alone",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "nll_raw": _nats("nll of the prediction itself; only probability links"),
    "ece_raw": _lower("ece of the prediction itself; only probability links"),
    "zero_share": _lower("share of labels given probability 0 by the projection"),
    "kl": _nats(
        "KL divergence from the true posterior to the recalibrated prediction, where it is known"
    ),
    "entropy_floor": Metric(
        "classification",
        "nats",
        "",
        "mean entropy of the true posterior, where it is known: no prediction has a smaller "
        "expected nll; a fact of the split alone",
        is_final=True,
        splits=_HELD_OUT,
    ),
    "tv_posterior": _lower(
        "mean total variation distance, half the sum of absolute differences, from the true "
        "posterior, where it is known, to the prediction itself, not recalibrated; only "
        "probability links and strictly proper losses, 0 to 1 on the simplex"
    ),
    "tv_bayes": _lower(
        "the same from the loss's own Bayes point: where its expected value is least at its "
        "parameters, over labels from the true posterior, or with data.targets=distribution "
        "against the posterior itself; only test, over examples with one of "
        "the split's first 40 distinct posteriors",
        splits=("test",),
    ),
    "accuracy_clean": _higher(
        "accuracy on validation by the labels before label noise; only under label noise, and "
        "nothing is selected by it",
        splits=("validation",),
    ),
    "memorised": _lower(
        "of the training examples with a wrong label the share that is predicted as that label; "
        "only under label noise",
        splits=("train",),
    ),
    "recovered": _higher(
        "of the training examples with a wrong label the share that is predicted as its true "
        "label; only under label noise",
        splits=("train",),
    ),
    "rmse_clean": Metric(
        "regression",
        STANDARD,
        "lower",
        "rmse on validation by the targets before outliers; only under outliers, and nothing is "
        "selected by it",
        splits=("validation",),
    ),
}

PRIMARY = {"regression": "rmse", "classification": "accuracy"}
"""Metrics, by task, that decide a run's best step and, unless declared otherwise, verdicts."""

CLEAN = {"regression": "rmse_clean", "classification": "accuracy_clean"}
"""Metrics by which candidates would be chosen on validation without corruption, by task."""


@dataclass(frozen=True)
class Instrument:
    """A measurement beside the metrics, on request by `instruments=[...]`.

    Attributes:
        about: Description in words.
        cost: Time of one measurement in updates, by `benchmarks/instruments.py` and rounded up.
            Measurements are so rare that they cost 5 % of training or less between the first and
            the last step, which are measured too.
        metrics: Metrics in `evals`, split train: values of one training batch at the parameters
            before an update. None of these metrics judges a model.
        source: Publications of the measurement.
    """

    about: str
    cost: float
    metrics: dict[str, Metric]
    source: str = ""


def _observed(unit: str, about: str) -> Metric:
    """A metric of both tasks by which nothing is ranked."""
    return Metric("", unit, "", about)


_SHARE = "share of the batch's sum of squared L2 norms of the own loss's output gradient that "

INSTRUMENTS: dict[str, Instrument] = {
    "error_signal": Instrument(
        about="which examples drive the update",
        cost=0.1,
        metrics={
            "signal_hardest": _observed(
                "1", _SHARE + "the tenth of the examples (rounded up) with the largest error has"
            ),
            "signal_mislabelled": _observed(
                "1", _SHARE + "examples with a corrupted target have; only with corruption"
            ),
            "mislabelled_share": _observed(
                "1", "share of the batch whose target is corrupted; only with corruption"
            ),
        },
    ),
    "loss_quantiles": Instrument(
        about="how the own loss is spread over examples",
        cost=0.1,
        metrics={
            f"loss_quantile_{level}": Metric(
                "", "unit of the loss", "lower", f"{level} % quantile of the own loss over examples"
            )
            for level in (10, 50, 90, 99)
        },
        source="linear interpolation, type 7 of Hyndman and Fan 1996, The American Statistician",
    ),
    "representation": Instrument(
        about="what the last hidden layer makes of the classes, and how large outputs are",
        cost=1.0,
        metrics={
            "class_scatter": _observed(
                "1",
                "scatter of the last linear layer's inputs within classes over that of the class "
                "means, tr(S_W)/tr(S_B), over the batch; only labels",
            ),
            "output_norm": _observed("output", "mean over the batch of the L2 norm of the output"),
        },
        source="Papyan, Han and Donoho 2020, PNAS; the ratio of traces in place of their "
        "tr(S_W pinv(S_B))/C",
    ),
    "gradient_agreement": Instrument(
        about="whether other losses would move the parameters the same way", cost=7.0, metrics={}
    ),
    "gradient_noise": Instrument(
        about="how much the gradient differs from batch to batch",
        cost=8.0,
        metrics={
            "gradient_noise_trace": _observed(
                "(loss/parameter)²",
                "trace of the covariance of examples' gradients of all parameters, unbiased",
            ),
            "gradient_square": _observed(
                "(loss/parameter)²",
                "squared L2 norm of the expected gradient, unbiased, so it may be negative",
            ),
            "gradient_noise_scale": _observed(
                "examples",
                "gradient_noise_trace / gradient_square: the batch size at which noise and "
                "gradient are alike; only where the latter is positive",
            ),
        },
        source="McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, appendix A.1",
    ),
    "curvature": Instrument(
        about="how sharply the mean own loss bends",
        cost=70.0,
        metrics={
            "curvature_top": _observed(
                "loss/parameter²", "largest eigenvalue of the Hessian of the batch's mean own loss"
            ),
            "curvature_trace": _observed(
                "loss/parameter²", "trace of the same Hessian, estimated without bias"
            ),
        },
        source="Lanczos 1950; Hutchinson 1990; Pearlmutter 1994, Neural Computation",
    ),
    "sharpness": Instrument(
        about="what the step itself meets",
        cost=8.0,
        metrics={
            "step_curvature": _observed(
                "loss/parameter²",
                "u^T H u / |u|² for the update u and the Hessian H of the batch's mean own loss",
            ),
            "step_loss_change": Metric(
                "",
                "unit of the loss",
                "lower",
                "mean own loss over the same batch after the update, minus that before",
            ),
        },
        source="Pearlmutter 1994, Neural Computation",
    ),
}
"""Instruments by name, in the order in which docs and reports list them."""

AGREEMENT = "agreement:"
"""Prefix of the metrics of the instrument gradient_agreement: `agreement:NAME`."""

METRIC_OF_AGREEMENT = _observed(
    "1",
    "cosine of the gradients of all parameters of own loss and loss NAME at its defaults, at the "
    "same weights and batch; where the inverse link is the same",
)
OWN_LOSS = "loss:own"
"""Name of the metric that is the mean of a run's own loss at its own parameters."""

OF_CLASS = re.compile(r"accuracy:(0|[1-9][0-9]*)")
"""Names of the metrics that are the accuracy of one class, with the number of the class."""

METRIC_OF_CLASS = _higher(
    "accuracy on the examples of one class, of at most 20; none where the split has no such "
    "example",
    is_final=True,
    splits=_HELD_OUT,
    perfect=0.0,
)


MEASURED = METRICS | {
    name: metric
    for instrument in INSTRUMENTS.values()
    for name, metric in instrument.metrics.items()
}
"""Every metric with a fixed name, including the metrics of instruments."""


def metric_of(name: str) -> Metric:
    """The description of a metric by its name; `loss:NAME` and `agreement:NAME` have an empty task.

    Raises:
        ValueError: The name is not in `MEASURED` and is not `loss:own`, `loss:NAME`,
            `agreement:NAME` or `accuracy:CLASS`.
    """
    if name.startswith("loss:"):
        return Metric("", "unit of the loss", "lower", "mean of a loss")
    if name.startswith(AGREEMENT):
        return METRIC_OF_AGREEMENT
    if OF_CLASS.fullmatch(name):
        return METRIC_OF_CLASS
    if name not in MEASURED:
        raise ValueError(f"metric {name!r} is unknown: use one of {', '.join(METRICS)}")
    return MEASURED[name]


def direction(metric: str) -> str:
    """The better direction of a metric: "lower" or "higher"; empty if neither is better."""
    return metric_of(metric).direction


def sign(metric: str) -> float:
    """Factor that turns a metric into a gain: 1 if higher is better, else -1."""
    return 1.0 if direction(metric) == "higher" else -1.0
