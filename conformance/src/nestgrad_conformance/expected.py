"""The number that each solver spec stands for, as a dense formula on v = ∂L_out/∂w and the transposed Jacobian.

A table, so that the author of a new spec adds its formula: EXPECTED[MySpec] = formula. None of them shares code with a
backend, the reference included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nestgrad import CG, Dense, Identity, Neumann
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


def _cg(spec: CG, matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The solution; without a tolerance K (KᵀJK)⁻¹ Kᵀv, K an orthonormal basis of span{v, Jv, …}, max_steps wide."""
    if not spec.truncated:
        return np.linalg.solve(matrix, v)
    if not v.any():
        return v
    vectors = [v / np.linalg.norm(v)]
    for _ in range(min(spec.max_steps, v.size) - 1):
        following = matrix @ vectors[-1]
        vectors.append(following / np.linalg.norm(following))
    basis, _ = np.linalg.qr(np.column_stack(vectors))
    return basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ v)


EXPECTED: dict[type, Formula] = {Dense: _dense, Identity: _identity, Neumann: _neumann, CG: _cg}


def expected_adjoint(spec: Any, point: Materialized) -> np.ndarray:
    """p by the spec's formula; the indirect term is -Bᵀp."""
    return EXPECTED[type(spec)](spec, point.jacobian.T, point.outer_gradient)
