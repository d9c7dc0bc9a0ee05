"""What solver rules share: the system they solve, their result, their table, and statuses as traced integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import Rules, Status
from nestgrad_jax._tree import norm

_S = TypeVar("_S")
Operator = Callable[[Any], Any]
"""q -> A q on vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The system A p = rhs to solve: A = Jᵀ + δI for an adjoint, J + δI for a response; all divided by `scale`.

    apply, adjoint: products with A and Aᵀ; adjoint is traced when first called, which must not be inside a loop. rhs:
    its norm in [1, 2), or zero. scale: a power of two. symmetric: J is a Hessian. diagonal() is the P of a
    J = P M with M symmetric, None where there is none; forward says that A is J. start and preconditioner: flat
    vectors, or None. key: a typed PRNG key, or None. straight: products are many times slower inside a loop. All
    vectors are flat; but for Neumann, which takes trees too.
    """

    apply: Operator
    adjoint: Operator
    rhs: Any
    scale: Array
    symmetric: bool
    diagonal: Callable[[], Array | None] = lambda: None
    forward: bool = False
    start: Array | None = None
    preconditioner: Array | None = None
    key: Any = None
    straight: bool = False

    def precondition(self, vector: Any) -> Any:
        """P x; x itself without a preconditioner."""
        return vector if self.preconditioner is None else self.preconditioner * vector

    def begin(self) -> tuple[Array, Array, int]:
        """(first iterate, its residual, products taken for it): zero, or the warm start where rhs is not zero."""
        if self.start is None:
            return jnp.zeros_like(self.rhs), self.rhs, 0
        first = self.first(self.start)
        return first, self.rhs - self.apply(first), 1

    def first(self, start: Array) -> Array:
        """The warm start, or zero where it is of no use."""
        usable = jnp.isfinite(start).all() & (self.rhs != 0).any()
        return jnp.where(usable, start, jnp.zeros_like(start))


@dataclass(frozen=True, slots=True, kw_only=True)
class Solve:
    """A solver's answer and its own numbers, all traced; see nestgrad.Stats for their meaning."""

    solution: Any
    status: Array
    residual_norm: Array
    steps: Array | int
    products: Array | int
    contraction: Array | float = math.nan
    curvature: Array | float = math.nan
    asymmetry: Array | float = math.nan


jax.tree_util.register_dataclass(Solve)


SOLVERS: Rules[[System], Solve] = Rules("jax")
"""rule(spec, system) -> Solve, in the units of the divided right-hand side."""


@dataclass(frozen=True, slots=True)
class Goal:
    """When to stop: limit is the tolerance in the units of the divided rhs, target the residual that ends the steps."""

    limit: Array
    target: Array

    @staticmethod
    def of(spec: Any, system: System) -> Goal:
        size = norm(system.rhs)
        limit = jnp.maximum(spec.rtol * size, spec.atol / system.scale)
        return Goal(limit, jnp.maximum(limit, float(jnp.finfo(size.dtype).eps) * size))

    def verdict(self, spec: Any, left: Array, *cases: tuple[Array, Status], unfinished: Array) -> Array:
        """The status of a solve whose recomputed residual norm is `left`; cases are those of failure, in order."""
        return first_of(
            (~jnp.isfinite(left), Status.NONFINITE),
            ((left <= self.limit) & (not spec.truncated), Status.CONVERGED),
            ((left <= self.target) & spec.truncated, Status.TRUNCATED),
            *cases,
            (unfinished & (not spec.truncated), Status.MAX_STEPS_REACHED),
            otherwise=Status.TRUNCATED if spec.truncated else Status.STAGNATED,
        )


MOST_STRAIGHT = 64
"""Steps that are written out at most where loops are slow: each makes the program longer to compile."""


def iterate(system: System, more: Callable[[_S], Array], step: Callable[[_S], _S], first: _S, most: int) -> _S:
    """lax.while_loop(more, step, first), of at most `most` steps; written out where products are slow in loops."""
    if not system.straight or most > MOST_STRAIGHT:
        return lax.while_loop(more, step, first)
    state = first
    for _ in range(most):
        goes = more(state)
        state = jax.tree.map(lambda new, old, goes=goes: jnp.where(goes, new, old), step(state), state)
    return state


def code(status: Status) -> Array:
    """The status as an int32 scalar."""
    return jnp.asarray(int(status), jnp.int32)


def first_of(*cases: tuple[Array | bool, Status], otherwise: Status) -> Array:
    """The status of the first case that holds."""
    found = code(otherwise)
    for holds, status in reversed(cases):
        found = jnp.where(holds, code(status), found)
    return found


def rounding(rhs: Array) -> float:
    """What counts as zero beside 1 after sums over as many entries as rhs has."""
    return max(10.0, math.sqrt(rhs.size)) * float(jnp.finfo(rhs.dtype).eps)


def singular_below(rhs: Array) -> float:
    """Ratio of |Jx| / (|J| |x|) below which a solver that failed blames J: 2e-12 in float64, 6e-6 in float32."""
    return float(jnp.finfo(rhs.dtype).eps) ** 0.75
