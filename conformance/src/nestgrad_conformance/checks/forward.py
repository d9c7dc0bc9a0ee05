"""Forward mode, whole Jacobians, several right-hand sides: the same derivative taken another way round."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import GMRES, Dense, Implicit, Neumann, Status, tree
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems import Case
from nestgrad_conformance.registry import check


def _any_case(draw: Draw) -> Case:
    """A problem of any kind that every solver here takes, off its solution."""
    kind = draw.pick(["minimize", "update", "update with state", "root"], "kind")
    if kind == "minimize":
        return problems.tanh_network(draw)
    if kind == "root":
        return problems.mapped(draw, 4, 2, kind="root", smooth=True)
    return problems.updated_network(draw, per_parameter=True).with_(kind=kind)


def _direction(ctx: Context, case: Case, draw: Draw) -> Any:
    return tree.map(lambda leaf: draw.normal(*np.shape(leaf)), case.hparams)


def _flat(values: Any) -> np.ndarray:
    return np.concatenate([np.reshape(leaf, -1) for leaf in tree.leaves(values)])


@check("hypergradient_jvp", "Minimize", "WeightUpdate", "Root", "Dense", "Neumann", "sgd")
def forward_mode_equals_reverse_mode(ctx: Context, draw: Draw) -> None:
    """ξᵀ(direct - Bᵀp) = directᵀξ + vᵀz with J z = -Bξ, for the exact solve and for a series of as many terms."""
    case = _any_case(draw)
    ctx.assume_conditioned(case)
    solver = draw.pick([Dense(), Neumann(num_terms=3, step_size=0.3)], "solver")
    direction = _direction(ctx, case, draw)
    backend: Any = ctx.harness.backend
    forward = backend.hypergradient_jvp(
        *ctx.point(case), ctx.arrays(direction), method=Implicit(solver=solver), throw=False, **ctx.call(case)
    )
    reverse = ctx.hypergradient(case, solver, throw=False)
    point, xi = ctx.materialize(case), ctx.seen(direction)
    matrix = np.linalg.inv(point.jacobian) if isinstance(solver, Dense) else np.eye(point.jacobian.shape[0])
    reach = np.linalg.norm(matrix, 2) * np.linalg.norm(point.mixed) * np.linalg.norm(point.outer_gradient)
    size = np.linalg.norm(_flat(xi)) * (reach + np.linalg.norm(point.direct))
    for part in ("total", "direct", "indirect"):
        right = np.asarray(ctx.flat(getattr(reverse, part), xi) @ _flat(xi))
        limit = 10 * tolerances.rtol(solver, ctx.dtype)
        ctx.close(getattr(forward, part), right, limit, what=part, scale=np.array([size]))
    ended = (Status.CONVERGED, Status.TRUNCATED, Status.DIVERGED)  # a few terms of a series are the definition
    assert Status(int(forward.status)) in ended, f"status {forward.status!r}"


@check("hypergradient_jvp", "Root", "Dense")
def forward_mode_returns_the_response(ctx: Context, draw: Draw) -> None:
    """response = dw/dλ ξ, a tree shaped like params: A⁻¹Cξ for a linear root."""
    case = problems.mapped(draw, 4, 2, kind="root")
    direction = _direction(ctx, case, draw)
    backend: Any = ctx.harness.backend
    found = backend.hypergradient_jvp(
        *ctx.point(case), ctx.arrays(direction), method=Implicit(solver=Dense()), **ctx.call(case)
    )
    seen, xi = case.rounded(ctx.dtype), ctx.seen(direction)["shift"]
    right = {"w": np.linalg.solve(seen.inner_batch["M"], seen.inner_batch["C"] @ xi)}
    size = np.linalg.norm(seen.inner_batch["C"]) * np.linalg.norm(xi)
    ctx.close(found.response, right, tolerances.rtol(Dense(), ctx.dtype), what="response", scale=5 * np.full(4, size))


@check("best_response_jacobian", "Minimize", "Root", "FixedPoint", "Dense")
def response_jacobian_equals_dense(ctx: Context, draw: Draw) -> None:
    """dw/dλ = -J⁻¹B, nested like params and then like hparams, each block of shape param.shape + hparam.shape."""
    case = draw.pick(
        [problems.tanh_network, lambda d: problems.mapped(d, 4, 3, kind="fixed point", smooth=True)], "family"
    )(draw)
    ctx.assume_conditioned(case)
    backend: Any = ctx.harness.backend
    solver = Dense()
    found = backend.best_response_jacobian(
        case.inner(ctx.harness),
        ctx.arrays(case.params),
        ctx.arrays(case.hparams),
        method=Implicit(solver=solver),
        inner_batch=ctx.arrays(case.inner_batch),
    )
    point = ctx.materialize(case)
    right = -np.linalg.solve(point.jacobian, point.mixed)
    size = np.linalg.norm(np.linalg.inv(point.jacobian), 2) * np.linalg.norm(point.mixed)
    row = 0
    for name, param in tree.named_leaves(case.params).items():
        blocks: Any = found
        for key in name.split("/") if name else []:
            blocks = blocks[int(key)] if isinstance(blocks, (list, tuple)) else blocks[key]
        column = 0
        for part, value in tree.named_leaves(case.hparams).items():
            block = right[row : row + param.size, column : column + value.size].reshape((*param.shape, *value.shape))
            array = tree.named_leaves(blocks)[part]
            limit = 10 * tolerances.rtol(solver, ctx.dtype)
            ctx.close(array, block, limit, what=f"d {name} / d {part}", scale=np.full(block.size, size))
            column += value.size
        row += param.size


@check("hypergradients", "Minimize", "Dense", "Neumann")
def several_outer_batches_give_the_single_answers(ctx: Context, draw: Draw) -> None:
    """hypergradients over outer batches equals one call a batch."""
    case = problems.tanh_network(draw)
    ctx.assume_conditioned(case)
    solver = draw.pick([Dense(), Neumann(num_terms=3, step_size=0.1)], "solver")
    others = [case.outer_batch, (draw.normal(4, 2), draw.normal(4)), (draw.normal(4, 2), draw.normal(4))]
    backend: Any = ctx.harness.backend
    found = backend.hypergradients(
        *ctx.point(case),
        method=Implicit(solver=solver),
        outer_batches=[ctx.arrays(batch) for batch in others],
        throw=False,  # three terms that grow are the method all the same
        **ctx.call(case, outer=False),
    )
    assert len(found) == len(others), f"{len(found)} results, expected {len(others)}"
    for one, batch in zip(found, others, strict=True):
        alone = ctx.hypergradient(case.with_(outer_batch=batch), solver, throw=False)
        size = float(np.abs(_flat(ctx.numpy(alone.indirect))).max() + np.abs(_flat(ctx.numpy(alone.direct))).max())
        for part in ("total", "direct", "indirect", "outer_loss"):
            right = ctx.numpy(getattr(alone, part))
            limit = 10 * tolerances.rtol(solver, ctx.dtype)
            ctx.close(getattr(one, part), right, limit, what=part, scale=np.full(_flat(right).size, size))


@check("newton_step", "Root", "Minimize", "Dense", "GMRES")
def newton_steps_solve_linear_problems_at_once(ctx: Context, draw: Draw) -> None:
    """w - J⁻¹F is the solution of a linear root and of a quadratic, and |F| is that of the point it started from."""
    kind = draw.pick(["root", "minimize"], "kind")
    case = problems.mapped(draw, 4, 2, kind="root") if kind == "root" else problems.quadratic(draw, 4, 2, condition=5.0)
    tolerance = 1e-12 if ctx.dtype == "float64" else 1e-5
    solver = draw.pick([Dense(), GMRES(rtol=tolerance, max_steps=8)], "solver")
    backend: Any = ctx.harness.backend
    params, size = backend.newton_step(
        case.inner(ctx.harness),
        ctx.arrays(case.params),
        ctx.arrays(case.hparams),
        solver=solver,
        inner_batch=ctx.arrays(case.inner_batch),
    )
    point, seen = ctx.materialize(case), case.rounded(ctx.dtype)
    right = {"w": seen.params["w"] - np.linalg.solve(point.jacobian, point.residual)}
    limit = 1e-3 if ctx.dtype == "float32" else 1e-9
    ctx.close(params, right, limit, what="params", scale=np.full(4, np.linalg.norm(seen.params["w"])))
    expected = float(np.linalg.norm(point.residual))
    assert abs(float(size) - expected) <= limit * max(1.0, expected), f"|F| {size}, expected {expected}"


@check("Minimize", "Neumann", "Dense")
def the_adjoint_explains_the_error(ctx: Context, draw: Draw) -> None:
    """With r = v - Jᵀp, the error against the exact number is BᵀJ⁻ᵀr, and indirect is -Bᵀ(adjoint)."""
    case = problems.tanh_network(draw)
    ctx.assume_conditioned(case, 100.0)
    solver = Neumann(num_terms=3, step_size=0.1)
    found = ctx.hypergradient(case, solver, throw=False)
    exact = ctx.hypergradient(case, Dense())
    point = ctx.materialize(case)
    p = ctx.flat(found.adjoint, case.params)
    ctx.equals_adjoint(case, found, point, p, 10 * tolerances.rtol(solver, ctx.dtype))
    residual = point.outer_gradient - point.jacobian.T @ p
    error = point.mixed.T @ np.linalg.solve(point.jacobian.T, residual)
    measured = ctx.flat(found.total, case.hparams) - ctx.flat(exact.total, case.hparams)
    reach = np.linalg.norm(np.linalg.inv(point.jacobian), 2) * np.linalg.norm(point.mixed)
    bound = 10 * tolerances.rtol(Dense(), ctx.dtype) * reach * np.linalg.norm(point.outer_gradient)
    assert np.linalg.norm(error - measured) <= bound, f"identity off by {np.linalg.norm(error - measured):.3g}"


@check("best_response", "grad", "Minimize", "Root", "Dense", "Neumann")
def best_responses_differentiate_to_the_hypergradient(ctx: Context, draw: Draw) -> None:
    """The gradient of outer_loss(response(λ), λ), by the framework's own autodiff, is the method's hypergradient."""
    solver = draw.pick([Dense(), Neumann(num_terms=3, step_size=0.3)], "solver")
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    if isinstance(solver, Dense) and draw.pick([True, False], "root"):
        case = problems.mapped(draw, 4, 2, kind="root")
    problem, params, hparams = ctx.point(case)
    call = ctx.call(case)
    backend: Any = ctx.harness.backend
    response = backend.best_response(lambda h, batch: params, inner=problem.inner, method=Implicit(solver=solver))
    assert ctx.harness.grad is not None
    found = ctx.harness.grad(lambda h: problem.outer_loss(response(h, call["inner_batch"]), h, call["outer_batch"]))(
        hparams
    )
    right = ctx.numpy(ctx.hypergradient(case, solver).total)
    size = float(np.abs(right["shift"]).max()) + float(np.linalg.norm(ctx.materialize(case).outer_gradient))
    limit = 10 * tolerances.rtol(solver, ctx.dtype)
    ctx.close(found, right, limit, what="gradient", scale=np.full(2, 5 * size))
