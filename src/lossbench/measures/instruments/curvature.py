"""Curvature of the run's own mean loss: Hessian-vector products by differentiating twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lossbench.fingerprints import stream
from lossbench.measures.instruments.moment import Moment, Parameters, flat, inner

LANCZOS = 16
"""Number of Hessian-vector products for the largest eigenvalue."""

HUTCHINSON = 8
"""Number of Hessian-vector products for the trace."""

Product = Callable[[Tensor], Tensor]


def curvature(moment: Moment) -> dict[str, Tensor]:
    """Largest eigenvalue and trace of the Hessian of the mean own loss over the batch.

    The Hessian is that of automatic differentiation: the second derivative of a piecewise linear
    loss, like mae, counts as zero, and the rest comes from the network. The eigenvalue is a lower
    bound, close after `LANCZOS` products. The trace is a mean over `HUTCHINSON` vectors of random
    signs, unbiased, with variance 2 (|H|_F² - sum of H_ii²) / `HUTCHINSON`. The vectors depend on
    the seed only, and are the same at every step and for every loss.
    """
    size, of_seed = sum(value[0].numel() for value in moment.parameters.values()), {}
    for seed in {*moment.seeds}:
        draws = torch.randint(2, (1 + HUTCHINSON, size), generator=stream(seed, "instruments"))
        of_seed[seed] = 2.0 * draws - 1.0
    signs = torch.stack([of_seed[seed] for seed in moment.seeds]).to(moment.loss)
    product = hessian_product(moment.mean_loss, moment.parameters)
    traces = [inner(signs[:, 1 + i], product(signs[:, 1 + i])) for i in range(HUTCHINSON)]
    return {
        "curvature_top": largest_eigenvalue(product, signs[:, 0], steps=min(LANCZOS, size)),
        "curvature_trace": torch.stack(traces, -1).mean(-1),
    }


def sharpness(moment: Moment) -> dict[str, Tensor]:
    """Curvature of the mean own loss along the update, and change of that loss by the update.

    Both use the batch of the update. The curvature is NaN if the update is zero.
    """
    product = hessian_product(moment.mean_loss, moment.parameters)
    step = flat(moment.update.values())
    # Scaled, since only the direction matters: squares of a small step would underflow in float32.
    along = step / step.abs().amax(-1, keepdim=True)
    bend = inner(along, product(torch.where(along.isfinite(), along, 0.0)))
    after = {name: value + moment.update[name] for name, value in moment.parameters.items()}
    with torch.no_grad():
        change = moment.mean_loss(after) - moment.mean_loss(moment.parameters)
    return {"step_curvature": bend / inner(along, along), "step_loss_change": change}


def hessian_product(mean_loss: Callable[[Parameters], Tensor], parameters: Parameters) -> Product:
    """Make a function from vectors [K, P] to each member's Hessian times the vector, [K, P].

    Source:
        Pearlmutter 1994, Neural Computation.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    # A member's derivatives of the sum over members are those of the member's loss.
    total = mean_loss(leaves).sum()
    slopes = torch.autograd.grad(
        total, [*leaves.values()], retain_graph=True, create_graph=True, materialize_grads=True
    )
    gradient = flat(slopes)

    def product(vectors: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a constant gradient
            return torch.zeros_like(vectors)
        derivatives = torch.autograd.grad(
            gradient, [*leaves.values()], vectors, retain_graph=True, materialize_grads=True
        )
        return flat(derivatives).detach()

    return product


def largest_eigenvalue(product: Product, start: Tensor, *, steps: int) -> Tensor:
    """Largest eigenvalue of each member's symmetric matrix, [K], from below.

    Lanczos' method with at most P `steps`, from vectors `start` [K, P] that are not zero; each new
    vector is orthogonalised twice against all earlier vectors.

    Source:
        Lanczos 1950; Parlett 1998, The Symmetric Eigenvalue Problem, chapter 13.
    """
    vector = start / inner(start, start).sqrt()[:, None]
    basis, diagonal, off = [], [], []
    is_going = torch.ones_like(start[:, 0], dtype=torch.bool)
    # Relative length below which the remainder of a vector is rounding error.
    rounding = 10.0 * torch.finfo(start.dtype).eps * start.shape[-1] ** 0.5
    for _ in range(steps):
        basis.append(vector)
        image = product(vector)
        along = inner(vector, image)
        # If the Krylov space is exhausted, repeat the first entry: it lies between the eigenvalues.
        diagonal.append(torch.where(is_going, along, diagonal[0]) if diagonal else along)
        scale = inner(image, image).sqrt()
        for earlier in (*basis, *basis):
            image = image - inner(earlier, image)[:, None] * earlier
        length = inner(image, image).sqrt()
        is_going = is_going & (length > rounding * scale)
        off.append(torch.where(is_going, length, 0.0))
        vector = torch.where(is_going[:, None], image / length[:, None], 0.0)
    matrix = torch.stack(diagonal, -1).double().cpu().diag_embed()  # tridiagonal
    if steps > 1:
        beside = torch.stack(off[:-1], -1).double().cpu().diag_embed(1)
        matrix = matrix + beside + beside.transpose(-1, -2)
    is_finite = matrix.flatten(1).isfinite().all(-1)
    # LAPACK raises an error for all members if one matrix has a NaN.
    safe = torch.where(is_finite[:, None, None], matrix, 0.0)
    top = torch.linalg.eigvalsh(safe)[:, -1]
    return torch.where(is_finite, top, torch.nan).to(start)
