"""Implicit differentiation at a point."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._errors import InvalidInput
from nestgrad._solvers.bicgstab import BiCGSTAB
from nestgrad._solvers.cg import CG
from nestgrad._solvers.dense import Dense
from nestgrad._solvers.gmres import GMRES
from nestgrad._solvers.identity import Identity
from nestgrad._solvers.lsmr import LSMR
from nestgrad._solvers.minres import MINRES
from nestgrad._solvers.neumann import Neumann
from nestgrad._solvers.normal_cg import NormalCG
from nestgrad._solvers.nystrom import Nystrom
from nestgrad._solvers.random_neumann import RandomNeumann
from nestgrad._validate import require_number

Solver = Dense | CG | MINRES | NormalCG | LSMR | GMRES | BiCGSTAB | Neumann | RandomNeumann | Nystrom | Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Implicit:
    """total = ∂L_out/∂λ - Bᵀp with p the solver's stand-in for J⁻ᵀ ∂L_out/∂w; J = ∂F/∂w, B = ∂F/∂λ at the params given.

    damping δ replaces J by J + δI in the solve, for every solver; it changes the number: with Minimize and an exact
    solve it is iMAML's (Rajeswaran et al. 2019, eq. 6). inner_tol, when given, is the largest |F| at which params count
    as a solution; above it the status is INNER_NOT_CONVERGED. (Bengio 2000; Lorraine, Vicol and Duvenaud 2020, eq. 3.)
    """

    solver: Solver
    damping: float = 0.0
    inner_tol: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.solver, type) or not hasattr(self.solver, "__dataclass_fields__"):
            raise InvalidInput(
                f"Implicit.solver: got {self.solver!r}, limit: one solver spec. "
                "Remedy: pass an instance such as Neumann(num_terms=5, step_size=0.1)."
            )
        require_number(self, "damping", positive=False)
        if self.inner_tol is not None:
            require_number(self, "inner_tol", positive=True)
