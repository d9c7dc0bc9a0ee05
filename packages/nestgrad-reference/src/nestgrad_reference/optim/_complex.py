"""Momentum with a complex coefficient, plain and in Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_reference._tree import root, spread, xp
from nestgrad_reference.optim._schedules import schedulable


@dataclass(frozen=True, slots=True)
class ComplexMomentum:
    """a' = β_r a - β_i b - g,  b' = β_i a + β_r b;  update = learning_rate ⊙ a', with β = modulus · exp(i · argument).

    a and b are the real and the imaginary part of one complex velocity; argument in radians. Argument 0 is heavy ball,
    π negative momentum. The state is {"real": a, "imag": b}, zero at first. (Lorraine et al. 2022.)
    """

    learning_rate: Any
    modulus: Any
    argument: Any

    def init(self, params: Any) -> Any:
        """A zero velocity."""
        return {"real": tree.map(np.zeros_like, params), "imag": tree.map(np.zeros_like, params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(learning_rate ⊙ a', new state)."""
        after = _turned(self.modulus, self.argument, grads, state, params)
        return tree.map(lambda a, eta: eta * a, after["real"], spread(self.learning_rate, params)), after


@dataclass(frozen=True, slots=True)
class ComplexAdam:
    """update = learning_rate · a' / (√v̂ + eps), a' as in ComplexMomentum;  v ← b2 v + (1 - b2) g²,  v̂ = v / (1 - b2ᵗ).

    t counts from 1. The velocity is undamped, without a factor 1 - β, and its bias is not corrected: a definition of
    our own. Where v̂ = 0 the root's derivative is taken to be zero. The state is {"real", "imag", "v", "count"}.
    """

    learning_rate: Any
    modulus: Any
    argument: Any
    b2: Any = 0.999
    eps: Any = 1e-8

    def init(self, params: Any) -> Any:
        """Zero moments and a zero count."""
        return {**{name: tree.map(np.zeros_like, params) for name in ("real", "imag", "v")}, "count": 0}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(the update above, new state)."""
        rate, b2, eps = (spread(x, params) for x in (self.learning_rate, self.b2, self.eps))
        t, turned = state["count"] + 1, _turned(self.modulus, self.argument, grads, state, params)
        v = tree.map(lambda v, g, c: c * v + (1 - c) * g**2, state["v"], grads, b2)
        moves = tree.map(lambda a, v, c, e, eta: eta * a / (root(v / (1 - c**t)) + e), turned["real"], v, b2, eps, rate)
        return moves, {**turned, "v": v, "count": t}


@schedulable
def complex_momentum(learning_rate: Any, modulus: Any, argument: Any) -> ComplexMomentum:
    """SGD with complex momentum; see ComplexMomentum for the formula."""
    return ComplexMomentum(learning_rate, modulus, argument)


@schedulable
def complex_adam(learning_rate: Any, modulus: Any, argument: Any, b2: Any = 0.999, eps: Any = 1e-8) -> ComplexAdam:
    """Adam with complex momentum; see ComplexAdam for the formula."""
    return ComplexAdam(learning_rate, modulus, argument, b2, eps)


def _turned(modulus: Any, argument: Any, grads: Any, state: Any, params: Any) -> Any:
    """{"real": a', "imag": b'}."""
    size, angle = spread(modulus, params), spread(argument, params)
    real = tree.map(lambda r, phi: r * xp.cos(phi), size, angle)
    imag = tree.map(lambda r, phi: r * xp.sin(phi), size, angle)
    a, b = state["real"], state["imag"]
    return {
        "real": tree.map(lambda a, b, g, r, i: r * a - i * b - g, a, b, grads, real, imag),
        "imag": tree.map(lambda a, b, r, i: i * a + r * b, a, b, real, imag),
    }
