"""Facts and measurements of a loss, as values that JSON can encode."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from lossbench import claims
from lossbench.catalog.entry import CatalogError, Entry
from lossbench.errors import describe_error
from lossbench.losses import LOSSES
from lossbench.losses.relations import related
from lossbench.losses.spec import Loss
from lossbench.store import plain

NO_ORACLE = "no independent implementation known"

Facts = Mapping[str, Any]
"""Facts or measurements of a loss, as values that JSON can encode."""

SECTION = re.compile(r"\n(?=(?:Args|Returns|Raises|Source):\n)")
"""Pattern of the line break before a section of a docstring."""


def facts(entry: Entry) -> Facts:
    """Facts of a loss from its row, docstring and yaml file, without measurements."""
    loss = entry.loss
    prose, *sections = SECTION.split(inspect.getdoc(loss.fn) or "")
    summary, _, about = prose.partition("\n")
    arguments = next((section for section in sections if section.startswith("Args:")), "")
    lines = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    about_argument = {name: " ".join(text.split()) for name, text in lines}
    return {
        "name": entry.name,
        "variant_of": loss.name if entry.is_variant else None,
        "variant_params": plain(entry.params),
        "summary": summary.strip(),
        "about": " ".join(about.split()),
        "task": loss.task,
        "family": loss.family,
        "formula": loss.formula,
        "weight": loss.weight or None,
        "inverse_link": loss.inverse_link,
        "parameters": {
            name: {"default": plain(value), "about": about_argument.get(name, "")}
            for name, value in loss.defaults.items()
        },
        "needs_context": loss.needs_context,
        "outputs_per_target": loss.outputs_per_target,
        "domain": loss.domain,
        "distribution": loss.distribution or None,
        "quantile": loss.quantile or None,
        "source": loss.source,
        "oracle": [name.strip() for name in loss.oracle.split(",") if name.strip()],
        "claims": {name: name in loss.claims for name in claims.CLAIMS},
        "relations": [relation.sentence for relation in related(loss.name)],
        "yaml": entry.path.read_text() if entry.path else None,
    }


def measured(entry: Entry) -> Facts:
    """Measure every claim of a loss, with duplicates and efficiency.

    Returns:
        `claims`, by name: `holds`, `claimed` (by the row), `witness`, `margin`; `disagrees`, the
        names on which row and measurement differ; `duplicates`, name to factor; `efficiency`.

    Raises:
        CatalogError: The function of the loss raises an error; the message names the line.
    """
    loss = entry.loss
    try:
        verdicts = claims.measure(loss)
    except Exception as error:
        what, is_its_own = describe_error(error, LOSSES[loss.name].fn)
        hint = "" if is_its_own else " Does it return one number per example?"
        raise CatalogError(
            f"{entry.name} cannot be measured: {what}.{hint} See docs/extending.md"
        ) from error
    others = [row for row in LOSSES.values() if row.task == loss.task and row.name != loss.name]
    disagrees = [
        name for name, verdict in verdicts.items() if verdict.holds != (name in loss.claims)
    ]
    return {
        "claims": {
            name: {
                "holds": verdict.holds,
                "claimed": name in loss.claims,
                "witness": verdict.witness,
                "margin": plain(verdict.margin),
            }
            for name, verdict in verdicts.items()
        },
        "disagrees": [*disagrees, *sorted(loss.claims - verdicts.keys())],
        "duplicates": {
            name: float(f"{factor:.9g}") for name, factor in claims.duplicates(loss, others).items()
        },
        "efficiency": plain(claims.efficiency(loss)),
    }


def meaning(claim: str) -> str:
    """Meaning of a claim in one sentence: the first line of its function's docstring."""
    return (inspect.getdoc(claims.CLAIMS[claim]) or claim).splitlines()[0]


def requirements(loss: Facts) -> list[str]:
    """Requirements of a loss, from `facts`, beyond one output per target and a real target."""
    requests = []
    if loss["needs_context"]:
        requests.append("the class counts of the training split (a Context)")
    if (outputs := loss["outputs_per_target"]) > 1:
        link = loss["inverse_link"].replace("_", " ")
        requests.append(f"{outputs} outputs per target; the prediction is their {link}")
    if loss["domain"] != "real":
        requests.append(f"targets that are {loss['domain']}")
    return requests


def variant(loss: Facts) -> str:
    """Text like "huber(delta=0.1)" from the `facts` of a loss; empty if it is not a variant."""
    params = ", ".join(f"{name}={value}" for name, value in loss["variant_params"].items())
    return f"{loss['variant_of']}({params})" if loss["variant_of"] else ""


def about_family(loss: Loss) -> str:
    """Description of a loss's family: the first line of the docstring of the loss's module."""
    module = sys.modules.get(loss.fn.__module__)
    return ((module and module.__doc__) or "").strip().partition("\n")[0]
