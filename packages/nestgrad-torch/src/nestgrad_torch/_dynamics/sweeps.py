"""Directions carried along a chain, forwards by J_t and backwards by J_tᵀ, and the search for those that grow most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import LargestExponent, TunedDirection
from nestgrad_torch._dynamics.chain import Chain, Step
from nestgrad_torch._dynamics.form import At


def orthonormal(columns: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, R) of (n, m), the diagonal of R not negative; a single column of zeros stays one."""
    if columns.shape[1] == 1:
        length = vector_norm(columns, dim=0)
        return columns / torch.where(length > 0.0, length, 1.0), length.reshape(1, 1)
    q, r = torch.linalg.qr(columns)
    signs = torch.where(r.diagonal() < 0.0, -1.0, 1.0).to(q.dtype)
    return q * signs, r * signs[:, None]


@dataclass(frozen=True, slots=True)
class Grown:
    """Σ_t ln (R_t)_ii, (m,), and the last Q, (n, m)."""

    logs: Tensor
    columns: Tensor


@dataclass(frozen=True, slots=True)
class Swept(Grown):
    """The same along a chain; the last place, and how many places and growths in a row from the first are finite."""

    end: At
    fine: Tensor


def forwards(chain: Chain, columns: Tensor) -> Swept:
    """J_t Q_t = Q_{t+1} R_t along the chain."""
    at, logs, watch = chain.start, columns.new_zeros(columns.shape[1]), Watch(chain.start)
    for count in range(chain.num_steps):
        step = chain.step(count, at)
        columns, r = orthonormal(step.push(columns))
        at, growth = step.end, r.diagonal().log()
        logs = logs + growth
        watch.see(at, growth)
    return Swept(logs, columns, at, watch.fine)


def back(chain: Chain, columns: Tensor) -> Grown:
    """J_tᵀ P_{t+1} = P_t S_t along the chain from its end, from P_k = columns."""
    logs = columns.new_zeros(columns.shape[1])
    for count, at, _ in chain.backwards(chain.start, lambda t, at, near: chain.step(t, at, near=near).end):
        columns, s = orthonormal(chain.step(count, at).pull(columns))
        logs = logs + s.diagonal().log()
    return Grown(logs, columns)


class Watch:
    """Counts on the device how many places, in a row from the first, are finite with the growth on the way there."""

    def __init__(self, start: At) -> None:
        self._alive = start.vector.isfinite().all()
        self.fine = self._alive.long()

    def see(self, at: At, growth: Tensor) -> None:
        """One place more; growth: in logs, of which -inf is no fault."""
        self._alive = self._alive & at.vector.isfinite().all() & growth.clamp(min=0.0).isfinite().all()
        self.fine = self.fine + self._alive


_Found = TypeVar("_Found", bound=Grown)


@dataclass(frozen=True, slots=True)
class Leading(Generic[_Found]):
    """A direction (n, 1), how it grows, the pairs of sweeps it took, and |MᵀM d - σ² d| / σ² at the last."""

    direction: Tensor
    grown: _Found
    rounds: int
    residual: float


def leading(
    spec: LargestExponent | TunedDirection,
    direction: Tensor,
    push: Callable[[Tensor], _Found],
    pull: Callable[[Tensor], Grown],
) -> Leading[_Found]:
    """The direction of a matrix's largest singular value by iterating with MᵀM, from products of length 1 and logs.

    One host read an iteration. It ends early where a number is not finite.
    """
    rounds = 0
    while True:
        grown = push(direction)
        after = pull(grown.columns)
        ratio = torch.exp(after.logs - grown.logs)
        residual = vector_norm(ratio * after.columns - direction, dim=0)
        # What is wiped out altogether is a singular vector, of 0.
        rounds, left = rounds + 1, float(torch.where(grown.logs.isneginf(), 0.0, residual))
        if left <= spec.rtol or rounds == spec.max_refinements or math.isnan(left):
            return Leading(direction, grown, rounds, left)
        direction = after.columns


def of_one(step: Step) -> tuple[Callable[[Tensor], Grown], Callable[[Tensor], Grown]]:
    """(push, pull) of a single step, for `leading`."""

    def grown(columns: Tensor) -> Grown:
        q, r = orthonormal(columns)
        return Grown(r.diagonal().log(), q)

    return lambda d: grown(step.push(d)), lambda d: grown(step.pull(d))
