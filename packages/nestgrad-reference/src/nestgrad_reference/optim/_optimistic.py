"""Optimistic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import spread
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class Optimistic:
    """update = -learning_rate ⊙ (2 g - g_before), where g_before is the gradient of the step before, g at the first.

    It steps by the gradient that it expects next (Popov 1980; Daskalakis et al. 2018). The state is {"before",
    "count"}.
    """

    learning_rate: Any

    def init(self, params: Any) -> Any:
        """No gradient yet: zeros and a zero count."""
        return {"before": tree.map(np.zeros_like, params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state)."""
        before = state["before"] if state["count"] else grads
        rate = spread(self.learning_rate, params)
        updates = tree.map(lambda g, old, eta: -eta * (2.0 * g - old), grads, before, rate)
        return updates, {"before": grads, "count": state["count"] + 1}


@schedulable
def optimistic(learning_rate: Any) -> Optimistic:
    """Functional optimistic gradient descent; see Optimistic for the formula."""
    return Optimistic(learning_rate)
