"""Adam, with a derivative where a second moment is zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import tree


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma and Ba 2015, algorithm 1: w ← w - learning_rate · m̂ / (√v̂ + eps).

    m ← b1 m + (1 - b1) g, v ← b2 v + (1 - b2) g², m̂ = m / (1 - b1ᵗ), v̂ = v / (1 - b2ᵗ). Each setting is a float or a
    0-d tensor. Where v̂ = 0 the root's derivative is taken to be zero, not infinite. The state is {"m", "v", "count"}.
    """

    learning_rate: Any
    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8

    def init(self, params: Any) -> Any:
        """Zero moments and a zero count."""
        return {"m": tree.map(torch.zeros_like, params), "v": tree.map(torch.zeros_like, params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate · m̂ / (√v̂ + eps), new state), differentiable in grads and every setting."""
        count = state["count"] + 1
        m = tree.map(lambda m, g: self.b1 * m + (1 - self.b1) * g, state["m"], grads)
        v = tree.map(lambda v, g: self.b2 * v + (1 - self.b2) * g * g, state["v"], grads)

        def move(m: Tensor, v: Tensor) -> Tensor:
            corrected = m / _bias(self.b1, count, m)
            return -self.learning_rate * corrected / (_root(v / _bias(self.b2, count, v)) + self.eps)

        return tree.map(move, m, v), {"m": m, "v": v, "count": count}

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector; every setting is one number for all."""

        def joined(moments: Any) -> Tensor:
            return torch.cat([x.reshape(-1) for x in tree.leaves(moments)])

        return {"m": joined(state["m"]), "v": joined(state["v"]), "count": state["count"]}


def adam(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Adam:
    """Functional Adam; see Adam for the formula."""
    return Adam(learning_rate, b1, b2, eps)


def _bias(decay: Any, count: Any, like: Tensor) -> Any:
    """1 - decay**count; in a program count is a tensor, and the power is taken as precisely as that of two numbers."""
    if not isinstance(count, Tensor):
        return 1 - decay**count
    exact = count.double()
    return (1 - decay**exact).to(like.dtype).to(like.device)


def _root(x: Tensor) -> Tensor:
    positive = x > 0.0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
