"""CG: conjugate gradients, every scalar on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import CG, Status
from nestgrad_torch._solvers._common import SOLVERS, Solve, Symmetric, System, refused_as_asymmetric, symmetrised

_CHECK_EVERY_ON_ACCELERATOR = 10
"""Steps between looks at the stopping flag where a look stalls the device; steps past the end change nothing."""


@SOLVERS.register(CG)
def cg(spec: CG, system: System) -> Solve:
    """One product a step, one for the recomputed residual, three for the symmetry probe where J is no Hessian.

    A warm start takes one more. Where the update's diagonal repairs J, the iterates are those of M q = v.
    """
    found = symmetrised(system)
    if (refused := refused_as_asymmetric(system, found)) is not None:
        return refused
    run = _Run(spec, system, found)
    run.go(spec.max_steps)
    return run.answer()


class _Run:
    """The state of one conjugate gradient run; once `active` is false a step changes nothing."""

    def __init__(self, spec: CG, system: System, found: Symmetric) -> None:
        self.spec, self.system, self.found = spec, system, found
        rhs, eps = found.rhs, system.eps
        norm = vector_norm(system.rhs)
        self.limit = torch.clamp(spec.rtol * norm, min=spec.atol / system.scale)
        self.target = torch.maximum(self.limit, eps * norm)
        self.products = found.products
        self.solution, self.residual = torch.zeros_like(rhs), rhs
        if found.start is not None:
            # Zero has zero for its answer, from wherever one sets out.
            self.solution = torch.where(norm > 0.0, found.start, 0.0)
            self.residual = rhs - found.apply(self.solution)
            self.products += 1
        self.direction = self._conditioned(self.residual)
        self.squared = self.residual.dot(self.direction)
        self.active = self._above()
        self.flat = torch.zeros((), dtype=torch.bool, device=rhs.device)
        self.negative = self.flat.clone()
        self.steps = torch.zeros((), dtype=torch.int64, device=rhs.device)
        self.largest, self.smallest = torch.zeros_like(norm), torch.full_like(norm, math.inf)

    def go(self, max_steps: int) -> None:
        patience = 1 if self.residual.device.type == "cpu" else _CHECK_EVERY_ON_ACCELERATOR
        for step in range(max_steps):
            if step % patience == 0 and not bool(self.active):
                break
            self._step()

    def _step(self) -> None:
        image = self.found.apply(self.direction)
        self.products += 1
        energy = self.direction.dot(image)
        self._watch(energy)
        self.steps = self.steps + self.active
        length = torch.where(self.active, self.squared / energy, 0.0)
        self.solution = self.solution + length * self.direction
        self.residual = self.residual - length * torch.where(self.active, image, 0.0)
        conditioned = self._conditioned(self.residual)
        following = self.residual.dot(conditioned)
        onward = conditioned + (following / self.squared) * self.direction
        self.direction = torch.where(self.active, onward, self.direction)
        self.squared = torch.where(self.active, following, self.squared)
        self.active = self.active & self._above()

    def _watch(self, energy: Tensor) -> None:
        """Note the curvature along the direction; stop before a step along a flat or negative one."""
        metric, noise = self.found.metric, self.system.noise
        size = self.direction.dot(self.direction if metric is None else metric * self.direction)
        curvature = energy / size
        self.smallest = torch.where(self.active, torch.minimum(self.smallest, curvature), self.smallest)
        self.largest = torch.where(self.active, torch.maximum(self.largest, curvature.abs()), self.largest)
        self.negative = self.negative | (self.active & (curvature < -noise * self.largest))
        self.flat = self.flat | (self.active & (curvature.abs() <= noise * self.largest))
        self.active = self.active & ~self.negative & ~self.flat

    def _conditioned(self, residual: Tensor) -> Tensor:
        diagonal = self.system.preconditioner
        return residual if diagonal is None else diagonal * residual

    def _above(self) -> Tensor:
        weight = self.found.weight
        return vector_norm(self.residual if weight is None else weight * self.residual) > self.target

    def answer(self) -> Solve:
        solution = self.found.back(self.solution)
        residual = vector_norm(self.system.rhs - self.system.apply(solution))
        flags = [self.steps, self.negative, self.flat, self.active]
        figures = torch.stack([residual, self.limit, self.smallest, *(flag.to(residual.dtype) for flag in flags)])
        norm, allowed, curvature, count, negative, flat, active = figures.tolist()
        if not math.isfinite(norm):
            status = Status.NONFINITE
        elif not self.spec.truncated and norm <= allowed:
            status = Status.CONVERGED
        elif negative:
            status = Status.INDEFINITE
        elif flat:
            status = Status.SINGULAR
        elif self.spec.truncated:
            status = Status.TRUNCATED
        else:
            status = Status.MAX_STEPS_REACHED if active else Status.STAGNATED
        return Solve(
            solution=solution,
            status=status,
            residual_norm=norm,
            steps=int(count),
            products=self.products + 1,
            curvature=curvature if count or negative or flat else math.nan,
            asymmetry=self.found.defect,
        )
