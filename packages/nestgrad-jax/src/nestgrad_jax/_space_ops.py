"""The elementary functions of the hyperparameter spaces, on JAX arrays."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp

from nestgrad import SpaceOps


class _JaxOps:
    exp = staticmethod(jnp.exp)
    log = staticmethod(jnp.log)
    expm1 = staticmethod(jnp.expm1)
    sigmoid = staticmethod(jax.nn.sigmoid)

    @staticmethod
    def softplus(x: jax.Array, /) -> jax.Array:
        return jnp.logaddexp(x, jnp.zeros_like(x))


OPS = cast("SpaceOps", _JaxOps())
