"""RandomNeumann: p = k a (I - aJᵀ)ᵐ v for one m drawn from 0 … k-1."""

from __future__ import annotations

import math

import numpy as np

from nestgrad import RandomNeumann
from nestgrad_reference._solvers._common import SOLVERS, Extras, Solve
from nestgrad_reference._solvers.neumann import series_status
from nestgrad_reference._tree import Vector


@SOLVERS.register(RandomNeumann)
def random_neumann(
    spec: RandomNeumann, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras
) -> Solve:
    """m = numpy.random.default_rng(key).integers(k)."""
    m = int(np.random.default_rng(extras.key).integers(spec.num_terms))
    powers = [np.linalg.matrix_power(np.eye(rhs.size) - spec.step_size * matrix, j) for j in range(m + 1)]
    sizes = [float(np.linalg.norm(power @ rhs)) for power in powers]
    ratio = sizes[-1] / sizes[-2] if m and sizes[-2] else math.nan
    return Solve(
        solution=spec.num_terms * spec.step_size * powers[-1] @ rhs,
        status=series_status(sizes, symmetric),
        residual_norm=sizes[-1],
        steps=m + 1,
        products=m,
        contraction=ratio,
        curvature=(1.0 - ratio) / spec.step_size,
    )
