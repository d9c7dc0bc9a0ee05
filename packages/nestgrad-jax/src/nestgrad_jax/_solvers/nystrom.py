"""Nystrom: p = v/ρ - C (M + CᵀC/ρ)⁻¹ Cᵀ v / ρ²."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from nestgrad import InvalidInput, Nystrom, Status
from nestgrad_jax._solvers._common import SOLVERS, Solve, System, first_of
from nestgrad_jax._solvers.dense import columns
from nestgrad_jax._tree import norm


@SOLVERS.register(Nystrom)
def nystrom(spec: Nystrom, system: System) -> Solve:
    """`rank` products, side by side; a pseudo-inverse where M + CᵀC/ρ is singular, as C vanishes there too."""
    rhs, n, rho = system.rhs, system.rhs.size, spec.damping
    if spec.rank > n:
        raise InvalidInput(f"Nystrom: rank {spec.rank}, limit {n} weights. Remedy: pass rank={n} or fewer.")
    drawn = jax.random.choice(system.key, n, (spec.rank,), replace=False)
    basis = jnp.zeros((spec.rank, n), rhs.dtype).at[jnp.arange(spec.rank), drawn].set(1.0)
    rows = columns(system, basis)
    exact = jax.lax.Precision.HIGHEST
    gram = rows[:, drawn] + jnp.matmul(rows, rows.T, precision=exact) / rho
    values, vectors = jnp.linalg.eigh(0.5 * (gram + gram.T))
    kept = jnp.abs(values) > spec.rank * float(jnp.finfo(rhs.dtype).eps) * jnp.abs(values).max()
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, values, jnp.ones_like(values)), jnp.zeros_like(values))
    inside = jnp.matmul(vectors.T, jnp.matmul(rows, rhs, precision=exact), precision=exact)
    weights = jnp.matmul(vectors, inverse * inside, precision=exact)
    solution = rhs / rho - jnp.matmul(weights, rows, precision=exact) / rho**2
    size = norm(solution)
    return Solve(
        solution=solution,
        status=first_of((~jnp.isfinite(size), Status.NONFINITE), otherwise=Status.TRUNCATED),
        residual_norm=jnp.full((), math.nan, rhs.dtype),
        steps=spec.rank,
        products=spec.rank,
    )
