"""Exponents by each of the core's methods, traced; nestgrad._dynamics.exponents defines them.

Directions are sought with the point held, and the steps along which exponents are then measured are differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from nestgrad import ExponentMethod, ExponentObjective, ExponentSpectrum, LargestExponent, TunedDirection
from nestgrad_jax._dynamics.flow import At, Flow, held
from nestgrad_jax._dynamics.orthonormal import orthonormal
from nestgrad_jax._dynamics.sweeps import Sweep, backward, begin, first_bad, forward, onward, parted
from nestgrad_jax._tree import norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Exponents and how they were found.

    rows: Q_0. bad: the first step that was not finite, or -1. residual: of the iteration for a direction that ended
    worst, in units of σ²; refinements: of that iteration. dependent: whether the directions given were.
    """

    exponents: Array
    rows: Array
    end: At
    products: Any
    bad: Array
    residual: Array
    refinements: Array
    dependent: Array


jax.tree_util.register_dataclass(Measured)


class Sought(NamedTuple):
    """The direction of a largest singular value, and the steps along it as they were last taken."""

    rows: Array
    residual: Array
    refinements: Array
    swept: Sweep


def first_rows(method: ExponentMethod, size: int, directions: Array | None, key: Array, kind: Any) -> tuple[Array, Any]:
    """(orthonormal rows (m, n) to begin with, whether those given depend on one another and so are NaN)."""
    if directions is None:
        count = method.num_exponents if isinstance(method, ExponentSpectrum) else 1
        if count is None:
            return jnp.eye(size, dtype=kind), jnp.zeros((), bool)
        return orthonormal(jax.random.normal(key, (count, size), kind))[0], jnp.zeros((), bool)
    rows, logs = orthonormal(directions)
    dependent = (logs == -jnp.inf).any()
    return jnp.where(dependent, jnp.nan, rows), dependent


def measure(
    flow: Flow, at: At, method: ExponentMethod, num_steps: int, rows: Array, dependent: Any, *, attached: bool
) -> Measured:
    """Exponents from these orthonormal rows, or those that the method makes of them.

    attached: to be differentiated, for which steps that a search took are taken again; products do not count these.
    """
    rows, begun = lax.stop_gradient(rows), held(at)
    if isinstance(method, TunedDirection) and method.at == "every step":
        return _tuned(flow, at, method, num_steps, rows, dependent, attached=attached)
    residual, refinements, bad = jnp.zeros((), rows.dtype), jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32)
    products: Any = num_steps * len(rows)
    swept: Sweep | None = None
    if isinstance(method, ExponentSpectrum):
        rows, bad = _refined(flow, begun, rows, num_steps, method.refinements)
        products *= 1 + 2 * method.refinements
    elif isinstance(method, LargestExponent):
        rows, residual, refinements, swept = _leading(flow, begun, rows, num_steps, method)
        products, bad = 2 * num_steps * refinements, swept.bad
    else:
        rows, residual, refinements, first = _leading(flow, begun, rows, 1, method)
        products, bad = 2 * refinements + num_steps, first.bad
    rows = lax.stop_gradient(rows)
    if swept is None or attached:
        swept = parted(lambda t, sweep: onward(flow, t, sweep), begin(at, rows), num_steps)
    return Measured(
        exponents=swept.logs / num_steps,
        rows=rows,
        end=swept.at,
        products=products,
        bad=jnp.where(bad < 0, swept.bad, bad),
        residual=residual,
        refinements=refinements,
        dependent=dependent,
    )


def objective_of(exponents: Array, which: Array) -> Array:
    """The one number, of the objective at this place among the core's; of equal exponents the first is the largest."""
    # NaN is not below zero, and must show.
    positive = jnp.where(exponents <= 0, jnp.zeros_like(exponents), exponents)
    values: dict[ExponentObjective, Array] = {
        "largest": exponents[jnp.argmax(exponents)],
        "smallest": exponents[jnp.argmin(exponents)],
        "sum": exponents.sum(),
        "entropy": positive.sum(),
    }
    return lax.select_n(which, *(values[name] for name in get_args(ExponentObjective)))


def _refined(flow: Flow, at: At, rows: Array, num_steps: int, refinements: int) -> tuple[Array, Array]:
    """(rows turned towards the leading right singular vectors of all steps, the first step that was not finite)."""
    bad = jnp.full((), -1, jnp.int32)
    if not refinements:
        return rows, bad

    def once(_: Any, s: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, bad = s
        swept = forward(flow, at, rows, num_steps)
        turned, _ = backward(flow, at, swept.rows, num_steps)
        return jnp.where(jnp.isfinite(turned).all(), turned, rows), jnp.where(bad < 0, swept.bad, bad)

    return lax.fori_loop(0, refinements, once, (rows, bad))


def _leading(flow: Flow, at: At, rows: Array, num_steps: int, method: LargestExponent | TunedDirection) -> Sought:
    """d of the largest σ, by d <- d' from J d = σ u and Jᵀu = τ d', until |(τ/σ) d' - d| ≤ rtol."""

    def more(s: Sought) -> Array:
        return ~(s.residual <= method.rtol) & ~jnp.isnan(s.residual) & (s.refinements < method.max_refinements)

    def once(s: Sought) -> Sought:
        swept = forward(flow, at, s.rows, num_steps)
        turned, logs = backward(flow, at, swept.rows, num_steps)
        left = norm(jnp.exp(logs - swept.logs) * turned[0] - s.rows[0])
        # Where J d = 0 there is nothing left of JᵀJ d - σ² d.
        left = jnp.where(swept.logs[0] == -jnp.inf, jnp.zeros_like(left), left)
        after = Sought(s.rows, left, s.refinements + 1, swept)
        return after._replace(rows=jnp.where(more(after) & jnp.isfinite(turned).all(), turned, s.rows))

    first = Sought(rows, jnp.asarray(jnp.inf, rows.dtype), jnp.zeros((), jnp.int32), begin(at, rows))
    return lax.while_loop(more, once, first)


class _Steps(NamedTuple):
    """Steps each along a direction of its own; rows: that of the first."""

    at: At
    rows: Array
    logs: Array
    bad: Array
    residual: Array
    refinements: Array
    products: Array


def _tuned(
    flow: Flow, at: At, method: TunedDirection, num_steps: int, rows: Array, dependent: Any, *, attached: bool
) -> Measured:
    """Every step from the same row, as one that the last has turned may have nothing of the next in it."""

    def once(step: Array, s: _Steps) -> _Steps:
        sought = _leading(flow, held(s.at), rows, 1, method)
        turned, swept = lax.stop_gradient(sought.rows), sought.swept
        if attached:
            swept = onward(flow, jnp.zeros((), jnp.int32), begin(s.at, turned))
        worse = ~(sought.residual <= s.residual)
        return _Steps(
            at=swept.at,
            rows=jnp.where(step == 0, turned, s.rows),
            logs=s.logs + swept.logs,
            bad=first_bad(s.bad, swept.bad < 0, step),
            residual=jnp.where(worse, sought.residual, s.residual),
            refinements=jnp.where(worse, sought.refinements, s.refinements),
            products=s.products + 2 * sought.refinements,
        )

    start: Sweep = begin(at, rows)
    none = jnp.zeros((), jnp.int32)
    first = _Steps(start.at, rows, start.logs, start.bad, jnp.zeros((), rows.dtype), none, none)
    swept = parted(once, first, num_steps)
    return Measured(
        exponents=swept.logs / num_steps,
        rows=swept.rows,
        end=swept.at,
        products=swept.products,
        bad=swept.bad,
        residual=swept.residual,
        refinements=swept.refinements,
        dependent=dependent,
    )
