"""docs/losses.md: every row, what it learns, what it equals, and the essay."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jinja2
import scipy

from lossbench import claims
from lossbench.catalog.entry import entries
from lossbench.catalog.lessons import (
    FREQUENCIES,
    HALF_A_DIGIT,
    exponential_act,
    learnt_from_labels,
    weight_at,
)
from lossbench.catalog.text import letters, marks
from lossbench.catalog.values import NO_ORACLE, about_family, facts, meaning
from lossbench.losses import LOSSES
from lossbench.losses.links import PROBABILITY_LINKS
from lossbench.losses.relations import RELATIONS
from lossbench.losses.spec import TASKS
from lossbench.store import plain

SAME = "the frequencies"

WEIGHTS_AT = (0.01, 0.1, 0.5, 0.9)
"""Predictions for the true one of two classes at which it shows the weights."""


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
        loader=jinja2.PackageLoader("lossbench.catalog", ""),
        autoescape=False,  # Markdown of our own rows, which holds no stranger's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": lambda text: text.replace("|", "\\|"), "marks": marks}
    return environment.get_template("losses.md.j2").render(
        losses=[facts(entry) for entry in entries().values()],
        tasks=TASKS,
        letters=letters(),
        meaning={name: meaning(name) for name in claims.CLAIMS},
        # The last loss of a family speaks for it where a family has several modules.
        about={loss.family: about_family(loss) for loss in LOSSES.values()},
        no_oracle=NO_ORACLE,
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


def reading_of(learnt: Sequence[float]) -> str:
    """What a loss makes of `FREQUENCIES`, in words, from what it learns of them."""
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
