"""Declared relations between losses hold, and what is a duplicate is declared as one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from lossbench.claims import duplicates
from lossbench.losses import LOSSES
from lossbench.losses.relations import RELATIONS, Relation, related

OUTPUTS = {"regression": (1, 3), "classification": (2, 4, 10)}
each_relation = pytest.mark.parametrize(
    "relation", RELATIONS, ids=lambda r: r.sentence.replace(" ", "_")
)


def pairs(loss: str, outputs: int, *, is_hard: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(outputs)
    times = LOSSES[loss].outputs_per_target
    draws = torch.randn((times + 1, 200, outputs), generator=generator, dtype=torch.float64)
    output, draw = draws[:times].movedim(0, 1).flatten(1), draws[times]
    if LOSSES[loss].task == "regression":
        return 3 * output, draw.abs()
    hard = functional.one_hot(draw.argmax(-1), outputs).double()
    return output, hard if is_hard else draw.softmax(-1)


def gradient(name, params, output, target):
    output = output.clone().requires_grad_()
    values = LOSSES[name].values(output, target, params)
    return torch.autograd.grad(values.sum(), output)[0]


def mismatch(relation: Relation, outputs: int, *, is_hard: bool) -> float:
    """Largest difference of the two output gradients, relative to the largest of the other's."""
    at = pairs(relation.loss, outputs, is_hard=is_hard)
    one = gradient(relation.loss, relation.params, *at)
    other = gradient(relation.other, relation.other_params, *at)
    return float((one - relation.factor * other).abs().max() / one.abs().max())


@each_relation
def test_a_declared_relation_holds(relation):
    tolerance = 1e-6 if relation.limit else 1e-12
    for outputs in OUTPUTS[LOSSES[relation.loss].task]:
        for is_hard in (True, False) if relation.on == "every target" else (True,):
            assert mismatch(relation, outputs, is_hard=is_hard) < tolerance


@pytest.mark.parametrize("relation", [r for r in RELATIONS if r.on == "labels"], ids=str)
def test_a_relation_on_labels_fails_on_other_targets(relation):
    assert mismatch(relation, 4, is_hard=False) > 1e-3


@pytest.mark.parametrize("relation", [r for r in RELATIONS if r.limit], ids=str)
def test_a_limit_is_not_yet_reached_at_the_defaults(relation):
    away = Relation(relation.loss, relation.other, factor=relation.factor)
    assert mismatch(away, 4 if "c" in relation.other else 3, is_hard=True) > 1e-3


@pytest.mark.parametrize("task", OUTPUTS)
def test_two_losses_that_are_the_same_at_their_defaults_are_declared_so(task):
    rows = [loss for loss in LOSSES.values() if loss.task == task]
    measured = {frozenset((loss.name, other)) for loss in rows for other in duplicates(loss, rows)}
    assert measured == declared_duplicates(task)


def declared_duplicates(task: str) -> set[frozenset[str]]:
    groups: list[set[str]] = []
    for relation in RELATIONS:
        if relation.is_duplicate and LOSSES[relation.loss].task == task:
            pair = {relation.loss, relation.other}
            joined = [group for group in groups if group & pair]
            groups = [group for group in groups if not group & pair] + [pair.union(*joined)]
    return {frozenset(pair) for group in groups for pair in itertools.combinations(group, 2)}


def test_a_relation_reads_as_a_sentence():
    assert [relation.sentence for relation in related("mae_probs")] == [
        "mae_probs = 2 unhinged on labels"
    ]
    said = {relation.sentence for relation in related("gce")}
    assert "gce → cross_entropy as q → 0" in said
    assert "gce(q=1) = unhinged" in said
    assert "hellinger = 0.5 gce(q=0.5) on labels" in said
