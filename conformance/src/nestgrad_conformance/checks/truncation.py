"""Truncated methods against their own definitions: exactly so many terms, exactly that iterate."""

from __future__ import annotations

import numpy as np

from nestgrad import CG, Dense, Identity, Neumann
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.registry import check


@check("Minimize", "Neumann")
def neumann_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """Neumann(k, a) is a Σ_{j<k} (I - a Jᵀ)ʲ v: k terms, the factor a, the Hessian of the inner loss."""
    case = draw.pick([problems.logistic, problems.tanh_network], "family")(draw)
    ctx.agree(case, Neumann(num_terms=draw.pick([1, 2, 5], "terms"), step_size=0.1))


@check("WeightUpdate", "Neumann", "sgd")
def neumann_on_weight_updates_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """The same with F = u: the optimizer's state held constant, its settings differentiated."""
    case = problems.updated_network(draw, per_parameter=draw.pick([True, False], "per parameter"))
    ctx.agree(case, Neumann(num_terms=draw.pick([2, 5], "terms"), step_size=1.0))


@check("WeightUpdate", "Neumann", "sgd")
def per_parameter_rates_need_the_transpose(ctx: Context, draw: Draw) -> None:
    """J = diag(lr) H is not symmetric: products are with Jᵀ = H diag(lr)."""
    case = problems.updated(draw, problems.quadratic(draw, 4, 2, condition=3.0), per_parameter=True, rate=0.5)
    ctx.agree(case, Neumann(num_terms=5, step_size=1.0))


@check("Minimize", "Neumann", "Identity")
def one_neumann_term_equals_identity(ctx: Context, draw: Draw) -> None:
    """Neumann(1, a) and Identity(a) are the same number."""
    case = problems.tanh_network(draw)
    one = ctx.hypergradient(case, Neumann(num_terms=1, step_size=0.3))
    identity = ctx.hypergradient(case, Identity(scale=0.3))
    limit = 4 * tolerances.eps(ctx.dtype)
    ctx.close(one.indirect, ctx.numpy(identity.indirect), limit, what="indirect", scale=np.full(3, _spread(ctx, case)))


@check("Minimize", "Identity")
def identity_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """Identity(s) is p = s v."""
    ctx.agree(problems.logistic(draw), Identity(scale=draw.pick([1.0, 0.3], "scale")))


@check("WeightUpdate", "Identity", "sgd")
def identity_on_weight_updates_is_one_step_differentiation(ctx: Context, draw: Draw) -> None:
    """Identity on F = u is the derivative of one step: p = v."""
    ctx.agree(problems.updated_network(draw, per_parameter=True), Identity())


@check("Minimize", "CG")
def cg_without_tolerance_is_the_krylov_iterate(ctx: Context, draw: Draw) -> None:
    """CG(0, k) is the minimiser of ½pᵀJp - vᵀp over the k-dimensional Krylov space: not the iterate before or after."""
    case = problems.quadratic(draw, 5, 2, condition=10.0)
    ctx.agree(case, CG(rtol=0.0, max_steps=draw.pick([1, 2, 3], "steps")))


@check("Minimize", "CG")
def cg_is_exact_after_as_many_steps_as_distinct_eigenvalues(ctx: Context, draw: Draw) -> None:
    """Three distinct eigenvalues, three steps: the answer is exact and the last step is not lost."""
    levels = np.array([0.5, 1.0, 2.0]) * 10.0 ** draw.number(-1.0, 1.0, "scale")
    case = problems.quadratic(draw, 6, 2, H=draw.symmetric(np.repeat(levels, 2)))
    found = ctx.hypergradient(case, CG(rtol=0.0, max_steps=3))
    _equals_closed_form(ctx, case, found.total)


@check("Minimize", "CG")
def cg_is_exact_on_multiples_of_the_identity(ctx: Context, draw: Draw) -> None:
    """H = c I converges in one step; steps beyond it change nothing and give no NaN."""
    scale = 10.0 ** draw.number(-3.0, 3.0, "exponent")
    case = problems.quadratic(draw, 4, 2, H=scale * np.eye(4))
    solver = draw.pick([CG(rtol=0.0, max_steps=1), CG(rtol=0.0, max_steps=5), CG(rtol=1e-4, max_steps=5)], "solver")
    _equals_closed_form(ctx, case, ctx.hypergradient(case, solver).total)


@check("Minimize", "Neumann")
def no_outer_slope_means_no_indirect_term(ctx: Context, draw: Draw) -> None:
    """A zero ∂L_out/∂w gives an indirect term of exactly zero with every solver, and no NaN."""
    case = problems.quadratic(draw, 4, 2)
    case = case.with_(outer_batch={**case.outer_batch, "t": case.params["w"]})
    cg = [CG(rtol=1e-6, max_steps=10), CG(rtol=0.0, max_steps=3)]
    solver = draw.pick(ctx.supported([Dense(), *cg, Neumann(num_terms=3, step_size=0.5), Identity()]), "solver")
    found = ctx.hypergradient(case, solver)
    assert not np.any(ctx.numpy(found.indirect)["shift"]), f"indirect: {found.indirect}, limit exactly 0"
    right = case.rounded(ctx.dtype)
    ctx.close(
        found.total,
        {"shift": right.outer_batch["rho"] * right.hparams["shift"]},
        1e-6 if ctx.dtype == "float32" else 1e-14,
        what="total",
    )


@check("Minimize", "Neumann")
def outer_loss_may_have_any_scale(ctx: Context, draw: Draw) -> None:
    """G(c L_out) = c G(L_out) for c from 1e-20 to 1e20, through every solver."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    factor = np.float64(np.asarray(10.0 ** draw.number(-20.0, 20.0, "exponent"), ctx.dtype))
    solvers = ctx.supported([Dense(), CG(rtol=1e-5, max_steps=30), Neumann(num_terms=4, step_size=1.0)])
    solver = draw.pick(solvers, "solver")
    plain = ctx.numpy(ctx.hypergradient(case, solver).total)["shift"]
    outer = {**case.outer_batch, "Q": factor * case.outer_batch["Q"], "rho": factor * case.outer_batch["rho"]}
    scaled = ctx.hypergradient(case.with_(outer_batch=outer), solver)
    limit = 1e-4 if ctx.dtype == "float32" or isinstance(solver, CG) else 1e-10
    ctx.close(
        scaled.total, {"shift": factor * plain}, limit, what="total", scale=factor * problems.quadratic_scale(case)
    )


@check("Minimize", "Neumann")
def long_series_equal_the_exact_solve(ctx: Context, draw: Draw) -> None:
    """As k grows with |I - aJ| < 1 the series tends to J⁻ᵀ v."""
    case = problems.quadratic(draw, 4, 2, condition=4.0)
    found = ctx.hypergradient(case, Neumann(num_terms=100, step_size=1.0))
    _equals_closed_form(ctx, case, found.total)


@check("Minimize", "WeightUpdate", "Neumann", "sgd")
def series_of_the_update_equals_series_of_the_gradient(ctx: Context, draw: Draw) -> None:
    """Neumann(k, 1) on u = α ∇L equals Neumann(k, α) on ∇L, for the hyperparameters of the loss."""
    case = problems.quadratic(draw, 4, 2)
    rate = {"lr": np.asarray(0.25), "momentum": np.asarray(0.0), "weight_decay": np.asarray(0.0)}
    stepped = case.with_(hparams={**case.hparams, **rate}, kind="update")
    update = ctx.hypergradient(stepped, Neumann(num_terms=4, step_size=1.0))
    gradient = ctx.hypergradient(case, Neumann(num_terms=4, step_size=0.25))
    ctx.close(
        {"shift": update.total["shift"]},
        ctx.numpy(gradient.total),
        tolerances.rtol(Neumann(num_terms=4, step_size=1.0), ctx.dtype),
        what="total",
        scale=problems.quadratic_scale(case),
    )


def _equals_closed_form(ctx: Context, case: problems.Case, total: object) -> None:
    limit = tolerances.rtol(Dense(), ctx.dtype)
    ctx.close(
        total,
        {"shift": problems.quadratic_closed_form(case.rounded(ctx.dtype))},
        limit,
        what="total",
        scale=problems.quadratic_scale(case),
    )


def _spread(ctx: Context, case: problems.Case) -> float:
    point = ctx.materialize(case)
    return float(np.linalg.norm(np.abs(point.mixed).T @ np.abs(point.outer_gradient)))
