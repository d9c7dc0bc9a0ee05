"""Lyapunov exponents as calls of their own, each one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import (
    ExponentGradient,
    ExponentMethod,
    ExponentObjective,
    ExponentSpectrum,
    InvalidInput,
    LyapunovExponents,
    NonFinite,
    NotConverged,
    Stats,
    Status,
    check_exponents,
)
from nestgrad_jax._calls import require_hashable
from nestgrad_jax._dynamics.flow import Flow, Form
from nestgrad_jax._dynamics.measure import Measured, first_rows, measure, objective_of
from nestgrad_jax._explain import explained
from nestgrad_jax._tree import as_key, check_arguments, is_traced

PLAIN = ExponentSpectrum()
"""All exponents, from the unit vectors."""


def lyapunov_exponents(
    update: Callable[[Any], Any],
    point: Any,
    *,
    num_steps: int,
    method: ExponentMethod = PLAIN,
    directions: Any = None,
    throw: bool = True,
) -> LyapunovExponents:
    """The exponents of num_steps of x ← update(x) from this point; nestgrad._dynamics.exponents defines them.

    update: of a pytree of arrays to one of the same form; floating leaves move, and others are carried along. It is
    static under jit: keep it, rather than writing it anew for each call. directions: a tree like point with a leading
    axis of m on each floating leaf, orthonormalised before use. The exponents are differentiable in the point.

    Raises InvalidInput for what has not that form and for directions that depend on one another, and unless throw=False
    NonFinite for a step that is not finite and NotConverged for a direction not found. Under a user's own jit, where
    nothing can be raised, such exponents are NaN. (Benettin et al. 1980.)
    """
    given = _as_call("lyapunov_exponents", update, point, num_steps, method, directions)
    with explained("lyapunov_exponents", point=point):
        attached = is_traced(point)
        found, measured = compiled_exponents(update, num_steps, unseeded(method), *given, (), attached=attached)
    return _reported("lyapunov_exponents", found, measured, method, num_steps, throw=throw)


def lyapunov_gradient(
    update: Callable[[Any], Any],
    point: Any,
    *,
    num_steps: int,
    objective: ExponentObjective = "largest",
    method: ExponentMethod = PLAIN,
    directions: Any = None,
    throw: bool = True,
) -> ExponentGradient:
    """An objective of the exponents, and its derivative in the point, where directions are held as they were found.

    It is that of the singular values where directions are singular vectors, as these do not change the values to first
    order. Steps are taken again for it, so that memory does not grow with num_steps but for log2(num_steps) states.
    Raises as lyapunov_exponents does, and NonFinite where the derivative is not finite.
    """
    given = _as_call("lyapunov_gradient", update, point, num_steps, method, directions, objective)
    with explained("lyapunov_gradient", point=point):
        found, measured = compiled_gradient(update, num_steps, unseeded(method), place_of(objective), *given, ())
    reported = _reported("lyapunov_gradient", found.found, measured, method, num_steps, throw=throw)
    if is_traced((found, measured)):
        return replace(found, found=reported)
    if throw and not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found.gradient)):
        raise NonFinite(
            f"lyapunov_gradient: derivative of {objective!r} has 1 entry or more that is NaN or infinite, limit 0: "
            "exponents are not smooth at this point. Remedy: start elsewhere, or ask for fewer exponents.",
            Status.NONFINITE,
            Stats(),
        )
    return replace(found, found=reported, products=int(found.products))


@partial(jax.jit, static_argnames=("update", "num_steps", "method", "attached"))
def compiled_exponents(
    update: Any,
    num_steps: int,
    method: ExponentMethod,
    point: Any,
    directions: Any,
    key: Array,
    others: tuple[Any, ...],
    *,
    attached: bool = False,
) -> tuple[LyapunovExponents, Measured]:
    """(the result, what it was made from) of x ← update(x, *others); the method's seed is in the key.

    attached: differentiable in the point.
    """
    form = Form.of(point)
    flow = Flow(form, lambda tree: update(tree, *others))
    rows = _rows(form, method, directions, key)
    measured = measure(flow, form.split(point), method, num_steps, *rows, attached=attached)
    return _result(form, measured), measured


@partial(jax.jit, static_argnames=("update", "num_steps", "method"))
def compiled_gradient(
    update: Any,
    num_steps: int,
    method: ExponentMethod,
    which: Array,
    point: Any,
    directions: Any,
    key: Array,
    others: tuple[Any, ...],
) -> tuple[ExponentGradient, Measured]:
    """As compiled_exponents, with the derivative of the objective in the floating leaves."""
    form = Form.of(point)
    flow = Flow(form, lambda tree: update(tree, *others))
    vector, rest = form.split(point)
    rows = _rows(form, method, directions, key)

    def value(vector: Array) -> tuple[Array, Measured]:
        measured = measure(flow, (vector, rest), method, num_steps, *rows, attached=True)
        return objective_of(measured.exponents, which), measured

    (found, measured), slope = jax.value_and_grad(value, has_aux=True)(vector)
    gradient = form.joined((slope, [jnp.zeros_like(x) for x in rest]))
    products = measured.products + 2 * num_steps * len(measured.rows)
    result = ExponentGradient(value=found, gradient=gradient, found=_result(form, measured), products=products)
    return result, measured


def _as_call(
    caller: str, update: Any, point: Any, num_steps: Any, method: Any, directions: Any, objective: Any = "largest"
) -> tuple[Any, Any, Array]:
    """(point, directions, key) once they are checked for what jit itself would hide."""
    check_exponents(caller, num_steps, method, objective)
    if not callable(update):
        raise InvalidInput(
            f"{caller}: update is {type(update).__name__}, limit: a function of a tree. Remedy: pass Play(...).update."
        )
    require_hashable(caller, update=update)
    check_arguments(point=point)
    return point, directions, as_key(method.seed)


def place_of(objective: ExponentObjective) -> Array:
    """Of the objective among the core's: a number, so that one program does for all."""
    return jnp.asarray(get_args(ExponentObjective).index(objective), jnp.int32)


def unseeded(method: ExponentMethod) -> ExponentMethod:
    """One program for all seeds."""
    return replace(method, seed=0)


def _rows(form: Form, method: ExponentMethod, directions: Any, key: Array) -> tuple[Array, Any]:
    """Orthonormal rows to begin with; InvalidInput for more of them than there are entries, or the method takes."""
    given = None if directions is None else form.rows(directions)
    wanted = method.num_exponents if isinstance(method, ExponentSpectrum) else 1
    if given is not None and wanted not in {None, len(given)}:
        raise InvalidInput(
            f"directions: {len(given)} along the first axis, limit: {wanted} as {type(method).__name__} takes. "
            "Remedy: pass as many."
        )
    count = wanted if given is None else len(given)
    if count is not None and count > form.size:
        raise InvalidInput(
            f"{type(method).__name__}: {count} exponents, limit: {form.size}, the number of floating entries in point. "
            "Remedy: ask for fewer."
        )
    return first_rows(method, form.size, given, key, form.kind)


def _result(form: Form, measured: Measured) -> LyapunovExponents:
    return LyapunovExponents(
        exponents=measured.exponents,
        directions=form.spread(measured.rows),
        end=form.joined(measured.end),
        products=measured.products,
    )


def _reported(
    caller: str, found: LyapunovExponents, measured: Measured, method: Any, num_steps: int, *, throw: bool
) -> LyapunovExponents:
    """The result with its count as a number; raises for directions, steps and iterations that failed."""
    rtol = getattr(method, "rtol", jnp.inf)
    if is_traced((found, measured)):
        failed = measured.residual > rtol
        exponents = jnp.where(failed, jnp.nan, found.exponents) if throw else found.exponents
        return replace(found, exponents=exponents)
    if bool(measured.dependent):
        raise InvalidInput(
            f"{caller}: directions: 1 or more is zero or depends on those before it, limit 0. "
            "Remedy: pass independent directions."
        )
    if throw:
        require_measured(caller, measured, method, num_steps)
    return replace(found, products=int(found.products))


def require_measured(caller: str, measured: Measured, method: Any, num_steps: int) -> None:
    """Raise NonFinite for the first step that was not finite, or else NotConverged for a direction not found."""
    bad, residual = int(measured.bad), float(measured.residual)
    stats = Stats(residual_norm=residual, steps=int(measured.refinements), products=int(measured.products))
    if bad >= 0:
        raise NonFinite(
            f"{caller}: step {bad} of {num_steps}: the point or a direction there has 1 entry or more that is NaN or "
            "infinite, limit 0. Remedy: lower the learning rate, or begin elsewhere.",
            Status.NONFINITE,
            stats,
        )
    if not residual <= getattr(method, "rtol", jnp.inf):
        raise NotConverged(
            f"{caller}: {method}: residual {residual:.3g} σ² after {stats.steps} refinements, limit "
            f"rtol={method.rtol:g} within max_refinements={method.max_refinements}. Remedy: raise max_refinements, or "
            "loosen rtol.",
            Status.MAX_STEPS_REACHED,
            stats,
        )
