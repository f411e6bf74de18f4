"""Export to CSV: a file for each table of the records, and a file of the verdicts."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.csv

from lossbench import records, store
from lossbench.export.contents import Export
from lossbench.export.folder import marked_folder
from lossbench.progress import progress


def write(export: Export, into: str) -> str:
    """Write one file per table, with the columns of the records, and a file of the verdicts."""
    folder = marked_folder(export, into, "csv")
    with progress(len(records.TABLES), unit="table", title="exporting") as bar:
        for table in records.TABLES:
            schema = records.schema(table)
            frame = export.runs if table == "runs" else export.table(table)
            arrow = pa.Table.from_pandas(frame[schema.names], schema, preserve_index=False)
            store.write(folder / f"{table}.csv", _csv(arrow))
            bar.update()
    verdicts = pa.Table.from_pandas(export.verdicts, preserve_index=False)
    store.write(folder / "verdicts.csv", _csv(verdicts))
    return f"{folder}  (in Python: pandas.read_csv)"


def _csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer)
    return buffer.getvalue()
