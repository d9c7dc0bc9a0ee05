"""What is known of a hyper step that failed, looked up only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nestgrad import SolverError, WeightUpdate
from nestgrad_jax._slopes import scalar_loss


def zero_gradients(update: WeightUpdate, state: Any, natural: Callable[[Any], Any], batch: Any) -> int:
    """How many weights have a training gradient of exactly zero."""
    loss = scalar_loss(update.loss, "inner loss")
    grads = jax.jit(jax.grad(loss))(state["params"], natural(state["hparams"]), batch)
    return sum(int(jnp.sum(leaf == 0)) for leaf in jax.tree.leaves(grads))


def at_zero_gradients(error: SolverError, count: int) -> SolverError:
    """The error, where losses and updates are finite and the update's derivative is not: with the remedy for that."""
    what = str(error).split(" Remedy:")[0].removesuffix(".")
    return type(error)(
        f"{what}; {count} weights have a gradient of exactly zero, limit 0 for optax's rules that take a root of it, "
        "as its derivative is infinite there. Remedy: the rule of nestgrad_jax.optim, such as optim.adamw in place of "
        "optax.adamw.",
        error.status,
        error.stats,
    )
