"""Functional optimizers in NumPy that autograd differentiates: the shape of an optax transformation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import plain, spread, xp


@dataclass(frozen=True, slots=True)
class SGD:
    """v ← momentum · v + g + weight_decay · w;  update = -learning_rate ⊙ v.

    Each setting is a scalar or a tree shaped like params. The state is {"trace": v}, zero at first.
    """

    learning_rate: Any
    momentum: Any = 0.0
    weight_decay: Any = 0.0

    def init(self, params: Any) -> Any:
        """A zero trace."""
        return {"trace": tree.map(np.zeros_like, params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate ⊙ v, state with v)."""
        rate, momentum, decay = (spread(x, params) for x in (self.learning_rate, self.momentum, self.weight_decay))
        trace = tree.map(lambda v, g, w, mu, xi: mu * v + g + xi * w, state["trace"], grads, params, momentum, decay)
        return tree.map(lambda v, eta: -eta * v, trace, rate), {"trace": trace}


def sgd(learning_rate: Any, momentum: Any = 0.0, weight_decay: Any = 0.0) -> SGD:
    """Functional SGD; see SGD for the formula."""
    return SGD(learning_rate, momentum, weight_decay)


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


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma and Ba 2015, algorithm 1: w ← w - learning_rate · m̂ / (√v̂ + eps)."""

    learning_rate: Any
    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8

    def init(self, params: Any) -> Any:
        """Zero moments and a zero count."""
        return {"m": tree.map(np.zeros_like, params), "v": tree.map(np.zeros_like, params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate · m̂ / (√v̂ + eps), new state)."""
        count = state["count"] + 1
        m = tree.map(lambda m, g: self.b1 * m + (1 - self.b1) * g, state["m"], grads)
        v = tree.map(lambda v, g: self.b2 * v + (1 - self.b2) * g**2, state["v"], grads)

        def move(m: Any, v: Any) -> Any:
            corrected = m / (1 - self.b1**count)
            return -self.learning_rate * corrected / (xp.sqrt(v / (1 - self.b2**count)) + self.eps)

        return tree.map(move, m, v), {"m": m, "v": v, "count": count}


def adam(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Adam:
    """Adam, with its usual moments unless told otherwise; see Adam for the formula."""
    return Adam(learning_rate, b1, b2, eps)
