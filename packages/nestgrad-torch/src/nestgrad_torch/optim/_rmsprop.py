"""RMSprop, plain or centered, with momentum."""

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
    mixed,
    root,
    spread,
    step_count,
    zeros,
)
from nestgrad_torch.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class RMSprop:
    """v ← decay v + (1 - decay) d², x = d / (√v + eps), b ← momentum · b + x; w ← w - learning_rate · b.

    d = g + weight_decay · w. centered: √(v - a²) for √v, with a ← decay a + (1 - decay) d. Each setting is a float, a
    0-d tensor, or a tree shaped like params with a tensor for each (0-d, or the param's shape). Where what is under the
    root is zero its derivative is taken to be zero. The state is {"v", "trace": b, "mean": a}, all zero at first; the
    trace is None with momentum the float 0, the mean is unless centered. (Tieleman and Hinton 2012; centred: Graves
    2013, eq. 38 to 41 without its constants.)
    """

    learning_rate: Any
    decay: Any = 0.99
    eps: Any = 1e-8
    momentum: Any = 0.0
    weight_decay: Any = 0.0
    centered: bool = False

    def init(self, params: Any) -> Any:
        """Zeros, where they are used."""
        return {
            "v": zeros(params),
            "trace": None if is_zero(self.momentum) else zeros(params),
            "mean": zeros(params) if self.centered else None,
        }

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate · b, new state), differentiable in grads, params and every setting."""
        weights = tree.leaves(params)
        slopes, v = tree.matched(params, grads, state["v"])
        slopes = decayed(slopes, weights, self.weight_decay, params, rule="rmsprop")
        rates, decays, eps = (self._spread(name, params, weights) for name in ("learning_rate", "decay", "eps"))
        under = v = [a * old + (1 - a) * d * d for old, d, a in zip(v, slopes, decays, strict=True)]
        after = {**state, "v": tree.unflatten(params, v)}
        if self.centered:
            (mean,) = tree.matched(params, state["mean"])
            mean = [mixed(old, d, a) for old, d, a in zip(mean, slopes, decays, strict=True)]
            after["mean"], under = tree.unflatten(params, mean), [x - a * a for x, a in zip(v, mean, strict=True)]
        moves = [d / (root(x) + e) for d, x, e in zip(slopes, under, eps, strict=True)]
        if state["trace"] is not None:
            (trace,) = tree.matched(params, state["trace"])
            momenta = self._spread("momentum", params, weights)
            moves = [mu * b + x for mu, b, x in zip(momenta, trace, moves, strict=True)]
            after["trace"] = tree.unflatten(params, moves)
        return tree.unflatten(params, [-rate * x for rate, x in zip(rates, moves, strict=True)]), after

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(is_scalar(getattr(self, name)) for name in _NUMBERS):
            return None
        return {name: None if values is None else joined(values) for name, values in state.items()}

    def torch_optimizer(self, named_params: Mapping[str, Tensor], state: Any) -> torch.optim.RMSprop:
        """torch.optim.RMSprop over these params with these settings as floats and the averages kept."""
        numbers: dict[str, Any] = {name: as_number(getattr(self, name), name, rule="rmsprop") for name in _NUMBERS}
        optimizer = torch.optim.RMSprop(
            list(named_params.values()),
            lr=numbers.pop("learning_rate"),
            alpha=numbers.pop("decay"),
            centered=self.centered,
            **numbers,
        )
        moments = {"square_avg": state["v"], "momentum_buffer": state["trace"], "grad_avg": state["mean"]}
        there = {name: values for name, values in moments.items() if values is not None}
        return handed_over(optimizer, named_params, there, step=step_count(0))

    def _spread(self, name: str, params: Any, weights: list[Tensor]) -> list[Any]:
        return spread(getattr(self, name), params, weights, name, rule="rmsprop")


_NUMBERS = ("learning_rate", "decay", "eps", "momentum", "weight_decay")


@schedulable
def rmsprop(
    learning_rate: Any,
    decay: Any = 0.99,
    eps: Any = 1e-8,
    momentum: Any = 0.0,
    weight_decay: Any = 0.0,
    centered: bool = False,
) -> RMSprop:
    """Functional RMSprop; see RMSprop for the formula."""
    return RMSprop(learning_rate, decay, eps, momentum, weight_decay, centered)
