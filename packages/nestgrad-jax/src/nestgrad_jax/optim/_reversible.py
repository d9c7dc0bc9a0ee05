"""SGD with momentum whose steps can be undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad_jax.optim._common import spread

DENOMINATOR = 2**16
"""Momenta are rounded to whole multiples of 1 / DENOMINATOR."""


class ReversibleState(NamedTuple):
    """velocity: a tree like params."""

    velocity: Any


class ReversibleSGD(NamedTuple):
    """A gradient transformation that Unrolled(mode="reversible") can run backwards; `momentum` is the rounded one."""

    init: Callable[[Any], ReversibleState]
    update: Callable[..., tuple[Any, ReversibleState]]
    learning_rate: Any
    momentum: Array


def reversible_sgd(learning_rate: Any, momentum: Any) -> ReversibleSGD:
    """v ← β v - (1 - β) g, w ← w + α v (Maclaurin, Duvenaud and Adams 2015, alg. 1).

    learning_rate α: a number, a 0-d array, or a tree like params. momentum β: a number or a 0-d array, rounded to the
    nearest n / 65536, so that it can be undone exactly in integers; derivatives in β are taken at the rounded value.
    """

    def init(params: Any) -> ReversibleState:
        return ReversibleState(jax.tree.map(jnp.zeros_like, params))

    def update(grads: Any, state: ReversibleState, params: Any = None) -> tuple[Any, ReversibleState]:
        velocity = jax.tree.map(
            lambda v, g: rounded.astype(v.dtype) * v - (1.0 - rounded).astype(v.dtype) * g, state.velocity, grads
        )
        rates = spread(learning_rate, velocity)
        return jax.tree.map(jnp.multiply, rates, velocity), ReversibleState(velocity)

    rounded = _rounded(momentum)
    return ReversibleSGD(init, update, learning_rate, rounded)


def _rounded(momentum: Any) -> Array:
    """The nearest n / 65536, with the derivative of the identity."""
    value = jnp.asarray(momentum)
    value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))
    return value + lax.stop_gradient(jnp.round(value * DENOMINATOR) / DENOMINATOR - value)
