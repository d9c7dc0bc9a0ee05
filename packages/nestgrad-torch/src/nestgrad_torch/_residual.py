"""F as a pure function of vectors, for torch.func: what `_derivatives.linearize` does on a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import FixedPoint, Minimize, ProximalGradient, Root, WeightUpdate, tree
from nestgrad_torch._derivatives import functional_optimizer, like_params, scalar_loss
from nestgrad_torch._tree import flat


def residual(inner: Any, plain: Callable[[Tensor], Any], weights: Tensor, hparams: Any, batch: Any) -> Tensor:
    """F(w, λ) in one vector, made of operations that torch.func transforms; plain: a vector -> a tree like params."""
    if isinstance(inner, (FixedPoint, Root)):
        level, function = ("map", inner.map) if isinstance(inner, FixedPoint) else ("residual", inner.residual)
        value = like_params(level, function(plain(weights), hparams, batch), plain(weights))
        return weights - value if isinstance(inner, FixedPoint) else value

    def loss(w: Tensor) -> Tensor:
        return scalar_loss(inner.loss, "inner loss", plain(w), hparams, batch)

    slope = torch.func.grad(loss)(weights)
    if isinstance(inner, Minimize):
        return slope
    if isinstance(inner, WeightUpdate):
        rule, params = functional_optimizer(inner, hparams), plain(weights)
        state = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, rule.init(params))
        updates, _ = rule.update(plain(slope), state, params)
        return -flat(tree.matched(params, updates)[0])
    return weights - _proximal_step(inner, plain, weights, slope, hparams)


def _proximal_step(
    inner: ProximalGradient, plain: Callable[[Tensor], Any], weights: Tensor, slope: Tensor, hparams: Any
) -> Tensor:
    arrived = weights - inner.step_size * slope
    return like_params("prox", inner.prox(hparams)(plain(arrived), inner.step_size), plain(weights))
