"""Stochastic gradient descent with heavy-ball or Nesterov momentum, dampening and coupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, UnsupportedOptimizer, tree
from nestgrad_torch.optim._common import (
    add_scaled,
    as_number,
    decayed,
    is_scalar,
    is_zero,
    joined,
    spread,
    zeros,
)
from nestgrad_torch.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class SGD:
    """d = g + weight_decay · w;  v ← momentum · v + (1 - dampening) d;  w ← w - learning_rate ⊙ v.

    On the first step v = d whatever the dampening; with nesterov w ← w - learning_rate ⊙ (d + momentum · v).

    Each setting is a float, a 0-d tensor, or a tree shaped like params with a tensor for each param (0-d, or the
    param's own shape). The state is {"trace": v}, v zero at first, and beside it "count" where there is a dampening;
    with momentum the float 0 the trace is None.
    `step` equals torch.optim.SGD bit for bit on the CPU; `update` differs from it by the rounding of one addition.
    """

    learning_rate: Any
    momentum: Any = 0.0
    weight_decay: Any = 0.0
    dampening: Any = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not is_zero(self.dampening):
            raise InvalidInput(
                f"sgd: nesterov=True with dampening {self.dampening!r}, limit: 0. Remedy: leave dampening out."
            )

    def init(self, params: Any) -> Any:
        """A zero trace, or none when momentum is the float 0; a zero count where there is a dampening."""
        trace = None if is_zero(self.momentum) else zeros(params)
        return {"trace": trace} if is_zero(self.dampening) else {"trace": trace, "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate ⊙ v, new state), differentiable in grads, params and every setting."""
        weights = tree.leaves(params)
        directions, state = self._directions(grads, state, params, weights)
        rates = spread(self.learning_rate, params, weights, "learning_rate")
        return tree.unflatten(params, [-rate * v for rate, v in zip(rates, directions, strict=True)]), state

    def step(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(next params, new state), in torch.optim.SGD's own rounding."""
        weights = tree.leaves(params)
        directions, state = self._directions(grads, state, params, weights)
        rates = spread(self.learning_rate, params, weights, "learning_rate")
        moved = [add_scaled(w, v, rate, -1) for w, v, rate in zip(weights, directions, rates, strict=True)]
        return tree.unflatten(params, moved), state

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(is_scalar(setting) for setting in self._settings):
            return None
        return state if state["trace"] is None else {**state, "trace": joined(state["trace"])}

    def is_entrywise(self, state: Any) -> bool:
        """Whether `update` on all weights in one vector gives the bits of one on the params, and the same state.

        So it is where each setting is a Python number, in which nothing is differentiated, and there is no trace.
        """
        return state["trace"] is None and all(isinstance(setting, (float, int)) for setting in self._settings)

    def torch_optimizer(self, named_params: Mapping[str, Tensor], state: Any) -> torch.optim.SGD:
        """torch.optim.SGD over these params with these settings as floats and the trace as its momentum buffers."""
        settings: dict[str, Any] = {name: as_number(getattr(self, name), name, rule="sgd") for name in _NUMBERS}
        if settings["dampening"] and not settings["momentum"]:
            raise UnsupportedOptimizer(
                f"sgd dampening: {settings['dampening']:.3g} with momentum 0, limit: 0, since torch.optim.SGD leaves "
                "dampening out where there is no momentum. Remedy: go on with the functional rule."
            )
        optimizer = torch.optim.SGD(
            list(named_params.values()),
            lr=settings.pop("learning_rate"),
            nesterov=self.nesterov and settings["momentum"] > 0.0,
            **settings,
        )
        if state["trace"] is not None and state.get("count", 1):
            trace = tree.named_leaves(state["trace"])
            for name, param in named_params.items():
                optimizer.state[param]["momentum_buffer"] = trace[name].detach().clone()
        return optimizer

    @property
    def _settings(self) -> tuple[Any, ...]:
        return self.learning_rate, self.momentum, self.weight_decay, self.dampening

    def _directions(self, grads: Any, state: Any, params: Any, weights: list[Tensor]) -> tuple[list[Tensor], Any]:
        """(what the learning rate multiplies, new state)."""
        (grads,) = tree.matched(params, grads)
        slopes = decayed(grads, weights, self.weight_decay, params, rule="sgd")
        if "count" in state:
            return self._damped(slopes, state, params, weights)
        if state["trace"] is None:
            return slopes, state
        momenta = spread(self.momentum, params, weights, "momentum")
        (trace,) = tree.matched(params, state["trace"])
        trace = [v * mu + d for v, mu, d in zip(trace, momenta, slopes, strict=True)]
        after = {"trace": tree.unflatten(params, trace)}
        if self.nesterov:
            trace = [add_scaled(d, v, mu) for d, v, mu in zip(slopes, trace, momenta, strict=True)]
        return trace, after

    def _damped(self, slopes: list[Tensor], state: Any, params: Any, weights: list[Tensor]) -> tuple[list[Tensor], Any]:
        """The same with dampening, in whose presence there is no Nesterov momentum."""
        shares, count = self._shares(state, params, weights), state["count"] + 1
        if state["trace"] is None:
            moves = [share * d for share, d in zip(shares, slopes, strict=True)]
            return moves, {"trace": None, "count": count}
        momenta = spread(self.momentum, params, weights, "momentum")
        (trace,) = tree.matched(params, state["trace"])
        rows = zip(trace, momenta, slopes, shares, strict=True)
        trace = [add_scaled(v * mu, d, share) for v, mu, d, share in rows]
        return trace, {"trace": tree.unflatten(params, trace), "count": count}

    def _shares(self, state: Any, params: Any, weights: list[Tensor]) -> list[Any]:
        """1 - dampening; 1 on the first step."""
        count, dampening = state["count"], spread(self.dampening, params, weights, "dampening")
        if isinstance(count, Tensor):
            first = (count == 0).to(weights[0].device)
            return [torch.where(first, 1.0, torch.as_tensor(1.0 - x, dtype=weights[0].dtype)) for x in dampening]
        return [1.0 - x if count else 1.0 for x in dampening]


_NUMBERS = ("learning_rate", "momentum", "weight_decay", "dampening")


@schedulable
def sgd(
    learning_rate: Any, momentum: Any = 0.0, weight_decay: Any = 0.0, dampening: Any = 0.0, nesterov: bool = False
) -> SGD:
    """Functional SGD; see SGD for the formula and what each setting may be."""
    return SGD(learning_rate, momentum, weight_decay, dampening, nesterov)
