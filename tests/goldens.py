# ruff: noqa: T201
"""Trains a fixed set of small sweeps with a checkout, and compares two such recordings bit by bit.

    python tests/goldens.py record FOLDER [--checkout PATH] [--only WORD] [--workers N]
    python tests/goldens.py compare FOLDER OTHER [--only WORD]

For changes that must not change a result: record before, record after, compare; on one machine,
with the same packages. `--only engine` leaves the experiments out; any word leaves the sweeps that
have it in their name. Of a checkout this uses the command line and `lossbench.records.load` alone;
EXTENSION, a user's module, imports what docs/extending.md shows, and `Model`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SCRIPT = Path(__file__).resolve()
KEYS = ("run", "step", "layer", "split", "metric", "example")
"""What names a row, as far as its table has it; `run` is a hash of all factors of a run."""

LEFT_OUT = {
    "run_id": "a hash of factors and code; the key has the factors",
    "pack_id": "a hash of the run_ids that trained together",
    "planned_context": "a hash of factors; the key has them",
    "planned_slot": "a hash of factors, and the rate; the key has them",
    "source_sha": "identity of the code, which is meant to change",
    "shared_sha": "identity of the code",
    "env_sha": "identity of versions and machine",
    "environment": "versions and machine, and names of strategies, which are internal",
    "threads": "how it was run: always on one thread",
    "pack_size": "how it was run: the division into packs changes no bit",
    "train_seconds": "time",
}
"""Columns that are not compared, and why."""

# ---- the sweeps ----------------------------------------------------------------------------------

ALONE = "engine.threads=1 hydra.launcher.workers=1"
SMALL = f"{ALONE} seed=0,1 steps=12 log_every=4 eval_every=6 batch_size=16 optimizer.lr=0.05"
"""What every small sweep has unless it says otherwise."""

TWO = "loss=cross_entropy,brier"
DIGITS, DIABETES = f"{TWO} data=digits", "loss=mse,mae data=diabetes"
MIXTURE = "data=gaussian_mixture data.params.examples=300"
IMAGES = f"{TWO} data=images batch_size=8 steps=4 log_every=2 eval_every=2"
CNN = f"{IMAGES} model=strided_cnn model.params.widths=[4,8]"
VMAP = "model.params.normalisation=layer"
SIGNALS = "signal=own,norm_matched,reweighted"
INSTRUMENTS = "instruments=[error_signal,loss_quantiles,representation,gradient_agreement,"
INSTRUMENTS += "gradient_noise,curvature,sharpness]"
BROKEN = "loss=breaking,mse_logits data=digits optimizer=sgd,adam optimizer.lr=0.001,0.05 "
BROKEN += "steps=100 model.params.normalisation=batch model.params.dropout=0.2"
CASES = {
    # Losses: all of the catalog, parameters, several outputs, contexts.
    "regression": "loss={regression} data=noisy_counts seed=0 model.params.widths=[12,7]",
    "classification": "loss={classification} data=digits seed=0 model.params.widths=[12,7]",
    "focal": f"{MIXTURE} loss=focal loss.params.gamma=0,2,5",
    "pinball": "loss=pinball loss.params.tau=0.1,0.5 data=diabetes",
    "two_outputs": f"loss=gaussian_nll,student_t data=diabetes optimizer=adam {VMAP}",
    "context": "loss=class_balanced,ldam,logit_adjusted,by_row data=digits "
    "data.corruption.name=imbalance data.corruption.params.kind=exponential,step",
    # Models: stacks of products, vmap, one by one.
    "activations": f"{DIABETES} model.params.activation=relu,tanh,gelu,silu,elu,sigmoid",
    "depths": f"{DIGITS} model.params.widths=[5],[9,9,9]",
    "linear": f"{DIGITS} model=linear optimizer.weight_decay=0,0.1",
    "vmap": f"{DIGITS} model.params.normalisation=none,batch,layer model.params.dropout=0.0,0.3",
    "vit": f"{IMAGES} model=vit model.params.patch=8 model.params.width=16 model.params.depth=2 "
    "model.params.heads=2 model.params.dropout=0.0,0.2",
    "lenet": f"{IMAGES} data.params.channels=1 data.params.side=28 model=lenet "
    "model.params.pooling=max,average model.params.activation=tanh",
    "resnet8": f"{IMAGES} model=resnet8 model.params.normalisation=batch,group",
    "cnn": CNN,
    "torchvision": f"{IMAGES} model=torchvision model.params.name=mobilenet_v3_small seed=0",
    "own_model": f"{IMAGES} model=branching",
    # Optimizers, schedules, signals, precisions, packs.
    "optimizers": f"{TWO} {MIXTURE} optimizer=sgd,nesterov,adam,adamw "
    "optimizer.weight_decay=0,0.01",
    "schedules": f"{TWO} {MIXTURE} schedule=constant,cosine,warmup,warmup_cosine",
    "momentum": f"{DIABETES} optimizer=sgd,nesterov optimizer.momentum=0,0.5",
    "rates": f"{DIABETES} optimizer=adam optimizer.params.beta1=0.5 schedule=warmup_cosine "
    "schedule.params.share=0.5 schedule.params.final=0.1",
    "signals": f"{DIGITS} {SIGNALS}",
    "signals_vmap": f"{DIABETES} {SIGNALS} {VMAP}",
    "signals_loop": f"{CNN} {SIGNALS}",
    "float64": f"{DIGITS} optimizer=sgd,adam engine.precision=float64",
    "float64_vmap": f"loss=mse,student_t data=diabetes engine.precision=float64 {VMAP}",
    "packs": f"{DIABETES} seed=0,1,2,3,4 engine.pack_size=4",
    # Data, and what is done to them.
    "labels": f"{DIGITS} data.corruption.name=symmetric,pairflip,asymmetric,instance "
    "data.corruption.params.rate=0.4",
    "posterior": f"{TWO} {MIXTURE} data.corruption.name=instance data.corruption.params.rate=0.3",
    "few_samples": f"{TWO} {MIXTURE} data.corruption.name=few_samples "
    "data.corruption.params.count=20,40",
    "outliers": f"{DIABETES} data.corruption.name=outliers "
    "data.corruption.params.is_one_sided=true,false",
    "augmentation": f"{CNN} data.augmentation.name=none,flip,crop_flip",
    "augmentation_stack": f"{IMAGES} model=linear data.augmentation.name=crop_flip "
    "data.augmentation.params.pad=2",
    "targets": f"{TWO},mae_probs,hellinger data=finite_support,two_moons "
    "model=linear data.targets=sampled,distribution seed=0",
    "starts": f"{DIGITS} init.from=random,permuted_labels init.output_scale=0.01,1,30",
    "sets": f"{TWO} seed=0 data=breast_cancer,wine,gaussian_mixture_curved,mnist1d",
    "regression_sets": "loss=mse,huber seed=0 data=clean_linear,noisy_linear,noisy_linear_laplace,"
    "noisy_linear_uniform,noisy_linear_student_t,noisy_linear_cauchy,noisy_linear_outliers",
    # Instruments.
    "instruments": f"{DIGITS} data.corruption.name=symmetric {INSTRUMENTS} signal=own,reweighted",
    "instruments_vmap": f"{DIABETES} {INSTRUMENTS} {VMAP} optimizer=adam",
    "instruments_loop": f"{CNN} {INSTRUMENTS}",
    # Members that end early, beside others that do not; then a sweep that is killed on its way.
    "diverging": "loss=mse,quartic data=diabetes optimizer.lr=0.001,5,1000 steps=30 "
    "model.params.normalisation=none,layer",
    "diverging_loop": f"{CNN} loss=cross_entropy,exponential optimizer.lr=0.001,1e4,1e10",
    "failing": "loss=breaking,brier data=digits optimizer.lr=0.01,1 "
    "model.params.normalisation=none,layer",
    "failing_loop": f"{CNN} loss=breaking,brier optimizer.lr=0.01,1",
    "unbroken": BROKEN,
    "killed": f"{BROKEN} engine.commit_every=0.001 hydra.launcher.workers=2",
}
"""Small sweeps; `{regression}` and `{classification}` are all losses of that task."""

KILLED, UNBROKEN = "engine_killed", "engine_unbroken"
EXPERIMENT = f"size=smoke report=none {ALONE}"
"""Overrides of every experiment."""

FILES = {
    "conf/loss/breaking.yaml": "fn: breaking",
    "conf/loss/by_row.yaml": "fn: by_row",
    "conf/data/images.yaml": "fn: images\nparams: {channels: 3, side: 32}",
    "conf/model/branching.yaml": "fn: branching",
}
EXTENSION = """
import torch
from lossbench.data.splits import Data, by_split, classification, permuted
from lossbench.losses.spec import Context, Loss
from lossbench.models import Model

def breaking(output, target):
    if bool(output.abs().max() > 2.0):
        raise RuntimeError("an output beyond 2")
    return 0.5 * (output - target).square().sum(-1)

def by_row(output, target, *, context: Context):
    return (1 + context.rows % 3) * -(target * output.log_softmax(-1)).sum(-1)

def images(*, seed, channels=3, side=32):
    draw, rows = torch.Generator().manual_seed(seed), permuted(80, seed)
    labels = torch.arange(80) % 4
    pixels = torch.randn(80, channels, side, side, generator=draw) + labels.view(-1, 1, 1, 1)
    return classification(by_split(pixels, rows), by_split(labels, rows), classes=4)

class Branching(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.last = torch.nn.Linear(inputs, 8), torch.nn.Linear(8, outputs)

    def forward(self, inputs):
        hidden = self.first(inputs.flatten(1))
        return self.last(hidden.tanh() if bool(hidden.sum() > 0) else hidden.relu())

def branching(inputs, outputs):
    return Branching(inputs[0] * inputs[1] * inputs[2], outputs)

ROW = dict(family="margin", task="classification", formula="", source="", claims=frozenset())
LOSSES = Loss(breaking, "identity", **ROW), Loss(by_row, "softmax", **ROW)
DATA = (Data(images, "classification", "goldens", drawn="generated"),)
MODELS = (Model(branching, "goldens"),)
"""
"""Losses that break and that ask for rows, images, and a model that vmap refuses."""


def list_sweeps(checkout: Path, losses: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The words of every sweep's command, by its name."""
    tasks = ("regression", "classification")
    every = {
        task: ",".join(loss["name"] for loss in losses if loss["task"] == task) for task in tasks
    }
    sweeps = {}
    for name, case in CASES.items():
        settings = dict(word.split("=", 1) for word in f"{SMALL} {case.format(**every)}".split())
        words = ["-m", "--config-dir", "conf", "extensions=[golden_extension]"]
        sweeps[f"engine_{name}"] = words + [f"{key}={value}" for key, value in settings.items()]
    for path in sorted((checkout / "conf" / "experiment").glob("*.yaml")):
        sweeps[f"experiment_{path.stem}"] = [f"experiment={path.stem}", *EXPERIMENT.split()]
    return {name: [*words, f"name={name}"] for name, words in sweeps.items()}


# ---- record --------------------------------------------------------------------------------------


def record(folder: Path, checkout: Path, only: str, workers: int) -> int:
    """Train the sweeps and write what is compared of them; 1 if one went wrong, else 0."""
    start, place = time.monotonic(), prepare_workplace(checkout)
    code = "import lossbench, lossbench.cli as cli\n"
    code += "print(lossbench.__file__)\ncli.main(['losses', '--json'])"
    command = [sys.executable, "-c", code]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **place).stdout
    path, losses = text.split("\n", 1)
    print(f"{path}\nruns and logs: {place['cwd']}", flush=True)
    if not path.startswith(place["env"]["PYTHONPATH"]):
        raise SystemExit(f"this is not what {checkout} has")
    sweeps = list_sweeps(checkout, json.loads(losses))
    names = sorted(name for name in sweeps if only in name)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for path in folder.glob(f"{name}.*.parquet"):
            path.unlink()
    waiting, troubles = iter([(name, sweeps[name]) for name in names]), []
    servers = [
        threading.Thread(target=serve, args=(waiting, folder, place, troubles))
        for _ in range(workers)
    ]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    if {KILLED, UNBROKEN} <= {*names} and not troubles:
        for unbroken in folder.glob(f"{UNBROKEN}.*.parquet"):
            paths = [unbroken, unbroken.with_name(unbroken.name.replace(UNBROKEN, KILLED, 1))]
            _, differing, alone = compare_tables(*map(pd.read_parquet, paths))
            troubles += [f"killed, not as unbroken: {cell}" for cell in [*differing, *alone][:5]]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{time.monotonic() - start:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of a core"
    print(*troubles, f"{len(names)} sweeps in {seconds}", sep="\n")
    if not troubles:
        shutil.rmtree(place["cwd"])
    return 1 if troubles else 0


def prepare_workplace(checkout: Path) -> dict[str, Any]:
    """Folder and environment in which the commands of a checkout run, on one thread each."""
    folder = Path(tempfile.mkdtemp(prefix="goldens-"))
    for name, text in {**FILES, "golden_extension.py": EXTENSION}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    settings = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    settings |= {"PYTHONPATH": str(checkout / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return {"cwd": folder, "env": {**os.environ, **settings}}


def serve(
    waiting: Iterator[tuple[str, list[str]]],
    folder: Path,
    place: dict[str, Any],
    troubles: list[str],
) -> None:
    """Have a process of the checkout train one sweep after the other until none is waiting."""
    log = (place["cwd"] / f"log-{threading.get_ident()}").open("w")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
    command = [sys.executable, str(SCRIPT), "train", str(folder.resolve())]
    with log, subprocess.Popen(command, **pipes, **place) as process:
        for name, words in waiting:
            if name == KILLED:
                troubles += kill_twice(words, place)
            process.stdin.write(json.dumps([name, words]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            print(f"{name}: {answer or 'went wrong'}", flush=True)
            if not answer:
                troubles.append(f"{name}: see {log.name}")
                return


def kill_twice(words: list[str], place: dict[str, Any]) -> list[str]:
    """Begin a sweep and kill it after a checkpoint, then again in order; what went wrong."""

    def list_checkpoints() -> set[str]:
        return {path.name for path in (place["cwd"] / "runs" / KILLED).rglob("checkpoint-*.pt")}

    command, quiet = [sys.executable, "-m", "lossbench.cli", *words], subprocess.DEVNULL
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = list_checkpoints()
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet, **place)
        while process.poll() is None and list_checkpoints() <= before:
            time.sleep(0.05)
        process.send_signal(number)
        if process.wait() in (0, 1):
            return [f"{KILLED}: ended before it was killed"]
    return []


def train(folder: Path) -> int:
    """Train the sweeps that standard input names; runs in a process of the checkout under test."""
    from lossbench import records
    from lossbench.cli import main

    for line in sys.stdin:
        start, (name, words) = time.monotonic(), json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            code = main(words)
        loaded = records.load(Path("runs") / name)
        counts = loaded.runs["status"].value_counts().to_dict()
        if code != ("failed" in counts) or "missing" in counts:
            raise SystemExit(f"{name} ended with {code}: {counts}")
        cells = sum(
            write(loaded, table, folder / f"{name}.{table}.parquet") for table in records.TABLES
        )
        print(f"{time.monotonic() - start:.1f} s, {cells} cells of {counts}", flush=True)
    return 0


def write(loaded: Any, table: str, path: Path) -> int:
    """Write what is compared of a table, its rows named by KEYS; returns its number of cells."""
    keys = {}
    for run_id, config in loaded.runs[["run_id", "config"]].to_numpy():
        factors = {k: value for k, value in json.loads(config).items() if not k.endswith("_sha")}
        keys[run_id] = json.dumps(factors, sort_keys=True)
    frame, texts = getattr(loaded, table), pd.Series(keys)
    hashes = texts.map(lambda text: hashlib.sha256(text.encode()).hexdigest()[:16])
    frame = frame.assign(run=frame["run_id"].map(hashes))
    if table == "runs":
        frame["config"] = frame["run_id"].map(texts)
    names = [key for key in KEYS if key in frame]
    if frame.duplicated(names).any():
        raise SystemExit(f"{path}: a key comes twice")
    frame = frame.drop(columns=[*LEFT_OUT], errors="ignore").sort_values(names)
    frame.to_parquet(path, index=False)
    return len(frame) * len(frame.columns.difference(KEYS))


# ---- compare -------------------------------------------------------------------------------------


def compare(folder: Path, other: Path, only: str) -> int:
    """Print how two recordings differ; 1 if sweeps of both do, else 0."""
    here, there = (
        {path.name: path for path in side.glob("*.parquet") if only in path.name}
        for side in (folder, other)
    )
    sweeps, missing = (
        sorted({name.partition(".")[0] for name in names})
        for names in (here.keys() & there.keys(), here.keys() ^ there.keys())
    )
    cells, differing, alone = 0, [], []
    for name in sorted(here.keys() & there.keys()):
        one, two = (pd.read_parquet(side[name]) for side in (here, there))
        if here[name].read_bytes() == there[name].read_bytes():
            cells += len(one) * len(one.columns.difference(KEYS))
            continue
        count, *lines = compare_tables(one, two)
        cells += count
        for every, rows in zip((differing, alone), lines, strict=True):
            every += [f"{name.removesuffix('.parquet')} {row}" for row in rows]
    print(f"{len(sweeps)} sweeps, {cells} cells compared; {len(missing)} sweeps in one folder only")
    print(f"{len(differing)} cells differ", *differing[:20], sep="\n  ")
    print(f"{len(alone)} rows or columns on one side only", *alone[:20], sep="\n  ")
    return 1 if differing or alone or not cells else 0


def compare_tables(one: pd.DataFrame, two: pd.DataFrame) -> tuple[int, list[str], list[str]]:
    """How many cells both have; those that differ; rows and columns that only one has."""
    names = [key for key in KEYS if key in one]
    here, there = (pd.MultiIndex.from_frame(frame[names]) for frame in (one, two))
    alone = [f"column {name}" for name in one.columns.symmetric_difference(two.columns)]
    alone += describe(one[~here.isin(there)], names) + describe(two[~there.isin(here)], names)
    both, differing = one.merge(two, on=names, suffixes=("", " of two")), []
    columns = [name for name in one if name in two and name not in names]
    for name in columns:
        values = both[[name, f"{name} of two"]]
        is_unequal = read_bits(values.iloc[:, 0]) != read_bits(values.iloc[:, 1])
        cells = zip(describe(both[is_unequal], names), values[is_unequal].to_numpy(), strict=True)
        differing += [f"{row} {name}: {old}, {new}" for row, (old, new) in cells]
    return len(both) * len(columns), differing, alone


def read_bits(column: pd.Series) -> np.ndarray:
    """What cells are compared by: text, or a number's bits, the same for every NaN."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.astype(object).where(column.notna(), None).to_numpy()
    values = column.to_numpy(np.float64)  # exact from float32
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def describe(rows: pd.DataFrame, names: list[str]) -> list[str]:
    """Rows in words: what they train, then their keys."""
    words = ("data", "model", "loss", "lr", "seed", *names)
    return [
        " ".join(f"{name}={row.get(name)}" for name in words) for row in rows.to_dict("records")
    ]


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, folders in (("record", 1), ("compare", 2), ("train", 1)):
        command = commands.add_parser(name)
        command.add_argument("folders", nargs=folders, type=Path, metavar="FOLDER")
        command.add_argument("--only", default="", metavar="WORD")
        command.add_argument("--checkout", default=SCRIPT.parents[1], type=Path)
        command.add_argument("--workers", default=2, type=int)
    asked = parser.parse_args()
    if asked.command == "train":
        return train(*asked.folders)
    if asked.command == "compare":
        return compare(*asked.folders, asked.only)
    return record(*asked.folders, asked.checkout.resolve(), asked.only, asked.workers)


if __name__ == "__main__":
    sys.exit(main())
