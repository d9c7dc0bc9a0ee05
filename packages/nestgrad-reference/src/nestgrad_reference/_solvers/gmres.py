"""GMRES: the point of each Krylov space with the least residual, preconditioned from the right."""

from __future__ import annotations

import numpy as np

from nestgrad import GMRES, Status
from nestgrad_reference._solvers._common import SOLVERS, Extras, Solve, begin, diagonal, is_finite, no_number
from nestgrad_reference._solvers._krylov import as_given, least_residual
from nestgrad_reference._tree import Vector


@SOLVERS.register(GMRES)
def gmres(spec: GMRES, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """argmin |Jᵀp - v| over p₀ + P span{r₀, JᵀP r₀, …} by least squares; no Hessenberg matrix."""
    if not is_finite(matrix, rhs, extras.start):
        return no_number(rhs, Status.NONFINITE)
    scaling = diagonal(rhs, extras)
    return least_residual(
        spec,
        as_given(matrix, rhs),
        scale,
        begin(rhs, extras),
        lambda residual: (matrix * scaling, residual),
        preconditioner=scaling,
        restart=spec.restart,
    )
