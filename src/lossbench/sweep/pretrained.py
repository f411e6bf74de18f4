"""A model that is trained before the sweep, once per seed: the start of runs, or their teacher.

The engine trains it with a declared loss on what `set_aside` left for it, on the CPU with one
thread, so that it has the same bits whoever makes it on a machine. It lies in the sweep's folder,
`pretrained/KEY`, committed as a pack is: a crash leaves it whole or not there, and who comes later,
from whatever machine, has the same one. That every loss had the same is proven as always, by
`init_sha` of a start and by `data_sha` of a teacher's targets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lossbench import records, store
from lossbench.data.splits import Splits
from lossbench.data.targets import taught
from lossbench.engine import decoded, encoded, evaluate, initial_model, train
from lossbench.fingerprints import device_name, environment_sha, tensors_sha
from lossbench.question import Run, checked, part
from lossbench.question.packs import Pack
from lossbench.sweep.inventory import record_of

if TYPE_CHECKING:
    from lossbench.sweep.training import Stop

log = logging.getLogger(__name__)

FOLDER = "pretrained"
"""In a sweep's folder: one folder for each such model."""

STATE = "state.pt"
CPU = torch.device("cpu")
WAIT = 0.2
"""Seconds between two looks at a model that another process trains."""


def run_before(run: Run) -> Run:
    """The training of the model that comes before a run, as a run: by Adam, on labels."""
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
    """Name of the folder of the model that comes before a run."""
    facts = {"run": run_before(run).run_id, "share": run.pretrained.share}
    return store.sha256(store.to_json(facts))[:16]


def with_pretrained(run: Run, splits: Splits, *, sweep_folder: Path, stop: Stop) -> Splits:
    """A seed's splits with the start or the targets that the model before its runs gives them.

    Args:
        run: Any with that data, model and seed; without such a model the splits stay as they are.
        splits: Its own, see `splits_of`.
        sweep_folder: Where the model lies, or is put once it is trained.
        stop: Asks for an end.

    Raises:
        ValueError: The model diverged.
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
    with one_thread():
        said = {
            split: _probabilities(model, inputs, run.pretrained.temperature)
            for split, inputs in splits.inputs.items()
        }
    return taught(splits, said)


def _state(run: Run, aside: Splits, folder: Path, stop: Stop) -> Mapping[str, Tensor]:
    """Parameters and buffers of the model, which is trained unless it lies in its folder."""
    while True:
        try:
            if record := store.committed(folder):
                return decoded(store.read(folder, STATE, record), device=CPU)
        except store.StoreError as error:
            log.warning("the model of seed %d is trained again: %s", run.seed, error)
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
    """Train the model that comes before a run, and commit it; its folder's lock is held."""
    before = run_before(run)
    log.info("seed %d: training what comes before, %d updates", run.seed, before.steps)
    with one_thread():
        states: list[Any] = []
        tables = train(
            Pack(folder.name, (before,)),
            # The posterior is compared with runs only, and takes time.
            {run.seed: replace(aside, posterior={})},
            device=CPU,
            padding=2,
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
    first = {name: value[0].contiguous().clone() for name, value in values.items()}
    measured = {
        f"{each['split']}/{each['metric']}": each["value"]
        for each in tables["evals"].to_pylist()
        if each["step"] == before.steps and not each["metric"].startswith("loss:")
    }
    facts = {
        "run": before.facts,
        "share": run.pretrained.share,
        "state_sha": tensors_sha(first),
        "evals": store.plain(measured),
    }
    done = {before.run_id: {"status": records.RESULTS[0], "reason": ""}}
    record = record_of(done, is_finished=True, made_by=environment, **facts)
    store.commit(folder, {STATE: encoded(first)}, record)


@torch.no_grad()
def _probabilities(model: nn.Module, inputs: Tensor, temperature: float) -> Tensor:
    """Probabilities of a model at a temperature, from inputs [N, ...]: [N, C] or [N, T, C]."""
    model.eval()
    chunks = evaluate.chunks(inputs[None], len(inputs))
    return torch.cat([(model(inputs[chunk]) / temperature).softmax(-1) for chunk in chunks])


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes with one thread: bits may depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
