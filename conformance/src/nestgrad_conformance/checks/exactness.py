"""Exact solvers against closed forms and against the materialised implicit function theorem."""

from __future__ import annotations

import numpy as np

from nestgrad import CG, Dense
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.registry import check


@check("Minimize", "Dense")
def dense_equals_closed_form_on_quadratics(ctx: Context, draw: Draw) -> None:
    """Dense gives CᵀH⁻¹Q(w - t) + ρλ, with fewer and with more hyperparameters than weights."""
    n, m = draw.pick([(1, 1), (4, 2), (2, 5)], "n, m")
    case = problems.quadratic(draw, n, m)
    right = problems.quadratic_closed_form(case.rounded(ctx.dtype))
    found = ctx.hypergradient(case, Dense())
    limit = tolerances.rtol(Dense(), ctx.dtype)
    ctx.close(found.total, {"shift": right}, limit, what="total", scale=problems.quadratic_scale(case))


@check("Minimize", "Dense")
def dense_equals_closed_form_on_ridge(ctx: Context, draw: Draw) -> None:
    """Dense gives -exp(λ_i) w_i v_i for one decay a weight, and their sum for a shared one."""
    case = problems.ridge(draw, draw.pick([1, 3], "n"), shared=draw.pick([True, False], "shared"))
    right = problems.ridge_closed_form(case.rounded(ctx.dtype))
    found = ctx.hypergradient(case, Dense())
    weight = float(np.abs(case.params["w"]).sum())
    ctx.close(
        found.total,
        {"decay": right},
        tolerances.rtol(Dense(), ctx.dtype),
        what="total",
        scale=np.full(right.size, weight),
    )


@check("Minimize", "Dense")
def dense_equals_closed_form_of_one_weight(ctx: Context, draw: Draw) -> None:
    """Dense is right for 0-d params and hparams that are bare arrays, quadratic or not."""
    make = draw.pick([problems.shrinkage, problems.exponential], "family")
    case, _ = make(draw)
    ctx.agree(case, Dense())
    exact, right = make(draw)
    found = ctx.hypergradient(exact, Dense())
    ctx.close(found.total, right, 10 * tolerances.rtol(Dense(), ctx.dtype), what="total", scale=np.ones(1))


@check("Minimize", "Dense")
def dense_equals_reference_off_the_solution(ctx: Context, draw: Draw) -> None:
    """Dense equals ∂_λL_out - Bᵀ J⁻ᵀ ∂_wL_out at the params given, wherever they are."""
    case = draw.pick([problems.logistic, problems.tanh_network], "family")(draw)
    ctx.assume_conditioned(case)
    ctx.agree(case, Dense())


@check("WeightUpdate", "Dense", "sgd")
def dense_equals_reference_on_weight_updates(ctx: Context, draw: Draw) -> None:
    """Dense on u = lr ⊙ v, momentum and weight decay included, at a state that is not zero."""
    case = problems.updated_network(draw, per_parameter=draw.pick([True, False], "per parameter"))
    ctx.assume_conditioned(case)
    ctx.agree(case, Dense())


@check("Minimize", "CG")
def cg_with_a_tolerance_equals_closed_form(ctx: Context, draw: Draw) -> None:
    """CG that converges gives the dense answer, within the tolerance times the condition number."""
    case = problems.quadratic(draw, 10, 2, condition=10.0)
    rtol = 1e-10 if ctx.dtype == "float64" else 3e-5  # float32 can stagnate at a residual of 1e-5 here
    solver = CG(rtol=rtol, max_steps=40)
    found = ctx.hypergradient(case, solver)
    ctx.close(
        found.total,
        {"shift": problems.quadratic_closed_form(case.rounded(ctx.dtype))},
        10 * rtol,
        what="total",
        scale=10 * problems.quadratic_scale(case),
    )


@check("WeightUpdate", "CG", "Dense", "sgd")
def cg_accepts_a_symmetric_weight_update(ctx: Context, draw: Draw) -> None:
    """With one learning rate for all, J = lr (H + weight decay) is symmetric and CG is exact on it."""
    case = problems.updated(draw, problems.quadratic(draw, 4, 2, condition=10.0), per_parameter=False)
    rtol = 1e-10 if ctx.dtype == "float64" else 1e-5
    found = ctx.hypergradient(case, CG(rtol=rtol, max_steps=40))
    dense = ctx.hypergradient(case, Dense())
    size = float(np.abs(ctx.materialize(case).mixed).sum())
    point = ctx.materialize(case)
    adjoint = np.linalg.norm(np.linalg.solve(point.jacobian.T, point.outer_gradient))
    every = sum(np.size(leaf) for leaf in ctx.numpy(found.total).values())
    ctx.close(found.total, ctx.numpy(dense.total), 30 * rtol, what="total", scale=np.full(every, size * adjoint))
