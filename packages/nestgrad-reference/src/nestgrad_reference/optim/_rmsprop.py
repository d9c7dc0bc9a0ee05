"""RMSprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import root, spread
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class RMSprop:
    """v ← decay v + (1 - decay) d², x = d / (√v + eps), b ← momentum · b + x; update = -learning_rate · b.

    d = g + weight_decay · w. centered: √(v - a²) for √v, with a ← decay a + (1 - decay) d. Where what is under the root
    is zero its derivative is taken to be zero. The state is {"v", "trace": b, "mean": a}, all zero at first.
    (Tieleman and Hinton 2012; centred: Graves 2013, eq. 38 to 41 without its constants.)
    """

    learning_rate: Any
    decay: Any = 0.99
    eps: Any = 1e-8
    momentum: Any = 0.0
    weight_decay: Any = 0.0
    centered: bool = False

    def init(self, params: Any) -> Any:
        """Zeros."""
        return {name: tree.map(np.zeros_like, params) for name in ("v", "trace", "mean")}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate · b, new state)."""
        settings = (self.learning_rate, self.decay, self.eps, self.momentum, self.weight_decay)
        rate, decay, eps, momentum, penalty = (spread(x, params) for x in settings)
        slopes = tree.map(lambda g, w, xi: g + xi * w, grads, params, penalty)
        v = tree.map(lambda v, d, a: a * v + (1 - a) * d**2, state["v"], slopes, decay)
        mean = tree.map(lambda m, d, a: a * m + (1 - a) * d, state["mean"], slopes, decay)
        under = tree.map(lambda v, m: v - m**2, v, mean) if self.centered else v
        trace = tree.map(
            lambda b, d, x, mu, e: mu * b + d / (root(x) + e), state["trace"], slopes, under, momentum, eps
        )
        return tree.map(lambda b, eta: -eta * b, trace, rate), {"v": v, "trace": trace, "mean": mean}


@schedulable
def rmsprop(
    learning_rate: Any,
    decay: Any = 0.99,
    eps: Any = 1e-8,
    momentum: Any = 0.0,
    weight_decay: Any = 0.0,
    centered: bool = False,
) -> RMSprop:
    """Functional RMSprop; see RMSprop for the formula."""
    return RMSprop(learning_rate, decay, eps, momentum, weight_decay, centered)
