"""`python docs/generate/records.py > docs/records.md`: every column and metric, from their rows."""

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

Written by `python docs/generate/records.py > docs/records.md`; a test keeps it fresh.

`lossbench.records.load("runs/NAME")` gives the five tables of a sweep as pandas frames, `.runs`,
`.steps`, `.layers`, `.evals` and `.examples`, each read when it is asked for, and `.sql(query)`
asks all of them through DuckDB. `.runs` has one row per planned run: where a run was recorded
twice, done comes before diverged before failed, and one without a record has the status missing
(`.sql` sees only what was recorded). On disk the tables are parquet files below `runs/NAME/packs/`,
schema number {schema}; `commit.json` beside them names each with its sha256.

What was asked for is `.plan`, the content of `sweep.json`, and `.planned`, a row for each run, from
the parts `plan-*.parquet` beside it, which it names with their sha256. `.columns(table, names)`
reads some columns of a table, texts as categories, where a whole one is too large.

`examples` has a row for each test example of a done run, where the test part is the same for every
seed and has at most 2,000 examples. It has them for every candidate, because which ones are chosen
is known only after training: 0.5 kB a run of digits (359 examples), 0.7 kB of diabetes (88), which
is the size of `packs/*/examples.parquet` over its runs, in packs of 18.

## Take it elsewhere

    lossbench export runs/NAME --to tensorboard     pip install 'lossbench[tensorboard]'
    lossbench export runs/NAME --to mlflow          pip install 'lossbench[mlflow]'
    lossbench export runs/NAME --to wandb           pip install 'lossbench[wandb]'
    lossbench export runs/NAME --to csv

It writes the runs behind the verdicts, each loss at its chosen learning rate; `--all` writes every
run, those of the other rates too. The same command again adds what is missing and doubles nothing.

- `tensorboard`: one run each, HParams, the verdicts as a text. `--into` names a folder, else it is
  `runs/NAME/export/tensorboard`.
- `mlflow`: one run each in the experiment NAME, the verdicts as its description. `--into` names a
  tracking URI, else it is mlflow's own. The extra brings mlflow's client and its store in SQLite;
  `mlflow ui` needs the whole package.
- `wandb`: one run each, grouped over seeds, the verdicts as a table. `--into` names
  [ENTITY/]PROJECT, else it is NAME. `WANDB_MODE=offline` is obeyed.
- `csv`: the five tables below, and `verdicts.csv` with the fields of [json.md](json.md). `--into`
  names a folder, else it is `runs/NAME/export/csv`.

A run is called `DATA/MODEL/LOSS/lr=LR/seed=SEED`, has its configuration as parameters and its
run_id and status as tags. Its curves are `steps/COLUMN` and `SPLIT/METRIC`, and
`best/SPLIT/METRIC` at its best step; where there is no value (NaN) there is no point, and what is
of single layers or examples is in csv alone. TensorBoard keeps float32, MLflow no infinity
(it makes it 1.8e308), the others the values themselves. TensorBoard and MLflow show as a run's end
when its pack was written.
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
