"""Implicit: total = direct - Bᵀp, from one linearisation and one solve; and the same by forward mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import (
    DisconnectedHyperparameter,
    HyperGradient,
    HyperGradientJVP,
    Implicit,
    ProximalGradient,
    Stats,
    Status,
    error_for,
    tree,
)
from nestgrad_torch._derivatives import Linearization, kink_distance, linearize
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._second_order import require_twice_differentiable
from nestgrad_torch._solvers import SOLVERS, Solve, System
from nestgrad_torch._tree import flat


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
def of_call(spec: Implicit, call: Call) -> HyperGradient:
    """The rule of the method table."""
    place = call.place()
    linear = linearize(call.problem.inner, place, call.inner_batch, call.opt_state)
    require_twice_differentiable(linear.residual, call.point.module)
    linear.damping = spec.damping
    outer = call.outer_loss(place)
    return implicit(spec, linear, outer, place.weights, call.hparams, throw=call.throw, extras=extras_of(call, linear))


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
    outer_loss: Tensor,
    outer_params: Tensor,
    hparams: Any,
    *,
    throw: bool,
    extras: Extras = PLAIN,
    watch: Callable[[float], None] | None = None,
) -> HyperGradient:
    """The hypergradient of outer_loss, a tree shaped like hparams whose leaves are point.hparams.

    outer_params is the graph leaf at which the outer loss was taken: that of `point`, or the next weights. watch is
    told the total's norm |·|₁, which is on the host anyway.
    """
    rhs, direct = outer_slopes(point, outer_loss, outer_params)
    solve, norm, scale = _scaled_solve(spec, adjoint_system(point), rhs, extras)
    indirect = point.hparam_product(solve.solution)
    require_connected(hparams, [a is not None or b is not None for a, b in zip(direct, indirect, strict=True)])
    directs = [torch.zeros_like(h) if g is None else g for h, g in zip(point.hparams, direct, strict=True)]
    indirects = [torch.zeros_like(h) if g is None else -scale * g for h, g in zip(point.hparams, indirect, strict=True)]
    totals = [d + i for d, i in zip(directs, indirects, strict=True)]

    sizes = [
        vector_norm(point.residual),
        outer_loss.detach(),
        vector_norm(flat(totals), 1),
        vector_norm(flat(indirects)),
    ]
    sizes += [point.size(), vector_norm(solve.solution)]
    optimality, loss_value, size, indirect_size, params_size, adjoint_size = torch.stack(sizes).detach().tolist()
    finite = math.isfinite(loss_value) and math.isfinite(size)
    if watch is not None and finite:
        watch(size)
    stats = _stats(point, solve, scale, norm, optimality, params_size, adjoint_size, indirect_size)
    status = _overall(spec, extras, solve.status, stats, finite=finite)
    if throw and not status.ok:
        raise error_for(status, spec, stats)
    return HyperGradient(
        total=tree.unflatten(hparams, totals),
        direct=tree.unflatten(hparams, directs),
        indirect=tree.unflatten(hparams, indirects),
        outer_loss=outer_loss.detach(),
        status=status,
        stats=stats,
        adjoint=None if extras.adjoint is None else extras.adjoint(scale * solve.solution),
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
    slope, direct = outer_slopes(point, outer_loss, outer_params)
    require_connected(hparams, [a is not None or b for a, b in zip(direct, point.connected(), strict=True)])
    solve, norm, scale = _scaled_solve(spec, forward_system(point), -point.hparam_push(direction), extras)
    moved = scale * solve.solution
    parts = [(d * g).sum() for d, g in zip(direction, direct, strict=True) if g is not None]
    along = torch.stack(parts).sum() if parts else torch.zeros_like(outer_loss)
    through = slope.dot(moved)
    sizes = [vector_norm(point.residual), outer_loss.detach(), along + through, point.size(), vector_norm(moved)]
    optimality, loss_value, size, params_size, response_size = torch.stack(sizes).detach().tolist()
    stats = _stats(point, solve, scale, norm, optimality, params_size, response_size / scale, abs(float(through)))
    status = _overall(spec, extras, solve.status, stats, finite=math.isfinite(loss_value) and math.isfinite(size))
    if throw and not status.ok:
        raise error_for(status, spec, stats)
    return HyperGradientJVP(
        total=along + through,
        direct=along,
        indirect=through,
        response=response(moved),
        outer_loss=outer_loss.detach(),
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
    solve, norm, scale = _scaled_solve(spec, system, rhs, extras)
    sizes = torch.stack([vector_norm(point.residual), point.size(), vector_norm(solve.solution)]).detach().tolist()
    optimality, params_size, solution_size = sizes
    stats = _stats(point, solve, scale, norm, optimality, params_size, solution_size, math.nan)
    status = _overall(spec, extras, solve.status, stats, finite=math.isfinite(solution_size))
    if throw and not status.ok:
        raise error_for(status, spec, stats)
    return scale * solve.solution


def outer_slopes(
    point: Linearization, outer_loss: Tensor, outer_params: Tensor
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """(∂L_out/∂s, ∂L_out/∂λ): zero in the optimizer state, None for a hyperparameter that the loss does not use."""
    inputs = [outer_params, *point.hparams]
    pulled: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if outer_loss.requires_grad:
        pulled = torch.autograd.grad(outer_loss, inputs, retain_graph=True, allow_unused=True)
    slope = torch.zeros_like(outer_params) if pulled[0] is None else pulled[0]
    if len(point.inputs) > 1:
        slope = torch.cat([slope, *(torch.zeros_like(x) for x in point.inputs[1:])])
    return slope, pulled[1:]


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


def _scaled_solve(
    spec: Implicit, system: Callable[..., System], rhs: Tensor, extras: Extras
) -> tuple[Solve, float, float]:
    """Solve for rhs divided by a power of two, which is exact, so that no square under- or overflows."""
    _, exponent = torch.frexp(vector_norm(rhs, math.inf))
    scale = math.ldexp(1.0, int(exponent) - 1)  # at most the largest entry, so it is finite in the dtype itself
    unit = rhs / scale
    start = None if extras.start is None else extras.start / scale
    given = system(
        rhs=unit,
        scale=scale,
        start=start,
        preconditioner=extras.preconditioner,
        key=extras.key,
        shape=extras.adjoint,
    )
    return SOLVERS(spec.solver, given), float(vector_norm(unit)) * scale, scale


def _stats(
    point: Linearization,
    solve: Solve,
    scale: float,
    rhs_norm: float,
    optimality: float,
    params_size: float,
    adjoint_size: float,
    indirect_size: float,
) -> Stats:
    return Stats(
        residual_norm=solve.residual_norm * scale,
        rhs_norm=rhs_norm,
        adjoint_norm=adjoint_size * scale,
        indirect_norm=indirect_size,
        steps=solve.steps,
        products=solve.products,
        inner_optimality=optimality,
        params_norm=params_size,
        contraction=solve.contraction,
        curvature=solve.curvature,
        asymmetry=solve.asymmetry,
        kink_distance=kink_distance(point),
        eps=torch.finfo(point.residual.dtype).eps,
    )


def _overall(spec: Implicit, extras: Extras, solver: Status, stats: Stats, *, finite: bool) -> Status:
    if not solver.ok:
        return solver
    if not finite or not math.isfinite(stats.inner_optimality):
        return Status.NONFINITE
    if spec.inner_tol is not None and stats.inner_optimality > spec.inner_tol:
        return Status.INNER_NOT_CONVERGED
    if stats.kink_distance <= max(extras.kink_tol, 10.0 * stats.eps):
        return Status.NEAR_KINK
    return solver


def require_connected(hparams: Any, connected: list[bool]) -> None:
    """Raise DisconnectedHyperparameter for the first hyperparameter that reaches neither F nor the outer loss."""
    for name, there in zip(tree.named_leaves(hparams), connected, strict=True):
        if not there:
            raise DisconnectedHyperparameter(
                f"hparams[{name!r}]: 0 differentiable paths to the inner residual or the outer loss, limit: at least "
                "1. Remedy: look for detach, .item(), float(), no_grad or an integer cast between it and the loss."
            )
