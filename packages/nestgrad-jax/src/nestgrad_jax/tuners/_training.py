"""The training steps between hyper steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import WeightUpdate
from nestgrad_jax._derivatives import functional_optimizer
from nestgrad_jax._programs import slow_in_loops
from nestgrad_jax._rules._steps import Batches
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import check_matching, moved_by

LONGEST = 16
"""Steps of a program of `run` at most, so that a block of any length compiles in bounded time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pure:
    """A tuner's steps as functions that trace, which many runs map over their axis.

    only_train, tune: (state, inner batch, outer batch) -> (state, info) of one step without and with a hyper step,
    infos of one tree. fresh: (leaves, params) -> the optimizer state of a run that begins.
    """

    update: WeightUpdate
    only_train: Callable[..., Any]
    tune: Callable[..., Any]
    fresh: Callable[[Any, Any], Any]


def train(
    update: WeightUpdate, params: Any, opt_state: Any, values: Any, step: Array, batch: Any
) -> tuple[Any, Any, Array, Array]:
    """(params, optimizer state, count and inner loss) of one training step."""
    check_matching(params, hparams=values, inner_batch=batch)
    loss, grads = jax.value_and_grad(scalar_loss(update.loss, "inner loss"))(params, values, batch)
    updates, opt_state = functional_optimizer(update, values).update(grads, opt_state, params)
    return moved_by(params, updates), opt_state, step + 1, loss


def trained(update: WeightUpdate, state: Any, values: Any, batches: list[Any]) -> tuple[Any, Array]:
    """(state, losses) of training steps in a loop; written out where slow in one, or where batches differ in shape."""

    def body(carry: Any, batch: Any) -> tuple[Any, Array]:
        *carry, loss = train(update, carry[0], carry[1], values, carry[2], batch)
        return tuple(carry), loss

    if not batches:
        return state, jnp.zeros(0, jax.tree.leaves(state["params"])[0].dtype)
    carry = (state["params"], state["opt_state"], state["step"])
    together = Batches.of(batches[0], None if all(b is batches[0] for b in batches) else batches)
    straight = len(batches) == 1 or slow_in_loops(body, carry, batches[0])
    (params, opt_state, step), losses = replace(together, straight=straight).steps(body, carry, len(batches))
    return {**state, "params": params, "opt_state": opt_state, "step": step}, losses
