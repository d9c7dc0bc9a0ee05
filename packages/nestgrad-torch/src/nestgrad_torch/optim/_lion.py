"""Lion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nestgrad import tree
from nestgrad_torch.optim._common import add_scaled, is_scalar, is_zero, joined, mixed, spread, zeros
from nestgrad_torch.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class Lion:
    """w ← w - learning_rate · (sign(b1 m + (1 - b1) g) + weight_decay · w);  m ← b2 m + (1 - b2) g.

    The sign's derivative is zero, so only the rate and the decay have a hypergradient that is not. Each setting is a
    float, a 0-d tensor, or a tree shaped like params with a tensor for each (0-d, or the param's shape). The state is
    {"m"}, zero at first. (Chen et al. 2023, alg. 2.)
    """

    learning_rate: Any
    b1: Any = 0.9
    b2: Any = 0.99
    weight_decay: Any = 0.0

    def init(self, params: Any) -> Any:
        """A zero moment."""
        return {"m": zeros(params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state), differentiable in grads, params and every setting."""
        weights = tree.leaves(params)
        slopes, m = tree.matched(params, grads, state["m"])
        settings = (spread(getattr(self, name), params, weights, name, rule="lion") for name in _NUMBERS)
        rates, b1, b2, decays = settings
        moves = [torch.sign(mixed(old, g, b)) for old, g, b in zip(m, slopes, b1, strict=True)]
        if not is_zero(self.weight_decay):
            moves = [add_scaled(s, w, xi) for s, w, xi in zip(moves, weights, decays, strict=True)]
        m = [mixed(old, g, b) for old, g, b in zip(m, slopes, b2, strict=True)]
        updates = [-rate * x for rate, x in zip(rates, moves, strict=True)]
        return tree.unflatten(params, updates), {"m": tree.unflatten(params, m)}

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(is_scalar(getattr(self, name)) for name in _NUMBERS):
            return None
        return {"m": joined(state["m"])}


_NUMBERS = ("learning_rate", "b1", "b2", "weight_decay")


@schedulable
def lion(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.99, weight_decay: Any = 0.0) -> Lion:
    """Functional Lion; see Lion for the formula."""
    return Lion(learning_rate, b1, b2, weight_decay)
