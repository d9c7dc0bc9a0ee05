"""RMSprop."""

from __future__ import annotations

from typing import Any

import jax
import optax

from nestgrad_jax.optim._common import (
    averaged,
    decayed,
    downhill,
    is_zero,
    root,
    spread,
    squared,
    transformation,
    zeros,
)
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def rmsprop(
    learning_rate: Any,
    decay: Any = 0.99,
    eps: Any = 1e-8,
    momentum: Any = 0.0,
    weight_decay: Any = 0.0,
    centered: bool = False,
) -> optax.GradientTransformation:
    """v ← decay v + (1 - decay) d², x = d / (√v + eps), b ← momentum · b + x; update = -learning_rate · b.

    d = g + weight_decay · w. centered: √(v - a²) for √v, with a ← decay a + (1 - decay) d. Where what is under the root
    is zero its derivative is taken to be zero. The state is {"v"}, beside it {"trace": b} with a momentum and
    {"mean": a} where centered, all zero at first. (Tieleman and Hinton 2012; centred: Graves 2013, eq. 38 to 41 without
    its constants.)
    """
    names = ("v", *(() if is_zero(momentum) else ("trace",)), *(("mean",) if centered else ()))

    def init(params: Any) -> Any:
        return {name: zeros(params) for name in names}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        slopes, share = decayed("rmsprop", grads, params, weight_decay), spread(decay, grads)
        after = {"v": averaged(state["v"], squared(slopes), share)}
        under = after["v"]
        if centered:
            after["mean"] = averaged(state["mean"], slopes, share)
            under = jax.tree.map(lambda v, a: v - a**2, after["v"], after["mean"])
        moves = jax.tree.map(lambda d, x, e: d / (root(x) + e), slopes, under, spread(eps, grads))
        if "trace" in names:
            moves = jax.tree.map(lambda b, x, mu: mu * b + x, state["trace"], moves, spread(momentum, grads))
            after["trace"] = moves
        return downhill(moves, learning_rate), after

    return transformation(init, update)
