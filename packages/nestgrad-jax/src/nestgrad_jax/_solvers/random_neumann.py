"""RandomNeumann: p = k a (I - a Jᵀ)ᵐ v, m drawn by the key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import GROWTH_LIMIT, RandomNeumann, Status
from nestgrad_jax._solvers._common import SOLVERS, Solve, System, first_of
from nestgrad_jax._tree import norm


@SOLVERS.register(RandomNeumann)
def random_neumann(spec: RandomNeumann, system: System) -> Solve:
    """m products in a loop of traced length; the norms of the terms are kept for the status."""
    rhs = system.rhs
    last = jax.random.randint(system.key, (), 0, spec.num_terms, jnp.int32)

    def step(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        term, sizes = carry
        term = term - spec.step_size * system.apply(term)
        return term, sizes.at[j + 1].set(norm(term))

    first = jnp.zeros(spec.num_terms, rhs.dtype).at[0].set(norm(rhs))
    term, sizes = lax.fori_loop(jnp.zeros((), jnp.int32), last, step, (rhs, first))
    before = sizes[jnp.maximum(last - 1, 0)]
    ratio = jnp.where(last > 0, sizes[last] / before, jnp.nan)
    return Solve(
        solution=spec.num_terms * spec.step_size * term,
        status=_status(sizes, last, system.symmetric),
        residual_norm=sizes[last],
        steps=last + 1,
        products=last,
        contraction=ratio,
        curvature=(1.0 - ratio) / spec.step_size,
    )


def _status(sizes: Array, last: Array, symmetric: bool) -> Array:
    """As Neumann's, of the terms up to the one drawn; those after it are zero."""
    end, finite = sizes[last], jnp.isfinite(sizes[last])
    growth = (sizes[1:] > GROWTH_LIMIT * sizes[:-1]) & (jnp.arange(1, sizes.size, dtype=jnp.int32) <= last)
    growing = (last > 0) & (end > GROWTH_LIMIT * sizes[jnp.maximum(last - 1, 0)])
    if not symmetric:
        growing &= end > GROWTH_LIMIT * jnp.maximum(sizes[0], sizes[last // 2])
    return first_of(
        (jnp.where(finite, growing, growth.any()), Status.DIVERGED),
        (~finite, Status.NONFINITE),
        otherwise=Status.TRUNCATED,
    )
