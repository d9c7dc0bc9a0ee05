"""What tuners share: unconstrained leaves and natural values, their ranges, and the state they start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import HyperGradient, Space, UnsupportedOptimizer, initial_values, map_spaces, require_initial
from nestgrad_jax._space_ops import OPS
from nestgrad_jax._tree import as_hparams, as_params, check_arguments, check_matching, is_traced


def in_spaces(function: Callable[[Space, Array], Array], spaces: Any, values: Any) -> Any:
    """function(space, array) over a tree whose entries may be pytrees of their own."""
    return map_spaces(lambda space, entry: jax.tree.map(lambda array: function(space, array), entry), spaces, values)


def natural(spaces: Any, leaves: Any) -> Any:
    """The natural values of the leaves."""
    return in_spaces(lambda space, leaf: space.natural(leaf, OPS), spaces, leaves)


def unconstrained(spaces: Any, values: Any) -> Any:
    """The leaves of natural values."""
    return in_spaces(lambda space, value: space.unconstrained(value, OPS), spaces, values)


def clipped(spaces: Any, leaves: Any) -> Any:
    """The leaves, those beyond their clip range set to its end."""

    def clip(space: Space, leaf: Array) -> Array:
        if space.clip is None:
            return leaf
        low, high = (space.unconstrained(jnp.asarray(end, leaf.dtype), OPS) for end in space.clip)
        return jnp.clip(leaf, low, high)

    return in_spaces(clip, spaces, leaves)


def require_inside(spaces: Any, values: Any) -> None:
    """Raise OutOfSpace for a natural value outside its space, where there are values to look at."""
    if not is_traced(values):
        require_initial(spaces, values, lambda value: (float(value.min()), float(value.max())))


def start(spaces: Any, params: Any) -> tuple[Any, Any, Any]:
    """(weights, natural values, leaves) of a new run; the params are copied."""
    check_arguments(params=params, hparams=initial_values(spaces))
    weights = jax.tree.map(jnp.array, as_params(params))
    values = as_hparams(initial_values(spaces), jax.tree.leaves(weights)[0].dtype)
    check_matching(weights, hparams=values)
    require_inside(spaces, values)
    return weights, values, unconstrained(spaces, values)


def require_outer_optimizer(tuner: str, rule: Any, argument: str = "outer_optimizer") -> None:
    """Raise UnsupportedOptimizer unless it is an optax transformation."""
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise UnsupportedOptimizer(
            f"{tuner}.{argument}: got {type(rule).__name__}, limit: an optax transformation. Remedy: optax.adam(0.05)."
        )


def is_finite(found: HyperGradient) -> bool:
    """Whether the total and the outer loss are."""
    return all(bool(jnp.isfinite(leaf).all()) for leaf in [*jax.tree.leaves(found.total), found.outer_loss])
