"""Stochastic gradient descent with momentum and coupled weight decay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nestgrad import InvalidInput
from nestgrad_jax.optim._common import decayed, downhill, is_zero, no_steps, spread, transformation, zeros
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def sgd(
    learning_rate: Any, momentum: Any = 0.0, weight_decay: Any = 0.0, dampening: Any = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    """d = g + weight_decay · w;  v ← momentum · v + (1 - dampening) d;  update = -learning_rate ⊙ v.

    On the first step v = d whatever the dampening; with nesterov the update is -learning_rate ⊙ (d + momentum · v).
    The state is {"trace": v}, v zero at first, and beside it "count" where there is a dampening; with momentum the
    number 0 the trace is None. Raises InvalidInput for nesterov with a dampening.
    """
    damped = not is_zero(dampening)
    if nesterov and damped:
        raise InvalidInput(f"sgd: nesterov=True with dampening {dampening!r}, limit: 0. Remedy: leave dampening out.")

    def init(params: Any) -> Any:
        trace = None if is_zero(momentum) else zeros(params)
        return {"trace": trace, **({"count": no_steps()} if damped else {})}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        slopes, mu = decayed("sgd", grads, params, weight_decay), spread(momentum, grads)
        added, counted = slopes, {}
        if damped:
            first = state["count"] == 0
            added = jax.tree.map(lambda d, tau: jnp.where(first, d, (1.0 - tau) * d), slopes, spread(dampening, grads))
            counted = {"count": state["count"] + 1}
        kept = state["trace"]
        trace = added if kept is None else jax.tree.map(lambda v, d, m: m * v + d, kept, added, mu)
        moves = jax.tree.map(lambda d, v, m: d + m * v, slopes, trace, mu) if nesterov else trace
        return downhill(moves, learning_rate), {"trace": None if kept is None else trace, **counted}

    return transformation(init, update)
