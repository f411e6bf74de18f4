"""What does it cost that no run is ever lost?

Question: the share of a sweep's time that goes into checkpoints at the default interval, and into
claiming and committing its packs; measured on the pack that the essay trains most, and on one that
is ten times as large. One thread.
Command: python benchmarks/commit_cost.py: a minute and a half.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

INTERVAL = 30.0
"""Seconds between two checkpoints, by default."""

MODELS = {"digits, 64-64 MLP": "[64,64]", "digits, 256-256 MLP": "[256,256]"}


def main() -> None:
    """Train with a checkpoint a second, and say what one of them costs."""
    print(f"{'pack of 128 runs':<22} {'checkpoints':>11} {'each':>9} {'of 30 s':>8} {'size':>9}")
    for name, widths in MODELS.items():
        commits, seconds, size = measured(widths)
        each = seconds / commits
        print(
            f"{name:<22} {commits:>11} {1e3 * each:>6.0f} ms {each / INTERVAL:>8.2%} "
            f"{size / 1e6:>6.1f} MB"
        )


def measured(widths: str) -> tuple[int, float, float]:
    """Checkpoints taken, seconds that they took, and bytes of the last one."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [sys.executable, __file__, "--only", widths], cwd=place, capture_output=True, text=True
        )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    commits, seconds, size = done.stdout.split()[-3:]
    return int(commits), float(seconds), float(size)


def only(widths: str) -> None:
    """Train one pack in this process."""
    from lossbench import cli
    from lossbench.sweep import training

    spent, sizes = [], [0]
    original = training.Training._commit_snapshot

    def keep(self: training.Training, saved: training.Saved, *, is_last: bool) -> None:
        original(self, saved, is_last=is_last)
        sizes.append(sum(path.stat().st_size for path in Path("runs").rglob("*.pt")))

    call = training.Training.__call__

    def timed(self: training.Training, step: int, snapshot: training.Snapshot) -> None:
        count, start = len(sizes), time.perf_counter()
        call(self, step, snapshot)
        if len(sizes) > count:
            spent.append(time.perf_counter() - start)

    training.Training._commit_snapshot, training.Training.__call__ = keep, timed  # type: ignore[method-assign]
    line = ["-m", "data=digits", f"model.params.widths={widths}", "loss=cross_entropy,brier"]
    line += ["seed=range(64)", "steps=1000", "engine.commit_every=1"]
    assert cli.main(line) == cli.DONE
    print(len(spent), sum(spent), sizes[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        only(sys.argv[2])
    else:
        main()
