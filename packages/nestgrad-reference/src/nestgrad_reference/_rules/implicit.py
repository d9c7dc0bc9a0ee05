"""Implicit: total = direct - Bᵀp with B and p dense; and the same response in forward mode."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import HyperGradient, Implicit, InvalidInput, Stats, Status, error_for, tree
from nestgrad_reference._derivatives import Point
from nestgrad_reference._solvers import (  # noqa: F401  (fills the table)
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
from nestgrad_reference._solvers._common import EPS, SOLVERS, Extras, Solve
from nestgrad_reference._tree import Vector, concatenate, flatten, shaped, spread


def implicit(
    spec: Implicit,
    point: Point,
    outer: tuple[float, Vector, Vector],
    hparams: Any,
    *,
    throw: bool,
    warm_start: Any = None,
    preconditioner: Any = None,
    key: Any = None,
) -> HyperGradient:
    """The hypergradient shaped like hparams; outer = (L_out, ∂L_out/∂w, ∂L_out/∂λ), the last two flat."""
    loss, rhs, direct = outer
    rhs = np.append(rhs, np.zeros(point.residual.size - rhs.size))  # the outer loss does not see the optimizer's state
    scale, extras = scale_of(rhs), extras_of(point, warm_start, preconditioner, key)
    matrix = damped(point.jacobian.T, spec)
    solve = SOLVERS(spec.solver, matrix, rhs / scale, point.symmetric, scale, extras.divided(scale))
    indirect = -scale * (point.mixed.T @ solve.solution)
    stats = stats_of(point, solve, rhs, scale, indirect)
    status = status_of(spec, point, solve.status, [loss, *direct, *indirect])
    if throw and not status.ok:
        raise error_for(status, spec, stats)
    _, restore = flatten(hparams)
    return HyperGradient(
        total=restore(direct + indirect),
        direct=restore(direct),
        indirect=restore(indirect),
        outer_loss=np.asarray(loss),
        status=status,
        stats=stats,
        adjoint=point.carried.as_tree(scale * solve.solution),
    )


def damped(matrix: np.ndarray, spec: Implicit) -> np.ndarray:
    """The matrix that the solver is given: J or its transpose, plus δI."""
    return matrix + spec.damping * np.eye(len(matrix)) if spec.damping else matrix


def scale_of(rhs: Vector) -> float:
    """A power of two near the largest entry: the quotient is exact, and squares neither under- nor overflow."""
    largest = np.abs(rhs).max()
    return 2.0 ** int(np.frexp(largest)[1]) if np.isfinite(largest) else 1.0


def extras_of(point: Point, warm_start: Any, preconditioner: Any, key: Any, *, forward: bool = False) -> Extras:
    """The call's additions as vectors."""
    return Extras(
        start=None if warm_start is None else point.carried.as_vector(warm_start, "warm_start"),
        preconditioner=None if preconditioner is None else _positive(point, preconditioner),
        key=key,
        repair=point.repair,
        forward=forward,
    )


def _positive(point: Point, preconditioner: Any) -> Vector:
    """The diagonal as a vector, ones for carried state; InvalidInput unless it is like params and above 0."""
    params = point.carried.params
    leaves = shaped(params, spread(preconditioner, params), "preconditioner", broadcast=True)
    filled = tree.map(
        lambda p, c: np.broadcast_to(np.asarray(c, np.float64), p.shape), params, tree.unflatten(params, leaves)
    )
    for name, leaf in tree.named_leaves(filled).items():
        if not (np.isfinite(leaf).all() and (leaf > 0.0).all()):
            raise InvalidInput(
                f"preconditioner[{name!r}]: smallest entry {leaf.min():g}, limit: finite and above 0. "
                "Remedy: pass a tree like params of positive numbers."
            )
    diagonal = np.asarray(concatenate(filled))
    return np.append(diagonal, np.ones(point.residual.size - diagonal.size))


def stats_of(point: Point, solve: Solve, rhs: Vector, scale: float, indirect: Any) -> Stats:
    """The numbers of one solve, in the units of rhs."""
    return Stats(
        residual_norm=solve.residual_norm * scale,
        rhs_norm=float(np.linalg.norm(rhs / scale)) * scale,
        adjoint_norm=float(np.linalg.norm(solve.solution)) * scale,
        indirect_norm=float(np.linalg.norm(np.atleast_1d(indirect) / scale)) * scale,
        steps=solve.steps,
        products=solve.products,
        inner_optimality=float(np.linalg.norm(point.residual)),
        params_norm=float(np.linalg.norm(point.carried.vector[: point.carried.weights])),
        contraction=solve.contraction,
        curvature=solve.curvature,
        asymmetry=solve.asymmetry,
        kink_distance=point.kink_distance,
        eps=EPS,
    )


def status_of(spec: Implicit, point: Point, status: Status, numbers: list[Any]) -> Status:
    """The solver's status, unless the point or the numbers say worse."""
    optimality = float(np.linalg.norm(point.residual))
    if status.ok and not np.isfinite([optimality, *numbers]).all():
        return Status.NONFINITE
    if status.ok and spec.inner_tol is not None and optimality > spec.inner_tol:
        return Status.INNER_NOT_CONVERGED
    if status.ok and point.kink_distance <= point.kink_limit:
        return Status.NEAR_KINK
    return status
