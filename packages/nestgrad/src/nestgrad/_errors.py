"""The errors of nestgrad: one base, one subclass per cause, every message with a name, a number and a remedy."""

from __future__ import annotations

from typing import Any

from nestgrad._result import Stats
from nestgrad._status import Status


class NestgradError(Exception):
    """Base of every error that nestgrad raises on purpose."""


class InvalidInput(NestgradError, ValueError):
    """An argument has the wrong form: a spec field out of range, a mismatched tree, a value of the wrong kind."""


class OutOfSpace(InvalidInput):
    """A hyperparameter's natural value lies outside its space."""


class DtypeMismatch(InvalidInput):
    """Params, hparams or batches that must share a floating dtype do not."""


class DeviceMismatch(InvalidInput):
    """Params, hparams or batches that must share a device do not."""


class NonDifferentiableHyperparameter(NestgradError, TypeError):
    """A hyperparameter is of an integer, boolean or complex type."""


class NonScalarLoss(NestgradError, TypeError):
    """A loss returned something other than one real floating-point number."""


class DisconnectedHyperparameter(NestgradError):
    """No differentiable path leads from a hyperparameter to the outer loss."""


class UnsupportedOptimizer(NestgradError, TypeError):
    """The optimizer of a WeightUpdate cannot be differentiated through."""


class UnsupportedSpec(NestgradError, NotImplementedError):
    """A backend has no rule for a spec, or the combination of specs is not legal."""


class UnsupportedModule(NestgradError, TypeError):
    """A module that is compiled, scripted or wrapped: its tensors cannot be replaced, or differentiated twice."""


class DoubleBackwardUnsupported(NestgradError, NotImplementedError):
    """An operation on the way from params to a loss has no second derivative."""


class ProcessLost(NestgradError, RuntimeError):
    """A process of the group stopped answering, so a sum over the group cannot be had."""


class UnknownBackend(NestgradError, LookupError):
    """No installed backend has this name."""


class SolverError(NestgradError, ArithmeticError):
    """A numerical routine ended with a status that is not ok; `status` and `stats` say how."""

    def __init__(self, message: str, status: Status, stats: Stats | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.stats = stats


class NotConverged(SolverError):
    """The linear solve stopped before its tolerance was met."""


class NeumannDivergence(SolverError):
    """The Neumann series does not converge at this step size."""


class IndefiniteCurvature(SolverError):
    """CG met a direction of negative curvature."""


class NotSymmetric(SolverError):
    """A solver for symmetric Jacobians was given one that is not."""


class SingularJacobian(SolverError):
    """The Jacobian of the inner problem is singular to working precision."""


class NonFinite(SolverError):
    """A loss, a gradient or a product is NaN or infinite."""


class InnerNotConverged(SolverError):
    """The params are not a solution of the inner problem to the tolerance asked for."""


class Breakdown(SolverError):
    """The recurrence of a Krylov solver broke down."""


class NearKink(SolverError):
    """A proximal problem's active set is about to change: its response has no derivative but a one-sided one."""


class NestgradWarning(UserWarning):
    """Base of every warning that nestgrad gives on purpose."""


class ZeroHypergradient(NestgradWarning):
    """The derivative in a hyperparameter is exactly zero."""


class WrongDerivative(NestgradWarning):
    """The derivative in a hyperparameter disagrees with differences of the function itself."""


class SuspectBroadcast(NestgradWarning):
    """A loss combines (N, 1) with (N,), which broadcasts to (N, N)."""


class ExplodingHypergradient(NestgradWarning):
    """A hypergradient is far larger than those before it."""


class Recompilation(NestgradWarning):
    """The same code was compiled again and again."""


_BY_STATUS: dict[Status, tuple[type[SolverError], str]] = {
    Status.MAX_STEPS_REACHED: (NotConverged, "raise max_steps, loosen rtol, or solve with Dense()"),
    Status.STAGNATED: (NotConverged, "loosen rtol or use float64"),
    Status.DIVERGED: (
        NeumannDivergence,
        "make step_size smaller (below 2 / largest eigenvalue of J), or use CG or Dense",
    ),
    Status.INDEFINITE: (
        IndefiniteCurvature,
        "train params further, add weight decay, or solve with MINRES, GMRES or Dense()",
    ),
    Status.NOT_SYMMETRIC: (NotSymmetric, "use GMRES, LSMR, Neumann or Dense(), which take any Jacobian"),
    Status.SINGULAR: (SingularJacobian, "add weight decay to the inner loss, or use Neumann with a fixed num_terms"),
    Status.NONFINITE: (NonFinite, "lower the learning rate or inspect the batch; params are unchanged"),
    Status.INNER_NOT_CONVERGED: (InnerNotConverged, "train params further or raise inner_tol"),
    Status.BREAKDOWN: (Breakdown, "use GMRES, which does not break down"),
    Status.NEAR_KINK: (NearKink, "move hparams a little, or pass throw=False for the one-sided derivative"),
}


def error_for(status: Status, spec: Any, stats: Stats, *, where: str = "") -> SolverError:
    """The error that a failed status stands for: what happened, the measured number beside its limit, one remedy."""
    kind, remedy = _BY_STATUS[status]
    place = f"{where}: " if where else ""
    return kind(f"{place}{spec}: {status.meaning} ({_figures(status, spec, stats)}). Remedy: {remedy}.", status, stats)


def _figures(status: Status, spec: Any, stats: Stats) -> str:
    """The measured number beside its limit."""
    curvature, steps = float(stats.curvature), int(stats.steps)
    if status is Status.DIVERGED:
        return f"last ratio of terms {float(stats.contraction):.3g}, limit 1, after {steps} terms"
    if status is Status.INDEFINITE:
        return f"smallest curvature p'Jp / p'p = {curvature:.3g}, limit 0, at step {steps}"
    if status is Status.SINGULAR:
        return f"smallest curvature or singular value {curvature:.3g}, limit: above rounding, at step {steps}"
    if status is Status.NOT_SYMMETRIC:
        return f"symmetry defect {float(stats.asymmetry):.3g}, limit {symmetry_limit(stats.eps):.1g}"
    if status is Status.INNER_NOT_CONVERGED:
        return f"inner residual norm {float(stats.inner_optimality):.3g}, limit inner_tol={spec.inner_tol:g}"
    if status is Status.NEAR_KINK:
        return f"nearest kink at {float(stats.kink_distance):.3g} of its threshold, limit kink_tol"
    residual = float(stats.residual_norm)
    if status is Status.NONFINITE:
        inner = float(stats.inner_optimality)
        return f"residual norm {residual:.3g}, inner residual norm {inner:.3g}, limit: finite"
    limit = max(spec.solver.rtol * float(stats.rhs_norm), spec.solver.atol)
    return f"residual norm {residual:.3g}, limit {limit:.3g}, after {steps} steps"


_DOUBLE = 1e-10  # machine epsilons below this are double precision's


def symmetry_limit(eps: float) -> float:
    """Largest symmetry defect |a'Jb - b'Ja| / (|a||Jb| + |b||Ja|) taken for rounding, from the machine epsilon.

    1e-6 in float64 and 1e-4 in float32: far above rounding (about 1e-15 and 1e-7), far below one learning rate per
    parameter (about 1e-1). Solvers take the largest defect over the three pairs of three probe vectors, since that of
    one pair is small by chance about once in 1/limit times.
    """
    return 1e-6 if eps < _DOUBLE else 1e-4
