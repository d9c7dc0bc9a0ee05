"""Dense: p = J⁻ᵀ v."""

from __future__ import annotations

import numpy as np

from nestgrad import Dense, InvalidInput, Status
from nestgrad_reference._solvers._common import EPS, SOLVERS, Extras, Solve
from nestgrad_reference._tree import Vector


@SOLVERS.register(Dense)
def dense(spec: Dense, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """LU; singular by the 1-norm reciprocal condition number."""
    n = rhs.size
    if n > spec.max_params:
        raise InvalidInput(
            f"Dense: {n} weights, limit max_params={spec.max_params}. Remedy: use CG or Neumann, or raise max_params."
        )
    nothing = np.full(n, np.nan)
    if not np.isfinite(matrix).all():
        return Solve(solution=nothing, status=Status.NONFINITE, residual_norm=np.nan, steps=1)
    try:
        inverse_norm = float(np.linalg.norm(np.linalg.inv(matrix), 1))
        solution = np.linalg.solve(matrix, rhs)
    except np.linalg.LinAlgError:
        return Solve(solution=nothing, status=Status.SINGULAR, residual_norm=np.nan, steps=1, curvature=0.0)
    singular = float(np.linalg.norm(matrix, 1)) * inverse_norm * n * EPS > 1.0
    return Solve(
        solution=solution,
        status=Status.SINGULAR if singular else Status.CONVERGED,
        residual_norm=float(np.linalg.norm(matrix @ solution - rhs)),
        steps=1,
        curvature=1.0 / inverse_norm,
        products=n,
    )
