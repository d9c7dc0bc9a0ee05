"""The inner residual linearised once, and the products that every solver draws from that one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import Loss, Minimize, NonScalarLoss, UnsupportedOptimizer, WeightUpdate, tree


@dataclass(frozen=True, slots=True)
class Linearization:
    """F at a point, with the graph that gives Jᵀq and Bᵀp by one backward pass each.

    params and hparams are the graph's leaves; residual is F, one tensor a param; symmetric says that J is a Hessian.
    """

    params: list[Tensor]
    hparams: list[Tensor]
    residual: list[Tensor]
    symmetric: bool

    def transpose_product(self, vector: Tensor) -> Tensor:
        """Jᵀ vector, flat."""
        return flat(self._pull(vector, self.params, materialize=True))

    def hparam_product(self, vector: Tensor) -> list[Tensor | None]:
        """Bᵀ vector, one entry a hyperparameter; None where no path leads from it to F."""
        return self._pull(vector, self.hparams, materialize=False)

    def _pull(self, vector: Tensor, inputs: list[Tensor], *, materialize: bool) -> list[Any]:
        pairs = [(f, v) for f, v in zip(self.residual, split(vector, self.params), strict=True) if f.requires_grad]
        if not pairs:
            return [torch.zeros_like(x) if materialize else None for x in inputs]
        outputs, vectors = zip(*pairs, strict=True)
        return list(
            torch.autograd.grad(outputs, inputs, vectors, retain_graph=True, allow_unused=True, materialize_grads=materialize)
        )


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all entries."""
    return torch.cat([t.reshape(-1) for t in tensors])


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of the vector, shaped like the tensors."""
    return [part.view(t.shape) for part, t in zip(vector.split([t.numel() for t in like]), like, strict=True)]


def scalar_loss(loss: Loss, level: str, *args: Any) -> Tensor:
    """loss(*args), refused by name unless it is one real floating-point number."""
    value = loss(*args)
    if not isinstance(value, Tensor):
        raise NonScalarLoss(f"{level} returned {type(value).__name__}, limit: a 0-d floating-point tensor. Remedy: return the tensor itself.")
    if value.dim() or not value.is_floating_point():
        raise NonScalarLoss(
            f"{level} returned shape {tuple(value.shape)} of {value.dtype}, limit: shape () of a real floating type. "
            "Remedy: take .mean() or .sum()."
        )
    return value


def gradient(loss: Tensor, params: list[Tensor], *, create_graph: bool) -> list[Tensor]:
    """∂loss/∂params; a param that the loss does not use has a zero gradient."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params]
    return list(torch.autograd.grad(loss, params, create_graph=create_graph, allow_unused=True, materialize_grads=True))


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
    view: Callable[[list[Tensor]], Any],
    params: list[Tensor],
    hparams: Any,
    leaves: list[Tensor],
    grads: list[Tensor],
    opt_state: Any,
) -> Linearization:
    """F for an inner problem whose loss gradient `grads` still holds its graph.

    Minimize: F = ∇_w L_in. WeightUpdate: F = u, the optimizer state held constant.
    """
    if isinstance(inner, Minimize):
        return Linearization(params, leaves, grads, symmetric=True)
    rule = functional_optimizer(inner, hparams)
    state = rule.init(view([p.detach() for p in params])) if opt_state is None else opt_state
    state = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, state)
    updates, _ = rule.update(view(grads), state, view(params))
    named = tree.named_leaves(updates)
    residual = [-named[name] for name in tree.named_leaves(view(params))]
    return Linearization(params, leaves, residual, symmetric=False)
