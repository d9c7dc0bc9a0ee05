"""Implicit: total = direct - Bᵀp, from one linearisation and one solve."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import DisconnectedHyperparameter, HyperGradient, Implicit, Stats, Status, error_for, tree
from nestgrad_torch._derivatives import Linearization
from nestgrad_torch._solvers import cg, dense, identity, neumann  # noqa: F401  (fills the table)
from nestgrad_torch._solvers._common import SOLVERS
from nestgrad_torch._tree import flat


def implicit(
    spec: Implicit, point: Linearization, outer_loss: Tensor, outer_params: Tensor, hparams: Any, *, throw: bool
) -> HyperGradient:
    """The hypergradient of outer_loss, a tree shaped like hparams whose leaves are point.hparams.

    outer_params is the graph leaf at which the outer loss was taken: that of `point`, or the next weights.
    """
    inputs = [outer_params, *point.hparams]
    pulled: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if outer_loss.requires_grad:
        pulled = torch.autograd.grad(outer_loss, inputs, retain_graph=True, allow_unused=True)
    rhs = torch.zeros_like(outer_params) if pulled[0] is None else pulled[0]
    direct = pulled[1:]

    solve, norm, scale = _scaled_solve(spec, point, rhs)
    indirect = point.hparam_product(solve.solution)
    _require_connected(hparams, direct, indirect)
    directs = [torch.zeros_like(h) if g is None else g for h, g in zip(point.hparams, direct, strict=True)]
    indirects = [torch.zeros_like(h) if g is None else -scale * g for h, g in zip(point.hparams, indirect, strict=True)]
    totals = [d + i for d, i in zip(directs, indirects, strict=True)]

    figures = torch.stack([vector_norm(point.residual), outer_loss.detach(), vector_norm(flat(totals), 1)]).detach()
    optimality, loss_value, size = figures.tolist()
    status = _overall(spec, solve.status, optimality, finite=math.isfinite(loss_value) and math.isfinite(size))
    stats = Stats(
        residual_norm=solve.residual_norm * scale,
        rhs_norm=norm,
        steps=solve.steps,
        products=solve.products,
        inner_optimality=optimality,
        contraction=solve.contraction,
        curvature=solve.curvature,
        asymmetry=solve.asymmetry,
        eps=torch.finfo(rhs.dtype).eps,
    )
    if throw and not status.ok:
        raise error_for(status, spec, stats)
    return HyperGradient(
        total=tree.unflatten(hparams, totals),
        direct=tree.unflatten(hparams, directs),
        indirect=tree.unflatten(hparams, indirects),
        outer_loss=outer_loss.detach(),
        status=status,
        stats=stats,
    )


def _scaled_solve(spec: Implicit, point: Linearization, rhs: Tensor) -> tuple[Any, float, float]:
    """Solve for rhs divided by a power of two, which is exact, so that no square under- or overflows."""
    _, exponent = torch.frexp(vector_norm(rhs, math.inf))
    scale = math.ldexp(1.0, int(exponent) - 1)  # at most the largest entry, so it is finite in the dtype itself
    unit = rhs / scale
    solve = SOLVERS(spec.solver, point.transpose_product, unit, point.symmetric, scale)
    return solve, float(vector_norm(unit)) * scale, scale


def _overall(spec: Implicit, solver: Status, optimality: float, *, finite: bool) -> Status:
    if not solver.ok:
        return solver
    if not finite or not math.isfinite(optimality):
        return Status.NONFINITE
    if spec.inner_tol is not None and optimality > spec.inner_tol:
        return Status.INNER_NOT_CONVERGED
    return solver


def _require_connected(hparams: Any, direct: Any, indirect: Any) -> None:
    for name, first, second in zip(tree.named_leaves(hparams), direct, indirect, strict=True):
        if first is None and second is None:
            raise DisconnectedHyperparameter(
                f"hparams[{name!r}]: 0 differentiable paths to the inner residual or the outer loss, limit: at least "
                "1. Remedy: look for detach, .item(), float(), no_grad or an integer cast between it and the loss."
            )
