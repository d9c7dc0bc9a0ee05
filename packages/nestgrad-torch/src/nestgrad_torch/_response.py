"""The response of params to hparams as a Jacobian, and Newton's step to the inner solution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import BilevelProblem, Implicit, Inner, UnsupportedSpec, WeightUpdate, require_legal, tree
from nestgrad_torch._backend import as_call, require_implicit
from nestgrad_torch._derivatives import Linearization, linearize
from nestgrad_torch._rules.implicit import Extras, extras_of, solve_forward
from nestgrad_torch._second_order import second_order
from nestgrad_torch._tree import untouched


@torch.inference_mode(mode=False)
def best_response_jacobian(
    inner: Inner,
    params: Any,
    hparams: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    opt_state: Any = None,
    throw: bool = True,
) -> Any:
    """dw*/dλ = -J⁻¹B, column by column: a tree like params of trees like hparams, shapes param.shape + hparam.shape."""
    require_legal(inner, method)
    require_implicit("best_response_jacobian", method)
    problem = BilevelProblem(inner=inner, outer_loss=_no_outer_loss)
    call = as_call(problem, params, hparams, inner_batch=inner_batch, opt_state=opt_state)
    with untouched(call.point), second_order(call.point.module):
        place = call.place()
        linear = linearize(inner, place, inner_batch, opt_state)
        linear.damping = method.damping
        extras = extras_of(call, linear)
        blocks = [_columns(method, linear, i, extras, throw=throw) for i in range(len(place.leaves))]
    rows: list[Any] = []
    for i, leaf in enumerate(call.point.leaves):
        pairs = zip(blocks, place.leaves, strict=True)
        parts = [_rows(block, i, call.point.leaves).reshape((*leaf.shape, *h.shape)) for block, h in pairs]
        rows.append(tree.unflatten(call.hparams, parts))
    return tree.unflatten(call.point.tree, rows)


@torch.inference_mode(mode=False)
def newton_step(
    inner: Inner, params: Any, hparams: Any, *, solver: Any, inner_batch: Any = None, opt_state: Any = None
) -> tuple[Any, float]:
    """(w - J⁻¹F, |F| at the params given): the same kind of params, a module as a copy that holds the new values.

    Not for a WeightUpdate. Raises the error of a solve that failed.
    """
    return newton(inner, params, hparams, solver, inner_batch, opt_state, throw=True)


def newton(
    inner: Inner, params: Any, hparams: Any, solver: Any, inner_batch: Any, opt_state: Any, *, throw: bool
) -> tuple[Any, float]:
    """newton_step, which with throw=False returns whatever the solver ended with."""
    method = Implicit(solver=solver)
    require_legal(inner, method)
    if isinstance(inner, WeightUpdate):
        raise UnsupportedSpec(
            "newton_step on WeightUpdate, limit: Minimize, FixedPoint, Root, ProximalGradient. "
            "Remedy: pass Minimize(loss), whose minimiser it is that the updates approach."
        )
    problem = BilevelProblem(inner=inner, outer_loss=_no_outer_loss)
    call = as_call(problem, params, hparams, inner_batch=inner_batch, opt_state=opt_state)
    with untouched(call.point), second_order(call.point.module):
        place = call.place()
        linear = linearize(inner, place, inner_batch, opt_state)
        residual = linear.residual.detach()
        move = solve_forward(method, linear, residual, Extras(), throw=throw)
        moved = place.weights.detach() - move
    return call.point.like_given(moved), float(vector_norm(residual))


def _columns(method: Implicit, linear: Linearization, which: int, extras: Extras, *, throw: bool) -> Tensor:
    """-J⁻¹B for the entries of one hyperparameter: (weights, entries)."""
    count = linear.inputs[0].numel()
    zeros = [torch.zeros_like(h) for h in linear.hparams]
    columns = []
    for entry in range(zeros[which].numel()):
        unit = torch.zeros_like(zeros[which]).reshape(-1)
        unit[entry] = 1.0
        direction = [*zeros[:which], unit.reshape(zeros[which].shape), *zeros[which + 1 :]]
        rhs = -linear.hparam_push(direction)
        columns.append(solve_forward(method, linear, rhs, extras, throw=throw)[:count])
    return torch.stack(columns, dim=1) if columns else linear.inputs[0].new_zeros(count, 0)


def _rows(block: Tensor, which: int, leaves: list[Tensor]) -> Tensor:
    return block.split([leaf.numel() for leaf in leaves])[which]


def _no_outer_loss(params: Any, hparams: Any, batch: Any) -> Any:
    raise NotImplementedError
