"""Dense: p = J⁻ᵀ v by LU of the materialised Jacobian."""

from __future__ import annotations

import math

import torch

from nestgrad import Dense, InvalidInput, Status
from nestgrad_torch._solvers._common import SOLVERS, Solve, System


@SOLVERS.register(Dense)
def dense(spec: Dense, system: System) -> Solve:
    """n products for the columns of Jᵀ; the reciprocal condition number is the 1-norm one."""
    rhs = system.rhs
    n = rhs.numel()
    if n > spec.max_params:
        raise InvalidInput(
            f"Dense: {n} weights, limit max_params={spec.max_params}. Remedy: use CG or Neumann, or raise max_params."
        )
    matrix, products = system.matrix()
    basis = torch.eye(n, dtype=rhs.dtype, device=rhs.device)
    factors, pivots, info = torch.linalg.lu_factor_ex(matrix)
    solution, inverse = torch.linalg.lu_solve(factors, pivots, torch.cat([rhs[:, None], basis], 1)).split([1, n], 1)
    size, inverse_size = torch.linalg.matrix_norm(matrix, 1), torch.linalg.matrix_norm(inverse, 1)
    figures = torch.stack([size, inverse_size, (matrix @ solution - rhs[:, None]).norm(), info.to(rhs.dtype)])
    norm, inverse_norm, residual, zero_pivot = figures.tolist()
    if not math.isfinite(norm):
        status = Status.NONFINITE
    elif zero_pivot or not math.isfinite(inverse_norm) or norm * inverse_norm * n * system.eps > 1.0:
        status = Status.SINGULAR
    else:
        status = Status.CONVERGED
    smallest = 0.0 if zero_pivot else 1.0 / inverse_norm
    return Solve(
        solution=solution[:, 0], status=status, residual_norm=residual, steps=1, products=products, curvature=smallest
    )
