"""Texts and the generated language: what a window is, what is in which split, what is known."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sysconfig
from pathlib import Path

import pytest
import torch
from configs import make_run
from needs import PROSE, splits_of_set
from scipy import stats

from lossbench.data import DATA, text
from lossbench.data.files import Files, Program
from lossbench.data.splits import SPLITS, dense, problem_of
from lossbench.question import ConfigError
from lossbench.sweep import preflight

TEXTS = ("text", "python_source", "bible")
SMALL = {"examples": 40, "held_out": 16, "window": 8}


def read(path, *, seed=0, **params):
    return DATA["text"].splits(seed, Files(), {**SMALL, "path": str(path), **params})


@pytest.fixture
def numbered(tmp_path):
    """A text whose windows say where they stand: 2,000 different characters, each once."""
    path = tmp_path / "numbered.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 2000))))
    return path


def test_a_label_is_the_character_behind_its_token_and_no_window_lies_in_two_splits(numbered):
    splits = read(numbered, most_tokens=2000)
    places = {}
    for split in SPLITS:
        assert torch.equal(splits.targets[split], splits.inputs[split] + 1)
        assert torch.equal(
            splits.inputs[split].diff(dim=1),
            torch.ones(1).long().expand(len(splits.inputs[split]), SMALL["window"] - 1),
        )
        # Every character that a window reads, its last label too.
        places[split] = {*splits.inputs[split].flatten().tolist()}
        places[split] |= {*splits.targets[split].flatten().tolist()}
    assert [len(splits.inputs[split]) for split in SPLITS] == [40, 16, 16]
    assert not places["train"] & (places["validation"] | places["test"])
    assert not places["validation"] & places["test"]


def test_every_seed_is_tested_by_the_same_windows_and_trains_on_none_of_them(numbered):
    seeds = [read(numbered, most_tokens=2000, seed=seed) for seed in range(8)]
    test = {*seeds[0].inputs["test"].flatten().tolist()}
    for splits in seeds:
        assert torch.equal(splits.inputs["test"], seeds[0].inputs["test"])
        assert not test & {*splits.inputs["train"].flatten().tolist()}
        assert not test & {*splits.inputs["validation"].flatten().tolist()}
    assert len({tuple(splits.inputs["train"].flatten().tolist()) for splits in seeds}) == 8


@pytest.mark.parametrize("name", TEXTS)
def test_tokens_are_the_characters_of_the_text(name):
    splits = splits_of_set(name)
    assert problem_of(splits, task="classification") == ""
    if name == "text":
        content = PROSE.read_text()
        known = sorted({*content})
        assert splits.vocabulary == len(known)
        for window in splits.inputs["test"][:20].tolist():
            assert "".join(known[token] for token in window) in content


def test_python_source_is_that_of_the_interpreter():
    folder = Path(sysconfig.get_path("stdlib"))
    content = "".join((folder / f"{name}.py").read_text() for name in ("argparse", "ast"))
    assert text._python_text().startswith(content)
    splits = DATA["python_source"].splits(0, Files(), SMALL)
    assert splits.vocabulary == len({*text._python_text()})


# ---- the generated language ----------------------------------------------------------------------

LANGUAGE = {"vocabulary": 8, "branches": 3, "examples": 6000, "held_out": 500, "window": 6}


def test_the_posterior_is_how_often_tokens_follow_the_two_before_them():
    splits = DATA["markov_text"].fn(seed=3, **LANGUAGE)
    tokens, labels = splits.inputs["train"], splits.targets["train"]
    assert torch.equal(tokens[:, 1:], labels[:, :-1])
    before = torch.cat([torch.zeros(len(tokens), 1).long(), tokens[:, :-1]], 1)
    posterior = splits.posterior["train"].double()
    tested = 0
    for pair in range(64):
        here = before * 8 + tokens == pair
        if here.sum() < 500:
            continue
        (truth,) = posterior[here].unique(dim=0)
        assert (truth > 0).sum() == 3
        assert truth.sum() == pytest.approx(1.0)
        counts = torch.bincount(labels[here], minlength=8).double()
        assert not counts[truth == 0].any()
        seen = counts[truth > 0], truth[truth > 0]
        expected = seen[1] / seen[1].sum() * seen[0].sum()
        assert stats.chisquare(seen[0].numpy(), expected.numpy()).pvalue > 1e-4
        tested += 1
    assert tested > 15


def test_a_language_has_frequent_and_rare_tokens_unless_it_is_told_not_to():
    def shares(**params):
        labels = DATA["markov_text"].fn(seed=0, **{**LANGUAGE, **params}).targets["train"]
        return torch.bincount(labels.flatten(), minlength=8).double().sort().values / labels.numel()

    assert shares(zipf=1.5)[-1] > 2 * shares(zipf=0.0)[-1]


def test_validation_and_test_of_a_language_do_not_depend_on_the_number_of_examples():
    few, many = (DATA["markov_text"].fn(seed=1, **{**LANGUAGE, "examples": n}) for n in (50, 500))
    for split in ("validation", "test"):
        assert torch.equal(few.inputs[split], many.inputs[split])
        assert torch.equal(few.posterior[split], many.posterior[split])
    assert few.sha != many.sha


# ---- shapes --------------------------------------------------------------------------------------


def test_targets_are_made_of_labels_when_they_are_needed_and_not_kept():
    splits = DATA["markov_text"].fn(seed=0, **LANGUAGE)
    labels = splits.targets["train"]
    assert labels.dtype == torch.int64
    assert labels.shape == (6000, 6)
    rows = dense(labels[None, :5], classes=8, dtype=torch.float64)
    expected = torch.nn.functional.one_hot(labels[:5], 8).double().reshape(1, 30, 8)
    assert torch.equal(rows, expected)
    soft = dense(splits.posterior["train"][None, :5], classes=8, dtype=torch.float32)
    assert torch.equal(soft, splits.posterior["train"][:5].reshape(1, 30, 8))
    plain = torch.rand(3, 4, 8)
    assert dense(plain, classes=8, dtype=torch.float32) is plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"targets": {k: v - 1 for k, v in s.targets.items()}},
         "targets of split train are -1 to 6, and vocabulary is 8: give tokens from 0 .* padded"),
        (lambda s: {"inputs": {k: v.float() for k, v in s.inputs.items()}},
         "inputs of split train are torch.float32: give a tensor of int64"),
        (lambda s: {"targets": {k: v[:, 1:] for k, v in s.targets.items()}},
         r"inputs and targets of split train have shapes \(6000, 6\) and \(6000, 5\)"),
        (lambda s: {"posterior": {k: v[:, 0] for k, v in s.posterior.items()}},
         r"posterior of split train has shape \(6000, 8\)"),
    ],
)  # fmt: skip
def test_sequences_that_are_none_are_refused_with_the_cure(change, message):
    splits = DATA["markov_text"].fn(seed=0, **LANGUAGE)
    assert problem_of(splits, task="classification") == ""
    found = problem_of(dataclasses.replace(splits, **change(splits)), task="classification")
    assert re.search(message, found), found


# ---- what is refused -----------------------------------------------------------------------------

BAD_TEXTS = {
    "empty": (b"", {}, "is empty: give a file with text"),
    "one character": (b"a" * 9000, {}, "has only one distinct character"),
    "short": (
        b"ab" * 100,
        {},
        "has 200 characters, and [0-9,]+ are needed",
    ),
    "long window": (b"ab" * 100, {"window": 300}, "are needed for windows of 300"),
    "many": (bytes(range(32, 127)) * 99, {"most_tokens": 64}, "95 different .*most_tokens is 64"),
    "encoding": (b"caf\xe9 " * 900, {}, "is not UTF-8 .byte 3 is 0xe9.: convert it, .*with iconv"),
    "no window": (b"ab" * 900, {"window": 0}, "window is 0: use 2 or more"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_cannot_be_served_is_refused_before_training(name, tmp_path):
    content, params, message = BAD_TEXTS[name]
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    facts = {"data": "text", "model": "bigram", "loss": "brier", "batch_size": 8}
    with pytest.raises(ConfigError, match=message):
        preflight([make_run(**facts, data__params={**SMALL, "path": str(path), **params})])


def test_a_text_that_is_not_there_or_not_named_is_refused_with_the_cure(tmp_path):
    for path, message in {
        "": "data text has no file: give one, as data.params.path=FILE",
        str(tmp_path / "gone.txt"): "gone.txt cannot be read .No such file",
        str(tmp_path): "cannot be read .Is a directory",
    }.items():
        with pytest.raises(ConfigError, match=message):
            make_run(data="text", data__params={"path": path}, loss="brier", model="bigram")


# ---- what a run is -------------------------------------------------------------------------------


def test_an_edited_text_makes_other_runs_and_a_file_of_another_name_does_not(tmp_path):
    def run_of(path):
        facts = {"data": "text", "model": "bigram", "loss": "brier"}
        return make_run(**facts, data__params={**SMALL, "path": str(path)})

    path = tmp_path / "mine.txt"
    path.write_text("to be or not to be " * 90)
    before = run_of(path)
    assert before.source_sha == run_of(path).source_sha
    path.write_text("to be or not to bee " * 90)
    assert before.source_sha != run_of(path).source_sha


# ---- programs ------------------------------------------------------------------------------------


def printing(folder, content):
    """A program that prints the content and its first argument."""
    (folder / "bin").mkdir(exist_ok=True)
    place = folder / "bin" / "lossbench-test-print"
    place.write_text(f"#!/bin/sh\nprintf '%s' \"{content} $1\"\n")
    place.chmod(0o755)
    return place


def test_a_program_is_asked_verified_or_named_with_what_brings_it(tmp_path, monkeypatch):
    program = Program("lossbench-test-print", ("{lib}",), "0" * 64, "apt-get install it")
    with pytest.raises(ValueError, match="no program lossbench-test-print: apt-get install it"):
        Files().printed(program)
    place = printing(tmp_path, "hello")
    monkeypatch.setenv("PATH", str(place.parent), prepend=":")  # programs are found by it
    with pytest.raises(ValueError, match=r"printed [0-9]+ bytes with sha256 .* apt-get install it"):
        Files().printed(program)
    printed = f"hello {tmp_path}/lib".encode()
    right = dataclasses.replace(program, digest=hashlib.sha256(printed).hexdigest())
    assert Files().printed(right) == printed
