"""Implicit: total = direct - Bᵀp, from one linearisation and one solve; and the same by forward mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import (
    DisconnectedHyperparameter,
    HyperGradientJVP,
    Implicit,
    Minimize,
    ProximalGradient,
    Stats,
    Status,
    WeightUpdate,
    error_for,
    tree,
)
from nestgrad_torch._derivatives import Linearization, linearize
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings, Report
from nestgrad_torch._second_order import require_twice_differentiable
from nestgrad_torch._solvers import SOLVERS, Deferred, Ending, Solve, System
from nestgrad_torch._tree import flat, split


@dataclass(frozen=True, slots=True)
class Extras:
    """What a solve may be given besides its system, and how its answer becomes a tree."""

    start: Tensor | None = None
    preconditioner: Tensor | None = None
    key: int = 0
    kink_tol: float = math.nan
    adjoint: Callable[[Tensor], Any] | None = None


PLAIN = Extras()


@METHODS.register(Implicit)
def of_call(spec: Implicit, call: Call) -> Findings:
    """The rule of the method table."""
    place = call.joint_place() if isinstance(call.problem.inner, (Minimize, WeightUpdate)) else call.place()
    linear = linearize(call.problem.inner, place, call.inner_batch, call.opt_state)
    require_twice_differentiable(linear.residual, call.point.module)
    linear.damping = spec.damping
    extras = extras_of(call, linear)
    slopes = [outer_slopes(linear, call.outer_loss(place), place.weights)]
    return implicit(spec, linear, slopes.pop(), call.hparams, extras=extras, last=True)


def extras_of(call: Call, linear: Linearization) -> Extras:
    """Warm start, preconditioner, key and the adjoint's structure of one call."""
    inner = call.problem.inner
    return Extras(
        start=None if call.warm_start is None else call.adjoint_vector(call.warm_start, linear, "warm_start"),
        preconditioner=None if call.preconditioner is None else call.preconditioner_vector(linear),
        key=0 if call.key is None else call.key,
        kink_tol=inner.kink_tol if isinstance(inner, ProximalGradient) else math.nan,
        adjoint=lambda vector: call.adjoint_tree(vector, linear),
    )


def implicit(
    spec: Implicit,
    point: Linearization,
    outer: OuterSlopes,
    hparams: Any,
    *,
    extras: Extras = PLAIN,
    last: bool = False,
) -> Findings:
    """The hypergradient of an outer loss in point.hparams, the leaves of hparams.

    outer: its slopes, for `point` to be all that is held of a graph during the solve. last: `point` is of no use after.
    """
    loss, rhs, slopes = outer
    point.let_go()
    side = _scaled(rhs, extras)
    del outer, rhs
    solve = _solve(spec, adjoint_system(point), side, extras)
    pulled = point.hparam_product(solve.solution, last=last)
    require_connected(hparams, [a is not None or b is not None for a, b in zip(slopes, pulled, strict=True)])
    # All hyperparameters in one vector: a few operations then serve however many there are.
    indirect = _joined(pulled, point.hparams).mul_(-side.scale)
    del pulled
    direct = _joined(slopes, point.hparams)
    total = direct + indirect
    totals = split(total, point.hparams)
    figures, read = _figures(point, solve, side)
    figures += [loss, vector_norm(indirect), *(vector_norm(part, 1) for part in totals)]
    return Findings(
        total=totals,
        direct=split(direct, point.hparams),
        indirect=split(indirect, point.hparams),
        outer_loss=loss,
        figures=torch.stack(figures).detach(),
        report=partial(_report, spec, extras.kink_tol, read, len(totals)),
        adjoint=None if extras.adjoint is None else extras.adjoint(solve.solution.mul_(side.scale)),
    )


def _joined(parts: list[Tensor | None], like: list[Tensor]) -> Tensor:
    """The parts in one vector, with zeros for those that are not there."""
    if all(part is None for part in parts):
        return like[0].new_zeros(sum(x.numel() for x in like))
    return flat([torch.zeros_like(x) if part is None else part for part, x in zip(parts, like, strict=True)])


def _report(spec: Implicit, kink_tol: float, read: _Reader, leaves: int, figures: list[float]) -> Report:
    """The status and the statistics of `implicit`."""
    loss, indirect_norm, *sizes = figures[-2 - leaves :]
    solver, stats = read(figures[: -2 - leaves], indirect_norm)
    finite = all(map(math.isfinite, [loss, *sizes]))
    return Report(
        status=_overall(spec, kink_tol, solver, stats, finite=finite), stats=stats, sizes=sizes, finite=finite
    )


def implicit_jvp(
    spec: Implicit,
    point: Linearization,
    outer_loss: Tensor,
    outer_params: Tensor,
    hparams: Any,
    direction: list[Tensor],
    *,
    throw: bool,
    extras: Extras,
    response: Callable[[Tensor], Any],
) -> HyperGradientJVP:
    """ξᵀ ∂L_out/∂λ + vᵀz with J z = -B ξ."""
    loss, slope, direct = outer_slopes(point, outer_loss, outer_params)
    require_connected(hparams, [a is not None or b for a, b in zip(direct, point.connected(), strict=True)])
    side = _scaled(-point.hparam_push(direction), extras)
    solve = _solve(spec, forward_system(point), side, extras)
    moved = side.scale * solve.solution
    parts = [(d * g).sum() for d, g in zip(direction, direct, strict=True) if g is not None]
    along = torch.stack(parts).sum() if parts else torch.zeros_like(loss)
    through = slope.dot(moved)
    figures, read = _figures(point, solve, side)
    numbers = torch.stack([*figures, loss, along + through, through.abs()]).detach().tolist()
    *rest, value, size, indirect = numbers
    solver, stats = read(rest, indirect)
    finite = math.isfinite(value) and math.isfinite(size)
    status = _overall(spec, extras.kink_tol, solver, stats, finite=finite)
    if throw and not status.ok:
        raise error_for(status, spec, stats)
    return HyperGradientJVP(
        total=along + through,
        direct=along,
        indirect=through,
        response=response(moved),
        outer_loss=loss,
        status=status,
        stats=stats,
    )


def solve_forward(spec: Implicit, point: Linearization, rhs: Tensor, extras: Extras, *, throw: bool) -> Tensor:
    """z with (J + δI) z = rhs, by the spec's solver."""
    return _solved(spec, point, forward_system(point), rhs, extras, throw=throw)


def solve_adjoint(spec: Implicit, point: Linearization, rhs: Tensor, extras: Extras, *, throw: bool) -> Tensor:
    """p with (J + δI)ᵀ p = rhs, by the spec's solver."""
    return _solved(spec, point, adjoint_system(point), rhs, extras, throw=throw)


def _solved(
    spec: Implicit,
    point: Linearization,
    system: Callable[..., System],
    rhs: Tensor,
    extras: Extras,
    *,
    throw: bool,
) -> Tensor:
    side = _scaled(rhs, extras)
    solve = _solve(spec, system, side, extras)
    figures, read = _figures(point, solve, side)
    solver, stats = read(torch.stack(figures).detach().tolist(), math.nan)
    status = _overall(spec, extras.kink_tol, solver, stats, finite=math.isfinite(stats.adjoint_norm))
    if throw and not status.ok:
        raise error_for(status, spec, stats)
    return side.scale * solve.solution


OuterSlopes = tuple[Tensor, Tensor, list[Tensor | None]]
"""(L_out, ∂L_out/∂s, ∂L_out/∂λ): zero in the optimizer state, None for a hyperparameter that it does not use."""


def outer_slopes(point: Linearization, outer_loss: Tensor, outer_params: Tensor) -> OuterSlopes:
    """The slopes of an outer loss; outer_params: the graph leaf at which it was taken, as that of `point`."""
    inputs = [outer_params, *point.hparams]
    pulled: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if outer_loss.requires_grad:
        pulled = torch.autograd.grad(outer_loss, inputs, retain_graph=True, allow_unused=True)
    loss, *means = point.group.mean([outer_loss.detach(), *pulled])
    slope = torch.zeros_like(outer_params) if means[0] is None else means[0]
    if len(point.inputs) > 1:
        slope = torch.cat([slope, *(torch.zeros_like(x) for x in point.inputs[1:])])
    return loss, slope, means[1:]


def adjoint_system(point: Linearization) -> Callable[..., System]:
    """Jᵀ p = v, but for its right-hand side."""
    return lambda **given: System(
        apply=point.transpose_product,
        adjoint=point.product,
        symmetric=point.symmetric,
        matrix=point.matrix,
        diagonal=point.diagonal,
        **given,
    )


def forward_system(point: Linearization) -> Callable[..., System]:
    """J z = r, but for its right-hand side."""

    def transposed() -> tuple[Tensor, int]:
        matrix, products = point.matrix()
        return matrix.T, products

    return lambda **given: System(
        apply=point.product,
        adjoint=point.transpose_product,
        symmetric=point.symmetric,
        matrix=transposed,
        diagonal=point.diagonal,
        forward=True,
        **given,
    )


@dataclass(slots=True)
class _Side:
    """A right-hand side divided by a power of two, the norm of the quotient, the power.

    Such a division is exact, and keeps every square from under- or overflowing. The solver may write to `unit`, which
    is None once it has been handed over.
    """

    unit: Tensor | None
    norm: Tensor
    scale: Tensor


def _scaled(rhs: Tensor, extras: Extras) -> _Side:
    size = vector_norm(rhs, math.inf)
    scale = power_of_two(size)
    if extras.start is not None:  # which would be infinite beside a right-hand side of zero
        scale = torch.where(size == 0.0, 1.0, scale)
    unit = rhs / scale
    return _Side(unit, vector_norm(unit), scale)


def _solve(spec: Implicit, system: Callable[..., System], side: _Side, extras: Extras) -> Solve | Deferred:
    """The answer for the scaled right-hand side."""
    unit, side.unit = side.unit, None
    given = system(
        rhs=unit,
        scale=side.scale,
        start=None if extras.start is None else extras.start / side.scale,
        preconditioner=extras.preconditioner,
        key=extras.key,
        shape=extras.adjoint,
    )
    return SOLVERS(spec.solver, given)


def power_of_two(size: Tensor) -> Tensor:
    """The largest power of two up to size; the smallest normal number below it, the largest power where not finite.

    By its bits: a compiled program takes this again for every few entries that it divides, and a frexp there costs more
    than the rest.
    """
    bits, exponent = (torch.int32, 0x7F800000) if size.dtype == torch.float32 else (torch.int64, 0x7FF0000000000000)
    limits = torch.finfo(size.dtype)
    largest = math.ldexp(1.0, math.frexp(limits.max)[1] - 1)
    return (size.view(bits) & exponent).view(size.dtype).clamp(limits.tiny, largest)


_Reader = Callable[[list[float], float], tuple[Status, Stats]]
"""(figures on the host, |Bᵀp|) -> (the solver's status, the statistics)."""


def _figures(point: Linearization, solve: Solve | Deferred, side: _Side) -> tuple[list[Tensor], _Reader]:
    """What the statistics need from the device, and how they are read."""
    figures = [point.optimality(), point.size(), vector_norm(solve.solution), side.scale, side.norm]
    kinked = point.kink is not None
    figures += [] if point.kink is None else [point.kink.to(side.norm.dtype)]
    eps = torch.finfo(point.residual.dtype).eps
    if isinstance(solve, Deferred):
        return [*figures, *solve.figures], partial(_read_figures, eps, solve.read, kinked)
    return figures, partial(_read_figures, eps, solve, kinked)


def _read_figures(
    eps: float,
    solver: Solve | Callable[[list[float]], Ending],
    kinked: bool,
    figures: list[float],
    indirect_norm: float,
) -> tuple[Status, Stats]:
    optimality, params_norm, adjoint_norm, scale, norm, *own = figures
    kink = own.pop(0) if kinked else math.nan
    solve = solver if isinstance(solver, Solve) else solver(own)
    stats = Stats(
        residual_norm=solve.residual_norm * scale,
        rhs_norm=norm * scale,
        adjoint_norm=adjoint_norm * scale,
        indirect_norm=indirect_norm,
        steps=solve.steps,
        products=solve.products,
        inner_optimality=optimality,
        params_norm=params_norm,
        contraction=solve.contraction,
        curvature=solve.curvature,
        asymmetry=solve.asymmetry,
        kink_distance=kink,
        eps=eps,
    )
    return solve.status, stats


def _overall(spec: Implicit, kink_tol: float, solver: Status, stats: Stats, *, finite: bool) -> Status:
    if not solver.ok:
        return solver
    if not finite or not math.isfinite(stats.inner_optimality):
        return Status.NONFINITE
    if spec.inner_tol is not None and stats.inner_optimality > spec.inner_tol:
        return Status.INNER_NOT_CONVERGED
    if stats.kink_distance <= max(kink_tol, 10.0 * stats.eps):
        return Status.NEAR_KINK
    return solver


def require_connected(hparams: Any, connected: list[bool]) -> None:
    """Raise DisconnectedHyperparameter for the first hyperparameter that reaches neither F nor the outer loss."""
    if all(connected):
        return
    for name, there in zip(tree.named_leaves(hparams), connected, strict=True):
        if not there:
            raise DisconnectedHyperparameter(
                f"hparams[{name!r}]: 0 differentiable paths to the inner residual or the outer loss, limit: at least "
                "1. Remedy: look for detach, .item(), float(), no_grad or an integer cast between it and the loss."
            )
