"""Does every experiment run from end to end, and how long do all of them take at size smoke?

Every experiment is run by the command line in a folder that is gone afterwards. Wall time depends
on what else the machine does, processor time hardly.
Command: python benchmarks/smoke.py [NAME ...], all of them by default.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lossbench
from lossbench import records

os.environ.setdefault("OMP_NUM_THREADS", "1")

ALL = sorted(path.stem for path in (lossbench.CONF / "experiment").glob("*.yaml"))


def main() -> int:
    """Run what was named, print a row each; 1 if one of them failed."""
    names, rows = sys.argv[1:] or ALL, []
    print("| experiment | runs | seconds | processor seconds | exit code |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            rows.append(ran(name, Path(place)))
            runs, wall, processor, code = rows[-1]
            print(f"| {name} | {runs:,} | {wall:.0f} | {processor:.0f} | {code} |", flush=True)
    runs, wall, processor, codes = (sum(column) for column in zip(*rows, strict=True))
    print(f"| all {len(rows)} | {runs:,} | {wall:.0f} | {processor:.0f} | {codes} |")
    print(f"\n{wall / 60:.1f} minutes on {os.cpu_count()} cores")
    return 1 if codes else 0


def ran(name: str, place: Path) -> tuple[int, float, float, int]:
    """Recorded runs, seconds, processor seconds and exit code of an experiment."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "lossbench.cli", f"experiment={name}", "size=smoke"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print("\n".join(done.stderr.strip().splitlines()[-3:]), file=sys.stderr)
    folder = place / "runs" / f"{name}-smoke"
    count = len(records.load(folder).runs) if (folder / "sweep.json").exists() else 0
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return count, time.monotonic() - start, spent, done.returncode


if __name__ == "__main__":
    sys.exit(main())
