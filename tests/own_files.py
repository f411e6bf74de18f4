"""Files of somebody's own, and what a command says of them."""

from __future__ import annotations

from lossbench import cli


def ask(capsys, *words):
    code = cli.main([*words, "hydra.launcher.workers=1"])
    return code, capsys.readouterr()


FILE = """
import torch
from torch import nn
from lossbench.data.splits import by_split, permuted, regression


def wing(output, target, w=1.0):
    size = (output - target).abs()
    return torch.where(size < w, w * torch.log1p(size / 0.2), size).sum(-1)


def net(inputs, outputs, *, width=8):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def soft_net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Softmax(-1))


def lazy_net(inputs, outputs):
    return nn.LazyLinear(outputs)


class Tiny(nn.Linear):
    pass


def mixing_net(inputs, outputs):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(inputs, outputs)

        def forward(self, inputs):
            return self.last(inputs - inputs.mean(0))

    return Mixing()


def noise(*, seed):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 3, generator=draw, dtype=torch.float64)
    rows = permuted(100, seed)
    return regression(by_split(inputs, rows), by_split(inputs[:, :1] ** 2, rows))
"""
