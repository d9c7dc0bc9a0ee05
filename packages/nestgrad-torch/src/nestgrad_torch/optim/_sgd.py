"""Stochastic gradient descent with heavy-ball momentum and coupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, UnsupportedOptimizer, tree


@dataclass(frozen=True, slots=True)
class SGD:
    """v ← momentum · v + g + weight_decay · w;  w ← w - learning_rate ⊙ v, as torch.optim.SGD with dampening 0.

    Each setting is a float, a 0-d tensor, or a tree shaped like params with a tensor for each param (0-d, or the
    param's own shape). The state is {"trace": v}, v zero at first; with momentum the float 0 it is {"trace": None}.
    `step` equals torch.optim.SGD bit for bit on the CPU; `update` differs from it by the rounding of one addition.
    """

    learning_rate: Any
    momentum: Any = 0.0
    weight_decay: Any = 0.0

    def init(self, params: Any) -> Any:
        """A zero trace, or none when momentum is the float 0."""
        return {"trace": None if _is_zero(self.momentum) else tree.map(torch.zeros_like, params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(-learning_rate ⊙ v, state with v), differentiable in grads, params and every setting."""
        weights = tree.leaves(params)
        directions, state = self._directions(grads, state, params, weights)
        rates = spread(self.learning_rate, params, weights, "learning_rate")
        return tree.unflatten(params, [-rate * v for rate, v in zip(rates, directions, strict=True)]), state

    def step(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(next params, state with v), in torch.optim.SGD's own rounding."""
        weights = tree.leaves(params)
        directions, state = self._directions(grads, state, params, weights)
        rates = spread(self.learning_rate, params, weights, "learning_rate")
        moved = [_add_scaled(w, v, rate, -1) for w, v, rate in zip(weights, directions, rates, strict=True)]
        return tree.unflatten(params, moved), state

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(_is_scalar(setting) for setting in (self.learning_rate, self.momentum, self.weight_decay)):
            return None
        if state["trace"] is None:
            return state
        return {"trace": torch.cat([v.reshape(-1) for v in tree.leaves(state["trace"])])}

    def is_entrywise(self, state: Any) -> bool:
        """Whether `update` on all weights in one vector gives the bits of one on the params, and the same state.

        So it is where each setting is a Python number, in which nothing is differentiated, and there is no trace.
        """
        settings = (self.learning_rate, self.momentum, self.weight_decay)
        return state["trace"] is None and all(isinstance(setting, (float, int)) for setting in settings)

    def torch_optimizer(self, named_params: Mapping[str, Tensor], state: Any) -> torch.optim.SGD:
        """torch.optim.SGD over these params with these settings as floats and the trace as its momentum buffers."""
        optimizer = torch.optim.SGD(
            list(named_params.values()),
            lr=_number(self.learning_rate, "learning_rate"),
            momentum=_number(self.momentum, "momentum"),
            weight_decay=_number(self.weight_decay, "weight_decay"),
        )
        if state["trace"] is not None:
            trace = tree.named_leaves(state["trace"])
            for name, param in named_params.items():
                optimizer.state[param]["momentum_buffer"] = trace[name].detach().clone()
        return optimizer

    def _directions(self, grads: Any, state: Any, params: Any, weights: list[Tensor]) -> tuple[list[Tensor], Any]:
        (directions,) = tree.matched(params, grads)
        if not _is_zero(self.weight_decay):
            decays = spread(self.weight_decay, params, weights, "weight_decay")
            rows = zip(directions, weights, decays, strict=True)
            directions = [_add_scaled(g, w, decay, 1) for g, w, decay in rows]
        if state["trace"] is None:
            return directions, state
        momenta = spread(self.momentum, params, weights, "momentum")
        (trace,) = tree.matched(params, state["trace"])
        directions = [v * mu + d for v, mu, d in zip(trace, momenta, directions, strict=True)]
        return directions, {"trace": tree.unflatten(params, directions)}


def sgd(learning_rate: Any, momentum: Any = 0.0, weight_decay: Any = 0.0) -> SGD:
    """Functional SGD; see SGD for the formula and what each setting may be."""
    return SGD(learning_rate, momentum, weight_decay)


def _is_zero(setting: Any) -> bool:
    return isinstance(setting, (int, float)) and setting == 0


def _is_scalar(setting: Any) -> bool:
    return isinstance(setting, (float, int)) or (isinstance(setting, Tensor) and setting.dim() == 0)


def spread(setting: Any, params: Any, weights: list[Tensor], name: str, *, rule: str = "sgd") -> list[Any]:
    """The setting, one entry a param; weights are the leaves of params."""
    if _is_scalar(setting):
        return [setting] * len(weights)
    (spread,) = tree.matched(params, setting)
    for path, value, param in zip(tree.named_leaves(params), spread, weights, strict=True):
        if not isinstance(value, Tensor) or (value.dim() and value.shape != param.shape):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInput(
                f"{rule} {name}[{path!r}]: got {shape}, limit: shape () or {tuple(param.shape)}. "
                "Remedy: nestgrad_torch.per_parameter."
            )
    return spread


def _add_scaled(base: Tensor, other: Tensor, scale: Any, sign: int) -> Tensor:
    """base + sign · scale · other in one rounding, as torch.optim's add with alpha does."""
    if isinstance(scale, Tensor):
        return torch.addcmul(base, other, scale, value=sign)
    return torch.add(base, other, alpha=sign * scale)


def _number(setting: Any, name: str) -> float:
    if isinstance(setting, (float, int)):
        return float(setting)
    if isinstance(setting, Tensor) and setting.dim() == 0:
        return float(setting)
    raise UnsupportedOptimizer(
        f"sgd {name}: {len(tree.leaves(setting))} values, limit: 1, since torch.optim holds one number a group. "
        "Remedy: go on with the functional rule, or tune one scalar."
    )
