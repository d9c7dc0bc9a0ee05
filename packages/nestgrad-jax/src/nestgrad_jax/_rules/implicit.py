"""Implicit: total = direct - Bᵀp, from one linearisation and one solve."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import HyperGradient, Implicit, Stats, Status
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import Linearization, Outer
from nestgrad_jax._solvers import cg, dense, identity, neumann  # noqa: F401  (fills the table)
from nestgrad_jax._solvers._common import SOLVERS, Solve, code, first_of
from nestgrad_jax._tree import flat, norm


def implicit(spec: Implicit, point: Linearization, outer: Outer, hparams: Any) -> HyperGradient:
    """The hypergradient of the outer loss, a tree shaped like hparams, with its status as an int32 scalar.

    outer was taken at the params of `point`, or at the next weights.
    """
    one = jnp.ones_like(outer.loss)
    by_params, direct = outer.pull(one)
    rhs = flat(by_params)
    require_connected(hparams, reached(lambda x: outer.pull(x)[1], one), reached(point.hparam_product, rhs))

    scale = power_of_two(jnp.abs(rhs).max())
    unit = rhs / scale
    solve = SOLVERS(spec.solver, point.transpose_product, unit, point.symmetric, scale)
    indirect = jax.tree.map(lambda h: -scale * h, point.hparam_product(solve.solution))
    total = jax.tree.map(jnp.add, direct, indirect)
    optimality = norm(point.residual)
    finite = jnp.isfinite(outer.loss) & jnp.isfinite(optimality) & jnp.isfinite(flat(total)).all()
    return HyperGradient(
        total=total,
        direct=direct,
        indirect=indirect,
        outer_loss=outer.loss.astype(rhs.dtype),
        status=_overall(spec, solve.status, optimality, finite),
        stats=_stats(solve, rhs_norm=norm(unit) * scale, optimality=optimality, scale=scale),
    )


def power_of_two(size: Array) -> Array:
    """The largest power of two up to size; 1 where size is zero, subnormal or not finite.

    Dividing by it is exact and keeps squares from under- or overflowing. It is size with its mantissa bits cleared.
    """
    kind = jnp.dtype(f"uint{jnp.finfo(size.dtype).bits}")
    exponent_bits = lax.bitcast_convert_type(jnp.asarray(jnp.inf, size.dtype), kind)
    power = lax.bitcast_convert_type(lax.bitcast_convert_type(size, kind) & exponent_bits, size.dtype)
    return jnp.where((power > 0) & jnp.isfinite(size), power, jnp.ones_like(size))


def _stats(solve: Solve, *, rhs_norm: Array, optimality: Array, scale: Array) -> Stats:
    def real(value: Array | float) -> Array:
        return jnp.asarray(value, scale.dtype)

    return Stats(
        residual_norm=solve.residual_norm * scale,
        rhs_norm=rhs_norm,
        steps=jnp.asarray(solve.steps, jnp.int32),
        products=jnp.asarray(solve.products, jnp.int32),
        inner_optimality=optimality,
        contraction=real(solve.contraction),
        curvature=real(solve.curvature),
        asymmetry=real(solve.asymmetry),
        eps=float(jnp.finfo(scale.dtype).eps),
    )


def _overall(spec: Implicit, solver: Array, optimality: Array, finite: Array) -> Array:
    limit = jnp.inf if spec.inner_tol is None else spec.inner_tol
    own = first_of(
        (~finite, Status.NONFINITE), (optimality > limit, Status.INNER_NOT_CONVERGED), otherwise=Status.CONVERGED
    )
    return jnp.where((solver <= code(Status.IDLE)) & (own != code(Status.CONVERGED)), own, solver)


def idle(hparams: Any) -> HyperGradient:
    """What a training step without a hypergradient reports: the same tree as `implicit`, of zeros and NaN."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), hparams)
    dtype = jax.tree.leaves(zeros)[0].dtype
    nan, none = jnp.full((), jnp.nan, dtype), jnp.zeros((), jnp.int32)
    stats = Stats(
        residual_norm=nan,
        rhs_norm=nan,
        steps=none,
        products=none,
        inner_optimality=nan,
        contraction=nan,
        curvature=nan,
        asymmetry=nan,
        eps=float(jnp.finfo(dtype).eps),
    )
    return HyperGradient(
        total=zeros, direct=zeros, indirect=zeros, outer_loss=nan, status=code(Status.IDLE), stats=stats
    )
