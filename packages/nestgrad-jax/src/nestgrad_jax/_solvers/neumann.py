"""Neumann: p = a P Σ_{j<k} (I - a Jᵀ P)ʲ v, with P = I unless a preconditioner is given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import GROWTH_LIMIT, Neumann, Status
from nestgrad_jax._solvers._common import MOST_STRAIGHT, SOLVERS, Solve, System, first_of
from nestgrad_jax._tree import SMALL, entries, flat, norm

_FEW = 10
"""Products up to which terms of SMALL entries at the most are written out."""


@SOLVERS.register(Neumann)
def neumann(spec: Neumann, system: System) -> Solve:
    """k terms by k - 1 products, in a loop, so that memory does not grow with k; written out where loops are slow.

    A few short terms are written out too, and kept, so that one operation has all their norms. Vectors may be trees.
    """
    rhs, products = system.rhs, spec.num_terms - 1
    few = products <= _FEW and entries(rhs) <= SMALL

    def add_term(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Array]:
        term, total = carry
        image = system.apply(system.precondition(term))
        term = jax.tree.map(lambda old, moved: old - spec.step_size * moved, term, image)
        return (term, jax.tree.map(jnp.add, total, term)), flat(term) if few else norm(term)

    straight = few or (system.straight and products <= MOST_STRAIGHT)
    carry, later = lax.scan(add_term, (rhs, rhs), length=products, unroll=max(1, products) if straight else 1)
    sizes = jnp.concatenate([norm(rhs)[None], jnp.sqrt((later**2).sum(axis=1)) if few else later])
    ratio = sizes[-1] / sizes[-2] if products else jnp.nan
    return Solve(
        solution=jax.tree.map(lambda total: spec.step_size * total, system.precondition(carry[1])),
        status=_status(sizes, system.symmetric and system.preconditioner is None),
        residual_norm=sizes[-1],
        steps=spec.num_terms,
        products=products,
        contraction=ratio,
        curvature=(1.0 - ratio) / spec.step_size,
    )


def _status(sizes: Array, symmetric: bool) -> Array:
    """From the norms of all terms, as Neumann's docstring defines it."""
    last, finite = sizes[-1], jnp.isfinite(sizes[-1])
    growth = sizes[1:] > GROWTH_LIMIT * sizes[:-1]
    growing = growth[-1] if sizes.size > 1 else jnp.zeros((), bool)
    if not symmetric:
        growing &= last > GROWTH_LIMIT * jnp.maximum(sizes[0], sizes[(sizes.size - 1) // 2])
    return first_of(
        (jnp.where(finite, growing, growth.any()), Status.DIVERGED),
        (~finite, Status.NONFINITE),
        otherwise=Status.TRUNCATED,
    )
