"""BiCGSTAB: the recurrence of van der Vorst 1992, sec. 3, preconditioned from the right."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import BiCGSTAB, Status
from nestgrad_torch._solvers._common import SOLVERS, Goal, Solve, System, begin, finish, goal, of_zero


@SOLVERS.register(BiCGSTAB)
def bicgstab(spec: BiCGSTAB, system: System) -> Solve:
    """Two products a step, one for the recomputed residual, one for a warm start."""
    aim = goal(spec, system)
    if (zero := of_zero(system, aim)) is not None:
        return zero
    solution, residual, products = begin(system)
    run = _Run(system, aim, solution, residual)
    while run.steps < spec.max_steps and run.left > aim.stop and run.named is None:
        run.step()
    return finish(
        system,
        aim,
        run.solution,
        steps=run.steps,
        products=products + run.products,
        named=run.named,
        steps_left=run.steps < spec.max_steps,
    )


class _Run:
    """The seven vectors and four scalars of the recurrence."""

    def __init__(self, system: System, aim: Goal, solution: Tensor, residual: Tensor) -> None:
        self.system, self.aim, self.solution, self.residual = system, aim, solution, residual
        self.left = float(vector_norm(residual))
        self.steps = self.products = 0
        self.named: Status | None = None
        self._shadow, self._shadow_size = residual, self.left
        self._rho = self._alpha = self._omega = 1.0
        self._image = self._direction = torch.zeros_like(residual)

    def step(self) -> None:
        rho = float(self._shadow.dot(self.residual))
        if abs(rho) <= self.system.eps * self._shadow_size * self.left:
            self.named = Status.BREAKDOWN
            return
        beta = (rho / self._rho) * (self._alpha / self._omega)
        self._direction = self.residual + beta * (self._direction - self._omega * self._image)
        direction = self._conditioned(self._direction)
        self._image = self.system.apply(direction)
        self.products += 1
        along = float(self._shadow.dot(self._image))
        if not abs(along) > self.system.eps * self._shadow_size * float(vector_norm(self._image)):
            self.named = Status.BREAKDOWN if math.isfinite(along) else Status.NONFINITE
            return
        self._rho, self._alpha = rho, rho / along
        half = torch.sub(self.residual, self._image, alpha=self._alpha)
        self.solution = torch.add(self.solution, direction, alpha=self._alpha)
        self.steps += 1
        self.left, self.residual = float(vector_norm(half)), half
        if self.left > self.aim.stop:
            self._stabilise(half)

    def _stabilise(self, half: Tensor) -> None:
        """The step along the half residual that makes it least."""
        direction = self._conditioned(half)
        image = self.system.apply(direction)
        self.products += 1
        size = float(vector_norm(image))
        overlap = float(image.dot(half))
        if not math.isfinite(overlap):
            self.named = Status.NONFINITE
            return
        if abs(overlap) <= self.system.eps * size * self.left:
            self.named = Status.BREAKDOWN
            return
        self._omega = overlap / size**2
        self.solution = torch.add(self.solution, direction, alpha=self._omega)
        self.residual = torch.sub(half, image, alpha=self._omega)
        self.left = float(vector_norm(self.residual))

    def _conditioned(self, vector: Tensor) -> Tensor:
        diagonal = self.system.preconditioner
        return vector if diagonal is None else diagonal * vector
