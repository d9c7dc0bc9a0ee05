"""SGD with momentum whose steps can be undone to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, tree
from nestgrad_torch.optim._common import spread

RADIX = 2.0**52
"""One is 2⁵² in fixed point, so that weights up to 500 leave two bits of an int64 free."""

PARTS = 2**16
"""Momenta are n / 65536."""


@dataclass(frozen=True, slots=True)
class ReversibleSGD:
    """v ← β v - (1 - β) g, w ← w + α v, with α = learning_rate and β = momentum rounded to n/65536.

    The derivative in momentum is that in β. Each setting is a float, a 0-d tensor, or a tree shaped like params with a
    tensor for each param. The state is {"velocity": v}, zero at first. For Unrolled(mode="reversible"), where w and v
    are kept in fixed point, 2⁵² being one; elsewhere it is any functional rule. (Maclaurin et al. 2015.)
    """

    learning_rate: Any
    momentum: Any

    def init(self, params: Any) -> Any:
        """A zero velocity."""
        return {"velocity": tree.map(torch.zeros_like, params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(α v, state with v), differentiable in grads, params and both settings."""
        rates, betas = self.settings(params)
        slopes, velocity = tree.matched(params, grads, state["velocity"])
        rows = zip(velocity, slopes, betas, strict=True)
        velocity = [beta * v - (1.0 - beta) * g for v, g, beta in rows]
        updates = [rate * v for rate, v in zip(rates, velocity, strict=True)]
        return tree.unflatten(params, updates), {"velocity": tree.unflatten(params, velocity)}

    def settings(self, params: Any) -> tuple[list[Any], list[Any]]:
        """(learning rates, rounded momenta), one entry a param; InvalidInput unless 0 < n < 65536."""
        weights = tree.leaves(params)
        rates = spread(self.learning_rate, params, weights, "learning_rate", rule="reversible_sgd")
        momenta = spread(self.momentum, params, weights, "momentum", rule="reversible_sgd")
        known: dict[int, Any] = {}
        return rates, [known.setdefault(id(beta), _rounded(beta)) for beta in momenta]


def reversible_sgd(learning_rate: Any, momentum: Any) -> ReversibleSGD:
    """SGD with momentum for Unrolled(mode="reversible"); see ReversibleSGD for the formula and the rounding."""
    return ReversibleSGD(learning_rate, momentum)


def _rounded(momentum: Any) -> Any:
    """The nearest n/65536, whose derivative is taken to be 1."""
    value = momentum.detach() if isinstance(momentum, Tensor) else momentum
    nearest = torch.round(PARTS * value) / PARTS if isinstance(value, Tensor) else round(PARTS * value) / PARTS
    low, high = (float(nearest.min()), float(nearest.max())) if isinstance(nearest, Tensor) else (nearest, nearest)
    if not (low > 0.0 and high < 1.0):
        raise InvalidInput(
            f"reversible_sgd momentum: {low if not low > 0.0 else high:.6g} after rounding to n/65536, limit: above 0 "
            "and below 1. Remedy: pass a momentum such as 0.9, or use sgd and mode='reverse'."
        )
    return momentum + (nearest - value) if isinstance(momentum, Tensor) else nearest
