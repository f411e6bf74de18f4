"""Generated documents are fresh."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lossbench import cli, records
from lossbench.losses import LOSSES

DOCS = Path(__file__).parents[1] / "docs"


def test_docs_records_md_is_fresh():
    cure = "python -m lossbench.records > docs/records.md"
    assert (DOCS / "records.md").read_text() == records.document(), cure


def test_docs_records_md_has_every_column_and_every_metric():
    text = records.document()
    names = [column.name for columns in records.COLUMNS.values() for column in columns]
    for name in (*names, *records.METRICS):
        assert f"| `{name}` |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(names) + len(records.METRICS) + 1
    assert all(line.count(" | ") == 4 for line in rows)


def test_the_own_loss_of_contributing_works_as_written(tmp_path, monkeypatch, capsys):
    text = (DOCS.parent / "CONTRIBUTING.md").read_text()
    blocks = dict(
        re.findall(r"```(python|yaml|bash)\n(from torch.*?|fn: .*?|lossbench .*?)```", text, re.S)
    )
    (tmp_path / "my_losses.py").write_text(blocks["python"])
    (tmp_path / "myconf" / "loss").mkdir(parents=True)
    (tmp_path / "myconf" / "loss" / "cauchy.yaml").write_text(blocks["yaml"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    measure, one_run, _ = (line.split()[1:] for line in blocks["bash"].strip().splitlines())
    try:
        assert cli.main(measure) == 0
        shown = capsys.readouterr().out
        assert re.search(r"minimised_at_target +holds", shown)
        assert re.search(r"convex +fails", shown)
        assert cli.main([*one_run, "steps=4"]) == 0
        assert "cauchy" in capsys.readouterr().out
    finally:
        LOSSES.pop("cauchy", None)
        sys.modules.pop("my_losses", None)
