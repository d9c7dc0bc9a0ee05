"""CG: conjugate gradients in one traced loop."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from nestgrad import CG, Status
from nestgrad_jax._solvers._common import SOLVERS, Solve, System, iterate, rounding
from nestgrad_jax._solvers._symmetric import Symmetric
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
def cg(spec: CG, system: System) -> Solve:
    """One product a step, one for the recomputed residual where it has a limit, three for the symmetry probe."""
    whole = Symmetric.of(spec, system)
    end, taken = _iterate(spec, system, whole)
    solution = whole.leave(end.solution)
    recomputed = not spec.truncated
    left = norm(system.rhs - system.apply(solution) if recomputed else whole.weigh(end.residual))
    cases = (end.negative, Status.INDEFINITE), (end.flat, Status.SINGULAR)
    return whole.answer(
        Solve(
            solution=solution,
            status=whole.goal.verdict(spec, left, *cases, unfinished=end.active),
            residual_norm=left,
            steps=end.steps,
            products=end.products + int(recomputed) + taken,
            curvature=end.smallest,
        )
    )


def _iterate(spec: CG, system: System, whole: Symmetric) -> tuple[_State, int]:
    """At most max_steps steps, and the products taken to begin; residuals at or below the target end them."""
    noise = rounding(whole.rhs)
    no, none, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32), jnp.zeros((), whole.rhs.dtype)

    def step(s: _State) -> _State:
        image = whole.apply(s.direction)
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
            active=goes & whole.far(residual),
            negative=negative,
            flat=flat,
            steps=s.steps + goes.astype(jnp.int32),
            products=s.products + 1,
        )

    solution, residual, taken = whole.begin()
    direction = system.precondition(residual)
    first = _State(
        solution=solution,
        residual=residual,
        direction=direction,
        squared=dot(residual, direction),
        smallest=jnp.full((), math.inf, zero.dtype),
        largest=zero,
        active=whole.far(residual) & jnp.logical_not(whole.skewed),
        negative=no,
        flat=no,
        steps=none,
        products=none,
    )
    return iterate(system, lambda s: s.active & (s.products < spec.max_steps), step, first, spec.max_steps), taken
