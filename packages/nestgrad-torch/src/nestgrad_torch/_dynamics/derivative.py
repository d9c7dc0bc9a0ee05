"""The derivative of exponents in the point: back along the chain, each step's graph made again, Q_0 held constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad_torch._dynamics.exponents import Sought
from nestgrad_torch._dynamics.form import At
from nestgrad_torch._dynamics.sweeps import orthonormal


@dataclass(frozen=True, slots=True)
class _Moment:
    """A place, the directions there, and R of the step that led there (None at the start)."""

    at: At
    columns: Tensor
    r: Tensor | None = None


def pulled_back(found: Sought, weights: Sequence[float], end: Tensor | None = None) -> tuple[Tensor, int]:
    """(∂/∂x_0 of Σ_i weights_i λ_i + ⟨end, x_k⟩, the products that it went through).

    Columns after the last weight that is not zero are left out, as no λ before them depends on them.
    """
    chain, anew = found.chain, found.anew
    count = max((i + 1 for i, weight in enumerate(weights) if weight != 0.0), default=0)
    scale = found.columns.new_tensor(weights[:count]) / chain.num_steps

    def advance(t: int, moment: _Moment, near: bool) -> _Moment:
        step = chain.step(t, moment.at, near=near)
        columns, r = orthonormal(step.push(_columns(t, moment)))
        return _Moment(step.end, columns, r)

    def _columns(t: int, moment: _Moment) -> Tensor:
        return moment.columns if anew is None else anew[t]

    start = _Moment(chain.start, found.columns[:, :count])
    slope = torch.zeros_like(chain.start.vector) if end is None else end
    slopes = torch.zeros_like(start.columns)
    for t, before, after in chain.backwards(start, advance, vectors=1 + count):
        images = _through_qr(after, slopes, scale)
        slopes, slope = chain.step(t, before.at, near=True).adjoint(images, _columns(t, before), slope)
        if anew is not None:
            slopes = torch.zeros_like(slopes)
    return slope, 2 * chain.num_steps * count


def _through_qr(after: _Moment, slopes: Tensor, scale: Tensor) -> Tensor:
    """The cotangent of Z = QR, from those of Q and of ln R_ii: (Q̄ + Q copyltu(diag(scale) - Q̄ᵀQ)) R⁻ᵀ."""
    q, r = after.columns, after.r
    assert r is not None  # noqa: S101  (as a step led there)
    if not len(scale):
        return slopes
    lower = (torch.diag(scale) - slopes.T @ q).tril()
    symmetric = lower + lower.tril(-1).T
    return torch.linalg.solve_triangular(r, (slopes + q @ symmetric).T, upper=True).T


class Attached(torch.autograd.Function):
    """(exponents, the last place's entries) in the graph of the point's entries."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, found: Sought) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        ctx.found = found
        return found.exponents.clone(), found.end.vector.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *seeds: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slopes, end = seeds
        form = ctx.found.chain.form
        with form.differentiating():
            return pulled_back(ctx.found, slopes.tolist(), end)[0], None
