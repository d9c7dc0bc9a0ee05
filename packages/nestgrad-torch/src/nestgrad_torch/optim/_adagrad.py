"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import tree
from nestgrad_torch.optim._common import (
    as_number,
    decayed,
    handed_over,
    is_scalar,
    is_zero,
    joined,
    root,
    spread,
    step_count,
)
from nestgrad_torch.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class Adagrad:
    """s ← s + d²; w ← w - learning_rate / (1 + (t - 1) lr_decay) · d / (√s + eps), d = g + weight_decay · w.

    t counts from 1; s is initial_accumulator at first. Each other setting is a float, a 0-d tensor, or a tree shaped
    like params with a tensor for each (0-d, or the param's shape). Where s = 0 the root's derivative is taken to be
    zero. The state is {"sum": s, "count"}. (Duchi, Hazan and Singer 2011.)
    """

    learning_rate: Any
    eps: Any = 1e-10
    weight_decay: Any = 0.0
    lr_decay: Any = 0.0
    initial_accumulator: float = 0.0

    def init(self, params: Any) -> Any:
        """The initial accumulator everywhere."""
        start = float(self.initial_accumulator)
        return {"sum": tree.map(lambda p: torch.full_like(p, start), params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state), differentiable in grads, params and every setting but the accumulator's."""
        weights, count = tree.leaves(params), state["count"]
        slopes, total = tree.matched(params, grads, state["sum"])
        slopes = decayed(slopes, weights, self.weight_decay, params, rule="adagrad")
        total = [s + d * d for s, d in zip(total, slopes, strict=True)]
        rates, eps = (self._spread(name, params, weights) for name in ("learning_rate", "eps"))
        if not is_zero(self.lr_decay):
            decays = self._spread("lr_decay", params, weights)
            rates = [rate / (1.0 + count * k) for rate, k in zip(rates, decays, strict=True)]
        rows = zip(slopes, total, rates, eps, strict=True)
        moves = [-rate * (d / (root(s) + e)) for d, s, rate, e in rows]
        return tree.unflatten(params, moves), {"sum": tree.unflatten(params, total), "count": count + 1}

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(is_scalar(getattr(self, name)) for name in _NUMBERS):
            return None
        return {"sum": joined(state["sum"]), "count": state["count"]}

    def torch_optimizer(self, named_params: Mapping[str, Tensor], state: Any) -> torch.optim.Adagrad:
        """torch.optim.Adagrad over these params with these settings as floats, the sums and the count."""
        numbers: dict[str, Any] = {name: as_number(getattr(self, name), name, rule="adagrad") for name in _NUMBERS}
        optimizer = torch.optim.Adagrad(list(named_params.values()), lr=numbers.pop("learning_rate"), **numbers)
        return handed_over(optimizer, named_params, {"sum": state["sum"]}, step=step_count(state["count"]))

    def _spread(self, name: str, params: Any, weights: list[Tensor]) -> list[Any]:
        return spread(getattr(self, name), params, weights, name, rule="adagrad")


_NUMBERS = ("learning_rate", "eps", "weight_decay", "lr_decay")


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
