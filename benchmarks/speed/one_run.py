"""B3, a process per run: what a shell loop over losses starts. Plain torch, nothing of lossbench.

Command: python one_run.py FILE STEPS, where FILE holds inputs, targets, a model and a batch size.
"""

from __future__ import annotations

import itertools
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss


def main() -> None:
    """Train for some steps and print the last loss."""
    torch.set_num_threads(1)
    found = torch.load(sys.argv[1], weights_only=True)
    inputs, targets, widths = found["inputs"], found["targets"], found["widths"]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    loss_of = mse_loss if widths[-1] == 1 else cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss = torch.zeros(())
    for _ in range(int(sys.argv[2])):
        rows = torch.randint(len(inputs), (found["batch_size"],))
        optimizer.zero_grad()
        loss = loss_of(model(inputs[rows]), targets[rows])
        loss.backward()
        optimizer.step()
    print(loss.item())


if __name__ == "__main__":
    main()
