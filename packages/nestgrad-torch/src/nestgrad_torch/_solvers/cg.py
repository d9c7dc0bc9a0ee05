"""CG: conjugate gradients, every scalar on the device."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import CG, Status
from nestgrad_torch._solvers._common import (
    SOLVERS,
    Deferred,
    Ending,
    Solve,
    Symmetric,
    System,
    refused_as_asymmetric,
    symmetrised,
)

_CHECK_EVERY_ON_ACCELERATOR = 10
"""Steps between looks at the stopping flag where a look stalls the device; steps past the end change nothing."""


@SOLVERS.register(CG)
def cg(spec: CG, system: System) -> Solve | Deferred:
    """One product a step, one for the recomputed residual of a tolerance, three for the symmetry probe where J is no
    Hessian. A warm start takes one more. Where the update's diagonal repairs J, the iterates are those of M q = v.
    """
    found = symmetrised(system)
    if (refused := refused_as_asymmetric(system, found)) is not None:
        return refused
    run = _Run(spec, system, found)
    run.go(spec.max_steps)
    return run.answer()


class _Run:
    """The state of one conjugate gradient run; once `active` is false a step changes neither x nor r."""

    def __init__(self, spec: CG, system: System, found: Symmetric) -> None:
        self.spec, self.system, self.found = spec, system, found
        rhs, norm = found.rhs, vector_norm(system.rhs)
        self.limit = spec.rtol * norm
        if spec.atol:
            self.limit = torch.maximum(self.limit, spec.atol / system.scale)
        self.target = torch.maximum(self.limit, system.eps * norm)
        self.noise = system.noise
        self.products = found.products
        self.solution, self.residual = torch.zeros_like(rhs), rhs
        if found.start is not None:
            # Zero has zero for its answer, from wherever one sets out.
            self.solution = torch.where(norm > 0.0, found.start, 0.0)
            self.residual = rhs - found.apply(self.solution)
            self.products += 1
        self.direction = self._conditioned(self.residual)
        self.squared = self.residual.dot(self.direction)
        self.active = self._left() > self.target
        self.largest = torch.zeros_like(norm)
        self.curvatures: list[Tensor] = []
        self.entered: list[Tensor] = []

    def go(self, max_steps: int) -> None:
        patience = 1 if self.residual.device.type == "cpu" else _CHECK_EVERY_ON_ACCELERATOR
        for step in range(max_steps):
            if not self.spec.truncated and step % patience == 0 and not bool(self.active):
                break
            self._step()

    def _step(self) -> None:
        direction, metric = self.direction, self.found.metric
        image = self.found.apply(direction)
        self.products += 1
        energy = direction.dot(image)
        curvature = energy / direction.dot(direction if metric is None else metric * direction)
        self.curvatures.append(curvature)
        self.entered.append(self.active)
        self.largest = torch.maximum(self.largest, torch.where(self.active, curvature.abs(), 0.0))
        # Flat or negative along this direction: no step is taken. A NaN goes on, and shows in the residual.
        going = self.active & ~(curvature <= self.noise * self.largest)
        length = torch.where(going, self.squared / energy, 0.0)
        self.solution = torch.addcmul(self.solution, length, direction)
        self.residual = torch.addcmul(self.residual, length, image, value=-1)
        conditioned = self._conditioned(self.residual)
        following = self.residual.dot(conditioned)
        onward = torch.where(going, following / self.squared, 0.0)
        self.direction = torch.addcmul(conditioned, onward, direction)
        self.squared = following
        self.active = going & (self._left() > self.target)

    def _conditioned(self, residual: Tensor) -> Tensor:
        diagonal = self.system.preconditioner
        return residual if diagonal is None else diagonal * residual

    def _left(self) -> Tensor:
        if self.found.weight is not None:
            return vector_norm(self.found.weight * self.residual)
        return vector_norm(self.residual) if self.system.preconditioner is not None else self.squared.sqrt()

    def answer(self) -> Deferred:
        solution = self.found.back(self.solution)
        if self.spec.truncated:
            weight = self.found.weight
            residual = vector_norm(self.residual if weight is None else weight * self.residual)
        else:
            residual = vector_norm(self.system.rhs - self.system.apply(solution))
            self.products += 1
        tests = [flag.to(residual.dtype) for flag in (*self.entered, self.active)]
        return Deferred(
            solution=solution,
            figures=[residual, self.limit, *self.curvatures, *tests],
            read=partial(_read, self.spec, self.products, self.found.defect, self.system.noise),
        )


def _read(spec: CG, products: int, defect: float, noise: float, figures: list[float]) -> Ending:
    """The run's end from the curvature of each step and whether the run was going on before it."""
    norm, limit, taken = figures[0], figures[1], (len(figures) - 3) // 2
    met = [c for c, active in zip(figures[2:], figures[2 + taken : -1], strict=False) if active]
    largest = max((abs(c) for c in met), default=0.0)
    negative, flat = bool(met) and met[-1] < -noise * largest, bool(met) and abs(met[-1]) <= noise * largest
    if not math.isfinite(norm):
        status = Status.NONFINITE
    elif not spec.truncated and norm <= limit:
        status = Status.CONVERGED
    elif negative or flat:
        status = Status.INDEFINITE if negative else Status.SINGULAR
    elif spec.truncated:
        status = Status.TRUNCATED
    else:
        status = Status.MAX_STEPS_REACHED if figures[-1] else Status.STAGNATED
    return Ending(
        status=status,
        residual_norm=norm,
        steps=len(met) - (negative or flat),
        products=products,
        curvature=min(met, default=math.nan),
        asymmetry=defect,
    )
