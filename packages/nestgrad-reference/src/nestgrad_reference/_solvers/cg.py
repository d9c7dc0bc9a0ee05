"""CG: each iterate as the minimiser of ½pᵀJp - vᵀp over its Krylov space, by projection on an orthonormal basis."""

from __future__ import annotations

import math

import numpy as np

from nestgrad import CG, Status, symmetry_limit
from nestgrad_reference._solvers._common import EPS, SOLVERS, Extras, Solve, begin, diagonal, is_finite, no_number
from nestgrad_reference._solvers._krylov import extend, symmetrised
from nestgrad_reference._tree import Vector


@SOLVERS.register(CG)
def cg(spec: CG, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """No recurrence of conjugate directions anywhere: the k-th iterate is p₀ + K (KᵀJK)⁻¹ Kᵀ r₀.

    With a preconditioner C, K spans C · Krylov(J C, r₀).
    """
    if not is_finite(matrix, rhs, extras.start):
        return no_number(rhs, Status.NONFINITE)
    system = symmetrised(matrix, rhs, extras.repair, forward=extras.forward)
    if not symmetric and system.asymmetry > symmetry_limit(EPS):
        return no_number(rhs, Status.NOT_SYMMETRIC, asymmetry=system.asymmetry)

    norm = float(np.linalg.norm(rhs))
    limit = max(spec.rtol * norm, spec.atol / scale)
    start = begin(rhs, extras) / system.through
    root = np.sqrt(diagonal(rhs, extras))
    inner, seed = root[:, None] * system.matrix * root, root * (system.rhs - system.matrix @ start)
    solution, remaining, steps, smallest = start, system.distance(start), 0, math.nan
    basis = np.zeros((rhs.size, 0))
    status: Status | None = None
    while remaining > max(limit, EPS * norm) and steps < spec.max_steps:
        wider = extend(basis, inner, seed)
        if wider is None:
            break
        smallest, noise = _least_curvature(system.matrix, root[:, None] * wider)
        if smallest <= noise:
            status = Status.INDEFINITE if smallest < -noise else Status.SINGULAR
            break
        basis, steps = wider, steps + 1
        solution = start + root * (basis @ np.linalg.solve(basis.T @ inner @ basis, basis.T @ seed))
        remaining = system.distance(solution)
    if status is None or (not spec.truncated and remaining <= limit):
        status = _ending(spec, remaining, limit, steps)
    return Solve(
        solution=system.through * solution,
        status=status,
        residual_norm=remaining,
        steps=steps,
        products=steps,
        curvature=smallest / float((system.through / system.weights).max()),
        asymmetry=system.asymmetry,
    )


def _least_curvature(matrix: np.ndarray, directions: np.ndarray) -> tuple[float, float]:
    """(smallest Ritz value on the span of the directions, what counts as rounding there)."""
    basis, _ = np.linalg.qr(directions)
    projected = basis.T @ matrix @ basis
    ritz = np.linalg.eigvalsh(0.5 * (projected + projected.T))
    return float(ritz[0]), 10.0 * math.sqrt(len(matrix)) * EPS * float(np.abs(ritz).max())


def _ending(spec: CG, remaining: float, limit: float, steps: int) -> Status:
    if spec.truncated:
        return Status.TRUNCATED
    if remaining <= limit:
        return Status.CONVERGED
    return Status.MAX_STEPS_REACHED if steps == spec.max_steps else Status.STAGNATED
