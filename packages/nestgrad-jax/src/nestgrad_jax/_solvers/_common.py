"""What solver rules share: the system they solve, their result, their table, and statuses as traced integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import Rules, Status, symmetry_limit
from nestgrad_jax._tree import dot, norm

Operator = Callable[[Array], Array]
"""q -> A q on flat vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The system A p = rhs to solve: A = Jᵀ + δI for an adjoint, J + δI for a response.

    operator: A. transposed() builds its transpose. symmetric: J is a Hessian. gains() is the diagonal P of a J = P M,
    None where there is none; forward says that A is J. scale: the power of two that rhs was divided by. start and
    preconditioner: flat vectors, or None. key: a typed PRNG key, or None.
    """

    operator: Operator
    transposed: Callable[[], Operator]
    symmetric: bool
    scale: Array
    gains: Callable[[], Array | None] = lambda: None
    forward: bool = False
    start: Array | None = None
    preconditioner: Array | None = None
    key: Any = None

    def precondition(self, vector: Array) -> Array:
        """P x; x itself without a preconditioner."""
        return vector if self.preconditioner is None else self.preconditioner * vector

    def begin(self, rhs: Array) -> tuple[Array, Array, int]:
        """(first iterate, its residual, products taken for it): zero, or the warm start where rhs is not zero."""
        if self.start is None:
            return jnp.zeros_like(rhs), rhs, 0
        usable = jnp.isfinite(self.start).all() & (rhs != 0).any()
        first = jnp.where(usable, self.start, jnp.zeros_like(rhs))
        return first, rhs - self.operator(first), 1


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


jax.tree_util.register_dataclass(Solve)


SOLVERS: Rules[[System, Array], Solve] = Rules("jax")
"""rule(spec, system, rhs); rhs is the right-hand side divided by the power of two `system.scale`."""


@dataclass(frozen=True, slots=True)
class Goal:
    """When to stop: limit is the tolerance in the units of the divided rhs, target the residual that ends the steps."""

    limit: Array
    target: Array

    @staticmethod
    def of(spec: Any, system: System, rhs: Array) -> Goal:
        size = norm(rhs)
        limit = jnp.maximum(spec.rtol * size, spec.atol / system.scale)
        return Goal(limit, jnp.maximum(limit, float(jnp.finfo(rhs.dtype).eps) * size))

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


def symmetry_defect(operator: Operator, rhs: Array) -> tuple[Array, Array]:
    """max |a'Jb - b'Ja| / (|a||Jb| + |b||Ja|) over pairs of rhs and two fixed vectors, and whether it is too large."""
    probes = [rhs, *jax.random.normal(jax.random.key(0), (2, rhs.size), rhs.dtype)]
    images = [operator(probe) for probe in probes]
    least = float(jnp.finfo(rhs.dtype).tiny)
    defects = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        size = norm(probes[i]) * norm(images[j]) + norm(probes[j]) * norm(images[i])
        gap = jnp.abs(dot(probes[i], images[j]) - dot(probes[j], images[i]))
        defects.append(gap / jnp.maximum(size, least))
    defect = jnp.stack(defects).max()
    return defect, defect > symmetry_limit(float(jnp.finfo(rhs.dtype).eps))


@dataclass(frozen=True, slots=True)
class Symmetric:
    """The symmetric system that stands for A p = rhs, with what the probe of its symmetry found.

    With J = P M and P > 0 it is M q = rhs, p = q / P, for A = Jᵀ, and M p = rhs / P for A = J; else A itself.
    weigh turns its residuals into those of the system asked for.
    """

    operator: Operator
    rhs: Array
    enter: Operator
    leave: Operator
    weigh: Operator
    probes: int
    defect: Array
    skewed: Array

    @staticmethod
    def of(system: System, rhs: Array) -> Symmetric:
        gains = None if system.symmetric else system.gains()
        if gains is None:
            operator, right, enter, leave, weigh = system.operator, rhs, _same, _same, _same
        else:
            gains = jnp.where((gains > 0).all(), gains, jnp.ones_like(gains))
            if system.forward:
                operator, right = (lambda q: system.operator(q) / gains), rhs / gains
                enter, leave, weigh = _same, _same, lambda r: gains * r
            else:
                operator, right, weigh = (lambda q: system.operator(q / gains)), rhs, _same
                enter, leave = (lambda p: gains * p), (lambda q: q / gains)
        if system.symmetric:
            return Symmetric(
                operator, right, enter, leave, weigh, 0, jnp.full((), math.nan, rhs.dtype), jnp.zeros((), bool)
            )
        return Symmetric(operator, right, enter, leave, weigh, 3, *symmetry_defect(operator, right))


def begin_symmetric(system: System, whole: Symmetric, rhs: Array) -> tuple[Array, Array, int]:
    """(first iterate, its residual, products taken) of the symmetric system."""
    if system.start is None:
        return jnp.zeros_like(rhs), whole.rhs, 0
    solution, _, taken = system.begin(rhs)
    first = whole.enter(solution)
    return first, whole.rhs - whole.operator(first), taken


def _same(vector: Array) -> Array:
    return vector
