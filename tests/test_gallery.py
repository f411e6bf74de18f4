"""docs/gallery.md: written from records, judged by them, and about experiments that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import TINY, write_experiment

from lossbench import cli, gallery, records
from lossbench.protocol.declaration import PUBLISHED, check_keys
from lossbench.report import judged, published

DOCS = Path(__file__).parents[1] / "docs"
NAMES = {path.stem for path in (cli.conf_dir() / "experiment").glob("*.yaml")}

CLAIMS = """
      published:
        - { claim: untrained, source: "A 1999", loss: mae, says: better }
        - { claim: as good, source: "B 2000", loss: mae, says: not_worse, margin: 100.0 }
        - { claim: of another set, source: "C 2001", loss: mae, says: worse,
            where: { data: digits } }
        - { claim: of this set, source: "D 2002", loss: mae, says: worse, where: { data: diabetes },
            metric: mae, margin: 100.0 }
        - { claim: of a loss left out, source: "E 2003", loss: huber, says: better }
"""
SWEPT = TINY.replace("name: tiny", "name: essay").replace("range(0,3)", "range(0,6)")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A tiny sweep named like an experiment of the house, with claims about it."""
    place = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_experiment(place, "essay", SWEPT + CLAIMS.lstrip("\n"))
        assert cli.main(["--config-dir", "conf", "experiment=essay", "report=none"]) == cli.DONE
    return place


@pytest.fixture(scope="module")
def claims(swept):
    return published.judged_claims(records.load(swept / "runs" / "essay")).set_index("claim")


def test_a_claim_is_judged_by_the_verdict_of_its_own_comparison(claims):
    row = claims.loc["as good"]
    assert (row.n, row.verdict, row.judged) == (6, "equivalent", "confirmed")
    assert row.low <= row.difference <= row.high
    row = claims.loc["of this set"]
    assert (row.metric, row.verdict, row.judged) == ("mae", "equivalent", "not confirmed")


def test_the_same_verdict_makes_of_each_saying_what_it_is(claims):
    row = claims.loc["untrained"]
    assert row.judged == records.SAYINGS["better"].get(row.verdict, "not distinguishable")


@pytest.mark.parametrize("claim", ["of another set", "of a loss left out"])
def test_a_claim_about_what_was_not_run_is_not_judged(claim, claims):
    assert claims.loc[claim].judged == "not run"
    assert claims.loc[claim].n == 0


def test_no_verdict_confirms_a_saying_and_its_contrary():
    for verdict in {name for says in records.SAYINGS.values() for name in says}:
        judged = {says: by.get(verdict) for says, by in records.SAYINGS.items()}
        assert {judged["better"], judged["worse"]} != {"confirmed"}
        assert {judged["worse"], judged["not_worse"]} != {"confirmed"}


def test_the_gallery_has_the_sweep_with_its_picture_its_verdicts_and_its_findings(swept):
    text = gallery.write(swept / "runs", swept / "docs").read_text()
    assert re.findall(r"^## (.+)$", text, re.M) == ["essay"]
    assert gallery.question("essay") in text
    (picture,) = re.findall(r"\]\((gallery/.+\.png)\)", text)
    assert (swept / "docs" / picture).read_bytes().startswith(b"\x89PNG")
    assert "24 runs: 24 done." in text
    assert "n = 6" in text
    assert "**not run**" in text
    assert "| of this set | D 2002 | mae minus mse on diabetes × linear |" in text


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_question_is_found_in_the_header(name):
    assert len(gallery.question(name)) > 20


def test_docs_gallery_md_tells_of_experiments_that_exist_and_shows_pictures_that_exist():
    text = (DOCS / "gallery.md").read_text()
    assert {*re.findall(r"^## (.+)$", text, re.M)} <= NAMES
    shown = {*re.findall(r"\]\(gallery/(.+\.png)\)", text)}
    assert shown == {path.name for path in (DOCS / "gallery").glob("*.png")}


def test_a_loss_that_is_there_with_several_parameters_is_not_called_absent():
    losses = ["focal(gamma=1.0)", "focal(gamma=3.0)", "mse"]
    assert judged._absent({"focal", "mse"}, losses) == ()
    assert judged._absent({"focal", "brier"}, losses) == ("brier",)


BAD = {
    "sayz": "{ claim: a, source: b, loss: mae, sayz: better }",
    "lacks says": "{ claim: a, source: b, loss: mae }",
    "'bettr'": "{ claim: a, source: b, loss: mae, says: bettr }",
    "'rmsee'": "{ claim: a, source: b, loss: mae, says: better, metric: rmsee }",
    "'../x'": "{ claim: a, source: b, loss: ../x, says: better }",
}


@pytest.mark.parametrize("told", BAD)
def test_a_claim_that_could_not_be_judged_is_refused(told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, "tiny", f"{TINY}      published: [{BAD[told]}]\n")
    assert cli.main(["plan", "--config-dir", "conf", "experiment=tiny"]) == cli.MISTAKE
    assert told in capsys.readouterr().err


def test_a_claim_has_to_say_what_it_says():
    assert "says" in PUBLISHED
    check_keys("published[0]", dict.fromkeys(PUBLISHED), dict.fromkeys(PUBLISHED))
