"""Adam, with weight decay in the gradient or beside it, and a derivative where a second moment is zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import tree
from nestgrad_torch.optim._common import (
    add_scaled,
    as_number,
    decayed,
    handed_over,
    is_scalar,
    is_zero,
    joined,
    mixed,
    root,
    spread,
    step_count,
    zeros,
)
from nestgrad_torch.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class Adam:
    """m ← b1 m + (1 - b1) d, v ← b2 v + (1 - b2) d²; w ← w - learning_rate · m̂ / (√v̂ + eps).

    m̂ = m / (1 - b1ᵗ), v̂ = v / (1 - b2ᵗ), t counting from 1; d = g + weight_decay · w. decoupled: d = g, and
    w ← w - learning_rate · (m̂ / (√v̂ + eps) + weight_decay · w). Each setting is a float, a 0-d tensor, or a tree shaped
    like params with a tensor for each (0-d, or the param's shape). Where v̂ = 0 the root's derivative is taken to be
    zero, not infinite. The state is {"m", "v", "count"}. (Kingma and Ba 2015, alg. 1; Loshchilov and Hutter 2019,
    alg. 2.)
    """

    learning_rate: Any
    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8
    weight_decay: Any = 0.0
    decoupled: bool = False

    def init(self, params: Any) -> Any:
        """Zero moments and a zero count."""
        return {"m": zeros(params), "v": zeros(params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state), differentiable in grads, params and every setting."""
        count, weights = state["count"] + 1, tree.leaves(params)
        slopes, m, v = tree.matched(params, grads, state["m"], state["v"])
        if not self.decoupled:
            slopes = decayed(slopes, weights, self.weight_decay, params, rule=self._name)
        rates, b1, b2, eps = (self._spread(name, params, weights) for name in _MOVING)
        m = [mixed(old, d, b) for old, d, b in zip(m, slopes, b1, strict=True)]
        v = [b * old + (1 - b) * d * d for old, d, b in zip(v, slopes, b2, strict=True)]
        c1, c2 = (biases(bs, count, like) for bs, like in ((b1, m), (b2, v)))
        rows = zip(m, v, c1, c2, eps, strict=True)
        moves = [x / c / (root(y / c_) + e) for x, y, c, c_, e in rows]
        if self.decoupled and not is_zero(self.weight_decay):
            decays = self._spread("weight_decay", params, weights)
            moves = [add_scaled(x, w, xi) for x, w, xi in zip(moves, weights, decays, strict=True)]
        updates = [-rate * x for rate, x in zip(rates, moves, strict=True)]
        moments = {"m": tree.unflatten(params, m), "v": tree.unflatten(params, v), "count": count}
        return tree.unflatten(params, updates), moments

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(is_scalar(getattr(self, name)) for name in (*_MOVING, "weight_decay")):
            return None
        return {"m": joined(state["m"]), "v": joined(state["v"]), "count": state["count"]}

    def torch_optimizer(self, named_params: Mapping[str, Tensor], state: Any) -> torch.optim.Optimizer:
        """torch.optim.Adam, or AdamW, over these params with these settings as floats, the moments and the count."""
        numbers = {name: as_number(getattr(self, name), name, rule=self._name) for name in (*_MOVING, "weight_decay")}
        kind = torch.optim.AdamW if self.decoupled else torch.optim.Adam
        optimizer = kind(
            list(named_params.values()),
            lr=numbers["learning_rate"],
            betas=(numbers["b1"], numbers["b2"]),
            eps=numbers["eps"],
            weight_decay=numbers["weight_decay"],
        )
        moments = {"exp_avg": state["m"], "exp_avg_sq": state["v"]}
        return handed_over(optimizer, named_params, moments, step=step_count(state["count"]))

    @property
    def _name(self) -> str:
        return "adamw" if self.decoupled else "adam"

    def _spread(self, name: str, params: Any, weights: list[Tensor]) -> list[Any]:
        return spread(getattr(self, name), params, weights, name, rule=self._name)


_MOVING = ("learning_rate", "b1", "b2", "eps")


@schedulable
def adam(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 0.0) -> Adam:
    """Functional Adam with weight decay in the gradient; see Adam for the formula."""
    return Adam(learning_rate, b1, b2, eps, weight_decay)


@schedulable
def adamw(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 1e-2) -> Adam:
    """Functional Adam with weight decay beside the gradient; see Adam for the formula."""
    return Adam(learning_rate, b1, b2, eps, weight_decay, decoupled=True)


def biases(decays: list[Any], count: Any, like: list[Tensor]) -> list[Any]:
    """1 - decay**count, one entry a param; once for decays that are one object."""
    known: dict[int, Any] = {}
    for decay, leaf in zip(decays, like, strict=True):
        if id(decay) not in known:
            known[id(decay)] = _bias(decay, count, leaf)
    return [known[id(decay)] for decay in decays]


def _bias(decay: Any, count: Any, like: Tensor) -> Any:
    """1 - decay**count; in a program count is a tensor, and the power is taken as precisely as that of two numbers."""
    if not isinstance(count, Tensor):
        return 1 - decay**count
    exact = count.double()
    return (1 - decay**exact).to(like.dtype).to(like.device)
