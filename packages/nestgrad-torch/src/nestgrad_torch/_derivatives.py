"""The inner residual linearised once, and the products that every solver draws from that one graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import Loss, Minimize, NonScalarLoss, UnsupportedOptimizer, WeightUpdate, tree
from nestgrad_torch._tree import flat


@dataclass(frozen=True, slots=True)
class Linearization:
    """F at a point, with the graph that gives Jᵀq and Bᵀp by one backward pass each.

    params is the graph's leaf, all weights in one vector: a product then crosses the graph's edge once, not once a
    layer. residual is F as a vector, hparams the other leaves; symmetric says that J is a Hessian.
    """

    params: Tensor
    hparams: list[Tensor]
    residual: Tensor
    symmetric: bool

    def transpose_product(self, vector: Tensor) -> Tensor:
        """Jᵀ vector."""
        (product,) = self._pull(vector, [self.params])
        return torch.zeros_like(vector) if product is None else product

    def hparam_product(self, vector: Tensor) -> list[Tensor | None]:
        """Bᵀ vector, one entry a hyperparameter; None where no path leads from it to F."""
        return self._pull(vector, self.hparams)

    def _pull(self, vector: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
        if not self.residual.requires_grad:
            return [None] * len(inputs)
        return list(torch.autograd.grad(self.residual, inputs, vector, retain_graph=True, allow_unused=True))


def scalar_loss(loss: Loss, level: str, *args: Any) -> Tensor:
    """loss(*args), refused by name unless it is one real floating-point number."""
    value = loss(*args)
    if not isinstance(value, Tensor):
        raise NonScalarLoss(
            f"{level} returned {type(value).__name__}, limit: a 0-d floating-point tensor. "
            "Remedy: return the tensor itself."
        )
    if value.dim() or not value.is_floating_point():
        raise NonScalarLoss(
            f"{level} returned shape {tuple(value.shape)} of {value.dtype}, limit: shape () of a real floating type. "
            "Remedy: take .mean() or .sum()."
        )
    return value


def gradient(loss: Tensor, params: list[Tensor]) -> list[Tensor]:
    """∂loss/∂params without a graph; a param that the loss does not use has a zero gradient."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params]
    return list(torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True))


def gradient_with_graph(loss: Tensor, params: Tensor) -> Tensor:
    """∂loss/∂params for params in one vector, itself differentiable."""
    if not loss.requires_grad:
        return torch.zeros_like(params)
    (slope,) = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True, materialize_grads=True)
    return slope


def functional_optimizer(inner: WeightUpdate, hparams: Any) -> Any:
    """inner.optimizer(hparams), refused by name unless it is a functional rule."""
    rule = inner.optimizer(hparams)
    if isinstance(rule, torch.optim.Optimizer) or not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise UnsupportedOptimizer(
            f"WeightUpdate.optimizer returned {type(rule).__name__}, which steps in place; limit: an object with "
            "init(params) and update(grads, state, params). Remedy: use nestgrad_torch.optim.sgd."
        )
    return rule


def linearize(
    inner: Minimize | WeightUpdate,
    shape: Callable[[Tensor], Any],
    params: Tensor,
    hparams: Any,
    leaves: list[Tensor],
    slope: Tensor,
    opt_state: Any,
) -> Linearization:
    """F for an inner problem whose loss gradient `slope` still holds its graph; shape makes a tree of a vector.

    Minimize: F = ∇_w L_in. WeightUpdate: F = u, the optimizer state held constant.
    """
    if isinstance(inner, Minimize):
        return Linearization(params, leaves, slope, symmetric=True)
    rule = functional_optimizer(inner, hparams)
    state = rule.init(shape(params.detach())) if opt_state is None else opt_state
    state = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, state)
    in_one = rule.flat_state(state) if hasattr(rule, "flat_state") else None
    if in_one is not None:
        moves, _ = rule.update(slope, in_one, params)
    else:
        weights = shape(params)
        updates, _ = rule.update(shape(slope), state, weights)
        moves = flat(tree.matched(weights, updates)[0])
    return Linearization(params, leaves, -moves, symmetric=False)
