"""Vocabulary of a sweep: statuses, conditions, signals, splits and declarations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Declaration = Mapping[str, Any]
"""Choices that an experiment fixes before training: metric, reference, margin and others by key."""

STATUSES = ("done", "diverged", "failed", "missing")
"""Statuses of a run, from the best to the worst; `load` keeps the best row of a run."""

RESULTS = ("done", "diverged")
"""Statuses that are results: runs with such a status count, and are not trained again."""

SPLITS = ("train", "validation", "test")

REFERENCE = {"regression": "mse", "classification": "cross_entropy"}
"""Reference losses by task: the losses whose error signal is the error itself."""


def question_in(text: str) -> str:
    """The question in the header of an experiment's yaml, from `Question:` to the question mark."""
    header = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    match = re.search(r"Question: (.+?\?|.+?\.)", header)
    return match[1][0].upper() + match[1][1:] if match else ""


@dataclass(frozen=True)
class Condition:
    """Learning rates at which the losses of a context are compared.

    Attributes:
        about: Description in words; {reference} stands for the reference loss.
        short: Description for narrow tables.
        is_own: Whether each loss has its own best rate, so that the comparison is fair.
    """

    about: str
    short: str
    is_own: bool


CONDITIONS: dict[str, Condition] = {
    "own_lr": Condition("each loss at its own best learning rate", "at its own rate", True),
    "reference_lr": Condition(
        "every loss at the learning rate of {reference}", "at the reference's rate", False
    ),
}
"""Conditions in the order in which a report lists them; both are read from the same runs."""

SIGNALS: dict[str, str] = {
    "own": "the output gradient of the loss itself",
    "norm_matched": "the loss's own output gradient, times what gives the gradient of all "
    "parameters the norm that the reference's would have at the same weights and batch",
    "reweighted": "the reference's output gradient, each example times the loss's weight: the norm "
    "of the loss's output gradient over that of the reference's, divided by its mean in the batch",
}
"""Signals that drive an update, so that a difference splits into scale, weighting and rest."""

QUESTIONS = ("essay",)
"""Names of additional sections that an experiment may request in its report."""

SAYINGS: dict[str, dict[str, str]] = {
    "better": {
        **dict.fromkeys(("better by more", "better", "reference diverges"), "confirmed"),
        **dict.fromkeys(("below the margin", "equivalent"), "not confirmed"),
        **dict.fromkeys(("worse", "worse by more", "diverges"), "not confirmed"),
    },
    "worse": {
        **dict.fromkeys(("worse by more", "worse", "diverges"), "confirmed"),
        **dict.fromkeys(("below the margin", "equivalent"), "not confirmed"),
        **dict.fromkeys(("better", "better by more", "reference diverges"), "not confirmed"),
    },
}
"""Judgement of a published finding by its statement, "better" or "worse", and the verdict; with any
other verdict the finding stays undecided."""

NOT_WORSE = "not_worse"
"""Third statement of a finding, judged by the interval of the gain and the margin."""

FACTORS = ("data", "model", "optimizer", "schedule")
"""Config groups whose choice a published finding names without `.name`: `where: {data: digits}`."""

RECORDED_AS = {
    **{f"optimizer.{name}": name for name in ("lr", "momentum", "weight_decay")},
    **{f"data.{name}": name for name in ("targets", "corruption", "augmentation")},
    "engine.precision": "precision",
}
"""Recorded names of typed keys that are at the top level of a run's recorded configuration."""


def recorded(key: str) -> str:
    """Dotted name in a run's recorded configuration for a key as typed."""
    typed = next((typed for typed in RECORDED_AS if f"{key}.".startswith(f"{typed}.")), "")
    return f"{RECORDED_AS.get(typed, '')}{key.removeprefix(typed)}"


REPORTS = {
    "all": "tables, page and every figure",
    "verdicts": "tables and page, drawn in it the verdicts alone",
    "none": "nothing; `lossbench report` writes it whenever it is wanted",
}
"""Choices of `report=`: how much of the report an experiment writes at its end."""


def declared(choices: Declaration, *, data: str, task: str) -> Any:
    """The choice, like one of `primary`, under the name of a data set, else under its task.

    None if nothing was declared for either.
    """
    return choices.get(data, choices.get(task))


def duration(seconds: float) -> str:
    """Format a time in one unit: 34 s, 12 min, 8.1 h, 2.5 d."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} d"
