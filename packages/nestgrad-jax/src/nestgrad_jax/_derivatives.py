"""The inner residual linearised once, and the products that every solver draws from that one program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import Loss, Minimize, NonScalarLoss, UnsupportedOptimizer, UnsupportedSpec, WeightUpdate
from nestgrad_jax._tree import flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Linearization:
    """F at a point, with Jᵀq (flat to flat) and Bᵀp (flat to a tree like hparams).

    loss is the inner loss, residual is F flat, symmetric says that J is a Hessian. move, for a WeightUpdate only, is
    (updates, next optimizer state) of the very step that was linearised.
    """

    loss: Array
    residual: Array
    transpose_product: Callable[[Array], Array]
    hparam_product: Callable[[Array], Any]
    symmetric: bool
    move: tuple[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    """The outer loss at a point and its pull-back: pull(scalar) = (∂L_out/∂w, ∂L_out/∂λ) times the scalar."""

    loss: Array
    pull: Callable[[Array], tuple[Any, Any]]


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


def outer_gradients(loss: Loss, params: Any, hparams: Any, batch: Any) -> Outer:
    """L_out at (w, λ), with the pull-back that gives its gradient in both."""
    checked = scalar_loss(loss, "outer_loss")
    return Outer(*jax.vjp(lambda p, h: checked(p, h, batch), params, hparams))


def functional_optimizer(inner: WeightUpdate, hparams: Any) -> Any:
    """inner.optimizer(hparams), refused by name unless it is a gradient transformation."""
    rule = inner.optimizer(hparams)
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise UnsupportedOptimizer(
            f"WeightUpdate.optimizer returned {type(rule).__name__}, limit: an object with init(params) and "
            "update(grads, state, params). Remedy: use optax.sgd or any other optax transformation."
        )
    return rule


def linearize(inner: Minimize | WeightUpdate, params: Any, hparams: Any, batch: Any, opt_state: Any) -> Linearization:
    """F for an inner problem. Minimize: F = ∇_w L_in. WeightUpdate: F = u, the optimizer state held constant.

    One forward-mode linearisation of (∇_w L_in, ∇_λ L_in) along w gives Hx and (∂²L_in/∂λ∂w)x, which by the symmetry of
    second derivatives are the transposed products too. So a loss is never differentiated in reverse twice, which is
    many times slower for convolutions; only the optimizer, elementwise as a rule, is transposed. The symmetry is lost
    where a loss carries a custom derivative that is not its derivative; lax.stop_gradient keeps it.
    """
    if not isinstance(inner, (Minimize, WeightUpdate)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnsupportedSpec(
            f"inner problem {type(inner).__name__}, limit: Minimize, WeightUpdate. Remedy: use one of these."
        )
    both = jax.value_and_grad(scalar_loss(inner.loss, "inner loss"), argnums=(0, 1))

    def slopes(w: Any) -> tuple[Any, Array]:
        value, gradients = both(w, hparams, batch)
        return gradients, value

    (grads, _), push, value = jax.linearize(slopes, params, has_aux=True)
    if isinstance(inner, WeightUpdate):
        return _through_update(inner, value, grads, push, params, hparams, opt_state)
    residual, restore = ravel_pytree(grads)
    return Linearization(
        loss=value,
        residual=residual,
        transpose_product=lambda q: flat(push(restore(q))[0]),
        hparam_product=lambda p: push(restore(p))[1],
        symmetric=True,
    )


def _through_update(
    inner: WeightUpdate, value: Array, grads: Any, push: Any, params: Any, hparams: Any, opt_state: Any
) -> Linearization:
    """u as a function of (gradient, w, λ) pulled back, the gradient's own dependence on (w, λ) by push."""
    state = functional_optimizer(inner, hparams).init(params) if opt_state is None else opt_state

    def update(g: Any, w: Any, h: Any) -> Any:
        return functional_optimizer(inner, h).update(g, state, w)

    updates, pull, state_after = jax.vjp(update, grads, params, hparams, has_aux=True)
    negative, restore = ravel_pytree(updates)

    def transpose_product(vector: Array) -> Array:
        by_gradient, by_params, _ = pull(restore(-vector))
        return flat(push(by_gradient)[0]) + flat(by_params)

    def hparam_product(vector: Array) -> Any:
        by_gradient, _, by_hparams = pull(restore(-vector))
        return jax.tree.map(jnp.add, push(by_gradient)[1], by_hparams)

    return Linearization(
        loss=value,
        residual=-negative,
        transpose_product=transpose_product,
        hparam_product=hparam_product,
        symmetric=False,
        move=(updates, state_after),
    )
