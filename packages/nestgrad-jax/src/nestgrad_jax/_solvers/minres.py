"""MINRES: minimum residuals by the Lanczos process in one traced loop."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from nestgrad import MINRES, Status
from nestgrad_jax._solvers._common import SOLVERS, Solve, System, iterate, rounding, singular_below
from nestgrad_jax._solvers._symmetric import Symmetric
from nestgrad_jax._tree import dot, norm

_RITZ = 64
"""Lanczos steps whose matrix gives the Ritz values."""


class _State(NamedTuple):
    """Lanczos vectors (before, now), the two last directions, the last rotation, and the recurrence's residual.

    size is the largest of the Lanczos coefficients, which stands for |J|; diagonal and beside hold the first of them.
    """

    solution: Array
    residual: Array
    before: Array
    now: Array
    older: Array
    newer: Array
    beta: Array
    dbar: Array
    epsilon: Array
    cosine: Array
    sine: Array
    phi: Array
    size: Array
    diagonal: Array
    beside: Array
    active: Array
    flat: Array
    steps: Array


@SOLVERS.register(MINRES)
def minres(spec: MINRES, system: System) -> Solve:
    """One product a step, one for the recomputed residual, one for singularity, three for the symmetry probe."""
    whole = Symmetric.of(spec, system)
    end, taken = _iterate(spec, system, whole)
    solution = whole.leave(end.solution)
    residual = system.rhs - system.apply(solution)
    left = norm(residual)
    # A residual that J takes to nothing is the part of v outside the range of J.
    nothing = norm(whole.apply(residual)) <= singular_below(residual) * end.size * left
    lost = end.flat | ((left > whole.goal.limit) & nothing)
    return whole.answer(
        Solve(
            solution=solution,
            status=whole.goal.verdict(spec, left, (lost, Status.SINGULAR), unfinished=end.active),
            residual_norm=left,
            steps=end.steps,
            products=end.steps + end.flat.astype(jnp.int32) + 2 + taken,
            curvature=_smallest_ritz(end),
        )
    )


def _iterate(spec: MINRES, system: System, whole: Symmetric) -> tuple[_State, int]:
    """At most max_steps steps, and the products taken to begin; residuals at or below the target end them."""
    rhs = whole.rhs
    noise, zero, kept = rounding(rhs), jnp.zeros((), rhs.dtype), min(_RITZ, spec.max_steps, rhs.size)

    def step(s: _State) -> _State:
        image = whole.apply(s.now) - s.beta * s.before
        alpha = dot(s.now, image)
        image = image - alpha * s.now
        beta = norm(image)
        size = jnp.maximum(s.size, jnp.maximum(jnp.abs(alpha), beta))
        delta = s.cosine * s.dbar + s.sine * alpha
        gbar = s.sine * s.dbar - s.cosine * alpha
        dbar, epsilon = -s.cosine * beta, s.sine * beta
        # |J r| = |r| hypot(gbar, dbar): where it is at rounding while r is not, no step makes r smaller.
        flat = jnp.hypot(gbar, dbar) <= singular_below(rhs) * size
        ended = beta <= noise * size
        length = jnp.where(flat, jnp.ones_like(beta), jnp.hypot(gbar, beta))
        cosine, sine = gbar / length, beta / length
        direction = (s.now - s.epsilon * s.older - delta * s.newer) / length
        after = image / jnp.where(ended, jnp.ones_like(beta), beta)
        phi = s.phi * sine
        solution = s.solution + s.phi * cosine * direction
        residual = sine**2 * s.residual - phi * cosine * after
        return _State(
            solution=jnp.where(flat, s.solution, solution),
            residual=jnp.where(flat, s.residual, residual),
            before=s.now,
            now=after,
            older=s.newer,
            newer=direction,
            beta=beta,
            dbar=dbar,
            epsilon=epsilon,
            cosine=cosine,
            sine=sine,
            phi=phi,
            size=size,
            diagonal=s.diagonal.at[s.steps].set(alpha, mode="drop"),
            beside=s.beside.at[s.steps].set(beta, mode="drop"),
            active=~flat & ~ended & whole.far(residual),
            flat=flat,
            steps=s.steps + (~flat).astype(jnp.int32),
        )

    solution, residual, taken = whole.begin()
    length = norm(residual)
    first = _State(
        solution=solution,
        residual=residual,
        before=jnp.zeros_like(rhs),
        now=residual / jnp.where(length > 0, length, jnp.ones_like(length)),
        older=jnp.zeros_like(rhs),
        newer=jnp.zeros_like(rhs),
        beta=zero,
        dbar=zero,
        epsilon=zero,
        cosine=-jnp.ones((), rhs.dtype),
        sine=zero,
        phi=length,
        size=zero,
        diagonal=jnp.zeros(kept, rhs.dtype),
        beside=jnp.zeros(kept, rhs.dtype),
        active=whole.far(residual) & jnp.logical_not(whole.skewed),
        flat=jnp.zeros((), bool),
        steps=jnp.zeros((), jnp.int32),
    )
    return iterate(system, lambda s: s.active & (s.steps < spec.max_steps), step, first, spec.max_steps), taken


def _smallest_ritz(end: _State) -> Array:
    """The eigenvalue of least size of the first Lanczos coefficients' tridiagonal matrix; NaN without any."""
    count = jnp.arange(end.diagonal.size, dtype=jnp.int32)
    met = count < end.steps
    # Steps not taken are eigenvalues of their own, out of the way at the size of J itself.
    diagonal = jnp.where(met, end.diagonal, 2.0 * end.size)
    beside = jnp.where(count + 1 < end.steps, end.beside, jnp.zeros_like(end.beside))[:-1]
    values = jnp.linalg.eigvalsh(jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
    return jnp.where(end.steps > 0, values[jnp.abs(values).argmin()], jnp.nan)
