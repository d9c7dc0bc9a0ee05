"""What first-order rules share: gradients of both levels, and the central difference that stands for Bᵀv."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import BilevelProblem
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import outer_gradients
from nestgrad_jax._rules._common import Call
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import tree_norm


def inner_gradients(problem: BilevelProblem, params: Any, call: Call) -> tuple[Array, Any, Any]:
    """(L_in, ∂L_in/∂w, ∂L_in/∂λ) at these params."""
    level: Any = problem.inner  # one with a loss, as the table of legal pairs has it
    loss = scalar_loss(level.loss, "inner loss")
    value, (by_params, by_hparams) = jax.value_and_grad(loss, argnums=(0, 1))(params, call.hparams, call.inner_batch)
    return value, by_params, by_hparams


def outer_parts(problem: BilevelProblem, params: Any, call: Call) -> tuple[Array, Any, Any]:
    """(L_out, ∂L_out/∂w, ∂L_out/∂λ) at these params; DisconnectedHyperparameter for a leaf that no loss knows."""
    outer = outer_gradients(problem.outer_loss, params, call.hparams, call.outer_batch)
    level: Any = problem.inner
    inner = scalar_loss(level.loss, "inner loss")
    value, pull = jax.vjp(lambda h: inner(call.params, h, call.inner_batch), call.hparams)
    one = jnp.ones_like(outer.loss)
    first = reached(lambda x: outer.pull(x)[1], one)
    second = reached(lambda x: pull(x)[0], jnp.ones_like(value))
    require_connected(call.hparams, first, second)
    return outer.loss, *outer.pull(one)


def along(params: Any, step: Any, direction: Any) -> Any:
    """w + a d, leaf by leaf."""
    return jax.tree.map(lambda w, d: w + jnp.asarray(step, w.dtype) * d, params, direction)


def mixed_difference(problem: BilevelProblem, params: Any, call: Call, v: Any, radius: float) -> Any:
    """[∇_λ L_in(w + εv) - ∇_λ L_in(w - εv)] / 2ε with ε = radius / |v|; zero for a zero v."""
    size = tree_norm(v)
    there = size > 0
    unit = jax.tree.map(lambda x: x / jnp.where(there, size, jnp.ones_like(size)), v)
    ahead, behind = (inner_gradients(problem, along(params, sign * radius, unit), call)[2] for sign in (1.0, -1.0))
    weight = jnp.where(there, size / (2.0 * radius), jnp.zeros_like(size))
    return jax.tree.map(lambda a, b: weight * (a - b), ahead, behind)
