"""What is pasted into a paper, and what programs read."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import sklearn.datasets

from lossbench import cli, records, statistics
from lossbench.data import DATA
from lossbench.data.files import Files
from lossbench.export import plain
from lossbench.protocol.forecast import Forecast
from lossbench.report import methods, paper, words


def test_a_table_of_a_paper_has_five_columns_a_caption_and_a_label(essay_sweep, tmp_path):
    trained = records.load(essay_sweep)
    mains = statistics.Verdicts(trained).mains
    names = paper.write(tmp_path, trained, mains)
    assert {"methods.md", "methods.tex", "references.bib"} < {*names}
    for name in names:
        text = (tmp_path / name).read_text()
        if "_against_" not in name:
            continue
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
        assert all(part in text for part in (r"\toprule", r"\caption{", r"\label{tab:"))
        losses = {loss for task in mains for loss in task.runs.loss if task.metric in name}
        assert all(loss.replace("_", r"\_") in text for loss in losses)
    # Every key that is cited is in the list of references, and every one of these is cited.
    told = (tmp_path / "methods.tex").read_text()
    keys = re.findall(r"^@\w+\{(\w+),", (tmp_path / "references.bib").read_text(), re.M)
    assert sorted(re.findall(r"\\cite\{(\w+)\}", told)) == sorted(keys)
    # Nothing of LaTeX's own is left unescaped in the prose.
    assert not re.search(r"(?<!\\)[&%#_]", re.sub(r"\$\\\w+\$", "", told))


def test_json_has_the_verdicts_of_the_table_and_the_fields_of_the_page(essay_sweep, capsys):
    trained = records.load(essay_sweep)
    assert cli.main(["report", str(trained.sweep_dir), "--json"]) == cli.DONE
    read = json.loads(capsys.readouterr().out)
    expected = [
        row
        for one in statistics.Verdicts(trained).comparisons
        for row in words.verdicts_of(one).verdict
    ]
    assert [row["verdict"] for row in read["verdicts"]] == expected
    assert {*read["verdicts"][0]} == {*plain.FIELDS}
    assert sum(read["runs"].values()) == len(trained.runs)
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M)
    assert listed[: len(plain.FIELDS)] == [*plain.FIELDS.items()]
    assert [name for name, _ in listed[len(plain.FIELDS) :]] == [
        one.name for one in fields(Forecast)
    ]
    assert records.load(trained.sweep_dir).plan["name"] == read["name"]


def test_json_of_a_plan_counts_the_runs_that_the_lines_count(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["-m", "loss=mse,mae", "data=diabetes", "model=linear", "seed=0,1,2", "steps=20"]
    assert cli.main(["plan", *typed, "--json"]) == cli.DONE
    (look,) = json.loads(capsys.readouterr().out)["looks"]
    assert [look[name] for name in ("runs", "present", "updates")] == [6, 0, 6 * 20]


def test_json_of_losses_has_the_fields_of_the_page(capsys):
    assert cli.main(["losses", "huber", "--json", "--measure"]) == cli.DONE
    (row,) = json.loads(capsys.readouterr().out)
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text().partition("## Losses")[2]
    fields = {*row, *row["measured"], *row["measured"]["claims"]["convex"]}
    assert {*re.findall(r"`(\w+)`", page)} == fields | {*row["parameters"]["delta"]}


def test_methods_say_of_each_task_how_many_examples_and_parameters_there_were(essay_sweep):
    loaded = records.load(essay_sweep)
    told = " ".join(methods.paragraph(loaded, statistics.Verdicts(loaded).mains))
    sizes = {split: len(rows) for split, rows in DATA["diabetes"].splits(0, Files()).inputs.items()}
    assert sum(sizes.values()) == len(sklearn.datasets.load_diabetes().target)
    expected = "{train} training, {validation} validation and {test} test examples".format(**sizes)
    assert f"diabetes × linear ({expected}; linear with 11 parameters; SGD" in told
