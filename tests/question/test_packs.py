"""Grouping of runs into packs."""

from __future__ import annotations

import itertools

import pytest
from configs import make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from lossbench.question import packs

STRUCTURE = {
    "data": "noisy_linear",
    "model": "linear",
    "optimizer": "adam",
    "schedule": "cosine",
    "steps": 21,
    "batch_size": 31,
    "log_every": 4,
    "eval_every": 9,
    "engine__precision": "float64",
    "init__output_scale": 0.5,
}
"""What may not differ within a pack, as another value than the plain configuration's."""

LABELS = {"data": "gaussian_mixture", "loss": "brier"}
OF_LABELS = {
    "data__targets": "distribution",
    "data__corruption": {"name": "symmetric", "params": {}},
    "init__from": "permuted_labels",
}
VARIES = {
    "loss": "mae",
    "seed": 7,
    "optimizer__lr": 0.2,
    "optimizer__momentum": 0.5,
    "optimizer__weight_decay": 0.01,
}
"""What may."""

GRID = [
    make_run(loss=loss, seed=seed, optimizer__lr=lr, steps=steps)
    for loss, seed, lr, steps in itertools.product(
        ("mse", "mae", "huber"), (0, 1), (0.1, 0.2), (4, 5)
    )
]


def ids(grouped):
    return [run.run_id for pack in grouped for run in pack.runs]


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.sampled_from(GRID), max_size=60),
    pack_size=st.integers(min_value=1, max_value=70),
)
def test_packs_are_a_partition_of_bounded_size_and_of_one_structure_each(runs, pack_size):
    grouped = packs.group(runs, pack_size=pack_size)
    assert sorted(ids(grouped)) == sorted({run.run_id for run in runs})
    for pack in grouped:
        assert 1 <= len(pack.runs) <= pack_size
        assert len({run.steps for run in pack.runs}) == 1
        assert len(packs.slices(pack)) == len({run.loss.name for run in pack.runs})


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(len(GRID))), pack_size=st.integers(1, 50))
def test_packs_do_not_depend_on_the_order_of_the_runs(order, pack_size):
    expected = {p.pack_id: p.runs for p in packs.group(GRID, pack_size=pack_size)}
    shuffled = packs.group([GRID[place] for place in order], pack_size=pack_size)
    assert {p.pack_id: p.runs for p in shuffled} == expected


def test_packs_of_one_structure_have_nearly_equal_sizes():
    runs = [make_run(seed=seed) for seed in range(10)]
    assert [len(pack.runs) for pack in packs.group(runs, pack_size=4)] == [4, 4, 2]
    assert [len(pack.runs) for pack in packs.group(runs, pack_size=9)] == [5, 5]


@pytest.mark.parametrize(
    ("facts", "change", "count"),
    [
        *(pytest.param({}, {key: STRUCTURE[key]}, 2, id=key) for key in STRUCTURE),
        *(pytest.param(LABELS, {key: OF_LABELS[key]}, 2, id=key) for key in OF_LABELS),
        *(pytest.param({}, {key: VARIES[key]}, 1, id=key) for key in VARIES),
    ],
)
def test_what_shapes_the_training_never_differs_within_a_pack_and_what_is_compared_may(
    facts, change, count
):
    runs = [make_run(**facts), make_run(**(facts | change))]
    assert len(packs.group([*runs, runs[0]], pack_size=10)) == count
    assert packs.group([], pack_size=10) == []


def test_the_same_loss_with_other_parameters_is_another_slice():
    runs = [
        make_run(loss="huber", loss__params={"delta": delta}, seed=seed)
        for seed in range(3)
        for delta in (1.0, 0.1)
    ]
    (pack,) = packs.group(runs, pack_size=10)
    spans = packs.slices(pack)
    assert [(span.start, span.stop) for span, _ in spans] == [(0, 3), (3, 6)]
    for span, first in spans:
        assert all(run.loss == first.loss for run in pack.runs[span])


def test_a_pack_with_other_members_has_another_id():
    runs = [make_run(seed=seed) for seed in range(4)]
    grouped = [packs.group(runs[:count], pack_size=10) for count in (1, 2, 3, 4)]
    assert len({pack.pack_id for (pack,) in grouped}) == 4
