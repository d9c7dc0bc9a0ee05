"""NormalCG: conjugate gradients on the normal equations, without forming them."""

from __future__ import annotations

import math

import torch
from torch.linalg import vector_norm

from nestgrad import NormalCG, Status
from nestgrad_torch._solvers._common import SOLVERS, Solve, System, begin, finish, goal, of_zero


@SOLVERS.register(NormalCG)
def normal_cg(spec: NormalCG, system: System) -> Solve:
    """Two products a step, one at the start, one for the recomputed residual."""
    aim = goal(spec, system)
    if (zero := of_zero(system, aim)) is not None:
        return zero
    solution, residual, products = begin(system)
    left, steps, size = float(vector_norm(residual)), 0, 0.0
    slope = system.adjoint(residual)
    products += 1
    squared, direction = float(slope.dot(slope)), slope
    named = Status.SINGULAR if squared == 0.0 and left > aim.stop else None
    while steps < spec.max_steps and left > aim.stop and named is None:
        image = system.apply(direction)
        energy, length = float(image.dot(image)), float(direction.dot(direction))
        size = max(size, math.sqrt(energy / length)) if length else size
        if not math.isfinite(energy) or not energy > 0.0:
            named = Status.NONFINITE if not math.isfinite(energy) else Status.SINGULAR
            products += 1
            break
        solution = torch.add(solution, direction, alpha=squared / energy)
        residual = torch.sub(residual, image, alpha=squared / energy)
        slope = system.adjoint(residual)
        left, following = float(vector_norm(residual)), float(slope.dot(slope))
        products, steps = products + 2, steps + 1
        if left > aim.stop and math.sqrt(following) <= system.noise * size * left:
            named = Status.SINGULAR  # the least residual is reached, and it is not zero
        direction = torch.add(slope, direction, alpha=following / squared)
        squared = following
    return finish(
        system,
        aim,
        solution,
        steps=steps,
        products=products,
        named=named,
        steps_left=steps < spec.max_steps,
    )
