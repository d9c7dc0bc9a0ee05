"""Identity: p = scale · v."""

from __future__ import annotations

from nestgrad import Identity, Status
from nestgrad_jax._solvers._common import SOLVERS, Solve, System, code
from nestgrad_jax._tree import norm


@SOLVERS.register(Identity)
def identity(spec: Identity, system: System) -> Solve:
    """No product; the residual norm is that of p = 0."""
    return Solve(
        solution=spec.scale * system.rhs,
        status=code(Status.TRUNCATED),
        residual_norm=norm(system.rhs),
        steps=1,
        products=0,
    )
