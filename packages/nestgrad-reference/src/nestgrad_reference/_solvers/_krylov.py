"""Krylov spaces by orthonormal bases, and the point of one with the least residual."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import Status
from nestgrad_reference._solvers._common import EPS, Solve
from nestgrad_reference._tree import Vector


def extend(basis: np.ndarray, operator: np.ndarray, seed: Vector) -> np.ndarray | None:
    """The basis of span{seed, operator seed, …} with its next direction; None when the space is full."""
    following = seed if not basis.shape[1] else operator @ basis[:, -1]
    direction = following.copy()
    for _ in range(2):  # once leaves an error of the condition number
        direction -= basis @ (basis.T @ direction)
    left, whole = float(np.linalg.norm(direction)), float(np.linalg.norm(following))
    floor = EPS * float(np.linalg.norm(operator)) if basis.shape[1] else 0.0
    if basis.shape[1] == seed.size or left <= max(100.0 * EPS * whole, floor):
        return None
    return np.column_stack([basis, direction / left])


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """matrix · q = rhs with p = through ⊙ q; the residual in p is weights ⊙ (rhs - matrix q)."""

    matrix: np.ndarray
    rhs: Vector
    through: Vector
    weights: Vector
    asymmetry: float = math.nan

    def distance(self, q: Vector) -> float:
        """The norm of the residual of the system as it was given."""
        return float(np.linalg.norm(self.weights * (self.rhs - self.matrix @ q)))


def as_given(matrix: np.ndarray, rhs: Vector) -> System:
    """The system itself."""
    ones = np.ones_like(rhs)
    return System(matrix=matrix, rhs=rhs, through=ones, weights=ones)


def symmetrised(matrix: np.ndarray, rhs: Vector, repair: Vector | None, *, forward: bool) -> System:
    """The system with J = P M replaced by one in the symmetric M, where all of P is above 0; else as it stands.

    Jᵀp = v becomes (Jᵀ P⁻¹) q = v with p = P⁻¹ q; J z = b becomes (P⁻¹ J) z = P⁻¹ b.
    """
    ones = np.ones_like(rhs)
    through, weights = ones, ones
    if repair is not None and np.isfinite(repair).all() and (repair > 0.0).all():
        if forward:
            matrix, rhs, weights = matrix / repair[:, None], rhs / repair, repair
        else:
            matrix, through = matrix / repair, 1.0 / repair
    size = float(np.linalg.norm(matrix))
    defect = float(np.linalg.norm(matrix - matrix.T)) / (2.0 * size) if size else 0.0
    return System(matrix=matrix, rhs=rhs, through=through, weights=weights, asymmetry=defect)


def smallest_singular(matrix: np.ndarray) -> tuple[float, bool]:
    """(smallest singular value, whether it is rounding beside the largest)."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return float(values[-1]), bool(values[-1] <= len(values) * EPS * values[0])


def least_residual(
    spec: Any,
    system: System,
    scale: float,
    start: Vector,
    space: Callable[[Vector], tuple[np.ndarray, Vector]],
    *,
    preconditioner: Vector | None = None,
    objective: np.ndarray | None = None,
    restart: int | None = None,
    products: int = 1,
) -> Solve:
    """q from start + C · Krylov(operator, seed) with the least |objective (rhs - matrix q)|, a wider space each step.

    space(residual) = (operator, seed); C = diag(preconditioner); with restart a new space begins every so many steps.
    """
    matrix, rhs = system.matrix, system.rhs
    spread = np.ones_like(rhs) if preconditioner is None else preconditioner
    norm = float(np.linalg.norm(system.weights * rhs))
    limit = max(spec.rtol * norm, spec.atol / scale)
    enough = max(limit, EPS * norm)
    solution, remaining, steps, failure = start, system.distance(start), 0, None
    while remaining > enough and steps < spec.max_steps and failure is None:
        base, before, residual = solution, remaining, rhs - matrix @ solution
        operator, seed = space(residual)
        basis = np.zeros((rhs.size, 0))
        for _ in range(min(restart or spec.max_steps, spec.max_steps - steps)):
            wider = extend(basis, operator, seed)
            if wider is None:
                failure = Status.SINGULAR if smallest_singular(matrix)[1] else Status.STAGNATED
                break
            basis, steps = wider, steps + 1
            image = matrix @ (spread[:, None] * basis)
            left, right = (image, residual) if objective is None else (objective @ image, objective @ residual)
            solution = base + spread * (basis @ np.linalg.lstsq(left, right)[0])
            remaining = system.distance(solution)
            if remaining <= enough:
                break
        if restart and failure is None and basis.shape[1] == restart and remaining >= (1.0 - 10.0 * EPS) * before:
            failure = Status.STAGNATED  # the next cycle would do the same again
    return Solve(
        solution=system.through * solution,
        status=ending(spec, remaining, limit, steps, failure, settled=remaining <= 1e3 * rhs.size * EPS * norm),
        residual_norm=remaining,
        steps=steps,
        products=products * steps,
        curvature=smallest_singular(matrix)[0] if failure is Status.SINGULAR else math.nan,
    )


def ending(spec: Any, remaining: float, limit: float, steps: int, failure: Status | None, *, settled: bool) -> Status:
    """The status; `settled` says that the residual is at rounding, so that there is nothing left to fail at."""
    if not math.isfinite(remaining):
        return Status.NONFINITE
    if spec.truncated:
        failed = failure in {Status.SINGULAR, Status.BREAKDOWN} and not settled
        return failure if failed and failure is not None else Status.TRUNCATED
    if remaining <= limit:
        return Status.CONVERGED
    if failure is not None:
        return failure
    return Status.MAX_STEPS_REACHED if steps >= spec.max_steps else Status.STAGNATED
