"""LSMR: least squares by the Golub-Kahan process, in one traced loop."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from nestgrad import LSMR, Status
from nestgrad_jax._solvers._common import SOLVERS, Goal, Solve, System, iterate, rounding
from nestgrad_jax._tree import norm


class _State(NamedTuple):
    """Golub-Kahan vectors u, v of A = Jᵀ, the recurrences of the paper's table 2.8, and A times the directions.

    residual is v - A p by recurrence; zeta_bar is ± |Aᵀ residual|; size the largest coefficient, which stands for |J|.
    """

    solution: Array
    residual: Array
    u: Array
    v: Array
    h: Array
    h_bar: Array
    image: Array
    image_bar: Array
    alpha: Array
    theta: Array
    alpha_bar: Array
    zeta_bar: Array
    rho: Array
    rho_bar: Array
    c_bar: Array
    s_bar: Array
    size: Array
    active: Array
    flat: Array
    steps: Array


@SOLVERS.register(LSMR)
def lsmr(spec: LSMR, system: System) -> Solve:
    """Two products a step, one to begin, one for the recomputed residual."""
    rhs, back = system.rhs, system.adjoint
    goal, noise = Goal.of(spec, system), rounding(rhs)
    zero, one = jnp.zeros((), rhs.dtype), jnp.ones((), rhs.dtype)

    def step(s: _State) -> _State:
        image = system.apply(s.v)
        beta, u = _unit(image - s.alpha * s.u, noise * s.size)
        alpha, v = _unit(back(u) - beta * s.v, noise * s.size)
        size = jnp.maximum(s.size, jnp.maximum(alpha, beta))
        # A h for the h of this step, which was built from v and the h before it.
        image = image - s.theta / s.rho * s.image
        rho = jnp.hypot(s.alpha_bar, beta)
        c, s_ = s.alpha_bar / rho, beta / rho
        theta = s_ * alpha
        theta_bar = s.s_bar * rho
        rho_bar = jnp.hypot(s.c_bar * rho, theta)
        flat = rho_bar <= noise * size
        rho_bar = jnp.where(flat, one, rho_bar)
        c_bar, s_bar = s.c_bar * rho / rho_bar, theta / rho_bar
        zeta = c_bar * s.zeta_bar
        zeta_bar = -s_bar * s.zeta_bar
        share = theta_bar * rho / (s.rho * s.rho_bar)
        h_bar, image_bar = s.h - share * s.h_bar, image - share * s.image_bar
        length = jnp.where(flat, zero, zeta / (rho * rho_bar))
        residual = s.residual - length * image_bar
        left = norm(residual)
        flat |= (jnp.abs(zeta_bar) <= noise * size * left) & (left > goal.target)
        return _State(
            solution=s.solution + length * h_bar,
            residual=residual,
            u=u,
            v=v,
            h=v - theta / rho * s.h,
            h_bar=h_bar,
            image=image,
            image_bar=image_bar,
            alpha=alpha,
            theta=theta,
            alpha_bar=c * alpha,
            zeta_bar=zeta_bar,
            rho=rho,
            rho_bar=rho_bar,
            c_bar=c_bar,
            s_bar=s_bar,
            size=size,
            active=(left > goal.target) & ~flat,
            flat=flat,
            steps=s.steps + 1,
        )

    solution, residual, taken = system.begin()
    beta, u = _unit(residual, zero)
    alpha, v = _unit(back(u), zero)
    first = _State(
        solution=solution,
        residual=residual,
        u=u,
        v=v,
        h=v,
        h_bar=jnp.zeros_like(rhs),
        image=jnp.zeros_like(rhs),
        image_bar=jnp.zeros_like(rhs),
        alpha=alpha,
        theta=zero,
        alpha_bar=alpha,
        zeta_bar=alpha * beta,
        rho=one,
        rho_bar=one,
        c_bar=one,
        s_bar=zero,
        size=alpha,
        active=(beta > goal.target) & (alpha > 0),
        flat=(beta > goal.target) & (alpha == 0),
        steps=jnp.zeros((), jnp.int32),
    )
    end = iterate(system, lambda s: s.active & (s.steps < spec.max_steps), step, first, spec.max_steps)
    left = norm(rhs - system.apply(end.solution))
    return Solve(
        solution=end.solution,
        status=goal.verdict(spec, left, (end.flat, Status.SINGULAR), unfinished=end.active),
        residual_norm=left,
        steps=end.steps,
        products=2 * end.steps + 2 + taken,
    )


def _unit(vector: Array, least: Array) -> tuple[Array, Array]:
    """(|x|, x / |x|); (0, 0) where the norm is at or below `least`, so that rounding does not pass for a direction."""
    length = norm(vector)
    there = length > least
    return jnp.where(there, length, 0.0), vector * jnp.where(there, 1.0 / jnp.where(there, length, 1.0), 0.0)
