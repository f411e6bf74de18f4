"""Losses whose difference to `mse` is known, for `known_truth.py`."""

from torch import Tensor

from lossbench.losses.spec import Loss


def twin(output: Tensor, target: Tensor) -> Tensor:
    """`mse` under another name: there is nothing to find."""
    return 0.5 * (output - target).square().sum(-1)


def tripled(output: Tensor, target: Tensor) -> Tensor:
    """Three times `mse`: under SGD a third of the learning rate makes them one."""
    return 1.5 * (output - target).square().sum(-1)


def shifted(output: Tensor, target: Tensor, *, shift: float = 0.0) -> Tensor:
    """`mse` against a target that is moved: it learns the function plus `shift`.

    Args:
        output: [..., C].
        target: [..., C].
        shift: Planted bias, in units of the target.
    """
    return 0.5 * (output - target - shift).square().sum(-1)


LOSSES = tuple(
    Loss(
        fn=fn,
        inverse_link="identity",
        family="power",
        task="regression",
        formula=formula,
        claims=frozenset(),
        source="known_truth.py",
    )
    for fn, formula in ((twin, "e²/2"), (tripled, "3e²/2"), (shifted, "(e - shift)²/2"))
)
