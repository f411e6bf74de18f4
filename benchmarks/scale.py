"""A thousand to a hundred thousand runs: what do planning, recording, judging and reporting take?

Question: time, memory, files and bytes of an experiment whose training is stubbed (`untrained.py`),
so that everything else shows: its first command, the same again, `status` and `verify`.
Command: python benchmarks/scale.py [RUNS ...], 1000 10000 by default.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

LOSSES = "mse,mae,quartic,huber,log_cosh,pseudo_huber,cauchy,welsch,tukey,expectile"
RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
DATA = ["diabetes", "noisy_linear", "clean_linear", "noisy_linear_laplace", "noisy_linear_uniform"]


def main() -> None:
    """Measure each size in a folder that is gone afterwards."""
    for runs in map(int, sys.argv[1:] or ["1000", "10000"]):
        with tempfile.TemporaryDirectory() as place:
            measure(runs, Path(place))


def measure(runs: int, place: Path) -> None:
    """Give an experiment of so many runs, a multiple of 1,000, twice; and ask about it."""
    tasks, seeds = (1, runs // 100) if runs < 10_000 else (10, runs // 1000)
    data = ",".join(DATA[: max(1, tasks // 2)])
    line = ["experiment=compare", f"data={data}", f"model={'mlp' if tasks == 1 else 'linear,mlp'}"]
    line += [f"loss={LOSSES}", f"hydra.sweeper.candidates.lr={RATES}".replace(" ", "")]
    line += [f"hydra.sweeper.looks=[{seeds}]", "steps=20", "log_every=10", "eval_every=10"]
    line += ["extensions=[untrained]", "name=many", "report=all"]
    folder = place / "runs" / "many"
    print(f"{runs:,} runs: {tasks} tasks of 10 losses, 10 rates and {seeds} seeds")
    for what, words in {
        "first": line,
        "again": line,
        "status": ["status", str(folder)],
        "verify": ["verify", str(folder)],
    }.items():
        seconds, busy, peak, text = command(words, place)
        spent = "".join(re.findall(r"until now: (.*)\)", text)[-1:])
        print(
            f"  {what:<7}{seconds:7.1f} s, {busy:6.1f} s of processors {peak / 2**20:6.0f} MiB"
            f"  {spent}",
            flush=True,
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    records = [path for path in files if "report" not in path.parts]
    size = sum(path.stat().st_size for path in records)
    plan = sum(path.stat().st_size for path in records if path.parent == folder)
    print(
        f"  {len(records)} files of records, {size / 1e6:.1f} MB, {size / runs:.0f} bytes a run, "
        f"{plan / runs:.0f} of them beside the packs"
    )


def command(words: list[str], place: Path) -> tuple[float, float, int, str]:
    """What a command takes and says.

    Returns:
        Seconds on the wall, and of processors; the largest memory of all its processes together in
        bytes; its output.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    start, peak, busy = time.perf_counter(), 0, {}
    with (place / "output").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lossbench.cli", *words],
            cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        while process.poll() is None:
            now = [*looked_at(process.pid)]
            peak = max(peak, sum(size for _, size, _ in now))
            busy |= {pid: seconds for pid, _, seconds in now}
            time.sleep(1)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(text[-4000:])
    return seconds, sum(busy.values()), peak, text


def looked_at(pid: int) -> Iterator[tuple[int, int, float]]:
    """A process and those it began: pid, bytes (what they share divided), seconds computed."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        begun = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:  # it has ended
        return
    size = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    yield pid, size, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    for child in begun:
        yield from looked_at(int(child))


if __name__ == "__main__":
    main()
