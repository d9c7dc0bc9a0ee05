"""Several momenta at once: averaged, or linked with one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from nestgrad import InvalidInput
from nestgrad_jax.optim._common import downhill, spread, transformation, zeros
from nestgrad_jax.optim._schedules import schedulable


@schedulable
def aggregated_momentum(learning_rate: Any, momenta: Any) -> optax.GradientTransformation:
    """v_m ← β_m v_m + g for each of M momenta β_m;  update = -learning_rate · (1/M) Σ_m v_m.

    momenta: a list or tuple of settings, or an array (M,). The state is {"traces"}, one a momentum, zero at first.
    InvalidInput for none. (Lucas et al. 2019.)
    """
    settings = list(momenta) if isinstance(momenta, Sequence) else [momenta[m] for m in range(jnp.shape(momenta)[0])]
    if not settings:
        raise InvalidInput("aggregated_momentum: 0 momenta, limit: at least 1. Remedy: pass (0.0, 0.9, 0.99).")

    def init(params: Any) -> Any:
        return {"traces": [zeros(params) for _ in settings]}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        traces = [
            jax.tree.map(lambda v, g, beta: beta * v + g, trace, grads, spread(setting, grads))
            for trace, setting in zip(state["traces"], settings, strict=True)
        ]
        mean = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]) / len(parts), *traces)
        return downhill(mean, learning_rate), {"traces": traces}

    return transformation(init, update)


def recurrently_linked_momentum(mixing: Any, inputs: Any, outputs: Any) -> optax.GradientTransformation:
    """Rows M of memory, M ← mixing M - inputs ⊗ g;  update = outputsᵀ M.

    mixing: (M, M); inputs and outputs: (M,), the latter with the learning rate in it. aggregated_momentum is the
    diagonal mixing of its momenta, complex_momentum the rotation by its argument times its modulus. The state is
    {"memory"}, leaves of shape (M, *shape), zero at first. InvalidInput for shapes that do not fit.
    """
    rows = jnp.shape(inputs)[:1]
    if jnp.shape(mixing) != (*rows, *rows) or jnp.shape(inputs) != rows or jnp.shape(outputs) != rows or not rows:
        raise InvalidInput(
            f"recurrently_linked_momentum: mixing {jnp.shape(mixing)}, inputs {jnp.shape(inputs)}, outputs "
            f"{jnp.shape(outputs)}, limit: (M, M), (M,) and (M,). Remedy: a row and a column for each momentum."
        )

    def init(params: Any) -> Any:
        return {"memory": jax.tree.map(lambda p: jnp.zeros((*rows, *jnp.shape(p)), jnp.asarray(p).dtype), params)}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def along(setting: Any, values: Any) -> Any:
            given = jnp.asarray(setting, values.dtype)
            return jnp.tensordot(given, values, axes=1, precision=lax.Precision.HIGHEST)

        memory = jax.tree.map(
            lambda m, g: along(mixing, m) - jnp.multiply.outer(jnp.asarray(inputs, g.dtype), g), state["memory"], grads
        )
        return jax.tree.map(lambda m: along(outputs, m), memory), {"memory": memory}

    return transformation(init, update)
