"""MINRES: the point of each Krylov space of a symmetric J with the least residual."""

from __future__ import annotations

import dataclasses

import numpy as np

from nestgrad import MINRES, Status, symmetry_limit
from nestgrad_reference._solvers._common import EPS, SOLVERS, Extras, Solve, begin, is_finite, no_number
from nestgrad_reference._solvers._krylov import extend, least_residual, symmetrised
from nestgrad_reference._tree import Vector


@SOLVERS.register(MINRES)
def minres(spec: MINRES, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """argmin |J p - v| over p₀ + span{r₀, J r₀, …} by least squares on an orthonormal basis."""
    if not is_finite(matrix, rhs, extras.start):
        return no_number(rhs, Status.NONFINITE)
    system = symmetrised(matrix, rhs, extras.repair, forward=extras.forward)
    if not symmetric and system.asymmetry > symmetry_limit(EPS):
        return no_number(rhs, Status.NOT_SYMMETRIC, asymmetry=system.asymmetry)
    start = begin(rhs, extras) / system.through
    solve = least_residual(spec, system, scale, start, lambda residual: (system.matrix, residual))
    ritz = _least_in_size(system.matrix, system.rhs - system.matrix @ start, solve.steps)
    return dataclasses.replace(
        solve, curvature=ritz / float((system.through / system.weights).max()), asymmetry=system.asymmetry
    )


def _least_in_size(matrix: np.ndarray, seed: Vector, steps: int) -> float:
    """The Ritz value of least size on the space that the steps spanned, NaN without steps."""
    basis = np.zeros((seed.size, 0))
    for _ in range(steps):
        wider = extend(basis, matrix, seed)
        if wider is None:
            break
        basis = wider
    projected = basis.T @ matrix @ basis
    ritz = np.linalg.eigvalsh(0.5 * (projected + projected.T))
    return float(np.abs(ritz).min()) if ritz.size else float("nan")
