"""Neumann: p = a P Σ_{j<k} (I - a Jᵀ P)ʲ v, P the identity without a preconditioner."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.linalg import vector_norm

from nestgrad import GROWTH_LIMIT, Neumann, Status
from nestgrad_torch._solvers._common import SOLVERS, Deferred, Ending, System


@SOLVERS.register(Neumann)
def neumann(spec: Neumann, system: System) -> Deferred:
    """k terms by k - 1 products; the sum is kept in the place of the right-hand side."""
    apply, diagonal = system.apply, system.preconditioner
    term = total = system.rhs
    norms = [vector_norm(term)]
    for _ in range(spec.num_terms - 1):
        term = torch.sub(term, apply(term if diagonal is None else diagonal * term), alpha=spec.step_size)
        total.add_(term)
        norms.append(vector_norm(term))
    del term
    return Deferred(
        solution=(total if diagonal is None else total.mul_(diagonal)).mul_(spec.step_size),
        figures=norms,
        read=partial(_read, spec, symmetric=system.symmetric and diagonal is None),
    )


def _read(spec: Neumann, sizes: list[float], *, symmetric: bool) -> Ending:
    contraction = ratio(sizes)
    return Ending(
        status=growth_status(sizes, symmetric=symmetric),
        residual_norm=sizes[-1],
        steps=spec.num_terms,
        products=spec.num_terms - 1,
        contraction=contraction,
        curvature=(1.0 - contraction) / spec.step_size,
    )


def ratio(sizes: list[float]) -> float:
    """The last ratio of successive term norms; NaN where there is none."""
    return sizes[-1] / sizes[-2] if len(sizes) > 1 and sizes[-2] else math.nan


def growth_status(sizes: list[float], *, symmetric: bool) -> Status:
    """DIVERGED where the terms grow (over a window too, where J need not be symmetric), TRUNCATED or NONFINITE."""
    last, before = sizes[-1], sizes[-2] if len(sizes) > 1 else math.nan
    growing = last > GROWTH_LIMIT * before
    if not symmetric:
        growing = growing and last > GROWTH_LIMIT * max(sizes[0], sizes[(len(sizes) - 1) // 2])
    if not math.isfinite(last):
        growing = any(b > GROWTH_LIMIT * a for a, b in zip(sizes, sizes[1:], strict=False))
    return Status.DIVERGED if growing else Status.TRUNCATED if math.isfinite(last) else Status.NONFINITE
