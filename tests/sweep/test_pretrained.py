"""A model that is trained before the sweep: the same for every loss, and what it was declared."""

from __future__ import annotations

import json
import logging
import signal
from functools import partial

import numpy as np
import pytest
import torch
from configs import make_run
from interrupted import sweep_in
from torch.nn import functional

from lossbench import records, store
from lossbench.data import DATA
from lossbench.data.splits import set_aside
from lossbench.data.targets import TARGETS
from lossbench.engine import batch_indices
from lossbench.engine.state import decoded
from lossbench.fingerprints import tensors_sha
from lossbench.models import MODELS, initialised
from lossbench.protocol.forecast import forecast
from lossbench.question import ConfigError, is_named_after
from lossbench.records.integrity import verified
from lossbench.sweep import splits_of
from lossbench.sweep.pretrained import STATE, key_of, with_pretrained
from lossbench.sweep.stop import Interrupted, Stop

CPU = torch.device("cpu")
FACTS = {"data": "digits", "model__params": {"widths": [12], "activation": "relu"}}
FACTS |= {"steps": 4, "eval_every": 2, "log_every": 2, "pretrained__steps": 6}
START = {**FACTS, "init__from": "pretrained"}
TEACHER = {**FACTS, "data__targets": "teacher", "pretrained__share": 0.0}


def start(**more):
    return make_run(**{**START, "loss": "brier", **more})


def student(**more):
    return make_run(**{**TEACHER, "loss": "cross_entropy", **more})


def made(run, folder, stop=None):
    return with_pretrained(run, splits_of(run), sweep_folder=folder, stop=stop or Stop())


def state_in(folder, run):
    place = folder / "pretrained" / key_of(run)
    return decoded(store.read(place, STATE), device=CPU)


def by_torch(run, *, name="mlp", params=None):
    """The model before a run by torch.optim.Adam and a plain loop, on what was set aside for it."""
    aside = splits_of(run).aside
    params = {"widths": [12], "activation": "relu"} if params is None else params
    model = initialised(partial(MODELS[name].fn, *aside.sizes, **params), seed=run.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.pretrained.lr)
    inputs, targets = aside.inputs["train"], aside.targets["train"]
    steps, smoothing = run.pretrained.steps, 0.1 * (run.pretrained.loss == "label_smoothing")
    for rows in batch_indices(run.seed, len(inputs), steps, run.batch_size):
        optimizer.zero_grad()
        output = model(inputs[rows])
        functional.cross_entropy(output, targets[rows], label_smoothing=smoothing).backward()
        optimizer.step()
    return model.eval()


# ---- what it is trained on -----------------------------------------------------------------------


@pytest.mark.parametrize(("data", "seed"), [("digits", 0), ("digits", 3), ("tiny_text", 0)])
def test_no_run_trains_validates_or_tests_on_what_is_set_aside(tiny, data, seed):
    whole = DATA[data].fn(seed=seed)
    parts = set_aside(whole, share=0.25)
    sizes = {split: len(rows) for split, rows in whole.inputs.items()}
    taken = round(0.25 * sizes["train"])
    assert len(parts.aside.inputs["train"]) == taken
    assert len(parts.inputs["train"]) == sizes["train"] - taken
    for part in ("inputs", "targets", "posterior"):
        all_rows = getattr(whole, part)
        if not all_rows:
            continue
        mine, theirs = getattr(parts, part)["train"], getattr(parts.aside, part)["train"]
        together = torch.cat([mine, theirs]).flatten(1)
        assert sorted(map(tuple, together.tolist())) == sorted(
            map(tuple, all_rows["train"].flatten(1).tolist())
        )
        for split in ("validation", "test"):
            assert getattr(parts, part)[split] is all_rows[split]


def test_at_a_share_of_nothing_a_teacher_learns_from_what_its_students_learn_from():
    splits = splits_of(student())
    assert splits.aside.inputs["train"].equal(splits.inputs["train"])
    assert splits.inputs["train"].equal(
        splits_of(make_run(loss="brier", **FACTS_ALONE)).inputs["train"]
    )


FACTS_ALONE = {key: value for key, value in FACTS.items() if not key.startswith("pretrained")}


@pytest.mark.parametrize("loss", ["cross_entropy", "label_smoothing"])
def test_it_is_what_a_plain_loop_over_its_examples_makes(tmp_path, loss):
    run = start(pretrained__loss=loss, pretrained__lr=0.01, seed=2)
    begun = made(run, tmp_path).start
    expected = by_torch(run).state_dict()
    assert begun.keys() == expected.keys()
    for name, value in begun.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


# ---- where runs start ----------------------------------------------------------------------------


def test_every_loss_starts_from_the_same_recorded_state_and_each_seed_from_its_own(tmp_path):
    runs = [
        start(loss=loss, seed=seed, optimizer__lr=lr)
        for loss, lr in (("cross_entropy", 0.1), ("unhinged", 1.0), ("mse_logits", 0.01))
        for seed in (0, 1)
    ]
    sweep_in(tmp_path, pack_size=2).run(runs)
    loaded = records.load(tmp_path)
    assert {*loaded.runs.status} == {"done"}
    shas = loaded.runs.groupby("seed").init_sha.unique()
    assert [len(each) for each in shas] == [1, 1]
    for seed, (sha,) in shas.items():
        assert sha == tensors_sha(state_in(tmp_path, runs[seed]))
    assert len([*(tmp_path / "pretrained").iterdir()]) == 2
    assert len({each for (each,) in shas}) == 2
    first = loaded.evals.query(
        "step == 0 and split == 'test' and metric == 'accuracy' and seed == 0"
    )
    place = tmp_path / "pretrained" / key_of(runs[0])
    assert {*first.value.round(5)} == {round(store.committed(place)["evals"]["test/accuracy"], 5)}


def test_it_has_the_same_bits_whoever_makes_it(tmp_path):
    run = start()
    before = torch.get_num_threads()
    states = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            folder = tmp_path / str(threads)
            states.append(made(start(loss="brier", optimizer__lr=threads), folder).start)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    sweep_in(tmp_path / "sweep").run([run])
    states.append(state_in(tmp_path / "sweep", run))
    assert len({tensors_sha(state) for state in states}) == 1


@pytest.mark.parametrize(
    "other",
    [{"steps": 7}, {"lr": 0.1}, {"share": 0.4}, {"loss": "brier"}],
    ids=lambda one: next(iter(one)),
)
def test_another_declaration_is_another_run_from_another_start(tmp_path, other):
    changed = start(**{f"pretrained__{name}": value for name, value in other.items()})
    run = start()
    assert changed.run_id != run.run_id
    assert key_of(changed) != key_of(run)
    shas = [tensors_sha(made(one, tmp_path).start) for one in (run, changed)]
    assert shas[0] != shas[1]


def test_what_is_not_used_is_no_part_of_a_run():
    run = make_run(loss="brier", **FACTS_ALONE)
    assert "pretrained" not in run.facts
    assert is_named_after(run.run_id, json.dumps(run.facts))
    assert is_named_after(start().run_id, json.dumps(start().facts))


def test_a_regression_starts_from_a_model_that_was_trained_before(tmp_path):
    facts = {**START, "data": "diabetes", "loss": "mae", "pretrained__loss": "mse"}
    begun = made(make_run(**facts), tmp_path).start
    again = made(make_run(**{**facts, "loss": "huber"}), tmp_path).start
    assert tensors_sha(begun) == tensors_sha(again)


def test_where_a_run_starts_is_not_trained_again_once_it_lies_there(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(2):
        made(start(), tmp_path)
    assert caplog.text.count("training the pretrained model") == 1


def test_an_end_that_is_asked_for_leaves_nothing_half_made(tmp_path):
    run, stop = start(pretrained__steps=20), Stop(signal.SIGTERM)
    with pytest.raises(Interrupted):
        made(run, tmp_path, stop)
    assert store.committed(tmp_path / "pretrained" / key_of(run)) is None
    whole = made(run, tmp_path / "whole").start
    assert tensors_sha(made(run, tmp_path).start) == tensors_sha(whole)


@pytest.mark.parametrize("file", [STATE, store.COMMIT])
def test_a_damaged_one_is_seen_and_made_again_with_the_same_bits(tmp_path, caplog, file):
    run = start()
    sweep_in(tmp_path).run([run])
    sha = tensors_sha(state_in(tmp_path, run))
    path = tmp_path / "pretrained" / key_of(run) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    found = verified(tmp_path, is_named_after=is_named_after)
    assert any(str(path.parent) in problem for problem in found.problems)
    assert tensors_sha(made(run, tmp_path).start) == sha
    assert "is trained again" in caplog.text
    assert verified(tmp_path, is_named_after=is_named_after).is_whole


def test_one_that_diverges_says_so_in_the_reason_of_its_runs(tmp_path):
    run = start(pretrained__lr=1e30)
    (facts,) = sweep_in(tmp_path).run([run]).values()
    assert facts["status"] == "failed"
    assert "trained before seed 0 diverged" in facts["reason"]
    assert "use a smaller pretrained.lr than 1e+30" in facts["reason"]


def test_a_plan_counts_what_comes_before_once_per_seed(tmp_path):
    facts = {"pretrained__steps": 4000, "model__params": {"widths": [256, 256]}}
    plain, runs = (
        [
            make_run(**{**base, **more, "loss": loss, "seed": seed})
            for loss in ("cross_entropy", "brier")
            for seed in (0, 1)
        ]
        for base, more in ((FACTS_ALONE, {}), (START, facts))
    )
    sweep = sweep_in(tmp_path)
    (without,) = forecast({"look": plain}, sweep)
    (whole,) = forecast({"look": runs}, sweep)
    assert (without.packs, whole.packs) == (1, 1)
    assert whole.seconds > 10 * without.seconds
    assert not (tmp_path / "pretrained").exists()


# ---- teachers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("loss", ["cross_entropy", "label_smoothing"])
def test_targets_are_what_the_teacher_says_at_its_temperature(tmp_path, temperature, loss):
    run = student(pretrained__temperature=temperature, pretrained__loss=loss)
    splits = made(run, tmp_path)
    teacher = by_torch(run)
    said = {split: teacher(rows).detach() for split, rows in splits.inputs.items()}
    for split, outputs in said.items():
        expected = (outputs / temperature).softmax(-1)
        torch.testing.assert_close(splits.distributions[split], expected, rtol=1e-3, atol=1e-5)
    assert splits.targets["train"].equal(splits.distributions["train"])
    plain = splits_of(make_run(loss="brier", **FACTS_ALONE))
    for split in ("validation", "test"):
        assert splits.targets[split].equal(plain.targets[split])


def test_a_teacher_may_be_another_model_than_its_students(tmp_path):
    run = student(model="linear", pretrained__model="mlp")
    teacher = by_torch(run, params={})
    expected = teacher(splits_of(run).inputs["train"]).softmax(-1).detach()
    said = made(run, tmp_path).targets["train"]
    torch.testing.assert_close(said, expected, rtol=1e-3, atol=1e-5)


def test_what_a_teacher_says_of_sequences_has_a_distribution_for_each_position(tiny, tmp_path):
    facts = {"data": "tiny_text", "data__targets": "teacher", "loss": "forward_kl", "steps": 2}
    facts |= {"model": "bigram", "batch_size": 4, "pretrained__steps": 3}
    run = make_run(**facts)
    before = TARGETS["teacher"](set_aside(DATA["tiny_text"].fn(seed=0), share=0.5))
    assert (
        before.targets["train"]
        .argmax(-1)
        .equal(set_aside(DATA["tiny_text"].fn(seed=0), share=0.5).targets["train"])
    )
    splits = made(run, tmp_path)
    assert splits.targets["train"].shape == (12, 4, 5)
    assert splits.targets["train"].sum(-1).allclose(torch.ones(12, 4))
    (facts,) = sweep_in(tmp_path).run([run]).values()
    assert facts == {"status": "done", "reason": ""}


def test_every_loss_has_the_same_teacher_and_data_sha_tells_one_from_another(tmp_path):
    runs = [
        student(loss=loss, pretrained__temperature=temperature)
        for loss in ("cross_entropy", "reverse_kl")
        for temperature in (1.0, 2.0)
    ]
    sweep_in(tmp_path, pack_size=1).run(runs)
    rows = records.load(tmp_path).runs
    assert {*rows.status} == {"done"}
    by_temperature = rows.groupby(
        rows.config.map(lambda text: json.loads(text)["pretrained"]["temperature"])
    )
    shas = by_temperature.data_sha.unique()
    assert [len(each) for each in shas] == [1, 1]
    assert len({each for (each,) in shas}) == 2
    assert rows.init_sha.nunique() == 1  # a teacher leaves the start of its students alone


def test_labels_decide_on_test_and_a_students_own_loss_is_held_against_the_teacher(tmp_path):
    run = student(optimizer__lr=1e-30)
    sweep_in(tmp_path).run([run])
    evals = records.load(tmp_path).evals.query("step == 4 and split == 'test'")
    value = evals.set_index("metric").value
    splits = made(run, tmp_path)
    model = initialised(
        partial(MODELS["mlp"].fn, *splits.sizes, widths=[12], activation="relu"), seed=0
    )
    with torch.no_grad():
        output = model(splits.inputs["test"])
    labels = splits.targets["test"].argmax(-1)
    own = functional.cross_entropy(output, splits.distributions["test"])
    np.testing.assert_allclose(value["loss:own"], own, rtol=1e-4)
    np.testing.assert_allclose(
        value["nll_raw"], functional.cross_entropy(output, labels), rtol=1e-4
    )
    assert value["accuracy"] == pytest.approx((output.argmax(-1) == labels).double().mean())


# ---- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "not used": ({"pretrained__steps": 7}, "steps is 7, and nothing is trained before this run"),
    "no part": ({**START, "pretrained__share": 0.0}, "share is 0.0: use above 0 up to below 1"),
    "all": ({**TEACHER, "pretrained__share": 1.0}, "share is 1.0: use 0 up to below 1"),
    "no update": ({**START, "pretrained__steps": 0}, "steps is 0: use a positive number"),
    "no rate": ({**START, "pretrained__lr": -1.0}, "lr is -1.0: use a positive number"),
    "cold": ({**TEACHER, "pretrained__temperature": 0.0}, "temperature is 0.0: use a positive"),
    "temperature of a start": (
        {**START, "pretrained__temperature": 2.0},
        "temperature is 2.0, which is for a teacher: use data.targets=teacher",
    ),
    "model of a start": (
        {**START, "pretrained__model": "linear"},
        "model is 'linear', which is for a teacher: use data.targets=teacher",
    ),
    "unknown loss": ({**START, "pretrained__loss": "brierr"}, "did you mean 'brier'"),
    "unknown model": ({**TEACHER, "pretrained__model": "mpl"}, "did you mean 'mlp'"),
    "another task": (
        {**START, "data": "diabetes", "loss": "mae"},
        "data 'diabetes' is regression: use pretrained.loss=mse",
    ),
    "no softmax": (
        {**TEACHER, "pretrained__loss": "bce_ova"},
        "'bce_ova', whose outputs are not outputs of a softmax: use another, like cross_entropy",
    ),
    "two outputs": (
        {**START, "data": "diabetes", "loss": "mae", "pretrained__loss": "gaussian_nll"},
        "'gaussian_nll', whose outputs are not single ones per target: use another, like mse",
    ),
    "both": ({**TEACHER, "init__from": "pretrained"}, "would start as its own teacher"),
    "numbers": (
        {**TEACHER, "data": "diabetes", "loss": "mse", "pretrained__loss": "mse"},
        "pretrained.loss is 'mse'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_before_a_run_is_refused_with_the_cure(case):
    facts, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        make_run(**{"loss": "brier", **FACTS_ALONE, **facts})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({**START, "pretrained__share": 0.99}, "batch_size is 32, the training split has 11"),
        ({**START, "pretrained__share": 0.9999}, "share is 0.9999, of 1078 examples"),
        ({**TEACHER, "pretrained__model": "gpt"}, "model gpt needs sequences of tokens"),
    ],
    ids=["a batch", "two examples", "a model of sequences"],
)
def test_what_does_not_fit_the_data_is_refused_before_anything_is_trained(tmp_path, facts, message):
    with pytest.raises(ConfigError, match=message):
        sweep_in(tmp_path).run([make_run(**{"loss": "brier", **facts})])
    assert not [*tmp_path.glob("pretrained")]
