"""Adagrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import root, spread
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class Adagrad:
    """s ← s + d²; update = -learning_rate / (1 + (t - 1) lr_decay) · d / (√s + eps), d = g + weight_decay · w.

    t counts from 1; s is initial_accumulator at first. Where s = 0 the root's derivative is taken to be zero. The state
    is {"sum": s, "count"}. (Duchi, Hazan and Singer 2011.)
    """

    learning_rate: Any
    eps: Any = 1e-10
    weight_decay: Any = 0.0
    lr_decay: Any = 0.0
    initial_accumulator: float = 0.0

    def init(self, params: Any) -> Any:
        """The initial accumulator everywhere."""
        return {"sum": tree.map(lambda p: np.full_like(p, self.initial_accumulator), params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state)."""
        settings = (self.learning_rate, self.eps, self.weight_decay, self.lr_decay)
        rate, eps, penalty, decay = (spread(x, params) for x in settings)
        slopes = tree.map(lambda g, w, xi: g + xi * w, grads, params, penalty)
        total = tree.map(lambda s, d: s + d**2, state["sum"], slopes)
        now = tree.map(lambda eta, k: eta / (1.0 + state["count"] * k), rate, decay)
        moves = tree.map(lambda d, s, eta, e: -eta * d / (root(s) + e), slopes, total, now, eps)
        return moves, {"sum": total, "count": state["count"] + 1}


@schedulable
def adagrad(
    learning_rate: Any,
    eps: Any = 1e-10,
    weight_decay: Any = 0.0,
    lr_decay: Any = 0.0,
    initial_accumulator: float = 0.0,
) -> Adagrad:
    """Functional Adagrad; see Adagrad for the formula."""
    return Adagrad(learning_rate, eps, weight_decay, lr_decay, initial_accumulator)
