"""Dense: p = J⁻ᵀ v by LU of the materialised Jacobian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import lu_factor, lu_solve

from nestgrad import Dense, InvalidInput, Status
from nestgrad_jax._solvers._common import SOLVERS, Solve, System, first_of
from nestgrad_jax._tree import norm

_AT_ONCE = 256
"""Products taken side by side; more would multiply the memory of one by their number."""


@SOLVERS.register(Dense)
def dense(spec: Dense, system: System) -> Solve:
    """n products for the columns of the matrix; the reciprocal condition number is the 1-norm one."""
    rhs, n = system.rhs, system.rhs.size
    if n > spec.max_params:
        raise InvalidInput(
            f"Dense: {n} weights, limit max_params={spec.max_params}. Remedy: use CG or Neumann, or raise max_params."
        )
    basis = jnp.eye(n, dtype=rhs.dtype)
    matrix = columns(system, basis).T
    factors, pivots = lu_factor(matrix)
    solved = lu_solve((factors, pivots), jnp.concatenate([rhs[:, None], basis], axis=1))
    solution, inverse = solved[:, 0], solved[:, 1:]
    size, inverse_size = _one_norm(matrix), _one_norm(inverse)
    zero_pivot = (jnp.diagonal(factors) == 0).any()
    limit = n * float(jnp.finfo(rhs.dtype).eps)
    singular = zero_pivot | ~jnp.isfinite(inverse_size) | (size * inverse_size * limit > 1)
    return Solve(
        solution=solution,
        status=first_of(
            (~jnp.isfinite(size), Status.NONFINITE), (singular, Status.SINGULAR), otherwise=Status.CONVERGED
        ),
        residual_norm=norm(jnp.matmul(matrix, solution, precision=jax.lax.Precision.HIGHEST) - rhs),
        steps=1,
        products=n,
        curvature=jnp.where(zero_pivot, jnp.zeros_like(inverse_size), 1.0 / inverse_size),
    )


def columns(system: System, basis: Array) -> Array:
    """The operator applied to each row of basis."""
    if len(basis) <= _AT_ONCE:
        return jax.vmap(system.apply)(basis)
    return jax.lax.map(system.apply, basis, batch_size=_AT_ONCE)


def _one_norm(matrix: Array) -> Array:
    """Largest absolute column sum."""
    return jnp.abs(matrix).sum(axis=0).max()
