"""Words of the command line that name files of somebody's own."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from own_files import FILE, ask

from lossbench import cli, records

pytestmark = pytest.mark.usefixtures("own_folder")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 3))
Y = X @ [1.0, -2.0, 0.0] + RNG.normal(size=100)


def test_functions_of_a_file_are_typed_by_their_names(own_folder, capsys):
    (own_folder / "own_words.py").write_text(FILE)
    assert (
        ask(capsys, "model=own_words.py:Tiny", "data=diabetes", "loss=mse", "steps=2", "name=t")[0]
        == 0
    )
    words = (
        "loss=own_words.py:wing",
        "model=own_words.py:net",
        "data=own_words.py:noise",
        "steps=5",
    )
    code, said = ask(capsys, *words, "model.params.width=4", "batch_size=16")
    assert code == cli.DONE, said.err
    (run,) = records.load("runs/default").runs.to_dict("records")
    assert (run["loss"], run["model"], run["data"]) == ("wing", "net", "noise")
    assert json.loads(run["config"])["model"]["params"] == {"width": 4}


BAD_MODELS = {
    "soft_net": "it ends in a softmax: return the raw output",
    "lazy_net": "its layer '' is lazy",
    "mixing_net": "depends on the other examples",
    "nett": "has no function 'nett': did you mean 'net'",
}


@pytest.mark.parametrize(("name", "message"), BAD_MODELS.items(), ids=BAD_MODELS)
def test_a_model_that_would_train_wrong_is_recognised(name, message, own_folder, capsys):
    (own_folder / "own_words.py").write_text(FILE)
    code, said = ask(capsys, f"model=own_words.py:{name}", "data=digits", "steps=5")
    assert code == cli.MISTAKE
    assert message in said.err
    assert not (own_folder / "runs").exists()


def test_a_table_is_typed_with_its_target_and_trains_anew_when_it_changes(capsys, caplog):
    frame = pd.DataFrame({"a": X[:, 0], "kind": ["u", "v"] * 50, "price": Y})
    frame.to_csv("cars.csv", index=False)
    words = ("data=cars.csv", "target=price", "loss=mse", "steps=5", "batch_size=16")
    assert ask(capsys, *words)[0] == cli.DONE
    assert ask(capsys, *words)[0] == cli.DONE
    assert caplog.messages[-1].startswith("1 runs, 1 already there")
    frame.assign(price=Y + 1e-3).to_csv("cars.csv", index=False)
    assert ask(capsys, *words)[0] == cli.DONE
    assert caplog.messages[-2].startswith("1 runs, 0 already there, 1 to train")
    assert ask(capsys, *words[:1])[1].err.count("with target= (a, kind, price)") == 1


NOISE = """
import torch
from lossbench.losses.spec import Loss

def noisy(output, target):
    return (output - target).square().sum(-1) * torch.rand_like(output[..., 0])

def noisier(output, target):
    return noisy(output, target)

ROW = Loss(fn=noisier, inverse_link="identity", family="own", task="regression", formula="?",
           claims=frozenset(), source="mine")
"""


def test_a_loss_that_draws_is_trained_and_named_function_or_row(own_folder, capsys, caplog):
    (own_folder / "own_noise.py").write_text(NOISE)
    losses = "loss=own_noise.py:noisy,own_noise.py:ROW"
    code, said = ask(capsys, "plan", "-m", "data=diabetes", "model=linear", "steps=2", losses)
    assert code == cli.DONE, said.err
    assert "2 runs" in said.out
    for name in ("noisy", "noisier"):
        assert any(text.startswith(f"{name} draws random numbers") for text in caplog.messages)
