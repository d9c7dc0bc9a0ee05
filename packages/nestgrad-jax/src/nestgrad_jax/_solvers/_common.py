"""What solver rules share: their result, their table, and statuses as traced integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from nestgrad import Rules, Status

Operator = Callable[[Array], Array]
"""q -> Jᵀq on flat vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solve:
    """A solver's answer and its own numbers, all traced; see nestgrad.Stats for their meaning."""

    solution: Array
    status: Array
    residual_norm: Array
    steps: Array | int
    products: Array | int
    contraction: Array | float = math.nan
    curvature: Array | float = math.nan
    asymmetry: Array | float = math.nan


SOLVERS: Rules[[Operator, Array, bool, Array], Solve] = Rules("jax")
"""rule(spec, operator, rhs, symmetric, scale); rhs is the outer gradient divided by the power of two `scale`."""


def code(status: Status) -> Array:
    """The status as an int32 scalar."""
    return jnp.asarray(int(status), jnp.int32)


def first_of(*cases: tuple[Array, Status], otherwise: Status) -> Array:
    """The status of the first case that holds."""
    found = code(otherwise)
    for holds, status in reversed(cases):
        found = jnp.where(holds, code(status), found)
    return found
