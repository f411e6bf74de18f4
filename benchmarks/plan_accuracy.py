"""How near does `lossbench plan` come to what a sweep then takes, in time and memory?

Question: of ten unlike sweeps, seconds of training and bytes of memory, foretold over measured.
Each trains in one process of one thread; memory is the peak of the whole command.
Command: python benchmarks/plan_accuracy.py, five minutes on a quiet machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TQDM_DISABLE"] = "1"

LOSSBENCH = [sys.executable, "-m", "lossbench.cli"]
ALONE = ["hydra.launcher.workers=1", "report=none"]

CLASSES, REALS = "loss=cross_entropy,brier,mae_probs", "loss=mse,mae,huber,quartic"
SWEEPS = {
    "few numbers": f"data=noisy_linear model=linear {REALS} seed=range(20) steps=2000",
    "few examples": f"data=diabetes model=mlp {REALS} seed=range(20) steps=1000",
    "a wide perceptron": "data=digits model=mlp model.params.widths=[256,256] "
    f"{CLASSES} seed=range(6) steps=400",
    "two classes": f"data=breast_cancer model=mlp {CLASSES} seed=range(20) steps=1000",
    "a known posterior": f"data=gaussian_mixture model=mlp {CLASSES} seed=range(20)",
    "evaluated every 10 updates": "data=gaussian_mixture model=linear eval_every=10 "
    f"{CLASSES} seed=range(20) steps=300",
    "logged at every update": "data=digits model=mlp log_every=1 "
    f"{CLASSES} seed=range(10) steps=300",
    "AdamW": f"data=wine model=mlp optimizer=adamw {CLASSES} seed=range(20) steps=800",
    "convolutions": "data=fashion_mnist data.params.examples=2000 model=strided_cnn "
    f"{CLASSES} seed=range(2) steps=40",
    "a decoder": "data=markov_text model=gpt optimizer=adamw optimizer.lr=0.001 batch_size=16 "
    f"{CLASSES} seed=range(4) steps=100",
}
"""Ten sweeps by what is unlike in them."""


def main() -> None:
    """Print the table as it is measured."""
    print("| sweep | runs | foretold | trained | ratio | memory foretold | measured | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name, line in SWEEPS.items():
        words = line.split()
        with tempfile.TemporaryDirectory() as place:
            look = plan_of(words, place)
            text, peak = train(words, place)
        seconds = float(re.findall(r"train ([\d.]+) s", text)[-1])
        memory = look["memory"] / 2**20
        cells = [
            *(name, f"{look['runs']:,}", f"{look['seconds']:.1f} s", f"{seconds:.1f} s"),
            *(f"{look['seconds'] / seconds:.2f}", f"{memory:.0f} MiB", f"{peak:.0f} MiB"),
            f"{memory / peak:.2f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def plan_of(words: list[str], place: str) -> dict:
    """The one look of the sweep, as `plan --json` has it."""
    command = [*LOSSBENCH, "plan", "--json", "-m", *words, *ALONE]
    done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["looks"][0]


def train(words: list[str], place: str) -> tuple[str, float]:
    """What the command printed, and its peak memory in MiB."""
    printed = Path(place) / "printed.txt"
    with printed.open("w") as file:
        process = subprocess.Popen(
            [*LOSSBENCH, "-m", *words, *ALONE], cwd=place, stdout=file, stderr=file
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(printed.read_text())
    return printed.read_text(), usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
