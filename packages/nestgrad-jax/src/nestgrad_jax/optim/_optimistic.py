"""Optimistic gradient descent."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nestgrad_jax.optim._common import downhill, no_steps, transformation, zeros
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def optimistic(learning_rate: Any) -> optax.GradientTransformation:
    """update = -learning_rate · (2 g - g₋), g₋ the gradient of the step before; at the first step g itself.

    The state is {"before", "count"}. (Daskalakis et al. 2018.)
    """

    def init(params: Any) -> Any:
        return {"before": zeros(params), "count": no_steps()}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        first = state["count"] == 0
        moves = jax.tree.map(lambda g, old: 2.0 * g - jnp.where(first, g, old), grads, state["before"])
        return downhill(moves, learning_rate), {"before": grads, "count": state["count"] + 1}

    return transformation(init, update)
