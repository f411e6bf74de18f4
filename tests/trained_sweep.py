"""A small sweep, trained by the command line once in a test run, however many processes it has.

What it asks is what the report answers of the essay, what the gallery judges, and what
records/test_recomputed.py computes again. Those who read it leave it as it is.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from configs import IN_THIS_PROCESS, write_experiment

from lossbench import cli, store
from lossbench.report import page

STEPS, SEEDS = 20, 6
EXPERIMENT = """
# @package _global_
defaults:
  - override /hydra/sweeper: protocol
name: essay
steps: 20
batch_size: 16
log_every: 2
eval_every: 10
hydra:
  sweeper:
    blocks:
      - { data: [diabetes], model: [linear], loss: [mse, mae, quartic, huber] }
      - { data: [clean_linear], model: [linear], loss: [mse, quartic] }
      - data: [finite_support]
        model: [linear]
        data.targets: [sampled, distribution]
        data.params.examples: [320]
        loss: [cross_entropy, mae_probs]
      - data: [gaussian_mixture]
        model: [linear]
        loss: [cross_entropy, bce_ova, mse_logits, brier, mse_sigmoid]
      - data: [gaussian_mixture]
        model: [linear]
        init.from: [permuted_labels]
        loss: [cross_entropy, mse_logits, brier]
    candidates:
      lr: [0.01, 0.1]
      extend: 0
    looks: [6]
    declare:
      primary: { regression: rmse, classification: accuracy }
      endpoint: last
      reference: { regression: mse, classification: cross_entropy }
      margin: { regression: 0.02, classification: 0.01 }
      family: task
      confidence: 0.95
      targets: { classification: 0.5 }
      questions: [essay]
      published:
        - { finding: untrained, source: "A 1999", loss: mae, says: better }
        - { finding: as good, source: "B 2000", loss: mae, says: not_worse, margin: 100.0,
            where: { data: diabetes } }
        - { finding: of another set, source: "C 2001", loss: mae, says: worse,
            where: { data: digits } }
        - { finding: of this set, source: "D 2002", loss: mae, says: worse,
            where: { data: diabetes }, metric: mae, margin: 100.0 }
        - { finding: of a loss left out, source: "E 2003", loss: log_cosh, says: better }
"""


def trained_once(root: Path) -> Path:
    """Folder of the sweep, with a report without pictures; the first who asks trains it."""
    place = root / "trained"
    folder = place / "runs" / "essay"
    with store.lock(root / "trained.lock", patience=500):
        if not (folder / "report" / "index.html").exists():
            write_experiment(place, "essay", EXPERIMENT)
            with contextlib.chdir(place):
                line = ["--config-dir", "conf", "experiment=essay", "report=none"]
                assert cli.main([*line, IN_THIS_PROCESS]) == cli.DONE
            page.write(folder, drawn_in=[])
    return folder
