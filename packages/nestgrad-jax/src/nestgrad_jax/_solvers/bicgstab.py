"""BiCGSTAB: the stabilised bi-conjugate gradient method, in one traced loop."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from nestgrad import BiCGSTAB, Status
from nestgrad_jax._solvers._common import SOLVERS, Goal, Solve, System, iterate
from nestgrad_jax._tree import dot, norm


class _State(NamedTuple):
    solution: Array
    residual: Array
    direction: Array
    image: Array
    rho: Array
    alpha: Array
    omega: Array
    active: Array
    broken: Array
    steps: Array
    products: Array


@SOLVERS.register(BiCGSTAB)
def bicgstab(spec: BiCGSTAB, system: System) -> Solve:
    """Two products a step, one for the recomputed residual; a step that breaks down is not taken."""
    rhs, goal, eps = system.rhs, Goal.of(spec, system), float(jnp.finfo(system.rhs.dtype).eps)
    solution, residual, taken = system.begin()
    shadow = residual

    def quotient(above: Array, below: Array, size: Array) -> tuple[Array, Array]:
        """(above / below, whether below is at rounding of its size; then zero)."""
        bad = ~(jnp.abs(below) > eps * size)
        return jnp.where(bad, 0.0, above / jnp.where(bad, 1.0, below)), bad

    def step(s: _State) -> _State:
        rho = dot(shadow, s.residual)
        lost = ~(jnp.abs(rho) > eps * norm(shadow) * norm(s.residual))
        first = s.steps == 0
        beta = jnp.where(first, 0.0, rho / jnp.where(first, 1.0, s.rho) * s.alpha / jnp.where(first, 1.0, s.omega))
        direction = s.residual + beta * (s.direction - s.omega * s.image)
        ahead = system.precondition(direction)
        image = system.apply(ahead)
        alpha, level = quotient(rho, dot(shadow, image), norm(shadow) * norm(image))
        half = s.residual - alpha * image
        done = norm(half) <= goal.target
        across = system.precondition(half)
        other = system.apply(across)
        omega, still = quotient(dot(other, half), dot(other, other), jnp.zeros_like(rho))
        # |ω| at rounding: the second half of the step turns nothing, and the next one would divide by it.
        still |= ~(jnp.abs(dot(other, half)) > eps * norm(other) * norm(half))
        omega = jnp.where(done, 0.0, omega)
        failed = lost | level
        goes = ~failed
        residual = half - omega * other
        return _State(
            solution=jnp.where(goes, s.solution + alpha * ahead + omega * across, s.solution),
            residual=jnp.where(goes, residual, s.residual),
            direction=direction,
            image=image,
            rho=rho,
            alpha=alpha,
            omega=omega,
            active=goes & ~done & ~still & (norm(residual) > goal.target),
            broken=failed | (still & ~done),
            steps=s.steps + goes.astype(jnp.int32),
            products=s.products + 2,
        )

    zero, vector = jnp.zeros((), rhs.dtype), jnp.zeros_like(rhs)
    first = _State(
        solution=solution,
        residual=residual,
        direction=vector,
        image=vector,
        rho=zero,
        alpha=zero,
        omega=zero,
        active=norm(residual) > goal.target,
        broken=jnp.zeros((), bool),
        steps=jnp.zeros((), jnp.int32),
        products=jnp.zeros((), jnp.int32),
    )
    end = iterate(system, lambda s: s.active & (s.steps < spec.max_steps), step, first, spec.max_steps)
    left = norm(rhs - system.apply(end.solution))
    return Solve(
        solution=end.solution,
        status=goal.verdict(spec, left, (end.broken, Status.BREAKDOWN), unfinished=end.active),
        residual_norm=left,
        steps=end.steps,
        products=end.products + 1 + taken,
    )
