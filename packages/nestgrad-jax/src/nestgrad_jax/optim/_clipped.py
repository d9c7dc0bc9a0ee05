"""Clipping by the global norm, inside the differentiated update."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from nestgrad_jax._tree import power_of_two
from nestgrad_jax.optim._common import root, transformation


def clipped(rule: Any, max_norm: Any) -> optax.GradientTransformation:
    """The rule, given g · min(1, max_norm / (|g| + 1e-6)) for g, |g| being over all params.

    Differentiated through, in max_norm as well; at g = 0 the factor is 1 and its derivative zero. The state is the
    rule's own. (Pascanu, Mikolov and Bengio 2013, alg. 1.)
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = _norm(jax.tree.leaves(grads))
        factor = jnp.minimum(jnp.ones_like(norm), jnp.asarray(max_norm, norm.dtype) / (norm + 1e-6))
        return rule.update(jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state, params)

    return transformation(rule.init, update)


def _norm(leaves: list[Array]) -> Array:
    """|g| by numbers near 1, so that no square under- or overflows, with derivatives of zero where it is zero."""
    largest = jnp.stack([jnp.abs(leaf).max(initial=0.0) for leaf in leaves]).max()
    scale = lax.stop_gradient(power_of_two(lax.stop_gradient(largest)))
    return scale * root(jnp.stack([jnp.square(leaf / scale).sum() for leaf in leaves]).sum())
