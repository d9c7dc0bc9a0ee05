"""Krylov solvers and random ones: each is its own definition, and says truthfully how it ended."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import assume

from nestgrad import (
    CG,
    GMRES,
    LSMR,
    MINRES,
    BiCGSTAB,
    Dense,
    Neumann,
    NormalCG,
    NotSymmetric,
    Nystrom,
    RandomNeumann,
    Status,
)
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.registry import check

_GENERAL = (NormalCG, LSMR, GMRES, BiCGSTAB)


def _tolerance(ctx: Context) -> float:
    return 1e-10 if ctx.dtype == "float64" else 1e-4


@check("Minimize", "MINRES")
def minres_without_tolerance_is_the_krylov_iterate(ctx: Context, draw: Draw) -> None:
    """MINRES(0, k) is argmin |Jp - v| over the k-dimensional Krylov space, for an indefinite J too."""
    levels = draw.pick([np.array([0.3, 0.5, 0.8, 1.0, 1.3]), np.array([-1.0, -0.4, 0.5, 0.9, 1.2])], "eigenvalues")
    case = problems.quadratic(draw, 5, 2, H=draw.symmetric(levels))
    ctx.agree(case, MINRES(rtol=0.0, max_steps=draw.pick([1, 2, 3], "steps")))


@check("Root", "NormalCG")
def normal_cg_without_tolerance_is_the_krylov_iterate(ctx: Context, draw: Draw) -> None:
    """NormalCG(0, k) is argmin |Jᵀp - v| over Krylov(J Jᵀ, J v), with J and its transpose in their places."""
    ctx.agree(problems.mapped(draw, 5, 2, kind="root"), NormalCG(rtol=0.0, max_steps=draw.pick([1, 2, 3], "steps")))


@check("Root", "LSMR")
def lsmr_without_tolerance_is_the_krylov_iterate(ctx: Context, draw: Draw) -> None:
    """LSMR(0, k) is argmin |J(Jᵀp - v)| over the same space."""
    ctx.agree(problems.mapped(draw, 5, 2, kind="root"), LSMR(rtol=0.0, max_steps=draw.pick([1, 2, 3], "steps")))


@check("Root", "GMRES")
def gmres_without_tolerance_is_the_krylov_iterate(ctx: Context, draw: Draw) -> None:
    """GMRES(0, k) is argmin |Jᵀp - v| over span{v, Jᵀv, …}, begun again every `restart` steps."""
    steps, restart = draw.pick([(1, None), (2, None), (3, None), (4, 2), (3, 1)], "steps, restart")
    ctx.agree(problems.mapped(draw, 5, 2, kind="root"), GMRES(rtol=0.0, max_steps=steps, restart=restart))


@check("Root", "BiCGSTAB")
def bicgstab_without_tolerance_is_its_recurrence(ctx: Context, draw: Draw) -> None:
    """BiCGSTAB(0, k) is the k-th iterate of its recurrence with the first residual as shadow."""
    matrix = np.eye(5) + 0.4 * problems.contraction(draw, 5)  # near the identity, so that it does not break down
    case = problems.mapped(draw, 5, 2, kind="root", matrix=matrix)
    ctx.agree(case, BiCGSTAB(rtol=0.0, max_steps=draw.pick([1, 2], "steps")))


@check("Root", "Dense", "NormalCG", "LSMR", "GMRES", "BiCGSTAB")
def solvers_with_a_tolerance_equal_dense(ctx: Context, draw: Draw) -> None:
    """Every solver for any J that says CONVERGED gives the dense answer on a J that is not symmetric."""
    matrix = np.eye(6) + 0.5 * problems.contraction(draw, 6)
    case = problems.mapped(draw, 6, 2, kind="root", matrix=matrix)
    ctx.assume_conditioned(case, 20.0)
    solver = draw.pick(_GENERAL, "solver")(rtol=_tolerance(ctx), max_steps=40)
    found = ctx.hypergradient(case, solver)
    assert found.status is Status.CONVERGED, f"status {found.status!r}"
    scale = problems.mapped_scale(case)
    right = {"shift": problems.mapped_closed_form(case.rounded(ctx.dtype))}
    ctx.close(found.total, right, 100 * _tolerance(ctx), what="total", scale=scale)


@check("Minimize", "MINRES")
def minres_solves_indefinite_problems(ctx: Context, draw: Draw) -> None:
    """MINRES with a tolerance equals the closed form where the Hessian has negative eigenvalues."""
    levels = np.array([-1.0, -0.5, 0.4, 0.7, 1.0, 1.5])
    case = problems.quadratic(draw, 6, 2, H=draw.symmetric(levels))
    found = ctx.hypergradient(case, MINRES(rtol=_tolerance(ctx), max_steps=40))
    assert found.status is Status.CONVERGED, f"status {found.status!r}"
    right = {"shift": problems.quadratic_closed_form(case.rounded(ctx.dtype))}
    ctx.close(found.total, right, 100 * _tolerance(ctx), what="total", scale=3 * problems.quadratic_scale(case))


@check("WeightUpdate", "CG", "MINRES", "sgd")
def rates_of_their_own_are_repaired(ctx: Context, draw: Draw) -> None:
    """With J = P M, M symmetric, CG and MINRES solve M q = v and divide by P: iterates and solution."""
    case = problems.updated(draw, problems.quadratic(draw, 5, 2, condition=5.0), per_parameter=True)
    kind = draw.pick([CG, MINRES], "solver")
    ctx.agree(case, kind(rtol=0.0, max_steps=draw.pick([1, 3], "steps")))
    found = ctx.hypergradient(case, kind(rtol=_tolerance(ctx), max_steps=60))
    point = ctx.materialize(case)
    p = np.linalg.solve(point.jacobian.T, point.outer_gradient)
    ctx.equals_adjoint(case, found, point, p, 300 * _tolerance(ctx))


@check("Root", "CG", "MINRES")
def asymmetric_roots_are_named(ctx: Context, draw: Draw) -> None:
    """CG and MINRES on a Root whose J is not symmetric raise NotSymmetric and give no number."""
    case = problems.mapped(draw, 4, 2, kind="root")
    solver = draw.pick([CG, MINRES], "solver")(rtol=1e-3, max_steps=20)
    with refused(NotSymmetric, type(solver).__name__):
        ctx.hypergradient(case, solver)
    found = ctx.hypergradient(case, solver, throw=False)
    assert found.status is Status.NOT_SYMMETRIC, f"status {found.status!r}"
    assert np.isnan(ctx.numpy(found.indirect)["shift"]).all(), f"indirect {found.indirect} looks like an answer"


@check("Root", "NormalCG", "LSMR", "GMRES", "BiCGSTAB", "MINRES", "CG")
def converged_is_never_said_without_the_residual(ctx: Context, draw: Draw) -> None:
    """CONVERGED means a recomputed |Jᵀp - v| within the tolerance; a singular or short solve is called otherwise."""
    kind = draw.pick([*_GENERAL, MINRES, CG], "solver")
    singular = draw.pick([True, False], "singular")
    solver = kind(rtol=draw.pick([1e-2, 1e-4], "rtol"), max_steps=draw.pick([2, 20], "steps"))
    if kind in (MINRES, CG):
        levels = np.array([0.0 if singular else 0.05, 0.1, 0.5, 1.0, 2.0])
        case = problems.quadratic(draw, 5, 2, H=draw.symmetric(levels))
    else:
        matrix = problems.well_conditioned(draw, 5, 20.0)
        matrix[-1] = matrix[0] if singular else matrix[-1]
        case = problems.mapped(draw, 5, 2, kind="root", matrix=matrix)
    found = ctx.hypergradient(case, solver, throw=False)
    point = ctx.materialize(case)
    v = point.outer_gradient
    p = ctx.flat(found.adjoint, case.params)
    residual = float(np.linalg.norm(point.jacobian.T @ p - v))
    if found.status is Status.CONVERGED:
        rounding = 100 * tolerances.eps(ctx.dtype) * np.linalg.norm(point.jacobian) * np.linalg.norm(p)
        bound = solver.rtol * np.linalg.norm(v) + rounding
        assert residual <= 1.001 * bound, f"CONVERGED with residual {residual:.3g}, limit {bound:.3g}"
    else:
        named = {
            Status.SINGULAR,
            Status.STAGNATED,
            Status.MAX_STEPS_REACHED,
            Status.BREAKDOWN,
            Status.INDEFINITE,
        }
        assert found.status in named, f"status {found.status!r}"
    if singular and solver.rtol * np.linalg.norm(v) < 0.5 * _unreachable(point.jacobian.T, v):
        assert found.status is not Status.CONVERGED, "a singular Jacobian went unnamed"


def _unreachable(matrix: np.ndarray, v: np.ndarray) -> float:
    """|v - Jᵀp| at its least."""
    return float(np.linalg.norm(v - matrix @ np.linalg.lstsq(matrix, v, rcond=1e-7)[0]))


@check("Minimize", "MINRES", "GMRES", "LSMR", "NormalCG")
def residuals_never_grow(ctx: Context, draw: Draw) -> None:
    """One step more of a least-residual method never leaves a larger residual."""
    case = problems.quadratic(draw, 6, 2, condition=50.0)
    kind = draw.pick([MINRES, GMRES, NormalCG], "solver")
    sizes = [
        float(ctx.hypergradient(case, kind(rtol=0.0, max_steps=steps), throw=False).stats.residual_norm)
        for steps in (1, 2, 4)
    ]
    slack = 1e-4 if ctx.dtype == "float32" else 1e-9
    assert (
        sizes == sorted(sizes, reverse=True)
        or max(later - earlier for earlier, later in itertools.pairwise(sizes)) <= slack * sizes[0]
    ), f"residual norms {sizes}"


@check("Root", "NormalCG", "LSMR", "GMRES", "BiCGSTAB")
def zero_slopes_give_zero_with_any_solver(ctx: Context, draw: Draw) -> None:
    """v = 0 gives an indirect term of exactly zero and no NaN, with a tolerance and without."""
    case = problems.mapped(draw, 4, 2, kind="root")
    case = case.with_(outer_batch={**case.outer_batch, "t": case.params["w"]})
    kind = draw.pick(_GENERAL, "solver")
    for solver in (kind(rtol=1e-6, max_steps=5), kind(rtol=0.0, max_steps=3)):
        found = ctx.hypergradient(case, solver)
        assert not np.any(ctx.numpy(found.indirect)["shift"]), f"{solver}: indirect {found.indirect}, limit exactly 0"


@check("Root", "NormalCG", "LSMR", "GMRES", "BiCGSTAB", "Nystrom", "RandomNeumann", "MINRES")
def any_solver_takes_any_scale_of_the_outer_loss(ctx: Context, draw: Draw) -> None:
    """G(c L_out) = c G(L_out) for c from 1e-20 to 1e20."""
    factor = np.float64(np.asarray(10.0 ** draw.number(-20.0, 20.0, "exponent"), ctx.dtype))
    tolerance = 1e-8 if ctx.dtype == "float64" else 1e-5
    solver: Any = draw.pick(
        [*(kind(rtol=tolerance, max_steps=30) for kind in (*_GENERAL, MINRES)), Nystrom(rank=2, damping=0.3)],
        "solver",
    )
    extras: dict[str, Any] = {"key": 3} if isinstance(solver, Nystrom) else {}
    case = problems.quadratic(draw, 4, 2, condition=3.0)
    plain = ctx.numpy(ctx.hypergradient(case, solver, throw=False, **extras).total)["shift"]
    outer = {**case.outer_batch, "Q": factor * case.outer_batch["Q"], "rho": factor * case.outer_batch["rho"]}
    scaled = ctx.hypergradient(case.with_(outer_batch=outer), solver, throw=False, **extras)
    limit = 1e-3 if ctx.dtype == "float32" else 1e-6
    ctx.close(
        scaled.total, {"shift": factor * plain}, limit, what="total", scale=factor * problems.quadratic_scale(case)
    )


@check("Minimize", "Nystrom")
def nystrom_equals_its_definition(ctx: Context, draw: Draw) -> None:
    """Nystrom(k, ρ) is (C M⁺ Cᵀ + ρI)⁻¹ v for k of the Hessian's columns, and other keys take other columns."""
    case = problems.quadratic(draw, 5, 2, condition=5.0)
    point, rho = ctx.materialize(case), 0.3
    seen = set()
    for key in range(4):
        found = ctx.hypergradient(case, Nystrom(rank=2, damping=rho), key=key)
        p = ctx.flat(found.adjoint, case.params)
        choices = {
            columns: np.linalg.solve(
                point.jacobian[:, columns]
                @ np.linalg.pinv(point.jacobian[np.ix_(columns, columns)])
                @ point.jacobian[columns, :]
                + rho * np.eye(5),
                point.outer_gradient,
            )
            for columns in itertools.combinations(range(5), 2)
        }
        size = float(np.linalg.norm(point.outer_gradient)) / rho
        errors = {columns: float(np.linalg.norm(p - right)) / size for columns, right in choices.items()}
        nearest = min(errors, key=errors.__getitem__)
        limit = tolerances.rtol(Dense(), ctx.dtype)
        assert errors[nearest] <= limit, f"key {key}: error {errors[nearest]:.3g} for {nearest}, limit {limit:g}"
        ctx.equals_adjoint(case, found, point, choices[nearest], 10 * limit)
        seen.add(nearest)
    assert len(seen) > 1, f"4 keys drew the same columns {seen}"


@check("Minimize", "Nystrom")
def nystrom_of_full_rank_is_the_damped_solve(ctx: Context, draw: Draw) -> None:
    """All columns, or as many as the Hessian's rank, give (J + ρI)⁻¹ v."""
    low = draw.pick([True, False], "low rank")
    levels = np.array([0.0, 0.0, 0.0, 0.7, 1.5]) if low else np.geomspace(0.2, 1.0, 5)
    case = problems.quadratic(draw, 5, 2, H=draw.symmetric(levels))
    found = ctx.hypergradient(case, Nystrom(rank=2 if low else 5, damping=0.2), key=draw.pick([0, 1, 7], "key"))
    point = ctx.materialize(case)
    if low:  # two columns whose own block is far from singular
        curvature = point.jacobian
        worst = min(
            float(np.linalg.svd(curvature[np.ix_(pair, pair)], compute_uv=False)[-1])
            for pair in itertools.combinations(range(5), 2)
        )
        assume(worst > (1e-2 if ctx.dtype == "float32" else 1e-4))
    p = np.linalg.solve(point.jacobian.T + 0.2 * np.eye(5), point.outer_gradient)
    ctx.equals_adjoint(case, found, point, p, 1e-2 if ctx.dtype == "float32" else 1e-7)


@check("WeightUpdate", "RandomNeumann", "sgd")
def random_term_has_the_series_as_its_mean(ctx: Context, draw: Draw) -> None:
    """RandomNeumann(k, a) is k a (I - a Jᵀ)ᵐ v for some m below k, m = steps - 1, and other keys take other m."""
    case = problems.updated_network(draw, per_parameter=True)
    point, spec = ctx.materialize(case), RandomNeumann(num_terms=4, step_size=0.7)
    seen = set()
    for key in range(6):
        found = ctx.hypergradient(case, spec, throw=False, key=key)
        m = int(found.stats.steps) - 1
        assert 0 <= m < 4, f"steps {m + 1}, limit 1 to 4"
        power = np.linalg.matrix_power(np.eye(point.outer_gradient.size) - 0.7 * point.jacobian.T, m)
        ctx.equals_adjoint(case, found, point, 4 * 0.7 * power @ point.outer_gradient, tolerances.rtol(spec, ctx.dtype))
        seen.add(m)
    assert len(seen) > 1, f"6 keys drew the same m {seen}"


@check("Root", "NormalCG", "LSMR", "GMRES", "BiCGSTAB")
def warm_starts_change_the_steps_and_not_the_answer(ctx: Context, draw: Draw) -> None:
    """From a neighbour's adjoint a solve ends at the same solution; from the solution itself it takes no step."""
    matrix = np.eye(5) + 0.4 * problems.contraction(draw, 5)
    case = problems.mapped(draw, 5, 2, kind="root", matrix=matrix)
    ctx.assume_conditioned(case, 20.0)
    _warm(ctx, case, draw.pick(_GENERAL, "solver"), problems.mapped_closed_form, problems.mapped_scale(case))


@check("Minimize", "CG", "MINRES")
def symmetric_solvers_take_warm_starts(ctx: Context, draw: Draw) -> None:
    """The same for CG and MINRES."""
    case = problems.quadratic(draw, 5, 2, condition=5.0)
    kind = draw.pick([CG, MINRES], "solver")
    _warm(ctx, case, kind, problems.quadratic_closed_form, problems.quadratic_scale(case))


def _warm(ctx: Context, case: problems.Case, kind: Any, closed_form: Any, scale: Any) -> None:
    solver = kind(rtol=_tolerance(ctx), max_steps=40)
    neighbour = case.with_(outer_batch={**case.outer_batch, "t": case.outer_batch["t"] + 0.1})
    start = ctx.numpy(ctx.hypergradient(neighbour, solver).adjoint)
    found = ctx.hypergradient(case, solver, warm_start=start)
    right = {"shift": closed_form(case.rounded(ctx.dtype))}
    ctx.close(found.total, right, 300 * _tolerance(ctx), what="total", scale=scale)
    loose = kind(rtol=10 * _tolerance(ctx), max_steps=40)
    again = ctx.hypergradient(case, loose, warm_start=ctx.numpy(found.adjoint))
    assert int(again.stats.steps) == 0, f"{int(again.stats.steps)} steps from the solution, limit 0"
    ctx.close(again.total, ctx.numpy(found.total), 100 * tolerances.eps(ctx.dtype), what="total", scale=scale)


@check("Minimize", "CG", "GMRES", "BiCGSTAB")
def preconditioners_change_the_steps_and_not_the_answer(ctx: Context, draw: Draw) -> None:
    """With the inverse of a diagonal J as preconditioner one step is enough; with any other the answer is the same."""
    kind = draw.pick([CG, GMRES, BiCGSTAB], "solver")
    curvature = np.exp(draw.normal(4))
    case = problems.quadratic(draw, 4, 2, H=np.diag(curvature))
    solver = kind(rtol=_tolerance(ctx), max_steps=40)
    found = ctx.hypergradient(case, solver, throw=False, preconditioner={"w": 1.0 / curvature})
    right = {"shift": problems.quadratic_closed_form(case.rounded(ctx.dtype))}
    scale = problems.quadratic_scale(case)
    ctx.close(found.total, right, 300 * _tolerance(ctx), what="total", scale=scale)
    assert int(found.stats.steps) <= 2, f"{int(found.stats.steps)} steps with the exact inverse, limit 2"
    other = ctx.hypergradient(case, solver, preconditioner={"w": np.exp(0.5 * draw.normal(4))})
    ctx.close(other.total, right, 300 * _tolerance(ctx), what="total", scale=scale)


@check("Root", "Neumann")
def preconditioned_series_equal_their_definition(ctx: Context, draw: Draw) -> None:
    """Neumann with a diagonal P is Σ_{j<k} (I - a P Jᵀ)ʲ a P v: the factors in this order."""
    matrix = np.eye(4) + 0.5 * problems.contraction(draw, 4)
    case = problems.mapped(draw, 4, 2, kind="root", matrix=matrix)
    scales, k, a = np.exp(0.5 * draw.normal(4)), draw.pick([1, 2, 5], "terms"), 0.6
    found = ctx.hypergradient(case, Neumann(num_terms=k, step_size=a), throw=False, preconditioner={"w": scales})
    point = ctx.materialize(case)
    inverse = np.diag(ctx.seen(scales))
    step = np.eye(4) - a * inverse @ point.jacobian.T
    p = sum(np.linalg.matrix_power(step, j) for j in range(k)) @ (a * inverse @ point.outer_gradient)
    ctx.equals_adjoint(case, found, point, p, tolerances.rtol(Neumann(num_terms=k, step_size=a), ctx.dtype))


@check("Minimize", "Dense", "CG", "Neumann")
def damping_is_part_of_the_operator(ctx: Context, draw: Draw) -> None:
    """Implicit(damping=δ) solves (J + δI)ᵀp = v, with every solver."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    solver = draw.pick([Dense(), CG(rtol=0.0, max_steps=2), Neumann(num_terms=3, step_size=0.4)], "solver")
    ctx.agree(case, solver, damping=draw.pick([0.1, 1.0], "damping"))


@check("Minimize", "Dense")
def damping_gives_the_proximal_meta_gradient(ctx: Context, draw: Draw) -> None:
    """With ½δ|w - λ|² in the inner loss, G = (I + H/δ)⁻¹ g: the damped solve of the undamped problem, times δ."""
    case, delta = problems.quadratic(draw, 4, 4, condition=5.0), 0.7
    batch = {**case.inner_batch, "C": delta * np.eye(4)}
    outer = {**case.outer_batch, "rho": np.asarray(0.0)}
    found = ctx.hypergradient(case.with_(inner_batch=batch, outer_batch=outer), Dense(), damping=delta)
    seen = case.with_(inner_batch=batch, outer_batch=outer).rounded(ctx.dtype)
    slope = seen.outer_batch["Q"] @ (seen.params["w"] - seen.outer_batch["t"])
    curvature: np.ndarray = seen.inner_batch["H"]
    right = np.linalg.solve(np.eye(4) + curvature / delta, slope)
    limit = tolerances.rtol(Dense(), ctx.dtype)
    ctx.close(found.total, {"shift": right}, limit, what="total", scale=np.full(4, np.linalg.norm(slope)))
