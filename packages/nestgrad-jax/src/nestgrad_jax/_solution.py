"""A solution given by any solver, as a function that autodiff differentiates by the implicit function theorem.

The tangent of w*(θ) along ξ is z with J z = -B ξ, written as one `lax.custom_linear_solve` that our solver solves. So
it can be transposed (reverse mode), mapped, jitted and differentiated again, as the solver itself need never be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from nestgrad import (
    FixedPoint,
    Implicit,
    InvalidInput,
    Minimize,
    NotConverged,
    ProximalGradient,
    Root,
    Stats,
    Status,
    WeightUpdate,
    error_for,
)
from nestgrad_jax._derivatives import Linearization, linearize
from nestgrad_jax._rules.implicit import overall, system
from nestgrad_jax._solvers._common import SOLVERS, Operator
from nestgrad_jax._tree import flat, norm, power_of_two, tree_norm

Solver = Callable[[Any, Any, Any], tuple[Any, Any]]
"""solve(init, hparams, batch) -> (params, aux)."""

Callback = Callable[[Callable[[Any], Any], Any], Any]
"""A user's linear solver: solve(matvec, b) -> x, on trees like params."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How the solution is differentiated: its inner problem, and an Implicit or a user's linear solver."""

    inner: Any
    method: Implicit | Callback


def differentiable(solve: Solver, rule: Rule) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """solve itself, with the derivative of its solution in hparams and in the batch; its aux has none.

    A derivative in init raises InvalidInput: the solution does not depend on where the solver started.
    """

    @jax.custom_jvp
    def solution(init: Any, hparams: Any, batch: Any) -> tuple[Any, Any]:
        return solve(init, hparams, batch)

    def tangent(primals: Any, tangents: Any) -> Any:
        (init, hparams, batch), (by_init, along, by_batch) = primals, tangents
        if any(_moves(leaf) for leaf in _tangent_leaves(by_init)):
            raise InvalidInput(
                "init_params: 1 derivative asked for, limit 0: a solution does not depend on where its solver started. "
                "Remedy: pass jax.lax.stop_gradient(init_params), or nestgrad's Unrolled for the steps themselves."
            )
        params, aux = solution(init, hparams, batch)
        moving = any(_moves(leaf) for leaf in _tangent_leaves(by_batch))
        directions = _directions((hparams, batch) if moving else hparams, (along, by_batch) if moving else along)
        moved = _response(rule, params, hparams, batch, directions, moving=moving)
        return (params, aux), (moved, jax.tree.map(_no_tangent, aux))

    solution.defjvp(tangent, symbolic_zeros=True)
    return solution


def _tangent_leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))


def _moves(tangent: Any) -> bool:
    return not isinstance(tangent, SymbolicZero) and jnp.result_type(tangent) != jax.dtypes.float0


def _directions(primal: Any, tangents: Any) -> list[Array]:
    """A tangent for each floating leaf, zero where there is none."""
    pairs = zip(jax.tree.leaves(primal), _tangent_leaves(tangents), strict=True)
    return [
        tangent if _moves(tangent) else jnp.zeros(jnp.shape(leaf), jnp.result_type(leaf))
        for leaf, tangent in pairs
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    ]


def _no_tangent(leaf: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.zeros_like(leaf)
    return np.zeros(jnp.shape(leaf), jax.dtypes.float0)


@partial(jax.jit, static_argnames=("rule", "moving"))
def _response(rule: Rule, params: Any, hparams: Any, batch: Any, directions: list[Array], *, moving: bool) -> Any:
    """z with J z = -B ξ, ξ over the floating leaves of hparams, or of (hparams, batch)."""
    theta = (hparams, batch) if moving else hparams
    leaves, structure = jax.tree.flatten(theta)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]

    def given(floats: list[Array]) -> tuple[Any, Any]:
        full = list(leaves)
        for place, leaf in zip(places, floats, strict=True):
            full[place] = leaf
        restored = jax.tree.unflatten(structure, full)
        return restored if moving else (restored, batch)

    point = linearize(_in_floats(rule.inner, given), params, [leaves[place] for place in places], None, None)
    carried = point.adjoint(_solved(rule, point, -point.hparam_push(directions), params))
    return carried["params"] if point.weights < point.residual.size else carried


def _in_floats(inner: Any, given: Callable[[Any], tuple[Any, Any]]) -> Any:
    """The inner problem as a function of the list of floats that it is differentiated in."""
    if isinstance(inner, FixedPoint):
        return FixedPoint(lambda w, floats, _: inner.map(w, *given(floats)))
    if isinstance(inner, Root):
        return Root(lambda w, floats, _: inner.residual(w, *given(floats)))

    def loss(w: Any, floats: Any, _: Any) -> Any:
        return inner.loss(w, *given(floats))

    if isinstance(inner, Minimize):
        return Minimize(loss)
    if isinstance(inner, ProximalGradient):
        return replace(inner, loss=loss, prox=lambda floats: inner.prox(given(floats)[0]))
    assert isinstance(inner, WeightUpdate)  # noqa: S101  (the last of the inner problems)
    return replace(inner, loss=loss, optimizer=lambda floats: inner.optimizer(given(floats)[0]))


def _solved(rule: Rule, point: Linearization, rhs: Array, params: Any) -> Array:
    """The solution of J z = rhs, by a solve that is itself differentiated as the solution that it stands for."""
    method = rule.method if isinstance(rule.method, Implicit) else None
    damping = 0.0 if method is None else method.damping
    ahead = point.forward_product()
    size = tree_norm(params)

    def by(operator: Operator, right: Array, *, forward: bool) -> Array:
        if method is None:
            return _by_callback(rule.method, point, operator, right)
        scale = power_of_two(jnp.abs(right).max())
        whole = replace(system(method, point, right / scale, scale, forward=forward), apply=operator)
        solve = SOLVERS(method.solver, whole)
        optimality = tree_norm(point.residual)
        finite = jnp.isfinite(solve.solution).all() & jnp.isfinite(optimality)
        stats = Stats(
            residual_norm=solve.residual_norm * scale,
            rhs_norm=norm(whole.rhs) * scale,
            steps=solve.steps,
            products=solve.products,
            inner_optimality=optimality,
            params_norm=size,
            contraction=solve.contraction,
            curvature=solve.curvature,
            asymmetry=solve.asymmetry,
            kink_distance=jnp.nan if point.kink_distance is None else point.kink_distance,
            eps=float(jnp.finfo(right.dtype).eps),
        )
        status = overall(method, solve.status, optimality, finite, point.near_kink)
        return _guarded(scale * solve.solution, status, stats, partial(_error, method))

    return lax.custom_linear_solve(
        lambda q: ahead(q) + damping * q if damping else ahead(q),
        rhs,
        lambda operator, right: by(operator, right, forward=True),
        transpose_solve=lambda operator, right: by(operator, right, forward=False),
        symmetric=point.symmetric,
    )


def _by_callback(solve: Any, point: Linearization, operator: Operator, right: Array) -> Array:
    """A user's own linear solver, its answer checked by the recomputed residual."""
    found = flat(solve(lambda x: point.adjoint(operator(flat(x))), point.adjoint(right)))
    left, size, eps = norm(operator(found) - right), norm(right), float(jnp.finfo(right.dtype).eps)
    stats = Stats(residual_norm=left, rhs_norm=size, eps=eps)
    bad = ~(left <= _loosest(eps) * size)
    status = jnp.where(bad, int(Status.MAX_STEPS_REACHED), int(Status.CONVERGED))
    return _guarded(found, status, stats, _callback_error)


def _loosest(eps: float) -> float:
    """The largest relative residual that passes for a solution of a solver that says nothing of its own."""
    return eps**0.25


def _error(method: Implicit, status: Status, stats: Stats) -> Exception:
    return error_for(status, method, stats, where="derivative of the solution")


def _callback_error(status: Status, stats: Stats) -> Exception:
    limit = _loosest(stats.eps) * float(stats.rhs_norm)
    return NotConverged(
        f"derivative of the solution: the linear solver given left a residual of {float(stats.residual_norm):.3g}, "
        f"limit {limit:.3g}. Remedy: a tighter tolerance, or a solver spec such as GMRES(rtol=1e-8, max_steps=100).",
        status,
        stats,
    )


def _guarded(solution: Array, status: Array, stats: Stats, error: Callable[[Status, Stats], Exception]) -> Array:
    """The solution where the status is ok; else an error from the host, and NaN should that be suppressed."""
    ok = status <= int(Status.IDLE)

    def raised(status: Any, numbers: Any) -> np.ndarray:
        worst = np.asarray(status).ravel()
        at = int(worst.argmax())
        if not Status(int(worst[at])).ok:
            raise error(Status(int(worst[at])), _picked(numbers, np.asarray(status).shape, at))
        return np.ones(np.shape(status), bool)

    def ask() -> Array:
        shape = jax.ShapeDtypeStruct((), jnp.bool_)
        return jax.pure_callback(raised, shape, status, stats, vmap_method="broadcast_all")

    return jnp.where(lax.cond(ok, lambda: jnp.ones((), bool), ask) & ok, solution, jnp.nan)


def _picked(stats: Stats, shape: tuple[int, ...], at: int) -> Stats:
    """The stats of one of the solves that were mapped side by side."""
    return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), shape).ravel()[at], stats)
