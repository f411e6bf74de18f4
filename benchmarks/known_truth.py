"""Does the whole path tell the truth where the truth is known?

python benchmarks/known_truth.py [--repetitions 400] [--steps 60] [--workers 2] [--rows FILE]

Every repetition is a sweep of its own, from the command line to the verdict, on seeds of its own,
with looks at 10, 20 and 40 seeds. Among its losses are twins of the reference, three times the
reference on a grid too coarse for it, and losses with a planted effect. Prints how often each
verdict came, as a table for docs/protocol.md. A repetition takes some twelve seconds of a core;
with `--rows` each is kept as it ends, and the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from lossbench import cli, records, statistics
from lossbench.statistics.choice import Choice, chosen, difference, reselected
from lossbench.statistics.comparisons import Comparison
from lossbench.statistics.verdict import verdict

MARGIN, LOOKS = 0.02, (10, 20, 40)
PLANTED = {"planted_half": 0.0644, "planted_at_margin": 0.092, "planted_twice": 0.133}
"""Biases of the target that move rmse by .01, .02, .04: fitted to 127 sweeps on other seeds."""

FIRST_SEED = 1_000_000
"""Of the first repetition: those below fitted the biases."""

NAMES = {
    "planted half": "planted at half the margin",
    "planted at margin": "planted at the margin",
    "planted twice": "planted at twice the margin",
    "tripled": "three times mse, its best rate between two",
    "twin": "mse under another name",
    "twin, its rate chosen on other seeds": "the same, each at a rate chosen on seeds of its own",
}
"""What a case is called in the table."""

WORDS = ("better by more", "better", "worse", "worse by more", "below the margin", "equivalent")

EXPERIMENT = """
# @package _global_
name: truth
extensions: [truth_losses]
steps: {steps}
batch_size: 32
log_every: {steps}
eval_every: {steps}
report: none
hydra:
  sweeper:
    blocks:
      - data: [noisy_linear]
        data.params.examples: [200]
        model: [linear]
        loss: [mse, twin, tripled, planted_half, planted_at_margin, planted_twice]
    candidates:
      lr: [0.0019, 0.008, 0.033, 0.14, 0.59] # a ratio of 4.2
      extend: 1
    looks: {looks}
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=Path, default=Path("known_truth.csv"))
    options = parser.parse_args()
    start, rows = time.monotonic(), options.rows.resolve()
    sys.path.insert(0, str(Path(__file__).parent))
    done = {*pd.read_csv(rows).repetition} if rows.exists() else set()
    missing = [number for number in range(options.repetitions) if number not in done]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_configuration(Path("conf"), steps=options.steps)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
            for part in pool.map(repetition, missing):
                part.to_csv(rows, mode="a", header=not rows.exists(), index=False)
    print(table(pd.read_csv(rows)))
    minutes = (time.monotonic() - start) / 60
    print(f"\n{len(missing)} repetitions in {minutes:.1f} min, {len(done)} were in {rows.name}.")


def write_configuration(folder: Path, *, steps: int) -> None:
    """The experiment and its losses as a user would write them."""
    for part in ("experiment", "loss"):
        (folder / part).mkdir(parents=True)
    text = EXPERIMENT.format(steps=steps, margin=MARGIN, looks=[*LOOKS])
    (folder / "experiment" / "truth.yaml").write_text(text)
    for name in ("twin", "tripled"):
        (folder / "loss" / f"{name}.yaml").write_text(f"fn: {name}\n")
    for name, shift in PLANTED.items():
        (folder / "loss" / f"{name}.yaml").write_text(f"fn: shifted\nparams:\n  shift: {shift}\n")


def launch(name: str, *, first_seed: int, typed: tuple[str, ...] = ()) -> Comparison:
    """One sweep from the command line; its comparison at own learning rates."""
    overrides = [
        *("--config-dir", "conf", "experiment=truth", f"name={name}", "hydra.launcher.workers=1"),
        *(f"hydra.sweeper.first_seed={first_seed}", *typed),
    ]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        code = cli.main(overrides)
    if code != cli.DONE:
        raise RuntimeError(errors.getvalue())
    return statistics.Verdicts(records.load(Path("runs") / name)).main()


def repetition(number: int) -> pd.DataFrame:
    """Verdicts of one repetition, by the case they are an instance of."""
    base = FIRST_SEED + 1000 * number
    own = launch(f"own{number}", first_seed=base)
    other = launch(
        f"other{number}",
        first_seed=base + 500,
        typed=("loss=mse", "hydra.sweeper.looks=[10]", "hydra.sweeper.candidates.extend=0"),
    )
    for name in (f"own{number}", f"other{number}"):
        shutil.rmtree(Path("runs") / name)
    first = own.paired.differences.map(lambda values: np.mean(values[: LOOKS[0]]))
    rows = own.paired.assign(case=own.paired.loss.str.replace("_", " "), first=first)
    columns = ["case", "verdict", "difference", "low", "high", "seeds", "first"]
    every = pd.concat([rows[columns], pd.DataFrame([chosen_elsewhere(own, other)])])
    return every.assign(repetition=number)


def chosen_elsewhere(own: Comparison, other: Comparison) -> dict[str, object]:
    """Mse against itself: its rate chosen on its own seeds, and on those of another sweep."""
    mine, theirs = (
        statistics.tuning_table(
            one.every_run[one.every_run.loss == "mse"],
            statistics.Rule(metric="rmse"),
            seeds=sorted({*one.every_run.seed})[: LOOKS[0]],
        )
        for one in (own, other)
    )
    rates = [
        one.every_run.lr[one.every_run.loss == "mse"].drop_duplicates().sort_values()
        for one in (own, other)
    ]
    shared = np.isin(rates[0].to_numpy(), rates[1].to_numpy())  # a grid may have grown in one
    values = mine.results[:, shared]
    choices = [
        Choice(values, int(chosen(costs)[0]), reselected(costs))
        for costs in (mine.costs[:, shared], theirs.costs)
    ]
    whole, _ = difference(choices[:1], choices[1:], confidence=0.95)
    word = verdict(-whole.high, -whole.low, MARGIN)
    return {
        "case": "twin, its rate chosen on other seeds",
        "verdict": word,
        "difference": whole.value,
        "low": whole.low,
        "high": whole.high,
        "seeds": LOOKS[0],
        "first": whole.value,
    }


def table(rows: pd.DataFrame) -> str:
    """How often each verdict came, by case, in Markdown."""
    heads = ["case", "n", "true difference in rmse", "told apart", "upper 99 % limit", *WORDS]
    lines = [
        f"| {' | '.join([*heads, 'undecided', 'interval covers', 'seeds'])} |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for case, mine in rows.groupby("case", sort=False):
        # Of the first seeds alone: what is seen where a sweep stopped is what made it stop.
        truth = 0.0 if case.startswith("twin") else mine["first"].mean()
        n, shares = len(mine), mine.verdict.value_counts() / len(mine)
        apart = int((~((mine.low <= 0) & (mine.high >= 0))).sum())
        limit = stats.binomtest(apart, n).proportion_ci(0.98, "exact").high
        covered = ((mine.low <= truth) & (truth <= mine.high)).mean()
        cells = [NAMES[case], str(n), f"{truth:+.4f}", f"{apart / n:.3f}", f"{limit:.3f}"]
        cells += [f"{shares.get(word, 0.0):.3f}" for word in (*WORDS, "undecided")]
        lines.append(f"| {' | '.join([*cells, f'{covered:.3f}', f'{mine.seeds.mean():.1f}'])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
