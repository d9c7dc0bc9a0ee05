"""Complex momentum and complex Adam: a velocity that turns as it decays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import tree
from nestgrad_torch.optim._adam import biases
from nestgrad_torch.optim._common import as_number, is_scalar, joined, root, spread, zeros
from nestgrad_torch.optim._complex_drop_ins import ComplexAdam, ComplexMomentum
from nestgrad_torch.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class ComplexMomentumRule:
    """μ ← β μ - g with β = modulus · exp(i argument);  w ← w + learning_rate · Re μ.

    With μ = a + ib: a ← β_r a - β_i b - g, b ← β_i a + β_r b, the old a in both. argument 0 is heavy ball, π negative
    momentum, modulus 0 gradient descent. Each setting is a float, a 0-d tensor, or a tree shaped like params with a
    tensor for each (0-d, or the param's shape); argument in radians. The state is {"real", "imag"}, zero at first.
    (Lorraine et al. 2022, eq. 5 and alg. 3, for real learning rates.)
    """

    learning_rate: Any
    modulus: Any
    argument: Any

    def init(self, params: Any) -> Any:
        """A velocity of zero."""
        return {"real": zeros(params), "imag": zeros(params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(learning_rate ⊙ Re μ, new state), differentiable in grads, params and every setting."""
        weights, name = tree.leaves(params), "complex_momentum"
        slopes, a, b = tree.matched(params, grads, state["real"], state["imag"])
        a, b = turned(slopes, a, b, *factors(self.modulus, self.argument, params, weights, name))
        rates = spread(self.learning_rate, params, weights, "learning_rate", rule=name)
        updates = [rate * x for rate, x in zip(rates, a, strict=True)]
        return tree.unflatten(params, updates), {"real": tree.unflatten(params, a), "imag": tree.unflatten(params, b)}

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(is_scalar(x) for x in (self.learning_rate, self.modulus, self.argument)):
            return None
        return {"real": joined(state["real"]), "imag": joined(state["imag"])}

    def torch_optimizer(self, named_params: Mapping[str, Tensor], state: Any) -> ComplexMomentum:
        """ComplexMomentum over these params with these settings as floats, which goes on from the state."""
        rate, modulus, argument = (
            as_number(getattr(self, name), name, rule="complex_momentum")
            for name in ("learning_rate", "modulus", "argument")
        )
        optimizer = ComplexMomentum(list(named_params.values()), rate, modulus, argument)
        _hand_over(optimizer, named_params, state, modulus, argument)
        return optimizer


@dataclass(frozen=True, slots=True)
class ComplexAdamRule:
    """μ ← β μ - g, v ← b2 v + (1 - b2) g²;  w ← w + learning_rate · Re μ / (√(v / (1 - b2ᵗ)) + eps).

    β = modulus · exp(i argument), t counting from 1. Our own definition of the first moment: it has neither Adam's
    factor 1 - β nor its bias correction, so a learning rate for Adam's b1 is to be multiplied by 1 - b1 here. Where
    v = 0 the root's derivative is taken to be zero. Settings as for complex_momentum; the state is
    {"real", "imag", "v", "count"}.
    """

    learning_rate: Any
    modulus: Any
    argument: Any
    b2: Any = 0.999
    eps: Any = 1e-8

    def init(self, params: Any) -> Any:
        """Zero moments and a zero count."""
        return {"real": zeros(params), "imag": zeros(params), "v": zeros(params), "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state), differentiable in grads, params and every setting."""
        count, weights, name = state["count"] + 1, tree.leaves(params), "complex_adam"
        slopes, a, b, v = tree.matched(params, grads, state["real"], state["imag"], state["v"])
        a, b = turned(slopes, a, b, *factors(self.modulus, self.argument, params, weights, name))
        rates, b2, eps = (
            spread(getattr(self, key), params, weights, key, rule=name) for key in ("learning_rate", "b2", "eps")
        )
        v = [d * old + (1 - d) * g * g for old, g, d in zip(v, slopes, b2, strict=True)]
        rows = zip(rates, a, v, biases(b2, count, v), eps, strict=True)
        updates = [rate * x / (root(y / c) + e) for rate, x, y, c, e in rows]
        moments = {key: tree.unflatten(params, x) for key, x in (("real", a), ("imag", b), ("v", v))}
        return tree.unflatten(params, updates), {**moments, "count": count}

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where a setting is not one number for all."""
        if not all(is_scalar(x) for x in (self.learning_rate, self.modulus, self.argument, self.b2, self.eps)):
            return None
        return {**{key: joined(state[key]) for key in ("real", "imag", "v")}, "count": state["count"]}

    def torch_optimizer(self, named_params: Mapping[str, Tensor], state: Any) -> ComplexAdam:
        """ComplexAdam over these params with these settings as floats, which goes on from the state."""
        rate, modulus, argument, b2, eps = (
            as_number(getattr(self, name), name, rule="complex_adam")
            for name in ("learning_rate", "modulus", "argument", "b2", "eps")
        )
        optimizer = ComplexAdam(list(named_params.values()), rate, modulus, argument, b2, eps)
        _hand_over(optimizer, named_params, state, modulus, argument)
        squares = tree.named_leaves(state["v"])
        for name, param in named_params.items():
            optimizer.state[param] |= {"v": squares[name].detach().clone(), "step": int(state["count"])}
        return optimizer


@schedulable
def complex_momentum(learning_rate: Any, modulus: Any, argument: Any) -> ComplexMomentumRule:
    """Functional complex momentum; see ComplexMomentumRule for the formula."""
    return ComplexMomentumRule(learning_rate, modulus, argument)


@schedulable
def complex_adam(learning_rate: Any, modulus: Any, argument: Any, b2: Any = 0.999, eps: Any = 1e-8) -> ComplexAdamRule:
    """Functional complex Adam; see ComplexAdamRule for the formula."""
    return ComplexAdamRule(learning_rate, modulus, argument, b2, eps)


def factors(modulus: Any, argument: Any, params: Any, weights: list[Tensor], rule: str) -> tuple[list[Any], list[Any]]:
    """(β_r, β_i), one entry a param."""
    sizes = spread(modulus, params, weights, "modulus", rule=rule)
    angles = spread(argument, params, weights, "argument", rule=rule)
    real = [r * _cos(phi) for r, phi in zip(sizes, angles, strict=True)]
    return real, [r * _sin(phi) for r, phi in zip(sizes, angles, strict=True)]


def turned(
    slopes: list[Tensor], a: list[Tensor], b: list[Tensor], real: list[Any], imaginary: list[Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """(Re, Im) of β μ - g."""
    rows = list(zip(slopes, a, b, real, imaginary, strict=True))
    return [c * x - s * y - g for g, x, y, c, s in rows], [s * x + c * y for _, x, y, c, s in rows]


def _cos(angle: Any) -> Any:
    return torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)


def _sin(angle: Any) -> Any:
    return torch.sin(angle) if isinstance(angle, Tensor) else math.sin(angle)


def _hand_over(
    optimizer: torch.optim.Optimizer, named_params: Mapping[str, Tensor], state: Any, modulus: float, argument: float
) -> None:
    """The velocity, as the drop-ins hold it: its imaginary part times -β_i."""
    imaginary = modulus * math.sin(argument)
    a, b = tree.named_leaves(state["real"]), tree.named_leaves(state["imag"])
    for name, param in named_params.items():
        optimizer.state[param] = {"velocity": a[name].detach().clone(), "turn": b[name].detach() * -imaginary}
