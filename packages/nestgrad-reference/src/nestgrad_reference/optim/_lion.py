"""Lion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import spread, xp
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class Lion:
    """update = -learning_rate · (sign(b1 m + (1 - b1) g) + weight_decay · w);  m ← b2 m + (1 - b2) g.

    The sign's derivative is zero, so only the rate and the decay have a hypergradient that is not. The state is
    {"m"}, zero at first. (Chen et al. 2023, alg. 2.)
    """

    learning_rate: Any
    b1: Any = 0.9
    b2: Any = 0.99
    weight_decay: Any = 0.0

    def init(self, params: Any) -> Any:
        """A zero moment."""
        return {"m": tree.map(np.zeros_like, params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state)."""
        rate, b1, b2, decay = (spread(x, params) for x in (self.learning_rate, self.b1, self.b2, self.weight_decay))
        signs = tree.map(lambda m, g, b: xp.sign(b * m + (1 - b) * g), state["m"], grads, b1)
        m = tree.map(lambda m, g, b: b * m + (1 - b) * g, state["m"], grads, b2)
        return tree.map(lambda s, w, eta, xi: -eta * (s + xi * w), signs, params, rate, decay), {"m": m}


@schedulable
def lion(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.99, weight_decay: Any = 0.0) -> Lion:
    """Functional Lion; see Lion for the formula."""
    return Lion(learning_rate, b1, b2, weight_decay)
