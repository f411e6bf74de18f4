"""What is pasted into a paper, and what programs read."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lossbench import cli, records, statistics
from lossbench.report import paper, plain


def test_a_table_of_a_paper_has_five_columns_a_caption_and_a_label(essay_sweep, tmp_path):
    trained = records.load(essay_sweep)
    mains = statistics.main_comparisons(trained)
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
    # Nothing of LaTeX's own is left unescaped in the prose.
    told = (tmp_path / "methods.tex").read_text()
    assert not re.search(r"(?<!\\)[&%#_]", re.sub(r"\$\\\w+\$", "", told))


def test_json_has_the_verdicts_of_the_table_and_the_fields_of_the_page(essay_sweep, capsys):
    trained = records.load(essay_sweep)
    assert cli.main(["report", str(trained.sweep_dir), "--json"]) == cli.DONE
    read = json.loads(capsys.readouterr().out)
    expected = [row for one in statistics.all_comparisons(trained) for row in one.verdicts.verdict]
    assert [row["verdict"] for row in read["verdicts"]] == expected
    assert {*read["verdicts"][0]} == {*plain.FIELDS}
    assert sum(read["runs"].values()) == len(trained.runs)
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M) == [*plain.FIELDS.items()]
    assert records.load(trained.sweep_dir).plan["name"] == read["name"]
