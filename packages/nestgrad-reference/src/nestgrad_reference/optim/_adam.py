"""Adam, with weight decay in the gradient or beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import root, spread
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class Adam:
    """m ← b1 m + (1 - b1) d, v ← b2 v + (1 - b2) d²; update = -learning_rate · m̂ / (√v̂ + eps).

    m̂ = m / (1 - b1ᵗ), v̂ = v / (1 - b2ᵗ), t counting from 1; d = g + weight_decay · w. decoupled: d = g, and the update
    is -learning_rate · (m̂ / (√v̂ + eps) + weight_decay · w). Where v̂ = 0 the root's derivative is taken to be zero, not
    infinite. The state is {"m", "v", "count"}. (Kingma and Ba 2015, alg. 1; Loshchilov and Hutter 2019, alg. 2.)
    """

    learning_rate: Any
    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8
    weight_decay: Any = 0.0
    decoupled: bool = False

    def init(self, params: Any) -> Any:
        """Zero moments and a zero count."""
        return {"m": tree.map(np.zeros_like, params), "v": tree.map(np.zeros_like, params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state)."""
        settings = (self.learning_rate, self.b1, self.b2, self.eps, self.weight_decay)
        rate, b1, b2, eps, decay = (spread(x, params) for x in settings)
        t = state["count"] + 1
        slopes = grads if self.decoupled else tree.map(lambda g, w, xi: g + xi * w, grads, params, decay)
        m = tree.map(lambda m, d, b: b * m + (1 - b) * d, state["m"], slopes, b1)
        v = tree.map(lambda v, d, b: b * v + (1 - b) * d**2, state["v"], slopes, b2)
        moves = tree.map(lambda m, v, b, c, e: m / (1 - b**t) / (root(v / (1 - c**t)) + e), m, v, b1, b2, eps)
        if self.decoupled:
            moves = tree.map(lambda x, w, xi: x + xi * w, moves, params, decay)
        return tree.map(lambda x, eta: -eta * x, moves, rate), {"m": m, "v": v, "count": t}


@schedulable
def adam(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 0.0) -> Adam:
    """Adam with weight decay in the gradient; see Adam for the formula."""
    return Adam(learning_rate, b1, b2, eps, weight_decay)


@schedulable
def adamw(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 1e-2) -> Adam:
    """Adam with weight decay beside the gradient; see Adam for the formula."""
    return Adam(learning_rate, b1, b2, eps, weight_decay, decoupled=True)
