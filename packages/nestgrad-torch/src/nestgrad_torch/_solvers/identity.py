"""Identity: p = scale · v."""

from __future__ import annotations

from nestgrad import Identity, Status
from nestgrad_torch._solvers._common import SOLVERS, Solve, System


@SOLVERS.register(Identity)
def identity(spec: Identity, system: System) -> Solve:
    """No product; the residual norm is that of p = 0."""
    norm = float(system.rhs.norm())
    return Solve(solution=spec.scale * system.rhs, status=Status.TRUNCATED, residual_norm=norm, steps=1, products=0)
