"""Losses whose difference to `mse` is known, for `known_truth.py`."""

from torch import Tensor

from lossbench.losses.spec import Loss


def twin(output: Tensor, target: Tensor) -> Tensor:
    """`mse` under another name: there is nothing to find."""
    return 0.5 * (output - target).square().sum(-1)


def doubled(output: Tensor, target: Tensor) -> Tensor:
    """Twice `mse`: under SGD half the learning rate makes them one."""
    return (output - target).square().sum(-1)


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
    for fn, formula in ((twin, "e²/2"), (doubled, "e²"), (shifted, "(e - shift)²/2"))
)
