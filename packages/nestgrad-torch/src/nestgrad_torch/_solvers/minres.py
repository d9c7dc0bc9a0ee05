"""MINRES: the Lanczos process and its least-squares problem, by rotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import MINRES, Status
from nestgrad_torch._solvers._common import (
    SOLVERS,
    Solve,
    Symmetric,
    System,
    finish,
    goal,
    of_zero,
    refused_as_asymmetric,
    symmetrised,
)


@SOLVERS.register(MINRES)
def minres(spec: MINRES, system: System) -> Solve:
    """One product a step, one for the recomputed residual, three for the symmetry probe where J is no Hessian."""
    aim = goal(spec, system)
    found = symmetrised(system)
    if (refused := refused_as_asymmetric(system, found)) is not None:
        return refused
    if (zero := of_zero(system, aim)) is not None:
        return zero
    solution, residual, products = torch.zeros_like(found.rhs), found.rhs, found.products
    if found.start is not None:
        solution, residual, products = found.start, found.rhs - found.apply(found.start), products + 1
    lanczos = _Lanczos(found, solution, residual, system.noise)
    # In forward mode the residual of A is P times that of M, so the recurrence's own norm is no guide to it.
    stop = aim.stop if found.weight is None else aim.stop / float(found.weight.max())
    while lanczos.steps < spec.max_steps and abs(lanczos.left) > stop and lanczos.named is None:
        lanczos.step()
    return finish(
        system,
        aim,
        found.back(lanczos.solution),
        steps=lanczos.steps,
        products=products + lanczos.products,
        named=lanczos.named,
        steps_left=lanczos.steps < spec.max_steps,
        curvature=lanczos.smallest_ritz() * (1.0 if found.metric is None else 1.0 / float(found.metric.max())),
        asymmetry=found.defect,
    )


class _Lanczos:
    """The tridiagonal matrix's columns one by one, each rotated into the triangle of the least-squares problem."""

    def __init__(self, found: Symmetric, solution: Tensor, residual: Tensor, noise: float) -> None:
        self.apply, self.solution, self.noise = found.apply, solution, noise
        self.left = float(vector_norm(residual))
        self.steps = self.products = 0
        self.named: Status | None = None
        self._basis = residual / self.left if self.left else residual
        self._before = self._older = self._newer = torch.zeros_like(residual)
        self._beta, self._size = 0.0, 0.0
        self._turns = [(1.0, 0.0), (1.0, 0.0)]
        self._alphas: list[float] = []
        self._betas: list[float] = []

    def step(self) -> None:
        image = torch.sub(self.apply(self._basis), self._before, alpha=self._beta)
        self.products += 1
        alpha = float(self._basis.dot(image))
        image = torch.sub(image, self._basis, alpha=alpha)
        beta = float(vector_norm(image))
        if not math.isfinite(beta):
            self.named = Status.NONFINITE
            return
        self._size = max(self._size, math.hypot(self._beta, alpha, beta))
        (c_old, s_old), (c, s) = self._turns
        above, diagonal = s_old * self._beta, c * alpha - s * c_old * self._beta
        beside = s * alpha + c * c_old * self._beta
        if math.hypot(diagonal, c * beta) <= self.noise * self._size:
            self.named = Status.SINGULAR  # A times the residual is at rounding, and the residual is not
            return
        length = math.hypot(diagonal, beta)
        self._alphas.append(alpha)
        self._betas.append(beta)
        turn = (diagonal / length, beta / length)
        onward = (self._basis - beside * self._newer - above * self._older) / length
        self.solution = torch.add(self.solution, onward, alpha=turn[0] * self.left)
        self.left *= -turn[1]
        self._older, self._newer = self._newer, onward
        self._turns = [self._turns[1], turn]
        self._before, self._beta = self._basis, beta
        self.steps += 1
        if beta > self.noise * self._size * 1e-3:
            self._basis = image / beta
        elif abs(self.left) > 0.0:
            self.left = 0.0  # the Krylov space is exhausted, so this iterate is the last

    def smallest_ritz(self) -> float:
        """The smallest eigenvalue in size of the tridiagonal matrix, with its sign; NaN without a step."""
        if not self._alphas:
            return math.nan
        off = torch.tensor(self._betas[:-1], dtype=torch.float64)
        matrix = torch.diag(torch.tensor(self._alphas, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        values = torch.linalg.eigvalsh(matrix)
        return float(values[values.abs().argmin()])
