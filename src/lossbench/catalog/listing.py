"""Catalog in a terminal: a table of all losses, one loss in full, measurements of one loss."""

from __future__ import annotations

import string
import textwrap
from collections.abc import Mapping, Sequence

from lossbench import claims
from lossbench.catalog.values import NO_ORACLE, Facts, about_family, meaning, requirements, variant
from lossbench.losses import LOSSES
from lossbench.losses.spec import TASKS

NORMAL_WIDTH = 100
"""Width of a text in columns if the width of the terminal is unknown."""

LEAST_FORMULA, GROUP = 30, 6
LONGEST_CLAIM = max(map(len, claims.CLAIMS))


def letters() -> dict[str, str]:
    """The letter that stands for each claim in tables, in the order of the claims."""
    return dict(zip(claims.CLAIMS, string.ascii_letters, strict=False))


def marks(claimed: Mapping[str, bool]) -> str:
    """Claims of a loss as letters in groups, with a dot for each claim that the loss lacks."""
    line = "".join(letter if claimed[name] else "·" for name, letter in letters().items())
    return " ".join(line[at : at + GROUP] for at in range(0, len(line), GROUP))


def table(losses: Sequence[Facts], *, width: int = NORMAL_WIDTH) -> str:
    """Table of losses by task and family, one line each, and below it the meaning of the letters.

    The formula fills the rest of the width; if little is left, the inverse link is left out.

    Args:
        losses: `facts` of each loss.
        width: Columns of the terminal; 0 cuts nothing off.
    """
    rows = [loss for loss in losses if not loss["variant_of"]]
    variants = [loss for loss in losses if loss["variant_of"]]
    names, links = (max(len(loss[key]) for loss in rows) for key in ("name", "inverse_link"))
    marked = len(marks(dict.fromkeys(claims.CLAIMS, True)))
    left = width - names - marked - 6 if width else 10**6
    has_links = left - links - 1 >= LEAST_FORMULA
    left -= links + 1 if has_links else 0

    def line(name: str, letters: str, link: str, formula: str) -> str:
        link = f"{link:<{links}} " if has_links else ""
        formula = formula if len(formula) <= left else f"{formula[: max(left, 1) - 1]}…"
        return f"  {name:<{names}}  {letters:<{marked}}  {link}{formula}".rstrip()

    lines = []
    for task in TASKS:
        of_task = [loss for loss in rows if loss["task"] == task]
        families = list(dict.fromkeys(loss["family"] for loss in of_task))
        if of_task:
            lines.append(f"{task.upper()}: {len(of_task)} losses in {len(families)} families")
            lines += [line("name", "claims, see below", "inverse link", "formula"), ""]
        for family in families:
            of_family = [loss for loss in of_task if loss["family"] == family]
            about = about_family(LOSSES[of_family[0]["name"]])
            lines += hanging(f"{family}: ", about, width)
            for loss in of_family:
                cells = marks(loss["claims"]), loss["inverse_link"], loss["formula"]
                lines.append(line(loss["name"], *cells))
            lines.append("")
    if variants:
        lines += ["VARIANTS: yaml files that give a loss other parameters", ""]
        lines += [line(loss["name"], variant(loss), "", "") for loss in variants] + [""]
    lines += ["CLAIMS: a letter where it holds, a dot where it does not", ""]
    for name, letter in letters().items():
        lines += hanging(f"  {letter}  {name:<{LONGEST_CLAIM}}  ", meaning(name), width)
    lines += ["", "lossbench losses NAME tells all about one; --measure measures its claims again."]
    return "\n".join(lines)


def description(loss: Facts, *, width: int = NORMAL_WIDTH) -> str:
    """Description of one loss in full, without measurements.

    Args:
        loss: The loss's `facts`.
        width: Columns of the terminal; 0 wraps nothing.
    """
    fields = {
        "formula": loss["formula"],
        "weight w(p)": loss["weight"],
        "inverse link": loss["inverse_link"],
        "task": loss["task"],
        "family": loss["family"],
        "asks for": "; ".join(requirements(loss)),
        "source": loss["source"],
        "compared with": ", ".join(loss["oracle"]) or NO_ORACLE,
    }
    lines = hanging(f"{loss['name']}: ", loss["summary"], width)
    lines += hanging("", loss["about"], width)
    if loss["variant_of"]:
        lines.append(f"A variant: {variant(loss)}.")
    lines.append("")
    for name, value in fields.items():
        if value:
            lines += hanging(f"  {name:<13}  ", value, width)
    if parameters := loss["parameters"]:
        lines += ["", "parameters"]
        heads = [f"{name} = {facts['default']}" for name, facts in parameters.items()]
        longest = max(map(len, heads))
        for head, facts in zip(heads, parameters.values(), strict=True):
            lines += hanging(f"  {head:<{longest}}  ", facts["about"], width)
    # Claims that no loss of the task makes are listed in one line.
    rows = [row for row in LOSSES.values() if row.task == loss["task"]]
    never = [name for name in claims.CLAIMS if not any(name in row.claims for row in rows)]
    held = [name for name, is_held in loss["claims"].items() if is_held]
    failed = [name for name in loss["claims"] if name not in (*held, *never)]
    for heading, names in (("what is true of it", held), ("what is not", failed)):
        lines += ["", heading]
        for name in names:
            lines += hanging(f"  {name:<{LONGEST_CLAIM}}  ", meaning(name), width)
        if not names:
            lines.append("  nothing that is measured")
    if never:
        lines += ["", *hanging(f"what no {loss['task']} loss is: ", ", ".join(never), width)]
    if loss["relations"]:
        lines += ["", "relations", *(f"  {sentence}" for sentence in loss["relations"])]
    if loss["yaml"]:
        lines += ["", f"loss/{loss['name']}.yaml"]
        lines += [f"  {line}".rstrip() for line in loss["yaml"].splitlines()]
    return "\n".join(lines)


def verdicts(loss: Facts, measurement: Facts, *, width: int = NORMAL_WIDTH) -> str:
    """Measurements of one loss; each disagreement with the row is marked.

    Args:
        loss: The loss's `facts`.
        measurement: Result of `measured` for the loss.
        width: Columns of the terminal; 0 wraps nothing.
    """
    by_claim, disagreeing = measurement["claims"], measurement["disagrees"]
    held = [name for name, verdict in by_claim.items() if verdict["holds"]]
    lines = [f"{loss['name']}, measured now: {len(held)} of {len(by_claim)} claims hold"]
    longest = max(map(len, by_claim))
    for name, verdict in by_claim.items():
        flag = "!" if name in disagreeing else " "
        head = f"{flag} {name:<{longest}}  {'holds' if verdict['holds'] else 'fails'}  "
        lines += hanging(head, verdict["witness"], width)
    where = " on labels" if loss["task"] == "classification" else ""
    for other, factor in measurement["duplicates"].items():
        times = "" if factor == 1.0 else f"{factor:.6g} "
        lines.append(f"  the same as {times}{other}{where}")
    if measurement["efficiency"] is not None:
        lines.append(
            f"  efficiency at the normal: {measurement['efficiency']:.3f} (the mean has 1)"
        )
    of_catalog = [name for name in disagreeing if name in by_claim]
    kinds = {
        "fails, but the row claims it": [name for name in of_catalog if name not in held],
        "holds, but the row does not claim it": [name for name in of_catalog if name in held],
        "the row claims it, but there is no such claim": [*set(disagreeing) - {*of_catalog}],
    }
    if loss["variant_of"]:
        kinds = {f"unlike {loss['variant_of']} at its defaults": of_catalog}
    for kind, names in kinds.items():
        if names:
            lines += hanging("! ", f"{kind}: {', '.join(names)}", width)
    if disagreeing and not loss["variant_of"]:
        lines.append("  what was measured, for the row:")
        names = ", ".join(f'"{name}"' for name in held)
        lines += hanging("  ", f"claims=frozenset({{{names}}}),", width)
    return "\n".join(lines)


def hanging(head: str, text: str, width: int) -> list[str]:
    """Wrap a text behind a head, with further lines of the text indented below the first."""
    if not text:
        return [head.rstrip()] if head.strip() else []
    return textwrap.wrap(
        text,
        max(width, len(head) + 24) if width else 10**6,
        initial_indent=head,
        subsequent_indent=" " * min(len(head), 32),
        break_on_hyphens=False,
    )
