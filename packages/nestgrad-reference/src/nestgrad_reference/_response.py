"""The response dw/dλ by dense algebra, along a direction and whole; and a Newton step by the same solve."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import (
    BilevelProblem,
    HyperGradientJVP,
    Implicit,
    Stats,
    Status,
    UnsupportedSpec,
    WeightUpdate,
    error_for,
    require_legal,
    tree,
)
from nestgrad_reference._connected import require_connected
from nestgrad_reference._derivatives import Point, linearize, outer_gradients
from nestgrad_reference._rules.implicit import damped, extras_of, scale_of, stats_of, status_of
from nestgrad_reference._solvers._common import SOLVERS
from nestgrad_reference._tree import Vector, as_hparams, as_params, check_matching, concatenate, flatten, shaped


def hypergradient_jvp(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    direction: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    warm_start: Any = None,
    preconditioner: Any = None,
    key: Any = None,
    throw: bool = True,
) -> HyperGradientJVP:
    """The derivative of outer_loss along a direction shaped like hparams: directᵀξ + vᵀz with J z = -Bξ."""
    require_implicit("hypergradient_jvp", method)
    require_legal(problem.inner, method, warm_start=warm_start, preconditioner=preconditioner, key=key)
    weights, values = as_params(params), as_hparams(hparams)
    check_matching(params, hparams=hparams, direction=direction, inner_batch=inner_batch, outer_batch=outer_batch)
    xi = concatenate([np.asarray(leaf, np.float64) for leaf in shaped(values, direction, "direction")])
    point = linearize(problem.inner, weights, values, inner_batch, opt_state)
    loss, slope, direct = outer_gradients(problem.outer_loss, weights, values, outer_batch)
    require_connected(problem, weights, values, inner_batch=inner_batch, outer_batch=outer_batch, opt_state=opt_state)
    response, status, stats = _respond(method, point, xi, warm_start, preconditioner, key, slope)
    along, through = float(direct @ xi), float(slope @ response[: slope.size])
    if status.ok and not np.isfinite([loss, along, through]).all():
        status = Status.NONFINITE
    if throw and not status.ok:
        raise error_for(status, method, stats)
    _, restore = flatten(weights)
    return HyperGradientJVP(
        total=np.asarray(along + through),
        direct=np.asarray(along),
        indirect=np.asarray(through),
        response=restore(response[: slope.size]),
        outer_loss=np.asarray(loss),
        status=status,
        stats=stats,
    )


def best_response_jacobian(
    inner: Any,
    params: Any,
    hparams: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    opt_state: Any = None,
    throw: bool = True,
) -> Any:
    """dw*/dλ = -J⁻¹B, one column a hyperparameter entry: a tree like params of trees like hparams.

    Each array has the shape param.shape + hparam.shape. Where the optimizer's state is carried, the rows of the params.
    """
    require_implicit("best_response_jacobian", method)
    require_legal(inner, method)
    weights, values = as_params(params), as_hparams(hparams)
    check_matching(params, hparams=hparams, inner_batch=inner_batch)
    point = linearize(inner, weights, values, inner_batch, opt_state)
    columns: list[Vector] = []
    for unit in np.eye(point.mixed.shape[1]):
        response, status, stats = _respond(method, point, unit, None, None, None, None)
        if throw and not status.ok:
            raise error_for(status, method, stats, where=f"column {len(columns)} of the response")
        columns.append(response[: point.carried.weights])
    return _nested(np.column_stack(columns), weights, values)


def newton_step(
    inner: Any, params: Any, hparams: Any, *, solver: Any, inner_batch: Any = None, opt_state: Any = None
) -> tuple[Any, float]:
    """(w - J⁻¹F with the solver in place of the inverse, |F| at the params given); NaN where the solver gives none.

    Not for a WeightUpdate, whose J has no inverse to speak of where the step has no fixed point.
    """
    if isinstance(inner, WeightUpdate):
        raise UnsupportedSpec(
            "newton_step on WeightUpdate, limit: Minimize, FixedPoint, Root, ProximalGradient. "
            "Remedy: pass Minimize(loss), whose root it is."
        )
    require_legal(inner, Implicit(solver=solver))
    weights, values = as_params(params), as_hparams(hparams)
    check_matching(params, hparams=hparams, inner_batch=inner_batch)
    point = linearize(inner, weights, values, inner_batch, opt_state)
    scale, extras = scale_of(point.residual), extras_of(point, None, None, None, forward=True)
    solve = SOLVERS(solver, point.jacobian, point.residual / scale, point.symmetric, scale, extras)
    moved = point.carried.as_tree(point.carried.vector - scale * solve.solution)
    same = tree.map(lambda old, new: np.asarray(new).astype(np.asarray(old).dtype), params, moved)
    return same, float(np.linalg.norm(point.residual))


def require_implicit(function: str, method: Any) -> None:
    """Raise UnsupportedSpec unless the method is Implicit."""
    if not isinstance(method, Implicit):
        raise UnsupportedSpec(f"{function}: method {method!r}, limit: Implicit. Remedy: pass Implicit(solver=Dense()).")


def _respond(
    method: Implicit, point: Point, xi: Vector, warm_start: Any, preconditioner: Any, key: Any, slope: Vector | None
) -> tuple[Vector, Status, Stats]:
    """z with J z = -Bξ by the solver, how that ended, and its numbers."""
    rhs = -point.mixed @ xi
    scale = scale_of(rhs)
    extras = extras_of(point, warm_start, preconditioner, key, forward=True).divided(scale)
    solve = SOLVERS(method.solver, damped(point.jacobian, method), rhs / scale, point.symmetric, scale, extras)
    response = scale * solve.solution
    through = np.nan if slope is None else slope @ response[: slope.size]
    stats = stats_of(point, solve, rhs, scale, through)
    return response, status_of(method, point, solve.status, [*response]), stats


def _nested(jacobian: np.ndarray, params: Any, hparams: Any) -> Any:
    """The rows shaped like params, the columns of each like hparams."""
    column_ends = np.cumsum([leaf.size for leaf in tree.leaves(hparams)])[:-1]
    row_ends = np.cumsum([leaf.size for leaf in tree.leaves(params)])[:-1]

    def shaped_block(param: Any, rows: np.ndarray) -> Any:
        blocks = np.split(rows, column_ends, axis=1)
        leaves = [
            block.reshape(param.shape + leaf.shape) for block, leaf in zip(blocks, tree.leaves(hparams), strict=True)
        ]
        return tree.unflatten(hparams, leaves)

    parts = np.split(jacobian, row_ends)
    return tree.unflatten(
        params, [shaped_block(param, rows) for param, rows in zip(tree.leaves(params), parts, strict=True)]
    )
