"""Lion."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nestgrad_jax.optim._common import averaged, decayed, downhill, spread, transformation, zeros
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def lion(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.99, weight_decay: Any = 0.0) -> optax.GradientTransformation:
    """update = -learning_rate · (sign(b1 m + (1 - b1) g) + weight_decay · w);  m ← b2 m + (1 - b2) g.

    The sign's derivative is zero, so only the rate and the decay have a hypergradient that is not. The state is
    {"m"}, zero at first. (Chen et al. 2023, alg. 2.)
    """

    def init(params: Any) -> Any:
        return {"m": zeros(params)}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        signs = jax.tree.map(jnp.sign, averaged(state["m"], grads, spread(b1, grads)))
        moves = decayed("lion", signs, params, weight_decay)
        return downhill(moves, learning_rate), {"m": averaged(state["m"], grads, spread(b2, grads))}

    return transformation(init, update)
