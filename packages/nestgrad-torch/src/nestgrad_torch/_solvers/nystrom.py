"""Nyström: p = (C M⁺ Cᵀ + ρI)⁻¹ v, C some columns of the Hessian."""

from __future__ import annotations

import math

import torch

from nestgrad import InvalidInput, Nystrom, Status
from nestgrad_torch._solvers._common import SOLVERS, Solve, System


@SOLVERS.register(Nystrom)
def nystrom(spec: Nystrom, system: System) -> Solve:
    """`rank` products. M = U S Uᵀ without its null space gives C M⁺ Cᵀ = D S⁻¹ Dᵀ with D = C U, so Woodbury's
    p = v/ρ - D (S + DᵀD/ρ)⁻¹ Dᵀv / ρ² needs no inverse of M.
    """
    n = system.rhs.numel()
    if spec.rank > n:
        raise InvalidInput(f"Nystrom.rank: got {spec.rank}, limit: {n} weights. Remedy: pass rank={n} or less.")
    generator = torch.Generator("cpu").manual_seed(system.key)
    picked = torch.randperm(n, generator=generator)[: spec.rank].to(system.rhs.device)
    rows = torch.zeros(spec.rank, n, dtype=system.rhs.dtype, device=system.rhs.device)
    rows[torch.arange(spec.rank, device=rows.device), picked] = 1.0
    columns = torch.stack([system.apply(row) for row in rows], dim=1)
    if not bool(columns.isfinite().all()):
        return _answer(torch.full_like(system.rhs, math.nan), spec.rank, Status.NONFINITE)
    core = columns[picked]
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    kept = values.abs() > spec.rank * system.eps * values.abs().max()
    values, reduced = values[kept], columns @ vectors[:, kept]
    rho = spec.damping
    inner = torch.diag(values) + reduced.T @ reduced / rho
    part = torch.linalg.solve(inner, reduced.T @ system.rhs) if values.numel() else reduced.T @ system.rhs
    return _answer(system.rhs / rho - reduced @ part / rho**2, spec.rank, Status.TRUNCATED)


def _answer(solution: torch.Tensor, rank: int, status: Status) -> Solve:
    if not bool(solution.isfinite().all()):
        status = Status.NONFINITE
    return Solve(solution=solution, status=status, residual_norm=math.nan, steps=rank, products=rank)
