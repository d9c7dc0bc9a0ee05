"""CG: conjugate gradients from zero, every scalar on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nestgrad import CG, Status, symmetry_limit
from nestgrad_torch._solvers._common import SOLVERS, Operator, Solve

_CHECK_EVERY_ON_ACCELERATOR = 10
"""Steps between looks at the stopping flag where a look stalls the device; steps past the end change nothing."""


@SOLVERS.register(CG)
def cg(spec: CG, operator: Operator, rhs: Tensor, symmetric: bool, scale: float) -> Solve:
    """One product a step, one for the recomputed residual, three for the symmetry probe where J is no Hessian."""
    eps = torch.finfo(rhs.dtype).eps
    probes, defect = (0, math.nan) if symmetric else (3, _symmetry_defect(operator, rhs))
    if defect > symmetry_limit(eps):
        nan = torch.full_like(rhs, math.nan)
        return Solve(
            solution=nan,
            status=Status.NOT_SYMMETRIC,
            residual_norm=math.nan,
            steps=0,
            products=probes,
            asymmetry=defect,
        )
    norm = rhs.norm()
    limit = torch.clamp(spec.rtol * norm, min=spec.atol / scale)
    target = torch.maximum(limit, eps * norm) ** 2
    noise = max(10.0, math.sqrt(rhs.numel())) * eps
    patience = 1 if rhs.device.type == "cpu" else _CHECK_EVERY_ON_ACCELERATOR

    solution, residual, direction = torch.zeros_like(rhs), rhs, rhs
    squared = rhs.dot(rhs)
    active = squared > target
    flat_curve = torch.zeros((), dtype=torch.bool, device=rhs.device)
    negative, steps = flat_curve.clone(), torch.zeros((), dtype=torch.int64, device=rhs.device)
    largest, smallest = torch.zeros_like(norm), torch.full_like(norm, math.inf)
    products = probes
    for step in range(spec.max_steps):
        if step % patience == 0 and not bool(active):
            break
        image = operator(direction)
        products += 1
        curvature = direction.dot(image) / direction.dot(direction)
        smallest = torch.where(active, torch.minimum(smallest, curvature), smallest)
        largest = torch.where(active, torch.maximum(largest, curvature.abs()), largest)
        negative = negative | (active & (curvature < -noise * largest))
        flat_curve = flat_curve | (active & (curvature.abs() <= noise * largest))
        active = active & ~negative & ~flat_curve
        steps = steps + active
        length = torch.where(active, squared / (direction.dot(direction) * curvature), 0.0)
        solution = solution + length * direction
        residual = residual - length * torch.where(active, image, 0.0)
        following = residual.dot(residual)
        direction = torch.where(active, residual + (following / squared) * direction, direction)
        squared = torch.where(active, following, squared)
        active = active & (squared > target)

    residual_norm = (rhs - operator(solution)).norm()
    figures = torch.stack(
        [
            residual_norm,
            limit,
            smallest,
            steps.to(rhs.dtype),
            negative.to(rhs.dtype),
            flat_curve.to(rhs.dtype),
            active.to(rhs.dtype),
        ]
    )
    norm_now, allowed, curve, count, is_negative, is_flat, still_active = figures.tolist()
    if not math.isfinite(norm_now):
        status = Status.NONFINITE
    elif not spec.truncated and norm_now <= allowed:
        status = Status.CONVERGED
    elif is_negative:
        status = Status.INDEFINITE
    elif is_flat:
        status = Status.SINGULAR
    elif spec.truncated:
        status = Status.TRUNCATED
    else:
        status = Status.MAX_STEPS_REACHED if still_active else Status.STAGNATED
    return Solve(
        solution=solution,
        status=status,
        residual_norm=norm_now,
        steps=int(count),
        products=products + 1,
        curvature=curve,
        asymmetry=defect,
    )


def _symmetry_defect(operator: Operator, rhs: Tensor) -> float:
    """max |a'Jb - b'Ja| / (|a||Jb| + |b||Ja|) over the pairs of rhs and two random vectors, always the same ones."""
    generator = torch.Generator("cpu").manual_seed(0)
    probes = [rhs, *torch.randn(2, rhs.numel(), generator=generator, dtype=rhs.dtype, device="cpu").to(rhs.device)]
    images = [operator(probe) for probe in probes]
    defects = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        scale = probes[i].norm() * images[j].norm() + probes[j].norm() * images[i].norm()
        gap = (probes[i].dot(images[j]) - probes[j].dot(images[i])).abs()
        defects.append(gap / torch.clamp(scale, min=torch.finfo(rhs.dtype).tiny))
    return float(torch.stack(defects).max())
