"""SGD with momentum whose steps can be undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import plain, spread


@dataclass(frozen=True, slots=True)
class ReversibleSGD:
    """v ← β v - (1 - β) g, w ← w + α v, with β = momentum rounded to n/65536 (Maclaurin et al. 2015).

    The derivative in momentum is that in β. Each setting is a scalar or a tree shaped like params; the state is
    {"velocity": v}, zero at first.
    """

    learning_rate: Any
    momentum: Any

    def init(self, params: Any) -> Any:
        """A zero velocity."""
        return {"velocity": tree.map(np.zeros_like, params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(α v, state with v)."""
        rate, momentum = spread(self.learning_rate, params), spread(self.momentum, params)
        betas = tree.map(_sixteen_bits, momentum)
        velocity = tree.map(lambda v, g, beta: beta * v - (1.0 - beta) * g, state["velocity"], grads, betas)
        return tree.map(lambda v, alpha: alpha * v, velocity, rate), {"velocity": velocity}


def reversible_sgd(learning_rate: Any, momentum: Any) -> ReversibleSGD:
    """SGD with momentum for Unrolled(mode="reversible"); see ReversibleSGD for the formula."""
    return ReversibleSGD(learning_rate, momentum)


def _sixteen_bits(momentum: Any) -> Any:
    value = plain(momentum)
    return momentum + (np.round(65536.0 * value) / 65536.0 - value)
