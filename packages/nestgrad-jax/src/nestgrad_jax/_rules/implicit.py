"""Implicit: total = direct - Bᵀp, from one linearisation and one solve a right-hand side."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    HyperGradientJVP,
    Implicit,
    InvalidInput,
    Minimize,
    Neumann,
    Stats,
    Status,
)
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import Linearization, Outer, linearize, outer_gradients
from nestgrad_jax._programs import slow_in_loops
from nestgrad_jax._rules._common import METHODS, Call, added, stats_of
from nestgrad_jax._solvers import (  # noqa: F401  (fills the table)
    bicgstab,
    cg,
    dense,
    gmres,
    identity,
    lsmr,
    minres,
    neumann,
    normal_cg,
    nystrom,
    random_neumann,
)
from nestgrad_jax._solvers._common import SOLVERS, Operator, Solve, System, code, first_of
from nestgrad_jax._tree import SMALL, entries, flat, norm, power_of_two, tree_norm, tree_norms


@METHODS.register(Implicit)
def from_call(spec: Implicit, problem: BilevelProblem, call: Call) -> HyperGradient:
    """Linearise at the params given, and solve."""
    point = linearize(
        problem.inner,
        call.params,
        call.hparams,
        call.inner_batch,
        call.opt_state,
        by_leaves=_by_leaves(spec, problem, call),
    )
    outer = outer_gradients(problem.outer_loss, call.params, call.hparams, call.outer_batch)
    return implicit(
        spec,
        point,
        outer,
        call.hparams,
        params=call.params,
        warm_start=call.warm_start,
        preconditioner=call.preconditioner,
        key=call.key,
    )


def _by_leaves(spec: Implicit, problem: BilevelProblem, call: Call) -> bool:
    """Whether the solve is of trees: where there are many weights, and nothing that needs them in one vector."""
    return (
        isinstance(spec.solver, Neumann)
        and isinstance(problem.inner, Minimize)
        and call.preconditioner is None
        and entries(call.params) > SMALL
    )


def implicit(
    spec: Implicit,
    point: Linearization,
    outer: Outer,
    hparams: Any,
    *,
    params: Any,
    warm_start: Any = None,
    preconditioner: Any = None,
    key: Any = None,
) -> HyperGradient:
    """The hypergradient of the outer loss, a tree shaped like hparams, with its status as an int32 scalar.

    outer was taken at the params of `point`, or at the next weights. Its direct part is None where there is no path.
    """
    by_params, direct = _outer_parts(point, outer, hparams)
    rhs = point.lift(by_params)
    extras = (warm_vector(point, warm_start), diagonal(point, preconditioner), key)
    solve, unit, scale = solve_scaled(spec, point, rhs, *extras)
    return _finish(spec, point, outer.loss, direct, solve, unit, scale, params)


def several(spec: Implicit, point: Linearization, outers: list[Outer], hparams: Any, *, params: Any, key: Any) -> list:
    """One hypergradient for each outer loss, the solves side by side on one linearisation."""
    parts = [_outer_parts(point, outer, hparams) for outer in outers]
    stacked = jnp.stack([point.lift(by_params) for by_params, _ in parts])
    solves, units, scales = jax.vmap(lambda rhs: solve_scaled(spec, point, rhs, None, None, key))(stacked)
    found = []
    for i, (outer, (_, direct)) in enumerate(zip(outers, parts, strict=True)):
        solve, unit, scale = jax.tree.map(lambda x, i=i: x[i], (solves, units, scales))
        found.append(_finish(spec, point, outer.loss, direct, solve, unit, scale, params))
    return found


def tangent(
    spec: Implicit, point: Linearization, outer: Outer, hparams: Any, direction: Any, *, params: Any, call: Call
) -> HyperGradientJVP:
    """The derivative of the outer loss along a direction in hparams: z solves J z = -B ξ."""
    by_params, by_hparams = _outer_parts(point, outer, hparams)
    rhs = -point.hparam_push(direction)
    extras = (warm_vector(point, call.warm_start), diagonal(point, call.preconditioner), call.key)
    solve, unit, scale = solve_scaled(spec, point, rhs, *extras, forward=True)
    response = scale * solve.solution
    direct = jnp.zeros_like(scale) if by_hparams is None else _inner_product(by_hparams, direction)
    weights = flat(by_params)
    indirect = jnp.vdot(weights, response[: point.weights], precision=jax.lax.Precision.HIGHEST)
    optimality = tree_norm(point.residual)
    finite = jnp.isfinite(outer.loss) & jnp.isfinite(optimality) & jnp.isfinite(direct + indirect)
    carried = point.adjoint(response)
    return HyperGradientJVP(
        total=direct + indirect,
        direct=direct,
        indirect=indirect,
        response=carried["params"] if point.weights < response.size else carried,
        outer_loss=outer.loss.astype(rhs.dtype),
        status=overall(spec, solve.status, optimality, finite, point.near_kink),
        stats=_stats(solve, unit, scale, point, optimality, params=params, indirect=indirect),
    )


def responses(spec: Implicit, point: Linearization, hparams: Any, *, params: Any) -> tuple[Array, Array, Stats]:
    """(-J⁻¹B as columns in rows (m, n), the worst column's status, its stats), the solves side by side."""
    entries, restore = ravel_pytree(hparams)
    optimality = tree_norm(point.residual)

    def column(along: Array) -> tuple[Array, Array, Stats]:
        solve, unit, scale = solve_scaled(
            spec, point, -point.hparam_push(restore(along)), None, None, None, forward=True
        )
        response = scale * solve.solution
        finite = jnp.isfinite(response).all() & jnp.isfinite(optimality)
        status = overall(spec, solve.status, optimality, finite, point.near_kink)
        return (
            response[: point.weights],
            status,
            _stats(solve, unit, scale, point, optimality, params=params, indirect=response),
        )

    rows, statuses, stats = jax.vmap(column)(jnp.eye(entries.size, dtype=entries.dtype))
    worst = statuses.argmax()
    return rows, statuses[worst], jax.tree.map(lambda x: x[worst], stats)


def solve_scaled(
    spec: Implicit,
    point: Linearization,
    rhs: Any,
    start: Array | None = None,
    preconditioner: Array | None = None,
    key: Any = None,
    *,
    forward: bool = False,
) -> tuple[Solve, Any, Array]:
    """(solve of the system with rhs / scale, that rhs, scale); scale is a power of two."""
    scale = power_of_two(tree_norm(rhs))
    unit = jax.tree.map(lambda x: x / scale, rhs)
    whole = system(spec, point, unit, scale, start, preconditioner, key, forward=forward)
    return SOLVERS(spec.solver, whole), unit, scale


def system(
    spec: Implicit,
    point: Linearization,
    rhs: Any,
    scale: Array,
    start: Array | None = None,
    preconditioner: Array | None = None,
    key: Any = None,
    *,
    forward: bool = False,
) -> System:
    """Jᵀ + δI, or J + δI in forward mode, with rhs / scale given: the one place where damping enters."""

    def damped(product: Operator) -> Operator:
        def whole(q: Any) -> Any:
            return jax.tree.map(lambda image, x: image + spec.damping * x, product(q), q)

        return whole if spec.damping else product

    back = damped(point.transpose_product)
    ahead = damped(point.forward_product() if forward else _lazy(point.forward_product))
    return System(
        apply=ahead if forward else back,
        adjoint=back if forward else ahead,
        rhs=rhs,
        scale=scale,
        symmetric=point.symmetric,
        diagonal=point.diagonal,
        straight=slow_in_loops(back if not forward else ahead, rhs),
        forward=forward,
        start=None if start is None else start / scale,
        preconditioner=preconditioner,
        key=key,
    )


def _lazy(build: Callable[[], Operator]) -> Operator:
    """The product that build gives, built when it is first called."""
    built = cache(build)
    return lambda vector: built()(vector)  # noqa: PLW0108  (build is not called yet)


def warm_vector(point: Linearization, warm_start: Any) -> Array | None:
    """An earlier result's adjoint as a flat vector; InvalidInput unless it fits."""
    if warm_start is None:
        return None
    like = point.adjoint(point.residual)
    if jax.tree.structure(like) != jax.tree.structure(warm_start) or [
        jnp.shape(leaf) for leaf in jax.tree.leaves(like)
    ] != [jnp.shape(leaf) for leaf in jax.tree.leaves(warm_start)]:
        raise InvalidInput(
            f"warm_start: {_shapes(warm_start)}, limit: {_shapes(like)}, the shape of params. "
            "Remedy: pass the adjoint of an earlier result on this problem."
        )
    if point.weights < point.residual.size:
        return jnp.concatenate([flat(warm_start["params"]), flat(warm_start["opt_state"])])
    return flat(warm_start)


def diagonal(point: Linearization, preconditioner: Any) -> Array | None:
    """A preconditioner as a flat vector; InvalidInput unless it is shaped like params. A state carried gets ones."""
    if preconditioner is None:
        return None
    like = point.adjoint(point.residual)
    like = like["params"] if point.weights < point.residual.size else like
    if jax.tree.structure(preconditioner) == jax.tree.structure(0):
        preconditioner = jax.tree.map(lambda _: preconditioner, like)
    fits = jax.tree.structure(preconditioner) == jax.tree.structure(like) and all(
        jnp.shape(given) in ((), leaf.shape)
        for given, leaf in zip(jax.tree.leaves(preconditioner), jax.tree.leaves(like), strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"preconditioner: {_shapes(preconditioner)}, limit: {point.weights} numbers shaped like params. "
            "Remedy: pass a tree like params."
        )
    vector = flat(jax.tree.map(lambda given, leaf: jnp.full_like(leaf, given), preconditioner, like))
    return jnp.pad(vector, (0, point.residual.size - vector.size), constant_values=1.0)


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: "x".join(map(str, jnp.shape(leaf))) or "()", tree))


def _outer_parts(point: Linearization, outer: Outer, hparams: Any) -> tuple[Any, Any]:
    """(∂L_out/∂w, ∂L_out/∂λ or None for no path), once it is checked that each hyperparameter has one at all."""
    one = jnp.ones_like(outer.loss)
    by_params, direct = outer.pull(one)
    rhs = point.lift(by_params)
    paths = reached(lambda x: outer.pull(x)[1], one)
    require_connected(hparams, paths, reached(point.hparam_product, rhs))
    return by_params, direct if any(paths) else None


def _finish(
    spec: Implicit,
    point: Linearization,
    outer_loss: Array,
    direct: Any,
    solve: Solve,
    unit: Any,
    scale: Array,
    params: Any,
) -> HyperGradient:
    indirect = jax.tree.map(lambda h: -scale * h, point.hparam_product(solve.solution))
    total = added(direct, indirect)
    adjoint = jax.tree.map(lambda x: scale * x, solve.solution)
    shift, optimality, length, weights, *sizes = tree_norms(
        indirect, point.residual, adjoint, params, *(() if direct is None else (total,))
    )
    size = sizes[0] if sizes else shift
    finite = jnp.isfinite(outer_loss) & jnp.isfinite(optimality) & jnp.isfinite(size)
    if point.loss is not None:
        finite &= jnp.isfinite(point.loss)  # a loss may be NaN where its derivatives are not
    return HyperGradient(
        total=total,
        direct=direct,
        indirect=indirect,
        outer_loss=outer_loss.astype(scale.dtype),
        status=overall(spec, solve.status, optimality, finite, point.near_kink),
        stats=_stats(
            solve,
            unit,
            scale,
            point,
            optimality,
            params=params,
            indirect=indirect,
            indirect_norm=shift,
            adjoint_norm=length,
            params_norm=weights,
        ),
        adjoint=point.adjoint(adjoint),
    )


def _stats(
    solve: Solve,
    unit: Any,
    scale: Array,
    point: Linearization,
    optimality: Array,
    *,
    params: Any,
    indirect: Any,
    **norms: Array,
) -> Stats:
    if not norms:
        norms = {"adjoint_norm": tree_norm(solve.solution) * scale}
    return stats_of(
        params,
        indirect,
        residual_norm=solve.residual_norm * scale,
        rhs_norm=norm(unit) * scale,
        steps=solve.steps,
        products=solve.products,
        inner_optimality=optimality,
        contraction=solve.contraction,
        curvature=solve.curvature,
        asymmetry=solve.asymmetry,
        kink_distance=jnp.nan if point.kink_distance is None else point.kink_distance,
        **norms,
    )


def overall(spec: Implicit, solver: Array, optimality: Array, finite: Array, near: Array | bool) -> Array:
    """The solver's status, unless the point or the numbers say worse."""
    limit = jnp.inf if spec.inner_tol is None else spec.inner_tol
    own = first_of(
        (~finite, Status.NONFINITE),
        (optimality > limit, Status.INNER_NOT_CONVERGED),
        (near, Status.NEAR_KINK),
        otherwise=Status.CONVERGED,
    )
    return jnp.where((solver <= code(Status.IDLE)) & (own != code(Status.CONVERGED)), own, solver)


def _inner_product(a: Any, b: Any) -> Array:
    return jnp.vdot(flat(a), flat(b), precision=jax.lax.Precision.HIGHEST)


def idle(hparams: Any, adjoint: Any = None) -> HyperGradient:
    """What a training step without a hypergradient reports: the same tree as `implicit`, of zeros and NaN."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), hparams)
    nan = jnp.full((), jnp.nan, jax.tree.leaves(zeros)[0].dtype)
    stats = stats_of(zeros, zeros, indirect_norm=jnp.nan, params_norm=jnp.nan)
    return HyperGradient(
        total=zeros,
        direct=zeros,
        indirect=zeros,
        outer_loss=nan,
        status=code(Status.IDLE),
        stats=stats,
        adjoint=adjoint,
    )
