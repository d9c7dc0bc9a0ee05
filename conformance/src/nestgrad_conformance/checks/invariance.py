"""Properties that need no oracle: what must not change a hypergradient, or changes it in a known way."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import CG, Dense, Neumann
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems.quadratic import QuadraticInner
from nestgrad_conformance.registry import check

_SERIES = Neumann(num_terms=3, step_size=0.5)


@check("Minimize", "Neumann")
def hypergradient_is_linear_in_the_outer_loss(ctx: Context, draw: Draw) -> None:
    """G(L₁ + L₂) = G(L₁) + G(L₂)."""
    case = problems.quadratic(draw, 4, 2)
    first, second = case.outer_batch, {**case.outer_batch, "Q": draw.hessian(4, 3.0), "rho": np.asarray(0.7)}
    both = {**first, "Q": first["Q"] + second["Q"], "rho": first["rho"] + second["rho"]}
    parts = [_total(ctx, case.with_(outer_batch=outer)) for outer in (first, second)]
    _close(ctx, case, _total(ctx, case.with_(outer_batch=both)), parts[0] + parts[1])


@check("Minimize", "Neumann")
def order_of_params_is_irrelevant(ctx: Context, draw: Draw) -> None:
    """Permuting the weights everywhere leaves G as it was."""
    case = problems.quadratic(draw, 4, 2)
    order = draw.rng.permutation(4)
    inner, outer = case.inner_batch, case.outer_batch
    moved = case.with_(
        params={"w": case.params["w"][order]},
        inner_batch={"H": inner["H"][np.ix_(order, order)], "c": inner["c"][order], "C": inner["C"][order]},
        outer_batch={**outer, "Q": outer["Q"][np.ix_(order, order)], "t": outer["t"][order]},
    )
    _close(ctx, case, _total(ctx, moved), _total(ctx, case))


@check("Minimize", "Neumann")
def hyperparameters_obey_the_chain_rule(ctx: Context, draw: Draw) -> None:
    """λ = Aθ gives G_θ = AᵀG_λ."""
    case = problems.quadratic(draw, 4, 2)
    case = case.with_(outer_batch={**case.outer_batch, "rho": np.asarray(0.0)})
    theta, mix = case.hparams["shift"], draw.normal(2, 2) + 2.0 * np.eye(2)
    plain = case.with_(hparams={"shift": mix @ theta})
    mixed = case.with_(inner_batch={**case.inner_batch, "C": case.inner_batch["C"] @ mix})
    _close(ctx, case, _total(ctx, mixed), mix.T @ _total(ctx, plain))


@check("Minimize", "Dense")
def params_may_be_rescaled(ctx: Context, draw: Draw) -> None:
    """w = s ⊙ z leaves the exact G unchanged."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    s = np.exp(0.5 * draw.normal(4))
    inner, outer = case.inner_batch, case.outer_batch
    scaled = case.with_(
        params={"w": case.params["w"] / s},
        inner_batch={"H": s[:, None] * inner["H"] * s, "c": s * inner["c"], "C": s[:, None] * inner["C"]},
        outer_batch={**outer, "Q": s[:, None] * outer["Q"] * s, "t": outer["t"] / s},
    )
    _close(ctx, case, _total(ctx, scaled, Dense()), _total(ctx, case, Dense()), Dense())


@check("Minimize", "Neumann")
def shared_hyperparameter_gets_the_sum(ctx: Context, draw: Draw) -> None:
    """One decay shared by all weights has the sum of the per-weight hypergradients: no mean, no single entry."""
    case = problems.ridge(draw, 3, shared=True)
    each = case.with_(hparams={"decay": np.full(3, case.hparams["decay"])})
    shared = ctx.numpy(ctx.hypergradient(case, _SERIES, throw=False).total)["decay"]
    parts = ctx.numpy(ctx.hypergradient(each, _SERIES, throw=False).total)["decay"]
    size = float(np.abs(parts).sum())
    assert abs(shared - parts.sum()) <= tolerances.rtol(_SERIES, ctx.dtype) * size, (
        f"shared {shared}, sum of parts {parts.sum()}, parts {parts}"
    )


@check("Minimize", "WeightUpdate", "Dense", "sgd")
def constant_preconditioner_changes_nothing(ctx: Context, draw: Draw) -> None:
    """F and diag(lr) F have the same exact hypergradient in the loss's hyperparameters."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    rates = {"lr": {"w": np.exp(0.5 * draw.normal(4))}}
    stepped = case.with_(hparams={**case.hparams, **rates}, kind="update")
    update = ctx.numpy(ctx.hypergradient(stepped, Dense()).total)["shift"]
    _close(ctx, case, update, _total(ctx, case, Dense()), Dense())


@check("Minimize", "Dense", "CG")
def inner_loss_may_have_any_scale(ctx: Context, draw: Draw) -> None:
    """Multiplying the inner loss by c > 0 leaves the exact G unchanged."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    factor = 10.0 ** draw.number(-3.0, 3.0, "exponent")
    scaled = case.with_(inner_batch={key: factor * value for key, value in case.inner_batch.items()})
    solver = draw.pick([Dense(), CG(rtol=0.0, max_steps=4)], "solver")
    _close(ctx, case, _total(ctx, scaled, solver), _total(ctx, case, solver), solver)


@check("Minimize", "Dense")
def equal_losses_leave_the_direct_term(ctx: Context, draw: Draw) -> None:
    """With L_out = L_in at its minimum the indirect term vanishes (Danskin)."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    case = case.with_(
        params={"w": problems.quadratic_optimum(case)}, outer_loss=QuadraticInner, outer_batch=case.inner_batch
    )
    found = ctx.hypergradient(case, Dense())
    right = -case.inner_batch["C"].T @ case.params["w"]
    size = np.abs(case.inner_batch["C"]).T @ np.abs(case.params["w"]) + np.linalg.norm(case.inner_batch["C"])
    # The optimum itself is rounded, and its error meets the condition number 5 once more.
    ctx.close(found.total, {"shift": right}, 1e-4 if ctx.dtype == "float32" else 1e-12, what="total", scale=size)


@check("WeightUpdate", "Dense", "sgd", dtypes=("float64",))
def optimizer_settings_have_no_effect_at_a_solution(ctx: Context, draw: Draw) -> None:
    """Where the gradient vanishes, ∂u/∂lr = 0: the exact hypergradient of a learning rate is zero."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    case = case.with_(
        params={"w": problems.quadratic_optimum(case)}, hparams={**case.hparams, "lr": np.asarray(0.3)}, kind="update"
    )
    rate = ctx.numpy(ctx.hypergradient(case, Dense()).total)["lr"]
    assert abs(rate) <= 1e-11, f"total['lr'] = {rate}, limit 1e-11 at a solution"


@check("Minimize", "Neumann")
def direct_term_is_the_outer_partial_derivative(ctx: Context, draw: Draw) -> None:
    """direct = ∂L_out/∂λ at the params given, whatever the solver; total = direct + indirect."""
    case = problems.tanh_network(draw)
    found = ctx.hypergradient(case, _SERIES, throw=False)
    point = ctx.materialize(case)
    limit = tolerances.rtol(_SERIES, ctx.dtype)
    ctx.close(found.direct, ctx.like(case, point.direct), limit, what="direct", scale=tolerances.direct_scale(point))
    direct, indirect, total = (ctx.numpy(x)["gain"] for x in (found.direct, found.indirect, found.total))
    error = np.abs(direct + indirect - total).max()
    assert error <= 4 * tolerances.eps(ctx.dtype) * (np.abs(direct) + np.abs(indirect)).max(), f"total off by {error}"


def _total(ctx: Context, case: problems.Case, solver: Any = _SERIES) -> np.ndarray:
    return ctx.numpy(ctx.hypergradient(case, solver).total)["shift"]


def _close(ctx: Context, case: problems.Case, found: np.ndarray, right: np.ndarray, solver: Any = _SERIES) -> None:
    inner, outer = case.inner_batch, case.outer_batch
    curvature: np.ndarray = inner["H"]
    reach = np.linalg.norm(inner["C"]) * np.linalg.norm(np.linalg.inv(curvature), 2)
    size = reach * np.linalg.norm(outer["Q"] @ (case.params["w"] - outer["t"])) + np.linalg.norm(case.hparams["shift"])
    # Both sides are computed in this dtype from separately rounded inputs: twice the tolerance of one.
    bound = 2 * tolerances.rtol(solver, ctx.dtype) * max(float(np.linalg.norm(right)), float(size))
    error = float(np.linalg.norm(found - right))
    assert error <= bound, f"error {error:.3g}, limit {bound:.3g}: got {found.tolist()}, expected {right.tolist()}"
