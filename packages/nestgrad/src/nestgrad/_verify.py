"""Comparing a hypergradient with one that shares nothing with its method but the problem: the same in every backend."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nestgrad import tree
from nestgrad._methods.implicit import Implicit, Solver
from nestgrad._methods.responses import Response
from nestgrad._methods.unrolled import Unrolled
from nestgrad._problem import BilevelProblem, WeightUpdate
from nestgrad._result import HyperGradient
from nestgrad._solvers.dense import Dense
from nestgrad._solvers.gmres import GMRES
from nestgrad._solvers.identity import Identity

_NEWTON_STEPS = 20


class VerifyOps(Protocol):
    """What verification needs of a backend; `eps` is the machine epsilon of the params."""

    eps: float

    def hypergradient(self, problem: BilevelProblem, params: Any, hparams: Any, **call: Any) -> HyperGradient: ...
    def newton_step(
        self, inner: Any, params: Any, hparams: Any, *, solver: Solver, **call: Any
    ) -> tuple[Any, float]: ...
    def normal_like(self, values: Any, seed: int) -> Any: ...
    def size(self, params: Any) -> int: ...
    def dot(self, a: Any, b: Any) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How a hypergradient compares with its reference.

    relative_error: |G - G_ref| / |G_ref|, of the whole vector ("dense", "gmres"), or the largest over the directions ξ
    of |ξᵀG - D_ξ| / max(|D_ξ|, |G| / √m) ("central differences"). inner_optimality: |F| at the params given; refined:
    |F| at the solution that Newton steps reached from them, NaN where there is none to reach.
    """

    trusted: bool
    reference: str
    relative_error: float
    rtol: float
    inner_optimality: float
    refined: float
    hypergradient: HyperGradient

    def __str__(self) -> str:
        verdict = "Trust it" if self.trusted else "Do not trust it"
        lines = [
            f"{verdict}: relative error {self.relative_error:.2g} against {self.reference}, limit {self.rtol:g}.",
            f"The method ended as {self.hypergradient.status.name}: {self.hypergradient.status.meaning}.",
        ]
        if not math.isnan(self.refined):
            lines.append(f"The inner residual is {self.inner_optimality:.2g} here, {self.refined:.2g} at the solution.")
        if not self.trusted and self.refined < 0.01 * self.inner_optimality:
            lines.append("Remedy: train params further, or take a more exact solver.")
        elif not self.trusted:
            lines.append("Remedy: a more exact solver or more terms; Dense() where the params are few.")
        return "\n".join(lines)


def verify_with(
    ops: VerifyOps,
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    call: Mapping[str, Any],
    rtol: float,
    max_params: int,
    directions: int,
) -> Verification:
    """See the backends' `verify`; call holds the other arguments of `hypergradient`."""
    found = ops.hypergradient(problem, params, hparams, method=method, throw=False, **call)
    if isinstance(method, Response):
        params = found.params  # those of the call are the response's own weights
    point = {name: call[name] for name in ("inner_batch", "outer_batch", "opt_state") if call.get(name) is not None}
    refined, few = math.nan, ops.size(params) <= max_params
    solver: Solver = Dense(max_params=max_params) if few else GMRES(rtol=1e3 * ops.eps, max_steps=200, restart=50)
    if isinstance(method, Unrolled):
        reference, again = "central differences", _Rerun(ops, problem, params, method, call)
    elif isinstance(problem.inner, WeightUpdate):
        reference, again = ("dense" if few else "gmres"), None
    else:
        solved, refined = _solve(ops, problem.inner, params, hparams, solver, point)
        reference, again, params = "dense", None, solved
        if not few:
            reference, again = "central differences", _Resolved(ops, problem, solved, solver, point)
    if again is None:
        right = ops.hypergradient(problem, params, hparams, method=Implicit(solver=solver), throw=False, **point)
        error = _relative(ops, found.total, right.total) if right.status.ok else math.inf
    else:
        error = max(_along(ops, again, hparams, found.total, seed) for seed in range(directions))
    settled = math.isnan(refined) or math.isfinite(refined)
    return Verification(
        trusted=found.status.ok and settled and error <= rtol,
        reference=reference,
        relative_error=error,
        rtol=rtol,
        inner_optimality=float(found.stats.inner_optimality),
        refined=refined,
        hypergradient=found,
    )


@dataclass(frozen=True, slots=True)
class _Rerun:
    """The outer loss of the unrolled run at other hyperparameters."""

    ops: VerifyOps
    problem: BilevelProblem
    params: Any
    method: Unrolled
    call: Mapping[str, Any]

    def __call__(self, hparams: Any) -> float:
        found = self.ops.hypergradient(self.problem, self.params, hparams, method=self.method, throw=False, **self.call)
        return float(found.outer_loss)


@dataclass(frozen=True, slots=True)
class _Resolved:
    """The outer loss at the inner solution for other hyperparameters."""

    ops: VerifyOps
    problem: BilevelProblem
    params: Any
    solver: Solver
    point: Mapping[str, Any]

    def __call__(self, hparams: Any) -> float:
        solved, left = _solve(self.ops, self.problem.inner, self.params, hparams, self.solver, self.point)
        if not math.isfinite(left):
            return math.nan
        method = Implicit(solver=Identity())
        found = self.ops.hypergradient(self.problem, solved, hparams, method=method, throw=False, **self.point)
        return float(found.outer_loss)


def _solve(
    ops: VerifyOps, inner: Any, params: Any, hparams: Any, solver: Solver, point: Mapping[str, Any]
) -> tuple[Any, float]:
    """(params, |F|) after Newton steps, until the residual no longer falls; |F| infinite where it never did."""
    call = {name: value for name, value in point.items() if name != "outer_batch"}
    first = best = math.inf
    for _ in range(_NEWTON_STEPS):
        moved, left = ops.newton_step(inner, params, hparams, solver=solver, **call)
        first = min(first, left) if math.isinf(first) else first
        if not left < 0.9 * best:
            break
        params, best = moved, left
    settled = best <= max(1e-3 * first, 1e3 * ops.eps)
    return params, best if settled else math.inf


def _relative(ops: VerifyOps, found: Any, right: Any) -> float:
    away = tree.map(operator.sub, found, right)
    size, error = ops.dot(right, right) ** 0.5, ops.dot(away, away) ** 0.5
    return error / size if size else (0.0 if not error else math.inf)


def _along(ops: VerifyOps, value: Any, hparams: Any, total: Any, seed: int) -> float:
    """|ξᵀG - D_ξ| / max(|D_ξ|, |G| / √m) for a random unit direction ξ."""
    direction = ops.normal_like(total, seed)
    length = ops.dot(direction, direction) ** 0.5
    step = ops.eps ** (1 / 3) * max(1.0, ops.dot(hparams, hparams) ** 0.5 / ops.size(hparams) ** 0.5)
    ahead, behind = (value(_shifted(hparams, direction, sign * step / length)) for sign in (1.0, -1.0))
    slope = ops.dot(direction, total) / length
    difference = (ahead - behind) / (2.0 * step)
    size = max(abs(difference), ops.dot(total, total) ** 0.5 / ops.size(hparams) ** 0.5)
    error = abs(slope - difference)
    if math.isnan(error):
        return math.inf
    return error / size if size else 0.0


def _shifted(values: Any, direction: Any, scale: float) -> Any:
    def shift(value: Any, along: Any) -> Any:
        return value + scale * along

    return tree.map(shift, values, direction)
