"""Identity: p = scale · v."""

from __future__ import annotations

from torch import Tensor

from nestgrad import Identity, Status
from nestgrad_torch._solvers._common import SOLVERS, Operator, Solve


@SOLVERS.register(Identity)
def identity(spec: Identity, operator: Operator, rhs: Tensor, symmetric: bool, scale: float) -> Solve:
    """No product; the residual norm is that of p = 0."""
    return Solve(
        solution=spec.scale * rhs, status=Status.TRUNCATED, residual_norm=float(rhs.norm()), steps=1, products=0
    )
