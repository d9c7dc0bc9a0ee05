"""Stochastic gradient descent with momentum and coupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import InvalidInput, tree
from nestgrad_reference._tree import spread
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class SGD:
    """d = g + weight_decay · w;  v ← momentum · v + (1 - dampening) d;  update = -learning_rate ⊙ v.

    On the first step v = d whatever the dampening; with nesterov the update is -learning_rate ⊙ (d + momentum · v).
    The state is {"trace": v}, v zero at first, and beside it "count" where there is a dampening; with momentum the
    number 0 the trace is None.
    """

    learning_rate: Any
    momentum: Any = 0.0
    weight_decay: Any = 0.0
    dampening: Any = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self._damped:
            raise InvalidInput(
                f"sgd: nesterov=True with dampening {self.dampening!r}, limit: 0. Remedy: leave dampening out."
            )

    def init(self, params: Any) -> Any:
        """A zero trace, or none when momentum is the number 0; a zero count where there is a dampening."""
        trace = None if _is_zero(self.momentum) else tree.map(np.zeros_like, params)
        return {"trace": trace, **({"count": 0} if self._damped else {})}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate ⊙ v, new state)."""
        settings = (self.learning_rate, self.momentum, self.weight_decay, self.dampening)
        rate, momentum, decay, dampening = (spread(x, params) for x in settings)
        slopes = tree.map(lambda g, w, xi: g + xi * w, grads, params, decay)
        share = tree.map(lambda tau: 1.0 - tau if state.get("count") else 1.0, dampening)
        if state["trace"] is None:
            trace = tree.map(lambda d, s: s * d, slopes, share)
        else:
            trace = tree.map(lambda v, d, mu, s: mu * v + s * d, state["trace"], slopes, momentum, share)
        moves = tree.map(lambda d, v, mu: d + mu * v, slopes, trace, momentum) if self.nesterov else trace
        counted = {"count": state["count"] + 1} if self._damped else {}
        kept = None if state["trace"] is None else trace
        return tree.map(lambda x, eta: -eta * x, moves, rate), {"trace": kept, **counted}

    @property
    def _damped(self) -> bool:
        return not _is_zero(self.dampening)


@schedulable
def sgd(
    learning_rate: Any, momentum: Any = 0.0, weight_decay: Any = 0.0, dampening: Any = 0.0, nesterov: bool = False
) -> SGD:
    """Functional SGD; see SGD for the formula."""
    return SGD(learning_rate, momentum, weight_decay, dampening, nesterov)


def _is_zero(setting: Any) -> bool:
    """Whether it is the number 0, and not an array or a box in which a derivative may be taken."""
    return isinstance(setting, (int, float)) and setting == 0
