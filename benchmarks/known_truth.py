"""Does the whole path tell the truth where the truth is known?

python benchmarks/known_truth.py [--repetitions 200] [--steps 60]

Every repetition is a sweep of its own, from the command line to the verdict: tune on seeds of its
own, confirm on ten fresh ones, three conditions. Among its losses are twins of the reference and
losses with a planted effect. Prints how often each verdict came, as a table for docs/protocol.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from scipy import stats

from lossbench import cli, records, statistics
from lossbench.report import page as report_page
from lossbench.statistics.comparisons import Comparison

MARGIN, PAIRS, TUNE, SETTLED = 0.02, 10, 5, 0.8
PLANTED = {"planted_at_margin": 0.107, "planted_large": 0.25}
"""Biases of the target; on other seeds than those below they moved rmse by about .02 and .1."""

EXPERIMENT = """
# @package _global_
defaults:
  - override /hydra/sweeper: protocol
name: truth
extensions: [truth_losses]
steps: {steps}
batch_size: 32
log_every: {steps}
eval_every: {steps}
hydra:
  sweeper:
    blocks:
      - data: [noisy_linear]
        data.params.examples: [200]
        model: [linear]
        loss: [mse, twin, doubled, planted_at_margin, planted_large]
    tune:
      lr: [0.00390625, 0.0078125, 0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5]
      seeds: range(100,105)
      extend: 2
    confirm:
      seeds: range(0,10)
    declare:
      primary: {{ regression: rmse }}
      endpoint: last
      reference: {{ regression: mse }}
      margin: {{ regression: {margin} }}
      family: task
      confidence: 0.95
"""


def main() -> None:
    """Repeat the experiment and print what came out."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--repetitions", type=int, default=200)
    asked.add_argument("--steps", type=int, default=60)
    options = asked.parse_args()
    start = time.monotonic()
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_configuration(Path("conf"), steps=options.steps)
        found = pd.concat([repetition(number) for number in range(options.repetitions)])
    print(table(found))
    print(f"\n{options.repetitions} repetitions in {(time.monotonic() - start) / 60:.1f} min.")


def write_configuration(folder: Path, *, steps: int) -> None:
    """The experiment and its losses as a user would write them."""
    for part in ("experiment", "loss"):
        (folder / part).mkdir(parents=True)
    text = EXPERIMENT.format(steps=steps, margin=MARGIN)
    (folder / "experiment" / "truth.yaml").write_text(text)
    for name in ("twin", "doubled"):
        (folder / "loss" / f"{name}.yaml").write_text(f"fn: {name}\n")
    for name, shift in PLANTED.items():
        (folder / "loss" / f"{name}.yaml").write_text(f"fn: shifted\nparams:\n  shift: {shift}\n")


def launch(name: str, *, tune: int, confirm: int, losses: str = "") -> Comparison:
    """One sweep from the command line; its comparison at own learning rates."""
    typed = [
        *("--config-dir", "conf", "experiment=truth", f"name={name}"),
        f"hydra.sweeper.tune.seeds='range({tune},{tune + TUNE})'",
        f"seed=range({confirm},{confirm + PAIRS})",
        *([f"loss={losses}"] if losses else []),
    ]
    with (
        mock.patch.object(report_page, "write", lambda folder, workers: folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        code = cli.main(typed)
    if code != cli.DONE:
        sys.exit(errors.getvalue())
    return {
        task.condition: task
        for task in statistics.all_comparisons(records.load(Path("runs") / name))
    }


def repetition(number: int) -> pd.DataFrame:
    """Verdicts of one repetition, by the case they are an instance of."""
    base = 1000 * (number + 1)
    tasks = launch(f"main{number}", tune=base, confirm=base + 100)
    again = launch(f"again{number}", tune=base + 50, confirm=base + 100, losses="twin")
    fresh = launch(f"fresh{number}", tune=base, confirm=base + 200, losses="twin")
    own, matched = tasks["own_lr"], tasks["scale_matched"]
    retuned = verdict(
        paired(reference_of(own), again["own_lr"].runs), "twin", "twin, tuned on other seeds"
    )
    settled = min(stability(own, "mse"), stability(again["own_lr"], "twin")) >= SETTLED
    reference = reference_of(own)
    rows = [
        verdict(own.paired, "twin", "twin, same seeds"),
        verdict(paired(reference, as_if_paired(fresh["own_lr"].runs, reference)), "twin",
                "twin, fresh seeds"),
        retuned,
        *([{**retuned, "case": "the same, both choices settled"}] if settled else []),
        verdict(own.paired, "doubled", "doubled, own learning rate"),
        verdict(matched.paired, "doubled", "doubled, scale matched"),
        *(verdict(own.paired, loss, loss.replace("_", " ")) for loss in PLANTED),
    ]  # fmt: skip
    return pd.DataFrame(rows)


def reference_of(task: Comparison) -> pd.DataFrame:
    """The runs of mse."""
    return task.runs[task.runs.loss == "mse"]


def stability(task: Comparison, loss: str) -> float:
    """How often resampled tuning seeds choose the loss's learning rate again."""
    found = statistics.stability(task.grid[task.grid.loss == loss], metric="rmse")
    return float(found.stability.iloc[0])


def as_if_paired(runs: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Runs of other seeds under the seeds and fingerprints of the reference: pairs by force."""
    mine = runs[runs.loss == "twin"].sort_values("seed").reset_index(drop=True)
    theirs = reference.sort_values("seed").reset_index(drop=True)
    return mine.assign(seed=theirs.seed, **{name: theirs[name] for name in statistics.CURES})


def paired(reference: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The twin of one sweep against the reference of another."""
    frame = pd.concat([reference, runs[runs.loss == "twin"]])
    return statistics.paired(
        frame, metric="rmse", reference="mse", margin=MARGIN, declared=["mse", "twin"]
    )


def verdict(table: pd.DataFrame, loss: str, case: str) -> dict[str, object]:
    """One comparison as a row."""
    row = table.set_index("loss").loc[loss]
    return {"case": case} | {name: row[name] for name in ("verdict", "difference", "low", "high")}


def table(found: pd.DataFrame) -> str:
    """How often each verdict came, by case, in Markdown."""
    lines = [
        "| case | n | true difference in rmse | claims (better or worse) | upper 99 % limit "
        "| below the margin | equivalent | undecided | interval covers the truth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case, rows in found.groupby("case", sort=False):
        truth = rows.difference.mean() if case.startswith("planted") else 0.0
        n, share = len(rows), rows.verdict.value_counts() / len(rows)
        claims = int(rows.verdict.isin(["better", "worse"]).sum())
        limit = stats.binomtest(claims, n).proportion_ci(0.98, "exact").high
        inside = ((rows.low <= truth) & (truth <= rows.high)).mean()
        exact = f"exactly 0 in {(rows.difference == 0).sum()} of {n}"
        known = f"{truth:+.4f}" if truth else exact if (rows.difference == 0).any() else "0"
        lines.append(
            f"| {case} | {n} | {known} | {claims / n:.3f} | {limit:.3f} | "
            f"{share.get('different but below the margin', 0):.3f} | "
            f"{share.get('equivalent', 0):.3f} | {share.get('not distinguishable', 0):.3f} | "
            f"{inside:.3f} |"
        )
    spread = np.mean([row.high - row.low for row in found.itertuples() if row.high > row.low])
    return "\n".join([*lines, "", f"Mean width of an interval that has one: {spread:.3f}."])


if __name__ == "__main__":
    main()
