"""The end that every method but Implicit has: totals, statistics, TRUNCATED or NONFINITE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import HyperGradient, Stats, Status, error_for, tree
from nestgrad_torch._rules._call import Call
from nestgrad_torch._tree import flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method found: direct and indirect one entry a hyperparameter, None for zero.

    weights are those at which the outer loss was taken, slope its gradient there, adjoint the method's, all vectors.
    """

    loss: Tensor
    direct: list[Tensor | None]
    indirect: list[Tensor | None]
    weights: Tensor
    slope: Tensor | None = None
    adjoint: Tensor | None = None
    optimality: Tensor | float = math.nan
    steps: int = 0
    products: int = 0


def finish(spec: Any, call: Call, found: Outcome, *, params: Any = None, opt_state: Any = None) -> HyperGradient:
    """The result; NONFINITE where the loss, a derivative or the weights are not finite."""
    hparams = tree.leaves(call.hparams)
    direct, indirect = _filled(found.direct, hparams), _filled(found.indirect, hparams)
    totals = [d + i for d, i in zip(direct, indirect, strict=True)]
    vectors = [flat(indirect), found.weights, found.slope, found.adjoint]
    sizes: list[Any] = [math.nan if v is None else vector_norm(v) for v in vectors]
    sizes += [found.optimality, found.loss, vector_norm(flat(direct), 1)]
    numbers = torch.stack([found.loss.new_tensor(x) if isinstance(x, float) else x.detach() for x in sizes]).tolist()
    indirect_norm, params_norm, rhs_norm, adjoint_norm, optimality, loss, direct_norm = numbers
    stats = Stats(
        rhs_norm=rhs_norm,
        adjoint_norm=adjoint_norm,
        indirect_norm=indirect_norm,
        params_norm=params_norm,
        inner_optimality=optimality,
        steps=found.steps,
        products=found.products,
        eps=torch.finfo(found.weights.dtype).eps,
    )
    norms = (indirect_norm, params_norm, rhs_norm, adjoint_norm)
    there = [norm for norm, vector in zip(norms, vectors, strict=True) if vector is not None]
    status = Status.TRUNCATED if all(map(math.isfinite, [*there, loss, direct_norm])) else Status.NONFINITE
    if call.throw and not status.ok:
        raise error_for(status, spec, stats)
    return HyperGradient(
        total=tree.unflatten(call.hparams, totals),
        direct=tree.unflatten(call.hparams, direct),
        indirect=tree.unflatten(call.hparams, indirect),
        outer_loss=found.loss.detach(),
        status=status,
        stats=stats,
        adjoint=None if found.adjoint is None else call.point.plain(found.adjoint.detach()),
        params=params,
        opt_state=opt_state,
    )


def _filled(parts: list[Tensor | None], like: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(h) if p is None else p.detach() for p, h in zip(parts, like, strict=True)]
