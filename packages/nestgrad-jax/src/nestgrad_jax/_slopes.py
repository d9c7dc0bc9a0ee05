"""A loss's gradients linearised once, and what is taken again instead of being kept meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import Loss, NonScalarLoss
from nestgrad_jax._connected import passed
from nestgrad_jax._tree import SMALL, entries

_COSTLY = {"dot_general", "conv_general_dilated", "ragged_dot_general", "scan", "while", "cond", "fft", "sort"}
_COSTLY |= {"custom_linear_solve", "triangular_solve", "cholesky", "pure_callback", "io_callback"}


@dataclass(frozen=True, slots=True)
class Slopes:
    """A loss, its gradient g in w, push: tangent of w -> (dg, d∇_λ), and along: tangent of λ -> dg.

    after: a tangent of w that is the last to be pushed -> d∇_λ.
    """

    loss: Array
    grads: Any
    push: Callable[[Any], tuple[Any, Any]]
    along: Callable[[Any], Any]
    after: Callable[[Any], Any]

    @staticmethod
    def at(loss: Loss, params: Any, hparams: Any, batch: Any) -> Slopes:
        """Those at this point."""
        both = jax.value_and_grad(scalar_loss(loss, "inner loss"), argnums=(0, 1))

        def in_params(w: Any) -> tuple[Any, Array]:
            value, gradients = both(w, hparams, batch)
            return gradients, value

        def along(direction: Any) -> Any:
            return jax.jvp(lambda h: both(params, h, batch)[1][0], (hparams,), (direction,))[1]

        (grads, _), push, value = jax.linearize(in_params, params, has_aux=True)

        def after(tangent: Any) -> Any:
            # What linearising keeps of many hyperparameters is as large as they are, once or more.
            if entries(hparams) <= SMALL or passed(lambda h: both(params, h, batch), hparams) & _COSTLY:
                return push(tangent)[1]
            later = _anew(hparams, tangent)
            return jax.jvp(lambda w: both(w, later, batch)[1][1], (params,), (tangent,))[1]

        return Slopes(value, grads, push, along, after)


def scalar_loss(loss: Loss, level: str) -> Loss:
    """The loss, refused by name unless it returns one real floating-point number."""

    def checked(params: Any, hparams: Any, batch: Any) -> Array:
        value = loss(params, hparams, batch)
        if not isinstance(value, Array):
            raise NonScalarLoss(
                f"{level} returned {type(value).__name__}, limit: a 0-d floating-point array. "
                "Remedy: return the array itself."
            )
        if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise NonScalarLoss(
                f"{level} returned shape {value.shape} of {value.dtype}, limit: shape () of a real floating type. "
                "Remedy: take .mean() or .sum()."
            )
        return value

    return checked


def _anew(values: Any, after: Any) -> Any:
    """The same numbers, once `after` is known: what is made of them is then made again, and need not be kept till then.

    XLA would merge the two without the zero, which it cannot foresee. Where `after` is not finite nor are these.
    """
    zero = 0.0 * next(jnp.ravel(leaf)[0] for leaf in jax.tree.leaves(after) if leaf.size)
    return jax.tree.map(lambda x: x + zero, values)
