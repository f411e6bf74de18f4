"""A plain configuration, runs made from it, and a small experiment."""

from __future__ import annotations

import copy
from pathlib import Path

from omegaconf import OmegaConf

from lossbench.ask.compose import Composed, run_of
from lossbench.question import Run, checked
from lossbench.question.schema import Config

PLAIN: dict = OmegaConf.to_container(  # type: ignore[assignment]
    OmegaConf.merge(
        OmegaConf.structured(Config),
        {
            "data": {"name": "diabetes", "fn": "diabetes"},
            "model": {
                "name": "mlp",
                "fn": "mlp",
                "params": {"widths": [16, 16], "activation": "relu"},
            },
            "loss": {"name": "mse", "fn": "mse"},
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            "schedule": {"name": "constant"},
            "engine": {"name": "cpu"},
            "size": {"name": "laptop"},
            "name": "test",
            "steps": 20,
            "batch_size": 32,
            "log_every": 5,
            "eval_every": 10,
        },
    )
)


IN_THIS_PROCESS = "hydra.launcher.workers=1"
"""For sweeps of several packs: another process takes seconds to import what it needs."""


TINY = """
# @package _global_
defaults:
  - override /hydra/sweeper: protocol
name: tiny
steps: 4
batch_size: 16
log_every: 2
eval_every: 2
hydra:
  sweeper:
    blocks:
      - data: [diabetes]
        model: [linear]
        loss: [mse, mae]
    candidates:
      lr: [0.01, 0.1, 1.0]
      extend: 0
    looks: [3]
    declare:
      primary: { regression: rmse, classification: accuracy }
      endpoint: last
      reference: { regression: mse, classification: cross_entropy }
      margin: { regression: 0.02, classification: 0.01 }
      family: task
      confidence: 0.95
"""
"""An experiment of two losses at three rates on three seeds, in seconds."""


def write_experiment(folder: Path, name: str, text: str) -> None:
    """Put an experiment where `--config-dir conf` finds it from that folder."""
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / f"{name}.yaml").write_text(text)


def set_key(plain: dict, key: str, value: object) -> None:
    """Set one dotted key of a nested dictionary."""
    *path, last = key.split(".")
    for part in path:
        plain = plain[part]
    plain[last] = value


def plain_config(**overrides: object) -> dict:
    """A resolved configuration; dotted keys are written with double underscores."""
    plain = copy.deepcopy(PLAIN)
    for key, value in overrides.items():
        if key in ("data", "model", "loss") and isinstance(value, str):
            plain[key] |= {"name": value, "fn": value, "params": {}}
        elif key in ("optimizer", "schedule"):
            plain[key] |= {"name": value, "params": {}}
        else:
            set_key(plain, key.replace("__", "."), value)
    return plain


def to_run(config: Composed) -> Run:
    return checked(run_of(config))


def make_run(**overrides: object) -> Run:
    return to_run(plain_config(**overrides))
