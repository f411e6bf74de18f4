"""Ten thousand runs: what do planning, expanding and recording them take?

Question: time, files, bytes and memory of a sweep of 10,000 runs whose training is one update, so
that everything else shows; and of the same command once more, which finds all of it done.
Command: python benchmarks/scale.py [RUNS], 10,000 by default: two minutes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    """Run the sweep twice, and look at what lies there."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    losses = "loss=mse,mae,huber,log_cosh,quartic"
    line = [sys.executable, "-m", "lossbench.cli", "-m", losses, f"seed=range({runs // 5})"]
    line += ["data=noisy_linear", "data.params.examples=200", "model=linear", "steps=1"]
    line += ["log_every=1", "eval_every=1", "name=many"]
    with tempfile.TemporaryDirectory() as place:
        for what in ("first", "again"):
            start = time.perf_counter()
            done = subprocess.run(line, cwd=place, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            if done.returncode:
                sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
            told = [row for row in done.stderr.splitlines() if "so far" in row]
            print(f"{what}: {seconds:.1f} s  {''.join(told)}")
        files = [path for path in Path(place).rglob("*") if path.is_file()]
        plan = Path(place) / "runs" / "many" / "sweep.json"
        size = sum(path.stat().st_size for path in files)
        print(
            f"{len(files)} files, {size / 1e6:.1f} MB, "
            f"sweep.json {plan.stat().st_size / 1e6:.1f} MB"
        )
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"peak memory {peak / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
