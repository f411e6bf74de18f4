"""Generated documents are fresh."""

from __future__ import annotations

from pathlib import Path

from lossbench import records

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
