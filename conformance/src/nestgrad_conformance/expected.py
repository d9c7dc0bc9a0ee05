"""The number that each spec stands for, as a dense formula.

Solvers are in a table, so that the author of a new spec adds its formula: EXPECTED[MySpec] = formula, of
v = ∂L_out/∂w and the transposed Jacobian. None of them shares code with a backend, the reference included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nestgrad import (
    CG,
    GMRES,
    LSMR,
    MINRES,
    BiCGSTAB,
    Dense,
    Identity,
    Neumann,
    NormalCG,
)
from nestgrad_reference import Materialized

Formula = Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
"""formula(spec, Jᵀ, v) -> p."""


def _dense(spec: Dense, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.linalg.solve(matrix, v)


def _identity(spec: Identity, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    return spec.scale * v


def _neumann(spec: Neumann, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    step = np.eye(v.size) - spec.step_size * matrix
    return spec.step_size * sum(np.linalg.matrix_power(step, j) for j in range(spec.num_terms)) @ v


def _krylov(matrix: np.ndarray, seed: np.ndarray, width: int) -> np.ndarray:
    """An orthonormal basis of span{seed, A seed, …}, `width` vectors or as many as there are."""
    vectors = [seed / np.linalg.norm(seed)]
    while len(vectors) < min(width, seed.size):
        following = matrix @ vectors[-1]
        for _ in range(2):
            for vector in vectors:
                following = following - (vector @ following) * vector
        size = np.linalg.norm(following)
        if size <= 1e-12 * np.linalg.norm(matrix):
            break
        vectors.append(following / size)
    return np.column_stack(vectors)


def _cg(spec: CG, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """K (KᵀJK)⁻¹ Kᵀv, K a basis of span{v, Jv, …}, max_steps wide."""
    basis = _krylov(matrix, v, spec.max_steps)
    return basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ v)


def _least_residual(spec: MINRES, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """argmin |Jᵀp - v| over span{v, Jᵀv, …}."""
    basis = _krylov(matrix, v, spec.max_steps)
    return basis @ np.linalg.lstsq(matrix @ basis, v)[0]


def _gmres(spec: GMRES, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The same, begun again from the residual every `restart` steps."""
    p, left = np.zeros_like(v), spec.max_steps
    while left and np.linalg.norm(v - matrix @ p) > 1e-14 * np.linalg.norm(v):
        width = min(left, spec.restart or left)
        basis = _krylov(matrix, v - matrix @ p, width)
        p = p + basis @ np.linalg.lstsq(matrix @ basis, v - matrix @ p)[0]
        left -= width
    return p


def _normal_cg(spec: NormalCG, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """argmin |Jᵀp - v| over Krylov(J Jᵀ, J v)."""
    basis = _krylov(matrix.T @ matrix, matrix.T @ v, spec.max_steps)
    return basis @ np.linalg.lstsq(matrix @ basis, v)[0]


def _lsmr(spec: LSMR, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """argmin |J(Jᵀp - v)| over the same space."""
    basis = _krylov(matrix.T @ matrix, matrix.T @ v, spec.max_steps)
    return basis @ np.linalg.lstsq(matrix.T @ matrix @ basis, matrix.T @ v)[0]


def _bicgstab(spec: BiCGSTAB, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """max_steps steps of the recurrence, in extended precision."""
    a, b = matrix.astype(np.longdouble), v.astype(np.longdouble)
    x, r = np.zeros_like(b), b.copy()
    shadow, direction, rho = r.copy(), r.copy(), r @ r
    for _ in range(spec.max_steps):
        if np.linalg.norm(r.astype(np.float64)) <= 1e-15 * np.linalg.norm(v):
            break
        image = a @ direction
        alpha = rho / (shadow @ image)
        half = r - alpha * image
        second = a @ half
        size = second @ second
        omega = (second @ half) / size if size else size
        x, r = x + alpha * direction + omega * half, half - omega * second
        if not omega:
            break
        rho, before = shadow @ r, rho
        direction = r + (rho / before) * (alpha / omega) * (direction - omega * image)
    return x.astype(np.float64)


def _solved_or(iterate: Formula) -> Formula:
    """The solution; without a tolerance the iterate. Zero for a zero v."""

    def formula(spec: Any, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
        if not v.any():
            return v
        return iterate(spec, matrix, v) if spec.truncated else np.linalg.solve(matrix, v)

    return formula


EXPECTED: dict[type, Formula] = {
    Dense: _dense,
    Identity: _identity,
    Neumann: _neumann,
    CG: _solved_or(_cg),
    MINRES: _solved_or(_least_residual),
    NormalCG: _solved_or(_normal_cg),
    LSMR: _solved_or(_lsmr),
    GMRES: _solved_or(_gmres),
    BiCGSTAB: _solved_or(_bicgstab),
}


def expected_adjoint(spec: Any, point: Materialized, damping: float = 0.0) -> np.ndarray:
    """p by the spec's formula; the indirect term is -Bᵀp."""
    matrix = point.jacobian.T + damping * np.eye(point.outer_gradient.size)
    if isinstance(spec, (CG, MINRES)) and point.repair is not None and (point.repair > 0.0).all():
        return EXPECTED[type(spec)](spec, matrix / point.repair, point.outer_gradient) / point.repair
    return EXPECTED[type(spec)](spec, matrix, point.outer_gradient)


def expected_unrolled(
    step: Callable[[int, np.ndarray], Materialized], start: np.ndarray, num_steps: int, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Materialized]:
    """(total, dL_out/ds at the window's first state, last state, the point there) of an unroll.

    step(t, s): the dense derivatives of F = s - Φ_t(s) at s, so that A_t = I - J and B_t = -B; at t = num_steps only
    its outer loss is used.
    """
    states, points = [start], list[Materialized]()
    for t in range(num_steps):
        points.append(step(t, states[-1]))
        states.append(states[-1] - points[-1].residual)
    end = step(num_steps, states[-1])
    adjoint, total = end.outer_gradient, end.direct.copy()
    for point in reversed(points[num_steps - window :]):
        total = total - point.mixed.T @ adjoint
        adjoint = adjoint - point.jacobian.T @ adjoint
    return total, adjoint, states[-1], replace(end)
