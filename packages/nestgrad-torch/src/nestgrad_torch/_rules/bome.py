"""BOME: the outer gradient, turned so that the gap of the value function closes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import BOME, tree
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._rules._losses import Losses, difference, either, scaled
from nestgrad_torch._rules.implicit import require_connected


@METHODS.register(BOME)
def bome(spec: BOME, call: Call) -> Findings:
    """δ = ∇L_out + μ∇q over (w, λ), μ = max(0, control · φ - ⟨∇L_out, ∇q⟩) / |∇q|²."""
    losses = Losses(call)
    value, by_params, by_hparams = losses.inner(losses.weights)
    ahead = losses.weights
    for _ in range(spec.num_steps):
        ahead = ahead - spec.step_size * losses.inner(ahead)[1]
    lower, _, there = losses.inner(ahead)
    loss, slope, direct = losses.outer(losses.weights)
    require_connected(call.hparams, either(direct, by_hparams))
    gap = difference(by_hparams, there)
    squared = by_params.dot(by_params) + _dot(gap, gap, loss)
    across = slope.dot(by_params) + _dot(direct, gap, loss)
    aim = squared if spec.barrier == "norm" else value - lower
    some = squared != 0.0
    mu = torch.where(some, torch.clamp(spec.control * aim - across, min=0.0) / torch.where(some, squared, 1.0), 0.0)
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=scaled(gap, mu),
        weights=losses.weights,
        slope=slope,
        adjoint=slope + mu * by_params,
        optimality=vector_norm(by_params),
        steps=spec.num_steps,
    )
    return finish(call, found, params=tree.map(lambda x: x.clone(), call.point.plain(ahead)))


def _dot(a: list[Tensor | None], b: list[Tensor | None], like: Tensor) -> Tensor:
    parts = [(x * y).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return torch.stack(parts).sum() if parts else torch.zeros_like(like)
