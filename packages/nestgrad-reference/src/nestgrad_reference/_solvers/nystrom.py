"""Nystrom: p = (C M⁺ Cᵀ + ρI)⁻¹ v, the sum formed and solved as it is written."""

from __future__ import annotations

import numpy as np

from nestgrad import InvalidInput, Nystrom, Status
from nestgrad_reference._solvers._common import EPS, SOLVERS, Extras, Solve, is_finite, no_number
from nestgrad_reference._tree import Vector


@SOLVERS.register(Nystrom)
def nystrom(spec: Nystrom, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """The columns are numpy.random.default_rng(key).choice(n, rank, replace=False)."""
    n = rhs.size
    if spec.rank > n:
        raise InvalidInput(f"Nystrom.rank: got {spec.rank}, limit: {n} weights. Remedy: pass rank={n} or fewer.")
    if not is_finite(matrix, rhs):
        return no_number(rhs, Status.NONFINITE)
    places = np.random.default_rng(extras.key).choice(n, spec.rank, replace=False)
    columns = matrix[:, places]
    core = np.linalg.pinv(columns[places], rcond=n * EPS)
    solution = np.linalg.solve(columns @ core @ columns.T + spec.damping * np.eye(n), rhs)
    return Solve(
        solution=solution,
        status=Status.TRUNCATED,
        residual_norm=float(np.linalg.norm(matrix @ solution - rhs)),
        steps=spec.rank,
        products=spec.rank,
    )
