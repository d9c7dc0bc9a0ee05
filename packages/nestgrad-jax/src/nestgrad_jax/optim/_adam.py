"""Adam, with weight decay in the gradient or beside it."""

from __future__ import annotations

from typing import Any

import jax
import optax

from nestgrad_jax.optim._common import (
    averaged,
    decayed,
    downhill,
    no_steps,
    power,
    root,
    spread,
    squared,
    transformation,
    zeros,
)
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def adam(
    learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 0.0
) -> optax.GradientTransformation:
    """m ← b1 m + (1 - b1) d, v ← b2 v + (1 - b2) d²; update = -learning_rate · m̂ / (√v̂ + eps).

    m̂ = m / (1 - b1ᵗ), v̂ = v / (1 - b2ᵗ), t counting from 1; d = g + weight_decay · w. Where v̂ = 0 the root's derivative
    is taken to be zero, not infinite. The state is {"m", "v", "count"}. (Kingma and Ba 2015, alg. 1.)
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        slopes = decayed("adam", grads, params, weight_decay)
        moves, state = _moments(slopes, state, b1, b2, eps)
        return downhill(moves, learning_rate), state

    return transformation(_start, update)


@schedulable
def adamw(
    learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 1e-2
) -> optax.GradientTransformation:
    """As adam with d = g; update = -learning_rate · (m̂ / (√v̂ + eps) + weight_decay · w).

    (Loshchilov and Hutter 2019, alg. 2.)
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, state = _moments(grads, state, b1, b2, eps)
        return downhill(decayed("adamw", moves, params, weight_decay), learning_rate), state

    return transformation(_start, update)


def _start(params: Any) -> Any:
    return {"m": zeros(params), "v": zeros(params), "count": no_steps()}


def _moments(slopes: Any, state: Any, b1: Any, b2: Any, eps: Any) -> tuple[Any, Any]:
    """(m̂ / (√v̂ + eps), the state after it)."""
    first, second, least = (spread(setting, slopes) for setting in (b1, b2, eps))
    t = state["count"] + 1
    m = averaged(state["m"], slopes, first)
    v = averaged(state["v"], squared(slopes), second)
    moves = jax.tree.map(
        lambda m, v, b, c, e: (m / (1.0 - power(b, t))) / (root(v / (1.0 - power(c, t))) + e),
        *(m, v, first, second, least),
    )
    return moves, {"m": m, "v": v, "count": t}
