"""What the rules share: settings spread over the params, a root that can be differentiated at zero, averages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from nestgrad import InvalidInput

_LEAF = jax.tree.structure(0)


def transformation(init: Any, update: Any) -> optax.GradientTransformation:
    """The rule of update(grads, state, params), in optax's type."""
    return optax.GradientTransformation(init, update)


def spread(setting: Any, like: Any) -> Any:
    """One setting a leaf, in its dtype, whether given as one number or as a tree."""
    if jax.tree.structure(setting) == _LEAF and jax.tree.structure(like) != _LEAF:
        return jax.tree.map(lambda v: jnp.asarray(setting, v.dtype), like)
    return jax.tree.map(lambda each, v: jnp.asarray(each, v.dtype), setting, like)


def is_zero(setting: Any) -> bool:
    """Whether the setting is the number 0 itself, and so can be left out of a program."""
    return isinstance(setting, (int, float)) and setting == 0


def root(x: Array) -> Array:
    """√x, with derivatives of zero where x is zero; 0 below it, where only rounding leads. NaN stays NaN."""
    none = x <= 0.0
    return jnp.where(none, jnp.zeros_like(x), jnp.sqrt(jnp.where(none, jnp.ones_like(x), x)))


def power(base: Array, count: Array) -> Array:
    """baseⁿ for a whole number n of at least 1, with its first and second derivative at 0 too."""
    none = base == 0.0
    small = jnp.where(count == 1, base, jnp.where(count == 2, base**2, jnp.zeros_like(base)))  # noqa: PLR2004
    exponent = jnp.broadcast_to(count.astype(base.dtype), base.shape)
    return jnp.where(none, small, lax.pow(jnp.where(none, jnp.ones_like(base), base), exponent))


def decayed(rule: str, grads: Any, params: Any, weight_decay: Any) -> Any:
    """g + weight_decay · w; InvalidInput where there is a decay and no params."""
    if is_zero(weight_decay):
        return grads
    if params is None:
        raise InvalidInput(
            f"{rule}.update: weight_decay with 0 params, limit: those being updated. "
            "Remedy: pass update(grads, state, params)."
        )
    return jax.tree.map(lambda g, w, xi: g + xi * w, grads, params, spread(weight_decay, grads))


def averaged(old: Any, new: Any, share: Any) -> Any:
    """share · old + (1 - share) · new."""
    return jax.tree.map(lambda a, b, beta: beta * a + (1.0 - beta) * b, old, new, share)


def squared(values: Any) -> Any:
    """x², entry by entry."""
    return jax.tree.map(jnp.square, values)


def downhill(moves: Any, rate: Any) -> Any:
    """-rate · x."""
    return jax.tree.map(lambda x, eta: -eta * x, moves, spread(rate, moves))


def zeros(params: Any) -> Any:
    """Zeros like params."""
    return jax.tree.map(jnp.zeros_like, params)


def no_steps() -> Array:
    """The count before the first step."""
    return jnp.zeros((), jnp.int32)
