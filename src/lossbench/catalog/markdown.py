"""docs/losses.md: every row, what it learns, what it equals, and the essay."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jinja2

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
from lossbench.catalog.values import NO_ORACLE, about_family, facts, meaning, plain
from lossbench.losses import LOSSES
from lossbench.losses.links import PROBABILITY_LINKS
from lossbench.losses.relations import RELATIONS
from lossbench.losses.spec import TASKS

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
        loader=jinja2.PackageLoader("lossbench", ""),
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
            f"`{one['name']}`"
            for one in lessons
            if one["reading"] == SAME and "strictly_proper" not in LOSSES[one["name"]].claims
        ],
        acts=acts,
        weights_at=WEIGHTS_AT,
        weights=weights,
        duplicates=[one.sentence for one in RELATIONS if one.is_duplicate],
        special=[one.sentence for one in RELATIONS if not (one.is_duplicate or one.limit)],
        limits=[one.sentence for one in RELATIONS if one.limit],
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
    return "sharper" if _entropy(learnt) < _entropy(FREQUENCIES) else "flatter"


def _entropy(p: Sequence[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)
