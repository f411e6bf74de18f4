"""The catalog told: a table, one loss's card in text, plain values for programs, docs/losses.md.

What is said of a loss comes from its row, its function's docstring, its yaml file and the claims;
nothing is written twice. Only strings and plain values leave this room: the command line prints.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import string
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml

from lossbench import claims
from lossbench.claims.minima import best, minima, minimise, output_gradient
from lossbench.losses import LOSSES
from lossbench.losses.links import PROBABILITY_LINKS
from lossbench.losses.relations import RELATIONS, related
from lossbench.losses.spec import TASKS, Loss
from lossbench.pairing import raised

NO_ORACLE = "no independent implementation known"
NORMAL_WIDTH = 100
"""Columns of a text whose reader's terminal is unknown."""

LEAST_FORMULA, GROUP = 30, 6
FREQUENCIES = (0.40, 0.35, 0.15, 0.10)
"""Of four labels, at which docs/losses.md shows what each loss learns."""

HALF_A_DIGIT = 5e-4
"""Of the third decimal, the last one shown."""

SAME = "the frequencies"

WEIGHTS_AT = (0.01, 0.1, 0.5, 0.9)
"""Predictions for the true one of two classes at which it shows the weights."""


class CatalogError(ValueError):
    """A name, a yaml file or a row is not what it should be; the message says the cure."""


@dataclass(frozen=True)
class Entry:
    """A name that can be typed after `loss=`.

    Args:
        name: As typed: a row's, or that of a yaml file which gives a row other parameters.
        loss: The row, at the parameters of the yaml file.
        params: Those of them that are not the row's defaults.
        path: The yaml file; None where there is none.
    """

    name: str
    loss: Loss
    params: Mapping[str, Any]
    path: Path | None

    @property
    def is_variant(self) -> bool:
        """Whether a yaml file makes it differ from the row it uses."""
        return bool(self.params) or self.name != self.loss.name


def entries(folders: Sequence[Path] = ()) -> dict[str, Entry]:
    """Every name that can be typed after `loss=`: rows in their order, then variants.

    Args:
        folders: Folders of yaml files, each with a folder `loss`; the first that has a file wins.

    Raises:
        CatalogError: A yaml file gives a row a parameter that it does not have.
    """
    files = {
        path.stem: path
        for folder in reversed(folders)
        for path in sorted((folder / "loss").glob("*.yaml"))
    }
    names = [*LOSSES, *sorted(files.keys() - LOSSES.keys())]
    asked = {name: _resolved(name, files) for name in names}
    return {
        name: _entry(name, fn, params, files.get(name))
        for name, (fn, params) in asked.items()
        if fn in LOSSES
    }


def _resolved(name: str, files: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    """Function and parameters that a yaml file asks for, composed with its `defaults`."""
    if name not in files:
        return name, {}
    others = {other: path for other, path in files.items() if other != name}
    fn, params = name, {}
    try:
        content = yaml.safe_load(files[name].read_text()) or {}
        layers = [*(content.get("defaults") or ())]
        for layer in layers if "_self_" in layers else [*layers, "_self_"]:
            if layer == "_self_":
                params |= content.get("params") or {}
            else:
                fn, inherited = _resolved(layer, others)
                params |= inherited
        return content.get("fn", fn), params
    except (AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise CatalogError(f"{files[name]} cannot be read: {why}") from error


def _entry(name: str, fn: str, params: Mapping[str, Any], path: Path | None) -> Entry:
    row = LOSSES[fn]
    try:
        # Hydra reads 1e-6 as a number, plain yaml as a string.
        typed = {
            key: float(value) if isinstance(row.defaults.get(key), float) else value
            for key, value in params.items()
        }
        changed = {key: value for key, value in typed.items() if value != row.defaults.get(key)}
        return Entry(name, row.at(**changed) if changed else row, changed, path)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"{path}: {error}") from error


# ---- plain values --------------------------------------------------------------------------------


def facts(entry: Entry) -> dict[str, Any]:
    """Everything that is said of a loss, nothing measured, as values that JSON knows."""
    loss, (summary, about) = entry.loss, _told(entry.loss)
    return {
        "name": entry.name,
        "variant_of": loss.name if entry.is_variant else None,
        "variant_params": _plain(entry.params),
        "summary": summary,
        "about": about,
        "task": loss.task,
        "family": loss.family,
        "formula": loss.formula,
        "weight": loss.weight or None,
        "inverse_link": loss.inverse_link,
        "parameters": {
            name: {"default": _plain(value), "about": _arguments(loss).get(name, "")}
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


def measured(entry: Entry) -> dict[str, Any]:
    """Every claim measured now, with duplicates and efficiency, as values that JSON knows.

    Returns:
        `claims`, by name: `holds`, `claimed` (by the row), `witness`, `margin`; `disagrees`, the
        names on which row and measurement differ; `duplicates`, name to factor; `efficiency`.

    Raises:
        CatalogError: The function fails; the message says in which line.
    """
    loss, verdicts = entry.loss, _measured(entry)
    others = [row for row in LOSSES.values() if row.task == loss.task and row.name != loss.name]
    unknown = sorted(loss.claims - verdicts.keys())
    differing = [
        name for name, verdict in verdicts.items() if verdict.holds != (name in loss.claims)
    ]
    return {
        "claims": {
            name: {
                "holds": verdict.holds,
                "claimed": name in loss.claims,
                "witness": verdict.witness,
                "margin": _plain(verdict.margin),
            }
            for name, verdict in verdicts.items()
        },
        "disagrees": [*differing, *unknown],
        "duplicates": {
            name: float(f"{factor:.9g}") for name, factor in claims.duplicates(loss, others).items()
        },
        "efficiency": _plain(claims.efficiency(loss)),
    }


def _measured(entry: Entry) -> dict[str, claims.Verdict]:
    try:
        return claims.measure(entry.loss)
    except Exception as error:
        told, is_its_own = raised(error, LOSSES[entry.loss.name].fn)
        hint = "" if is_its_own else " Does it return one number per example?"
        raise CatalogError(
            f"{entry.name} cannot be measured: {told}.{hint} See docs/extending.md"
        ) from error


def meaning(claim: str) -> str:
    """What a claim says, in one sentence: the first line of its function's docstring."""
    return (inspect.getdoc(claims.CLAIMS[claim]) or claim).splitlines()[0]


def wants(told: Mapping[str, Any]) -> list[str]:
    """What a loss asks for beside one output per target and the target itself."""
    asked = []
    if told["needs_context"]:
        asked.append("the class counts of the training split (a Context)")
    if (outputs := told["outputs_per_target"]) > 1:
        asked.append(f"{outputs} outputs per target, of which the first makes the prediction")
    if told["domain"] != "real":
        asked.append(f"targets that are {told['domain']}")
    return asked


def variant(told: Mapping[str, Any]) -> str:
    """Like "huber(delta=0.1)"; empty for what is no variant."""
    given = ", ".join(f"{name}={value}" for name, value in told["variant_params"].items())
    return f"{told['variant_of']}({given})" if told["variant_of"] else ""


def _plain(value: Any) -> Any:
    """The value as JSON knows it: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


_SECTION = re.compile(r"\n(?=(?:Args|Returns|Raises|Source):\n)")


def _told(loss: Loss) -> tuple[str, str]:
    """A docstring's first line, and what follows it before its sections."""
    summary, _, rest = _SECTION.split(inspect.getdoc(loss.fn) or "")[0].partition("\n")
    return summary.strip(), " ".join(rest.split())


def _arguments(loss: Loss) -> dict[str, str]:
    """What a docstring says of each argument, on one line."""
    parts = _SECTION.split(inspect.getdoc(loss.fn) or "")
    section = next((part for part in parts if part.startswith("Args:")), "")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(about.split()) for name, about in found}


# ---- text for a terminal -------------------------------------------------------------------------


def letters() -> dict[str, str]:
    """The letter that stands for each claim in tables, in the order of the claims."""
    return dict(zip(claims.CLAIMS, string.ascii_letters, strict=False))


def marks(claimed: Mapping[str, bool]) -> str:
    """A loss's claims as their letters, a dot for each that it does not make, in groups."""
    line = "".join(letter if claimed[name] else "·" for name, letter in letters().items())
    return " ".join(line[at : at + GROUP] for at in range(0, len(line), GROUP))


def table(told: Sequence[Mapping[str, Any]], *, width: int = NORMAL_WIDTH) -> str:
    """Losses by task and family, a line each, with what the letters mean beneath.

    The formula fills what is left of the width; where that is little, the inverse link gives way.

    Args:
        told: `facts` of each loss.
        width: Columns of the terminal; 0 cuts nothing off.
    """
    rows = [one for one in told if not one["variant_of"]]
    row = _row_format(rows, width)
    lines = []
    for task in TASKS:
        mine = [one for one in rows if one["task"] == task]
        families = list(dict.fromkeys(one["family"] for one in mine))
        if mine:
            lines.append(f"{task.upper()}: {len(mine)} losses in {len(families)} families")
            lines += [row("name", "claims, see below", "inverse link", "formula"), ""]
        for family in families:
            together = [one for one in mine if one["family"] == family]
            lines += _hanging(f"{family}: ", _about_family(together), width)
            for one in together:
                cells = one["name"], marks(one["claims"]), one["inverse_link"], one["formula"]
                lines.append(row(*cells))
            lines.append("")
    if variants := [one for one in told if one["variant_of"]]:
        lines += ["VARIANTS: yaml files that give a loss other parameters", ""]
        lines += [row(one["name"], variant(one), "", "") for one in variants] + [""]
    return "\n".join([*lines, *_legend(width)])


def _row_format(
    rows: Sequence[Mapping[str, Any]], width: int
) -> Callable[[str, str, str, str], str]:
    """Lays name, marks, inverse link and formula out in columns, as the width allows."""
    names, links = (max(len(one[key]) for one in rows) for key in ("name", "inverse_link"))
    marked = len(marks(dict.fromkeys(claims.CLAIMS, True)))
    left = width - names - marked - 6
    has_links = width == 0 or left - links - 1 >= LEAST_FORMULA
    left = 10**6 if width == 0 else left - (links + 1) * has_links

    def row(name: str, letters: str, link: str, formula: str) -> str:
        linked = f"{link:<{links}} " if has_links else ""
        return f"  {name:<{names}}  {letters:<{marked}}  {linked}{_cut(formula, left)}".rstrip()

    return row


def _about_family(together: Sequence[Mapping[str, Any]]) -> str:
    """The first line of the module of a family's first loss, which says what they share."""
    module = sys.modules.get(LOSSES[together[0]["name"]].fn.__module__)
    return ((module and module.__doc__) or "").strip().partition("\n")[0]


def _legend(width: int) -> Iterator[str]:
    yield "CLAIMS: a letter where it holds, a dot where it does not"
    yield ""
    longest = max(map(len, claims.CLAIMS))
    for name, letter in letters().items():
        head = f"  {letter}  {name:<{longest}}  "
        yield from _hanging(head, meaning(name), width)
    yield ""
    yield "lossbench losses NAME tells all about one; --measure measures its claims again."


def description(told: Mapping[str, Any], *, width: int = NORMAL_WIDTH) -> str:
    """One loss in full, without anything measured.

    Args:
        told: Its `facts`.
        width: Columns of the terminal; 0 wraps nothing.
    """
    said = {
        "formula": told["formula"],
        "weight w(p)": told["weight"],
        "inverse link": told["inverse_link"],
        "task": told["task"],
        "family": told["family"],
        "asks for": "; ".join(wants(told)),
        "source": told["source"],
        "compared with": ", ".join(told["oracle"]) or NO_ORACLE,
    }
    lines = _hanging(f"{told['name']}: ", told["summary"], width)
    lines += _hanging("", told["about"], width)
    lines += [f"A variant: {variant(told)}."] * bool(told["variant_of"]) + [""]
    for name, value in said.items():
        lines += _hanging(f"  {name:<13}  ", value, width) if value else []
    lines += _parameters(told, width)
    lines += _claims(told, width)
    if told["relations"]:
        lines += ["", "relations", *(f"  {sentence}" for sentence in told["relations"])]
    if told["yaml"]:
        lines += ["", f"loss/{told['name']}.yaml"]
        lines += [f"  {line}".rstrip() for line in told["yaml"].splitlines()]
    return "\n".join(lines)


def _parameters(told: Mapping[str, Any], width: int) -> Iterator[str]:
    heads = {name: f"{name} = {one['default']}" for name, one in told["parameters"].items()}
    longest = max(map(len, heads.values()), default=0)
    if heads:
        yield from ("", "parameters")
    for name, head in heads.items():
        yield from _hanging(f"  {head:<{longest}}  ", told["parameters"][name]["about"], width)


def _claims(told: Mapping[str, Any], width: int) -> Iterator[str]:
    """The claims that hold, then those that do not; what no loss of its task is, on one line."""
    rows = [row for row in LOSSES.values() if row.task == told["task"]]
    never = [name for name in claims.CLAIMS if not any(name in row.claims for row in rows)]
    held = [name for name, is_held in told["claims"].items() if is_held]
    failed = [name for name in told["claims"] if name not in (*held, *never)]
    longest = max(map(len, claims.CLAIMS))
    for heading, names in (("what is true of it", held), ("what is not", failed)):
        yield from ("", heading)
        for name in names:
            yield from _hanging(f"  {name:<{longest}}  ", meaning(name), width)
        if not names:
            yield "  nothing that is measured"
    if never:
        yield ""
        yield from _hanging(f"what no {told['task']} loss is: ", ", ".join(never), width)


def verdicts(
    told: Mapping[str, Any], found: Mapping[str, Any], *, width: int = NORMAL_WIDTH
) -> str:
    """What was measured on one loss, each disagreement with its row marked.

    Args:
        told: Its `facts`.
        found: What was `measured` of it.
        width: Columns of the terminal; 0 wraps nothing.
    """
    held = [name for name, one in found["claims"].items() if one["holds"]]
    lines = [f"{told['name']}, measured now: {len(held)} of {len(found['claims'])} claims hold"]
    longest = max(map(len, found["claims"]))
    for name, one in found["claims"].items():
        flag = "!" if name in found["disagrees"] else " "
        head = f"{flag} {name:<{longest}}  {'holds' if one['holds'] else 'fails'}  "
        lines += _hanging(head, one["witness"], width)
    for other, factor in found["duplicates"].items():
        lines.append(f"  the same as {_factor(factor)}{other}" + _on_labels(told))
    if found["efficiency"] is not None:
        lines.append(f"  efficiency at the normal: {found['efficiency']:.3f} (the mean has 1)")
    return "\n".join([*lines, *_disagreement(told, found, held, width)])


def _disagreement(
    told: Mapping[str, Any], found: Mapping[str, Any], held: Sequence[str], width: int
) -> Iterator[str]:
    """What the row says otherwise, and the line that would be true."""
    known = [name for name in found["disagrees"] if name in found["claims"]]
    kinds = {
        "fails, but the row claims it": [name for name in known if name not in held],
        "holds, but the row does not claim it": [name for name in known if name in held],
        "the row claims it, but there is no such claim": [*set(found["disagrees"]) - {*known}],
    }
    if told["variant_of"]:
        kinds = {f"unlike {told['variant_of']} at its defaults": known}
    for kind, names in kinds.items():
        if names:
            yield from _hanging("! ", f"{kind}: {', '.join(names)}", width)
    if found["disagrees"] and not told["variant_of"]:
        yield "  what was measured, for the row:"
        names = ", ".join(f'"{name}"' for name in held)
        yield from _hanging("  ", f"claims=frozenset({{{names}}}),", width)


def _factor(factor: float) -> str:
    return "" if factor == 1.0 else f"{factor:.6g} "


def _on_labels(told: Mapping[str, Any]) -> str:
    return " on labels" if told["task"] == "classification" else ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width, 1) - 1]}…"


def _hanging(head: str, text: str, width: int) -> list[str]:
    """Text behind a head, its further lines below its first one."""
    if not text:
        return [head.rstrip()] if head.strip() else []
    return textwrap.wrap(
        text,
        max(width, len(head) + 24) if width else 10**6,
        initial_indent=head,
        subsequent_indent=" " * min(len(head), 32),
        break_on_hyphens=False,
    )


# ---- what a loss learns --------------------------------------------------------------------------


def learnt_from_labels(loss: Loss, frequencies: Sequence[float] = FREQUENCIES) -> list[float]:
    """The prediction with the least expected loss where labels have these frequencies.

    NaN where the least value is only approached, and the prediction still moves when the search
    goes on.
    """
    labels = torch.eye(len(frequencies), dtype=torch.float64)
    weights = torch.tensor([frequencies], dtype=torch.float64)

    def expected_loss(output: torch.Tensor) -> torch.Tensor:
        return (weights * loss.values(output.expand_as(labels), labels)).sum(-1)

    output = best(*minima(loss, labels[None], weights))
    further = minimise(expected_loss, output)
    learnt, later = loss.predict(output)[0], loss.predict(further)[0]
    is_there = bool((learnt - later).abs().max() < HALF_A_DIGIT)
    return learnt.tolist() if is_there else [math.nan] * len(frequencies)


def exponential_act(loss: Loss) -> float:
    """The prediction with the least expected loss where the target is exponential with mean 1.

    Exact to 0.001. NaN where the expected loss is infinite whatever is predicted.
    """
    target, weight = _exponential(3.0)
    farther, lighter = _exponential(6.0)
    near, far = ((w * _at_zero(loss, y)).sum() for y, w in ((target, weight), (farther, lighter)))
    if abs(near - far) > 1e-3 * abs(far):
        return math.nan
    return float(claims.bayes_prediction(loss, targets=target[:, None], weights=weight[None])[0, 0])


def _exponential(scale: float, points: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights of an exponential target; a larger scale reaches farther into its tail."""
    level = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    target = -scale * torch.log1p(-level)
    return target, scale * torch.exp(-(1.0 - 1.0 / scale) * target) / points


def _at_zero(loss: Loss, target: torch.Tensor) -> torch.Tensor:
    output = torch.zeros(len(target), loss.outputs_per_target, dtype=torch.float64)
    return loss.values(output, target[:, None])


def weight_at(loss: Loss, p: float) -> float:
    """Output gradient over error of a softmax loss that gives the true one of two classes p."""
    output = torch.tensor([math.log(p / (1.0 - p)), 0.0], dtype=torch.float64)
    target = torch.tensor([1.0, 0.0], dtype=torch.float64)
    slope = output_gradient(loss, output, target)
    return float(slope.norm() / (loss.predict(output) - target).norm())


# ---- docs/losses.md ------------------------------------------------------------------------------


def document() -> str:
    """The text of docs/losses.md: every row, what it learns, what it equals, and the essay."""
    told, lessons = [facts(entry) for entry in entries().values()], list(_lessons())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lossbench", ""),
        autoescape=False,  # Markdown of our own rows, which holds no stranger's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "marks": marks}
    return environment.get_template("losses.md.j2").render(
        losses=told,
        tasks=TASKS,
        letters=letters(),
        meaning={name: meaning(name) for name in claims.CLAIMS},
        about={one["family"]: _about_family([one]) for one in told},
        no_oracle=NO_ORACLE,
        frequencies=FREQUENCIES,
        lessons=lessons,
        agreeing=[
            f"`{one['name']}`"
            for one in lessons
            if one["reading"] == SAME and "strictly_proper" not in LOSSES[one["name"]].claims
        ],
        acts=list(_acts()),
        weights_at=WEIGHTS_AT,
        weights=list(_weights()),
        duplicates=[one.sentence for one in RELATIONS if one.is_duplicate],
        special=[one.sentence for one in RELATIONS if not (one.is_duplicate or one.limit)],
        limits=[one.sentence for one in RELATIONS if one.limit],
    )


def _lessons() -> Iterator[dict[str, Any]]:
    """What each loss with a probability link learns from labels, and how to read it."""
    for loss in LOSSES.values():
        if loss.task == "classification" and loss.inverse_link in PROBABILITY_LINKS:
            learnt = learnt_from_labels(loss)
            yield {"name": loss.name, "learnt": _plain(learnt), "reading": _reading(learnt)}


def _reading(learnt: Sequence[float]) -> str:
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


def _acts() -> Iterator[dict[str, Any]]:
    """What each regression loss learns from an exponential target, and its efficiency."""
    for loss in LOSSES.values():
        if loss.task == "regression":
            yield {
                "name": loss.name,
                "act": _plain(exponential_act(loss)),
                "efficiency": _plain(claims.efficiency(loss)),
            }


def _weights() -> Iterator[dict[str, Any]]:
    """The weight of each local loss, as its row writes it and as measured."""
    for loss in LOSSES.values():
        if loss.weight:
            measured_at = [weight_at(loss, p) for p in WEIGHTS_AT]
            yield {"name": loss.name, "weight": loss.weight, "at": measured_at}


def _cell(text: str) -> str:
    """Text within a cell of a Markdown table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(document())
