"""`python -m lossbench.records > docs/records.md`: every column and metric, from their rows."""

from __future__ import annotations

import sys

from lossbench.records.columns import COLUMNS, SCHEMA
from lossbench.records.metrics import (
    AGREEMENT,
    MEASURED,
    METRIC_OF_AGREEMENT,
    METRIC_OF_CLASS,
    METRICS,
    OWN_LOSS,
)

INTRO = """\
# Records

Written by `python -m lossbench.records > docs/records.md`; a test keeps it fresh.

`lossbench.records.load("runs/NAME")` gives the five tables of a sweep as pandas frames, `.runs`,
`.steps`, `.layers`, `.evals` and `.examples`, each read when it is asked for, and `.sql(query)`
asks all of them through DuckDB. `.runs` has one row per planned run: where a run was recorded
twice, done comes before diverged before failed, and one without a record has the status missing
(`.sql` sees only what was recorded). On disk the tables are parquet files below `runs/NAME/packs/`,
schema number {schema}; `commit.json` beside them names each with its sha256.

`examples` has a row for each test example of a done run, where the test part is the same for every
seed and has at most 2,000 examples. It has them for every candidate, because which ones are chosen
is known only after training: 0.5 kB a run of digits (359 examples), 0.7 kB of diabetes (88), which
is the size of `packs/*/examples.parquet` over its runs, in packs of 18.
"""

OF_INSTRUMENTS = """\
## Metrics of instruments

Measured where a run asks for them with `instruments=[...]` (docs/instruments.md), on the batch of
one update, at the parameters before it: split train.
"""

LOSS_VALUES = {
    OWN_LOSS: "mean of the run's own loss at its own parameters",
    "loss:NAME": "mean of loss NAME at its default parameters, where the inverse link is the same; "
    "on test at the last step only, because it describes trained models",
}


def document() -> str:
    """The text of docs/records.md: every column and every metric with unit and better direction."""
    parts = [INTRO.format(schema=SCHEMA)]
    for table, columns in COLUMNS.items():
        rows = [_row(c.name, str(c.type), c.unit, c.direction, c.about) for c in columns]
        parts.append("\n".join([f"## {table}\n", _heading("column", "type"), *rows, ""]))

    rows = []
    for name, metric in {**METRICS, "accuracy:CLASS": METRIC_OF_CLASS}.items():
        about = metric.about
        if metric.needs:
            about += f"; only losses that predict {metric.needs}, never on train"
        if metric.is_final:
            about += "; at the last step only, on validation and test"
        rows.append(_row(name, metric.task, metric.unit, metric.direction, about))
    for name, about in LOSS_VALUES.items():
        rows.append(_row(name, "either", "unit of the loss", "lower", about))
    parts.append("\n".join(["## Metrics\n", _heading("metric", "task"), *rows, ""]))

    rows = [
        _row(name, "either", metric.unit, metric.direction, metric.about)
        for name, metric in {**MEASURED, f"{AGREEMENT}NAME": METRIC_OF_AGREEMENT}.items()
        if name not in METRICS
    ]
    parts.append("\n".join([OF_INSTRUMENTS, _heading("metric", "task"), *rows, ""]))
    return "\n".join(parts)


def _heading(name: str, kind: str) -> str:
    return f"| {name} | {kind} | unit | better | meaning |\n|---|---|---|---|---|"


def _row(name: str, *cells: str) -> str:
    return f"| `{name}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(document())
