"""Identity: p = scale · v."""

from __future__ import annotations

import numpy as np

from nestgrad import Identity, Status
from nestgrad_reference._solvers._common import SOLVERS, Extras, Solve
from nestgrad_reference._tree import Vector


@SOLVERS.register(Identity)
def identity(spec: Identity, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """The residual norm is that of p = 0."""
    return Solve(solution=spec.scale * rhs, status=Status.TRUNCATED, residual_norm=float(np.linalg.norm(rhs)), steps=1)
