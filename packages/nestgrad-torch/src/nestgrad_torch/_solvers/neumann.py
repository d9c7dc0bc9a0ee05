"""Neumann: p = a Σ_{j<k} (I - a Jᵀ)ʲ v."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import GROWTH_LIMIT, Neumann, Status
from nestgrad_torch._solvers._common import SOLVERS, Operator, Solve


@SOLVERS.register(Neumann)
def neumann(spec: Neumann, operator: Operator, rhs: Tensor, symmetric: bool, scale: float) -> Solve:
    """k terms by k - 1 products; the norms come to the host once, after the loop."""
    term, total = rhs, rhs.clone()
    norms = [vector_norm(term)]
    for _ in range(spec.num_terms - 1):
        term = torch.sub(term, operator(term), alpha=spec.step_size)
        total += term
        norms.append(vector_norm(term))
    sizes = torch.stack(norms).tolist()
    last, before = sizes[-1], sizes[-2] if len(sizes) > 1 else math.nan
    growing = last > GROWTH_LIMIT * before
    if not symmetric:
        growing = growing and last > GROWTH_LIMIT * max(sizes[0], sizes[(len(sizes) - 1) // 2])
    if not math.isfinite(last):
        growing = any(b > GROWTH_LIMIT * a for a, b in zip(sizes, sizes[1:], strict=False))
    status = Status.DIVERGED if growing else Status.TRUNCATED if math.isfinite(last) else Status.NONFINITE
    return Solve(
        solution=spec.step_size * total,
        status=status,
        residual_norm=last,
        steps=spec.num_terms,
        products=spec.num_terms - 1,
        contraction=last / before if before else math.nan,
    )
