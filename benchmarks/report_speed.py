"""How long does a report take, how much memory, and how many logged steps can be summarised?

Question 1: the report of a thousand real runs, page and tables, with a process per core and in one;
the same command again; its figures as files, and these saved the plain way, `savefig` once for each
format and width, on one core.
Question 2: twenty million generated rows of steps, by `statistics.trajectories`, which asks DuckDB,
and by pandas, which reads them all; each in a process of its own, with one thread.
Command: python benchmarks/report_speed.py [report | steps], both by default: five minutes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

os.environ.setdefault("OMP_NUM_THREADS", "1")

RUNS, STEPS = 1_000, 20_000
"""Generated: rows of steps are their product."""

SAMPLE = 12
"""Figures that are saved the plain way."""


def main() -> None:
    """Measure what was asked for, in a folder that is gone afterwards."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "report steps"
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        if "report" in wanted:
            report_of_a_thousand_runs()
        if "steps" in wanted:
            twenty_million_steps()


# ---- the report ----------------------------------------------------------------------------------


def report_of_a_thousand_runs() -> None:
    """Question 1."""
    lossbench("experiment=essay", "data=digits,diabetes,noisy_linear", "name=bench", "report=none")
    sweep = Path("runs/bench")
    cores = os.cpu_count() or 1
    ours = measured("write_report", sweep, cores, "page")
    alone = measured("write_report", sweep, 1, "page")
    lossbench("report", str(sweep))
    start = time.perf_counter()
    lossbench("report", str(sweep))
    again = time.perf_counter() - start
    files = measured("write_report", sweep, 1, "files")
    plain = measured("save_plainly", sweep)
    page = sweep / "report" / "index.html"
    print(f"report of {ours['runs']:,} runs, {ours['figures']} figures, {cores} cores")
    print(f"  {ours['seconds']:.1f} s, peak memory of all processes {ours['mebibytes']:.0f} MiB")
    print(f"  one process: {alone['seconds']:.1f} s, {alone['mebibytes']:.0f} MiB")
    print(f"  the same command again: {again:.1f} s")
    print(f"  index.html {page.stat().st_size / 1e6:.2f} MB")
    print(f"  six files of each figure, one process: {files['drawing']:.1f} s;")
    print(f"  by savefig {plain['seconds']:.1f} s (extrapolated from {SAMPLE})")


def write_report(sweep: str, workers: str, what: str) -> dict[str, float]:
    """The report drawn anew, as the command line writes it, and the seconds of its figures' files.

    Args:
        sweep: Its folder.
        workers: Processes that draw.
        what: "page", or "files" for the figures too.
    """
    from lossbench import records, store
    from lossbench.report import page, pictures

    shutil.rmtree(Path(sweep) / "report", ignore_errors=True)
    drawing, save = 0.0, pictures.save

    def timed(*args: object, **words: object) -> object:
        nonlocal drawing
        start = time.perf_counter()
        titles = save(*args, **words)  # type: ignore[arg-type]
        drawing = time.perf_counter() - start
        return titles

    pictures.save = timed  # type: ignore[assignment]
    loaded = records.load(sweep)
    page.write(loaded, workers=int(workers), has_figures=what == "files")
    drawn = store.read_sealed(Path(sweep) / "report" / "pictures.json").keys() - {store.SEAL}
    return {"runs": len(loaded.runs), "figures": len(drawn), "drawing": drawing}


def save_plainly(sweep: str) -> dict[str, float]:
    """Seconds that the figures of a report take with `Figure.savefig`, from some of them."""
    from lossbench import figures, records, statistics
    from lossbench.report import drawings, pictures

    loaded = records.load(sweep)
    every = [drawing for _, drawing in drawings.of_sweep(statistics.Verdicts(loaded))]
    some = every[:: max(1, len(every) // SAMPLE)][:SAMPLE]
    start = time.perf_counter()
    for drawing in some:
        for width in pictures.WIDTHS.values():
            with figures.style():
                figure, axes = figures.page(**{**drawing.size, "width": width})
                drawing.draw(axes[0] if drawing.is_single else axes)
                for kind in pictures.FORMATS:
                    figure.savefig(f"plain.{kind}")
    return {"seconds": (time.perf_counter() - start) * len(every) / len(some)}


# ---- the steps -----------------------------------------------------------------------------------


def twenty_million_steps() -> None:
    """Question 2."""
    losses = "loss=mse,mae,huber,log_cosh,quartic"
    short = ["data=diabetes", "model=linear", "steps=2", "log_every=2", "eval_every=2"]
    lossbench("-m", losses, f"seed=range({RUNS // 5})", *short, "optimizer.lr=1e-3", "name=long")
    sweep = Path("runs/long")
    rows = sum(lengthen(pack) for pack in sorted((sweep / "packs").iterdir()))
    size = sum(path.stat().st_size for path in sweep.rglob("steps.parquet"))
    ours, pandas = measured("by_duckdb", sweep), measured("by_pandas", sweep)
    print(f"{rows:,} rows of steps, {size / 1e6:.0f} MB on disk, to {ours['rows']:,.0f} estimates")
    for name, one in {"statistics.trajectories": ours, "pandas": pandas}.items():
        print(f"  {name:<19} {one['seconds']:6.1f} s  {one['mebibytes']:7.0f} MiB")
    worst = max(abs(ours[key] - pandas[key]) / abs(pandas[key]) for key in ("mean", "norm"))
    print(f"  mean of the means: they differ by {worst:.1e}")


def lengthen(pack: Path) -> int:
    """Replace a pack's steps by generated ones, as many a run as if it were that long."""
    import pyarrow as pa

    from lossbench import records, store

    draw = np.random.default_rng(int(pack.name[:8], 16))
    runs = records.decode(store.read(pack, "runs.parquet"), path=pack).to_pandas()
    keys = [field.name for field in records.schema("steps") if field.name in runs]
    parts = []
    for _, run in runs[keys].iterrows():
        columns = {name: [value] * STEPS for name, value in run.items()}
        steps = np.arange(STEPS) * 10
        for field in records.schema("steps"):
            if field.name not in columns:
                columns[field.name] = np.exp(draw.normal(size=STEPS) - steps / 1e5)
        parts.append(records.table_from("steps", {**columns, "step": steps}))
    state = store.committed(pack) or {}
    names = [name for name in state["files"] if name != "steps.parquet"]
    files = {name: store.read(pack, name) for name in names}
    files["steps.parquet"] = records.encode(pa.concat_tables(parts))
    store.commit(pack, files, {key: value for key, value in state.items() if key != "files"})
    return len(runs) * STEPS


def by_duckdb(sweep: str) -> dict[str, float]:
    """As the report asks for it."""
    from lossbench import records, statistics

    found = records.load(sweep)
    rows = statistics.trajectories(found, statistics.placed(found.runs))
    return summed(len(rows), rows, rows.measure == "cosine", rows.measure == "gradient_norm")


def by_pandas(sweep: str) -> dict[str, float]:
    """The same means in a few lines of pandas."""
    from lossbench import records

    steps = records.load(sweep).steps
    steps["signal"] = np.log(steps.output_gradient_norm / steps.error_norm)
    steps["gradient_norm"] = np.log(steps.gradient_norm)
    columns = ["cosine", "gradient_norm", "signal"]
    table = steps.groupby(["loss", "step"], observed=True)[columns].agg(["mean", "std", "count"])
    return {
        "rows": 3 * len(table),
        "mean": float(table["cosine"]["mean"].mean()),
        "norm": float(np.exp(table["gradient_norm"]["mean"]).mean()),
    }


def summed(
    rows: int, frame: pd.DataFrame, cosines: pd.Series, norms: pd.Series
) -> dict[str, float]:
    """Few numbers by which two ways are compared."""
    return {
        "rows": rows,
        "mean": float(frame.value[cosines].mean()),
        "norm": float(frame.value[norms].mean()),
    }


# ---- measuring -----------------------------------------------------------------------------------


def lossbench(*arguments: str) -> None:
    """The command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "lossbench.cli", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"lossbench {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def measured(name: str, *arguments: object) -> dict[str, float]:
    """What a function of this file says in a process of its own, its seconds and peak memory."""
    line = [sys.executable, str(Path(__file__).resolve()), "--only", name, *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, cwd=Path.cwd())
    told = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": time.perf_counter() - start, **told}


def only(name: str, arguments: list[str]) -> None:
    """Run one function here and say its peak memory."""
    functions: dict[str, Callable[..., dict[str, float]]] = {
        one.__name__: one for one in (write_report, save_plainly, by_duckdb, by_pandas)
    }
    told = functions[name](*arguments)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest child
    children = int(arguments[1]) if name == "write_report" and arguments[1] != "1" else 0
    print(json.dumps({**told, "mebibytes": (own + children * child) / 1024}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        only(sys.argv[2], sys.argv[3:])
    else:
        main()
