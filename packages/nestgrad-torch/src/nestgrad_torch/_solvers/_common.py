"""What solver rules share: the system they solve, their result, their table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import Rules, Status, symmetry_limit

Operator = Callable[[Tensor], Tensor]
"""q -> Jᵀq, or q -> Jq, on flat vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A x = rhs, A being Jᵀ (adjoint) or J (forward), already damped; everything divided by `scale`, a power of two.

    apply, adjoint: products with A and Aᵀ. rhs: its largest entry in [1, 2), or zero; the solver may write to it.
    symmetric: A is known to be. start: the warm start divided by scale. preconditioner: a positive diagonal. matrix:
    (A itself, products it took). diagonal: P with J = P M and M symmetric where J has that form for a reason, else
    None; forward: A is J, not Jᵀ.
    shape: a vector of unknowns as a tree, where a solver is given by the user.
    """

    apply: Operator
    adjoint: Operator
    rhs: Tensor
    scale: Tensor
    symmetric: bool
    matrix: Callable[[], tuple[Tensor, int]]
    diagonal: Callable[[], Tensor | None]
    forward: bool = False
    start: Tensor | None = None
    preconditioner: Tensor | None = None
    key: int = 0
    shape: Callable[[Tensor], Any] | None = None

    @property
    def eps(self) -> float:
        """Machine epsilon."""
        return torch.finfo(self.rhs.dtype).eps

    @property
    def noise(self) -> float:
        """The relative size at which a sum of as many terms as there are unknowns is rounding."""
        return max(10.0, math.sqrt(self.rhs.numel())) * self.eps


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A solver's own numbers; see nestgrad.Stats for their meaning."""

    status: Status
    residual_norm: float
    steps: int
    products: int
    contraction: float = math.nan
    curvature: float = math.nan
    asymmetry: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Solve(Ending):
    """A solver's answer and its own numbers."""

    solution: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """An answer whose own numbers are on the device still: read(figures on the host) is its ending.

    A rule that returns one reads nothing on the way, so that a hypergradient reads once, at its end, and can be traced;
    `read` holds no tensor.
    """

    solution: Tensor
    figures: list[Tensor]
    read: Callable[[list[float]], Ending]


SOLVERS: Rules[[System], Solve | Deferred] = Rules("torch")
"""rule(spec, system): system.apply(x) = system.rhs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symmetric:
    """M y = rhs with M symmetric, in the place of A x = system.rhs.

    J = P M: Jᵀx = v is M (P x) = v, and J x = v is M x = P⁻¹v. `weight` turns residuals of M into those of A.
    metric: entries of P⁻¹ by which a curvature of M becomes one of J, d'Md / d'P⁻¹d.
    """

    apply: Operator
    rhs: Tensor
    start: Tensor | None
    back: Callable[[Tensor], Tensor]
    products: int
    defect: float
    weight: Tensor | None = None
    metric: Tensor | None = None


def symmetrised(system: System) -> Symmetric:
    """The system as it stands where A is symmetric or no diagonal repairs it; else the repaired one, probed."""
    if system.symmetric:
        return Symmetric(
            apply=system.apply, rhs=system.rhs, start=system.start, back=_same, products=0, defect=math.nan
        )
    rates, apply, rhs, start, back = system.diagonal(), system.apply, system.rhs, system.start, _same
    weight = None
    if rates is not None and system.forward:
        apply, rhs, weight = (lambda q: system.apply(q) / rates), system.rhs / rates, rates
    elif rates is not None:
        apply, back = (lambda q: system.apply(q / rates)), (lambda q: q / rates)
        start = None if start is None else start * rates
    defect = symmetry_defect(apply, rhs)
    metric = None if rates is None else 1.0 / rates
    return Symmetric(
        apply=apply, rhs=rhs, start=start, back=back, products=3, defect=defect, weight=weight, metric=metric
    )


def _same(vector: Tensor) -> Tensor:
    return vector


def symmetry_defect(operator: Operator, rhs: Tensor) -> float:
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


def refused_as_asymmetric(system: System, found: Symmetric) -> Solve | None:
    """The answer that says so where the probe found A (or M) not symmetric."""
    if not found.defect > symmetry_limit(system.eps):
        return None
    return Solve(
        solution=torch.full_like(system.rhs, math.nan),
        status=Status.NOT_SYMMETRIC,
        residual_norm=math.nan,
        steps=0,
        products=found.products,
        asymmetry=found.defect,
    )


_AT_ROUNDING = 1e3
"""Residuals below this many machine epsilons of |v| are those of a solution."""


@dataclass(frozen=True, slots=True)
class Goal:
    """When a solver with a tolerance may stop, and what its end is called."""

    norm: float
    limit: float
    floor: float
    truncated: bool

    @property
    def stop(self) -> float:
        """The residual norm at which no step is worth taking: the tolerance, or rounding."""
        return max(self.limit, self.floor)

    def status(self, residual: float, named: Status | None, steps_left: bool) -> Status:
        """CONVERGED by the recomputed residual alone; else the cause found on the way, else how the steps ended."""
        if not math.isfinite(residual):
            return Status.NONFINITE
        if not self.truncated and residual <= self.limit:
            return Status.CONVERGED
        if self.norm and residual <= _AT_ROUNDING * self.floor:
            named = None  # whatever stopped the recurrence there, it had found the solution
        if named is not None and not (self.truncated and named is Status.STAGNATED):
            return named
        if self.truncated:
            return Status.TRUNCATED
        return Status.STAGNATED if steps_left else Status.MAX_STEPS_REACHED


def goal(spec: object, system: System) -> Goal:
    """The stopping rule of an Iterative spec for this system."""
    norm = float(vector_norm(system.rhs))
    limit = max(spec.rtol * norm, spec.atol / float(system.scale))  # type: ignore[attr-defined]
    return Goal(norm=norm, limit=limit, floor=system.eps * norm, truncated=spec.truncated)  # type: ignore[attr-defined]


def begin(system: System) -> tuple[Tensor, Tensor, int]:
    """(x₀, rhs - A x₀, products): from the warm start, or from zero."""
    if system.start is None:
        return torch.zeros_like(system.rhs), system.rhs, 0
    return system.start, system.rhs - system.apply(system.start), 1


def finish(
    system: System,
    aim: Goal,
    solution: Tensor,
    *,
    steps: int,
    products: int,
    named: Status | None,
    steps_left: bool,
    curvature: float = math.nan,
    asymmetry: float = math.nan,
    recomputed: float | None = None,
) -> Solve:
    """The answer, with its residual recomputed by one more product where it was not."""
    products += recomputed is None
    residual = float(vector_norm(system.rhs - system.apply(solution))) if recomputed is None else recomputed
    return Solve(
        solution=solution,
        status=aim.status(residual, named, steps_left),
        residual_norm=residual,
        steps=steps,
        products=products,
        curvature=curvature,
        asymmetry=asymmetry,
    )


def of_zero(system: System, aim: Goal) -> Solve | None:
    """The exact answer to a zero right-hand side, whatever the warm start; None for any other."""
    if aim.norm != 0.0:
        return None
    status = Status.TRUNCATED if aim.truncated else Status.CONVERGED
    return Solve(solution=torch.zeros_like(system.rhs), status=status, residual_norm=0.0, steps=0, products=0)
