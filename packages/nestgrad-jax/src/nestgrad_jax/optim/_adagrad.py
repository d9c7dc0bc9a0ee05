"""Adagrad."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nestgrad_jax.optim._common import decayed, downhill, no_steps, root, spread, transformation
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def adagrad(
    learning_rate: Any,
    eps: Any = 1e-10,
    weight_decay: Any = 0.0,
    lr_decay: Any = 0.0,
    initial_accumulator: float = 0.0,
) -> optax.GradientTransformation:
    """s ← s + d²; update = -learning_rate / (1 + (t - 1) lr_decay) · d / (√s + eps), d = g + weight_decay · w.

    t counts from 1; s is initial_accumulator at first. Where s = 0 the root's derivative is taken to be zero. The state
    is {"sum": s, "count"}. (Duchi, Hazan and Singer 2011.)
    """

    def init(params: Any) -> Any:
        return {"sum": jax.tree.map(lambda p: jnp.full_like(p, initial_accumulator), params), "count": no_steps()}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        slopes = decayed("adagrad", grads, params, weight_decay)
        total = jax.tree.map(lambda s, d: s + d**2, state["sum"], slopes)
        moves = jax.tree.map(
            lambda d, s, e, k: d / ((root(s) + e) * (1.0 + state["count"].astype(k.dtype) * k)),
            *(slopes, total, spread(eps, grads), spread(lr_decay, grads)),
        )
        return downhill(moves, learning_rate), {"sum": total, "count": state["count"] + 1}

    return transformation(init, update)
