"""Statuses: failures are named, with a number and a remedy, and successes are not called failures."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume

from nestgrad import (
    CG,
    Dense,
    IndefiniteCurvature,
    InnerNotConverged,
    Neumann,
    NeumannDivergence,
    NonFinite,
    NotConverged,
    SingularJacobian,
    SolverError,
    Status,
)
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.registry import check


@check("Minimize", "Neumann")
def divergent_series_is_named(ctx: Context, draw: Draw) -> None:
    """A series whose terms grow raises NeumannDivergence; with throw=False it says DIVERGED."""
    levels = np.array([0.3, 0.5, 1.0, 3.0]) * draw.number(1.0, 2.0, "scale")
    case = problems.quadratic(draw, 4, 2, H=draw.symmetric(levels))
    _fails(ctx, case, Neumann(num_terms=12, step_size=1.0), NeumannDivergence, Status.DIVERGED)


@check("Minimize", "Neumann")
def convergent_series_is_not_called_divergent(ctx: Context, draw: Draw) -> None:
    """With a spectral radius of at most 0.9 the status is TRUNCATED."""
    levels = np.concatenate([draw.rng.uniform(0.1, 1.9, 3), [0.1]])
    case = problems.quadratic(draw, 4, 2, H=draw.symmetric(levels))
    found = ctx.hypergradient(case, Neumann(num_terms=draw.pick([2, 10], "terms"), step_size=1.0))
    assert found.status is Status.TRUNCATED, f"status {found.status!r}"


@check("WeightUpdate", "Neumann", "sgd")
def passing_growth_is_not_divergence(ctx: Context, draw: Draw) -> None:
    """Where J is not symmetric, DIVERGED is said exactly when the last term exceeds the one before, the first and t_m.

    By more than GROWTH_LIMIT each, with t_j = (I - aJᵀ)ʲ v, j < k, and m = (k - 1) // 2: terms may grow on the way.
    """
    case = problems.quadratic(draw, 4, 2, condition=50.0)
    curvature: np.ndarray = case.inner_batch["H"]
    rates = np.exp(2.0 * draw.normal(4))  # very unequal, so that I - J is far from normal
    largest = np.abs(np.linalg.eigvals(curvature * rates)).max()
    rates *= draw.number(1.9, 2.2, "largest eigenvalue of J") / largest  # at the edge of convergence
    case = case.with_(hparams={**case.hparams, "lr": {"w": rates}}, kind="update")
    solver = Neumann(num_terms=draw.pick([4, 8], "terms"), step_size=1.0)
    point = ctx.materialize(case)
    step = np.eye(4) - point.jacobian.T
    terms = [np.linalg.matrix_power(step, j) @ point.outer_gradient for j in range(solver.num_terms)]
    sizes = np.linalg.norm(terms, axis=1)
    ratios = sizes[-1] / sizes[[-2, 0, (solver.num_terms - 1) // 2]]
    assume(bool((np.abs(ratios - 1.0) > 1e-3).all()))  # nearer than that is a matter of rounding
    right = Status.DIVERGED if (ratios > 1.0).all() else Status.TRUNCATED
    found = ctx.hypergradient(case, solver, throw=False)
    assert found.status is right, f"status {found.status!r}, expected {right!r}: term norms {sizes.tolist()}"


@check("Minimize", "Neumann")
def stats_are_what_their_names_say(ctx: Context, draw: Draw) -> None:
    """rhs_norm |v|, residual_norm |t_{k-1}|, contraction |t_{k-1}| / |t_{k-2}|, inner_optimality |F|, steps k.

    With t_j = (I - aJᵀ)ʲ v, the terms of a series of k.
    """
    case = problems.quadratic(draw, 4, 2)
    solver = Neumann(num_terms=draw.pick([2, 5], "terms"), step_size=0.5)
    found = ctx.hypergradient(case, solver).stats
    point = ctx.materialize(case)
    step, v = np.eye(4) - 0.5 * point.jacobian, point.outer_gradient
    last, before = (np.linalg.norm(np.linalg.matrix_power(step, solver.num_terms - j) @ v) for j in (1, 2))
    right = {
        "rhs_norm": np.linalg.norm(v),
        "residual_norm": last,
        "contraction": last / before,
        "inner_optimality": np.linalg.norm(point.residual),
    }
    assert int(found.steps) == solver.num_terms, f"steps {found.steps}, expected {solver.num_terms}"
    for name, value in right.items():
        error = abs(float(getattr(found, name)) - float(value))
        # A norm of what nearly cancels keeps the rounding of the terms: measured against the norms of its parts.
        bound = 10 * tolerances.rtol(solver, ctx.dtype) * max(float(value), 0.1 * float(np.linalg.norm(v)))
        assert error <= bound, f"{name}: got {getattr(found, name)}, expected {value}"


@check("Minimize", "CG")
def indefinite_curvature_is_named(ctx: Context, draw: Draw) -> None:
    """CG on a Hessian with a negative eigenvalue raises IndefiniteCurvature."""
    case = problems.quadratic(draw, 4, 2, H=draw.symmetric(np.array([-1.0, 0.5, 1.0, 2.0])))
    solver = draw.pick([CG(rtol=1e-7, max_steps=20), CG(rtol=0.0, max_steps=20)], "solver")
    _fails(ctx, case, solver, IndefiniteCurvature, Status.INDEFINITE)


@check("Minimize", "Dense")
def singular_jacobian_is_named(ctx: Context, draw: Draw) -> None:
    """Dense on a singular Hessian raises SingularJacobian."""
    case = problems.quadratic(draw, 4, 2, H=draw.symmetric(np.array([0.0, 0.5, 1.0, 2.0])))
    _fails(ctx, case, Dense(), SingularJacobian, Status.SINGULAR)


@check("Minimize", "CG")
def flat_direction_is_named(ctx: Context, draw: Draw) -> None:
    """CG whose right-hand side lies in the null space finds curvature zero and raises SingularJacobian."""
    flat = np.diag([0.0, 0.0, 1.0, 2.0])
    case = problems.quadratic(draw, 4, 2, H=flat)
    outer = {**case.outer_batch, "Q": np.diag([1.0, 1.0, 0.0, 0.0])}
    _fails(ctx, case.with_(outer_batch=outer), CG(rtol=1e-4, max_steps=10), SingularJacobian, Status.SINGULAR)


@check("Minimize", "CG")
def unconverged_solve_is_named(ctx: Context, draw: Draw) -> None:
    """CG that runs out of steps raises NotConverged."""
    case = problems.quadratic(draw, 6, 2, condition=100.0)
    _fails(ctx, case, CG(rtol=1e-4, max_steps=2), NotConverged, Status.MAX_STEPS_REACHED)


@check("Minimize", "CG")
def converged_means_converged(ctx: Context, draw: Draw) -> None:
    """CONVERGED is said only with a residual within the tolerance, and the answer is as near as that residual says."""
    case = problems.quadratic(draw, 6, 2, condition=draw.pick([3.0, 30.0, 300.0], "condition"))
    rtol = draw.pick([1e-2, 1e-4], "rtol")
    solver = CG(rtol=rtol, max_steps=draw.pick([3, 12], "steps"))
    found = ctx.hypergradient(case, solver, throw=False)
    point = ctx.materialize(case)
    size = float(np.linalg.norm(point.outer_gradient))
    easy = solver.max_steps == 12 and np.linalg.cond(point.jacobian) < 100.0
    assert found.status is Status.CONVERGED or not easy, f"status {found.status!r} where 12 steps are plenty"
    if found.status is Status.CONVERGED:
        residual = float(found.stats.residual_norm)
        assert residual <= rtol * size * 1.001, f"residual {residual:.3g}, limit {rtol * size:.3g}"
        smallest = float(np.linalg.svd(point.jacobian, compute_uv=False)[-1])
        reach = float(np.linalg.norm(point.mixed, 2)) / smallest
        error = float(
            np.linalg.norm(ctx.numpy(found.total)["shift"] - problems.quadratic_closed_form(case.rounded(ctx.dtype)))
        )
        rounding = tolerances.rtol(solver, ctx.dtype) * reach * size
        assert error <= reach * residual + rounding, f"error {error:.3g}, limit {reach * residual + rounding:.3g}"
    else:
        assert found.status is Status.MAX_STEPS_REACHED, f"status {found.status!r}"


@check("Minimize", "CG")
def absolute_tolerance_is_in_the_units_of_the_outer_slope(ctx: Context, draw: Draw) -> None:
    """atol bounds |Jp - v| itself, for outer losses of any scale; a v within it needs no step at all."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    factor = 10.0 ** draw.number(-4.0, 3.0, "exponent")
    outer = {**case.outer_batch, "Q": factor * case.outer_batch["Q"]}
    atol = 0.01
    found = ctx.hypergradient(case.with_(outer_batch=outer), CG(rtol=0.0, atol=atol, max_steps=12))
    assert found.status is Status.CONVERGED, f"status {found.status!r}"
    residual, size = float(found.stats.residual_norm), float(found.stats.rhs_norm)
    assert residual <= atol * 1.001, f"residual {residual:.3g}, limit {atol}"
    assert int(found.stats.steps) > 0 or size <= atol * 1.001, f"0 steps for |v| = {size:.3g}, limit {atol}"
    assert size > atol or int(found.stats.steps) == 0, f"{int(found.stats.steps)} steps for |v| = {size:.3g}, limit 0"


@check("Minimize", "Neumann")
def nonfinite_loss_is_named(ctx: Context, draw: Draw) -> None:
    """A NaN in a batch raises NonFinite, whichever loss it reaches."""
    case = problems.tanh_network(draw)
    level = draw.pick(["inner_batch", "outer_batch"], "level")
    batch: tuple[np.ndarray, np.ndarray] = getattr(case, level)
    x, y = batch
    solver = draw.pick(ctx.supported([Neumann(num_terms=2, step_size=0.1), Dense()]), "solver")
    _fails(
        ctx,
        case.with_(**{level: (x, np.where(np.arange(y.size) == 1, np.nan, y))}),
        solver,
        NonFinite,
        Status.NONFINITE,
    )


@check("Minimize", "Neumann")
def unconverged_params_are_named(ctx: Context, draw: Draw) -> None:
    """|F| above inner_tol raises InnerNotConverged, with both numbers; below it nothing is raised."""
    case = problems.quadratic(draw, 4, 2)
    solver = Neumann(num_terms=2, step_size=0.5)
    with refused(InnerNotConverged, "inner_tol"):
        ctx.hypergradient(case, solver, inner_tol=1e-3)
    solved = case.with_(params={"w": problems.quadratic_optimum(case)})
    assert ctx.hypergradient(solved, solver, inner_tol=1e-3).status is Status.TRUNCATED


def _fails(ctx: Context, case: problems.Case, solver: Any, kind: type[SolverError], status: Status) -> Any:
    with refused(kind, type(solver).__name__) as caught:
        ctx.hypergradient(case, solver)
    assert caught.error.status is status, f"error says {caught.error.status!r}, expected {status!r}"
    found = ctx.hypergradient(case, solver, throw=False)
    assert found.status is status, f"status {found.status!r}, expected {status!r}"
    return found
