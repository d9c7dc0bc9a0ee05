"""Orthonormal directions, and how much longer each had become."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad_jax._tree import power_of_two


def orthonormal(rows: Array) -> tuple[Array, Array]:
    """(orthonormal rows, ln of the diagonal of R) of rows (m, n), their transposes being Q R with R's diagonal ≥ 0.

    A row that depends on those before it, to rounding, has -∞. Differentiable in every row before the first such.
    """
    if len(rows) == 1:
        return _scaled(rows)
    unit, logs = _factored(rows.T)
    return unit.T, logs


def _scaled(row: Array) -> tuple[Array, Array]:
    """Of a single row, (1, n): by numbers near 1, so that no square under- or overflows."""
    scale = lax.stop_gradient(power_of_two(jnp.abs(lax.stop_gradient(row)).max()))
    near = row / scale
    square = jnp.square(near).sum()
    none = square == 0
    length = jnp.sqrt(jnp.where(none, jnp.ones_like(square), square))
    log = jnp.where(none, -jnp.inf, jnp.log(length) + jnp.log(scale))
    return near / length, log[None]


@jax.custom_jvp
def _factored(columns: Array) -> tuple[Array, Array]:
    """(Q, ln diag R) of columns (n, m)."""
    unit, triangle, dead = _qr(columns)
    return unit, _logs(triangle, dead)


@_factored.defjvp
def _factored_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """With W = Q R, S = dW R⁻¹, T = QᵀS, L below T's diagonal: d ln diag R = diag T and dQ = S - Q (T - L + Lᵀ).

    A column of R⁻¹ knows only the columns of W up to it, so that those before one that was wiped out stay exact.
    """
    unit, triangle, dead = _qr(primals[0])
    exact = lax.Precision.HIGHEST
    rising = triangle + jnp.diag(jnp.where(dead, 1.0 - jnp.diagonal(triangle), 0.0))
    slope = jax.scipy.linalg.solve_triangular(rising, tangents[0].T, trans=1).T
    turn = jnp.matmul(unit.T, slope, precision=exact)
    below = jnp.tril(turn, -1)
    moved = slope - jnp.matmul(unit, turn - below + below.T, precision=exact)
    grown = jnp.where(dead, 0.0, jnp.diagonal(turn))
    return (unit, _logs(triangle, dead)), (moved, grown)


def _qr(columns: Array) -> tuple[Array, Array, Array]:
    """(Q, R with no negative diagonal, which columns depend on those before them)."""
    unit, triangle = jnp.linalg.qr(columns)
    signs = jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0).astype(columns.dtype)
    unit, triangle = unit * signs[None, :], triangle * signs[:, None]
    noise = 4 * columns.shape[1] * float(jnp.finfo(columns.dtype).eps)
    sizes = jnp.abs(triangle).max(axis=0)
    return unit, triangle, jnp.diagonal(triangle) <= noise * sizes


def _logs(triangle: Array, dead: Array) -> Array:
    diagonal = jnp.diagonal(triangle)
    return jnp.where(dead, -jnp.inf, jnp.log(jnp.where(dead, jnp.ones_like(diagonal), diagonal)))
