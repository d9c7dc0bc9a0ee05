"""Implicit: total = direct - Bᵀp with B and p dense."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import HyperGradient, Implicit, Stats, Status, error_for
from nestgrad_reference._derivatives import Point
from nestgrad_reference._solvers import cg, dense, identity, neumann  # noqa: F401  (fills the table)
from nestgrad_reference._solvers._common import EPS, SOLVERS
from nestgrad_reference._tree import Vector, flatten


def implicit(
    spec: Implicit, point: Point, outer: tuple[float, Vector, Vector], hparams: Any, *, throw: bool
) -> HyperGradient:
    """The hypergradient shaped like hparams; outer = (L_out, ∂L_out/∂w, ∂L_out/∂λ), the last two flat."""
    loss, rhs, direct = outer
    # A power of two: the quotient is exact, and squares neither under- nor overflow.
    scale = 2.0 ** np.frexp(np.abs(rhs).max())[1]
    solve = SOLVERS(spec.solver, point.jacobian.T, rhs / scale, point.symmetric, scale)
    indirect = -scale * (point.mixed.T @ solve.solution)
    optimality = float(np.linalg.norm(point.residual))
    stats = Stats(
        residual_norm=solve.residual_norm * scale,
        rhs_norm=float(np.linalg.norm(rhs / scale)) * scale,
        steps=solve.steps,
        products=solve.products,
        inner_optimality=optimality,
        contraction=solve.contraction,
        curvature=solve.curvature,
        asymmetry=solve.asymmetry,
        eps=EPS,
    )
    status = solve.status
    if status.ok and not np.isfinite([loss, optimality, *direct, *indirect]).all():
        status = Status.NONFINITE
    if status.ok and spec.inner_tol is not None and optimality > spec.inner_tol:
        status = Status.INNER_NOT_CONVERGED
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
    )
