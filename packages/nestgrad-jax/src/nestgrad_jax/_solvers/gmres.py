"""GMRES: minimum residuals over an Arnoldi basis, restarted when asked, in two traced loops."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import GMRES, Status
from nestgrad_jax._solvers._common import SOLVERS, Goal, Operator, Solve, System, rounding, singular_below
from nestgrad_jax._tree import norm


class _Cycle(NamedTuple):
    """One Arnoldi process: basis (m + 1, n), triangle R (m, m) and right-hand side of the rotated small system.

    rotation (m + 1, m + 1) is the product of the rotations so far, least the smallest pivot of R, columns how many
    there are; |right[columns]| is the residual.
    """

    basis: Array
    triangle: Array
    rotation: Array
    right: Array
    size: Array
    least: Array
    columns: Array
    ended: Array
    flat: Array


class _State(NamedTuple):
    solution: Array
    residual: Array
    steps: Array
    cycles: Array
    flat: Array
    blunt: Array
    active: Array


@SOLVERS.register(GMRES)
def gmres(spec: GMRES, system: System) -> Solve:
    """One product a step, one a cycle for its residual. The last of these is the recomputed one."""
    rhs, goal = system.rhs, Goal.of(spec, system)
    width = min(spec.restart or spec.max_steps, spec.max_steps, rhs.size)

    def operator(vector: Array) -> Array:
        return system.apply(system.precondition(vector))

    def cycle(s: _State) -> _State:
        found = _arnoldi(operator, s.residual, goal.target, jnp.minimum(width, spec.max_steps - s.steps), width)
        taken = jnp.arange(width, dtype=jnp.int32) < found.columns
        triangle = jnp.where(taken[:, None] & taken[None, :], found.triangle, jnp.eye(width, dtype=rhs.dtype))
        weights = jax.scipy.linalg.solve_triangular(triangle, jnp.where(taken, found.right[:-1], 0.0))
        moved = jnp.matmul(weights, found.basis[:-1], precision=jax.lax.Precision.HIGHEST)
        solution = s.solution + system.precondition(moved)
        residual = rhs - system.apply(solution)
        steps, left = s.steps + found.columns, norm(residual)
        return _State(
            solution=solution,
            residual=residual,
            steps=steps,
            cycles=s.cycles + 1,
            flat=found.flat,
            blunt=found.least <= singular_below(rhs) * found.size,
            # A cycle that gains nothing will never gain anything, but for rounding in one that ended by itself.
            active=(left > goal.target) & ~found.flat & (found.columns > 0) & (left < norm(s.residual)),
        )

    solution, residual, taken = system.begin()
    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    first = _State(solution, residual, none, none, no, no, norm(residual) > goal.target)
    end = lax.while_loop(lambda s: s.active & (s.steps < spec.max_steps), cycle, first)
    left = norm(end.residual)
    return Solve(
        solution=end.solution,
        status=goal.verdict(
            spec, left, (end.flat | end.blunt, Status.SINGULAR), unfinished=end.steps >= spec.max_steps
        ),
        residual_norm=left,
        steps=end.steps,
        products=end.steps + end.flat.astype(jnp.int32) + end.cycles + taken,
    )


def _arnoldi(operator: Operator, residual: Array, target: Array, most: Array, width: int) -> _Cycle:
    """Columns until the residual is at the target, the space is exhausted, or `most` are there."""
    noise, exact, kind = rounding(residual), jax.lax.Precision.HIGHEST, residual.dtype

    def step(s: _Cycle) -> _Cycle:
        image = operator(s.basis[s.columns])
        length = norm(image)
        column = jnp.zeros(width + 1, kind)
        for _ in range(2):  # Gram-Schmidt twice is enough
            along = jnp.matmul(s.basis, image, precision=exact)
            image = image - jnp.matmul(along, s.basis, precision=exact)
            column += along
        beside = norm(image)
        size = jnp.maximum(s.size, length)
        ended = beside <= noise * size
        beside = jnp.where(ended, 0.0, beside)
        rotated = jnp.matmul(s.rotation, column.at[s.columns + 1].set(beside), precision=exact)
        corner = rotated[s.columns]
        pivot = jnp.hypot(corner, beside)
        flat = pivot <= noise * size
        safe = jnp.where(flat, 1.0, pivot)
        c, s_ = corner / safe, beside / safe
        upper, lower = s.rotation[s.columns], s.rotation[s.columns + 1]
        rotation = s.rotation.at[s.columns].set(c * upper + s_ * lower).at[s.columns + 1].set(c * lower - s_ * upper)
        right = s.right.at[s.columns].set(c * s.right[s.columns]).at[s.columns + 1].set(-s_ * s.right[s.columns])
        triangle = s.triangle.at[:, s.columns].set(rotated[:-1].at[s.columns].set(pivot))
        return _Cycle(
            basis=s.basis.at[s.columns + 1].set(image / jnp.where(ended, 1.0, beside)),
            triangle=jnp.where(flat, s.triangle, triangle),
            rotation=rotation,
            right=jnp.where(flat, s.right, right),
            size=size,
            least=jnp.minimum(s.least, pivot),
            columns=s.columns + (~flat).astype(jnp.int32),
            ended=ended | flat,
            flat=flat,
        )

    length = norm(residual)
    first = _Cycle(
        basis=jnp.zeros((width + 1, residual.size), kind).at[0].set(residual / jnp.where(length > 0, length, 1.0)),
        triangle=jnp.zeros((width, width), kind),
        rotation=jnp.eye(width + 1, dtype=kind),
        right=jnp.zeros(width + 1, kind).at[0].set(length),
        size=jnp.zeros((), kind),
        least=jnp.full((), jnp.inf, kind),
        columns=jnp.zeros((), jnp.int32),
        ended=jnp.zeros((), bool),
        flat=jnp.zeros((), bool),
    )
    return lax.while_loop(lambda s: (s.columns < most) & ~s.ended & (jnp.abs(s.right[s.columns]) > target), step, first)
