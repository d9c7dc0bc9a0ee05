"""NormalCG: conjugate gradients on the normal equations, in one traced loop."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from nestgrad import NormalCG, Status
from nestgrad_jax._solvers._common import SOLVERS, Goal, Solve, System, iterate, rounding
from nestgrad_jax._tree import dot, norm


class _State(NamedTuple):
    """residual is r = v - Jᵀp, squared = |J r|²; size is the largest |Jᵀd| / |d| met; flat: J r is at rounding."""

    solution: Array
    residual: Array
    direction: Array
    squared: Array
    size: Array
    active: Array
    flat: Array
    steps: Array


@SOLVERS.register(NormalCG)
def normal_cg(spec: NormalCG, system: System) -> Solve:
    """Two products a step, one to begin, one for the recomputed residual."""
    rhs, back = system.rhs, system.adjoint
    goal, noise = Goal.of(spec, system), rounding(rhs)

    def ends(residual: Array, squared: Array, size: Array) -> tuple[Array, Array]:
        """(whether to go on, whether no step can make the residual smaller)."""
        left = norm(residual)
        flat = jnp.sqrt(squared) <= noise * size * left
        return (left > goal.target) & ~flat, flat & (left > goal.target)

    def step(s: _State) -> _State:
        image = system.apply(s.direction)
        length = dot(image, image)
        size = jnp.maximum(s.size, jnp.sqrt(length / dot(s.direction, s.direction)))
        ratio = s.squared / jnp.where(length > 0, length, jnp.ones_like(length))
        residual = s.residual - ratio * image
        slope = back(residual)
        following = dot(slope, slope)
        active, flat = ends(residual, following, size)
        return _State(
            solution=s.solution + ratio * s.direction,
            residual=residual,
            direction=slope + (following / s.squared) * s.direction,
            squared=following,
            size=size,
            active=active,
            flat=flat,
            steps=s.steps + 1,
        )

    solution, residual, taken = system.begin()
    slope = back(residual)
    squared, none = dot(slope, slope), jnp.zeros((), rhs.dtype)
    active, flat = ends(residual, squared, none)
    first = _State(solution, residual, slope, squared, none, active, flat, jnp.zeros((), jnp.int32))
    end = iterate(system, lambda s: s.active & (s.steps < spec.max_steps), step, first, spec.max_steps)
    left = norm(rhs - system.apply(end.solution))
    return Solve(
        solution=end.solution,
        status=goal.verdict(spec, left, (end.flat, Status.SINGULAR), unfinished=end.active),
        residual_norm=left,
        steps=end.steps,
        products=2 * end.steps + 2 + taken,
    )
