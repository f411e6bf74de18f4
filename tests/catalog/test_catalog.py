"""The catalog tells of every loss what its row, its docstring and its yaml file say."""

from __future__ import annotations

import ast
import json
import math
import operator
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generators import generator
from torch import nn

import lossbench
from lossbench import catalog, claims
from lossbench.catalog.card import exponential_act
from lossbench.losses import LOSSES

KNOWN = catalog.entries([lossbench.CONF])
TOLD = {name: catalog.facts(entry) for name, entry in KNOWN.items()}
page = generator("losses")
PI = np.array(page.FREQUENCIES)
each_entry = pytest.mark.parametrize("name", KNOWN)


def folder(tmp_path, **files):
    """A folder of yaml files with the given losses."""
    (tmp_path / "loss").mkdir(exist_ok=True)
    for name, text in files.items():
        (tmp_path / "loss" / f"{name}.yaml").write_text(text)
    return tmp_path


# ---- names that can be typed ---------------------------------------------------------------------


def test_every_row_and_every_yaml_is_an_entry_rows_first():
    stems = {path.stem for path in (lossbench.CONF / "loss").glob("*.yaml")}
    assert {*KNOWN} == {*LOSSES} | stems
    assert list(KNOWN)[: len(LOSSES)] == list(LOSSES)
    for name, row in LOSSES.items():
        assert not KNOWN[name].is_variant
        assert KNOWN[name].loss is row


def test_a_variant_is_its_row_at_other_parameters():
    tight = KNOWN["huber_tight"]
    assert tight.is_variant
    assert catalog.variant(TOLD["huber_tight"]) == "huber(delta=0.1)"
    far = torch.tensor([3.0], dtype=torch.float64)
    expected = LOSSES["huber"].fn(far, 0 * far, delta=0.1)
    assert tight.loss.values(far, 0 * far) == expected


def test_of_two_files_of_one_name_the_first_folder_has_its_way(tmp_path):
    own = folder(tmp_path, huber="fn: huber\nparams:\n  delta: 7.0\n")
    entry = catalog.entries([own, lossbench.CONF])["huber"]
    assert entry.is_variant
    assert dict(entry.params) == {"delta": 7.0}


def test_a_variant_of_a_variant_inherits_what_it_does_not_change(tmp_path):
    own = folder(
        tmp_path,
        one="defaults: [sce]\nparams:\n  alpha: 6.0\n",
        two="defaults: [one]\nparams:\n  alpha: 7.0\n  beta: 1e-1\n",
        yields="defaults: [_self_, one]\nparams:\n  alpha: 8.0\n",
    )
    known = catalog.entries([own, lossbench.CONF])
    assert (known["two"].loss.name, dict(known["two"].params)) == (
        "sce",
        {"alpha": 7.0, "beta": 0.1},
    )
    assert dict(known["yields"].params) == {"alpha": 6.0}


def test_a_file_that_builds_on_one_of_its_own_name_builds_on_the_row(tmp_path):
    own = folder(tmp_path, huber="defaults: [huber]\nparams:\n  delta: 3.0\n")
    assert dict(catalog.entries([own])["huber"].params) == {"delta": 3.0}


def test_a_yaml_whose_function_is_not_loaded_is_left_out(tmp_path):
    assert "mine" not in catalog.entries([folder(tmp_path, mine="fn: not_loaded\n")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fn: [huber", "cannot be read"),
        ("- huber\n", "cannot be read"),
        ("fn: huber\nparams:\n  delt: 1.0\n", "'delt'"),
        ("fn: huber\nparams:\n  delta: wide\n", "wide"),
    ],
)
def test_a_yaml_that_makes_no_sense_is_refused_by_its_path(tmp_path, text, said):
    with pytest.raises(catalog.CatalogError, match=re.escape(said)) as refusal:
        catalog.entries([folder(tmp_path, mine=text)])
    assert str(tmp_path / "loss" / "mine.yaml") in str(refusal.value)


# ---- plain values --------------------------------------------------------------------------------


@each_entry
def test_what_is_told_is_in_sentences_and_survives_json_without_infinities(name):
    told = TOLD[name]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    parameters = told["parameters"]
    assert {key: one["default"] for key, one in parameters.items()} == KNOWN[name].loss.defaults
    assert all(one["about"].endswith(".") for one in parameters.values()), parameters
    assert told["summary"].endswith((".", ")"))
    assert "Args:" not in told["about"]
    assert "Source:" not in told["about"]


def test_what_follows_a_summary_and_the_first_line_of_a_parameter_is_told_too():
    assert "MSELoss" in TOLD["mse"]["about"]
    assert TOLD["rce"]["parameters"]["log_zero"]["about"].endswith("-9.21.")


def test_a_value_that_json_lacks_becomes_null():
    unbounded = LOSSES["huber"].at(delta=math.inf)
    entry = catalog.Entry("far", unbounded, {"delta": math.inf}, None)
    told = catalog.facts(entry)
    assert told["parameters"]["delta"]["default"] is None
    assert told["variant_params"] == {"delta": None}


def test_what_a_loss_asks_for_is_told():
    assert catalog.requirements(TOLD["mse"]) == []
    assert "class counts" in catalog.requirements(TOLD["ldam"])[0]
    assert "2 outputs per target" in catalog.requirements(TOLD["gaussian_nll"])[0]
    assert "nonnegative" in catalog.requirements(TOLD["poisson_nll"])[0]


# ---- measured ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mae():
    return catalog.measured(KNOWN["mae"])


def test_what_is_measured_is_every_claim_with_its_witness(mae):
    assert list(mae["claims"]) == list(claims.CLAIMS)
    verdict = claims.CLAIMS["smooth"](LOSSES["mae"])
    assert mae["claims"]["smooth"]["holds"] is verdict.holds
    assert mae["claims"]["smooth"]["witness"] == verdict.witness
    json.dumps(mae, allow_nan=False)


def test_a_row_that_says_too_much_and_too_little_disagrees(mae):
    held = {name for name, one in mae["claims"].items() if one["holds"]}
    wrong = replace(LOSSES["mae"], claims=frozenset(held - {"convex"} | {"elicits_mean", "tasty"}))
    entry = replace(KNOWN["mae"], loss=wrong)
    found = catalog.measured(entry)
    assert {*found["disagrees"]} == {"convex", "elicits_mean", "tasty"}
    said = catalog.verdicts(catalog.facts(entry), found, width=0)
    assert "! fails, but the row claims it: elicits_mean" in said
    assert "! holds, but the row does not claim it: convex" in said
    assert "there is no such claim: tasty" in said
    pasted = re.search(r"claims=(frozenset\(.*\)),", said)
    assert pasted is not None
    assert {*ast.literal_eval(pasted[1].removeprefix("frozenset(").removesuffix(")"))} == held


def test_a_double_is_named_with_its_factor_and_the_efficiency_where_it_is_defined(mae):
    double = catalog.measured(KNOWN["mae_probs"])
    assert double["duplicates"]["unhinged"] == 2.0
    assert "the same as 2 unhinged on labels" in catalog.verdicts(TOLD["mae_probs"], double)
    assert mae["efficiency"] == pytest.approx(2 / math.pi, abs=1e-3)
    assert "efficiency at the normal: 0.637" in catalog.verdicts(TOLD["mae"], mae)


# ---- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_its_width_and_has_a_line_for_every_loss(width):
    text = catalog.table(list(TOLD.values()), width=width)
    assert max(map(len, text.splitlines())) <= width
    for name in TOLD:
        assert re.search(rf"^  {name} ", text, re.MULTILINE)


def test_the_table_marks_what_each_row_claims():
    text, letters = catalog.table(list(TOLD.values())), catalog.letters()
    for name, row in LOSSES.items():
        (line,) = re.findall(rf"^  {name} +(.*)", text, re.MULTILINE)
        width = len(catalog.marks(dict.fromkeys(claims.CLAIMS, True)))
        shown = line[:width].replace(" ", "").replace("·", "")
        assert shown == "".join(letters[claim] for claim in claims.CLAIMS if claim in row.claims)


def test_the_table_explains_every_letter():
    text = catalog.table(list(TOLD.values()), width=0)
    letters = catalog.letters()
    assert list(letters) == list(claims.CLAIMS)
    assert len({*letters.values()}) == len(claims.CLAIMS)
    for claim, letter in letters.items():
        assert catalog.meaning(claim).endswith(".")
        assert re.search(rf"^  {letter}  {claim} +{re.escape(catalog.meaning(claim))}$", text, re.M)


def test_a_wide_table_cuts_nothing_off_and_a_narrow_one_leaves_the_link_out():
    wide, narrow = (catalog.table(list(TOLD.values()), width=width) for width in (0, 80))
    for row in LOSSES.values():
        assert row.formula in wide
    assert "…" not in wide
    assert "normalized_softmax" in wide
    assert "normalized_softmax" not in narrow


def test_losses_of_a_family_stand_together_under_what_they_share():
    text = catalog.table(list(TOLD.values()), width=0)
    about = (sys.modules[LOSSES["huber"].fn.__module__].__doc__ or "").splitlines()[0]
    block = text[text.index(f"monotone: {about}") :].split("\n\n")[0]
    family = [name for name, row in LOSSES.items() if row.family == "monotone"]
    assert [line.split()[0] for line in block.splitlines()[1:]] == family


@each_entry
def test_a_card_in_text_says_all_and_fits_its_width(name):
    told = TOLD[name]
    text = catalog.description(told, width=80)
    wrapped = text.partition(f"\nloss/{name}.yaml")[0]
    assert max(map(len, wrapped.splitlines())) <= 80
    flat = " ".join(text.split())
    for part in (told["summary"], told["formula"], told["source"], told["family"]):
        assert " ".join(part.split()) in flat
    assert " ".join((told["yaml"] or "").split()) in flat
    for claim, is_held in told["claims"].items():
        assert claim in text
        if is_held:
            assert catalog.meaning(claim) in flat
    assert all(sentence in text for sentence in told["relations"])
    assert all(f"{key} = " in text for key in told["parameters"])


def test_a_loss_without_an_oracle_says_so():
    for oracle, said in (("", catalog.NO_ORACLE), ("torch, scipy", "torch, scipy")):
        entry = replace(KNOWN["mse"], loss=replace(LOSSES["mse"], oracle=oracle))
        text = catalog.description(catalog.facts(entry))
        assert re.search(rf"^  compared with +{said}$", text, re.MULTILINE)


def test_what_no_regression_loss_is_takes_one_line():
    text = catalog.description(TOLD["mse"], width=0)
    (line,) = [line for line in text.splitlines() if line.startswith("what no regression loss is")]
    assert "strictly_proper" in line
    assert catalog.meaning("strictly_proper") not in text


# ---- what a loss learns --------------------------------------------------------------------------


def powered(power):
    return PI**power / (PI**power).sum()


def test_labels_teach_a_loss_its_closed_form():
    learnt = page.learnt_from_labels(LOSSES["gce"])
    np.testing.assert_allclose(learnt, powered(1 / 0.3), atol=2e-4)


def test_a_loss_whose_least_value_is_only_approached_learns_nothing_that_could_be_told():
    # Whatever else it predicts, nce falls to the least frequency as that label's output falls.
    assert all(math.isnan(p) for p in page.learnt_from_labels(LOSSES["nce"]))


@pytest.mark.parametrize(
    ("learnt", "reading"),
    [
        (PI, "the frequencies"),
        (np.eye(4)[0], "a corner: the commonest label alone"),
        (powered(2), "sharper"),
        (powered(0.5), "flatter"),
        (PI[::-1], "another order"),
        ([math.nan] * 4, "nothing: it never arrives"),
    ],
)
def test_a_lesson_is_read_in_words(learnt, reading):
    assert page.reading_of(list(learnt)) == reading


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("pinball", math.log(5)),
        ("poisson_nll", 1.0),
        ("cosh", math.nan),  # the mean of cosh(c - y) is infinite, whatever c
    ],
)
def test_an_exponential_target_teaches_a_loss_its_closed_form(name, act):
    learnt = exponential_act(LOSSES[name])
    assert learnt == pytest.approx(act, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_a_weight_is_measured_as_theory_has_it(p):
    for name, weight in {"mae_probs": 2 * p, "gce": p**0.7, "chi2": 1 / (2 * p)}.items():
        assert page.weight_at(LOSSES[name], p) == pytest.approx(weight, rel=1e-9)


# ---- the conventions that docs/losses.md states --------------------------------------------------

DOCUMENT = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
CONVENTIONS = re.findall(r"^\| `(\w+)` \| (\S+) \| `(\w+)\((.*)\)` \|$", DOCUMENT, re.MULTILINE)
assert len(CONVENTIONS) >= 10


@pytest.mark.parametrize(("name", "factor", "module", "arguments"), CONVENTIONS)
def test_a_loss_is_the_stated_multiple_of_pytorchs_module(name, factor, module, arguments):
    classes, _, divisor = factor.partition("/")
    multiple = {"C": 5, "1": 1}[classes] / int(divisor or 1)
    given = {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", arguments)}
    theirs = operator.attrgetter(module)(nn)(**given)
    draw = torch.Generator().manual_seed(0)
    output = torch.randn(40, 5, generator=draw, dtype=torch.float64)
    target = torch.rand(40, 5, generator=draw, dtype=torch.float64)
    if LOSSES[name].task == "classification":
        target = nn.functional.one_hot(target.argmax(-1), 5).double()
    their_target = target.argmax(-1) if module == "MultiMarginLoss" else target
    ours = LOSSES[name].fn(output, target).mean()
    torch.testing.assert_close(ours, multiple * theirs(output, their_target))
