"""GMRES: the Arnoldi process, preconditioned from the right, started again every `restart` steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import GMRES, Status
from nestgrad_torch._solvers._common import SOLVERS, Solve, System, begin, finish, goal, of_zero


@SOLVERS.register(GMRES)
def gmres(spec: GMRES, system: System) -> Solve:
    """One product a step, one for each restart's residual, one for the recomputed one."""
    aim = goal(spec, system)
    if (zero := of_zero(system, aim)) is not None:
        return zero
    solution, residual, products = begin(system)
    steps, named, left = 0, None, float(vector_norm(residual))
    while steps < spec.max_steps and named is None and left > aim.stop:
        cycle = _Cycle(system, residual, left)
        length = spec.max_steps - steps if spec.restart is None else min(spec.restart, spec.max_steps - steps)
        while cycle.steps < length and cycle.left > aim.stop and cycle.named is None and not cycle.exhausted:
            cycle.step()
        solution = solution + cycle.correction()
        before, residual = left, system.rhs - system.apply(solution)
        left = float(vector_norm(residual))
        steps, products, named = steps + cycle.steps, products + cycle.products + 1, cycle.named
        if named is None and not left < before * (1.0 - system.noise):
            named = Status.STAGNATED  # a whole cycle has gained nothing, so the next would be the same one
    return finish(
        system,
        aim,
        solution,
        steps=steps,
        products=products,
        named=named,
        steps_left=steps < spec.max_steps,
        recomputed=left,
    )


class _Cycle:
    """One Arnoldi process from a residual, its Hessenberg matrix rotated into a triangle column by column."""

    def __init__(self, system: System, residual: Tensor, left: float) -> None:
        self.system, self.left = system, left
        self.steps = self.products = 0
        self.named: Status | None = None
        self.exhausted = False
        self._basis = [residual / left]
        self._columns: list[list[float]] = []
        self._turns: list[tuple[float, float]] = []
        self._sides = [left]
        self._size = 0.0

    def step(self) -> None:
        image = self.system.apply(self._conditioned(self._basis[-1]))
        self.products += 1
        basis = torch.stack(self._basis)
        before = float(vector_norm(image))
        along = torch.zeros(len(basis), dtype=image.dtype, device=image.device)
        for _ in range(2):  # twice is enough for orthogonality to rounding
            part = basis @ image
            image, along = image - part @ basis, along + part
        beyond = float(vector_norm(image))
        if not math.isfinite(before + beyond):
            self.named = Status.NONFINITE
            return
        self._size = max(self._size, before)
        self.exhausted = beyond <= self.system.noise * before
        column = [*along.tolist(), 0.0 if self.exhausted else beyond]
        for i, (c, s) in enumerate(self._turns):
            column[i], column[i + 1] = c * column[i] + s * column[i + 1], c * column[i + 1] - s * column[i]
        length = math.hypot(column[-2], column[-1])
        if self.exhausted and length <= self.system.noise * self._size:
            self.named = Status.SINGULAR  # the space is invariant, and A singular on it
            return
        c, s = column[-2] / length, column[-1] / length
        self._columns.append([*column[:-2], length])
        self._turns.append((c, s))
        self._sides[-1:] = [c * self._sides[-1], -s * self._sides[-1]]
        self.left = abs(self._sides[-1])
        self.steps += 1
        if not self.exhausted:
            self._basis.append(image / beyond)

    def correction(self) -> Tensor:
        """The combination of the basis that the triangle gives."""
        k = self.steps
        if not k:
            return torch.zeros_like(self.system.rhs)
        triangle = torch.zeros(k, k, dtype=torch.float64)
        for j, column in enumerate(self._columns):
            triangle[: j + 1, j] = torch.tensor(column, dtype=torch.float64)
        sides = torch.tensor(self._sides[:k], dtype=torch.float64)[:, None]
        weights = torch.linalg.solve_triangular(triangle, sides, upper=True)[:, 0]
        weights = weights.to(self.system.rhs.dtype).to(self.system.rhs.device)
        if not bool(weights.isfinite().all()):
            self.named = Status.SINGULAR
            return torch.zeros_like(self.system.rhs)
        return self._conditioned(weights @ torch.stack(self._basis[:k]))

    def _conditioned(self, vector: Tensor) -> Tensor:
        diagonal = self.system.preconditioner
        return vector if diagonal is None else diagonal * vector
