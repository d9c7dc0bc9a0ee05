"""Neumann: p = P v with the matrix polynomial P = a Σ_{j<k} (I - a Jᵀ)ʲ."""

from __future__ import annotations

import math

import numpy as np

from nestgrad import GROWTH_LIMIT, Neumann, Status
from nestgrad_reference._solvers._common import SOLVERS, Extras, Solve, diagonal
from nestgrad_reference._tree import Vector


@SOLVERS.register(Neumann)
def neumann(spec: Neumann, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """Dense powers of M = I - a Jᵀ, with a preconditioner C of I - a Jᵀ C; the terms' norms give the status."""
    scaling = diagonal(rhs, extras)
    if extras.preconditioner is not None:
        matrix, symmetric = matrix * scaling, False
    step = np.eye(rhs.size) - spec.step_size * matrix
    powers = [np.linalg.matrix_power(step, j) for j in range(spec.num_terms)]
    sizes = [float(np.linalg.norm(power @ rhs)) for power in powers]
    ratio = sizes[-1] / sizes[-2] if len(sizes) > 1 and sizes[-2] else math.nan
    return Solve(
        solution=scaling * (spec.step_size * sum(powers) @ rhs),
        status=series_status(sizes, symmetric),
        residual_norm=sizes[-1],
        steps=spec.num_terms,
        products=spec.num_terms - 1,
        contraction=ratio,
        curvature=(1.0 - ratio) / spec.step_size,
    )


def series_status(sizes: list[float], symmetric: bool) -> Status:
    """From the norms of the terms; see nestgrad.Neumann."""
    pairs = list(zip(sizes, sizes[1:], strict=False))
    if not math.isfinite(sizes[-1]):
        grew = any(after > GROWTH_LIMIT * before for before, after in pairs)
        return Status.DIVERGED if grew else Status.NONFINITE
    earlier = [] if symmetric else [sizes[0], sizes[(len(sizes) - 1) // 2]]
    grows = all(sizes[-1] > GROWTH_LIMIT * size for size in [*sizes[-2:-1], *earlier])
    return Status.DIVERGED if pairs and grows else Status.TRUNCATED
