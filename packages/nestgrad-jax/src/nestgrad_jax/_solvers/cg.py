"""CG: conjugate gradients in one traced loop."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from nestgrad import CG, Status
from nestgrad_jax._solvers._common import SOLVERS, Goal, Solve, Symmetric, System, begin_symmetric, first_of, rounding
from nestgrad_jax._tree import dot, norm


class _State(NamedTuple):
    """What one step hands to the next; `active` until the target is met or the curvature is not positive."""

    solution: Array
    residual: Array
    direction: Array
    squared: Array
    smallest: Array
    largest: Array
    active: Array
    negative: Array
    flat: Array
    steps: Array
    products: Array


@SOLVERS.register(CG)
def cg(spec: CG, system: System, rhs: Array) -> Solve:
    """One product a step, one for the recomputed residual, three for the symmetry probe where J is no Hessian."""
    whole, goal = Symmetric.of(system, rhs), Goal.of(spec, system, rhs)
    nan = jnp.full_like(rhs, math.nan)
    end, taken = _iterate(spec, system, whole, goal, rhs)
    solution = whole.leave(end.solution)
    left = norm(rhs - system.operator(solution))
    status = goal.verdict(
        spec, left, (end.negative, Status.INDEFINITE), (end.flat, Status.SINGULAR), unfinished=end.active
    )
    return Solve(
        solution=jnp.where(whole.skewed, nan, solution),
        status=jnp.where(whole.skewed, first_of(otherwise=Status.NOT_SYMMETRIC), status),
        residual_norm=jnp.where(whole.skewed, nan[0], left),
        steps=end.steps,
        products=end.products + whole.probes + (~whole.skewed).astype(jnp.int32) * (1 + taken),
        curvature=jnp.where(whole.skewed, nan[0], end.smallest),
        asymmetry=whole.defect,
    )


def _iterate(spec: CG, system: System, whole: Symmetric, goal: Goal, rhs: Array) -> tuple[_State, int]:
    """At most max_steps steps, and the products taken to begin; residuals at or below the target end them."""
    noise = rounding(rhs)
    no, none, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32), jnp.zeros((), rhs.dtype)

    def far(residual: Array) -> Array:
        return norm(whole.weigh(residual)) > goal.target

    def step(s: _State) -> _State:
        image = whole.operator(s.direction)
        squared_direction = dot(s.direction, s.direction)
        curvature = dot(s.direction, image) / squared_direction
        largest = jnp.maximum(s.largest, jnp.abs(curvature))
        negative = curvature < -noise * largest
        flat = jnp.abs(curvature) <= noise * largest
        goes = ~negative & ~flat
        length = jnp.where(goes, s.squared / (squared_direction * curvature), zero)
        residual = s.residual - length * jnp.where(goes, image, zero)
        steepest = system.precondition(residual)
        following = dot(residual, steepest)
        return _State(
            solution=s.solution + length * s.direction,
            residual=residual,
            direction=jnp.where(goes, steepest + (following / s.squared) * s.direction, s.direction),
            squared=jnp.where(goes, following, s.squared),
            smallest=jnp.minimum(s.smallest, curvature),
            largest=largest,
            active=goes & far(residual),
            negative=negative,
            flat=flat,
            steps=s.steps + goes.astype(jnp.int32),
            products=s.products + 1,
        )

    solution, residual, taken = begin_symmetric(system, whole, rhs)
    direction = system.precondition(residual)
    first = _State(
        solution=solution,
        residual=residual,
        direction=direction,
        squared=dot(residual, direction),
        smallest=jnp.full((), math.inf, rhs.dtype),
        largest=zero,
        active=~whole.skewed & far(residual),
        negative=no,
        flat=no,
        steps=none,
        products=none,
    )
    return lax.while_loop(lambda s: s.active & (s.products < spec.max_steps), step, first), taken
