"""Momentum with a complex coefficient, alone and in Adam's place of a first moment."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nestgrad_jax.optim._common import (
    averaged,
    no_steps,
    power,
    root,
    spread,
    squared,
    transformation,
    zeros,
)
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def complex_momentum(learning_rate: Any, modulus: Any, argument: Any) -> optax.GradientTransformation:
    """μ ← β μ - g with a complex β = modulus · e^{i argument};  update = learning_rate · Re μ.

    argument in radians: 0 is heavy ball, π negative momentum; modulus 0 is gradient descent. The state is
    {"real", "imag"}, zero at first. (Lorraine et al. 2022.)
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        state = _turned(grads, state, modulus, argument)
        return _uphill(state["real"], learning_rate), state

    return transformation(_start, update)


@schedulable
def complex_adam(
    learning_rate: Any, modulus: Any, argument: Any, b2: Any = 0.999, eps: Any = 1e-8
) -> optax.GradientTransformation:
    """μ as complex_momentum's, v ← b2 v + (1 - b2) g²;  update = learning_rate · Re μ / (√(v / (1 - b2ᵗ)) + eps).

    Our own definition: μ is not damped by 1 - β, as Adam's is, and its bias is not corrected. The state is {"real",
    "imag", "v", "count"}.
    """

    def init(params: Any) -> Any:
        return {**_start(params), "v": zeros(params), "count": no_steps()}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        second, least = spread(b2, grads), spread(eps, grads)
        turned, t = _turned(grads, state, modulus, argument), state["count"] + 1
        v = averaged(state["v"], squared(grads), second)
        moves = jax.tree.map(
            lambda a, v, c, e: a / (root(v / (1.0 - power(c, t))) + e), turned["real"], v, second, least
        )
        return _uphill(moves, learning_rate), {**turned, "v": v, "count": t}

    return transformation(init, update)


def _start(params: Any) -> Any:
    return {"real": zeros(params), "imag": zeros(params)}


def _turned(grads: Any, state: Any, modulus: Any, argument: Any) -> Any:
    """β μ - g, by its real and imaginary parts.

    With numbers for settings the imaginary part comes first and the real part is had from the new one, which is the
    same: so neither needs a copy of the other's old buffer, when these are donated.
    """
    a, b = state["real"], state["imag"]
    if (known := _numbers(modulus, argument)) is not None:
        c, s = known
        imag = jax.tree.map(lambda a, b: s * a + c * b, a, b)
        real = jax.tree.map(lambda g, a, b: ((c * c + s * s) / c) * a - (s / c) * b - g, grads, a, imag)
        return {"real": real, "imag": imag}
    sizes, angles = spread(modulus, grads), spread(argument, grads)
    along = jax.tree.map(lambda r, phi: r * jnp.cos(phi), sizes, angles)
    turning = jax.tree.map(lambda r, phi: r * jnp.sin(phi), sizes, angles)
    return {
        "real": jax.tree.map(lambda g, a, b, c, s: c * a - s * b - g, grads, a, b, along, turning),
        "imag": jax.tree.map(lambda a, b, c, s: s * a + c * b, a, b, along, turning),
    }


_LEAST_COSINE = 0.25
"""Of β below which the real part is not had from the new imaginary one, as rounding grows by the inverse."""


def _numbers(modulus: Any, argument: Any) -> tuple[float, float] | None:
    """(Re β, Im β) where both settings are numbers, β turns, and no more than 4 roundings are made of one."""
    if not (isinstance(modulus, (int, float)) and isinstance(argument, (int, float))) or modulus == 0 or argument == 0:
        return None
    cosine = math.cos(argument)
    return (modulus * cosine, modulus * math.sin(argument)) if abs(cosine) >= _LEAST_COSINE else None


def _uphill(moves: Any, rate: Any) -> Any:
    """rate · x."""
    return jax.tree.map(lambda x, alpha: alpha * x, moves, spread(rate, moves))
