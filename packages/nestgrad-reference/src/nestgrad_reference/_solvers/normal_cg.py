"""NormalCG: the point of each Krylov space of the normal equations with the least residual."""

from __future__ import annotations

import numpy as np

from nestgrad import NormalCG, Status
from nestgrad_reference._solvers._common import SOLVERS, Extras, Solve, begin, is_finite, no_number
from nestgrad_reference._solvers._krylov import as_given, least_residual
from nestgrad_reference._tree import Vector


@SOLVERS.register(NormalCG)
def normal_cg(spec: NormalCG, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """argmin |Jᵀp - v| over p₀ + Krylov(J Jᵀ, J r₀) by least squares."""
    if not is_finite(matrix, rhs, extras.start):
        return no_number(rhs, Status.NONFINITE)
    normal = matrix.T @ matrix
    return least_residual(
        spec,
        as_given(matrix, rhs),
        scale,
        begin(rhs, extras),
        lambda residual: (normal, matrix.T @ residual),
        products=2,
    )
