"""The harness by which the conformance suite judges this backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nestgrad_jax
from nestgrad_conformance import Harness


def _sgd(learning_rate: Any, momentum: Any, weight_decay: Any) -> optax.GradientTransformation:
    """The optax chain whose update is -learning_rate ⊙ v, v ← momentum · v + g + weight_decay · w."""

    def rates(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if isinstance(learning_rate, dict):
            return jax.tree.map(lambda eta, v: -eta * v, learning_rate, updates), state
        return jax.tree.map(lambda v: -learning_rate * v, updates), state

    scale = optax.GradientTransformation(lambda params: optax.EmptyState(), rates)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum), scale)


@contextlib.contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """The dtype for one check; then its compiled programs are dropped.

    Each maps memory of its own, and a process has 65,530 such maps: two hundred checks would run out of them.
    """
    with jax.enable_x64(dtype == "float64"):
        try:
            yield
        finally:
            jax.clear_caches()


def harness(device: str = "cpu") -> Harness:
    """The backend on one device."""
    place = jax.devices(device)[0]
    return Harness(
        backend=nestgrad_jax,
        xp=jnp,
        from_numpy=lambda array: jax.device_put(jnp.asarray(array), place),
        to_numpy=np.asarray,
        dtypes=("float64", "float32"),
        sgd=_sgd,
        adam=optax.adam,
        detach=jax.lax.stop_gradient,
        reversible=nestgrad_jax.optim.reversible_sgd,
        grad=jax.grad,
        precision=_precision,
        optim=nestgrad_jax.optim,
    )
