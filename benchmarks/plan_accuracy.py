"""How near does `lossbench plan` come to what a sweep then takes, in time and memory?

Question: of ten unlike sweeps, seconds of training and bytes of memory, foretold over measured.
Each trains in one process of one thread; memory is the command's peak, less that of one run of one
update.
Command: python benchmarks/plan_accuracy.py, five minutes on a quiet machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TQDM_DISABLE"] = "1"

LOSSBENCH = [sys.executable, "-m", "lossbench.cli"]
ALONE = ["hydra.launcher.workers=1", "report=none"]

CLASSES, REALS = "loss=cross_entropy,brier,mae_probs", "loss=mse,mae,huber,quartic"
SWEEPS = {
    "few numbers": ["data=noisy_linear", "model=linear", REALS, "seed=range(20)", "steps=2000"],
    "few examples": ["data=diabetes", "model=mlp", REALS, "seed=range(20)", "steps=1000"],
    "a wide perceptron": [
        *("data=digits", "model=mlp", "model.params.widths=[256,256]"),
        *(CLASSES, "seed=range(6)", "steps=400"),
    ],
    "two classes": ["data=breast_cancer", "model=mlp", CLASSES, "seed=range(20)", "steps=1000"],
    "a known posterior": ["data=gaussian_mixture", "model=mlp", CLASSES, "seed=range(20)"],
    "an evaluation every 10 updates": [
        *("data=gaussian_mixture", "model=linear", "eval_every=10"),
        *(CLASSES, "seed=range(20)", "steps=300"),
    ],
    "every update logged": [
        *("data=digits", "model=mlp", "log_every=1", CLASSES, "seed=range(10)", "steps=300"),
    ],
    "AdamW": ["data=wine", "model=mlp", "optimizer=adamw", CLASSES, "seed=range(20)", "steps=800"],
    "convolutions": [
        *("data=fashion_mnist", "data.params.examples=2000", "model=strided_cnn"),
        *(CLASSES, "seed=range(2)", "steps=40"),
    ],
    "a decoder": [
        *("data=markov_text", "model=gpt", "optimizer=adamw", "optimizer.lr=0.001"),
        *(CLASSES, "seed=range(4)", "steps=100", "batch_size=16"),
    ],
}
"""Ten sweeps by what is unlike in them."""


def main() -> None:
    """Print the table as it is measured."""
    print("| sweep | runs | foretold | trained | ratio | memory foretold | measured | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name, words in SWEEPS.items():
        with tempfile.TemporaryDirectory() as folder:
            look = foretold(words, folder)
            text, peak = measured([*words, "name=whole"], folder)
            least = measured([*words, "seed=0", "steps=1", "loss=" + _first(words)], folder)[1]
        seconds = float(re.findall(r"train ([\d.]+) s", text)[-1])
        tensors = look["memory"] / 2**20
        cells = [
            *(name, f"{look['runs']:,}", f"{look['seconds']:.1f} s", f"{seconds:.1f} s"),
            *(f"{look['seconds'] / seconds:.2f}", f"{tensors:.0f} MiB", f"{peak - least:.0f} MiB"),
            f"{tensors / (peak - least):.2f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def _first(words: list[str]) -> str:
    losses = next(word for word in words if word.startswith("loss="))
    return losses.removeprefix("loss=").partition(",")[0]


def foretold(words: list[str], folder: str) -> dict:
    """The one look of the sweep, as `plan --json` has it."""
    command = [*LOSSBENCH, "plan", "--json", "-m", *words, *ALONE]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["looks"][0]


def measured(words: list[str], folder: str) -> tuple[str, float]:
    """What the command printed, and its peak memory in MiB."""
    process = subprocess.Popen(
        [*LOSSBENCH, "-m", *words, *ALONE],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks, lines = [0.0], []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
    reader.start()
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else ""):
            peaks.append(float(found[1]) / 1024)
        reader.join(0.05)
    reader.join()
    if process.returncode:
        raise SystemExit("".join(lines))
    return "".join(lines), max(peaks)


if __name__ == "__main__":
    main()
