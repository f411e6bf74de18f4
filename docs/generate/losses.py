"""docs/losses.md: every loss with its row, its lessons, its relations, and the essay.

python docs/generate/losses.py > docs/losses.md
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
import scipy
import torch
from torch import Tensor

from lossbench import catalog, claims
from lossbench.catalog.card import exponential_act
from lossbench.catalog.values import about_family
from lossbench.claims.minima import best, minima, minimise, output_gradient
from lossbench.losses import LOSSES
from lossbench.losses.links import PROBABILITY_LINKS
from lossbench.losses.relations import RELATIONS
from lossbench.losses.spec import TASKS, Loss
from lossbench.store import plain

FREQUENCIES = (0.40, 0.35, 0.15, 0.10)
"""Frequencies of four labels from which each loss learns."""

HALF_A_DIGIT = 5e-4
"""Half of the third decimal, the last one that the page shows."""

SAME = "the frequencies"

WEIGHTS_AT = (0.01, 0.1, 0.5, 0.9)
"""Predictions for the true one of two classes at which the page shows the weights."""


def document() -> str:
    """The text of docs/losses.md."""
    lessons, acts, weights = [], [], []
    for loss in LOSSES.values():
        if loss.task == "classification" and loss.inverse_link in PROBABILITY_LINKS:
            learnt = learnt_from_labels(loss)
            reading = reading_of(learnt)
            lessons.append({"name": loss.name, "learnt": plain(learnt), "reading": reading})
        if loss.task == "regression":
            act, efficiency = plain(exponential_act(loss)), plain(claims.efficiency(loss))
            acts.append({"name": loss.name, "act": act, "efficiency": efficiency})
        if loss.weight:
            values = [weight_at(loss, p) for p in WEIGHTS_AT]
            weights.append({"name": loss.name, "weight": loss.weight, "at": values})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown of our own rows, which holds no stranger's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": lambda text: text.replace("|", "\\|"), "marks": catalog.marks}
    return environment.get_template("losses.md.j2").render(
        losses=[catalog.facts(entry) for entry in catalog.entries().values()],
        tasks=TASKS,
        letters=catalog.letters(),
        meaning={name: catalog.meaning(name) for name in claims.CLAIMS},
        # The last loss of a family speaks for it where a family has several modules.
        about={loss.family: about_family(loss) for loss in LOSSES.values()},
        no_oracle=catalog.NO_ORACLE,
        frequencies=FREQUENCIES,
        lessons=lessons,
        agreeing=[
            f"`{lesson['name']}`"
            for lesson in lessons
            if lesson["reading"] == SAME and "strictly_proper" not in LOSSES[lesson["name"]].claims
        ],
        acts=acts,
        weights_at=WEIGHTS_AT,
        weights=weights,
        duplicates=[relation.sentence for relation in RELATIONS if relation.is_duplicate],
        special=[
            relation.sentence
            for relation in RELATIONS
            if not (relation.is_duplicate or relation.limit)
        ],
        limits=[relation.sentence for relation in RELATIONS if relation.limit],
    )


def learnt_from_labels(loss: Loss, frequencies: Sequence[float] = FREQUENCIES) -> list[float]:
    """The prediction with the least expected loss where labels have these frequencies.

    NaN where the least value is only approached, and the prediction still moves when the search
    goes on.
    """
    labels = torch.eye(len(frequencies), dtype=torch.float64)
    weights = torch.tensor([frequencies], dtype=torch.float64)

    def expected_loss(output: Tensor) -> Tensor:
        return (weights * loss.values(output.expand_as(labels), labels)).sum(-1)

    output = best(*minima(loss, labels[None], weights))
    further = minimise(expected_loss, output)
    learnt, later = loss.predict(output)[0], loss.predict(further)[0]
    is_there = bool((learnt - later).abs().max() < HALF_A_DIGIT)
    return learnt.tolist() if is_there else [math.nan] * len(frequencies)


def weight_at(loss: Loss, p: float) -> float:
    """Output gradient over error of a softmax loss that gives the true one of two classes p."""
    output = torch.tensor([math.log(p / (1.0 - p)), 0.0], dtype=torch.float64)
    target = torch.tensor([1.0, 0.0], dtype=torch.float64)
    gradient = output_gradient(loss, output, target)
    return float(gradient.norm() / (loss.predict(output) - target).norm())


def reading_of(learnt: Sequence[float]) -> str:
    """The lesson of `FREQUENCIES` in words, from the prediction that a loss learnt."""
    if math.isnan(learnt[0]):
        return "nothing: it never arrives"
    if all(abs(p - pi) < HALF_A_DIGIT for p, pi in zip(learnt, FREQUENCIES, strict=True)):
        return SAME
    if max(learnt) > 0.999:
        return "a corner: the commonest label alone"
    if any(after > before + HALF_A_DIGIT for before, after in itertools.pairwise(learnt)):
        return "another order"
    is_sharper = scipy.stats.entropy(learnt) < scipy.stats.entropy(FREQUENCIES)
    return "sharper" if is_sharper else "flatter"


if __name__ == "__main__":
    sys.stdout.write(document())
