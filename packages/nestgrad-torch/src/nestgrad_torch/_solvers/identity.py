"""Identity: p = scale · v."""

from __future__ import annotations

from torch.linalg import vector_norm

from nestgrad import Identity, Status
from nestgrad_torch._solvers._common import SOLVERS, Deferred, Ending, System


@SOLVERS.register(Identity)
def identity(spec: Identity, system: System) -> Deferred:
    """No product; the residual norm is that of p = 0."""
    return Deferred(solution=spec.scale * system.rhs, figures=[vector_norm(system.rhs)], read=_read)


def _read(figures: list[float]) -> Ending:
    return Ending(status=Status.TRUNCATED, residual_norm=figures[0], steps=1, products=0)
