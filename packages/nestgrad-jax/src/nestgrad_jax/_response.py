"""The response of params to hparams as a Jacobian, and Newton's step to the inner solution."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import Implicit, Stats, Status, UnsupportedSpec, WeightUpdate, error_for, require_legal
from nestgrad_jax._calls import as_call, require_hashable, settled
from nestgrad_jax._derivatives import linearize
from nestgrad_jax._explain import explained
from nestgrad_jax._rules._common import Call
from nestgrad_jax._rules.implicit import responses, solve_scaled
from nestgrad_jax._tree import is_traced, tree_norm


def best_response_jacobian(
    inner: Any,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    opt_state: Any = None,
    throw: bool = True,
) -> Any:
    """dw*/dλ = -J⁻¹B: a tree like params of trees like hparams, arrays of shape param.shape + hparam.shape.

    One linearisation, and one solve in forward mode a hyperparameter entry: for few of them. Raises as `hypergradient`
    does, for the column that ended worst.
    """
    _require_implicit("best_response_jacobian", inner, method)
    given = as_call(params, hparams, inner_batch=inner_batch, opt_state=opt_state)
    with explained("best_response_jacobian", given):
        jacobian, status, stats = _compiled_jacobian(inner, method, given)
    if not is_traced((given, status)) and throw and not (ended := Status(int(status))).ok:
        raise error_for(ended, method, stats)
    return jacobian


def newton_step(
    inner: Any, params: Any, hparams: Any, *, solver: Any, inner_batch: Any = None, opt_state: Any = None
) -> tuple[Any, Any]:
    """(w - J⁻¹F, |F| at the params given): one Newton step towards the inner solution; not for a WeightUpdate.

    |F| is a float, or an array under a user's own jit. A solve that fails shows as an |F| that does not fall.
    """
    if isinstance(inner, WeightUpdate):
        raise UnsupportedSpec(
            "newton_step: inner problem WeightUpdate, limit: Minimize, FixedPoint, Root, ProximalGradient. "
            "Remedy: pass Minimize(loss) for the loss that the update descends."
        )
    method = Implicit(solver=solver)
    _require_implicit("newton_step", inner, method)
    given = as_call(params, hparams, inner_batch=inner_batch, opt_state=opt_state)
    with explained("newton_step", given):
        moved, left = _compiled_newton(inner, method, given)
    return moved, left if is_traced((given, left)) else float(left)


def _require_implicit(caller: str, inner: Any, method: Any) -> None:
    if not isinstance(method, Implicit):
        raise UnsupportedSpec(
            f"{caller}: method {type(method).__name__}, limit: Implicit. Remedy: pass Implicit(solver=Dense())."
        )
    require_legal(inner, method)
    require_hashable(caller, inner=inner, method=method)


@partial(jax.jit, static_argnames=("inner", "method"))
def _compiled_jacobian(inner: Any, method: Implicit, given: Call) -> tuple[Any, Array, Stats]:
    call = settled(given)
    point = linearize(inner, call.params, call.hparams, call.inner_batch, call.opt_state)
    rows, status, stats = responses(method, point, call.hparams, params=call.params)
    return _nested(rows, call.params, call.hparams), status, stats


def _nested(rows: Array, params: Any, hparams: Any) -> Any:
    """(m, n) as jax.jacobian nests it."""
    over_params = jax.vmap(ravel_pytree(params)[1])(rows)  # leaves (m, *param.shape)
    restore = ravel_pytree(hparams)[1]

    def split(leaf: Array) -> Any:
        columns = jax.vmap(restore)(jnp.moveaxis(leaf, 0, -1).reshape(-1, leaf.shape[0]))
        return jax.tree.map(lambda column: column.reshape(leaf.shape[1:] + column.shape[1:]), columns)

    return jax.tree.map(split, over_params)


@partial(jax.jit, static_argnames=("inner", "method"))
def _compiled_newton(inner: Any, method: Implicit, given: Call) -> tuple[Any, Array]:
    call = settled(given)
    point = linearize(inner, call.params, call.hparams, call.inner_batch, call.opt_state)
    solve, _, scale = solve_scaled(method, point, point.residual, forward=True)
    step = point.adjoint(scale * solve.solution)
    return jax.tree.map(jnp.subtract, call.params, step), tree_norm(point.residual)
