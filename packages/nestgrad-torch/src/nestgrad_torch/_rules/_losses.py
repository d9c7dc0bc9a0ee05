"""First derivatives of both losses at any weights, every one with the same random draws and the same buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestgrad_torch._derivatives import Place, scalar_loss
from nestgrad_torch._modules import recomputation_refused
from nestgrad_torch._rules._call import Call
from nestgrad_torch._steps import Draws

Slopes = tuple[Tensor, Tensor, list[Tensor | None]]
"""(loss, its gradient in the weights, its gradient in each hyperparameter or None where no path leads there)."""


class Losses:
    """L_in and L_out of one call; the inner loss's first draws are those of every one of its evaluations."""

    def __init__(self, call: Call) -> None:
        self._call, self._place = call, call.place()
        self._before, self._after = Draws(call.point), None

    @property
    def place(self) -> Place:
        """Where the losses are given."""
        return self._place

    @property
    def weights(self) -> Tensor:
        """The weights given."""
        return self._place.weights.detach()

    def inner(self, weights: Tensor) -> Slopes:
        """L_in and its slopes."""
        self._before.again()
        inner: Any = self._call.problem.inner
        found = self._slopes(inner.loss, "inner loss", weights, self._call.inner_batch)
        self._after = Draws(self._call.point) if self._after is None else self._after
        return found

    def outer(self, weights: Tensor) -> Slopes:
        """L_out and its slopes."""
        if self._after is not None:
            self._after.again()
        return self._slopes(self._call.problem.outer_loss, "outer_loss", weights, self._call.outer_batch)

    def mixed_product(self, vector: Tensor, radius: float) -> list[Tensor | None]:
        """[∇_λ L_in(w + εv) - ∇_λ L_in(w - εv)] / 2ε with ε = radius / |v|; 0 for a zero v."""
        size = torch.linalg.vector_norm(vector)
        if not bool(size != 0.0):
            return [None] * len(self._place.leaves)
        step = radius / size
        ahead, behind = (self.inner(self.weights + sign * step * vector)[2] for sign in (1.0, -1.0))
        return scaled(difference(ahead, behind), 1.0 / (2.0 * step))

    def _slopes(self, loss: Any, level: str, weights: Tensor, batch: Any) -> Slopes:
        leaf = weights.detach().requires_grad_()
        value = scalar_loss(loss, level, self._place.shape(leaf), self._place.hparams, batch)
        inputs = [leaf, *self._place.leaves]
        pulled: tuple[Tensor | None, ...] = (None,) * len(inputs)
        if value.requires_grad:
            with recomputation_refused(self._call.point.module):
                pulled = torch.autograd.grad(value, inputs, allow_unused=True)
        loss, slope, *by_hparams = self._call.point.group.mean([value.detach(), *pulled])
        return loss, torch.zeros_like(leaf) if slope is None else slope, by_hparams


def either(*parts: list[Tensor | None]) -> list[bool]:
    """For each hyperparameter, whether any of these slopes has a path to it."""
    return [any(part is not None for part in row) for row in zip(*parts, strict=True)]


def scaled(parts: list[Tensor | None], factor: Any) -> list[Tensor | None]:
    """factor · parts, None kept."""
    return [None if part is None else factor * part for part in parts]


def difference(a: list[Tensor | None], b: list[Tensor | None]) -> list[Tensor | None]:
    """a - b, where both depend on the same hyperparameters."""
    return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]
