"""What is measured at a logged step, against a plain computation for each member."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossbench.measures import probes

ALL = torch.ones(3).bool()


@pytest.fixture
def measured():
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    names = ("0.weight", "0.bias", "2.weight")
    shapes = ((3, 4, 2), (3, 4), (3, 1, 4))
    tensors = [{n: normal(*s) for n, s in zip(names, shapes, strict=True)} for _ in range(3)]
    batch = {
        "loss": normal(3, 5).abs(),
        "prediction": normal(3, 5, 4).softmax(-1),
        "target": torch.eye(4, dtype=torch.float64)[torch.arange(15) % 4].view(3, 5, 4),
        "output_gradient": normal(3, 5, 4),
    }
    batch["prediction"][:, 0] = torch.tensor([0.999, 0.001, 0.0, 0.0])  # one is saturated
    return batch, dict(zip(("gradient", "before", "after"), tensors, strict=True))


def flat(tensors, place):
    return np.concatenate([value[place].numpy().ravel() for value in tensors.values()])


def squares(state, spans=(slice(None),)):
    return probes.sums_of_squares(**state, spans=spans)


def test_every_column_of_steps_equals_the_plain_computation(measured):
    batch, state = measured
    flags = {"is_probability": torch.tensor([True, True, False]), "has_error": ALL}
    found = probes.steps(**batch, sums=squares(state), **flags)
    for k in range(3):
        own = {name: value[k].numpy() for name, value in batch.items()}
        error = own["prediction"] - own["target"]
        slope = own["output_gradient"]
        p = own["prediction"]
        before, after = flat(state["before"], k), flat(state["after"], k)
        expected = {
            "loss_value": own["loss"].mean(),
            "gradient_norm": np.linalg.norm(flat(state["gradient"], k)),
            "output_gradient_norm": np.sqrt((np.linalg.norm(slope, axis=-1) ** 2).mean()),
            "error_norm": np.sqrt((np.linalg.norm(error, axis=-1) ** 2).mean()),
            "cosine": (slope * error).sum() / np.linalg.norm(slope) / np.linalg.norm(error),
            "saturated_share": (p * (1 - p) < 0.01).all(-1).mean() if k < 2 else np.nan,
            "update_ratio": np.linalg.norm(after - before) / np.linalg.norm(before),
        }
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][k].item() == pytest.approx(value, rel=1e-12, nan_ok=True)


def test_the_output_gradient_is_measured_over_the_outputs_that_make_the_prediction(measured):
    batch, state = measured
    flags = {"is_probability": ALL, "has_error": ALL}
    plain = probes.steps(**batch, sums=squares(state), **flags)
    wider = torch.cat([batch["output_gradient"], 9.0 * torch.ones(3, 5, 4)], -1)
    wide = probes.steps(**batch | {"output_gradient": wider}, sums=squares(state), **flags)
    for column in ("output_gradient_norm", "cosine"):
        assert torch.equal(plain[column], wide[column])


def test_where_no_output_has_an_error_all_count_and_there_is_no_cosine(measured):
    batch, state = measured
    wider = torch.cat([batch["output_gradient"], torch.ones(3, 5, 4)], -1).double()
    has_error = torch.tensor([True, False, True])
    flags = {"is_probability": ALL, "has_error": has_error}
    found = probes.steps(**batch | {"output_gradient": wider}, sums=squares(state), **flags)
    assert found["cosine"].isnan().equal(~has_error)
    expected = np.sqrt((np.linalg.norm(wider[1].numpy(), axis=-1) ** 2).mean())
    assert found["output_gradient_norm"][1].item() == pytest.approx(expected)


@pytest.mark.parametrize("threads", [1, 4])
def test_sums_of_squares_have_the_same_bits_however_many_members_are_squared_at_once(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (7, 65, 33), "row": (7, 40_001), "one": (7, 1)}
    state = {
        part: {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for part in ("gradient", "before", "after")
    }
    whole, apart = squares(state), squares(state, [slice(0, 2), slice(2, 4), slice(4, 7)])
    torch.set_num_threads(before)
    assert all(torch.equal(whole[name], apart[name]) for name in shapes)
    moved = (state["after"]["row"] - state["before"]["row"]).double()
    assert whole["row"][2].double().numpy() == pytest.approx((moved**2).sum(-1).numpy(), rel=1e-5)


def test_layers_group_the_parameters_of_a_module(measured):
    _, state = measured
    found = probes.layers(squares(state))
    assert list(found) == ["0", "2"]
    expected = np.hypot(
        np.linalg.norm(state["before"]["0.weight"][1]), np.linalg.norm(state["before"]["0.bias"][1])
    )
    assert found["0"]["weight_norm"][1].item() == pytest.approx(expected, rel=1e-12)


def test_the_cosine_is_nan_at_zero_error_and_survives_cubes_of_large_numbers():
    first = torch.tensor([[0.0, 0.0], [1e25, 0.0], [3e30, 4e30]])
    second = torch.tensor([[1.0, 2.0], [1e25, 0.0], [3.0, -4.0]])
    found = probes.cosine(first, second)
    assert found[0].isnan()
    torch.testing.assert_close(found[1:], torch.tensor([1.0, -7 / 25]))
