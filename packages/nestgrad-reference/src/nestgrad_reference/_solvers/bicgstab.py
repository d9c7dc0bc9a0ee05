"""BiCGSTAB: no minimum characterises its iterates, so here the recurrence is the definition."""

from __future__ import annotations

import numpy as np

from nestgrad import BiCGSTAB, Status
from nestgrad_reference._solvers._common import EPS, SOLVERS, Extras, Solve, begin, diagonal, is_finite, no_number
from nestgrad_reference._solvers._krylov import ending
from nestgrad_reference._tree import Vector


@SOLVERS.register(BiCGSTAB)
def bicgstab(spec: BiCGSTAB, matrix: np.ndarray, rhs: Vector, symmetric: bool, scale: float, extras: Extras) -> Solve:
    """Van der Vorst 1992, sec. 3, with the shadow residual r̂ = r₀ and A = Jᵀ P, p = P y.

    A step: β = (ρ/ρ')(α/ω), d ← r + β(d - ω A d'), α = ρ / r̂ᵀAd, s = r - αAd, ω = (As)ᵀs / |As|², r = s - ωAs.
    """
    if not is_finite(matrix, rhs, extras.start):
        return no_number(rhs, Status.NONFINITE)
    scaling = diagonal(rhs, extras)
    norm = float(np.linalg.norm(rhs))
    limit = max(spec.rtol * norm, spec.atol / scale)
    enough = max(limit, EPS * norm)
    solution, steps, failure = begin(rhs, extras), 0, None
    residual = rhs - matrix @ solution
    shadow = residual
    direction = image = np.zeros_like(rhs)
    before = alpha = omega = 1.0
    while np.linalg.norm(residual) > enough and steps < spec.max_steps:
        rho = float(shadow @ residual)
        if _is_rounding(rho, shadow, residual):
            failure = Status.BREAKDOWN
            break
        direction = residual + (rho / before) * (alpha / omega) * (direction - omega * image)
        image = matrix @ (scaling * direction)
        if _is_rounding(float(shadow @ image), shadow, image):
            failure = Status.BREAKDOWN
            break
        alpha, steps = rho / float(shadow @ image), steps + 1
        half = residual - alpha * image
        solution = solution + alpha * scaling * direction
        if np.linalg.norm(half) <= enough:
            break
        moved = matrix @ (scaling * half)
        if _is_rounding(float(moved @ half), moved, half):
            failure = Status.BREAKDOWN
            break
        omega = float(moved @ half) / float(moved @ moved)
        solution, residual, before = solution + omega * scaling * half, half - omega * moved, rho
    remaining = float(np.linalg.norm(rhs - matrix @ solution))
    return Solve(
        solution=solution,
        status=ending(spec, remaining, limit, steps, failure, settled=remaining <= 1e3 * rhs.size * EPS * norm),
        residual_norm=remaining,
        steps=steps,
        products=2 * steps,
    )


def _is_rounding(product: float, a: Vector, b: Vector) -> bool:
    return abs(product) <= EPS * float(np.linalg.norm(a)) * float(np.linalg.norm(b))
