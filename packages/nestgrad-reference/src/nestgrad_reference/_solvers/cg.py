"""CG: each iterate as the minimiser of ½pᵀJp - vᵀp over its Krylov space, by projection on an orthonormal basis."""

from __future__ import annotations

import math

import numpy as np

from nestgrad import CG, Status, symmetry_limit
from nestgrad_reference._solvers._common import EPS, SOLVERS, Solve
from nestgrad_reference._tree import Vector


@SOLVERS.register(CG)
def cg(spec: CG, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float) -> Solve:
    """No recurrence of conjugate directions anywhere: the k-th iterate is K (KᵀJK)⁻¹ Kᵀ v."""
    size = float(np.linalg.norm(matrix))
    defect = float(np.linalg.norm(matrix - matrix.T)) / (2.0 * size) if size else 0.0
    if not np.isfinite(matrix).all() or not np.isfinite(rhs).all():
        return Solve(solution=np.full_like(rhs, np.nan), status=Status.NONFINITE, residual_norm=np.nan, steps=0)
    if not symmetric and defect > symmetry_limit(EPS):
        nan = np.full_like(rhs, np.nan)
        return Solve(solution=nan, status=Status.NOT_SYMMETRIC, residual_norm=math.nan, steps=0, asymmetry=defect)

    norm = float(np.linalg.norm(rhs))
    limit = max(spec.rtol * norm, spec.atol / scale)
    solution, remaining, steps, smallest = np.zeros_like(rhs), norm, 0, math.nan
    basis = np.zeros((rhs.size, 0))
    status: Status | None = None
    while remaining > max(limit, EPS * norm) and steps < spec.max_steps:
        wider = _extend(basis, matrix, rhs)
        if wider is None:
            break
        projected = wider.T @ matrix @ wider
        ritz = np.linalg.eigvalsh(0.5 * (projected + projected.T))
        smallest, noise = float(ritz[0]), 10.0 * math.sqrt(rhs.size) * EPS * float(np.abs(ritz).max())
        if smallest <= noise:
            status = Status.INDEFINITE if smallest < -noise else Status.SINGULAR
            break
        basis, steps = wider, steps + 1
        solution = basis @ np.linalg.solve(projected, basis.T @ rhs)
        remaining = float(np.linalg.norm(rhs - matrix @ solution))
    if status is None or (not spec.truncated and remaining <= limit):
        status = _ending(spec, remaining, limit, steps)
    return Solve(
        solution=solution, status=status, residual_norm=remaining, steps=steps, curvature=smallest, asymmetry=defect
    )


def _extend(basis: np.ndarray, matrix: np.ndarray, rhs: Vector) -> np.ndarray | None:
    """The basis with the next Krylov direction, orthogonalised twice; None when the space is full."""
    seed = rhs if not basis.shape[1] else matrix @ basis[:, -1]
    direction = seed.copy()
    for _ in range(2):
        direction -= basis @ (basis.T @ direction)
    left, whole = float(np.linalg.norm(direction)), float(np.linalg.norm(seed))
    if basis.shape[1] == rhs.size or left <= 100.0 * EPS * whole:
        return None
    return np.column_stack([basis, direction / left])


def _ending(spec: CG, remaining: float, limit: float, steps: int) -> Status:
    if spec.truncated:
        return Status.TRUNCATED
    if remaining <= limit:
        return Status.CONVERGED
    return Status.MAX_STEPS_REACHED if steps == spec.max_steps else Status.STAGNATED
