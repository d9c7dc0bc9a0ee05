"""The end that every method but Implicit has: totals, statistics, TRUNCATED or NONFINITE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import Stats, Status, tree
from nestgrad_torch._rules._call import Call
from nestgrad_torch._rules._findings import Findings, Report
from nestgrad_torch._tree import flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method found: direct and indirect one entry a hyperparameter, None for zero.

    weights are those at which the outer loss was taken, slope its gradient there, adjoint the method's, all vectors; in
    the place of slope, its norm. others: what else has to be finite.
    """

    loss: Tensor
    direct: list[Tensor | None]
    indirect: list[Tensor | None]
    weights: Tensor
    slope: Tensor | None = None
    adjoint: Tensor | None = None
    optimality: Tensor | float = math.nan
    others: tuple[Tensor, ...] = ()
    steps: int = 0
    products: int = 0


def finish(call: Call, found: Outcome, *, params: Any = None, opt_state: Any = None) -> Findings:
    """The findings; NONFINITE where the loss, a derivative or the weights are not finite."""
    hparams = tree.leaves(call.hparams)
    direct, indirect = _filled(found.direct, hparams), _filled(found.indirect, hparams)
    total = [d + i for d, i in zip(direct, indirect, strict=True)]
    there = [v for v in (found.weights, found.slope, found.adjoint) if v is not None]
    optimality = found.optimality if isinstance(found.optimality, Tensor) else found.loss.new_tensor(math.nan)
    figures = [found.loss, optimality, vector_norm(flat(direct), 1), vector_norm(flat(indirect))]
    figures += [*map(vector_norm, (*there, *found.others)), *(vector_norm(part, 1) for part in total)]
    return Findings(
        total=total,
        direct=direct,
        indirect=indirect,
        outer_loss=found.loss.detach(),
        figures=torch.stack(figures).detach(),
        report=partial(
            _report,
            len(total),
            steps=found.steps,
            products=found.products,
            eps=torch.finfo(found.weights.dtype).eps,
            slope=found.slope is not None,
            adjoint=found.adjoint is not None,
        ),
        adjoint=None if found.adjoint is None else call.point.plain(found.adjoint.detach()),
        params=params,
        opt_state=opt_state,
    )


def _report(
    leaves: int, figures: list[float], *, steps: int, products: int, eps: float, slope: bool, adjoint: bool
) -> Report:
    """TRUNCATED, or NONFINITE where a figure that there has to be is not finite."""
    loss, optimality, direct_norm, indirect_norm, params_norm, *vectors = figures[:-leaves]
    norms = iter(vectors)
    stats = Stats(
        rhs_norm=next(norms) if slope else math.nan,
        adjoint_norm=next(norms) if adjoint else math.nan,
        indirect_norm=indirect_norm,
        params_norm=params_norm,
        inner_optimality=optimality,
        steps=steps,
        products=products,
        eps=eps,
    )
    finite = all(map(math.isfinite, [loss, direct_norm, indirect_norm, params_norm, *vectors]))
    status = Status.TRUNCATED if finite else Status.NONFINITE
    return Report(status=status, stats=stats, sizes=figures[-leaves:], finite=finite)


def _filled(parts: list[Tensor | None], like: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(h) if p is None else p.detach() for p, h in zip(parts, like, strict=True)]
