"""Trains a model before the sweep, once per seed, as the start or the teacher of runs.

The engine trains the model with a declared loss on the data that `set_aside` keeps, on the CPU with
one thread, so that every process of a machine makes the same bits. The model is committed like a
pack, in `pretrained/KEY` of the sweep's folder: a crash leaves the model whole or absent, and later
processes of any machine read the same model. `init_sha` of a start and `data_sha` of a teacher's
targets prove that every loss had the same model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lossbench import records, store
from lossbench.data.splits import Splits
from lossbench.data.targets import taught
from lossbench.engine import Machine, decoded, encoded, evaluate, initial_model, train
from lossbench.engine.state import State
from lossbench.fingerprints import device_name, environment_sha, tensors_sha
from lossbench.question import Run, checked, part
from lossbench.question.packs import Pack
from lossbench.sweep.inventory import record_of
from lossbench.sweep.stop import Stop

log = logging.getLogger(__name__)

FOLDER = "pretrained"
"""Subfolder of a sweep, with one folder for each model that is trained before runs."""

STATE = "state.pt"
CPU = torch.device("cpu")
WAIT = 0.2
"""Seconds between two checks of a model that another process trains."""


def run_before(run: Run) -> Run:
    """Run that trains the model which the given run needs first, with Adam and on labels."""
    before = run.pretrained
    return checked(
        Run(
            data=run.data,
            model=part(before.model) if before.model else run.model,
            loss=part(before.loss),
            optimizer=part("adam"),
            lr=before.lr,
            seed=run.seed,
            steps=before.steps,
            batch_size=run.batch_size,
            log_every=before.steps,
            eval_every=before.steps,
        )
    )


def key_of(run: Run) -> str:
    """Name of the folder of the model that is trained before a run."""
    fields = {"run": run_before(run).run_id, "share": run.pretrained.share}
    return store.sha256(store.to_json(fields))[:16]


def with_pretrained(run: Run, splits: Splits, *, sweep_folder: Path, stop: Stop) -> Splits:
    """Splits of a run, with the start or the targets from the model that is trained before.

    The splits of a run that is not pretrained stay unchanged. The folder of the sweep holds the
    model once it is trained.

    Raises:
        ValueError: The training of the model diverged or failed.
        Interrupted: An end was asked for.
    """
    if not run.is_pretrained or splits.aside is None:
        return splits
    before, aside, splits = run_before(run), splits.aside, replace(splits, aside=None)
    state = _state(run, aside, sweep_folder / FOLDER / key_of(run), stop)
    if not run.has_teacher:
        return replace(splits, start=state)
    model = initial_model(before, aside, seed=run.seed)
    model.load_state_dict(state)
    model.eval()
    probabilities = {}
    with one_thread(), torch.no_grad():
        for split, inputs in splits.inputs.items():
            chunks = evaluate.chunks(inputs[None], len(inputs))
            outputs = (model(inputs[chunk]) / run.pretrained.temperature for chunk in chunks)
            probabilities[split] = torch.cat([output.softmax(-1) for output in outputs])
    return taught(splits, probabilities)


def _state(run: Run, aside: Splits, folder: Path, stop: Stop) -> Mapping[str, Tensor]:
    """Parameters and buffers of the model; trains the model if the folder does not have it."""
    while True:
        try:
            if record := store.committed(folder):
                return decoded(store.read(folder, STATE, record), device=CPU)
        except store.StoreError as error:
            log.warning("the pretrained model of seed %d is trained again: %s", run.seed, error)
            with store.try_lock(folder / store.LOCK) as is_mine:
                if is_mine:
                    store.dissolve(folder)
        else:
            with store.try_lock(folder / store.LOCK) as is_mine:
                if is_mine and store.committed(folder) is None:
                    _train(run, aside, folder, stop)
        if not is_mine:
            stop.check()
            time.sleep(WAIT)


def _train(run: Run, aside: Splits, folder: Path, stop: Stop) -> None:
    """Train and commit the model that a run needs first; the caller holds the folder's lock."""
    before = run_before(run)
    log.info("seed %d: training the pretrained model, %d updates", run.seed, before.steps)
    with one_thread():
        states: list[State] = []
        tables = train(
            Pack(folder.name, (before,)),
            # The posterior is needed for runs only, and takes time.
            {run.seed: replace(aside, posterior={})},
            Machine(CPU),
            flush=lambda step, snapshot: stop.check(),
            finished=states.append,
        )
        environment = environment_sha(device_name(CPU), before.precision)
    (row,) = tables["runs"].select(["status", "reason"]).to_pylist()
    if row["status"] != "done":
        why = row["reason"].splitlines()[-1] if row["reason"] else ""
        raise ValueError(
            f"the model that is trained before seed {run.seed} {row['status']} ({why}): use a "
            f"smaller pretrained.lr than {before.lr:g}"
        )
    (state,) = states
    values = {**state.parameters, **state.buffers}
    member = {name: value[0].contiguous().clone() for name, value in values.items()}
    measured = {
        f"{each['split']}/{each['metric']}": each["value"]
        for each in tables["evals"].to_pylist()
        if each["step"] == before.steps and not each["metric"].startswith("loss:")
    }
    fields = {
        "run": before.facts,
        "share": run.pretrained.share,
        "state_sha": tensors_sha(member),
        "evals": store.plain(measured),
    }
    done = {before.run_id: {"status": records.RESULTS[0], "reason": ""}}
    record = record_of(done, is_finished=True, made_by=environment, **fields)
    store.commit(folder, {STATE: encoded(member)}, record)


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which torch uses one thread, because bits may depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
